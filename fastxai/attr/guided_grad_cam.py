"""Guided Grad-CAM: where Grad-CAM looks, in the detail of guided backpropagation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..core.checks import Form, check
from ..core.engine.inputs import packed
from ..core.engine.request import Request
from ._base import GradientAttribution, captum_compatible
from ._layer import LayerAttribution
from .guided_backprop import GuidedBackprop
from .layer_gradients import LayerGradCam

# The number of dimensions of what each can scale.
_MODES = {
    "nearest": (3, 4, 5),
    "nearest-exact": (3, 4, 5),
    "area": (3, 4, 5),
    "linear": (3,),
    "bilinear": (4,),
    "bicubic": (4,),
    "trilinear": (5,),
}


class GuidedGradCam(GradientAttribution):
    """Guided backpropagation times the positive part of Grad-CAM, scaled to the input's size.

    Source: Selvaraju et al., "Grad-CAM: visual explanations from deep networks via gradient-based
    localization" (2017).

    Args:
        model: a module or any callable that takes the inputs (then the extra arguments), calls the
            layer once and returns one tensor with the rows first; neither scripted nor compiled.
        layer: a module that the model calls, mostly the last convolution. It must take or give one
            tensor [B, C, *L].
        device_ids: accepted as in Captum, for models on one device.
        output: which of several outputs is explained, as for :class:`Attribution`.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        layer: torch.nn.Module,
        device_ids: list[int] | None = None,
        *,
        output: str | int | None = None,
    ):
        super().__init__(model, affine_prefix=False, output=output)
        self.grad_cam = LayerGradCam(model, layer, device_ids)
        self.guided_backprop = GuidedBackprop(model)

    @captum_compatible
    def attribute(
        self,
        inputs: Form,
        target: Any = None,
        additional_forward_args: Any = None,
        interpolate_mode: str = "nearest",
        attribute_to_layer_input: bool = False,
    ) -> Form:
        """Attributes the chosen output to the inputs.

        Args:
            inputs: a floating-point tensor [B, C, *L], or a tuple of tensors [B, C_i, *L_i].
            target: which output is explained, as for :class:`IntegratedGradients`.
            additional_forward_args: extra arguments, as for :class:`IntegratedGradients`.
            interpolate_mode: how Grad-CAM's map is scaled, as for
                :meth:`LayerAttribution.interpolate`; "bilinear" in the paper.
            attribute_to_layer_input: whether Grad-CAM explains by the layer's input rather than by
                its output.

        Returns:
            The attributions, in the form, shapes and dtypes of the inputs, without a graph. For an
            input of another number of dimensions than the layer's, an empty tensor, as in Captum.

        Raises:
            ArgumentError: an argument is not as above, or ``interpolate_mode`` fits no input.
            IndexError: the target is out of range.
            RuntimeError: the output does not depend on an input.
        """
        request = self._query(inputs, None, target, additional_forward_args)
        return packed(self._values(request, interpolate_mode, attribute_to_layer_input), inputs)

    def _values(
        self, request: Request, interpolate_mode: str, attribute_to_layer_input: bool
    ) -> tuple[Tensor, ...]:
        x = request.inputs.tensors
        modes = f"one of {', '.join(_MODES)}"
        known = isinstance(interpolate_mode, str) and interpolate_mode in _MODES
        check(known, "interpolate_mode", modes, repr(interpolate_mode))
        places = _MODES[interpolate_mode]
        expected = f"a mode for inputs of shape {', '.join(str(tuple(t.shape)) for t in x)}"
        fitting = any(t.dim() in places for t in x)
        check(fitting, "interpolate_mode", expected, repr(interpolate_mode))
        details = self.guided_backprop._values(request)
        maps = self.grad_cam._find(
            request,
            detailed=False,
            attribute_to_layer_input=attribute_to_layer_input,
            relu_attributions=True,
            attr_dim_summation=True,
            grad_kwargs=None,
        ).values
        check(len(maps) == 1, "layer", "one with a single tensor", f"{len(maps)} tensors")
        (cam,) = maps
        fits = [t.dim() in places and t.dim() == cam.dim() for t in x]
        expected = "one whose tensor has as many dimensions as an input that can be scaled"
        check(any(fits), "layer", expected, f"one with {cam.dim()}")
        return tuple(
            detail * LayerAttribution.interpolate(cam, t.shape[2:], interpolate_mode)
            if fit
            else t.new_empty(0)
            for t, detail, fit in zip(x, details, fits, strict=True)
        )
