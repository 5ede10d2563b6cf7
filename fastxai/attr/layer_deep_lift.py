"""DeepLift and DeepLiftShap for a layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, overload

import torch
from torch import Tensor

from ..core import engine
from ..core.checks import TensorOrTuple
from ..core.engine.request import Request
from ..core.engine.rows import BaselinePairRows
from ..core.intercept.lifted_layers import LayerPairs
from ._base import GradientAttribution, captum_compatible
from ._explanation import Result, convergence_delta
from ._layer import LayerAttribution, OfLayers, may_be_unused
from .deep_lift import Combine, DeepLift, contributions
from .deep_lift_shap import DeepLiftShap


class LayerDeepLift(LayerAttribution, DeepLift):
    """DeepLift with respect to what a layer takes or gives.

    With y and y' what the layer has at the input and at the baseline, number i gets m_i (y_i −
    y'_i), with the multiplier m_i from there to the output. Attributions add up to F(x) − F(x')
    where all that the inputs do to the output they do by way of the layer, and are held against it
    as those of :class:`DeepLift` are. Where a connection leads around the layer, its part is
    missing. Operations and rules are as for :class:`DeepLift`. Source: Shrikumar, Greenside and
    Kundaje, "Learning important features through propagating activation differences" (2017).

    Args:
        model: a module or any callable, as for :class:`DeepLift`. Its inputs may be of integers.
        layer: a module that the model calls, or a list of them. What it takes or gives must be a
            floating-point tensor, or a tuple of such, with the rows first. Of a layer that is
            called more than once, the last call is meant.
        multiply_by_inputs: whether to multiply by y − y'. Without it, the multipliers are returned.
        output: which of several outputs is explained, as for :class:`Attribution`.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        layer: Any,
        multiply_by_inputs: bool = True,
        *,
        output: str | int | None = None,
    ):
        DeepLift.__init__(self, model, multiply_by_inputs, output=output)
        self._explain_by(layer, None)

    @overload  # type: ignore[override]
    def attribute(
        self,
        inputs: TensorOrTuple,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        return_convergence_delta: Literal[False] = False,
        attribute_to_layer_input: bool = False,
        custom_attribution_func: Combine | None = None,
        grad_kwargs: dict[str, Any] | None = None,
    ) -> OfLayers: ...
    @overload
    def attribute(
        self,
        inputs: TensorOrTuple,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        *,
        return_convergence_delta: Literal[True],
        attribute_to_layer_input: bool = False,
        custom_attribution_func: Combine | None = None,
        grad_kwargs: dict[str, Any] | None = None,
    ) -> tuple[OfLayers, Tensor]: ...
    @captum_compatible
    def attribute(
        self,
        inputs: TensorOrTuple,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        attribute_to_layer_input: bool = False,
        custom_attribution_func: Combine | None = None,
        grad_kwargs: dict[str, Any] | None = None,
    ) -> OfLayers | tuple[OfLayers, Tensor]:
        """Attributes the chosen output to the layer.

        Args:
            inputs: a tensor [B, *F] of any dtype, or a tuple of tensors [B, *F_i].
            baselines: baselines of the inputs, as for :class:`IntegratedGradients`: y' is what the
                layer has there.
            target: which output is explained, as for :class:`IntegratedGradients`.
            additional_forward_args: extra arguments, as for :class:`IntegratedGradients`.
            return_convergence_delta: whether to return the convergence delta as well.
            attribute_to_layer_input: whether to explain by the layer's positional inputs rather
                than by its outputs.
            custom_attribution_func: makes attributions of multipliers, as for :class:`DeepLift`, of
                the layer's tensors, those of all layers of a list one after another.
            grad_kwargs: with ``materialize_grads`` a layer that makes no difference gets zeros.

        Returns:
            For a layer a tensor [B, *S] of the shape and dtype that it takes or gives, or a tuple
            of them where these are several; for a list of layers a list of that. Without a graph.
            With ``return_convergence_delta`` a pair: the attributions, and Σ attributions −
            (F(x) − F(x')) of each row, [B].

        Raises:
            ArgumentError: an argument is not as above; the message names it.
            IndexError: the target is out of range.
            RuntimeError: the output does not depend on a layer.
        """
        request = self._query(inputs, baselines, target, additional_forward_args)
        found = self._against_baseline(
            request,
            detailed=False,
            custom_attribution_func=custom_attribution_func,
            attribute_to_layer_input=attribute_to_layer_input,
            grad_kwargs=grad_kwargs,
        )
        assert found.form is not None and found.convergence_delta is not None
        result = found.form(found.values)
        return (result, found.convergence_delta) if return_convergence_delta else result

    def _find(self, request: Request, detailed: bool, *options: Any, **named: Any) -> Result:
        return self._against_baseline(request, detailed, *options, **named)

    def _against_baseline(
        self,
        request: Request,
        detailed: bool,
        custom_attribution_func: Combine | None,
        attribute_to_layer_input: bool,
        grad_kwargs: dict[str, Any] | None,
    ) -> Result:
        x, baselines = request.inputs.tensors, request.baselines
        if any(b.shape[0] != 1 for b in baselines):  # then all come with their inputs
            baselines = tuple(b.expand(t.shape) for b, t in zip(baselines, x, strict=True))
        unused = may_be_unused(grad_kwargs)
        pairs = BaselinePairRows(x, baselines, 1)
        found = self._of_pairs_inside(
            request, pairs, custom_attribution_func, attribute_to_layer_input, unused
        )
        values = tuple(v[:, 0] for v in found.values)
        return Result(values, convergence_delta=found.delta, form=found.inside.packed)

    def _of_pairs_inside(
        self,
        request: Request,
        pairs: BaselinePairRows,
        custom_attribution_func: Combine | None,
        of_inputs: bool,
        unused: bool,
    ) -> _OfPairs:
        combine = self._combination(custom_attribution_func)
        layers = self._layers(request, of_inputs)
        inside = LayerPairs(layers, pairs, unused)
        with torch.inference_mode(False):
            try:
                lift = self._lift(request, pairs, inside)
            except engine.Unused as error:
                raise layers.unused(inside.layer_of(error.position)) from None
            multipliers = _by_input(lift.multipliers)
            compared = tuple(map(_by_input, inside.compared()))
            values = combine(multipliers, *compared)
        added = values if combine is contributions else contributions(multipliers, *compared)
        if inside.adds_up:
            lift.check(added)
        assert lift.changes is not None
        delta = convergence_delta(values, lift.changes, torch.zeros_like(lift.changes))
        shape = request.inputs.batch, pairs.repeats
        return _OfPairs([v.reshape(*shape, *v.shape[1:]) for v in values], delta, inside)


