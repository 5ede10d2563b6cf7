"""Which columns are permuted together, what they are called, and in which orders."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from ..core.checks import check
from ..interop.tables import names_of


@dataclass(frozen=True)
class Groups:
    """Columns that are permuted together."""

    columns: list[np.ndarray]  # for each group [m] int64
    names: list[str] | None


def groups_of(feature_mask: Any, table: Any, width: int) -> Groups:
    """The groups that a mask says, or that lists of columns are.

    Raises:
        ArgumentError: if it is neither, or there are no such columns.
    """
    names = names_of(table)
    if feature_mask is None:
        return Groups([np.array([i]) for i in range(width)], None if names is None else [*names])
    if isinstance(feature_mask, Mapping):
        columns = [_places(g, names, width) for g in feature_mask.values()]
        check(len(columns) > 0, "feature_mask", "at least one group", "none")
        return Groups(columns, [str(name) for name in feature_mask])
    parts = feature_mask if isinstance(feature_mask, list | tuple) else ()
    if len(parts) > 0 and all(isinstance(g, list | tuple | np.ndarray) for g in parts):
        is_ids = len(parts) == 1 and len(parts[0]) == width > 1  # a mask [1, M]
        if not is_ids or any(isinstance(c, str) for c in parts[0]):
            columns = [_places(g, names, width) for g in parts]
            return Groups(columns, _joined(columns, names))
    if isinstance(feature_mask, Tensor):
        feature_mask = feature_mask.detach().cpu().numpy()
    expected = f"ids of groups [{width}], or lists of columns"
    is_array = isinstance(feature_mask, np.ndarray | list | tuple)
    check(is_array, "feature_mask", expected, type(feature_mask).__name__)
    try:
        ids = np.asarray(feature_mask)
    except ValueError:  # of several lengths
        ids = np.empty(0)
    fits = ids.dtype.kind in "iu" and ids.size == width and ids.shape in ((width,), (1, width))
    check(fits, "feature_mask", expected, f"shape {ids.shape} of {ids.dtype}")
    columns = [np.flatnonzero(ids.ravel() == i) for i in np.unique(ids)]
    return Groups(columns, _joined(columns, names))


def _places(group: Any, names: tuple[str, ...] | None, width: int) -> np.ndarray:
    expected = "a list of columns for each group"
    is_list = isinstance(group, list | tuple | np.ndarray) and len(group) > 0
    check(is_list, "feature_mask", expected, repr(group)[:80])
    places = []
    for column in group:
        if isinstance(column, numbers.Integral) and not isinstance(column, bool):
            place = int(column)
            check(-width <= place < width, "feature_mask", "places below {}", place, width)
            places.append(place % width)
            continue
        known = () if names is None else names
        check(str(column) in known, "feature_mask", "names of columns, or places", repr(column))
        places.append(known.index(str(column)))
    check(len({*places}) == len(places), "feature_mask", "each column once in a group", repr(group))
    return np.array(places)


def _joined(columns: list[np.ndarray], names: tuple[str, ...] | None) -> list[str] | None:
    return None if names is None else [" + ".join(names[i] for i in group) for group in columns]


def state_of(random_state: Any) -> np.random.RandomState | Any:
    """A generator as scikit-learn makes it of this argument: None is numpy's global one."""
    if random_state is None or random_state is np.random:
        return np.random
    if isinstance(random_state, np.random.RandomState):
        return random_state
    is_seed = isinstance(random_state, numbers.Integral) and not isinstance(random_state, bool)
    fine = is_seed and 0 <= random_state < 2**32
    expected = "None, an integer in [0, 2^32) or a numpy RandomState"
    check(fine, "random_state", expected, repr(random_state)[:80])
    return np.random.RandomState(int(random_state))


def orders_of(draws: np.random.RandomState, rows: int, repeats: int) -> list[np.ndarray]:
    """The orders [n] of each repeat, which all columns are permuted by.

    scikit-learn has one index shuffled again and again, and permutes the column as the repeat
    before has left it.
    """
    index, order, orders = np.arange(rows), np.arange(rows), []
    for _ in range(repeats):
        draws.shuffle(index)
        order = order[index]
        orders.append(order)
    return orders
