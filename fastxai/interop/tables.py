"""Rows of features as other libraries hold them: taken as tensors, and given back as they came."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.checks import ArgumentError, check
from .columns import Column


@dataclass(frozen=True)
class Table:
    """How rows came, and so how a function of the user's is to be given others.

    Args:
        kind: "array", "tensor", "sparse" or "frame".
        width: how many features a row has.
        names: of the features, if they are known.
        dtype: of tensors.
        device: of tensors.
        columns: of a DataFrame.
        index: a DataFrame's columns as pandas has them.
    """

    kind: str
    width: int
    names: tuple[str, ...] | None = None
    dtype: torch.dtype | None = None
    device: torch.device | None = None
    columns: tuple[Column, ...] = ()
    index: Any = None

    @staticmethod
    def of(data: Any, argument: str) -> tuple[Table, Tensor]:  # [K, M] float64
        """Takes rows, such as a background: arrays, tensors, lists, DataFrames, sparse matrices.

        A Series, or anything else of one dimension, is one row.

        Raises:
            ArgumentError: if they are not rows of numbers, or of columns.
        """
        if is_frame(data):
            frame = data
            columns = [Column.of(frame.iloc[:, i], _pandas()) for i in range(frame.shape[1])]
            names = tuple(map(str, frame.columns))
            table = Table("frame", len(names), names, columns=tuple(columns), index=frame.columns)
            rows = table.take(frame, argument)
            return rows.table, rows.numbers
        if isinstance(data, Tensor):
            numbers, _ = _matrix(data, argument)
            floats = data.dtype if data.is_floating_point() else torch.get_default_dtype()
            table = Table("tensor", numbers.shape[1], dtype=floats, device=data.device)
            return table, numbers
        numbers, _ = _matrix(data, argument)
        kind = "sparse" if is_sparse(data) else "array"
        return Table(kind, numbers.shape[1], names_of(data)), numbers

    def take(self, data: Any, argument: str) -> Taken:
        """Takes further rows, which must fit.

        Raises:
            ArgumentError: naming the column, if one is missing, elsewhere or has other values.
        """
        if self.kind == "frame":
            return self._take_frame(data, argument)
        numbers, is_single = _matrix(data, argument)
        count = numbers.shape[1]
        check(count == self.width, argument, "{} features a row", count, self.width)
        names = names_of(data)
        if names is not None and self.names is not None and {*names} == {*self.names}:
            self._check_order(names, self.names, argument)
        return Taken(numbers, is_single, self, names)

    def back(self, numbers: Tensor) -> Any:  # [n, M] float64
        """Rows as a function of the user's takes them."""
        if self.kind == "tensor":
            return numbers.to(self.device, self.dtype)
        array = numbers.numpy()
        if self.kind == "array":
            return array
        if self.kind == "sparse":
            return sys.modules["scipy.sparse"].csr_matrix(array)
        pandas = _pandas()
        if all(c.values is None and c.dtype == np.float64 for c in self.columns):
            return pandas.DataFrame(array, columns=self.index)
        columns = enumerate(self.columns)
        frame = pandas.DataFrame({i: c.decode(array[:, i], pandas) for i, c in columns})
        frame.columns = self.index
        return frame

    def without_integers(self) -> Table:
        """The same for rows whose numbers need not be whole."""
        return replace(self, columns=tuple(c.without_integers() for c in self.columns))

    def _take_frame(self, data: Any, argument: str) -> Taken:
        pandas = _pandas()
        is_single = False
        if is_series(data):
            data, is_single = data.to_frame().T, True
        elif not is_frame(data):
            data = data.toarray() if is_sparse(data) else data
            data = data.detach().cpu().numpy() if isinstance(data, Tensor) else np.asarray(data)
            is_single = data.ndim == 1
            data = data[None] if is_single else data
            wide = data.ndim == 2 and data.shape[1] == self.width
            expected = "rows of {} features, as the background's"
            check(wide, argument, expected, f"shape {data.shape}", self.width)
            data = pandas.DataFrame(data, columns=self.index)
        self._check_names(list(data.columns), argument)
        parts = [c.encode(data.iloc[:, i], argument) for i, c in enumerate(self.columns)]
        numbers = np.stack([part for part, _ in parts], 1) if parts else np.zeros(data.shape)
        columns = tuple(column for _, column in parts)
        table = self if columns == self.columns else replace(self, columns=columns)
        return Taken(torch.from_numpy(numbers), is_single, table, self.names)

    def _check_names(self, names: list[Any], argument: str) -> None:
        wanted = list(self.index)
        if names == wanted:
            return
        missing = [n for n in wanted if n not in names]
        if missing:
            raise ArgumentError(
                f"{argument}: expected the background's columns, got none called {missing[0]!r}"
            )
        extra = [n for n in names if n not in wanted]
        if extra:
            raise ArgumentError(
                f"{argument}: expected the background's columns, got {extra[0]!r} as well"
            )
        check(len(names) == len(wanted), argument, "{} columns", len(names), len(wanted))
        self._check_order(names, wanted, argument)

    @staticmethod
    def _check_order(names: Sequence[Any], wanted: Sequence[Any], argument: str) -> None:
        for place, (name, other) in enumerate(zip(names, wanted, strict=True)):
            expected = "columns in the background's order, with {!r} at place {}"
            check(name == other, argument, expected, f"{name!r} there", other, place)


