"""Bins of columns, as ``lime.discretize`` has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from itertools import pairwise
from typing import Any

import numpy as np

from ..core.checks import ArgumentError, check, check_count
from ._draws import TruncatedNormals, checked_state, normal_quantiles, seed_of

_TINY = 1e-11  # added to deviations, as lime does
_DEEPEST = 3  # levels of an entropy tree: eight bins


class BaseDiscretizer:
    """Columns in bins; a subclass says by ``bins(data, labels)`` where those end.

    An edge belongs to the bin below it. Of each bin the mean and the deviation of the training
    data are known, so that values can be drawn within it.

    Args:
        data: rows [K, M].
        categorical_features: columns that are left as they are.
        feature_names: one for each column.
        labels: of the rows, for bins that go by them.
        random_state: an integer, a ``RandomState`` that moves on, or None for numpy's global one.
        data_stats: "means", "stds", "mins" and "maxs" by column instead of those of data.
        precision: decimals of edges in names.

    Raises:
        ArgumentError: an argument is not as above; the message names it.
    """

    def __init__(
        self,
        data: Any,
        categorical_features: Sequence[int],
        feature_names: Sequence[str],
        labels: Any = None,
        random_state: Any = None,
        data_stats: Mapping[str, Any] | None = None,
        *,
        precision: int = 2,
    ):
        data = np.asarray(data, dtype=np.float64)
        check(data.ndim == 2, "data", "rows [K, M]", f"shape {data.shape}")
        decimals = check_count(precision, "precision", at_least=0)
        self.to_discretize = [c for c in range(data.shape[1]) if c not in categorical_features]
        self.data_stats, self.random_state = data_stats, checked_state(random_state)
        self.names: dict[int, list[str]] = {}
        self.lambdas: dict[int, Callable[[Any], Any]] = {}
        stats = data_stats or {}
        self.means: dict[int, Any] = stats.get("means", {})
        self.stds: dict[int, Any] = stats.get("stds", {})
        self.mins: dict[int, Any] = stats.get("mins", {})
        self.maxs: dict[int, Any] = stats.get("maxs", {})
        found = self.bins(data, labels)
        count = len(self.to_discretize)
        check(len(found) == count, "bins", "edges for each of {} columns", len(found), count)
        for column, some in zip(self.to_discretize, found, strict=True):
            edges = np.unique(np.asarray(some, dtype=np.float64))
            fine = edges.size > 0 and bool(np.isfinite(edges).all())
            check(fine, "bins", "finite edges of column {}", edges, column)
            self.names[column] = _names(feature_names[column], edges, decimals)
            self.lambdas[column] = _Bins(edges)
            if not data_stats:
                self._measure(column, data[:, column], edges)

    def bins(self, data: Any, labels: Any) -> list[Any]:
        """The edges between the bins of each of ``to_discretize``; for subclasses.

        Args:
            data: rows [K, M].
            labels: of the rows, or None.
        """
        raise NotImplementedError("a discretizer needs a method bins(data, labels)")

    def discretize(self, data: Any) -> np.ndarray:  # [n, M] or [M]
        """Rows, or one row, with the numbers of their bins in the place of values.

        Args:
            data: [n, M] or [M].
        """
        found = np.array(data)
        for column, bins in self.lambdas.items():
            found[..., column] = bins(found[..., column])
        return found

    def undiscretize(self, data: Any) -> np.ndarray:  # [n, M] or [M]
        """Rows, or one row, with values that are drawn in the place of the numbers of bins.

        Args:
            data: [n, M] or [M].
        """
        found = np.array(data, dtype=np.float64)
        for column in self.to_discretize:
            which = found[..., column].astype(np.int64)
            found[..., column] = self.get_undiscretize_values(column, which)
        return found

    def get_undiscretize_values(self, feature: int, values: Any) -> np.ndarray:
        """Values of one column that are drawn in bins.

        Args:
            feature: the column.
            values: the numbers of the bins.
        """
        which = np.asarray(values, dtype=np.int64)
        rng = np.random.default_rng([seed_of(self.random_state), feature])
        normals = self.normals(feature)
        shares = normals.shares(which.ravel(), rng.random(which.size))
        return normals.values(which.ravel(), normal_quantiles(shares)).reshape(which.shape)

    def normals(self, feature: int) -> TruncatedNormals:
        """What values of one column are drawn from, bin by bin.

        Args:
            feature: the column.
        """
        return TruncatedNormals(
            self.means[feature], self.stds[feature], self.mins[feature], self.maxs[feature]
        )

    def _measure(self, column: int, values: np.ndarray, edges: np.ndarray) -> None:
        which = np.searchsorted(edges, values)
        parts = [values[which == i] for i in range(len(edges) + 1)]
        self.means[column] = [float(p.mean()) if p.size else 0.0 for p in parts]
        self.stds[column] = [(float(p.std()) if p.size else 0.0) + _TINY for p in parts]
        self.mins[column] = [float(values.min()), *edges.tolist()]
        self.maxs[column] = [*edges.tolist(), float(values.max())]


class _Bins:
    """The number of the bin of a value; a class, so that explainers can be pickled."""

    def __init__(self, edges: np.ndarray):
        self.edges = edges

    def __call__(self, values: Any) -> Any:
        return np.searchsorted(self.edges, values)


def _names(name: str, edges: np.ndarray, decimals: int) -> list[str]:
    shown = [f"{edge:.{decimals}f}" for edge in edges]
    between = [f"{a} < {name} <= {b}" for a, b in pairwise(shown)]
    return [f"{name} <= {shown[0]}", *between, f"{name} > {shown[-1]}"]


class QuartileDiscretizer(BaseDiscretizer):
    """Four bins with as many rows each, as far as values differ."""

    def bins(self, data: Any, labels: Any) -> list[Any]:
        """The quartiles of each column.

        Args:
            data: rows [K, M].
            labels: not looked at.
        """
        return [np.percentile(data[:, c], [25, 50, 75]) for c in self.to_discretize]


class DecileDiscretizer(BaseDiscretizer):
    """Ten bins with as many rows each, as far as values differ."""

    def bins(self, data: Any, labels: Any) -> list[Any]:
        """The deciles of each column.

        Args:
            data: rows [K, M].
            labels: not looked at.
        """
        return [np.percentile(data[:, c], np.arange(10, 100, 10)) for c in self.to_discretize]


class EntropyDiscretizer(BaseDiscretizer):
    """Up to eight bins of rows of like labels: those of a tree of depth 3. Needs scikit-learn."""

    def bins(self, data: Any, labels: Any) -> list[Any]:
        """The thresholds of a tree for each column; its median where the tree has none.

        Args:
            data: rows [K, M].
            labels: of the rows.
        """
        if labels is None:
            raise ArgumentError("labels: expected a label for each row, got None")
        count = len(labels)
        check(count == len(data), "labels", "one label for each of {} rows", count, len(data))
        try:
            trees = import_module("sklearn.tree")
        except ImportError as error:
            message = "EntropyDiscretizer needs scikit-learn: pip install scikit-learn"
            raise ImportError(message) from error
        found = []
        for column in self.to_discretize:
            values = data[:, [column]]
            tree = trees.DecisionTreeClassifier(
                criterion="entropy", max_depth=_DEEPEST, random_state=0
            )
            grown = tree.fit(values, labels).tree_
            edges = grown.threshold[grown.children_left > -1]
            found.append(edges if edges.size else np.array([np.median(values)]))
        return found


class StatsDiscretizer(BaseDiscretizer):
    """Bins, and what is known of them, as ``data_stats`` has them; see ``BaseDiscretizer``."""

    def bins(self, data: Any, labels: Any) -> list[Any]:
        """The edges that ``data_stats`` has under "bins", by column.

        Args:
            data: rows [K, M].
            labels: not looked at.
        """
        edges = (self.data_stats or {}).get("bins") or {}
        missing = [c for c in self.to_discretize if edges.get(c) is None]
        if missing:
            raise ArgumentError(
                f"training_data_stats: expected edges in 'bins' for column {missing[0]}, got none"
            )
        return [edges[c] for c in self.to_discretize]
