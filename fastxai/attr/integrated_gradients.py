"""Integrated Gradients."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core import engine
from ..core.checks import Form, check_limit
from ..core.engine.inputs import Inputs, packed
from ..core.engine.request import Request
from ..core.engine.rows import PathRows
from ..core.estimate import quadrature
from ..core.program.program import (
    Answer,
    Program,
    TracedRequest,
    dtype_of_sums,
    gradient_sums,
    gradients_of,
)
from ._base import GradientAttribution, captum_compatible


class IntegratedGradients(GradientAttribution):
    """Integrated Gradients: the gradient averaged over the straight path from baseline to input.

    With F the chosen output, x the input and x' the baseline, feature i gets

        (x_i − x'_i) ∫₀¹ ∂F/∂x_i (x' + α (x − x')) dα,

    so that the attributions of a row add up to F(x) − F(x') as the integral is refined.
    Source: Sundararajan, Taly and Yan, "Axiomatic attribution for deep networks" (2017).

    Args:
        forward_func: a module or any callable that takes the inputs (then the extra arguments) and
            returns one tensor with the rows first.
        multiply_by_inputs: whether to multiply by x − x'. Without it, the mean gradient is
            returned: local sensitivities rather than contributions.
        affine_prefix: whether affine operations at the model's beginning may be done on two rows
            for each example rather than on all points of its path. The results are equal up to
            rounding.
        output: which of several outputs is explained, as for :class:`Attribution`.
    """

    _gives_one_number = _stacks_rows = True

    _row_by_row = False

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
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        n_steps: int = 50,
        method: str = "gausslegendre",
        internal_batch_size: int | None = None,
        return_convergence_delta: Literal[False] = False,
    ) -> Form: ...
    @overload
    def attribute(
        self,
        inputs: Form,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        n_steps: int = 50,
        method: str = "gausslegendre",
        internal_batch_size: int | None = None,
        *,
        return_convergence_delta: Literal[True],
    ) -> tuple[Form, Tensor]: ...
    @captum_compatible
    def attribute(
        self,
        inputs: Form,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        n_steps: int = 50,
        method: str = "gausslegendre",
        internal_batch_size: int | None = None,
        return_convergence_delta: bool = False,
    ) -> Form | tuple[Form, Tensor]:
        """Attributes the chosen output to the inputs.

        Args:
            inputs: a floating-point tensor [B, *F], or a tuple of tensors [B, *F_i].
            baselines: where the path starts: None for zeros, a number, a tensor of the input's
                shape or with one row; a tuple of those for a tuple of inputs.
            target: which output is explained. An int, or a tuple that indexes the dimensions after
                the batch, for all rows; a 1-D integer tensor or list of int, one a row; a list of
                tuples, one a row. None where the model returns one number a row.
            additional_forward_args: one extra argument of forward_func, or a tuple of them. Tensors
                whose first dimension is B are repeated along with the rows; others pass through.
            n_steps: number of points S on the path. Memory does not grow with it.
            method: how the integral is approximated: ``gausslegendre``, ``riemann_left``,
                ``riemann_right``, ``riemann_middle`` or ``riemann_trapezoid``.
            internal_batch_size: rows a model call at most; None to choose for speed.
            return_convergence_delta: whether to return the convergence delta as well.

        Returns:
            The attributions, in the form and shapes of the inputs: float64 for float64 inputs,
            otherwise float32, and without a graph. With ``return_convergence_delta`` a pair: the
            attributions, and Σ attributions − (F(x) − F(x')) of each row, [B].

        Raises:
            ArgumentError: an argument is not as above; the message names it.
            IndexError: the target is out of range.
            RuntimeError: the output does not depend on an input.
        """
        request = self._query(inputs, baselines, target, additional_forward_args)
        values = self._values(request, n_steps, method, internal_batch_size)
        result = packed(values, inputs)
        return (
            (result, self._convergence_delta(request, values))
            if return_convergence_delta
            else result
        )

    def _values(
        self, request: Request, n_steps: int, method: str, internal_batch_size: int | None
    ) -> tuple[Tensor, ...]:
        x, baselines = request.inputs.tensors, request.baselines
        alphas, weights = quadrature.rule(method, n_steps, x[0].device)
        limit = check_limit(internal_batch_size, argument="internal_batch_size")
        path = PathRows(x, baselines, alphas)
        mean = engine.gradient_sum(request.model, path, weights, limit)
        if not self._multiply_by_inputs:
            return mean
        return tuple(
            g.mul_(a.to(g.dtype) - b.to(g.dtype))
            for g, a, b in zip(mean, x, baselines, strict=True)
        )

    def has_convergence_delta(self) -> bool:
        return True

    @property
    def multiplies_by_inputs(self) -> bool:
        return self._multiply_by_inputs

    def _program(self, inputs: Inputs, n_steps: int, method: str) -> Program:
        alphas, weights = quadrature.rule(method, n_steps, inputs.tensors[0].device)
        return partial(
            integrated_gradients,
            alphas=alphas,
            weights=weights,
            multiply_by_inputs=self.multiplies_by_inputs,
        )


def integrated_gradients(
    request: TracedRequest,
    alphas: Tensor,  # [S] float64
    weights: Tensor,  # [S] float64
    multiply_by_inputs: bool,
) -> Answer:
    """(x − x') ∘ Σ_s w_s ∂F/∂x (x' + α_s (x − x')), and how far its sum is from F(x) − F(x')."""
    batch, last = request.batch, -2 * request.batch  # rows: the path's points, then x, then x'
    ends = list(zip(request.inputs, request.baselines, strict=True))
    at_inputs = slice(last, -batch)
    if request.prefix:
        along = torch.cat([alphas, alphas.new_tensor([1, 0])])
        every, chosen, means = gradient_sums(request, along, F.pad(weights, (0, 2)), at_inputs)
    else:
        rows = [torch.cat([_path(x, b, alphas), x, b.expand_as(x)]) for x, b in ends]
        every, chosen, gradients = gradients_of(request, rows, at_inputs)
        wide = (g[:last].to(dtype_of_sums(g)).unflatten(0, (-1, batch)) for g in gradients)
        means = tuple(torch.tensordot(weights.to(g.dtype), g, 1) for g in wide)
    if multiply_by_inputs:
        found = tuple(
            mean * (x.to(mean.dtype) - b.to(mean.dtype))
            for mean, (x, b) in zip(means, ends, strict=True)
        )
    else:
        found = means
    at_input, at_baseline = chosen[last:].reshape(2, batch).to(found[0].dtype).unbind()
    total = torch.stack([v.reshape(batch, -1).sum(1) for v in found]).sum(0)
    return Answer(every[at_inputs], found, total - (at_input - at_baseline))


def _path(x: Tensor, baseline: Tensor, alphas: Tensor) -> Tensor:  # [S * B, *F]
    wide = dtype_of_sums(x)
    start, end = baseline.to(wide), x.to(wide)
    steps = alphas.to(wide).reshape(-1, *[1] * x.dim())
    return (start + steps * (end - start)).to(x.dtype).flatten(0, 1)
