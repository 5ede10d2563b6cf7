"""What single coalitions are worth, and what follows for pairs of features."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..core.coalition_bits import all_coalitions, subset_sizes
from ..core.estimate.designs import shapley_design


def pairs(v: Tensor, players: int) -> Tensor:  # [2^m, n, C] -> [n, m, m, C]
    """Shapley-Taylor interactions of order two, half of each on either side of the diagonal.

    I_ij = 2 / m · Σ_S δ_ij(S) / C(m − 1, |S|), with S the sets without i and j and δ_ij(S) =
    v(S ∪ ij) − v(S ∪ i) − v(S ∪ j) + v(S). On the diagonal is v(i) − v(∅). All add up to
    v(all) − v(∅).

    Source: Dhamdhere, Agarwal and Sundararajan, "The Shapley Taylor interaction index" (2020).
    """
    m = players
    sizes = subset_sizes(all_coalitions(m))
    share = torch.tensor([1 / (m * math.comb(m - 1, s)) for s in range(m)], dtype=torch.float64)
    found = v.new_zeros(v.shape[1], m, m, v.shape[2])
    every = torch.arange(1 << m)
    for i in range(m):
        found[:, i, i] = v[1 << i] - v[0]
        for j in range(i + 1, m):
            one, other = 1 << i, 1 << j
            without = every[(every & (one | other)) == 0]
            change = v[without | one | other] - v[without | one] - v[without | other] + v[without]
            found[:, i, j] = torch.einsum("s,snc->nc", share[sizes[without]], change)
            found[:, j, i] = found[:, i, j]
    return found


def coalitions_of(players: int, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Coalitions without nobody and all, [N, W], and how much each weighs, [N]: all if they fit."""
    if players < 63 and (1 << players) - 2 <= count:
        bits = all_coalitions(players)[1:-1]
        sizes = subset_sizes(bits)
        share = [1 / (s * (players - s) * math.comb(players, s)) for s in range(1, players)]
        return bits, torch.tensor(share, dtype=torch.float64)[sizes - 1]
    plan = shapley_design(players, count + 2, seed)
    inside = (subset_sizes(plan.bits) > 0) & (subset_sizes(plan.bits) < players)
    return plan.bits[inside], plan.weights[inside]
