"""What a regression on coalitions leaves over, predicted by a Gaussian process.

The regression explains what is linear in the coalitions. What is left of each pair's difference is
not chance alone: interactions of three players bend it, smoothly. Taken as a draw of a Gaussian
process over all games of such interactions, the residuals tell which game it is likely to be, and
so by how much the regression is off.

Notation, with x = 2 z − 1 a coalition of each of p pairs, in ±1, and w its weight: y is half the
difference of the pair's two values; X̃ are the rows √w (x − x̄ 1ᵀ), x̄ the mean over the players, and
ỹ = √w (y − x̄ Δ / 2), with Δ = v(all) − v(∅); φ₀ = A ỹ + Δ / M is the regression. N is an
orthonormal basis of what X̃ does not span, z = Nᵀỹ the residuals.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .designs import Design, unpack

# How strong the process may be beside what is left to chance; the evidence weighs them.
_STRENGTHS = (0.0, 1.0, 10.0, 100.0, 1e3, 1e4)
_STRENGTHS_OF_EVEN_PART = (1.0, 100.0, 1e4)
_LEAST_SCALE = 1e-3  # of a player beside the largest
_UNFREE = 1e-8  # A residual is no longer one if the fit goes through its value all but this much.
_TINY = torch.finfo(torch.float64).tiny
_BLOCK = 1 << 22  # numbers of a temporary: 32 MiB


@dataclass(frozen=True)
class _Process:
    """A Gaussian process on the design's pairs, in the directions in which its values vary alone.

    Of each of k problems, or one for all. With E the covariance of the residuals z and
    E = V diag(variances) Vᵀ: 
    """

    variances: Tensor  # [k, q]
    directions: Tensor  # [k, p, q]: N V
    pull: Tensor  # [k, M, q]: how a residual in each direction moves φ


class Kriging:
    """Corrects the Shapley values of a weighted regression for interactions of three players.

    Source: derived for fastxai. Nearest are Gaussian processes for Shapley values (ShaplEIG 2026,
    FANOVA-GP 2025); kriging is prediction by Gaussian processes (Matheron 1963).
    """

    def __init__(self, design: Design) -> None:
        m = design.players
        self._x = 2 * unpack(design.bits[::2], m).double() - 1  # [p, M]
        self._root = design.weights[::2].sqrt()[:, None]  # [p, 1]
        self._mean = self._x.mean(1, keepdim=True)  # [p, 1]
        basis = _contrasts(m)  # [M, M - 1]
        q, r = torch.linalg.qr(self._root * (self._x - self._mean) @ basis, mode="complete")
        inverse = torch.linalg.solve_triangular(r[: m - 1], q[:, : m - 1].T, upper=True)
        self._fit = 2 * basis @ inverse  # A, [M, p]
        self._others = q[:, m - 1 :].contiguous()  # N, [p, q]
        self._both = torch.cat([self._fit, self._others.T])  # [M + q, p]
        self._smooth = self._process(self._x.new_full((1, m), m**-0.5))

    def solve(
        self,
        values: Tensor,  # [N, K] float64
        empty: Tensor,  # [K]
        full: Tensor,  # [K]
        with_errors: bool,
        own_scales: bool,
    ) -> tuple[Tensor, Tensor | None]:  # [M, K] both
        """The Shapley values of K games and their standard errors."""
        at_once = max(1, _BLOCK // len(self._x) ** 2) if own_scales else max(1, _BLOCK // len(self._x)*self._x.shape[1])
        found = [
            self._solve(v, e, f, with_errors, own_scales)
            for v, e, f in zip(
                values.split(at_once, 1), empty.split(at_once), full.split(at_once), strict=True
            )
        ]
        phi, errors = zip(*found)
        return torch.cat(phi).T, torch.cat(errors).T if with_errors else None

    def _solve(self, values, empty, full, with_errors, own_scales):
        m = self._x.shape[1]
        odd = (values[::2] - values[1::2]).T / 2  # [k, p]
        difference = (full - empty)[:, None]  # [k, 1]
        left = self._root[:, 0] * (odd - self._mean[:, 0] * difference / 2)  # ỹ [k, p]
        phi = left @ self._fit.T + difference / m  # [k, M]
        processes = [self._smooth]
        if own_scales:
            even = (values[::2] + values[1::2]).T / 2 - (full + empty)[:, None] / 2
            processes.append(self._process(self._scales(phi, even)))
        strength = torch.tensor(_STRENGTHS, dtype=torch.float64)[:, None, None]  # [L, 1, 1]
        z = [(left[:, None] @ p.directions)[:, 0] for p in processes]  # [k, q] each
        shrink = [1 / (1 + strength * p.variances) for p in processes]  # [L, 1 or k, q]
        logs = torch.stack([_evidence(a, b) for a, b in zip(z, shrink)])  # [R, L, k]
        share = logs.flatten(0, 1).softmax(0).view_as(logs)  # [R, L, k]
        self.share = share
        residual = torch.zeros_like(left)
        moves = self._fit
        for p, zz, s, sh in zip(processes, z, shrink, share):
            c = (sh[..., None] * strength * s).sum(0)  # [k, q]
            phi = phi + ((c * zz)[:, None] @ p.pull.mT)[:, 0]
            if not with_errors:
                continue
            free = p.directions.square() @ s.movedim(0, -1)  # [1|k, p, L]
            fitted = p.directions @ (s * zz).movedim(0, -1)  # [k, p, L]
            loo = torch.where(free > _UNFREE, fitted / free, torch.nan)
            residual = residual + (loo @ sh.T[..., None])[..., 0]
            moves = moves + (p.pull * c[:, None]) @ p.directions.mT
        if not with_errors:
            return phi, None
        return phi, (moves * residual[:, None]).square().sum(-1).sqrt()

    def _scales(self, phi: Tensor, even: Tensor) -> Tensor:  # [k, M], [k, p] -> [k, M]
        a = _relative(phi.abs())
        e = self._even_scales(a.sqrt() / a.sum(1, keepdim=True).sqrt(), even)
        pe = (a * e).sqrt()
        return pe / pe.square().sum(1, keepdim=True).sqrt()

    def _even_scales(self, scales: Tensor, even: Tensor) -> Tensor:
        x, root = self._x, self._root[:, 0]
        g = (x * scales[:, None]) @ x.T  # [k, p, p]
        at_full = (scales.square()[:, None] @ torch.ones_like(x).T)[:, 0] if False else (scales @ x.T)
        kb = (at_full.square() - 1) / 2
        kbb = (scales.sum(1).square() - 1) / 2
        K = (g.square() - 1) / 2 - kb[:, :, None] - kb[:, None, :] + kbb[:, None, None]
        K = K * (root[:, None] * root)
        c2 = K.diagonal(dim1=1, dim2=2).mean(1)
        K = K / c2[:, None, None]
        y = root * even
        best = None
        eye = torch.eye(len(x), dtype=x.dtype)
        alphas, logs = [], []
        for lam in _STRENGTHS_OF_EVEN_PART:
            L, info = torch.linalg.cholesky_ex(lam * K + eye)
            al = torch.cholesky_solve(y[..., None], L)[..., 0]
            quad = (al * y).sum(1)
            logs.append(-(L.diagonal(dim1=1, dim2=2).log().sum(1)) - len(x) / 2 * (quad / len(x)).clamp(min=_TINY).log())
            alphas.append(al * lam)
        best = torch.stack(logs).argmax(0)
        alpha = torch.stack(alphas)[best, torch.arange(len(best))] * root / c2[:, None]
        B = (x.T * alpha[:, None]) @ x - alpha.sum(1)[:, None, None]
        B = B * scales[:, :, None] * scales[:, None, :]
        B.diagonal(dim1=1, dim2=2).zero_()
        n = B.square().sum(2).sqrt()
        e = _relative(n)
        none = (even.abs().amax(1) <= 1e-12 * phi_scale(even)) if False else (n.amax(1) <= 1e-12)
        return torch.where(none[:, None], 1.0, e)

    def _process(self, scales: Tensor) -> _Process:  # [k, M]
        """The process in which player i takes part with a scale ρ_i, Σ ρ² = 1."""
        x, root, mean, m = self._x, self._root, self._mean, self._x.shape[1]
        # Covariances of what interactions of three players give: the third elementary symmetric
        # polynomial of the products ρ_i x_i x'_i.
        covariance = _third((x * scales[:, None]) @ x.T, (x * scales[:, None] ** 3) @ x.T)
        with_full = _third(scales @ x.T, scales**3 @ x.T)[..., None]  # [k, p, 1]
        of_full = _third(scales.sum(1), (scales**3).sum(1))[:, None, None]  # [k, 1, 1]
        # The residuals are of y − x̄ y(all).
        covariance = covariance - mean * with_full.mT - with_full * mean.T
        covariance = (covariance + of_full * (mean * mean.T)) * (root * root.T)
        unit = covariance.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]

        # Covariances with the Shapley values: a product of three players is worth 2/3 to each.
        t = scales[:, None] * x  # [k, p, M]
        first = t.sum(2, keepdim=True)
        pairs = (first.square() - 1) / 2
        shares = 2 / 3 * t * (pairs - t * (first - t))
        t = scales[:, None]
        first = t.sum(2, keepdim=True)
        pairs = (first.square() - 1) / 2
        shares_full = 2 / 3 * t * (pairs - t * (first - t))
        readout = root * (shares - mean * shares_full - 2 / m * (with_full - mean * of_full))

        products = self._both @ (covariance @ self._others)  # [k, M + q, q]
        pull = readout.mT @ self._others - products[:, :m]  # [k, M, q]
        variances, axes = torch.linalg.eigh(products[:, m:] / unit)
        return _Process(variances.clamp(min=0), self._others @ axes, pull / unit @ axes)


def _evidence(z: Tensor, shrink: Tensor) -> Tensor:  # [k, q], [L, 1 or k, q] -> [L, k]
    """The log likelihood of residuals, at the best variance for them."""
    q = z.shape[1]
    squares = (z.square() * shrink).mean(-1).clamp(min=_TINY)
    return (shrink.log().sum(-1) - q * squares.log()) / 2


def _third(first: Tensor, third: Tensor) -> Tensor:
    """The third elementary symmetric polynomial from power sums, of which the second is 1."""
    return (first**3 - 3 * first + 2 * third) / 6


def _relative(sizes: Tensor) -> Tensor:
    largest = sizes.amax(1, keepdim=True)
    return sizes / largest.clamp(min=_TINY) + _LEAST_SCALE


def _contrasts(players: int) -> Tensor:
    """An orthonormal basis of the vectors [M] that sum to zero, [M, M - 1]."""
    ones = torch.ones(players, 1, dtype=torch.float64)
    return torch.linalg.qr(ones, mode="complete").Q[:, 1:]
