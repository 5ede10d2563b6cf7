"""Owen values: Shapley values of features that join only as a tree of them allows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.checks import check
from ..core.coalition_bits import on_cpu, pack, unpack
from ..core.estimate.sampling import coins

# What coalitions [N, W] are worth for rows, [N, n, C].
Worths = Callable[[Tensor], Tensor]

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

    def owen(self, worths: Worths, most: int | None) -> Tensor:  # [n, M, C]
        """Owen values from all their coalitions: means over what clusters each may find present.

        Args:
            worths: what coalitions [N, W] of the features are worth for rows, [N, n, C].
            most: the most coalitions of a row; None for any number that fits in memory.
        """
        limit = _MOST if most is None else most
        check(self.coalitions <= limit, "max_evals", "at least {:,}", limit, self.coalitions)
        own = self.contexts()
        numbers = sorted({n for i, each in enumerate(own) for c in each for n in (c, c | 1 << i)})
        present = torch.tensor([[bool(n >> i & 1) for i in range(self.features)] for n in numbers])
        v = worths(pack(present))
        place = {number: k for k, number in enumerate(numbers)}
        gains = [
            v[[place[c | 1 << i] for c in each]].mean(0) - v[[place[c] for c in each]].mean(0)
            for i, each in enumerate(own)
        ]
        return torch.stack(gains, 1)

    @on_cpu
    def orders(self, pairs: int, seed: int, who: Tensor) -> Tensor:  # [2 · pairs, m] int64
        """Random orders in which the features of each cluster join one after another.

        Each is followed by its reverse, which is such an order too.

        Args:
            pairs: of these, how many.
            seed: decides them.
            who: which features have a part, [m] int64; they come out as numbers from 0 on.
        """
        flips = unpack(coins(max(1, len(self._parts)), pairs, seed), max(1, len(self._parts)))
        found = [torch.full((pairs, 1), i) for i in range(self.features)]
        for place, (one, other) in enumerate(self._parts):
            ahead = torch.cat([found[one], found[other]], 1)
            behind = torch.cat([found[other], found[one]], 1)
            found.append(torch.where(flips[:, place, None], behind, ahead))
        number = torch.full((self.features,), -1)
        number[who] = torch.arange(len(who))
        orders = number[torch.stack([found[-1], found[-1].flip(1)], 1).flatten(0, 1)]
        return orders[orders >= 0].view(len(orders), len(who))
