"""GradientSHAP, also known as expected gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, overload

import torch
from torch import Tensor

from ..core import engine
from ..core.checks import Form, TensorOrTuple, check_count, check_seed
from ..core.engine.inputs import Inputs, baselines_of, check_background, check_stdevs, packed
from ..core.engine.noisy_rows import NoisyRows
from ..core.engine.outputs import one_output_per_row
from ..core.engine.request import Request
from ..core.engine.targets import Target
from ..core.program.program import (
    Answer,
    Program,
    TracedRequest,
    check_library,
    check_rows_built_in,
    dtype_of_sums,
    gradients_of,
)
from ._base import GradientAttribution, captum_compatible, warn_unless_finite
from ._explanation import Result


class GradientShap(GradientAttribution):
    """GradientSHAP: Integrated Gradients averaged over many baselines, one random point of each.

    With F the chosen output, x the input, b a baseline drawn from a distribution, ε standard
    normal noise, x̃ = x + σ ε and α uniform between 0 and 1, feature i gets the mean over samples of

        (x̃_i − b_i) ∂F/∂x_i (b + α (x̃ − b)).

    With many samples and σ = 0 this is "expected gradients": it converges to the mean of
    :class:`IntegratedGradients` over the baselines.

    Samples are spread evenly. For each example the baselines come in turn, in a random order of its
    own; the positions α are stratified over all samples, and over those of each baseline. Every
    single sample is distributed as above, so that the mean has no bias; its error is less than that
    of independent samples. The tensors of a tuple of inputs have the number of their baseline row
    and α in common.
    Sources: Lundberg and Lee, "A unified approach to interpreting model predictions" (2017); Erion
    et al., "Improving performance of deep learning models with axiomatic attribution priors and
    expected gradients" (2021).

    Args:
        forward_func: a module or any callable that takes the inputs (then the extra arguments) and
            returns one tensor with the rows first.
        multiply_by_inputs: whether to multiply by x̃ − b. Without it, the mean gradient is
            returned: local sensitivities rather than contributions.
        output: which of several outputs is explained, as for :class:`Attribution`.
    """

    _gives_one_number = _stacks_rows = _draws_per_call = _chooses_delta = True

    _draws_baselines = True

    def __init__(
        self,
        forward_func: Callable[..., Any],
        multiply_by_inputs: bool = True,
        *,
        affine_prefix: bool = True,
        output: str | int | None = None,
    ):
        super().__init__(forward_func, affine_prefix=affine_prefix, output=output)
        self._multiply_by_inputs = multiply_by_inputs

    @overload
    def attribute(
        self,
        inputs: Form,
        baselines: Any,
        n_samples: int = 5,
        stdevs: float | tuple[float, ...] = 0.0,
        target: Any = None,
        additional_forward_args: Any = None,
        return_convergence_delta: Literal[False] = False,
        *,
        seed: int | None = None,
    ) -> Form: ...
    @overload
    def attribute(
        self,
        inputs: Form,
        baselines: Any,
        n_samples: int = 5,
        stdevs: float | tuple[float, ...] = 0.0,
        target: Any = None,
        additional_forward_args: Any = None,
        *,
        return_convergence_delta: Literal[True],
        seed: int | None = None,
    ) -> tuple[Form, Tensor]: ...
    @captum_compatible
    def attribute(
        self,
        inputs: Form,
        baselines: Any,
        n_samples: int = 5,
        stdevs: float | tuple[float, ...] = 0.0,
        target: Any = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        *,
        seed: int | None = None,
    ) -> Form | tuple[Form, Tensor]:
        """Attributes the chosen output to the inputs.

        Args:
            inputs: a floating-point tensor [B, *F], or a tuple of tensors [B, *F_i].
            baselines: the distribution of baselines: K rows [K, *F], a tuple of as many rows
                [K, *F_i] for each input, or a function of the inputs, or of nothing, that returns
                such.
            n_samples: how many samples N of each example. Memory does not grow with it.
            stdevs: standard deviation σ of the noise, one for all inputs or a tuple with one each.
            target: which output is explained, as for :class:`IntegratedGradients`.
            additional_forward_args: extra arguments, as for :class:`IntegratedGradients`.
            return_convergence_delta: whether to return the convergence delta as well.
            seed: the same seed gives the same samples to the example in the same place of the
                batch; None draws one from torch's generator.

        Returns:
            The attributions, in the form and shapes of the inputs: float64 for float64 inputs,
            otherwise float32, and without a graph. With ``return_convergence_delta`` a pair: the
            attributions, and for every sample how far its own are from adding up to
            F(x̃) − F(b), [B · N], those of an example together.

        Raises:
            ArgumentError: an argument is not as above; the message names it.
            IndexError: the target is out of range.
            RuntimeError: the output does not depend on an input.
        """
        request = self._query(inputs, baselines, target, additional_forward_args)
        rows = _rows(request, n_samples, stdevs, seed)
        if not return_convergence_delta:
            return packed(self._mean(request, rows), inputs)
        with torch.inference_mode(False):  # the engine writes to it outside of that
            sums = torch.zeros(rows.repeats, rows.batch, dtype=torch.float64, device=rows.device)
        values = self._mean(request, rows, noted=sums)
        ends, starts = _outputs(request, rows.ends()), _outputs(request, rows.starts())
        starts = starts[torch.arange(rows.repeats, device=rows.device) % len(starts)]  # [N, B]
        delta = (sums - (ends - starts)).T.flatten().to(values[0].dtype)
        return packed(values, inputs), delta

    def _query(
        self,
        inputs: TensorOrTuple,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        **named: Any,
    ) -> Request:
        request = super()._query(inputs, None, target, additional_forward_args, **named)
        background = check_background(baselines_of(baselines, inputs), request.inputs, "baselines")
        return replace(request, background=background)

    def _find(self, request: Request, detailed: bool, *options: Any, **named: Any) -> Result:
        rows = _rows(request, *options, **named)
        values = self._mean(request, rows)
        return Result(
            values, baseline_outputs=_outputs(request, rows.starts()).mean(0) if detailed else None
        )

    def _mean(
        self, request: Request, rows: NoisyRows, noted: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """The mean over samples; ``noted`` [N, B] takes what those of each sample add up to."""
        one_each = torch.ones(rows.repeats, dtype=torch.float64, device=rows.device)
        add = _Products(one_each, rows) if self._multiply_by_inputs else engine.Weighted(one_each)

        def note_and_add(sums: list[Tensor], found: engine.Gradients) -> list[Tensor]:
            assert noted is not None
            block = found.repeats, found.examples
            if self._multiply_by_inputs:
                noted[block] = rows.products(found.each, *block)
            else:
                each = [g.flatten(2).sum(2, dtype=noted.dtype) for g in found.each]
                noted[block] = torch.stack(each).sum(0)
            return add(sums, found)

        totals = engine.gradient_sum(request.model, rows, add if noted is None else note_and_add)
        return tuple(total.div_(rows.repeats) for total in totals)

    def _of_each_output(
        self, request: Request, rows: NoisyRows, targets: Sequence[Any]
    ) -> list[tuple[Tensor, ...]]:
        """The means for several outputs; the model passes forward once for all of them."""
        one_each = torch.ones(rows.repeats, dtype=torch.float64, device=rows.device)
        chosen = [Target(target, rows.batch) for target in targets]
        sums = engine.gradient_sums(request.model, rows, _Products(one_each, rows), chosen)
        each = [tuple([total.div_(rows.repeats) for total in totals]) for totals in sums]
        for means in each:
            warn_unless_finite(self, means)
        return each

    def _means_and_variances(
        self, request: Request, rows: NoisyRows, targets: Sequence[Any]
    ) -> list[tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]:
        """For each output the mean over samples of (x̃ − b) · gradient, and that mean's variance."""
        count, n = len(rows.inputs), rows.repeats

        def add(sums: list[Tensor], found: engine.Gradients) -> list[Tensor]:
            block = found.repeats, found.examples
            ends, starts = rows.ends().block(*block), rows.starts().block(*block)
            triples = zip(found.each, ends, starts, strict=True)
            products = [(a - b).reshape(g.shape).double() * g for g, a, b in triples]
            new = [p.sum(0) for p in products] + [p.square().sum(0) for p in products]
            return [one + other for one, other in zip(sums, new, strict=True)] if sums else new

        chosen = [Target(target, rows.batch) for target in targets]
        found = []
        for totals in engine.gradient_sums(request.model, rows, add, chosen):
            means = tuple(total / n for total in totals[:count])
            squares = (total / n for total in totals[count:])
            spread = (s - m.square() for s, m in zip(squares, means, strict=True))
            found.append((means, tuple(s.clamp(min=0) / max(1, n - 1) for s in spread)))
        return found

    def has_convergence_delta(self) -> bool:
        return True

    @property
    def multiplies_by_inputs(self) -> bool:
        return self._multiply_by_inputs

    def _program(
        self,
        inputs: Inputs,
        background: Any,
        n_samples: int,
        stdevs: Any,
        return_convergence_delta: bool,
        seed: int | None = None,
    ) -> Program:
        check_library("which draws the samples")
        return partial(
            gradient_shap,
            background=check_rows_built_in(background, inputs),
            stdevs=check_stdevs(stdevs, inputs),
            samples=check_count(n_samples, "n_samples"),
            multiply_by_inputs=self.multiplies_by_inputs,
            convergence_delta=return_convergence_delta,
        )


