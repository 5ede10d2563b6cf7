"""What a regression on coalitions leaves over, predicted by a Gaussian process.

The regression explains what is linear in the coalitions. What is left of the differences within
pairs is not chance alone: interactions of three players bend them. Taken for a draw of a Gaussian
process over the games of such interactions, the residuals tell which game it is likely to be, and
so by how much the regression is off.

With x = 2 z − 1 a coalition of each of p pairs, in ±1, and x̄ its mean over the players, y is half
the difference of the pair's two values less x̄ Δ / 2, Δ = v(all) − v(∅): what the players' shares of
Δ do not explain. The Shapley values are φ = A y + Δ / M of the regression, and what is added for
the residuals.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..coalition_bits import unpack
from .designs import Design
from .shapley_regression import ShapleyRegression

# How strong the process may be beside what is left to chance.
_STRENGTHS = (0.0, 1.0, 1e1, 1e2, 1e3, 1e4)
_STRENGTHS_FOR_PAIRS = (1.0, 1e2, 1e4)
_LEAST_SCALE = 1e-3  # of a player beside the largest
_ROUNDING = 1e-6  # of the values: what is no larger is none
_UNFREE = 1e-8  # A residual is no longer one if the fit goes through its value all but this much.
_BLOCK = 1 << 20  # numbers of a temporary: 8 MiB
_TINY = torch.finfo(torch.float64).tiny


def leaves_residuals(design: Design, regression: ShapleyRegression) -> bool:
    """Whether kriging has anything to go by, and anything to correct."""
    enough = design.bits.shape[0] // 2 >= design.players
    return regression.determined and enough and design.name != "enumeration"


class Kriging:
    """The Shapley values of a regression, corrected for interactions of three players.

    Several processes compete: that in which all players take part alike, and on demand one for
    each game with scales of its own, from the sizes of its Shapley values and of its interactions
    of two (which the sums within pairs tell, at no cost); each with strengths from none on; and,
    for designs by another rule than chance, what is left to chance either alike in all values or
    by the design's weights. Each counts by its likelihood. Σ φ = Δ holds exactly, and games of
    interactions of at most two players are exact.

    Source: derived for fastxai. Kriging is prediction by Gaussian processes (Matheron, "Principles
    of geostatistics", 1963); processes over games are also in Chau, Muandet and Sejdinovic,
    "Explaining the uncertain: stochastic Shapley values for Gaussian process models" (2023).

    Args:
        design: one that :func:`leaves_residuals`.
        device: where the values will be.
    """

    def __init__(self, design: Design, device: torch.device | None = None) -> None:
        self._x = 2 * unpack(design.bits[::2], design.players).to(device, torch.float64) - 1
        self._mean = self._x.mean(1)  # [p], of x [p, M]
        weights = design.weights[::2].to(device)
        # Where the chance of each coalition is known the weights are the Shapley kernel's: they
        # alone come to the exact values as the design comes to hold all coalitions.
        noises = [weights] if design.inclusion is not None else [weights, torch.ones_like(weights)]
        self._regressions = [_Regression(self._x - self._mean[:, None], w) for w in noises]
        alike = self._x.new_full((1, design.players), design.players**-0.5)
        self._common = self._processes(alike)

    def solve(
        self,
        values: Tensor,  # [N, K] float64
        empty: Tensor,  # [K] float64
        full: Tensor,  # [K] float64
        own_scales: bool,
        with_errors: bool,
    ) -> tuple[Tensor, Tensor | None]:  # [M, K] float64, both
        """The Shapley values of K games, and their standard errors if they are wanted.

        The errors are the sandwich estimate with residuals as they would be without the pair.

        Args:
            values: v(z_n) of every row of the design.
            empty: v(∅).
            full: v(all).
            own_scales: whether each game has a process of its own too. It takes some p³
                multiplications for each game, the common one some p q for q = p − M + 1.
            with_errors: whether standard errors are wanted.

        Raises:
            torch.linalg.LinAlgError: a factorisation failed.
        """
        pairs, players = self._x.shape
        block = max(1, _BLOCK // (pairs * (pairs if own_scales else players)))
        columns = torch.cat([empty[None], values, full[None]])
        parts = [self.of_block(part, own_scales, with_errors) for part in columns.split(block, 1)]
        phi, errors = (torch.cat(found, 1) for found in zip(*parts, strict=True))
        return phi, errors if with_errors else None

    def of_block(
        self,
        columns: Tensor,  # [N + 2, k]: v(∅), the values, v(all)
        own_scales: bool,
        with_errors: bool,
    ) -> tuple[Tensor, Tensor]:  # [M, k] both; errors that are not wanted [0, k]
        """As :meth:`solve`, for so many games that all fits into memory; torch can trace it."""
        values, empty, full = columns[1:-1], columns[0, :, None], columns[-1, :, None]
        odd, even = (values[::2] - values[1::2]).T / 2, (values[::2] + values[1::2]).T / 2  # [k, p]
        difference = full - empty  # [k, 1]
        y = odd - self._mean * difference / 2
        equal = difference / self._x.shape[1]
        candidates = self._common
        if own_scales:
            even = even - (empty + full) / 2
            none = even.abs().amax(1) <= _ROUNDING * columns.abs().amax(0)  # [k]
            phi = y @ self._regressions[0].fit.T + equal
            candidates = candidates + self._processes(self._own_scales(phi, even, none))
        phi, errors = _mixed(candidates, y, equal, with_errors)
        return phi.T, errors.T

    def _own_scales(self, phi: Tensor, even: Tensor, none: Tensor) -> Tensor:
        """How much each player takes part in interactions, [k, M], of unit length.

        Args:
            phi: the regression's values, [k, M].
            even: half the sums within pairs, less half that of v(∅) and v(all), [k, p].
            none: where these sums are all but zero, [k].
        """
        own = _beside_largest(phi.abs())
        of_pairs = _beside_largest(self._pair_sizes(_unit(own.sqrt()), even))
        scales = _unit((own * of_pairs.where(~none[:, None], 1)).sqrt())
        return scales.where(scales.isfinite(), self._x.shape[1] ** -0.5)

    def _pair_sizes(self, scales: Tensor, even: Tensor) -> Tensor:  # [k, M], [k, p] -> [k, M]
        """How large each player's interactions of two are, by a process of these alone."""
        x, root = self._x, self._regressions[0].root
        with_full = _second(scales @ x.T)  # [k, p]
        of_full = _second(scales.sum(1))[:, None, None]
        covariance = _second(_scaled_products(scales, x)) + of_full
        covariance = covariance - with_full[:, None] - with_full[:, :, None]
        covariance = covariance * (root * root[:, None])
        unit = covariance.diagonal(dim1=1, dim2=2).mean(1)[:, None]
        covariance = covariance / unit[..., None]

        strengths = even.new_tensor(_STRENGTHS_FOR_PAIRS)[:, None, None, None]
        noise = torch.eye(len(x), dtype=x.dtype, device=x.device)
        factors = torch.linalg.cholesky_ex(strengths * covariance + noise).L  # [L, k, p, p]
        y = root * even
        solved = torch.cholesky_solve(y[..., None].expand(*factors.shape[:-1], 1), factors)[..., 0]
        shrink = factors.diagonal(dim1=2, dim2=3).square().reciprocal()
        likely = _log_likelihood((solved * y).mean(-1), shrink).argmax(0)  # [k]
        chosen = (strengths[..., 0] * solved)[likely, torch.arange(len(likely), device=x.device)]
        pull = chosen * root / unit  # [k, p]
        interactions = (x.T * pull[:, None]) @ x - pull.sum(1)[:, None, None]  # [k, M, M]
        interactions = interactions * scales[:, :, None] * scales[:, None]
        return interactions.square().sum(2).sqrt()

    def _processes(self, scales: Tensor) -> list[_Process]:  # [k, M]
        """The process in which players take part by these scales ρ, Σ ρ² = 1, for each noise."""
        x, mean = self._x, self._mean[:, None]
        with_full = _third(scales @ x.T, scales**3 @ x.T)[..., None]  # [k, p, 1]
        of_full = _third(scales.sum(1), (scales**3).sum(1))[:, None, None]
        covariance = _third(_scaled_products(scales, x), _scaled_products(scales**3, x))
        # y is the process less x̄ times its value at the full coalition.
        covariance = covariance - mean * with_full.mT - with_full * mean.T
        covariance = covariance + of_full * (mean * mean.T)  # [k, p, p]
        shares = _shares(scales[:, None] * x) - mean * _shares(scales[:, None])  # [k, p, M]
        shares = shares - 2 / x.shape[1] * (with_full - mean * of_full)
        return [regression.process(covariance, shares) for regression in self._regressions]


class _Regression:
    """The regression of y on the rows of x by their weights, and what it leaves over.

    The weights say as well how much of each value is left to chance: its variance is 1 / w.

    Attributes:
        fit: A, [M, p].
        root: √w, [p].
        log_likelihood: what the weights add to it.
    """

    def __init__(self, x: Tensor, weights: Tensor):  # [p, M], less the means of rows; [p]
        players = x.shape[1]
        self.root = weights.sqrt()
        contrasts = _contrasts(players, x.device)
        q, r = torch.linalg.qr(self.root[:, None] * x @ contrasts, mode="complete")
        inverse = torch.linalg.solve_triangular(r[: players - 1], q[:, : players - 1].T, upper=True)
        self.fit = 2 * contrasts @ inverse * self.root
        self.log_likelihood = self.root.log().sum() - r.diagonal().abs().log().sum()
        self._left = q[:, players - 1 :]  # of √w y, [p, q]
        self._left_of_y = self._left * self.root[:, None]
        self._both = torch.cat([self.fit, self._left_of_y.T])  # [M + q, p]

    def process(
        self,
        covariance: Tensor,  # [k, p, p]: of y
        shares: Tensor,  # [k, p, M]: covariances of y and the Shapley values
    ) -> _Process:
        players = shares.shape[2]
        unit = (covariance.diagonal(dim1=1, dim2=2) * self.root.square()).mean(1)[:, None, None]
        products = self._both @ (covariance @ self._left_of_y) / unit  # [k, M + q, q]
        pull = shares.mT @ self._left_of_y / unit - products[:, :players]
        variances, axes = torch.linalg.eigh(products[:, players:])
        return _Process(
            self, variances.clamp(min=0), self._left_of_y @ axes, self._left @ axes, pull @ axes
        )


@dataclass(frozen=True, eq=False)
class _Process:
    """A Gaussian process beside a regression, along the q axes in which residuals vary by
    themselves; of each of k games, or one for all.
    """

    regression: _Regression
    variances: Tensor  # [k, q], beside a noise of variance 1
    axes: Tensor  # [k, p, q]: residuals are y @ axes
    weighted_axes: Tensor  # [k, p, q]: the same of √w y
    pull: Tensor  # [k, M, q]: how a residual that is no noise moves φ


def _mixed(
    processes: list[_Process],
    y: Tensor,  # [k, p]
    equal: Tensor,  # [k, 1]
    with_errors: bool,
) -> tuple[Tensor, Tensor]:  # [k, M] both; errors that are not wanted [k, 0]
    """The Shapley values by all processes and strengths, and their standard errors."""
    strengths = y.new_tensor(_STRENGTHS)[:, None, None]
    residuals = [(y[:, None] @ process.axes)[:, 0] for process in processes]  # [k, q] each
    noise = [1 / (1 + strengths * process.variances) for process in processes]  # [L, 1 or k, q]
    likelihoods = [
        process.regression.log_likelihood
        + _log_likelihood((residual.square() * part).mean(-1), part)
        for process, residual, part in zip(processes, residuals, noise, strict=True)
    ]
    chances = torch.stack(likelihoods).flatten(0, 1).softmax(0)  # [R L, k]

    phi, moves, left = equal, y.new_zeros(()), y.new_zeros(())
    for process, residual, part, chance in zip(
        processes, residuals, noise, chances.split(len(_STRENGTHS)), strict=True
    ):
        fit, whole = process.regression.fit, chance.sum(0)[:, None]  # [k, 1]
        no_noise = (chance[..., None] * strengths * part).sum(0)  # [k, q]
        phi = phi + whole * (y @ fit.T) + ((no_noise * residual)[:, None] @ process.pull.mT)[:, 0]
        if with_errors:
            moves = moves + whole[..., None] * fit
            moves = moves + (process.pull * no_noise[:, None]) @ process.axes.mT  # [k, M, p]
            left = left + _left_out(process, residual, part, chance)
    if not with_errors:
        return phi, phi.new_empty(len(phi), 0)
    return phi, (moves * left[:, None]).square().sum(-1).sqrt()


def _left_out(
    process: _Process,
    residual: Tensor,  # [k, q]
    noise: Tensor,  # [L, 1 or k, q]
    chance: Tensor,  # [L, k]
) -> Tensor:  # [k, p]
    """How far each y is from its prediction without it, averaged over the strengths."""
    off = process.weighted_axes @ (noise * residual).movedim(0, -1)  # [k, p, L]
    free = process.weighted_axes.square() @ noise.movedim(0, -1)
    off = torch.where(free > _UNFREE, off / free, torch.nan)
    return (off @ chance.T[..., None])[..., 0] / process.regression.root


def _log_likelihood(square: Tensor, noise: Tensor) -> Tensor:  # [L, k], [L, 1 or k, q] -> [L, k]
    """Of q residuals with a mean square, each beside its variance, at the best common factor."""
    return (noise.log().sum(-1) - noise.shape[-1] * square.clamp(min=_TINY).log()) / 2


def _second(first: Tensor) -> Tensor:
    """The sum of products of two different terms, from the terms' sum; their squares sum to 1."""
    return (first.square() - 1) / 2


def _third(first: Tensor, cubes: Tensor) -> Tensor:
    """The sum of products of three, from the terms' sum and that of their cubes."""
    return (first**3 - 3 * first + 2 * cubes) / 6


def _shares(terms: Tensor) -> Tensor:  # [..., M]
    """Shapley values of the sum of products of three: such a product gives each 2/3."""
    total = terms.sum(-1, keepdim=True)
    return 2 / 3 * terms * (_second(total) - terms * (total - terms))


def _scaled_products(scales: Tensor, x: Tensor) -> Tensor:  # [k, M], [p, M] -> [k, p, p]
    return (x * scales[:, None]) @ x.T


def _beside_largest(sizes: Tensor) -> Tensor:  # [k, M]
    return sizes / sizes.amax(1, keepdim=True).clamp(min=_TINY) + _LEAST_SCALE


def _unit(vectors: Tensor) -> Tensor:  # [k, M]
    lengths: Tensor = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    return vectors / lengths


def _contrasts(players: int, device: torch.device) -> Tensor:
    """An orthonormal basis of the vectors that sum to zero, [M, M - 1]."""
    ones = torch.ones(players, 1, dtype=torch.float64, device=device)
    basis: Tensor = torch.linalg.qr(ones, mode="complete").Q
    return basis[:, 1:]
