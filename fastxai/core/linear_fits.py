"""Linear fits to what a model says of coalitions that every example weighs in its own way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import ops
from .designs import unpack
from .inputs import ArgumentError, check_number
from .rows import length

# Of a Gram matrix: eigenvalues this much smaller than the largest count as zero.
_SINGULAR = 1e-12
_BLOCK = 1 << 21  # numbers in a temporary: 16 MiB
_SMALL = 128  # players, so few that all of them may be solved for at once
_WIDE = 4096  # players, of whose Gram matrix (128 MiB) a problem with few rows can do without


@dataclass(frozen=True, eq=False)
class NormalEquations:
    """What weighted rows x [M] with values y [C] say about a linear fit with an intercept.

    Sums over the rows of P problems, x̄ the weighted mean of x.
    """

    total: Tensor  # [P] float64: Σ w
    gram: Tensor  # [P, M, M]: Σ w (x − x̄)(x − x̄)ᵀ
    rhs: Tensor  # [P, M, C]: Σ w (x − x̄) y


class LinearFit:
    """How the coefficients b of a linear model with an intercept c follow from weighted rows."""

    def solve(self, normal: NormalEquations) -> Tensor:
        """The coefficients, [P, M, C]; NaN where the equations are not finite."""
        raise NotImplementedError

    def sensitivity(self, normal: NormalEquations, coefficients: Tensor) -> Tensor:
        """How the coefficients [P, M] of one output move with its rhs, [P, M, M]."""
        raise NotImplementedError

    def solve_wide(self, rows: WideRows) -> Tensor:
        """The coefficients, [M, C], without a matrix of M × M numbers."""
        raise NotImplementedError


@dataclass(frozen=True)
class LeastSquares(LinearFit):
    """Minimises Σ w (y − x b − c)²; of several minima, the one with the least |b|₂."""

    def solve(self, normal: NormalEquations) -> Tensor:
        return _least_norm(normal.gram, normal.rhs)

    def sensitivity(self, normal: NormalEquations, coefficients: Tensor) -> Tensor:
        return _inverse(normal.gram)

    def solve_wide(self, rows: WideRows) -> Tensor:
        return rows.pull(_least_norm(rows.kernel()[None], rows.values[None])[0])


@dataclass(frozen=True)
class Ridge(LinearFit):
    """Minimises Σ w (y − x b − c)² + α |b|₂², as scikit-learn's ``Ridge``.

    Args:
        alpha: the penalty α, at least 0.
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "alpha", _penalty(self.alpha))

    def solve(self, normal: NormalEquations) -> Tensor:
        return _least_norm(self.penalised(normal.gram), normal.rhs)

    def sensitivity(self, normal: NormalEquations, coefficients: Tensor) -> Tensor:
        return _inverse(self.penalised(normal.gram))

    def solve_wide(self, rows: WideRows) -> Tensor:
        kernel = rows.kernel()
        kernel.diagonal().add_(self.alpha / rows.total)
        return rows.pull(_least_norm(kernel[None], rows.values[None])[0])

    def penalised(self, gram: Tensor) -> Tensor:
        return gram + self.alpha * _identity(gram)


