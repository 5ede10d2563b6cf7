"""What single coalitions are worth, and what follows for features and pairs of them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..core.coalition_bits import all_coalitions, pack, single, subset_sizes
from ..core.estimate.designs import shapley_design
from ..core.estimate.sampling import prefixes
from ._trees import Worths


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


def pairs_from_orders(worths: Worths, orders: Tensor) -> tuple[Tensor, Tensor | None]:
    """The same interactions from orders of the players, and their standard errors.

    Both are [n, m, m, C]. In an order the sample of a pair is δ_ij(S), with S the players before
    both: it takes the worth of each beginning with one more of the others, m (m + 1) / 2 in all,
    and what the samples of an order and the diagonal add up to is v(all) − v(∅).

    Args:
        worths: what coalitions of the players are worth.
        orders: [R, m] int64; if there are several, each is followed by its reverse. There are no
            errors for one order, or one and its reverse.
    """
    count, m = orders.shape
    entered = single(orders.flatten(), m).unflatten(0, (count, m))  # [R, m, W]
    before = entered.cumsum(1) - entered  # distinct bits: a sum is a union
    begun, other = torch.triu_indices(m, m)
    nobody = torch.zeros(1, entered.shape[2], dtype=torch.int64)
    bits = torch.cat([nobody, (before[:, begun] + entered[:, other]).flatten(0, 1)])
    bits, which = bits.unique(dim=0, return_inverse=True)
    v = worths(bits)  # [N, n, C]
    table = which.new_zeros(count, m, m)  # of v(the first k players, and the one at place b >= k)
    table[:, begun, other] = which[1:].unflatten(0, (count, -1))
    apart = begun < other
    begun, other = begun[apart], other[apart]
    found = v.new_zeros(count, v.shape[1], m, m, v.shape[2])
    for order, place, one in zip(orders, table, found, strict=True):
        first = torch.cat([which[:1], place.diagonal()[:-1]])  # the first k players alone
        change = v[place[begun + 1, other]] - v[place[begun, begun]]
        change += v[first[begun]] - v[place[begun, other]]
        a, b = order[begun], order[other]
        one[:, a, b] = one[:, b, a] = change.movedim(0, 1) / 2
        one[:, order, order] = (v[place[0]] - v[which[0]]).movedim(0, 1)
    if count > 1:
        found = found.unflatten(0, (-1, 2)).mean(1)
    errors = found.std(0) / len(found) ** 0.5 if len(found) > 1 else None
    return found.mean(0), errors


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


def shapley(v: Tensor, players: int) -> Tensor:  # [2^m, n, C] -> [n, m, C]
    """Shapley values from what all coalitions are worth."""
    sizes = subset_sizes(all_coalitions(players))
    share = [1 / (players * math.comb(players - 1, s)) for s in range(players)]
    weights = torch.tensor(share, dtype=torch.float64)
    every = torch.arange(1 << players)
    found = []
    for i in range(players):
        without = every[(every & (1 << i)) == 0]
        gains = v[without | 1 << i] - v[without]
        found.append(torch.einsum("s,snc->nc", weights[sizes[without]], gains))
    return torch.stack(found, 1)


def from_orders(worths: Worths, orders: Tensor) -> tuple[Tensor, Tensor | None]:
    """Mean gains of players that join in orders, and their standard errors, both [n, m, C].

    Args:
        worths: what coalitions of the players are worth.
        orders: [2 P, m] int64, each followed by its reverse. There are no errors for one pair.
    """
    count, players = orders.shape
    ends = pack(torch.tensor([[False], [True]]).expand(2, players).contiguous())
    bits, which = torch.cat([ends, prefixes(orders)]).unique(dim=0, return_inverse=True)
    v = worths(bits)  # [N, n, C]
    first, last = (end.expand(count, 1) for end in which[:2])
    steps = torch.cat([first, which[2:].view(count, players - 1), last], 1)
    of_pair = gains_of_pairs(v, steps, orders)
    errors = of_pair.std(0) / len(of_pair) ** 0.5 if len(of_pair) > 1 else None
    return of_pair.mean(0), errors


def gains_of_pairs(
    v: Tensor,  # [N, n, C]
    steps: Tensor,  # [2 P, m + 1] int64
    orders: Tensor,  # [2 P, m] int64, each followed by its reverse
) -> Tensor:  # [P, n, m, C]
    """What each player gains on the mean of an order and its reverse.

    Args:
        v: what coalitions are worth.
        steps: which of them form in an order, from nobody to all.
        orders: the players, as they join.
    """
    gains = v[steps].diff(dim=1)  # [2 P, m, n, C]
    of_player = gains[torch.arange(len(orders))[:, None], orders.argsort(1)]
    of_pair: Tensor = of_player.unflatten(0, (-1, 2)).mean(1).movedim(1, 2)
    return of_pair