@dataclass(frozen=True)
class _Products(engine.Weighted):
    """Adds up (x̃ − b) · gradient."""

    rows: NoisyRows

    def __call__(self, sums: list[Tensor], found: engine.Gradients) -> list[Tensor]:
        return self.rows.add_products(sums, found.each, found.repeats, found.examples)

    def gather(self, deltas: Tensor, gradients: Tensor) -> Tensor:  # both [K, b, *F]
        return -(deltas * gradients).sum(0)  # a delta is b − x


def _rows(request: Request, n_samples: int, stdevs: Any, seed: int | None) -> NoisyRows:
    return NoisyRows(
        request.inputs.tensors,
        request.background,
        check_stdevs(stdevs, request.inputs),
        check_count(n_samples, "n_samples"),
        check_seed(seed),
    )


def of_each_output(
    model: Callable[..., Any],
    inputs: tuple[Tensor, ...],  # each [B, *F_i]
    baselines: tuple[Tensor, ...],  # each [K, *F_i]
    targets: Sequence[Any],
    n_samples: int,
    stdevs: Any,
    seed: int,
) -> list[tuple[Tensor, ...]]:  # each [B, *F_i]
    """What :class:`GradientShap` attributes to inputs for each target, by the same samples."""
    method = GradientShap(model)
    request = method._query(inputs, baselines)
    return method._of_each_output(request, _rows(request, n_samples, stdevs, seed), targets)


