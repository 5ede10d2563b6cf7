"""Regressions around a point, with standard errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ..coalition_bits import unpack
from ..spans import length
from .linear_fits import LinearFit, NormalEquations, check_weights

_BLOCK = 1 << 21  # numbers in a temporary: 16 MiB


class LocalRegression:
    """Linear fits to a model's outputs for N coalitions, which P problems weigh each in its way.

    The outputs are added up block by block and not kept. Weights are made when they are needed.
    """

    def __init__(
        self,
        bits: Tensor,  # [N, W] int64; rows 2p and 2p + 1 are complements
        players: int,
        weigh: Callable[[Tensor, slice], Tensor],  # [n, M] float64 and problems p -> [n, p]
        start: Tensor,  # [P, C] float64: about how large the values are
        rows: Tensor | None = None,  # [P] int64: of the user's inputs, which they are
    ):
        self._bits, self._players, self._weigh = bits, players, weigh
        self._inputs = rows
        # Values are taken relative to it: what is common to all of them cannot drown the rest.
        self._start = start.nan_to_num(0, 0, 0)
        self._sum = torch.zeros_like(start)  # Σ w y, [P, C]
        self._moment = start.new_zeros(*start.shape, players)  # Σ w y x, [P, C, M]
        self._waiting: list[Tensor] = []  # values, each [n, p, C]
        self._rows, self._problems = slice(0, 0), slice(0, 0)  # of those

    def add(self, values: Tensor, rows: slice, problems: slice) -> None:
        """Takes the values [n, p, C] of these coalitions for these problems.

        Should memory run out, nothing has been taken.
        """
        values = values.to(self._start) - self._start[problems]
        count = self._rows.stop - self._rows.start
        follows = problems == self._problems and rows.start == self._rows.stop
        if not follows or count * self._width(values) >= _BLOCK:
            self._add_up()
        if not self._waiting:
            self._rows, self._problems = slice(rows.start, rows.start), problems
        self._waiting.append(values)
        self._rows = slice(self._rows.start, rows.stop)

    def solve(self, fit: LinearFit) -> Tensor:
        """The coefficients for the values added, [P, M, C]."""
        self._add_up()
        found = self._moment.new_empty(self._moment.mT.shape)
        for problems in self._a_few_problems():
            found[problems] = fit.solve(self._equations(problems)[0])
        return found

    def standard_errors(self, fit: LinearFit, coefficients: Tensor, values: Tensor) -> Tensor:
        """How far the coefficients may be off for the draw of the coalitions, [P, M, C].

        The sandwich estimate with each pair of complements as one observation, and residuals as
        they would be without that pair (the pairs' HC3). For a ridge it is about the penalised
        coefficients; for a lasso it takes the set of coefficients that are zero for given, and is
        zero there. NaN where a pair alone decides a coefficient.

        Source: MacKinnon and White, "Some heteroskedasticity-consistent covariance matrix
        estimators with improved finite sample properties" (1985); Bell and McCaffrey, "Bias
        reduction in standard errors for linear regression with multi-stage samples" (2002).

        Args:
            fit: the fit.
            coefficients: what it found, [P, M, C].
            values: the values of all coalitions, [N, P, C].
        """
        self._add_up()
        found = torch.empty_like(coefficients)
        for problems in self._a_few_problems():
            normal, mean = self._equations(problems)
            level = self._start[problems] + self._sum[problems] / normal.total[:, None]  # [p, C]
            for c in range(coefficients.shape[2]):
                b = coefficients[problems, :, c]
                found[problems, :, c] = self._variance(
                    problems,
                    normal,
                    mean=mean,
                    sensitivity=fit.sensitivity(normal, b),
                    coefficients=b,
                    values=values[:, problems, c].to(torch.float64) - level[:, c],
                ).sqrt()
        return found

    def weights(self, problems: slice) -> Tensor:
        """What these problems weigh the coalitions, [N, p]."""
        width = max(self._players, length(problems))
        return torch.cat([self._weigh(z, problems) for _, z in self._coalitions(width)])

    def _variance(
        self,
        problems: slice,
        normal: NormalEquations,
        mean: Tensor,  # [p, M]
        sensitivity: Tensor,  # [p, M, M]
        coefficients: Tensor,  # [p, M]
        values: Tensor,  # [N, p], less their weighted mean
    ) -> Tensor:  # [p, M]
        variance = torch.zeros_like(mean)
        for rows, z in self._coalitions(mean.numel()):
            w, y = self._weigh(z, problems).T, values[rows].T  # [p, n]
            x = (z - 0.5) - mean[:, None]  # [p, n, M]
            residual = y - (x @ coefficients[..., None])[..., 0]
            variance += pair_variance(x, w, normal.total, residual, sensitivity)
        return variance

    def _equations(self, problems: slice) -> tuple[NormalEquations, Tensor]:
        """The normal equations of these problems, and the means of their rows, [p, M]."""
        total, first, gram = self._row_sums(problems)
        check_weights(total, problems.start, self._inputs)
        mean = first / total[:, None]
        gram -= first[:, :, None] * mean[:, None, :]
        rhs = self._moment[problems] - self._sum[problems][..., None] * mean[:, None, :]
        return NormalEquations(total, gram, rhs.mT), mean

    def _row_sums(self, problems: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Σ w [p], Σ w x [p, M] and Σ w x xᵀ [p, M, M] over all rows, of x = z − ½."""
        m, count = self._players, length(problems)
        total, first = self._start.new_zeros(count), self._start.new_zeros(count, m)
        # The products x xᵀ are made once for all problems, or weighed problem by problem.
        products = m * (m + 1) // 2
        shared = count * m > products
        gram = total.new_zeros((count, products) if shared else (count, m, m))
        i, j = torch.triu_indices(m, m, device=total.device) if shared else (None, None)
        for _, z in self._coalitions(max(count, min(count * m, products))):
            w = self._weigh(z, problems)
            total += w.sum(0)
            # A coalition's complement is −x: their products are the same.
            x = z[::2] - 0.5
            pairs = w[::2].clone()
            pairs[: len(w) // 2] -= w[1::2]
            first += pairs.T @ x
            pairs[: len(w) // 2] += 2 * w[1::2]
            if shared:
                gram += pairs.T @ (x[:, i] * x[:, j])
            else:
                gram += (x.T * pairs.T[:, None]) @ x
        if shared:
            full = total.new_empty(count, m, m)
            full[:, i, j] = full[:, j, i] = gram
            gram = full
        return total, first, gram

    def _add_up(self) -> None:
        """Counts the values that wait."""
        if not self._waiting:
            return
        values = torch.cat(self._waiting)  # [n, p, C]
        total = torch.zeros_like(values[0])
        moment = total.new_zeros(total.numel(), self._players)
        for rows, z in self._coalitions(self._width(values), self._rows):
            w = self._weigh(z, self._problems)
            y = w[..., None] * values[rows.start - self._rows.start : rows.stop - self._rows.start]
            total = total + y.sum(0)
            moment = moment + y.flatten(1).T @ (z - 0.5)
        # From here on nothing takes memory.
        self._sum[self._problems] += total
        self._moment[self._problems] += moment.view(*total.shape, -1)
        self._waiting.clear()

    def _width(self, values: Tensor) -> int:
        """Numbers in the largest matrix with a row for each of the coalitions [n, p, C]."""
        return max(values[0].numel(), self._players)

    def _coalitions(self, width: int, rows: slice | None = None) -> Iterator[tuple[slice, Tensor]]:
        """The coalitions [n, M] float64 in blocks of whole pairs, if the rows begin with one."""
        first, last = (rows.start, rows.stop) if rows else (0, self._bits.shape[0])
        step = 2 * max(1, _BLOCK // max(1, width) // 2)
        for at in range(first, last, step):
            part = slice(at, min(at + step, last))
            z = unpack(self._bits[part], self._players)
            yield part, z.to(self._start.device, torch.float64)

    def _a_few_problems(self) -> Iterator[slice]:
        """All of them, in parts whose Gram matrices fit in memory."""
        count = self._start.shape[0]
        step = max(1, 4 * _BLOCK // self._players**2)
        return (slice(at, min(at + step, count)) for at in range(0, count, step))


def pair_variance(
    x: Tensor,  # [P, N, M] float64
    weights: Tensor,  # [P, N]
    total: Tensor,  # [P]
    residual: Tensor,  # [P, N]
    sensitivity: Tensor,  # [P, M, M]
) -> Tensor:  # [P, M]
    """What these rows add to the variance of the coefficients, each pair one observation.

    Args:
        x: rows less the weighted mean of all, 2i and 2i + 1 a pair. A last one without its
            complement is a pair with a row that weighs nothing.
        weights: of the rows.
        total: the weight of all rows.
        residual: what the fit leaves of each row's value.
        sensitivity: how the coefficients move with the right-hand side.
    """
    if x.shape[1] % 2:
        x = torch.cat([x, x[:, -1:]], 1)
        weights, residual = (torch.nn.functional.pad(v, (0, 1)) for v in (weights, residual))
    root = weights.sqrt()
    residual = root * residual
    influence = root[..., None] * (x @ sensitivity)  # of a residual on the coefficients
    x = root[..., None] * x
    constant = root.square() / total[:, None]
    free = 1 - constant - (influence * x).sum(-1)  # 1 − leverage
    first, second = slice(0, None, 2), slice(1, None, 2)
    shared = root[:, first] * root[:, second] / total[:, None]
    shared = shared + (influence[:, first] * x[:, second]).sum(-1)
    determinant = free[:, first] * free[:, second] - shared.square()
    determinant = determinant.where(determinant > 1e-9, torch.nan)
    # (1 − leverages of the pair)⁻¹ residuals of the pair
    without = (
        free[:, second] * residual[:, first] + shared * residual[:, second],
        free[:, first] * residual[:, second] + shared * residual[:, first],
    )
    moved = influence[:, first] * (without[0] / determinant)[..., None]
    moved = moved + influence[:, second] * (without[1] / determinant)[..., None]
    return moved.square().sum(1)