@dataclass(frozen=True)
class Taken:
    """Rows that were taken."""

    numbers: Tensor  # [n, M] float64
    is_single: bool  # whether they came as one row without a dimension for rows
    table: Table  # which gives them back
    names: tuple[str, ...] | None


def as_array(data: Any) -> Any:
    """Rows as an explanation holds them: numpy, of any dtype; sparse matrices as they are."""
    if is_frame(data) or is_series(data):
        return data.to_numpy()
    if isinstance(data, Tensor):
        return as_numpy(data)
    if isinstance(data, np.ma.MaskedArray):
        return unmasked(data)
    return data if is_sparse(data) else np.asarray(data)


def as_numpy(tensor: Tensor) -> np.ndarray:
    """A tensor's numbers; numpy has no bfloat16."""
    tensor = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
    return tensor.numpy(force=True)


def unmasked(data: Any) -> np.ndarray:
    """A masked array with NaN where it is masked, as what is there is nobody's."""
    if not np.ma.is_masked(data):
        return np.asarray(data.data)
    floats = data if data.dtype.kind == "f" else data.astype(np.float64)
    return np.asarray(floats.filled(np.nan))


def names_of(data: Any) -> tuple[str, ...] | None:
    """The features' names, of a DataFrame or of one row of it."""
    if is_frame(data):
        return tuple(map(str, data.columns))
    return tuple(map(str, data.index)) if is_series(data) else None


def checked_names(names: Any, count: int, argument: str) -> list[str] | None:
    """Names given by the user, one for each of so many."""
    if names is None:
        return None
    is_list = isinstance(names, Sequence | np.ndarray) or hasattr(names, "tolist")
    check(is_list and not isinstance(names, str), argument, "a list of names", repr(names))
    check(len(names) == count, argument, "{} names", len(names), count)
    return [str(n) for n in names]


def is_frame(data: Any) -> bool:
    """Whether it is a DataFrame; pandas is there already if it is."""
    return "pandas" in sys.modules and isinstance(data, getattr(_pandas(), "DataFrame", ()))


def is_series(data: Any) -> bool:
    """Whether it is a Series."""
    return "pandas" in sys.modules and isinstance(data, getattr(_pandas(), "Series", ()))


def is_sparse(data: Any) -> bool:
    """Whether it is a scipy.sparse matrix or array."""
    return "scipy.sparse" in sys.modules and bool(sys.modules["scipy.sparse"].issparse(data))


def _pandas() -> Any:
    return sys.modules["pandas"]


def _matrix(data: Any, argument: str) -> tuple[Tensor, bool]:  # [n, M] float64
    """Rows of numbers in a copy of their own, and whether they came as one."""
    if isinstance(data, Tensor):
        expected = "dense tensors of real numbers"
        check(data.layout == torch.strided, argument, expected, data.layout)
        check(not data.is_complex(), argument, expected, data.dtype)
        numbers = data.detach().to("cpu", torch.float64, copy=True)
    else:
        if is_frame(data):
            table, numbers = Table.of(data, argument)
            text = next((c for c in table.columns if c.values is not None), None)
            name = None if text is None else f"column {text.name!r} of {text.dtype}"
            check(text is None, argument, "columns of numbers, as in the background", name)
            return numbers, False
        data = data.toarray() if is_sparse(data) else data
        numbers = torch.from_numpy(_floats(data, argument))
    is_single = numbers.dim() == 1
    numbers = numbers[None] if is_single else numbers
    check(numbers.dim() == 2, argument, "rows of features, [n, M]", numbers.shape)
    return numbers, is_single


def _floats(data: Any, argument: str) -> np.ndarray:
    expected = "an array, a tensor, a DataFrame, a sparse matrix or a list of rows"
    fits = isinstance(data, np.ndarray | list | tuple) or is_series(data)
    fits = fits or hasattr(data, "__array__")
    check(fits, argument, expected, type(data).__name__)
    try:
        array = as_array(data)
    except ValueError as error:
        raise ArgumentError(f"{argument}: expected rows of one length, got others") from error
    check(array.dtype.kind != "c", argument, "real numbers", array.dtype)
    try:
        if array.dtype.kind in "US":
            raise ValueError
        if array.dtype == object and any(isinstance(v, str | bytes) for v in array.flat):
            raise ValueError
        return np.array(array, dtype=np.float64)  # a copy
    except (TypeError, ValueError) as error:
        column, odd = _first_text(array)
        raise ArgumentError(
            f"{argument}: column {column}: expected numbers, got {odd!r}"
        ) from error


def _first_text(array: np.ndarray) -> tuple[int, Any]:
    for place, value in np.ndenumerate(array):
        if not isinstance(value, int | float | np.number | np.bool_):
            return place[-1] if place else 0, value
    return 0, array.dtype
