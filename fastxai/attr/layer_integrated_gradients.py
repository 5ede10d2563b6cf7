"""Integrated Gradients for a layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, overload

import torch
from torch import Tensor

from ..core import engine
from ..core.checks import TensorOrTuple, check_limit
from ..core.engine.request import Request
from ..core.engine.rows import InputRows, PathRows
from ..core.estimate import quadrature
from ..core.intercept.layers import Replaced, Watched
from ._base import GradientAttribution, captum_compatible
from ._explanation import Result, convergence_delta
from ._layer import LayerAttribution, OfLayers, activations, may_be_unused


class LayerIntegratedGradients(LayerAttribution, GradientAttribution):
    """Integrated Gradients with respect to what a layer takes or gives.

    With y and y' what the layer has at the input and at the baseline, and F the chosen output as a
    function of it, number i gets

        (y_i − y'_i) ∫₀¹ ∂F/∂y_i (y' + α (y − y')) dα,

    all else in the model being as at the input. This is how text models are explained: their inputs
    are ids, and the layer is the embedding.
    Source: Sundararajan, Taly and Yan, "Axiomatic attribution for deep networks" (2017).

    What the model does before it calls the layer is done for every point of the path, though it is
    the same for all of them.

    Args:
        forward_func: a module or any callable that takes the inputs (then the extra arguments),
            calls each layer and returns one tensor with the rows first. Of a layer that it calls
            more than once, the last call is meant: what others give stays as it is at the input.
            (Captum puts the last call's values in the place of all, with which the model is
            another.)
        layer: a module that forward_func calls, or a list of them, none of which feeds another
            alone. What it takes or gives must be a floating-point tensor, or a tuple of such, with
            the rows first.
        device_ids: accepted as in Captum, for models on one device.
        multiply_by_inputs: whether to multiply by y − y'. Without it, the mean gradient is
            returned: local sensitivities rather than contributions.
        affine_prefix: whether affine operations right after the layer may be done on two rows for
            each example rather than on all points of its path. The results are equal up to
            rounding.
        output: which of several outputs is explained, as for :class:`Attribution`.
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: Any,
        device_ids: list[int] | None = None,
        multiply_by_inputs: bool = True,
        *,
        affine_prefix: bool = True,
        output: str | int | None = None,
    ):
        super().__init__(
            forward_func, layer, device_ids, affine_prefix=affine_prefix, output=output
        )
        self._multiply_by_inputs = multiply_by_inputs

    @overload
    def attribute(
        self,
        inputs: TensorOrTuple,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        n_steps: int = 50,
        method: str = "gausslegendre",
        internal_batch_size: int | None = None,
        return_convergence_delta: Literal[False] = False,
        attribute_to_layer_input: bool = False,
        grad_kwargs: dict[str, Any] | None = None,
    ) -> OfLayers: ...
    @overload
    def attribute(
        self,
        inputs: TensorOrTuple,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        n_steps: int = 50,
        method: str = "gausslegendre",
        internal_batch_size: int | None = None,
        *,
        return_convergence_delta: Literal[True],
        attribute_to_layer_input: bool = False,
        grad_kwargs: dict[str, Any] | None = None,
    ) -> tuple[OfLayers, Tensor]: ...
    @captum_compatible
    def attribute(
        self,
        inputs: TensorOrTuple,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        n_steps: int = 50,
        method: str = "gausslegendre",
        internal_batch_size: int | None = None,
        return_convergence_delta: bool = False,
        attribute_to_layer_input: bool = False,
        grad_kwargs: dict[str, Any] | None = None,
    ) -> OfLayers | tuple[OfLayers, Tensor]:
        """Attributes the chosen output to the layer.

        Args:
            inputs: a tensor [B, *F] of any dtype, or a tuple of tensors [B, *F_i].
            baselines: baselines of the inputs, as for :class:`IntegratedGradients`: the path starts
                at what the layer has there. For ids of words, those of padding, say.
            target: which output is explained, as for :class:`IntegratedGradients`.
            additional_forward_args: extra arguments, as for :class:`IntegratedGradients`.
            n_steps: number of points S on the path. Memory does not grow with it.
            method: how the integral is approximated, as for :class:`IntegratedGradients`.
            internal_batch_size: rows a model call at most; None to choose for speed.
            return_convergence_delta: whether to return the convergence delta as well.
            attribute_to_layer_input: whether to explain by the layer's positional inputs rather
                than by its outputs.
            grad_kwargs: with ``materialize_grads`` a layer that makes no difference gets zeros.

        Returns:
            For a layer a tensor [B, *S] of the shape that it takes or gives, or a tuple of them
            where these are several; for a list of layers a list of that. float64 for float64
            values, otherwise float32, and without a graph. With ``return_convergence_delta`` a
            pair: the attributions, and Σ attributions − (F(x) − F(x')) of each row, [B].

        Raises:
            ArgumentError: an argument is not as above; the message names it.
            IndexError: the target is out of range.
            RuntimeError: the output does not depend on a layer.
        """
        request = self._query(inputs, baselines, target, additional_forward_args)
        found = self._find(
            request,
            detailed=False,
            n_steps=n_steps,
            method=method,
            internal_batch_size=internal_batch_size,
            attribute_to_layer_input=attribute_to_layer_input,
            grad_kwargs=grad_kwargs,
        )
        assert found.form is not None and found.convergence_delta is not None
        result = found.form(found.values)
        return (result, found.convergence_delta) if return_convergence_delta else result

    def _find(
        self,
        request: Request,
        detailed: bool,
        n_steps: int,
        method: str,
        internal_batch_size: int | None,
        attribute_to_layer_input: bool,
        grad_kwargs: dict[str, Any] | None,
    ) -> Result:
        alphas, weights = quadrature.rule(method, n_steps, request.inputs.tensors[0].device)
        limit = check_limit(internal_batch_size, argument="internal_batch_size")
        unused = may_be_unused(grad_kwargs)
        layers = self._layers(request, attribute_to_layer_input)
        watched = Watched(request.model.forward_func, layers)
        x, extra = request.inputs.tensors, request.model.forward_args

        with torch.inference_mode(False):
            rows, starts = (
                InputRows(x, request.inputs.batch),
                InputRows(request.baselines, request.inputs.batch),
            )
            called, found, outputs = activations(request.model, watched, rows, limit, n_steps)
            _, at_start, baseline_outputs = activations(called, watched, starts, limit, 0)
            y, baseline = tuple([t[0] for t in found]), tuple([t[0] for t in at_start])
            outputs, baseline_outputs = outputs[0], baseline_outputs[0]
            for i, (a, b) in enumerate(zip(y, baseline, strict=True)):
                layer = watched.layer_of(i)
                layers.check_floating(layer, [a])
                layers.check_shape(layer, b.shape, a.shape)
            model = called.calling(Replaced(watched, unused), (*x, *extra))
            if unused or max(map(len, watched.found)) > 1:
                model.affine_prefix = False  # the graph tells what is used
            model.alone = baseline, baseline_outputs
            try:
                path = PathRows(y, baseline, alphas)
                mean = engine.gradient_sum(model, path, weights, limit)
            except engine.Unused as error:
                raise layers.unused(watched.layer_of(error.position)) from None
        values = mean
        if self._multiply_by_inputs:
            triples = zip(mean, y, baseline, strict=True)
            values = tuple(g.mul_(a.to(g.dtype) - b.to(g.dtype)) for g, a, b in triples)
        delta = convergence_delta(values, outputs, baseline_outputs)
        return Result(values, outputs, baseline_outputs, delta, form=watched.packed)

    def has_convergence_delta(self) -> bool:
        return True

    @property
    def multiplies_by_inputs(self) -> bool:
        return self._multiply_by_inputs
