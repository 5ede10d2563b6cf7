"""KernelShap as operations on tensors, for packages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import ops
from ..core.estimate import designs
from ..core.estimate.shapley_regression import ShapleyRegression
from ..core.program.program import (
    Answer,
    Replaced,
    Spread,
    TracedRequest,
    by_output,
    magnitude_of,
    values_of,
)

# From outputs for the empty coalition, those of a design, and the full one, [N + 2, K] float64, to
# values and standard errors [M, K]; errors that are not wanted are empty.
Fit = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Regression:
    """The weighted least squares over a design: linear in the outputs, and so one product."""

    solution: Tensor  # [M, N + 2] float64: what each coalition's output counts for each group
    pairs: tuple[Tensor, Tensor] | None  # of ShapleyRegression: z [P, M]; squared influence [M, P]

    def __call__(self, columns: Tensor) -> tuple[Tensor, Tensor]:
        phi = self.solution @ columns
        if self.pairs is None:
            return phi, phi[:0]
        present, squares = self.pairs
        gain, designed = columns[-1] - columns[0], columns[1:-1]
        residual = (designed[::2] - designed[1::2] + gain) / 2 - present @ phi
        return phi, (squares @ residual.square()).sqrt()


def kernel_shap(
    request: TracedRequest,
    rows: Replaced,  # by the features of players that are not in a coalition
    fit: Fit,
    background: tuple[Tensor, ...] | None,  # each [K, *F_i], in place of the baselines
    spread: Spread,
) -> Answer:
    """Shapley values, fitted to the outputs for a design."""
    outputs, values = values_of(request, rows, background)
    phi, errors = fit(values.to(torch.float64).flatten(1))  # [M, B * C]
    chosen = request.choice(outputs)(outputs)  # [B, *C]

    def arrange(found: Tensor) -> tuple[Tensor, ...]:  # [M, B * C]
        found = found.reshape(-1, values.shape[1], values.shape[2:].numel())
        return spread(by_output(found.movedim(0, -1), chosen))

    return Answer(
        outputs,
        arrange(phi),
        standard_errors=arrange(errors) if errors.shape[0] else None,
        magnitude=magnitude_of(values),
    )


def solution_of(plan: designs.Design, fit: ShapleyRegression) -> Tensor:  # [M, N + 2] float64
    """What each output counts for each value: the regression of unit vectors.

    The outputs are of the empty coalition, the design's, and the full one.
    """
    each = torch.eye(plan.bits.shape[0], dtype=torch.float64)
    moments = ops.coalition_rhs(plan.bits, plan.players, plan.weights, each)
    difference = torch.zeros(each.shape[0] + 2, dtype=torch.float64)
    difference[0], difference[-1] = -1, 1
    return fit.solve(torch.nn.functional.pad(moments, (1, 1)), difference)


def pairs_of(fit: ShapleyRegression, device: torch.device) -> tuple[Tensor, Tensor]:
    z, influence = fit.pairs()
    return z.to(device), influence.square().T.contiguous().to(device)
