"""What rows are made of: bases and deltas, kept from block to block."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ... import ops

T = TypeVar("T")


_MOST_KEPT = (
    8  # results of operations on one tensor, lest a model with ever new weights fill memory
)


class NotAffine(BaseException):
    """The model does something to its rows that these cannot follow.

    Not an ``Exception``, so that no model takes it for its own.
    """


class Memo(Generic[T]):
    """A base or deltas, and what operations made of them."""

    def __init__(self, value: T, inputs: frozenset[int] = frozenset()):
        self.value = value
        self.inputs = inputs  # which of the model's inputs they come from
        self.slope: Tensor | None = None  # what gradient has come for it so far
        self._next: dict[Any, Memo[T]] = {}

    def then(
        self, key: Any, function: Callable[[T], T], inputs: frozenset[int] = frozenset()
    ) -> Memo[T]:
        found = None if key is None else self._next.get(key)
        if found is None:
            found = Memo(function(self.value), inputs)
            if len(self._next) >= _MOST_KEPT:
                self._next.clear()
            if key is not None:
                self._next[key] = found
        return found


class Dense:
    """Deltas [K, b, *S] as they are."""

    few = True

    def __init__(self, values: Tensor):
        self.values = values
        self.count, self.batch = values.shape[:2]

    def dense(self) -> Tensor:
        return self.values

    def each(self, function: Callable[[Tensor], Tensor]) -> Dense:
        """A linear function of every row."""
        flat = function(self.values.flatten(0, 1))
        return Dense(flat.reshape(*self.values.shape[:2], *flat.shape[1:]))

    def linear(self, weight: Tensor) -> Dense:
        return Dense(F.linear(self.values, weight))

    def reshaped(self, shape: torch.Size) -> Dense:
        return Dense(self.values.reshape(*self.values.shape[:2], *shape))

    def scaled(self, factor: Callable[[Tensor], Tensor]) -> Dense:
        return Dense(factor(self.values))


# As ``ops.group_linear``: values [b, P], positions, offsets and a weight [H, F] -> [K, b, H].
Product = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Sparse:
    """Deltas that are zero but in the features of their group: K groups of b examples.

    Group g of example e has ``values[e, i]`` in feature ``positions[e, i]``, for i from
    ``offsets[e, g]`` to ``offsets[e, g + 1]``.
    """

    values: Tensor  # [b, P]
    positions: Tensor  # [b, P] or [1, P] int64, into the features as one row
    offsets: Tensor  # [b, K + 1] or [1, K + 1] int64
    shape: torch.Size  # the features'
    few: bool  # whether the groups are few beside the rows, so that it is worth making them dense
    product: Product = ops.group_linear

    @property
    def count(self) -> int:
        return self.offsets.shape[1] - 1

    @property
    def batch(self) -> int:
        return self.values.shape[0]

    def dense(self) -> Tensor:
        b, groups = self.batch, self.count
        made = self.values.new_zeros(groups + 1, b, self.shape.numel())  # the last one for nobody
        example = torch.arange(b, device=self.values.device)[:, None]
        of = group_of_entries(self.offsets, self.values.shape[1])
        made[of, example, self.positions] = self.values
        deltas: Tensor = made[:groups].unflatten(2, self.shape)
        return deltas

    def each(self, function: Callable[[Tensor], Tensor]) -> Dense:
        return Dense(self.dense()).each(function)

    def linear(self, weight: Tensor) -> Dense:
        if len(self.shape) > 1:
            return Dense(self.dense()).linear(weight)
        return Dense(self.product(self.values, self.positions, self.offsets, weight))

    def reshaped(self, shape: torch.Size) -> Sparse:
        return replace(self, shape=shape)

    def scaled(self, factor: Callable[[Tensor], Tensor]) -> Sparse:
        one = factor(self.values.new_ones(1, *self.shape)).expand(1, *self.shape).flatten()
        return replace(self, values=self.values * one[self.positions])


Deltas = Dense | Sparse


def group_of_entries(offsets: Tensor, count: int) -> Tensor:  # [b, G + 1] -> [b, count]
    """Of which group entries 0 to count - 1 are; G for those of none."""
    entries = torch.arange(count, device=offsets.device).expand(len(offsets), -1).contiguous()
    found = torch.searchsorted(offsets.contiguous(), entries, right=True) - 1
    return torch.where(found >= 0, found, offsets.shape[1] - 1)
