"""GradientSHAP for a layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, overload

import torch
from torch import Tensor

from .. import ops
from ..core import engine
from ..core.checks import TensorOrTuple, check, check_count, check_seed
from ..core.engine.inputs import check_stdevs
from ..core.engine.noisy_rows import NoisyRows
from ..core.engine.request import Request
from ..core.engine.rows import InputRows, Rows
from ..core.intercept.layer_paths import Between, Picked, drawn
from ..core.intercept.layers import Replaced, Watched
from ._base import captum_compatible
from ._explanation import Result
from ._layer import LayerAttribution, OfLayers, activations
from .gradient_shap import GradientShap


class LayerGradientShap(LayerAttribution, GradientShap):
    """GradientSHAP with respect to what a layer takes or gives.

    With ỹ and y' what the layer has at x̃ = x + σ ε and at a baseline drawn from a distribution, F
    the chosen output as a function of it, and α uniform between 0 and 1, number i gets the mean
    over samples of

        (ỹ_i − y'_i) ∂F/∂y_i (y' + α (ỹ − y')),

    all else in the model being as at the input x. With many samples and σ = 0 it converges to the
    mean of :class:`LayerIntegratedGradients` over the baselines. Samples are spread as those of
    :class:`GradientShap`, and are the same for the same seed.
    Sources: as of :class:`GradientShap`.

    Captum takes gradients on the paths of the inputs, b + α (x̃ − b), which are other points where
    something before the layer is not linear. There its attributions do not add up to the mean of
    F(x) − F(b), however many samples there are.

    Args:
        forward_func: a module or any callable that takes the inputs (then the extra arguments),
            calls each layer and returns one tensor with the rows first. Of a layer that it calls
            more than once, the last call is meant.
        layer: a module that forward_func calls, or a list of them, none of which feeds another
            alone. What it takes or gives must be a floating-point tensor, or a tuple of such, with
            the rows first.
        device_ids: accepted as in Captum, for models on one device.
        multiply_by_inputs: whether to multiply by ỹ − y'. Without it, the mean gradient is
            returned: local sensitivities rather than contributions.
        output: which of several outputs is explained, as for :class:`Attribution`.
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: Any,
        device_ids: list[int] | None = None,
        multiply_by_inputs: bool = True,
        *,
        output: str | int | None = None,
    ):
        GradientShap.__init__(self, forward_func, multiply_by_inputs, output=output)
        self._explain_by(layer, device_ids)

    @overload  # type: ignore[override]
    def attribute(
        self,
        inputs: TensorOrTuple,
        baselines: Any,
        n_samples: int = 5,
        stdevs: float | tuple[float, ...] = 0.0,
        target: Any = None,
        additional_forward_args: Any = None,
        return_convergence_delta: Literal[False] = False,
        attribute_to_layer_input: bool = False,
        *,
        seed: int | None = None,
    ) -> OfLayers: ...
    @overload
    def attribute(
        self,
        inputs: TensorOrTuple,
        baselines: Any,
        n_samples: int = 5,
        stdevs: float | tuple[float, ...] = 0.0,
        target: Any = None,
        additional_forward_args: Any = None,
        *,
        return_convergence_delta: Literal[True],
        attribute_to_layer_input: bool = False,
        seed: int | None = None,
    ) -> tuple[OfLayers, Tensor]: ...
    @captum_compatible
    def attribute(
        self,
        inputs: TensorOrTuple,
        baselines: Any,
        n_samples: int = 5,
        stdevs: float | tuple[float, ...] = 0.0,
        target: Any = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        attribute_to_layer_input: bool = False,
        *,
        seed: int | None = None,
    ) -> OfLayers | tuple[OfLayers, Tensor]:
        """Attributes the chosen output to the layer.

        Memory grows with the numbers that the layer has for every example and each of its
        baselines; with noise for each of its samples.

        Args:
            inputs: a tensor [B, *F] of any dtype, or a tuple of tensors [B, *F_i].
            baselines: the distribution of baselines of the inputs, as for :class:`GradientShap`.
            n_samples: how many samples N of each example.
            stdevs: standard deviation σ of the noise, one for all inputs or a tuple with one each;
                of floating-point inputs.
            target: which output is explained, as for :class:`IntegratedGradients`.
            additional_forward_args: extra arguments, as for :class:`IntegratedGradients`.
            return_convergence_delta: whether to return the convergence delta as well.
            attribute_to_layer_input: whether to explain by the layer's positional inputs rather
                than by its outputs.
            seed: the same seed gives the same samples, as for :class:`GradientShap`.

        Returns:
            For a layer a tensor [B, *S] of the shape that it takes or gives, or a tuple of them
            where these are several; for a list of layers a list of that. float64 for float64
            values, otherwise float32, and without a graph. With ``return_convergence_delta`` a
            pair: the attributions, and for every sample how far its own are from adding up to
            F(x̃) − F(b), [B · N], those of an example together.

        Raises:
            ArgumentError: an argument is not as above; the message names it.
            IndexError: the target is out of range.
            RuntimeError: the output does not depend on a layer.
        """
        request = self._query(inputs, baselines, target, additional_forward_args)
        options = n_samples, stdevs, attribute_to_layer_input, seed
        found = self._sampled(request, *options, return_convergence_delta)
        result = found.watched.packed(found.values)
        return (result, found.delta()) if return_convergence_delta else result

    def _find(
        self,
        request: Request,
        detailed: bool,
        n_samples: int,
        stdevs: Any,
        attribute_to_layer_input: bool,
        seed: int | None,
    ) -> Result:
        found = self._sampled(request, n_samples, stdevs, attribute_to_layer_input, seed, False)
        starts = found.at_starts.mean(0)
        return Result(found.values, baseline_outputs=starts, form=found.watched.packed)

    def _sampled(
        self,
        request: Request,
        n_samples: int,
        stdevs: Any,
        of_inputs: bool,
        seed: int | None,
        with_sums: bool,
    ) -> _Sampled:
        x, background = request.inputs.tensors, request.background
        assert background is not None
        count, noise = check_count(n_samples, "n_samples"), check_stdevs(stdevs, request.inputs)
        for i, (t, stdev) in enumerate(zip(x, noise, strict=True)):
            may_be = stdev == 0 or t.is_floating_point()
            name = f"stdevs[{i}]" if isinstance(stdevs, tuple) else "stdevs"
            check(may_be, name, "0 for inputs of {}, as noise is of fractions", stdev, t.dtype)
        seed = check_seed(seed)
        layers = self._layers(request, of_inputs)
        watched = Watched(request.model.forward_func, layers)
        which, positions = drawn(request.inputs.batch, len(background[0]), count, seed, x[0].device)
        at_inputs: Rows = InputRows(x, request.inputs.batch)
        if any(noise):
            at_inputs = NoisyRows(x, None, noise, count, seed)
        at_baselines = Picked(x, background, which[: len(background[0])])

        with torch.inference_mode(False):
            called, ends, at_ends = activations(request.model, watched, at_inputs, None, count)
            _, found, at_starts = activations(called, watched, at_baselines, None, 0)
            starts = list(found)
            for i, (end, start) in enumerate(zip(ends, starts, strict=True)):
                layer = watched.layer_of(i)
                layers.check_floating(layer, [end])
                if watched.has_rows(i) or len(watched.found[layer]) == 1:
                    layers.check_shape(layer, start.shape[1:], end.shape[1:])
                else:  # of another shape in a call of more rows; it had better make no difference
                    starts[i] = torch.zeros_like(end[:1])
            model = called.calling(Replaced(watched), (*x, *request.model.forward_args))
            rows = Between(tuple(starts), ends, positions)
            sums = torch.zeros(positions.shape, dtype=torch.float64, device=rows.device)
            add = _Products(rows, self._multiply_by_inputs, sums if with_sums else None)
            try:
                totals = engine.gradient_sum(model, rows, add)
            except engine.Unused as error:
                raise layers.unused(watched.layer_of(error.position)) from None
        values = tuple(total.div_(count) for total in totals)
        return _Sampled(values, watched, at_ends, at_starts, sums)


@dataclass(frozen=True)
class _Sampled:
    values: tuple[Tensor, ...]  # each [B, *S_i]
    watched: Watched
    at_ends: Tensor  # [1, B] or [N, B]: F(x̃)
    at_starts: Tensor  # [N', B]: F(b) of the first samples, which come again
    sums: Tensor  # [N, B]: of each sample's attributions

    def delta(self) -> Tensor:  # [B · N]
        """Σ attributions − (F(x̃) − F(b)) of every sample."""
        again = torch.arange(len(self.sums), device=self.sums.device) % len(self.at_starts)
        delta = self.sums - (self.at_ends - self.at_starts[again])
        return delta.T.flatten().to(self.values[0].dtype)


class _Products:
    """Adds up (ỹ − y') · gradient, or gradients alone; sums of each sample go to ``noted``."""

    def __init__(self, rows: Between, multiply: bool, noted: Tensor | None):  # [N, B]
        self.rows, self.multiply, self.noted = rows, multiply, noted

    def __call__(self, sums: list[Tensor], found: engine.Gradients) -> list[Tensor]:
        apart = self.rows.apart(found.repeats, found.examples)
        each = [
            difference.mul_(g) if self.multiply else g.to(difference.dtype)
            for difference, g in zip(apart, found.each, strict=True)
        ]
        if self.noted is not None:
            by_sample = [t.flatten(2).sum(2, dtype=self.noted.dtype) for t in each]
            self.noted[found.repeats, found.examples] = torch.stack(by_sample).sum(0)
        once = torch.ones(len(each[0]), dtype=torch.float64, device=each[0].device)
        return [
            ops.path_reduce(sums[i] if sums else None, terms, once) for i, terms in enumerate(each)
        ]
