"""Cooperative games whose Shapley values are known: by counting, or in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Game:
    """A set function and its Shapley values."""

    value: Callable[[Tensor], Tensor]  # [N, M] bool -> [N] float64
    shapley: Tensor  # [M] float64

    @property
    def players(self) -> int:
        return self.shapley.shape[0]

    @property
    def difference(self) -> Tensor:
        """v(all) - v(empty), a number."""
        everyone = torch.ones(1, self.players, dtype=torch.bool)
        return (self.value(everyone) - self.value(~everyone))[0]


def every_coalition(players: int) -> Tensor:
    """[2^M, M] bool: player i is in row n if bit i of n is set."""
    return (torch.arange(1 << players).unsqueeze(1) >> torch.arange(players) & 1).bool()


def brute_force(values: Tensor) -> Tensor:
    """Shapley values [M, *C] of v [2^M, *C], which is indexed as :func:`every_coalition`.

    φ_i is the mean over sizes, and over coalitions without i of each size, of what i adds.
    """
    values = values.double()
    players = values.shape[0].bit_length() - 1
    coalition = torch.arange(values.shape[0])
    size = every_coalition(players).sum(1)
    number = torch.tensor([math.comb(players - 1, s) for s in range(players)], dtype=torch.float64)
    chance = 1 / (players * number)  # of each size, and of each coalition of that size
    phi = []
    for i in range(players):
        without = coalition[coalition >> i & 1 == 0]
        gains = values[without | 1 << i] - values[without]
        phi.append(torch.tensordot(chance[size[without]], gains, dims=1))
    return torch.stack(phi)


def table(values: Tensor) -> Game:
    """The game with these values [2^M], indexed as :func:`every_coalition`."""
    players = values.shape[0].bit_length() - 1
    place = 1 << torch.arange(players)
    return Game(lambda z: values[(z * place).sum(1)].double(), brute_force(values))


def unanimity(players: int, teams: list[list[int]], worth: Tensor, offset: float = 0.0) -> Game:
    """A team brings its worth once all of its members are present.

    Every game is such a sum. Members share alike: φ_i = Σ over teams with i of worth / size.
    """
    member = torch.zeros(len(teams), players, dtype=torch.float64)
    for row, team in zip(member, teams, strict=True):
        row[team] = 1
    size = member.sum(1)

    def value(z: Tensor) -> Tensor:
        return (z.double() @ member.T > size - 0.5).double() @ worth + offset

    return Game(value, member.T @ (worth / size))


def of_degree(players: int, degree: int, teams: int, seed: int, offset: float = 0.0) -> Game:
    """All single players and random teams of 2 to ``degree`` players with normal worth."""
    rng = np.random.default_rng(seed)
    chosen = [[i] for i in range(players)]
    for _ in range(teams):
        size = int(rng.integers(2, degree + 1))
        chosen.append(rng.choice(players, size, replace=False).tolist())
    worth = torch.from_numpy(rng.normal(size=len(chosen)))
    return unanimity(players, chosen, worth, offset)


def second_order(linear: Tensor, pairs: Tensor) -> Game:
    """v(z) = Σ_i a_i z_i + Σ_ij z_i B_ij z_j, of a [M] and B [M, M] with a zero diagonal."""
    shapley = linear + (pairs + pairs.T).sum(1) / 2
    return Game(lambda z: z.double() @ linear + (z.double() @ pairs * z).sum(1), shapley)


def product_kernel(present: Tensor, absent: Tensor, coefficients: Tensor) -> Game:
    """v(z) = Σ_j c_j Π_i (present_ji if z_i else absent_ji), factors [J, M] all positive.

    Such is a Gaussian-kernel machine on tabular rows. φ_i = Σ_j c_j ∫₀¹ (a_i − b_i) Π_{l ≠ i}
    (t a_l + (1 − t) b_l) dt: a polynomial of degree M - 1 in t, so Gauss-Legendre is exact with
    M / 2 nodes.
    """
    players = present.shape[1]
    nodes, weights = np.polynomial.legendre.leggauss(players // 2 + 1)
    phi = torch.zeros(players, dtype=torch.float64)
    for node, weight in zip(nodes, weights, strict=True):
        t = (1 + node) / 2
        mixed = t * present + (1 - t) * absent  # [J, M]
        others = mixed.prod(1, keepdim=True) / mixed
        phi += weight / 2 * coefficients @ ((present - absent) * others)
    ratio, base = (present / absent).log().T, absent.log().sum(1)  # a product as a sum of logs

    def value(z: Tensor) -> Tensor:
        return (z.double() @ ratio + base).exp() @ coefficients

    return Game(value, phi)


def gaussian_kernel(x: Tensor, baseline: Tensor, centers: Tensor, c: Tensor, gamma: float) -> Game:
    """f(x) = Σ_j c_j exp(−γ |x − center_j|²) between a row [M] and a baseline [M]."""
    factors = [(-gamma * (row - centers) ** 2).exp() for row in (x, baseline)]
    return product_kernel(*factors, c)


def symmetric(worth: Tensor) -> Game:
    """A coalition of s players brings worth[s]: all players are alike. worth [M + 1]."""
    players = worth.shape[0] - 1
    shapley = ((worth[-1] - worth[0]) / players).double().expand(players)
    return Game(lambda z: worth[z.sum(1)].double(), shapley)