@dataclass(frozen=True)
class Lasso(LinearFit):
    """Minimises Σ w (y − x b − c)² / (2 Σ w) + α |b|₁, as scikit-learn's ``Lasso``.

    Source: Tibshirani, "Regression shrinkage and selection via the lasso" (1996).

    Args:
        alpha: the penalty α, at least 0.
    """

    alpha: float = 0.01

    def __post_init__(self) -> None:
        object.__setattr__(self, "alpha", _penalty(self.alpha))

    def solve(self, normal: NormalEquations) -> Tensor:
        if self.alpha == 0:
            return LeastSquares().solve(normal)
        gram = normal.gram / normal.total[:, None, None]
        rhs = normal.rhs / normal.total[:, None, None]
        broken = ~_is_finite(gram)[:, None, None] | ~rhs.isfinite().all(1, keepdim=True)
        if not broken.any():
            return _lasso(gram, rhs, self.alpha)
        gram, rhs = gram.nan_to_num(0, 0, 0), rhs.masked_fill(broken, 0)
        return _lasso(gram, rhs, self.alpha).masked_fill_(broken, torch.nan)

    def sensitivity(self, normal: NormalEquations, coefficients: Tensor) -> Tensor:
        # With the signs as they are the penalty is linear: what is not zero moves as least squares.
        return self.among_active(normal.gram, coefficients, _inverse)

    def among_active(
        self,
        gram: Tensor,  # [P, M, M]
        coefficients: Tensor,  # [P, M]
        inverse: Callable[[Tensor], Tensor],
    ) -> Tensor:  # [P, M, M]
        """The inverse for the coefficients that are not zero, zero elsewhere."""
        active = (coefficients != 0) | (self.alpha == 0)
        both = active[:, :, None] & active[:, None, :]
        return inverse(gram.where(both, _identity(gram))).where(both, 0)

    def solve_wide(self, rows: WideRows) -> Tensor:
        if self.alpha == 0:
            return LeastSquares().solve_wide(rows)
        found = [self._solve_wide(rows, y) for y in rows.values.unbind(1)]
        return torch.stack(found, 1)

    def _solve_wide(self, rows: WideRows, y: Tensor) -> Tensor:  # [N] -> [M]
        def among(chosen: Tensor) -> tuple[Tensor, Tensor]:
            x = rows.columns(chosen)
            return x.T @ x, x.T @ y

        def slope(chosen: Tensor, b: Tensor) -> Tensor:
            return rows.pull((y - rows.columns(chosen) @ b)[:, None])[:, 0]

        start = y.new_zeros(rows.players)
        broken = not (rows.total.isfinite() and y.isfinite().all())
        return start + torch.nan if broken else _lasso_by_parts(among, slope, start, self.alpha)