@dataclass(frozen=True)
class _OfPairs:
    """What was found for pairs of an example and a baseline."""

    values: list[Tensor]  # each [B, K, *S_i]
    delta: Tensor  # [B · K]
    inside: LayerPairs


def _by_input(of_pairs: Any) -> tuple[Tensor, ...]:  # each [K, B, *S_i], then [B · K, *S_i]
    return tuple(t.transpose(0, 1).flatten(0, 1) for t in of_pairs)


class LayerDeepLiftShap(LayerDeepLift, DeepLiftShap):
    """What :class:`LayerDeepLift` finds against each of several baselines, averaged.

    Where no connection leads around the layer, the attributions of a row add up to F(x) less the
    mean output over the baselines. Source: Lundberg and Lee, "A unified approach to interpreting
    model predictions" (2017).

    Args:
        model: a module or any callable, as for :class:`LayerDeepLift`.
        layer: a module that the model calls, or a list of them, as for :class:`LayerDeepLift`.
        multiply_by_inputs: whether to multiply by y − y'. Without it: mean multipliers.
    """

    @overload  # type: ignore[override]
    def attribute(
        self,
        inputs: TensorOrTuple,
        baselines: Any,
        target: Any = None,
        additional_forward_args: Any = None,
        return_convergence_delta: Literal[False] = False,
        attribute_to_layer_input: bool = False,
        custom_attribution_func: Combine | None = None,
    ) -> OfLayers: ...
    @overload
    def attribute(
        self,
        inputs: TensorOrTuple,
        baselines: Any,
        target: Any = None,
        additional_forward_args: Any = None,
        *,
        return_convergence_delta: Literal[True],
        attribute_to_layer_input: bool = False,
        custom_attribution_func: Combine | None = None,
    ) -> tuple[OfLayers, Tensor]: ...
    @captum_compatible
    def attribute(
        self,
        inputs: TensorOrTuple,
        baselines: Any,
        target: Any = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        attribute_to_layer_input: bool = False,
        custom_attribution_func: Combine | None = None,
    ) -> OfLayers | tuple[OfLayers, Tensor]:
        """Attributes the chosen output to the layer.

        Memory grows with the number of pairs of an input and a baseline.

        Args:
            inputs: a tensor [B, *F] of any dtype, or a tuple of tensors [B, *F_i].
            baselines: at least two rows, as for :class:`DeepLiftShap`.
            target: which output is explained, as for :class:`IntegratedGradients`.
            additional_forward_args: extra arguments, as for :class:`IntegratedGradients`.
            return_convergence_delta: whether to return the convergence deltas as well.
            attribute_to_layer_input: whether to explain by the layer's positional inputs rather
                than by its outputs.
            custom_attribution_func: makes attributions of multipliers, as for
                :class:`LayerDeepLift`, with one row for each pair of an input and a baseline,
                [B · K, *S_i], input by input.

        Returns:
            The attributions, in the form of the layer's tensors as for :class:`LayerDeepLift`. With
            ``return_convergence_delta`` a pair: the attributions, and Σ attributions −
            (F(x) − F(x')) of each pair of an input and a baseline, [B · K], input by input.

        Raises:
            ArgumentError: an argument is not as above; the message names it.
            IndexError: the target is out of range.
            RuntimeError: the output does not depend on a layer.
        """
        request = self._query(inputs, baselines, target, additional_forward_args)
        found = self._of_all(request, custom_attribution_func, attribute_to_layer_input)
        result = found.inside.packed([v.mean(1) for v in found.values])
        return (result, found.delta) if return_convergence_delta else result

    compute_convergence_delta = GradientAttribution.compute_convergence_delta

    def _find(
        self,
        request: Request,
        detailed: bool,
        custom_attribution_func: Combine | None,
        attribute_to_layer_input: bool,
    ) -> Result:
        found = self._of_all(request, custom_attribution_func, attribute_to_layer_input)
        return Result(
            tuple(v.mean(1) for v in found.values),
            baseline_outputs=self._at_baselines(request).mean(1) if detailed else None,
            convergence_delta=found.delta.reshape(request.inputs.batch, -1).mean(1),
            form=found.inside.packed,
        )

    def _of_all(self, request: Request, custom: Combine | None, of_inputs: bool) -> _OfPairs:
        assert request.background is not None
        pairs = BaselinePairRows(
            request.inputs.tensors, request.background, len(request.background[0])
        )
        return self._of_pairs_inside(request, pairs, custom, of_inputs, False)
