"""What a layer has at the inputs, and its gradients: LayerActivation and methods upon both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..core import engine
from ..core.checks import TensorOrTuple
from ..core.engine.request import Request
from ..core.engine.rows import InputRows
from ..core.intercept.layers import Answerless
from ._base import GradientAttribution, captum_compatible
from ._explanation import Result
from ._layer import LayerAttribution, OfLayers, may_be_unused


class LayerActivation(LayerAttribution):
    """What a layer takes or gives at the inputs.

    Args:
        forward_func: a module or any callable that takes the inputs (then the extra arguments) and
            calls each layer. What it returns does not matter. Of a layer that it calls more than
            once, the last call is meant.
        layer: a module that forward_func calls, or a list of them.
        device_ids: accepted as in Captum, for models on one device.
    """

    _differentiates = False

    @captum_compatible
    def attribute(
        self,
        inputs: TensorOrTuple,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
    ) -> OfLayers:
        """Returns what the layer has, from one call of forward_func with all inputs.

        Args:
            inputs: a tensor [B, *F] of any dtype, or a tuple of tensors [B, *F_i].
            additional_forward_args: extra arguments, as for :class:`IntegratedGradients`.
            attribute_to_layer_input: whether the layer's positional inputs are wanted rather than
                its outputs.

        Returns:
            For a layer a tensor as it is, or a tuple of them where there are several; for a list of
            layers a list of that. Copies without a graph.

        Raises:
            ArgumentError: an argument is not as above; the message names it.
        """
        request = self._query(inputs, None, None, additional_forward_args)
        found = self._find(request, False, attribute_to_layer_input)
        assert found.form is not None
        by_layer: OfLayers = found.form(found.values)
        return by_layer

    def _find(self, request: Request, detailed: bool, attribute_to_layer_input: bool) -> Result:
        watched = Answerless(
            request.model.forward_func, self._layers(request, attribute_to_layer_input)
        )
        model = request.model.calling(watched, request.model.forward_args)
        with torch.inference_mode(False):
            engine.values(model, InputRows(request.inputs.tensors, model.batch, together=True))
        return Result(watched.flat, form=watched.packed)

    @staticmethod
    def _outputs(request: Request, tensors: tuple[Tensor, ...]) -> Tensor:
        return engine.values(request.model, InputRows(tensors, request.inputs.batch))[0]

    @property
    def multiplies_by_inputs(self) -> bool:
        return True


class LayerGradientXActivation(LayerAttribution, GradientAttribution):
    """What a layer takes or gives, times the gradient of the chosen output with respect to it.

    Source: Shrikumar, Greenside and Kundaje, "Not just a black box" (2016), for a layer.

    Args:
        forward_func: a module or any callable that takes the inputs (then the extra arguments),
            calls each layer and returns one tensor with the rows first. Of a layer that it calls
            more than once, the last call is meant.
        layer: a module that forward_func calls, or a list of them.
        device_ids: accepted as in Captum, for models on one device.
        multiply_by_inputs: whether to multiply. Without it, the gradient is returned.
        memory_efficient: whether to multiply on, and return on, the CPU.
        output: which of several outputs is explained, as for :class:`Attribution`.
    """

    _row_by_row = False

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: Any,
        device_ids: list[int] | None = None,
        multiply_by_inputs: bool = True,
        memory_efficient: bool = False,
        *,
        output: str | int | None = None,
    ):
        super().__init__(forward_func, layer, device_ids, output=output)
        self._multiply_by_inputs = multiply_by_inputs
        self._memory_efficient = memory_efficient

    @captum_compatible
    def attribute(
        self,
        inputs: TensorOrTuple,
        target: Any = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
        grad_kwargs: dict[str, Any] | None = None,
    ) -> OfLayers:
        """Attributes the chosen output to the layer, from one call of forward_func.

        Args:
            inputs: a tensor [B, *F] of any dtype, or a tuple of tensors [B, *F_i].
            target: which output is explained, as for :class:`IntegratedGradients`.
            additional_forward_args: extra arguments, as for :class:`IntegratedGradients`.
            attribute_to_layer_input: whether to explain by the layer's positional inputs rather
                than by its outputs.
            grad_kwargs: with ``materialize_grads`` a layer that makes no difference gets zeros.

        Returns:
            For a layer a tensor of the shape and dtype that it takes or gives, or a tuple of them
            where these are several; for a list of layers a list of that. Without a graph.

        Raises:
            ArgumentError: an argument is not as above; the message names it.
            IndexError: the target is out of range.
            RuntimeError: the output does not depend on a layer.
        """
        request = self._query(inputs, None, target, additional_forward_args)
        found = self._find(request, False, attribute_to_layer_input, grad_kwargs)
        assert found.form is not None
        by_layer: OfLayers = found.form(found.values)
        return by_layer

    def _find(
        self,
        request: Request,
        detailed: bool,
        attribute_to_layer_input: bool,
        grad_kwargs: dict[str, Any] | None,
    ) -> Result:
        unused = may_be_unused(grad_kwargs)
        recorded, gradients = self._gradients(request, attribute_to_layer_input, unused)
        values = recorded.flat
        if self._memory_efficient:
            values, gradients = (tuple(t.cpu() for t in ts) for ts in (values, gradients))
        if self._multiply_by_inputs:
            gradients = tuple(g * y for g, y in zip(gradients, values, strict=True))
        return Result(gradients, form=recorded.packed)

    @property
    def multiplies_by_inputs(self) -> bool:
        return self._multiply_by_inputs


class LayerGradCam(LayerAttribution, GradientAttribution):
    """Grad-CAM: a layer's channels y_k, each weighted by its mean gradient, added up.

        Σ_k (mean over places of ∂F/∂y_k) · y_k

    Source: Selvaraju et al., "Grad-CAM: visual explanations from deep networks via gradient-based
    localization" (2017), whose last step, ReLU, is left out unless asked for, as in Captum.

    Args:
        forward_func: a module or any callable that takes the inputs (then the extra arguments),
            calls the layer and returns one tensor with the rows first. Of a layer that it calls
            more than once, the last call is meant.
        layer: a module that forward_func calls, mostly the last convolution.
        device_ids: accepted as in Captum, for models on one device.
        output: which of several outputs is explained, as for :class:`Attribution`.
    """

    _takes_list = False

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: torch.nn.Module,
        device_ids: list[int] | None = None,
        *,
        output: str | int | None = None,
    ):
        super().__init__(forward_func, layer, device_ids, output=output)

    @captum_compatible
    def attribute(
        self,
        inputs: TensorOrTuple,
        target: Any = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool = False,
        attr_dim_summation: bool = True,
        grad_kwargs: dict[str, Any] | None = None,
    ) -> OfLayers:
        """Attributes the chosen output to the layer's places, from one call of forward_func.

        Args:
            inputs: a tensor [B, *F] of any dtype, or a tuple of tensors [B, *F_i].
            target: which output is explained, as for :class:`IntegratedGradients`.
            additional_forward_args: extra arguments, as for :class:`IntegratedGradients`.
            attribute_to_layer_input: whether to explain by the layer's positional inputs rather
                than by its outputs.
            relu_attributions: whether to set what is negative to zero, as in the paper.
            attr_dim_summation: whether to add up the channels, dimension 1.
            grad_kwargs: with ``materialize_grads`` a layer that makes no difference gets zeros.

        Returns:
            [B, 1, *L] for a layer of C channels that takes or gives [B, C, *L]; [B, C, *L] without
            ``attr_dim_summation``; a tuple where there are several tensors. In their dtype, without
            a graph. :meth:`interpolate` scales it to an image's size.

        Raises:
            ArgumentError: an argument is not as above; the message names it.
            IndexError: the target is out of range.
            RuntimeError: the output does not depend on the layer.
        """
        request = self._query(inputs, None, target, additional_forward_args)
        found = self._find(
            request,
            detailed=False,
            attribute_to_layer_input=attribute_to_layer_input,
            relu_attributions=relu_attributions,
            attr_dim_summation=attr_dim_summation,
            grad_kwargs=grad_kwargs,
        )
        assert found.form is not None
        by_layer: OfLayers = found.form(found.values)
        return by_layer

    def _find(
        self,
        request: Request,
        detailed: bool,
        attribute_to_layer_input: bool,
        relu_attributions: bool,
        attr_dim_summation: bool,
        grad_kwargs: dict[str, Any] | None,
    ) -> Result:
        unused = may_be_unused(grad_kwargs)
        recorded, gradients = self._gradients(request, attribute_to_layer_input, unused)
        values = recorded.flat
        for y in values:
            recorded.layers.check_channels(0, y)
        maps = tuple(_cam(y, g) for y, g in zip(values, gradients, strict=True))
        if attr_dim_summation:
            maps = tuple(m.sum(1, keepdim=True) for m in maps)
        if relu_attributions:
            maps = tuple(m.relu_() for m in maps)
        return Result(maps, form=recorded.packed)


def _cam(y: Tensor, gradient: Tensor) -> Tensor:  # [B, C, *L] twice
    places = tuple(range(2, y.dim()))
    return y * (gradient.mean(places, keepdim=True) if places else gradient)