class WideRows:
    """Weighted rows of one problem with far more columns M than rows N, centred and scaled.

    With p = w / Σ w, the rows are √p (x − x̄) and the values √p (y − ȳ). The first are not kept:
    columns are made when they are needed.
    """

    def __init__(self, x: Tensor, weights: Tensor, y: Tensor):  # [N, M], [N], [N, C]
        self._x, self.players = x, x.shape[1]
        self.total = weights.sum()
        share = weights / self.total
        self._root = share.sqrt()[:, None]
        self._mean = torch.cat([part.T @ share for part in self._parts()])  # [M]
        self.values = self._root * (y - share @ y)  # [N, C]

    def columns(self, which: Tensor) -> Tensor:  # [k] -> [N, k]
        return self._root * (self._x[:, which].to(torch.float64) - self._mean[which])

    def pull(self, values: Tensor) -> Tensor:  # [N, C] -> [M, C]
        """The product of the transposed rows and scaled values."""
        scaled = self._root * values
        products = torch.cat([part.T @ scaled for part in self._parts()])
        return products - self._mean[:, None] * scaled.sum(0)

    def kernel(self) -> Tensor:  # [N, N]
        """The product of the rows and their transpose."""
        means = self._mean.split(self._at_once())
        parts = (
            self._root * (part - mean) for part, mean in zip(self._parts(), means, strict=True)
        )
        return sum((part @ part.T for part in parts), torch.zeros_like(self._root @ self._root.T))

    def _parts(self) -> Iterator[Tensor]:
        return (part.to(torch.float64) for part in self._x.split(self._at_once(), 1))

    def _at_once(self) -> int:
        return max(1, _BLOCK // max(1, self._x.shape[0]))


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
                    mean,
                    fit.sensitivity(normal, b),
                    b,
                    values[:, problems, c].to(torch.float64) - level[:, c],
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
        _check_weights(total, problems.start, self._inputs)
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


def fit_rows(
    fit: LinearFit,
    x: Tensor,  # [N, M]
    weights: Tensor,  # [N] float64
    y: Tensor,  # [N, C] float64
) -> Tensor:  # [M, C] float64
    """The coefficients for one problem whose rows are all there."""
    total = weights.sum()
    _check_weights(total[None])
    if is_wide(*x.shape):
        return fit.solve_wide(WideRows(x, weights, y))
    x = x.to(torch.float64)
    x = x - weights @ x / total
    y = y - weights @ y / total
    weighted = weights[:, None] * x
    gram, rhs = weighted.T @ x, weighted.T @ y
    return fit.solve(NormalEquations(total[None], gram[None], rhs[None]))[0]


def is_wide(rows: int, players: int) -> bool:
    """Whether M × M numbers are many, and more than N × M."""
    return players > _WIDE and rows < players


def _least_norm(gram: Tensor, rhs: Tensor) -> Tensor:  # [P, M, M], [P, M, C] -> [P, M, C]
    """Solves gram b = rhs; of several solutions, the one with the least |b|₂."""
    sound = _is_finite(gram)
    if not sound.all():
        gram = gram.where(sound[:, None, None], _identity(gram))
    factor, failed = torch.linalg.cholesky_ex(gram)
    pivots = factor.diagonal(dim1=1, dim2=2).square()
    regular = (failed == 0) & (pivots.amin(1) > _SINGULAR * pivots.amax(1))
    found = torch.cholesky_solve(rhs, factor)
    if not regular.all():
        rest = ~regular
        inverse = torch.linalg.pinv(gram[rest], rtol=_SINGULAR, hermitian=True)
        found[rest] = inverse @ rhs[rest]
    return found if sound.all() else found.masked_fill(~sound[:, None, None], torch.nan)


def _lasso(gram: Tensor, rhs: Tensor, alpha: float) -> Tensor:
    """The minimum of b gram b / 2 − b rhs + α |b|₁ for each problem and output, [P, M, C].

    Coordinate descent is fast where there are many rows. Where they are few, or the penalty is
    light, it may take sweeps beyond number: what is not there after some is brought there.
    """
    m = gram.shape[-1]
    found = ops.lasso(gram, rhs, alpha, max_sweeps=300)
    slope = rhs - gram @ found
    off = torch.where(found != 0, slope - alpha * found.sign(), (slope.abs() - alpha).clamp(min=0))
    problems, outputs = (off.abs().amax(1) > 1e-9 * rhs.abs().amax(1)).nonzero(as_tuple=True)
    if m > _SMALL:
        for p, c in zip(problems.tolist(), outputs.tolist(), strict=True):
            found[p, :, c] = _lasso_of_many(gram[p], rhs[p, :, c], found[p, :, c], alpha)
        return found
    step = max(1, _BLOCK // m**2)
    for first in range(0, len(problems), step):
        p, c = problems[first : first + step], outputs[first : first + step]
        found[p, :, c] = _search_signs(gram[p], rhs[p, :, c], found[p, :, c], alpha)
    return found


def _lasso_of_many(gram: Tensor, rhs: Tensor, start: Tensor, alpha: float) -> Tensor:  # [M]
    def among(chosen: Tensor) -> tuple[Tensor, Tensor]:
        return gram[chosen][:, chosen], rhs[chosen]

    def slope(chosen: Tensor, b: Tensor) -> Tensor:
        return rhs - gram[:, chosen] @ b

    return _lasso_by_parts(among, slope, start, alpha)


def _lasso_by_parts(
    among: Callable[[Tensor], tuple[Tensor, Tensor]],  # players [k] -> gram [k, k], rhs [k]
    slope: Callable[[Tensor, Tensor], Tensor],  # players [k], their coefficients [k] -> [M]
    start: Tensor,  # [M]
    alpha: float,
) -> Tensor:  # [M]
    """A lasso over a few players, to which others are let in until none outside would move."""
    found = start.clone()
    chosen = found.nonzero()[:, 0]
    slack = 1e-9 * slope(chosen[:0], found[:0]).abs().max()
    for _ in range(100):  # some ten, if rounding does not make it go round in circles
        if len(chosen) > 0:
            gram, rhs = among(chosen)
            found[chosen] = _search_signs(gram[None], rhs[None], found[None, chosen], alpha)[0]
            chosen = found.nonzero()[:, 0]
        pull = slope(chosen, found[chosen]).abs().index_fill(0, chosen, 0)
        count = min(max(16, len(chosen)), int((pull > alpha + slack).sum()))
        if count == 0:
            break
        chosen = torch.cat([chosen, pull.topk(count).indices])
    return found


def _search_signs(gram: Tensor, rhs: Tensor, start: Tensor, alpha: float) -> Tensor:  # [Q, M]
    """Which coefficients of a lasso are positive and negative decides all the rest.

    With signs fixed the minimum is a linear system. On the way there the first coefficient to
    change its sign becomes zero; at the minimum the zero with the steepest slope gets a sign. Ends
    after few steps from a start that is near.

    Source: Lee, Battle, Raina and Ng, "Efficient sparse coding algorithms" (2007).
    """
    found, signs = start.clone(), start.sign()
    identity = _identity(gram)
    # So little that it does not show where the solution is unique; it chooses one where not.
    damping = 1e-13 * gram.diagonal(dim1=1, dim2=2).amax(1)[:, None, None] * identity
    open_ones = torch.arange(len(gram), device=gram.device)
    for _ in range(10 * gram.shape[-1]):
        g, r, b, s = (x[open_ones] for x in (gram, rhs, found, signs))
        active = s != 0
        system = g.where(active[:, :, None] & active[:, None, :], identity) + damping[open_ones]
        pull = (r - alpha * s).where(active, 0)
        goal = torch.linalg.solve_ex(system, pull[..., None]).result[..., 0]
        turns = goal * s < 0
        share = torch.where(turns, b / (b - goal), 1)  # of the way, until it is zero
        least = share.amin(1, keepdim=True)
        b = torch.lerp(b, goal, least)
        ends = turns & (share <= least)
        b, s = b.masked_fill(ends, 0), s.masked_fill(ends, 0)
        slope = r - (g @ b[..., None])[..., 0]
        excess, steepest = (slope.abs() - alpha).where(s == 0, 0).max(1)
        arrived = least[:, 0] == 1
        joins = arrived & (excess > 1e-10 * r.abs().amax(1))
        s[joins, steepest[joins]] = slope[joins, steepest[joins]].sign()
        found[open_ones], signs[open_ones] = b, s
        open_ones = open_ones[joins | ~arrived]
        if len(open_ones) == 0:
            break
    return found


def _inverse(gram: Tensor) -> Tensor:
    return _least_norm(gram, _identity(gram).expand_as(gram))


def _identity(gram: Tensor) -> Tensor:  # [M, M]
    return torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)


def _is_finite(gram: Tensor) -> Tensor:  # [P]
    return gram.diagonal(dim1=1, dim2=2).isfinite().all(1)  # an entry is at most its diagonals


def _check_weights(
    total: Tensor,  # [p], of problems first, ...
    first: int = 0,
    rows: Tensor | None = None,  # [P] int64: of the user's inputs, which the problems are
) -> None:
    if (total == 0).any():
        row = first + int((total == 0).nonzero()[0])
        row = row if rows is None else int(rows[row])
        raise ArgumentError(
            "similarity_func: expected a weight above zero for some sample, got none for row "
            f"{row} of the inputs: is the kernel too narrow?"
        )


def _penalty(alpha: float) -> float:
    return check_number(alpha, "alpha", "a finite number of at least 0")
