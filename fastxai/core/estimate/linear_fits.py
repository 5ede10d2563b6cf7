"""Linear fits to what a model says of coalitions that every example weighs in its own way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..checks import ArgumentError, check_number
from .lasso import identity_matrix, lasso, lasso_by_parts

# Of a Gram matrix: eigenvalues this much smaller than the largest count as zero.
_SINGULAR = 1e-12
_BLOCK = 1 << 21  # numbers in a temporary: 16 MiB
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

    def penalised(self, gram: Tensor) -> Tensor:  # both [B, M, M]
        """What is solved with: the Gram matrices with the penalty on their diagonals."""
        return gram + self.alpha * identity_matrix(gram)


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
            return lasso(gram, rhs, self.alpha)
        gram, rhs = gram.nan_to_num(0, 0, 0), rhs.masked_fill(broken, 0)
        return lasso(gram, rhs, self.alpha).masked_fill_(broken, torch.nan)

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
        return inverse(gram.where(both, identity_matrix(gram))).where(both, 0)

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
        return start + torch.nan if broken else lasso_by_parts(among, slope, start, self.alpha)


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


def fit_rows(
    fit: LinearFit,
    x: Tensor,  # [N, M]
    weights: Tensor,  # [N] float64
    y: Tensor,  # [N, C] float64
) -> Tensor:  # [M, C] float64
    """The coefficients for one problem whose rows are all there."""
    total = weights.sum()
    check_weights(total[None])
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
        gram = gram.where(sound[:, None, None], identity_matrix(gram))
    factor, failed = torch.linalg.cholesky_ex(gram)
    pivots = factor.diagonal(dim1=1, dim2=2).square()
    regular = (failed == 0) & (pivots.amin(1) > _SINGULAR * pivots.amax(1))
    found = torch.cholesky_solve(rhs, factor)
    if not regular.all():
        rest = ~regular
        inverse = torch.linalg.pinv(gram[rest], rtol=_SINGULAR, hermitian=True)
        found[rest] = inverse @ rhs[rest]
    return found if sound.all() else found.masked_fill(~sound[:, None, None], torch.nan)


def _inverse(gram: Tensor) -> Tensor:
    return _least_norm(gram, identity_matrix(gram).expand_as(gram))


def _is_finite(gram: Tensor) -> Tensor:  # [P]
    return gram.diagonal(dim1=1, dim2=2).isfinite().all(1)  # an entry is at most its diagonals


def check_weights(
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
