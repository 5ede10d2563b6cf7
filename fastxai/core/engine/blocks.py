"""Into which blocks the rows for the model are cut."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from functools import cache, cached_property

import torch

from .independence import numbers_written
from .model import Model
from .plan import Run
from .rows import InputRows, Rows, is_affine

# How many rows to give to the model at once. A call costs a fixed time a, and cache pressure costs
# a time c·n·b a row for n rows for which the model writes b bytes each. a/n + c·n·b is least
# at n = √(a / (c·b)): measured, the best n follows √(K / b) from a tabular MLP (1.2 kB, 2,500 rows)
# to a ResNet-18 (40 MB, 10 rows) with one K, and is flat around it. Without gradients what one
# layer writes is soon overwritten, and K is larger.
_K = {"cpu": 6.3e9, "cuda": 1.5e12}  # bytes·rows²; cuda: not tuned yet
_K_FORWARD = {"cpu": 1e11, "cuda": 1.5e12}
_MOST_WRITTEN = 400_000_000  # bytes, on a CPU
# Where rows are matrices enough for themselves (sequences of 128 words, 6 MB each) there is nothing
# to win by more of them than caches hold: 8 at a time are no slower than 25, in half the memory.
# So a block on a CPU writes no more than so many bytes, unless that are fewer rows than a few.
_CACHED, _CACHED_FORWARD = 48_000_000, 24_000_000
_FEW = 8
_REPEATS = 64  # in a block at least, where there are so many
_FREED = 31 << 20  # bytes; glibc learns from what it frees below 32 MiB
# Before a block has shown what a row costs, assume this many times its input, less for flat rows
# than for images and sequences; and since it is a guess, not too many rows at once, least of all
# where indices (of words, say) tell nothing about what becomes of them.
_FIRST_CALL = {"flat": (3, 1024), "shaped": (96, 1024), "indices": (96, 16)}
# To learn what a row costs takes longer than it saves unless so many times the guess are asked.
_WORTH_LEARNING = 2
# What leaves torch (boosted trees, a remote service) has a cost for each call that is not known and
# may be large: it is given as many rows as are no burden by themselves.
_OPAQUE = 2 << 20  # bytes
# All examples are given in one call, as rows may influence one another, unless memory may not do,
# by this guess of what a row takes at once, as a multiple of its own bytes.
_WHOLE = {"flat": 16, "shaped": 64, "indices": 5000}
_KEPT = 3  # times as much where gradients are taken
_MOST_WHOLE = 8 << 30  # bytes


class Blocks:
    """Cuts R × B rows into blocks; smaller ones when memory runs out.

    A block is a rectangle of repeats × examples. All depends on shapes alone, so that the same call
    is always cut into the same blocks.

    Args:
        model: the bound model.
        rows: R × B rows.
        limit: rows in a block at most; None to choose for speed.
        to_come: how many further repeats will be asked of the same model afterwards.
        forward_only: whether no gradients are taken: then what leaves torch gets large blocks.
    """

    def __init__(
        self,
        model: Model,
        rows: Rows,
        limit: int | None = None,
        to_come: int = 0,
        forward_only: bool = False,
    ):
        self._model, self._rows, self._forward_only = model, rows, forward_only
        if model.mixes_rows and limit is None:  # one repeat, or all as Captum's gradient methods
            limit = rows.batch if forward_only else rows.batch * rows.repeats
        self._limit = limit
        self._are_inputs = isinstance(rows, InputRows)
        self._later = (to_come + (0 if self._are_inputs else rows.repeats)) * rows.batch

    @property
    def size(self) -> int:
        """About how many rows a block has, as far as is known."""
        rows, model = self._rows, self._model
        if model.whole_batch or model.rows_interact:
            return rows.batch
        if self._limit is not None:
            return self._limit - (rows.batch if self.leaves_room else 0)
        may_be_whole = rows.repeats == 1 and model.rows_interact is None
        if may_be_whole and fits_whole(rows, 1, self._forward_only):
            return rows.batch
        cost = model.cost
        if cost is None or (cost.is_opaque and not self._forward_only):
            return self._guess
        if cost.is_opaque:
            return max(2, _OPAQUE // max(1, rows.row_bytes))
        made = 0 if model.affine_prefix else rows.row_bytes
        return rows_a_call(made + cost.bytes_written, rows.device, self._forward_only)

    @cached_property
    def _guess(self) -> int:
        """Rows of a call of a model of which nothing is known but its layers."""
        rows, model = self._rows, self._model
        x = rows.inputs[0]
        is_table = len(rows.inputs) == 1 and x.dim() == 2 and x.is_floating_point()
        if is_table and model.is_chain:
            written = numbers_written(model.modules, x.shape[1])
            if written is not None:
                row_bytes = rows.row_bytes + written * x.element_size()
                return max(2, rows_a_call(row_bytes, rows.device, self._forward_only))
        expansion, most = _FIRST_CALL[_kind(rows)]
        guess = rows_a_call(expansion * rows.row_bytes, rows.device, self._forward_only)
        # A single row's output does not tell whether the model answers for rows or for the batch.
        return max(2, min(most, guess))

    @property
    def leaves_room(self) -> bool:
        """Whether a limit leaves room for the inputs beside a block, to see if rows interact."""
        model, limit = self._model, self._limit
        # How functions of the user's own perturb is not to depend on it.
        is_adaptive = model.is_unsettled and model.alone is not None and not self._rows.together
        is_adaptive = is_adaptive and self._rows.repeats > 1
        return is_adaptive and limit is not None and limit >= 2 * self._rows.batch

    @property
    def takes_inputs(self) -> bool:
        """Whether the inputs may come beside a block, to see if rows interact."""
        return self._model.alone is not None and (self._limit is None or self.leaves_room)

    def are_stacked(self, repeats: int) -> bool:
        """Whether a block with so many copies of the batch shows if they may be stacked."""
        return self._model.is_unsettled and (repeats > 1 or self.leaves_room)

    def visit(self, run: Callable[[slice, slice, bool], bool], record: Run) -> None:
        """Runs all blocks.

        Args:
            run: runs one, as ``run(repeats, examples, learn)``. If asked to learn, it sets the
                model's ``cost``, which decides the size of the blocks after it, in this run and in
                others of this model. It returns False, with nothing done, if the model turns out
                not to take rows that stay affine: then the block is cut as in all later calls.
            record: where the numbers of rows are noted.
        """
        rows, model, limit = self._rows, self._model, self._limit
        if rows.batch == 0 or rows.repeats == 0:
            return
        if rows.device.type == "cpu":
            _let_malloc_keep_memory()
        # A single row is a block, whatever is known.
        size = self.size if rows.repeats * rows.batch > 1 else 1
        learn = limit is None and model.cost is None and self._later > 0
        learn = learn and self._later > _WORTH_LEARNING * self._guess
        repeat_multiple, wide = (
            (rows.repeat_multiple, rows.mixed == 1) if is_affine(rows) else (1, False)
        )
        # What is summed over repeats is read and written once a block: better few examples at a
        # time than few repeats. A limit of the user's is for calls of all examples, as in Captum,
        # and where rows may interact, the batch is not cut for that.
        is_whole = limit or self._are_inputs or model.cut is not None
        tall = 1 if is_whole else min(rows.repeats, _REPEATS * repeat_multiple)
        known, most = self._known, rows.repeats * rows.batch
        open_parts = [(0, rows.batch, 0)]  # examples first..last still need the repeats from r on
        while open_parts:
            first, last, r = open_parts.pop()
            # What the prefix sums at its end is small, and its anchors had better be many at once.
            least = 1 if wide and model.affine_prefix is not False else tall
            together = rows.together or model.whole_batch or bool(model.rows_interact)
            b = rows.batch if together else even_share(last - first, max(1, size // least))
            if not together and model.cut:  # which was seen to be right, and so are multiples
                b = min(last - first, max(1, b // model.cut) * model.cut)
            n = even_share(rows.repeats - r, max(1, size // b))
            n -= n % repeat_multiple if n > repeat_multiple else 0
            try:
                is_done = run(slice(r, r + n), slice(first, first + b), learn)
            except Exception as error:
                divisible = n > 1 or (b > 1 and not together)
                if not divisible or not is_out_of_memory(error):
                    raise
            else:
                if not is_done:
                    open_parts.append((first, last, r))
                else:
                    record.blocks.append(n * b)
                    if first + b < last:
                        open_parts.append((first + b, last, r))
                    if r + n < rows.repeats:
                        open_parts.append((first, first + b, r + n))
                    learn = False
                if known != self._known:
                    known, size = self._known, min(most, self.size)
                continue
            # Here, out of the except clause, nothing of the failed block is referred to any more.
            size = most = n * b // 2
            model.cut = None if model.cut is None else 0  # smaller parts are yet to be seen
            learn = False
            open_parts.append((first, last, r))
            if rows.device.type == "cuda":
                torch.cuda.empty_cache()

    @property
    def _known(self) -> tuple[object, ...]:
        """What the size depends on and a block may tell."""
        model = self._model
        cost = model.cost if self._limit is None else None
        return cost, model.affine_prefix, model.rows_interact, model.whole_batch


def even_share(count: int, size: int) -> int:
    """The largest part if ``count`` is cut into the fewest parts of at most ``size``."""
    parts = math.ceil(count / size)
    return math.ceil(count / parts)


def rows_a_call(row_bytes: int, device: torch.device, forward_only: bool) -> int:
    """How many rows a call had better have for which so many bytes are written each."""
    row_bytes = max(1, row_bytes)
    k, cached = (_K_FORWARD, _CACHED_FORWARD) if forward_only else (_K, _CACHED)
    rows = math.isqrt(int(k.get(device.type, k["cuda"])) // row_bytes)
    if device.type == "cuda":
        most = torch.cuda.get_device_properties(device).total_memory // 8
    else:
        most = _MOST_WRITTEN
        rows = min(rows, max(_FEW, cached // row_bytes))
    return max(1, min(rows, most // row_bytes))


def is_out_of_memory(error: Exception) -> bool:
    """Whether the error says that memory ran out, on any device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in text or "ALLOC_FAILED" in text or "out of memory" in text
    )


def fits_whole(rows: Rows, copies: int, forward_only: bool) -> bool:
    """Whether so many copies of all examples may be given in one call, as far as can be guessed."""
    kept = copies * (1 if forward_only else _KEPT)
    return rows.batch * rows.row_bytes * kept * _WHOLE[_kind(rows)] <= _MOST_WHOLE


def _kind(rows: Rows) -> str:
    kind = "flat"
    for x in rows.inputs:
        if not x.is_floating_point():
            return "indices"
        if x.dim() > 2:
            kind = "shaped"
    return kind


@cache
def _let_malloc_keep_memory() -> None:
    """Has what one block frees stay in the process for the next.

    glibc's malloc gives memory back to the system above a threshold, which grows with the largest
    piece that was ever freed. A loop of small blocks stays below that, and then spends more time on
    page faults than on the model. No page of the piece freed here is ever touched.
    """
    with suppress(RuntimeError, MemoryError):
        torch.empty(_FREED, dtype=torch.uint8, device="cpu")