def means_and_variances(
    model: Callable[..., Any],
    inputs: tuple[Tensor, ...],  # each [B, *F_i]
    baselines: tuple[Tensor, ...],  # each [K, *F_i]
    targets: Sequence[Any],
    n_samples: int,
    stdevs: Any,
    seed: int,
) -> list[tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]:  # each [B, *F_i]
    """The same, each with its variance as if samples were independent."""
    method = GradientShap(model)
    request = method._query(inputs, baselines)
    return method._means_and_variances(request, _rows(request, n_samples, stdevs, seed), targets)


def _outputs(request: Request, rows: NoisyRows) -> Tensor:
    """The explained output at each row, [R, B]."""
    outputs = engine.values(request.model, rows)
    return one_output_per_row(outputs.flatten(0, 1)).reshape(rows.repeats, rows.batch)


def gradient_shap(
    request: TracedRequest,
    background: tuple[Tensor, ...],  # each [K, *F_i]
    stdevs: tuple[float, ...],
    samples: int,
    multiply_by_inputs: bool,
    convergence_delta: bool,
) -> Answer:
    """The mean over samples of (x̃ − b) ∘ ∂F/∂x (b + α (x̃ − b))."""
    batch = request.batch
    noisy = request.noisy(background, stdevs, samples)
    block = slice(0, samples), slice(0, batch)
    rows = [torch.cat(pair) for pair in zip(noisy.block(*block), request.inputs, strict=True)]
    outputs, _, gradients = gradients_of(request, rows, slice(-batch, None))
    each = [g[:-batch].unflatten(0, (samples, batch)) for g in gradients]
    sums = (
        noisy.add_products([], each, *block)
        if multiply_by_inputs
        else [g.sum(0, dtype=dtype_of_sums(g)) for g in each]
    )
    outputs = outputs[-batch:]
    found = tuple(total / samples for total in sums)
    if not convergence_delta:
        return Answer(outputs, found)
    if multiply_by_inputs:
        totals = noisy.products(each, *block)  # [N, B]
    else:
        totals = torch.stack([g.flatten(2).sum(2, dtype=torch.float64) for g in each]).sum(0)
    pairs = zip(noisy.ends().block(*block), noisy.starts().block(*block), strict=True)
    ends = request.choice(outputs)(request.outputs(*map(torch.cat, pairs)))
    at_end, at_start = ends.reshape(2, samples, batch).unbind()
    delta = (totals - (at_end - at_start)).T.flatten().to(found[0].dtype)
    return Answer(outputs, found, delta)
