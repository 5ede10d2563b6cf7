"""Owen values: Shapley values of features that join only as a tree of them allows."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.checks import check
from ..core.coalition_bits import on_cpu, pack, unpack
from ..core.estimate.sampling import coins, prefixes
from ..interop.tables import Taken
from ._background import Background
from ._game import CoalitionGame

_MOST = 1 << 25  # coalitions, as many as of 25 features without a tree


class FeatureTree:
    """A tree of features, and the coalitions and orders that keep its clusters together.

    Args:
        tree: as scipy writes it, [M − 1, 4].
    """

    def __init__(self, tree: Any):
        self.tree = np.asarray(tree)
        self._parts: list[list[int]] = self.tree[:, :2].astype(np.int64).tolist()
        self.features = len(self._parts) + 1

    @property
    def coalitions(self) -> int:
        """How many coalitions Owen values take.

        On the way down each cluster falls into two, of which either is present alone once for each
        way in which the clusters beside it, and beside those that it is in, are there or not.
        """
        ways = [1] * (self.features + len(self._parts))
        for place in reversed(range(len(self._parts))):
            for part in self._parts[place]:
                ways[part] = 2 * ways[self.features + place]
        return 2 + 2 * sum(ways[self.features :])

    def contexts(self) -> list[list[int]]:
        """For each feature all coalitions that it may join, as whole numbers."""
        count = self.features
        members = [1 << i for i in range(count)]
        for one, other in self._parts:
            members.append(members[one] | members[other])
        found: list[list[int]] = [[] for _ in members]
        found[-1] = [0]
        for cluster in reversed(range(count, len(members))):
            one, other = self._parts[cluster - count]
            for part, beside in ((one, other), (other, one)):
                found[part] = [c | extra for c in found[cluster] for extra in (0, members[beside])]
        return found[:count]

    def owen(
        self, game: CoalitionGame, background: Background, taken: Taken, most: int | None
    ) -> Tensor:  # [n, M, C]
        """Owen values from all their coalitions: means over what clusters each may find present.

        Args:
            game: what coalitions are worth.
            background: that of the game.
            taken: the rows to explain.
            most: the most coalitions of a row; None for any number that fits in memory.
        """
        limit = _MOST if most is None else most
        check(self.coalitions <= limit, "max_evals", "at least {:,}", limit, self.coalitions)
        own = self.contexts()
        numbers = sorted({n for i, each in enumerate(own) for c in each for n in (c, c | 1 << i)})
        present = torch.tensor([[bool(n >> i & 1) for i in range(self.features)] for n in numbers])
        v = game.worths(taken.numbers, taken.table, pack(present), torch.arange(self.features))
        place = {number: k for k, number in enumerate(numbers)}
        gains = [
            v[[place[c | 1 << i] for c in each]].mean(0) - v[[place[c] for c in each]].mean(0)
            for i, each in enumerate(own)
        ]
        # Those that do not differ gain nothing: what is left there is rounding.
        return torch.stack(gains, 1) * background.varies(taken.numbers)[..., None]

    @on_cpu
    def orders(self, pairs: int, seed: int) -> Tensor:  # [2 · pairs, M] int64
        """Random orders in which the features of each cluster join one after another.

        Each is followed by its reverse, which is such an order too.
        """
        flips = unpack(coins(max(1, len(self._parts)), pairs, seed), max(1, len(self._parts)))
        found = [torch.full((pairs, 1), i) for i in range(self.features)]
        for place, (one, other) in enumerate(self._parts):
            ahead = torch.cat([found[one], found[other]], 1)
            behind = torch.cat([found[other], found[one]], 1)
            found.append(torch.where(flips[:, place, None], behind, ahead))
        return torch.stack([found[-1], found[-1].flip(1)], 1).flatten(0, 1)

    def by_orders(
        self, game: CoalitionGame, background: Background, taken: Taken, pairs: int, seed: int
    ) -> tuple[Tensor, Tensor | None]:  # [n, M, C]
        """Estimates of Owen values from random orders, and their standard errors.

        Args:
            game: what coalitions are worth.
            background: that of the game.
            taken: the rows to explain.
            pairs: of an order and its reverse, how many. Where all coalitions that Owen values
                take are no more than those of the orders, the values are exact.
            seed: decides the orders.
        """
        varies = background.varies(taken.numbers)  # [n, M]
        who = varies.any(0).nonzero()[:, 0]
        if self.coalitions <= pairs * (2 * len(who) + 1):
            return self.owen(game, background, taken, None), None
        number = torch.full((self.features,), -1)
        number[who] = torch.arange(len(who))
        orders = number[self.orders(pairs, seed)]
        orders = orders[orders >= 0].view(len(orders), len(who))
        ends = pack(torch.tensor([[False], [True]]).expand(2, len(who)).contiguous())
        bits, which = torch.cat([ends, prefixes(orders)]).unique(dim=0, return_inverse=True)
        v = game.worths(taken.numbers, taken.table, bits, who)  # [N, n, C]
        inside = which[2:].view(len(orders), len(who) - 1)
        first, last = (end.expand(len(orders), 1) for end in which[:2])
        gains = v[torch.cat([first, inside, last], 1)].diff(dim=1)  # [2 · pairs, m, n, C]
        of_player = gains[torch.arange(len(orders))[:, None], orders.argsort(1)]
        of_pair = of_player.unflatten(0, (pairs, 2)).mean(1)
        found = [of_pair.mean(0)]
        if pairs > 1:
            found.append(of_pair.std(0) / pairs**0.5)
        values, *errors = (self._placed(f, who, varies) for f in found)
        return values, errors[0] if errors else None

    def _placed(self, found: Tensor, who: Tensor, varies: Tensor) -> Tensor:
        placed = found.new_zeros(found.shape[1], self.features, found.shape[2])  # [n, M, C]
        placed[:, who] = found.movedim(0, 1)
        return placed * varies[..., None]
