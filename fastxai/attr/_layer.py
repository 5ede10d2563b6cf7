"""What methods share that attribute to a layer rather than to the inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core import engine
from ..core.checks import ArgumentError, check, check_count
from ..core.engine.model import Model
from ..core.engine.outputs import one_output_per_row
from ..core.engine.request import Request
from ..core.engine.rows import Rows
from ..core.intercept.layers import Layers, Recorded, Watched, check_layer
from ._base import Attribution

# A layer's tensor, or all of its tensors where it has several; by layer for a list of layers.
OfLayers = Tensor | tuple[Tensor, ...] | list[Tensor | tuple[Tensor, ...]]


class LayerAttribution(Attribution):
    """An attribution method that explains an output by what a layer takes or gives.

    Nothing is left on the model, and other threads may use it meanwhile.

    Args:
        forward_func: a module or any callable that takes the inputs (then the extra arguments),
            calls the layer and returns one tensor with the rows first. Of a layer that it calls
            more than once, the last call is meant. The inputs may be of integers (ids of words,
            say).
        layer: a module that forward_func calls, or a list of them where a method takes several.
        device_ids: accepted as in Captum, for models on one device.
        output: which of several outputs is explained, as for :class:`Attribution`.

    Raises:
        ArgumentError: an argument is not as above.
    """

    _differentiates = True
    _of_inputs = False
    _takes_list = True

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: Any,
        device_ids: list[int] | None = None,
        *,
        affine_prefix: bool = True,
        output: str | int | None = None,
    ):
        super().__init__(forward_func, affine_prefix=affine_prefix, output=output)
        self._explain_by(layer, device_ids)

    def _explain_by(self, layer: Any, device_ids: list[int] | None) -> None:
        if not self._takes_list:
            single = layer is None or isinstance(layer, torch.nn.Module)
            check(single, "layer", "one torch.nn.Module", type(layer).__name__)
        check_layer(layer)
        few = device_ids is None or len(device_ids) <= 1
        check(few, "device_ids", "one device at most, as a model is explained on one", device_ids)
        self.layer, self.device_ids = layer, device_ids

    @staticmethod
    def interpolate(
        layer_attribution: Tensor,  # [B, C, *L]
        interpolate_dims: int | tuple[int, ...],
        interpolate_mode: str = "nearest",
    ) -> Tensor:
        """Scales a layer's attributions to other sizes, those of an input image, say.

        Args:
            layer_attribution: [B, C, *L] with one, two or three dimensions L.
            interpolate_dims: the wanted sizes of these dimensions; an int for all of them.
            interpolate_mode: ``nearest``, ``area``, ``linear`` (one dimension), ``bilinear`` and
                ``bicubic`` (two) or ``trilinear`` (three), as torch.nn.functional.interpolate.

        Returns:
            [B, C, *interpolate_dims].

        Raises:
            ArgumentError: layer_attribution or interpolate_dims is not as above.
        """
        name, dims = "layer_attribution", "interpolate_dims"
        check(isinstance(layer_attribution, Tensor), name, "a tensor", type(layer_attribution))
        places = layer_attribution.dim() - 2
        check(1 <= places <= 3, name, "3, 4 or 5 dimensions", layer_attribution.shape)
        if isinstance(interpolate_dims, tuple | list):
            fits = len(interpolate_dims) == places
            check(fits, dims, "{} sizes, or one for all", interpolate_dims, places)
        else:
            check_count(interpolate_dims, dims)
        return F.interpolate(layer_attribution, interpolate_dims, mode=interpolate_mode)

    def _layers(self, request: Request, of_inputs: bool) -> Layers:
        if not request.inputs.batch:
            expected = "at least one row, as a call tells the layer's shape"
            raise ArgumentError(f"inputs: expected {expected}, got none")
        return Layers(self.layer, of_inputs, request.model)

    def _gradients(
        self, request: Request, of_inputs: bool, unused: bool
    ) -> tuple[Recorded, tuple[Tensor, ...]]:
        """What the layers have at the inputs, and the output's gradients with respect to it.

        They are zeros for a layer that makes no difference if it may be unused.
        """
        recorded = Recorded(request.model.forward_func, self._layers(request, of_inputs), unused)
        model = request.model.calling(recorded, request.model.forward_args)
        try:
            gradients = engine.gradients_inside(
                model,
                request.inputs.tensors,
                lambda: tuple(p for ps in recorded.points for p in ps),
            )
        except engine.Unused as error:
            raise recorded.layers.unused(recorded.layer_of(error.position)) from None
        return recorded, gradients


def activations(
    model: Model, watched: Watched, rows: Rows, limit: int | None, to_come: int
) -> tuple[Model, tuple[Tensor, ...], Tensor]:
    """What the layers have for these rows, each [R, B, *S], and the chosen outputs, [R, B].

    And the model that was called; it knows what a row costs if many repeats are to come.
    """
    called = model.calling(watched, model.forward_args)
    whole: list[Tensor] = []

    def keep(outputs: Tensor, repeats: slice, examples: slice) -> None:
        shape = outputs.shape[:2]
        outputs = one_output_per_row(outputs.flatten(0, 1))
        count = len(outputs)
        for i, t in enumerate(watched.flat):
            if t.shape[:1] != (count,):
                layer = watched.layer_of(i)
                # In one of several calls a single row is rather one of the rows than one for all.
                is_for_all = t.shape[:1] == (1,) and watched.calls[layer] == 1
                if not is_for_all and len(watched.found[layer]) == 1:
                    raise watched.layers.not_of_rows(layer, t, count)
        parts = (*watched.flat, outputs)
        fitting = [t.shape[:1] in ((1,), (count,)) for t in parts]  # others had better not matter
        by_repeat = [
            (t if len(t) == count else t.repeat(count, *[1] * (t.dim() - 1))).unflatten(0, shape)
            if fits
            else t.new_zeros(*shape, *t.shape[1:])
            for t, fits in zip(parts, fitting, strict=True)
        ]
        if count == rows.repeats * rows.batch:
            whole[:] = by_repeat
            return
        if not whole:
            whole.extend(t.new_zeros(rows.repeats, rows.batch, *t.shape[2:]) for t in by_repeat)
        for of_all, t, fits in zip(whole, by_repeat, fitting, strict=True):
            if fits:
                of_all[repeats, examples] = t

    engine.stream(called, rows, keep, limit, to_come=to_come)
    *found, outputs = whole
    return called, tuple(found), outputs


def may_be_unused(grad_kwargs: dict[str, Any] | None) -> bool:
    """Whether layers that make no difference get zeros, as arguments of torch.autograd.grad ask."""
    if grad_kwargs is None:
        return False
    expected = "None, or a dict of materialize_grads, allow_unused and retain_graph"
    check(isinstance(grad_kwargs, dict), "grad_kwargs", expected, grad_kwargs)
    known = {"materialize_grads", "allow_unused", "retain_graph"}
    check(known.issuperset(grad_kwargs), "grad_kwargs", expected, grad_kwargs)
    return bool(grad_kwargs.get("materialize_grads"))
