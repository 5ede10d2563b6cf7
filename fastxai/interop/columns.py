"""Columns of a DataFrame as numbers, and the way back to what they were."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..core.checks import ArgumentError


@dataclass(frozen=True, eq=False)  # values have no truth value to compare by
class Column:
    """A column as numbers: those it holds, or the places of its values in a list of them.

    Args:
        name: as the DataFrame has it.
        dtype: what the model shall find.
        values: a pandas Index of the values that numbers stand for, −1 being none of them; None for
            a column of numbers.
        is_closed: whether there can be no other values, as in a categorical column.
        missing: what stands for none in a column of objects.
    """

    name: Any
    dtype: Any
    values: Any = None
    is_closed: bool = False
    missing: Any = np.nan

    @staticmethod
    def of(series: Any, pandas: Any) -> Column:
        """What a column of the background is."""
        dtype = series.dtype
        if isinstance(dtype, pandas.CategoricalDtype):
            return Column(series.name, dtype, dtype.categories, True)
        if isinstance(dtype, np.dtype) and dtype.kind in "biuf":
            exact = dtype.kind in "bf" or _fits(_floats(series), series.to_numpy())
            if exact:  # integers beyond 2^53 are told apart by their places
                return Column(series.name, dtype)
        none = series[series.isna()]
        missing = none.iloc[0] if len(none) else np.nan
        return Column(series.name, dtype, pandas.Index(series.dropna().unique()), missing=missing)

    def encode(self, series: Any, argument: str) -> tuple[np.ndarray, Column]:  # [n] float64
        """The numbers for some rows' values, and the column that takes them back.

        Raises:
            ArgumentError: if a value cannot be in this column; it is named.
        """
        if self.values is None:
            numbers = self._numbers(series, argument)
            kept = _fits(numbers, numbers.astype(self.dtype)) if _is_safe(numbers, self) else False
            return numbers, self if kept else replace(self, dtype=np.dtype(np.float64))
        found, present = series.astype(object), series.notna().to_numpy()
        codes = self.values.get_indexer(found)
        unseen = present & (codes < 0)
        if not unseen.any():
            return np.where(present, codes, -1).astype(np.float64), self
        first = found.to_numpy()[unseen][0]
        if self.is_closed:
            known = ", ".join(map(repr, self.values[:5])) + (
                ", ..." if len(self.values) > 5 else ""
            )
            raise self._error(argument, f"one of its categories {known}", repr(first))
        values = self.values.append(type(self.values)(found[unseen].unique()))
        wider = replace(self, values=values)
        return np.where(present, values.get_indexer(found), -1).astype(np.float64), wider

    def decode(self, numbers: np.ndarray, pandas: Any) -> Any:  # [n] float64
        """The values for numbers, in the column's dtype."""
        if self.values is None:
            return numbers.astype(self.dtype)
        codes = numbers.astype(np.int64)
        if self.is_closed:
            return pandas.Categorical.from_codes(codes, dtype=self.dtype)
        taken = pandas.Series(self.values).reindex(codes).reset_index(drop=True)
        if self.dtype == object:
            taken = taken.astype(object)
            taken[codes < 0] = self.missing
        try:
            return taken.astype(self.dtype)
        except (TypeError, ValueError):  # a missing value where there can be none
            return taken

    def _numbers(self, series: Any, argument: str) -> np.ndarray:
        text = series.dtype == object and series.map(lambda v: isinstance(v, str | bytes)).any()
        if not text:
            try:
                return _floats(series)
            except (TypeError, ValueError):
                pass
        odd = next((v for v in series if not isinstance(v, int | float | np.number)), None)
        raise self._error(argument, "numbers, as in the background", repr(odd))

    def _error(self, argument: str, expected: str, got: str) -> ArgumentError:
        return ArgumentError(f"{argument}: column {self.name!r}: expected {expected}, got {got}")


def _floats(series: Any) -> np.ndarray:
    return np.asarray(series.to_numpy(dtype=np.float64, na_value=np.nan))


def _is_safe(numbers: np.ndarray, column: Column) -> bool:
    """Whether a cast to the column's dtype is defined for all numbers."""
    return column.dtype.kind == "f" or bool(np.isfinite(numbers).all())


def _fits(numbers: np.ndarray, cast: np.ndarray) -> bool:
    """Whether nothing was lost."""
    if cast.dtype.kind in "iu":
        return bool((numbers.astype(cast.dtype) == cast).all()) and bool(
            (cast.astype(np.float64) == numbers).all()
        )
    return np.array_equal(cast.astype(np.float64), numbers, equal_nan=True)
