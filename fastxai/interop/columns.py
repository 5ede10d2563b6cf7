"""Columns of a DataFrame as numbers, and the way back to what they were."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..core.checks import ArgumentError

_MOST = 2**53  # up to here float64 tells all integers apart


class Objects:
    """A list of objects, none of them twice, as True and 1 are not the same to a model.

    Args:
        values: those that are known so far.
    """

    def __init__(self, values: Any = ()):
        self._values = list(values)
        self._places = {_key(value): i for i, value in enumerate(self._values)}

    def places(self, values: Any) -> tuple[np.ndarray, Objects]:
        """Where these are, [n] int64, and the list with those that are new.

        Raises:
            TypeError: if one cannot be hashed.
        """
        wider = self
        places = np.empty(len(values), dtype=np.int64)
        for i, value in enumerate(values):
            key = _key(value)
            if key not in wider._places:
                wider = Objects(self._values) if wider is self else wider
                wider._places[key] = len(wider._values)
                wider._values.append(value)
            places[i] = wider._places[key]
        return places, wider

    def at(self, places: np.ndarray) -> np.ndarray:  # [n] int64
        """The objects at places."""
        found = np.empty(len(places), dtype=object)
        for i, place in enumerate(places):
            found[i] = self._values[place]
        return found


@dataclass(frozen=True, eq=False)  # values have no truth value to compare by
class Column:
    """A column as numbers: those it holds, or the places of its values in a list of them.

    Args:
        name: as the DataFrame has it.
        dtype: what the model shall find.
        values: what numbers stand for: a pandas Index, −1 being none of it; Objects for a column
            of them; None for a column of numbers.
        is_closed: whether there can be no other values, as in a categorical column.
    """

    name: Any
    dtype: Any
    values: Any = None
    is_closed: bool = False

    @staticmethod
    def of(series: Any, pandas: Any) -> Column:
        """What a column of the background is."""
        dtype = series.dtype
        if isinstance(dtype, pandas.CategoricalDtype):
            return Column(series.name, dtype, dtype.categories, True)
        if dtype.kind == "O" and isinstance(dtype, np.dtype):
            return Column(series.name, dtype, Objects())
        # Of pandas' own dtypes too: Int64, boolean, Sparse[float].
        has_numbers = dtype.kind in "biuf" and not hasattr(dtype, "pyarrow_dtype")
        if has_numbers and _is_exact(series):
            return Column(series.name, dtype)
        # Integers beyond 2^53 are told apart by their places.
        return Column(series.name, dtype, pandas.Index(series.dropna().unique()))

    def encode(self, series: Any, argument: str) -> tuple[np.ndarray, Column]:  # [n] float64
        """The numbers for some rows' values, and the column that takes them back.

        Raises:
            ArgumentError: if a value cannot be in this column; it is named.
        """
        if isinstance(self.values, Objects):
            return self._places(series, argument)
        if self.values is None:
            if self.dtype == bool and _is_of_truths(series):  # and some are missing
                objects = replace(self, dtype=np.dtype(object), values=Objects([False, True]))
                return objects._places(series, argument)
            numbers = self._numbers(series, argument)
            return numbers, self if self._holds(numbers) else replace(self, dtype=self._wider)
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
            if isinstance(self.dtype, np.dtype):
                return numbers.astype(self.dtype)
            # As for numpy's integers: rows that probe the model need not be whole.
            whole = numbers if self.dtype.kind == "f" else np.trunc(numbers)
            return pandas.array(whole, dtype=self.dtype)
        codes = numbers.astype(np.int64)
        if isinstance(self.values, Objects):
            return pandas.Series(self.values.at(codes), dtype=object)
        if self.is_closed:
            return pandas.Categorical.from_codes(codes, dtype=self.dtype)
        taken = pandas.Series(self.values).reindex(codes).reset_index(drop=True)
        try:
            return taken.astype(self.dtype)
        except (TypeError, ValueError):  # a missing value where there can be none
            return taken

    def without_integers(self) -> Column:
        """The same for numbers that need not be whole."""
        return self if self.dtype.kind == "f" else replace(self, dtype=self._wider)

    @property
    def _wider(self) -> Any:
        """The dtype of numbers that do not fit this column's."""
        if isinstance(self.dtype, np.dtype) or hasattr(self.dtype, "subtype"):
            return np.dtype(np.float64)
        return sys.modules["pandas"].Float64Dtype()  # which has a place for what is missing

    def _holds(self, numbers: np.ndarray) -> bool:
        """Whether numbers come back from the dtype as they are."""
        dtype = self.dtype
        if not isinstance(dtype, np.dtype):
            dtype = getattr(dtype, "numpy_dtype", None) or dtype.subtype
            if not hasattr(self.dtype, "subtype"):  # NaN is what is missing
                numbers = numbers[~np.isnan(numbers)]
        if dtype.kind != "f" and not np.isfinite(numbers).all():
            return False
        return np.array_equal(numbers.astype(dtype).astype(np.float64), numbers, equal_nan=True)

    def _places(self, series: Any, argument: str) -> tuple[np.ndarray, Column]:
        try:
            places, values = self.values.places(series.astype(object).to_numpy())
        except TypeError as error:
            odd = next(v for v in series if getattr(type(v), "__hash__", None) is None)
            raise self._error(argument, "values that can be hashed", repr(odd)) from error
        return places.astype(np.float64), replace(self, values=values)

    def _numbers(self, series: Any, argument: str) -> np.ndarray:
        text = series.dtype == object and series.map(lambda v: isinstance(v, str | bytes)).any()
        if not text:
            try:
                numbers = _floats(series)
            except (TypeError, ValueError):
                pass
            else:
                if _is_exact(series):
                    return numbers
                odd = next(v for v in series if isinstance(v, int | np.integer) and abs(v) > _MOST)
                raise self._error(argument, "integers up to 2^53, as in the background", repr(odd))
        other = next((v for v in series if not isinstance(v, int | float | np.number)), None)
        raise self._error(argument, "numbers, as in the background", repr(other))

    def _error(self, argument: str, expected: str, got: str) -> ArgumentError:
        return ArgumentError(f"{argument}: column {self.name!r}: expected {expected}, got {got}")


def _key(value: Any) -> Any:
    """What two objects have in common if they are the same to a model."""
    kind = bool if isinstance(value, np.bool_) else type(value)
    is_nan = isinstance(value, float) and value != value  # which would not be found again
    return kind, None if is_nan else value


def _is_of_truths(series: Any) -> bool:
    """Whether a column of objects has truth values, and others that are missing."""
    if series.dtype != object or not series.isna().any():
        return False
    return all(isinstance(v, bool | np.bool_) for v in series.dropna())


def _floats(series: Any) -> np.ndarray:
    return np.asarray(series.to_numpy(dtype=np.float64, na_value=np.nan))


def _is_exact(series: Any) -> bool:
    """Whether its integers are the same in float64."""
    if series.dtype == object:
        whole = [v for v in series if isinstance(v, int | np.integer)]
        return all(int(float(v)) == int(v) for v in whole)
    if series.dtype.kind not in "iu":
        return True
    exact = series.dropna().to_numpy(dtype=f"{series.dtype.kind}8")
    numbers = exact.astype(np.float64)
    if (numbers >= 2.0 ** (63 if exact.dtype.kind == "i" else 64)).any():  # a cast is undefined
        return False
    return bool((numbers.astype(exact.dtype) == exact).all())
