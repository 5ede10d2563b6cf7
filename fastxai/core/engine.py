"""Runs the model over described rows, block by block. Only this module calls the model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, lru_cache

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge
from torch.utils.flop_counter import FlopCounterMode

from .. import ops
from .model import Model, NotRowByRow, Run, scalars
from .prefix import Shortcut
from .progress import Bar, bar
from .rows import Given, Rows, is_affine, length, part

# How many rows to give to the model at once. A call costs a fixed time a, and cache pressure costs
# a time c·n·b a row for n rows that keep b bytes each for the backward pass. a/n + c·n·b is least
# at n = √(a / (c·b)): measured, the best n follows √(K / b) from a tabular MLP (0.7 kB, 4,000 rows)
# to a ResNet-18 (22 MB, 10 rows) with one K, and is flat around it.
_K = {"cpu": 4.2e9, "cuda": 1e12}  # bytes·rows²; cuda: not tuned yet
_MOST_KEPT = 200_000_000  # bytes, on a CPU
# Where rows are matrices enough for themselves (sequences of 128 words, 3 MB each) there is nothing
# to win by more of them than caches hold: 8 at a time are no slower than 25, in half the memory.
_CACHED = 24_000_000  # bytes, on a CPU, unless these are of fewer rows than
_FEW = 8
_REPEATS = 64  # in a block at least, where there are so many
_FREED = 31 << 20  # bytes; glibc learns from what it frees below 32 MiB
# Before the first block has shown what a row keeps, assume this many times its input, less for
# flat rows than for images and sequences; and since it is a guess, not too many rows at once, least
# of all where indices (of words, say) tell nothing about what becomes of them.
_FIRST_CALL = {"flat": (2, 1024), "shaped": (64, 1024), "indices": (64, 16)}


@dataclass(frozen=True)
class Gradients:
    """What came back for a block of rows."""

    each: list[Tensor]  # for each input [r, b, *F_i]
    rows: list[Tensor]  # the rows themselves, likewise
    repeats: slice
    examples: slice


# add(sums, gradients) makes new sums, each [b, *], of those so far, of which there are none at
# first, and of a block's gradients. It may be called again for the same block.
Add = Callable[[list[Tensor], Gradients], list[Tensor]]


@dataclass(frozen=True)
class Weighted:
    """Adds up gradients by weights of the repeats."""

    weights: Tensor  # [R] float64, where the rows are

    def __call__(self, sums: list[Tensor], found: Gradients) -> list[Tensor]:
        w = self.of(found.repeats)
        return [
            ops.path_reduce(sums[i] if sums else None, each, w) for i, each in enumerate(found.each)
        ]

    def of(self, repeats: slice) -> Tensor:
        return part(self.weights, repeats)

    def gather(self, deltas: Tensor, gradients: Tensor) -> Tensor:  # both [K, b, *F]
        """The same, of the sums of weighted gradients over the rows with each delta."""
        return gradients[0] if len(gradients) == 1 else gradients.sum(0)


class Unused(RuntimeError):
    """The outputs do not depend on one of the tensors that they are differentiated by."""

    def __init__(self, position: int):
        super().__init__(
            f"inputs[{position}]: forward_func's output does not depend on it; if that is meant, "
            "pass it in additional_forward_args"
        )
        self.position = position


def values(
    model: Model,
    rows: Rows,
    limit: int | None = None,
    progress: str | None = None,
    measure: bool = False,
) -> Tensor:
    """The model's chosen outputs for all rows.

    Args:
        model: the bound model.
        rows: R × B rows.
        limit: rows a call at most; None to choose for speed.
        progress: what the progress bar is about; None for no bar.
        measure: whether to find out what a row takes, for the calls that come after this one.

    Returns:
        [R, B, *C], in the model's output dtype; [R, *C] if the model answers for the batch; [R, 0]
        for an empty batch.
    """
    out: Tensor | None = None

    def keep(result: Tensor, repeats: slice, examples: slice) -> None:
        nonlocal out
        if out is None:
            batch = result.shape[1] if model.whole_batch else rows.batch
            out = result.new_empty(rows.repeats, batch, *result.shape[2:])
        out[repeats, slice(None) if model.whole_batch else examples] = result

    stream(model, rows, keep, limit, progress, measure)
    return torch.empty(rows.repeats, 0, device=rows.device) if out is None else out


def stream(
    model: Model,
    rows: Rows,
    visit: Callable[[Tensor, slice, slice], None],
    limit: int | None = None,
    progress: str | Bar | None = None,
    measure: bool = False,
) -> None:
    """Shows the model's chosen outputs to ``visit``, block by block; keeps none of them.

    Every row is shown once, as ``visit(outputs [r, b, *C], repeats, examples)``; if the model
    answers for the batch, as ``visit(outputs [r, *C], repeats, all examples)``. An error of
    ``visit`` for want of memory must leave things as they were: it is called again.

    Args:
        model: the bound model.
        rows: R × B rows.
        visit: what to do with the outputs of a block.
        limit: rows a call at most; None to choose for speed.
        progress: what the progress bar is about, or the bar; None for no bar.
        measure: whether to find out what a row takes, for the calls that come after this one.
    """
    seen = 0
    shortcut = Shortcut(model, rows, limit or _rows_in_call(model, rows))

    def call(repeats: slice, examples: slice, measure: bool) -> tuple[Tensor, int] | None:
        affine = shortcut.block(repeats, examples)
        if affine is not None:
            with shortcut:
                return shortcut.checked(model(affine, length(repeats), examples)), 0
            return None
        block = rows.block(repeats, examples)
        if measure:
            return _measured(model, block, length(repeats), examples)
        return model(block, length(repeats), examples), 0

    def run(repeats: slice, examples: slice, measure: bool) -> int | None:
        nonlocal seen
        r, b = length(repeats), length(examples)
        found = call(repeats, examples, measure)
        if found is None:
            return None
        result, kept = found
        result = result[None] if model.whole_batch else result.reshape(r, b, *result.shape[1:])
        visit(result, repeats, examples)
        seen += r * b
        advance(r * b)
        return kept

    if model.mixes_rows:  # what shares statistics is one repeat, unless the user wants otherwise
        limit = limit or rows.batch
    total = rows.repeats * rows.batch
    with torch.no_grad(), model.statistics_kept(), bar(progress, total) as advance:
        try:
            _for_each_block(model, rows, limit, run, measure, shortcut.run)
        except NotRowByRow as error:
            if seen:  # an earlier block was row by row
                raise
            model.take_for_whole_batch(error)
            _for_each_block(model, rows, limit, run, measure, shortcut.run)


def gradient_sum(
    model: Model,
    rows: Rows,
    weights: Tensor | Add,  # [R] float64
    limit: int | None = None,
) -> tuple[Tensor, ...]:
    """Σ_r w_r ∂F/∂row(row_{r,b}) for every example b: the gradients' weighted sum over repeats.

    Nothing of the size of all rows is kept, no gradient is taken for parameters, and no graph is
    left behind.

    Args:
        model: the bound model.
        rows: R × B rows.
        weights: of the repeats; or what adds a block's gradients to the sums in a way of its own.
        limit: rows a call at most; None to choose for speed.

    Returns:
        for each input a tensor [B, *F_i]: float64 for float64 inputs, otherwise float32.

    Raises:
        RuntimeError: if the outputs do not depend on an input.
    """
    add = Weighted(weights.to(rows.device)) if isinstance(weights, Tensor) else weights
    totals: list[Tensor] = []

    def by_shortcut(affine: tuple[Tensor, ...], repeats: slice, examples: slice) -> int:
        r, b = length(repeats), length(examples)
        with torch.enable_grad():
            output = scalars(shortcut.checked(model(affine, r, examples)))
        kept = _bytes_kept(output) if r * b < rows.repeats * rows.batch else 0
        assert isinstance(add, Weighted)
        each = add.of(repeats).to(output.dtype)
        shortcut.gather(output, each.repeat_interleave(b))
        return kept

    def visit(repeats: slice, examples: slice, measure: bool) -> int | None:
        affine = shortcut.block(repeats, examples)
        if affine is not None:
            with shortcut:
                return by_shortcut(affine, repeats, examples)
            return None
        r, b = length(repeats), length(examples)
        leaves = tuple(row.detach().requires_grad_() for row in rows.block(repeats, examples))
        with torch.enable_grad():
            output = scalars(_recorded(model, leaves, r, examples))
        kept = _bytes_kept(output) if measure and r * b < rows.repeats * rows.batch else 0
        gradients = _gradients(output, leaves)
        each, made = (
            [t.reshape(r, b, *t.shape[1:]) for t in tensors] for tensors in (gradients, leaves)
        )
        found = Gradients(each, made, repeats, examples)
        sums = add([part(total, examples) for total in totals], found)
        if not totals and b < rows.batch:
            totals.extend(s.new_zeros(rows.batch, *s.shape[1:]) for s in sums)
        # From here on nothing takes memory: a block counts for all inputs, or for none and again.
        if b == rows.batch:
            totals[:] = sums
            return kept
        for total, new in zip(totals, sums, strict=True):
            total[examples] = new
        return kept

    if model.mixes_rows:  # all rows share statistics, unless the user wants otherwise
        limit = limit or rows.batch * rows.repeats
    with torch.inference_mode(False), torch.no_grad(), model.statistics_kept():
        # What wants to see each gradient sees every row.
        gathers = add.gather if isinstance(add, Weighted) else None
        shortcut = Shortcut(model, rows, limit or _rows_in_call(model, rows), gathers)
        if gathers is None:
            model.affine_prefix = False
        _for_each_block(model, rows, limit, visit, True, shortcut.run)
        gathered = shortcut.sums()
        if totals and gathered:
            return tuple(one + other for one, other in zip(totals, gathered, strict=True))
        return tuple(totals or gathered or _zeros(rows))


def gradients_inside(
    model: Model, inputs: tuple[Tensor, ...], points: Callable[[], tuple[GradientEdge, ...]]
) -> tuple[Tensor, ...]:
    """∂F/∂point for points of the graph that the model comes across on its way from the inputs.

    Args:
        model: the bound model, called once.
        inputs: each [B, *F_i].
        points: tells those of the latest call.

    Raises:
        Unused: the outputs do not depend on one of them.
    """
    rows = Given(inputs, model.batch, together=True)
    gradients: tuple[Tensor, ...] = ()

    def visit(repeats: slice, examples: slice, measure: bool) -> int:
        nonlocal gradients
        with torch.enable_grad():
            output = scalars(model(rows.block(repeats, examples), 1, examples))
        gradients = _gradients(output, points())
        return 0

    run = Run(rows.kind, model.batch)
    model.runs.append(run)
    with torch.inference_mode(False), torch.no_grad(), model.statistics_kept():
        _for_each_block(model, rows, None, visit, False, run)
    return gradients


def gradients(
    model: Model,
    rows: Rows,
    visit: Callable[[tuple[Tensor, ...], Tensor, slice, slice], None],
) -> None:
    """Shows ∂F/∂row to ``visit``, block by block, for those tensors of a block that are inputs.

    What else a block holds is handed to the model as it is. A block is shown as
    ``visit(gradients, each [r, b, *F_i], outputs [r, b], repeats, examples)``.

    Raises:
        RuntimeError: if the outputs do not depend on an input.
    """
    run, count = Run(rows.kind, rows.repeats * rows.batch), len(rows.inputs)
    model.runs.append(run)

    def look(repeats: slice, examples: slice, measure: bool) -> int:
        r, b = length(repeats), length(examples)
        block = rows.block(repeats, examples)
        leaves = tuple(row.detach().requires_grad_() for row in block[:count])
        with torch.enable_grad():
            output = scalars(_recorded(model, leaves + block[count:], r, examples))
        kept = _bytes_kept(output) if measure and r * b < rows.repeats * rows.batch else 0
        found = _gradients(output, leaves)
        shaped = tuple(g.reshape(r, b, *g.shape[1:]) for g in found)
        visit(shaped, output.detach().reshape(r, b), repeats, examples)
        return kept

    with torch.inference_mode(False), torch.no_grad():
        _for_each_block(model, rows, None, look, True, run)


def multiplications(model: Model, inputs: tuple[Tensor, ...]) -> int:  # each [B, *F_i]
    """Those of the model for one row, in its matrix products and convolutions."""
    one = slice(0, 1)
    rows = tuple(part(x, one) for x in inputs)
    with torch.no_grad(), model.statistics_kept(), FlopCounterMode(display=False) as counter:
        model(rows, 1, one)
    return int(counter.get_total_flops()) // 2


def bytes_kept(model: Model, inputs: tuple[Tensor, ...]) -> int | None:  # each [1, *F_i]
    """What the model keeps of a row for a backward pass; None if that cannot be known."""
    with torch.no_grad(), model.statistics_kept():
        rows = tuple(x.clone() for x in inputs)
        return _measured(model, rows, 1, slice(0, 1))[1] or None


def _zeros(rows: Rows) -> list[Tensor]:
    """For each input a sum of nothing, in the dtype that sums are kept in."""
    wide = [torch.float64 if x.dtype == torch.float64 else torch.float32 for x in rows.inputs]
    return [
        torch.zeros((rows.batch, *x.shape[1:]), dtype=dtype, device=rows.device)
        for x, dtype in zip(rows.inputs, wide, strict=True)
    ]


def _measured(
    model: Model, rows: tuple[Tensor, ...], repeats: int, examples: slice
) -> tuple[Tensor, int]:
    """The outputs, and the bytes that a backward pass would have kept: a measure of the model."""
    leaves = tuple(x.clone().requires_grad_(x.is_floating_point()) for x in rows)
    try:
        output = _recorded(model, leaves, repeats, examples)
    except Exception as error:
        # It may be no more than a model that leaves torch (x.numpy()): then without a record.
        if isinstance(error, NotRowByRow) or _is_out_of_memory(error):
            raise
        return model(rows, repeats, examples), 0
    return output.detach(), _bytes_kept(output)


@torch.enable_grad()
def _recorded(
    model: Model, leaves: tuple[Tensor, ...], repeats: int, examples: slice
) -> Tensor:  # [r * b, *C]
    if not model.writes_to_rows:
        try:
            return model(leaves, repeats, examples)
        except RuntimeError as error:
            if "leaf Variable that requires grad" not in str(error):
                raise
        model.writes_to_rows = True
    # The model writes to its input. That is allowed to anything but a leaf of the graph.
    return model(tuple(leaf.clone() for leaf in leaves), repeats, examples)


def _gradients(
    output: Tensor, leaves: tuple[Tensor, ...] | tuple[GradientEdge, ...]
) -> tuple[Tensor, ...]:
    if not output.requires_grad:
        raise RuntimeError(
            "forward_func: its output does not depend on inputs in a way that can be "
            "differentiated: is it detached, computed under no_grad, or rounded to integers?"
        )
    gradients = torch.autograd.grad(output, leaves, torch.ones_like(output), allow_unused=True)
    for i, gradient in enumerate(gradients):
        if gradient is None:
            raise Unused(i)
    return gradients


def _for_each_block(
    model: Model,
    rows: Rows,
    limit: int | None,
    visit: Callable[[slice, slice, bool], int | None],
    measure: bool,
    record: Run,
) -> None:
    """Visits all repeats × examples in blocks; halves the blocks when memory runs out.

    ``visit(repeats, examples, measure)`` runs one block. If asked to measure, it returns the bytes
    that the block kept for the backward pass (0 if that is not known), which decides the size of
    the blocks after it, in this run and in others of this model. It returns None, with nothing
    done, if the model turns out not to take rows that stay affine: then the block is cut as it is
    in all later calls. All this depends on shapes alone, so that the same call is always cut into
    the same blocks.
    """
    if rows.batch == 0 or rows.repeats == 0:
        return
    device = rows.device
    if device.type == "cpu":
        _let_malloc_keep_memory()
    together = rows.together or model.whole_batch  # all examples in every block
    size = rows.batch if model.whole_batch else limit or _rows_in_call(model, rows)
    measure = measure and limit is None and model.bytes_a_row is None
    grain, wide = (rows.grain, rows.mixed == 1) if is_affine(rows) else (1, False)
    # What is summed over repeats is read and written once a block: better few examples at a time
    # than few repeats. A limit of the user's is for calls of all examples, as in Captum.
    tall = 1 if limit else min(rows.repeats, _REPEATS * grain)
    known, most = (model.bytes_a_row, model.affine_prefix), rows.repeats * rows.batch
    open_parts = [(0, rows.batch, 0)]  # examples first..last still need the repeats from r on
    while open_parts:
        first, last, r = open_parts.pop()
        # What the prefix sums at its end is small, and its anchors had better be many at once.
        least = 1 if wide and model.affine_prefix is not False else tall
        b = rows.batch if together else _even_share(last - first, max(1, size // least))
        n = _even_share(rows.repeats - r, max(1, size // b))
        n -= n % grain if n > grain else 0
        try:
            kept = visit(slice(r, r + n), slice(first, first + b), measure)
        except Exception as error:
            divisible = n > 1 or (b > 1 and not together)
            if not divisible or not _is_out_of_memory(error):
                raise
        else:
            if kept is None:
                open_parts.append((first, last, r))
            else:
                record.blocks.append(n * b)
                if first + b < last:
                    open_parts.append((first + b, last, r))
                if r + n < rows.repeats:
                    open_parts.append((first, first + b, r + n))
                if kept:
                    model.bytes_a_row = kept // (n * b)
                measure = False
            if limit is None and known != (model.bytes_a_row, model.affine_prefix):
                known = model.bytes_a_row, model.affine_prefix
                size = min(most, _rows_in_call(model, rows))
            continue
        # Here, out of the except clause, nothing of the failed block is referred to any more.
        size = most = n * b // 2
        measure = False
        open_parts.append((first, last, r))
        if device.type == "cuda":
            torch.cuda.empty_cache()


@cache
def _let_malloc_keep_memory() -> None:
    """Has what one block frees stay in the process for the next.

    glibc's malloc gives memory back to the system above a threshold, which grows with the largest
    piece that was ever freed. A loop of small blocks stays below that, and then spends more time on
    page faults than on the model. No page of the piece freed here is ever touched.
    """
    with suppress(RuntimeError, MemoryError):
        torch.empty(_FREED, dtype=torch.uint8, device="cpu")


def _even_share(count: int, size: int) -> int:
    """The largest part if ``count`` is cut into the fewest parts of at most ``size``."""
    parts = math.ceil(count / size)
    return math.ceil(count / parts)


def _rows_in_call(model: Model, rows: Rows) -> int:
    if model.bytes_a_row is not None:
        made = 0 if model.affine_prefix else rows.row_bytes
        return _rows_a_call(made + model.bytes_a_row, rows.device)
    if not all(x.is_floating_point() for x in rows.inputs):
        kind = "indices"
    else:
        kind = "flat" if all(x.dim() <= 2 for x in rows.inputs) else "shaped"
    expansion, most = _FIRST_CALL[kind]
    guess = _rows_a_call(expansion * rows.row_bytes, rows.device)
    # A single row's output does not tell whether the model answers for rows or for the batch.
    return max(2, min(most, guess))


def _rows_a_call(row_bytes: int, device: torch.device) -> int:
    row_bytes = max(1, row_bytes)
    rows = math.isqrt(int(_K.get(device.type, _K["cuda"])) // row_bytes)
    if device.type == "cuda":
        most = torch.cuda.get_device_properties(device).total_memory // 8
    else:
        most = _MOST_KEPT
        rows = min(rows, max(_FEW, _CACHED // row_bytes))
    return max(1, min(rows, most // row_bytes))


def _bytes_kept(output: Tensor) -> int:
    """Bytes that the graph of ``output`` keeps for the backward pass, less weights and leaves."""
    kept: dict[int, int] = {}
    seen = set()
    todo = [output.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        todo.extend(source for source, _ in node.next_functions)
        for tensor in _saved_tensors(node):
            if not _is_weight(tensor, output.shape[0]):
                size = tensor.numel() * tensor.element_size()
                kept[tensor.data_ptr()] = max(size, kept.get(tensor.data_ptr(), 0))
    return sum(kept.values())


def _saved_tensors(node: torch.autograd.graph.Node) -> Iterator[Tensor]:
    for name in _saved_names(type(node)):
        value = getattr(node, name)
        for tensor in value if isinstance(value, tuple | list) else (value,):
            if isinstance(tensor, Tensor):
                yield tensor


@lru_cache
def _saved_names(kind: type) -> list[str]:
    names = [name for name in dir(kind) if name.startswith("_saved_") or name == "saved_tensors"]
    return [name for name in names if "_sym_" not in name]  # sizes and strides


def _is_weight(tensor: Tensor, rows: int) -> bool:
    # A parameter is a leaf, or a view of one; so are the rows themselves, which the caller counts.
    if tensor.requires_grad:
        root = tensor if tensor._base is None else tensor._base
        return root.is_leaf
    # A mask, an index or what a custom or compiled function saved, unless it is a frozen weight.
    return tensor.dim() == 0 or tensor.shape[0] % rows != 0


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in text or "ALLOC_FAILED" in text or "out of memory" in text
    )
