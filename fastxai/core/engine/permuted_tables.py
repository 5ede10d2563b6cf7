"""Tables of arrays, frames and sparse matrices with some columns permuted, for what takes those.

A table is copied once, or a few times beneath itself; from then on only the columns change that a
question is about, and are put back after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

_MOST = 16 << 20  # bytes of a block of tables: four times as many were slower, out of the caches


@dataclass(frozen=True)
class Change:
    """Some columns, whose rows are to come in another order."""

    columns: np.ndarray  # [m] int64
    order: np.ndarray  # [n] int64


class _Tables(Protocol):
    def changed(self, changes: Sequence[Change]) -> Any:
        """A context with the table after each of these changes, one beneath another."""
        ...


def ask_permuted(
    ask: Callable[[Any], Any],
    table: Any,
    changes: Sequence[Change],
    visit: Callable[[int, Any, Any], None],
    may_stack: bool,
) -> None:
    """Asks about a table after each of many changes.

    Args:
        ask: the model: takes a table, and returns an array, or a list or dict of them, with a row
            for each of the table's; or anything, unless tables are stacked.
        table: an array [n, M], a DataFrame or a sparse matrix, which stays as it is.
        changes: what becomes of the table, each time anew.
        visit: what to do with an answer, as ``visit(place of the change, answer, table)``; the
            table may be one of another change.
        may_stack: whether several tables may be asked about in one call.
    """
    is_sparse, is_frame = hasattr(table, "tocsc"), hasattr(table, "iloc")
    copies = 1
    if may_stack and not is_sparse:
        size = table.memory_usage(index=False).sum() if is_frame else table.nbytes
        copies = min(len(changes), max(1, int(_MOST // max(1, size))))
        # In equal parts: the last call is worth as much as the others.
        copies = -(-len(changes) // -(-len(changes) // copies)) if changes else 1
    kind = _Sparse if is_sparse else _Frames if is_frame else _Arrays
    tables: _Tables = kind(table, copies)
    rows = table.shape[0]
    for first in range(0, len(changes), copies):
        block = changes[first : first + copies]
        with tables.changed(block) as changed:
            answers = ask(changed)
            for i in range(len(block)):
                answer = answers if copies == 1 else _part(answers, slice(i * rows, (i + 1) * rows))
                visit(first + i, answer, table if copies > 1 else changed)


def _part(answers: Any, rows: slice) -> Any:
    if isinstance(answers, dict):
        return {name: _part(answer, rows) for name, answer in answers.items()}
    if isinstance(answers, list):  # one for each of several outputs
        return [_part(answer, rows) for answer in answers]
    return answers[rows]


class _Arrays:
    def __init__(self, table: np.ndarray, copies: int):  # [n, M]
        self._table = table
        self._made = np.tile(table, (copies, 1)) if copies > 1 else table.copy()

    @contextmanager
    def changed(self, changes: Sequence[Change]) -> Iterator[np.ndarray]:  # [k n, M]
        count = len(self._table)
        for i, change in enumerate(changes):
            own = self._table[:, change.columns]
            self._made[i * count : (i + 1) * count, change.columns] = own[change.order]
        yield self._made[: len(changes) * count]
        for i, change in enumerate(changes):
            own = self._table[:, change.columns]
            self._made[i * count : (i + 1) * count, change.columns] = own


class _Frames:
    def __init__(self, table: Any, copies: int):
        self._table, self._copies = table, copies
        self._rows = np.tile(np.arange(len(table)), copies)
        self._made = table.copy()
        if copies > 1:  # rows of one index would be hard to tell apart
            self._made = table.iloc[self._rows].reset_index(drop=True)

    @contextmanager
    def changed(self, changes: Sequence[Change]) -> Iterator[Any]:
        count, made = len(self._table), self._made
        orders: dict[int, np.ndarray] = {}
        for i, change in enumerate(changes):
            for column in change.columns:
                order = orders.setdefault(int(column), self._rows.copy())
                order[i * count : (i + 1) * count] = change.order
        for column, order in orders.items():
            self._set(column, order)
        yield made if len(changes) == self._copies else made.iloc[: len(changes) * count]
        for column in orders:
            self._set(column, self._rows)

    def _set(self, column: int, order: np.ndarray) -> None:  # [copies n] int64
        values = self._table.iloc[order, column]
        values.index = self._made.index
        self._made.isetitem(column, values)


class _Sparse:
    def __init__(self, table: Any, copies: int):
        self._format = table.format
        self._columns = table.tocsc(copy=True)

    @contextmanager
    def changed(self, changes: Sequence[Change]) -> Iterator[Any]:
        (change,) = changes
        made = self._columns.copy()
        place = np.empty_like(change.order)
        place[change.order] = np.arange(len(place))  # where each row goes to
        for column in change.columns:
            own = slice(*made.indptr[column : column + 2])
            made.indices[own] = place[made.indices[own]]
        made.has_sorted_indices = False
        made.sort_indices()
        yield made.asformat(self._format)
