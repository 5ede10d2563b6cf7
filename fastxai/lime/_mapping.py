"""The training data of an explainer, and what its columns and values are called."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..core.checks import ArgumentError, check
from ..interop.tables import Table, is_sparse
from ._page import table as table_html
from .explanation import DomainMapper


class TrainingTable:
    """Rows that an explainer learns bins and frequencies from.

    Args:
        data: rows [K, M] in any form.
        categorical: columns, by number or name, that hold values to be told apart.
        names: for each of them the names of its values.

    Raises:
        ArgumentError: an argument is not as above, or a number is missing.
    """

    def __init__(
        self,
        data: Any,
        categorical: Iterable[Any] | None,
        names: Mapping[Any, Any] | None,
    ):
        self.rows: Any
        if is_sparse(data):
            self.rows = data.tocsr().astype(np.float64)
            check(self.rows.ndim == 2, "training_data", "rows [K, M]", f"shape {data.shape}")
            self.table = Table("sparse", data.shape[1])
            none = not list(categorical or [])
            check(none, "categorical_features", "none, as the data are sparse", categorical)
        else:
            table, numbers = Table.of(data, "training_data")
            self.rows, self.table = numbers.numpy(), table
        count, width = self.rows.shape
        check(
            count > 0 and width > 0, "training_data", "rows of features", f"shape {self.rows.shape}"
        )
        columns = self.table.columns
        # What a DataFrame has that is no number cannot be cut into bins.
        told = [i for i, c in enumerate(columns) if c.values is not None or c.dtype.kind == "b"]
        given = [self._place(c, "categorical_features") for c in categorical or []]
        self.categorical = sorted({*given, *told})
        self._told = {i for i in told if columns[i].values is not None}
        named = names or {}
        self.categorical_names = {self._place(c, "categorical_names"): n for c, n in named.items()}
        self.names = list(self.table.names or map(str, range(width)))
        self._check_finite(self.rows, "training_data")
        self._numbers = [i for i in range(width) if i not in self.categorical]

    def take(self, row: Any) -> tuple[np.ndarray, Table]:
        """One row [M], and how the model is given others.

        Args:
            row: in any form.

        Raises:
            ArgumentError: it is not one row, or does not fit.
        """
        if not is_sparse(row) and isinstance(row, list | tuple) and self.table.kind != "frame":
            row = np.asarray(row)
        taken = self.table.take(row, "data_row")
        numbers = taken.numbers.numpy()
        check(len(numbers) == 1, "data_row", "one row", f"{len(numbers)} rows")
        self._check_finite(numbers, "data_row")
        columns = list(taken.table.columns)
        for i in self._numbers if columns else ():
            columns[i] = columns[i].without_integers()
        return numbers[0], replace(taken.table, columns=tuple(columns))

    def value_name(self, column: int, value: float) -> Any:
        """What a value of a categorical column is called.

        Args:
            column: which.
            value: as a number.
        """
        whole = int(value) if value == int(value) else float(value)
        names = self.categorical_names.get(column)
        if names is not None:
            try:
                return names[whole]
            except (KeyError, IndexError, TypeError) as error:
                raise ArgumentError(
                    f"categorical_names: expected a name for value {whole} of column {column}, "
                    "got none"
                ) from error
        if not self.table.columns:
            return whole
        found = self.table.columns[column].decode(np.array([value]), sys.modules["pandas"])
        return next(iter(found))

    def _place(self, column: Any, argument: str) -> int:
        width = self.table.width
        names: Sequence[str] = self.table.names or ()
        if isinstance(column, str) and column in names:
            return names.index(column)
        fine = isinstance(column, int | np.integer) and bool(-width <= column < width)
        check(fine, argument, "columns by number, below {}, or by name", repr(column), width)
        return int(column) % width

    def _check_finite(self, rows: Any, argument: str) -> None:
        if is_sparse(rows):
            fine = np.ones(rows.shape[1], dtype=bool)
            fine[rows.tocoo().col[~np.isfinite(rows.tocoo().data)]] = False
        else:
            fine = np.isfinite(rows).all(0)
        odd = np.flatnonzero(~fine)
        if odd.size:
            columns = ", ".join(repr(self.names[i]) for i in odd[:5])
            more = ", ..." if odd.size > 5 else ""
            raise ArgumentError(
                f"{argument}: expected finite numbers, got missing or infinite ones in column "
                f"{columns}{more}; fill them in first"
            )


class TableDomainMapper(DomainMapper):
    """Names the columns of a row, and shows its values.

    Args:
        feature_names: with their values, where columns are categorical.
        feature_values: the values as they are shown.
        scaled_row: the interpretable row, [M].
        categorical_features: columns that are told apart by value, or by bin.
        discretized_feature_names: with their bins.
        feature_indexes: of a sparse row, the columns that values are of.
    """

    def __init__(
        self,
        feature_names: Sequence[str],
        feature_values: Sequence[str],
        scaled_row: Any,
        categorical_features: Sequence[int],
        discretized_feature_names: Sequence[str] | None = None,
        feature_indexes: Any = None,
    ):
        self.exp_feature_names = self.feature_names = feature_names
        self.discretized_feature_names = discretized_feature_names
        self.feature_values, self.feature_indexes = feature_values, feature_indexes
        self.scaled_row, self.categorical_features = scaled_row, categorical_features
        self.all_categorical = len(categorical_features) == len(scaled_row)

    def map_exp_ids(self, exp: Iterable[tuple[Any, Any]], **kwargs: Any) -> list[tuple[str, Any]]:
        """Pairs of name and weight for pairs of column and weight.

        Args:
            exp: the pairs.
            **kwargs: not looked at.
        """
        names = self.discretized_feature_names or self.exp_feature_names
        return [(names[feature], weight) for feature, weight in exp]

    def visualize_instance_html(
        self,
        exp: list[tuple[Any, Any]],
        show_table: bool = True,
        show_all: bool = False,
        **kwargs: Any,
    ) -> str:
        """The row as a table in HTML.

        Args:
            exp: pairs of column and weight.
            show_table: whether to show it.
            show_all: whether to show the columns without a weight, too.
            **kwargs: not looked at.
        """
        if not show_table:
            return ""
        width = len(self.exp_feature_names)
        places = range(width) if self.feature_indexes is None else self.feature_indexes
        values = dict(zip(map(int, places), self.feature_values, strict=True))
        weights = {int(feature): float(weight) for feature, weight in exp}
        shown = sorted(values) if show_all else list(weights)
        return table_html(
            (self.exp_feature_names[f], values.get(f, "0.00"), weights.get(f, 0.0)) for f in shown
        )
