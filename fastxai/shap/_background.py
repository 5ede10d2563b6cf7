"""Rows that stand for absent features, and how to choose them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.checks import ArgumentError, check, check_count, warn
from ..interop.tables import Table, as_array, is_frame, is_sparse, names_of

_MANY = 100


class DenseData:
    """A background of weighted rows, whose columns may be grouped.

    Args:
        data: rows [K, M].
        group_names: one for each group of columns.
        groups: lists of columns; None for one group a column.
        weights: how much each row counts, [K]; None for all alike.
    """

    def __init__(self, data: Any, group_names: Any, groups: Any = None, weights: Any = None):
        self.data = np.asarray(data)
        check(self.data.ndim == 2, "data", "rows [K, M]", f"shape {self.data.shape}")
        count = self.data.shape[1]
        each = [[i] for i in range(count)]
        self.groups = each if groups is None else [[int(i) for i in g] for g in groups]
        if sorted(i for g in self.groups for i in g) != list(range(count)):
            raise ArgumentError(f"groups: expected each of {count} columns once, got {groups}")
        self.group_names = [str(n) for n in group_names]
        wanted, named = len(self.groups), len(self.group_names)
        check(named == wanted, "group_names", "one for each of {} groups", named, wanted)
        given = np.ones(len(self.data)) if weights is None else np.asarray(weights, np.float64)
        shape = (len(self.data),)
        check(given.shape == shape, "weights", "{} numbers", f"shape {given.shape}", len(self.data))
        fine = bool((given >= 0).all()) and 0 < given.sum() < np.inf
        check(fine, "weights", "numbers of at least 0, not all of them 0", given)
        self.weights = given / given.sum()


@dataclass(frozen=True)
class Background:
    """A background that was taken.

    Args:
        table: how its rows came.
        rows: [K, M] float64.
        weights: [K] float64, of sum 1.
        groups: which group each column is of, [M] int64.
        names: of the groups, if they are known.
    """

    table: Table
    rows: Tensor
    weights: Tensor
    groups: Tensor
    names: tuple[str, ...] | None

    @staticmethod
    def of(data: Any, warns: bool = True) -> Background:
        """Takes rows, or weighted rows as :func:`kmeans` returns them, here or in shap."""
        dense = data if isinstance(data, DenseData) else None
        if dense is None and type(data).__name__ == "DenseData" and hasattr(data, "weights"):
            dense = DenseData(data.data, data.group_names, data.groups, data.weights)
        table, rows = Table.of(data if dense is None else dense.data, "data")
        check(len(rows) > 0, "data", "at least one row", "none")
        count = len(rows)
        if count > _MANY and warns:
            warn(
                f"data: each coalition takes {count} model rows, one for each row of the "
                "background; sample(data, 100) or kmeans(data, 100) have fewer"
            )
        if dense is None:
            weights = torch.full((count,), 1 / count, dtype=torch.float64)
            return Background(table, rows, weights, torch.arange(table.width), table.names)
        groups = torch.empty(table.width, dtype=torch.int64)
        for number, columns in enumerate(dense.groups):
            groups[columns] = number
        weights = torch.from_numpy(dense.weights)
        if torch.equal(groups, torch.arange(table.width)):
            table = replace(table, names=tuple(dense.group_names))
        return Background(table, rows, weights, groups, tuple(dense.group_names))

    @property
    def is_ungrouped(self) -> bool:
        """Whether each column is a player."""
        return self.players == len(self.groups)

    @property
    def first_columns(self) -> Tensor:  # [players] int64
        """A column of each group."""
        count = len(self.groups)
        first = self.groups.new_full((self.players,), count)
        return first.scatter_reduce_(0, self.groups, torch.arange(count), "amin")

    @property
    def players(self) -> int:
        """How many groups of columns there are."""
        return int(self.groups.max()) + 1 if len(self.groups) else 0

    def varies(self, x: Tensor) -> Tensor:  # [n, M] -> [n, players] bool
        """Which groups have a column that differs from some row; one NaN is like another."""
        first = self.rows[:1]
        among = (_unequal(self.rows, first)).any(0)
        different = _unequal(x, first) | among  # [n, M]
        found = torch.zeros(len(x), self.players, dtype=torch.int64)
        found.index_add_(1, self.groups, different.long())
        return found > 0


def _unequal(x: Tensor, other: Tensor) -> Tensor:
    return (x != other) & ~(x.isnan() & other.isnan())


def sample(X: Any, nsamples: int = 100, random_state: int = 0) -> Any:
    """Some of the rows, drawn without replacement: the same as shap's.

    Args:
        X: rows in any form.
        nsamples: how many; if there are no more, all are returned as they are.
        random_state: decides which.
    """
    nsamples = check_count(nsamples, "nsamples")
    rows: Any = X if hasattr(X, "shape") else np.asarray(X)
    if nsamples >= rows.shape[0]:
        return X
    order = np.arange(rows.shape[0])
    np.random.RandomState(random_state).shuffle(order)  # as sklearn does
    order = order[:nsamples]
    if is_frame(rows) or hasattr(rows, "iloc"):
        return rows.iloc[order]
    return rows.tocsr()[order] if is_sparse(rows) else rows[order]


def kmeans(X: Any, k: int, round_values: bool = True) -> DenseData:
    """The centres of k clusters, weighted by how many rows they stand for. Needs scikit-learn.

    Args:
        X: rows of numbers in any form; a missing value counts as its column's mean.
        k: how many.
        round_values: whether each number is moved to the nearest that is there in its column.
    """
    try:
        from sklearn.cluster import KMeans
    except ImportError as error:
        raise ImportError("kmeans needs scikit-learn: pip install scikit-learn") from error
    _, numbers = Table.of(as_array(X) if is_frame(X) else X, "X")
    rows = numbers.numpy()
    k = check_count(k, "k")
    check(k <= len(rows), "k", "at most the {} rows", k, len(rows))
    present = ~np.isnan(rows)
    counts = np.maximum(present.sum(0), 1)
    means = np.where(present, rows, 0).sum(0) / counts
    rows = np.where(present, rows, means)
    fitted = KMeans(n_clusters=k, random_state=0, n_init=10).fit(rows)
    centres = fitted.cluster_centers_
    if round_values:
        for j in range(rows.shape[1]):
            values = np.unique(rows[:, j])
            after = np.searchsorted(values, centres[:, j]).clip(1, max(1, len(values) - 1))
            low, high = values[after - 1], values[np.minimum(after, len(values) - 1)]
            nearer = np.abs(centres[:, j] - low) <= np.abs(high - centres[:, j])
            centres[:, j] = np.where(nearer, low, high)
    names = names_of(X) or tuple(map(str, range(rows.shape[1])))
    return DenseData(centres, names, None, np.bincount(fitted.labels_, minlength=k))
