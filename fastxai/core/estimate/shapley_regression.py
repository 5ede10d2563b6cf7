"""Weighted linear fits to what a model says of coalitions, and their standard errors."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ... import ops
from ..coalition_bits import subset_sizes, unpack
from .designs import Design

# Of a Gram matrix: eigenvalues this much smaller than the largest count as zero.
_SINGULAR = 1e-10
_UNFREE = 1e-8  # A residual is no longer one if the fit goes through its value all but this much.
_BLOCK = 1 << 20  # numbers of a block of coalitions × players: 8 MiB


class ShapleyRegression:
    """Shapley values by weighted least squares over a paired design.

    The game Σ_{i in z} φ_i is fitted to v(z) − v(∅), weighted by the design, under the constraint
    Σ φ = v(all) − v(∅), which holds exactly. What does not depend on the model is worked out once,
    in float64, and serves every row and every output.

    A design of too few coalitions leaves many fits that are equally good: of these the one is
    taken whose φ differ least from each other.

    Source: Lundberg and Lee, "A unified approach to interpreting model predictions" (2017); the
    constraint as in Covert and Lee, "Improving KernelSHAP" (2021).

    Attributes:
        determined: whether the coalitions are enough for one best fit.
    """

    def __init__(self, design: Design) -> None:
        bits, players, weights = design.bits, design.players, design.weights
        self._design = design
        if_equal = subset_sizes(bits).double().unsqueeze(1) / players  # v(z) if all φ are 1 / M
        self._equal = ops.coalition_rhs(bits, players, weights, if_equal)  # [M, 1]
        self._kernel: Tensor | None = None
        if bits.shape[0] // 2 < players - 1:  # pairs; a system in rows is smaller than in players
            self.determined = False
            self._kernel = self._inverse_of_rows()
            return
        # The constraint fixes the sum of φ. What is left is to be found among the contrasts, the
        # vectors that sum to zero: there the system is G φ = moment − equal · difference.
        gram = _contrasts(_contrasts(ops.coalition_gram(bits, players, weights)).T)
        self._inverse, rank = _pseudo_inverse(gram)  # [M, M]
        self.determined = rank == players - 1

    def solve(
        self,
        moment: Tensor,  # [M, *C] float64
        difference: Tensor,  # [*C] float64
    ) -> Tensor:  # [M, *C] float64
        """The Shapley values.

        Args:
            moment: Σ_n weights[n] z_n v(z_n) over the rows of the design, for each output. The
                pairs cancel what is added to all v alike.
            difference: v(all) − v(∅).
        """
        fixed = difference.flatten()  # [C]
        rhs = moment.reshape(moment.shape[0], len(fixed)) - self._equal * fixed  # [M, C]
        phi = self._inverse @ rhs if self._kernel is None else self._solve_by_rows(rhs)
        return (phi + (fixed - phi.sum(0)) / self._design.players).reshape(moment.shape)

    def standard_errors(
        self,
        values: Tensor,  # [N, *C]
        difference: Tensor,  # [*C] float64
        phi: Tensor,  # [M, *C] float64
    ) -> Tensor:  # [M, *C] float64
        """Standard errors of the Shapley values, for the chance in which coalitions were taken.

        The sandwich estimate over pairs with residuals e / (1 − h), called HC3 (MacKinnon and White
        1985). Where the design knows each coalition's chance π to be in it, the variance is 1 − π
        times that: a design of all coalitions has no error.

        Args:
            values: v(z_n) of every row of the design, any floating-point dtype.
            difference: v(all) − v(∅).
            phi: what :meth:`solve` gave.

        Returns:
            Standard errors in the unit of the values; NaN where the coalitions are too few to tell.
        """
        if self._kernel is not None:
            return torch.full_like(phi, torch.nan)
        design, shape, fixed = self._design, phi.shape, difference.flatten()
        values, phi = (x.reshape(x.shape[0], len(fixed)) for x in (values, phi))
        variance = torch.full_like(phi, 0 if self.determined else torch.nan)
        block = 2 * max(1, _BLOCK // design.players)
        for first in range(0, design.bits.shape[0], block):
            rows = slice(first, first + block)
            y = values[rows].double()
            z, influence = self._pairs(rows)
            residual = (y[::2] - y[1::2] + fixed) / 2 - z @ phi
            variance += influence.square().T @ residual.square()
        return variance.sqrt().reshape(shape)

    def pairs(self) -> tuple[Tensor, Tensor]:  # [N / 2, M] float64 both
        """What :meth:`standard_errors` knows of the design before any value.

        Returns:
            One coalition z of each pair, and how far a unit of the pair's residual,
            (v(z) − v(z') + difference) / 2 − z φ, moves each standard error: their squares add up.
            NaN where the coalitions are too few to tell.
        """
        rows = slice(0, self._design.bits.shape[0])
        if self.determined:
            return self._pairs(rows)
        z = unpack(self._design.bits[::2], self._design.players).double()
        return z, torch.full_like(z, torch.nan)

    def _pairs(self, rows: slice) -> tuple[Tensor, Tensor]:  # [n / 2, M] float64 both
        design = self._design
        z = unpack(design.bits[rows][::2], design.players).double()  # one of each pair
        influence = 2 * design.weights[rows][::2, None] * (z @ self._inverse)  # of y on phi
        free = 1 - (influence * z).sum(1)  # 1 - h
        spread = torch.where(free > _UNFREE, 1 / free, torch.nan)
        if design.inclusion is not None:
            left_to_chance = 1 - design.inclusion[rows][::2]
            spread = torch.where(left_to_chance > 0, spread * left_to_chance.sqrt(), 0)
        return z, influence * spread[:, None]

    # With X the rows √w (z − |z| / M) and G = XᵀX, the least solution of G φ = b, for b = Xᵀ(...),
    # is Xᵀ (XXᵀ)⁺² X b.

    def _solve_by_rows(self, rhs: Tensor) -> Tensor:  # [M, C]
        assert self._kernel is not None
        product = sum(
            (x @ rhs[players] for players, x in self._rows()),
            self._equal.new_zeros(1, rhs.shape[1]),
        )
        solved = self._kernel @ (self._kernel @ product)
        return torch.cat([x.T @ solved for _, x in self._rows()])

    def _inverse_of_rows(self) -> Tensor:  # (XXᵀ)⁺, [N, N]
        n = self._design.bits.shape[0]
        product = sum((x @ x.T for _, x in self._rows()), self._equal.new_zeros(n, n))
        return _by_eigenvalues(product)[0]

    def _rows(self) -> Iterator[tuple[slice, Tensor]]:
        """X, a few players at a time: which, and [N, m]."""
        bits, players = self._design.bits, self._design.players
        root = self._design.weights.sqrt().unsqueeze(1)
        share = subset_sizes(bits).double().unsqueeze(1) / players
        words = max(1, _BLOCK // max(1, 64 * bits.shape[0]))
        for word in range(0, bits.shape[1], words):
            which = slice(64 * word, min(64 * (word + words), players))
            z = unpack(bits[:, word : word + words], which.stop - which.start).double()
            yield which, root * (z - share)


def _contrasts(vectors: Tensor) -> Tensor:
    """The columns [M, K] without their means: what is orthogonal to 1."""
    return vectors - vectors.mean(0)


def _pseudo_inverse(gram: Tensor) -> tuple[Tensor, int]:
    """The inverse within the contrasts of a Gram matrix [M, M] of contrasts, and its rank."""
    # With the missing direction filled the matrix is regular if enough coalitions are there.
    players = gram.shape[0]
    factor, failed = torch.linalg.cholesky_ex(gram + gram.trace() / players**2)
    pivots = factor.diagonal().square()
    if not failed and pivots.min() > _SINGULAR * pivots.max():
        return _contrasts(torch.cholesky_inverse(factor)), players - 1
    return _by_eigenvalues(gram)


def _by_eigenvalues(matrix: Tensor) -> tuple[Tensor, int]:
    """The pseudo-inverse of a positive semidefinite matrix [K, K], and its rank."""
    values, vectors = torch.linalg.eigh(matrix)
    kept = values > _SINGULAR * values[-1:].clamp(min=0)
    vectors = vectors[:, kept]
    return vectors / values[kept] @ vectors.T, int(kept.sum())
