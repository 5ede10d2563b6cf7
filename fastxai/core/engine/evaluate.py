"""Runs the model over described rows, block by block.

Only this module calls the model, and :mod:`.interaction`, which looks at few rows beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from ... import ops
from ..checks import ArgumentError
from ..footprint import Footprint, Multiplications
from ..spans import length, part
from .blocks import Blocks, is_out_of_memory
from .graph import gradients_of, gradients_of_each, numbers, recorded
from .interaction import settle, settle_cut, stacked
from .model import NOTHING_CHANGES, Model
from .outputs import NotRowByRow, one_output_per_row
from .plan import Run
from .progress import Bar, bar
from .rows import BaselinePairRows, InputRows, Rows
from .shortcut import Shortcut, prefix_is_better
from .targets import Target


@dataclass(frozen=True)
class Gradients:
    """What came back for a block of rows."""

    each: list[Tensor]  # for each input [r, b, *F_i]
    rows: list[Tensor]  # the rows themselves, likewise
    repeats: slice
    examples: slice
    place: int = 0  # of the output among several


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


def values(
    model: Model,
    rows: Rows,
    limit: int | None = None,
    progress: str | Bar | None = None,
    to_come: int = 0,
) -> Tensor:
    """The model's chosen outputs for all rows.

    Args:
        model: the bound model.
        rows: R × B rows.
        limit: rows a call at most; None to choose for speed.
        progress: what the progress bar is about, or the bar; None for no bar.
        to_come: how many repeats will be asked afterwards: for many it is learnt what a row costs.

    Returns:
        [R, B, *C], in the model's output dtype; [R, *C] if the model answers for the batch; [R, 0]
        for an empty batch.
    """
    out: Tensor | None = None

    def keep(result: Tensor, repeats: slice, examples: slice) -> None:
        nonlocal out
        every = model.whole_batch or length(examples) == rows.batch
        if every and length(repeats) == rows.repeats:  # copied, as the model may write to its own
            out = result.clone(memory_format=torch.contiguous_format)
            return
        if out is None:
            batch = result.shape[1] if model.whole_batch else rows.batch
            out = result.new_empty(rows.repeats, batch, *result.shape[2:])
        out[repeats, slice(None) if model.whole_batch else examples] = result

    stream(model, rows, visit=keep, limit=limit, progress=progress, to_come=to_come)
    if out is None:
        return torch.empty(rows.repeats, 0, device=rows.device)
    if to_come and model.is_unsettled:
        model.alone = rows.inputs, out[0]
    return out


def stream(
    model: Model,
    rows: Rows,
    visit: Callable[[Tensor, slice, slice], None],
    limit: int | None = None,
    progress: str | Bar | None = None,
    to_come: int = 0,
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
        to_come: how many repeats will be asked afterwards: for many it is learnt what a row costs.
    """
    answered, is_part = False, False  # whether it ever was, and whether not all were asked about
    blocks = Blocks(model, rows, limit, to_come, forward_only=True)
    shortcut = Shortcut(model, rows, blocks.size)
    if model.affine_prefix is not False:
        settle(model, rows, limit)

    def call(repeats: slice, examples: slice, learn: bool) -> Tensor | None:
        r, b = length(repeats), length(examples)
        if b < rows.batch and _is_refused(model, rows, b, limit):
            return None
        affine = shortcut.block(repeats, examples)
        if affine is not None:
            with shortcut:
                return shaped(shortcut.checked(model(affine, r, examples)), r, b)
            return None
        block = rows.block(repeats, examples)

        def ask(block: tuple[Tensor, ...], repeats: int) -> Tensor:
            asked = partial(model, block, repeats, examples)
            return _followed(asked, model, block, repeats * b, learn)

        if b == rows.batch and blocks.are_stacked(r):
            outputs = stacked(
                model,
                block,
                repeats=r,
                ask=ask,
                beside_inputs=blocks.takes_inputs,
                has_room=limit is None,
            )
            if outputs is None and rows.together:  # what the user's functions made is used
                return copy_by_copy(block, r, learn)
            return None if outputs is None else shaped(outputs, r, b)
        return shaped(ask(block, r), r, b)

    def shaped(outputs: Tensor, r: int, b: int) -> Tensor:
        return outputs[None] if model.whole_batch else outputs.reshape(r, b, *outputs.shape[1:])

    def copy_by_copy(block: tuple[Tensor, ...], repeats: int, learn: bool) -> Tensor:
        copies = zip(*(t.chunk(repeats) for t in block), strict=True)
        every = slice(0, rows.batch)
        outputs = [
            _followed(partial(model, c, 1, every), model, c, rows.batch, learn) for c in copies
        ]
        return torch.stack(outputs)

    def run(repeats: slice, examples: slice, learn: bool) -> bool:
        nonlocal answered, is_part
        r, b = length(repeats), length(examples)
        is_part = b < rows.batch
        is_opaque = model.cost is not None and model.cost.is_opaque
        with model.alone_on_cores() if is_opaque else NOTHING_CHANGES:
            result = call(repeats, examples, learn)
            if result is None:
                return False
            answered = True
            visit(result, repeats, examples)
        advance(r * b)
        return True

    total = rows.repeats * rows.batch
    with torch.no_grad(), model.statistics_kept(), bar(progress, total) as advance:
        while True:
            try:
                blocks.visit(run, shortcut.run)
                break
            except NotRowByRow as error:
                if answered:  # an earlier block was row by row
                    raise
                model.take_for_whole_batch(error)
            except Exception as error:
                # It may want the whole batch, having something of as many rows beside it.
                if answered or not is_part or is_out_of_memory(error):
                    raise
                model.rows_interact = True


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
    return _gradient_sums(model, rows, add, None, limit)[0]


def gradient_sums(
    model: Model, rows: Rows, add: Add, targets: Sequence[Target]
) -> list[tuple[Tensor, ...]]:
    """What :func:`gradient_sum` finds for each of several outputs, with one call for all of them.

    A block's gradients are added up output by output. Its rows may be pairs: gradients are taken
    for their first halves, the inputs.

    Args:
        model: the bound model, which chooses no output: interactions are seen in all of them.
        rows: R × B rows.
        add: what adds a block's gradients to the sums of the output at hand. It may be called again
            for a block, from the first output on.
        targets: which outputs, at least one.

    Returns:
        for each output what :func:`gradient_sum` returns.

    Raises:
        RuntimeError: if one of the outputs does not depend on an input.
    """
    if isinstance(add, Weighted) and prefix_is_better(model, rows, targets):
        each = (model.choosing(target) for target in targets)
        return [_gradient_sums(one, rows, add, None)[0] for one in each]
    return _gradient_sums(model, rows, add, targets)


def _gradient_sums(
    model: Model, rows: Rows, add: Add, targets: Sequence[Target] | None, limit: int | None = None
) -> list[tuple[Tensor, ...]]:
    """Those of several outputs; without targets those of the one that the model chooses."""
    totals: list[list[Tensor]] = [[] for _ in targets or (None,)]
    count = len(rows.inputs)

    def by_shortcut(
        affine: tuple[Tensor, ...], repeats: slice, examples: slice, learn: bool
    ) -> None:
        r, b = length(repeats), length(examples)
        with torch.enable_grad():
            asked = lambda: shortcut.checked(model(affine, r, examples))  # noqa: E731
            output = one_output_per_row(_followed(asked, model, shortcut.tensors, r * b, learn))
        assert isinstance(add, Weighted)
        each = add.of(repeats).to(output.dtype)
        shortcut.gather(output, each.repeat_interleave(b))

    def run(repeats: slice, examples: slice, learn: bool) -> bool:
        r, b = length(repeats), length(examples)
        if b < rows.batch and _is_refused(model, rows, b, limit, differentiable=True):
            return False
        affine = shortcut.block(repeats, examples)
        if affine is not None:
            with shortcut:
                by_shortcut(affine, repeats, examples, learn)
                return True
            return False
        block = rows.block(repeats, examples)
        leaves = tuple([row.detach().requires_grad_() for row in block[:count]])

        def ask(block: tuple[Tensor, ...], repeats: int) -> Tensor:
            asked = partial(recorded, model, block, repeats, examples, targets is None)
            return _followed(asked, model, block[:count], repeats * b, learn)

        block = leaves + block[count:]
        first: list[Tensor] = []
        if b == rows.batch and blocks.are_stacked(r):
            output = stacked(model, block, r, ask, differentiable=True)
            if output is None:
                return False
            first.append(output)
            del output

        def again() -> Tensor:
            return first.pop() if first else ask(block, r)

        if targets is None:
            gradients: Iterable[tuple[Tensor, ...]] = [gradients_of(again(), leaves)]
        else:
            gradients = gradients_of_each(model, targets, again, leaves, r, examples)
        made = [t.reshape(r, b, *t.shape[1:]) for t in leaves]
        sums = []
        for place, (total, slopes) in enumerate(zip(totals, gradients, strict=True)):
            each = [t.reshape(r, b, *t.shape[1:]) for t in slopes]
            found = Gradients(each, made, repeats, examples, place)
            sums.append(add([part(t, examples) for t in total], found))
        if not totals[0] and b < rows.batch:
            zeros = [[s.new_zeros(rows.batch, *s.shape[1:]) for s in new] for new in sums]
            totals[:] = zeros
        # From here on nothing takes memory: a block counts for all inputs, or for none and again.
        if b == rows.batch:
            totals[:] = sums
            return True
        for total, new in zip(totals, sums, strict=True):
            for of_all, part_of_it in zip(total, new, strict=True):
                of_all[examples] = part_of_it
        return True

    with torch.inference_mode(False), torch.no_grad(), model.statistics_kept():
        # What wants to see each gradient sees every row.
        gathers = add.gather if isinstance(add, Weighted) else None
        blocks = Blocks(model, rows, limit)
        shortcut = Shortcut(model, rows, blocks.size, gathers)
        if gathers is None or targets is not None:
            model.affine_prefix = False
        if model.affine_prefix is not False:
            settle(model, rows, limit, differentiable=True)
        _visit(model, blocks, run, shortcut.run)
        gathered = shortcut.sums()
        if totals[0] and gathered:
            return [tuple(one + other for one, other in zip(totals[0], gathered, strict=True))]
        return [tuple(total or gathered or _zeros(rows)) for total in totals]


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
    rows = InputRows(inputs, model.batch, together=True)
    gradients: tuple[Tensor, ...] = ()

    def visit(repeats: slice, examples: slice, learn: bool) -> bool:
        nonlocal gradients
        with torch.enable_grad():
            output = numbers(model, model(rows.block(repeats, examples), 1, examples))
        gradients = gradients_of(output, points())
        return True

    run = Run(rows.kind, model.batch)
    model.runs.append(run)
    with torch.inference_mode(False), torch.no_grad(), model.statistics_kept():
        _visit(model, Blocks(model, rows), visit, run)
    return gradients


def gradients(
    model: Model, rows: Rows, points: Callable[[], tuple[GradientEdge, ...]] | None = None
) -> list[Tensor]:
    """The gradients ∂F/∂row for all rows, each [R, B, *F_i].

    They are of those tensors of a block that are inputs. What else it holds is handed to the model
    as it is.

    Args:
        model: the bound model.
        rows: R × B rows, at least one.
        points: tells those of the latest call, with a row for each of the block's, if gradients are
            to be with respect to points of the graph inside the model: each [R, B, *P_i].

    Raises:
        Unused: the outputs do not depend on one of the inputs or points.
    """
    run, count = Run(rows.kind, rows.repeats * rows.batch), len(rows.inputs)
    model.runs.append(run)
    out: list[Tensor] = []

    def look(repeats: slice, examples: slice, learn: bool) -> bool:
        r, b = length(repeats), length(examples)
        is_cut = b < rows.batch and isinstance(rows, InputRows)
        if is_cut and _is_refused(model, rows, b, differentiable=True):
            return False
        block = rows.block(repeats, examples)
        leaves = block[:count]
        if points is None:
            leaves = tuple([row.detach().requires_grad_() for row in leaves])
        asked = partial(recorded, model, leaves + block[count:], r, examples)
        output = _followed(asked, model, leaves, r * b, learn)
        found = gradients_of(output, leaves if points is None else points())
        if r * b == run.count:  # copied, as several may be one tensor and may be expanded
            copies = [g.clone(memory_format=torch.contiguous_format) for g in found]
            out[:] = [g.view(r, b, *g.shape[1:]) for g in copies]
            return True
        if not out:
            out.extend(g.new_empty(rows.repeats, rows.batch, *g.shape[1:]) for g in found)
        for of_all, g in zip(out, found, strict=True):
            of_all[repeats, examples] = g.reshape(r, b, *g.shape[1:])
        return True

    with torch.inference_mode(False), torch.no_grad(), model.statistics_kept():
        settle(model, rows, differentiable=True)
        _visit(model, Blocks(model, rows), look, run)
    return out or [x.new_zeros(rows.repeats, rows.batch, *x.shape[1:]) for x in rows.inputs]


def multiplications(model: Model, inputs: tuple[Tensor, ...]) -> int:  # each [B, *F_i]
    """Those of the model for one row, in its matrix products and convolutions.

    Zero if there are none, or the model does not take a single row.
    """
    one = slice(0, 1)
    rows = tuple(x[one].clone() for x in inputs)  # the model may write to them
    with torch.no_grad(), model.statistics_kept(), Multiplications() as counter:
        try:
            model(rows, 1, one)
        except Exception:
            return 0
    return int(counter.count)


def _is_refused(
    model: Model, rows: Rows, size: int, limit: int | None = None, differentiable: bool = False
) -> bool:
    """Whether it turns out that so many examples are not to be asked about apart from others."""
    if rows.together or model.rows_interact or isinstance(rows, BaselinePairRows):
        return False  # of pairs it was found out beforehand
    settle(model, rows, limit, differentiable)
    if not (model.rows_interact or model.whole_batch):
        settle_cut(model, rows, size, limit, differentiable)
    return bool(model.rows_interact or model.whole_batch)


def _visit(
    model: Model, blocks: Blocks, run: Callable[[slice, slice, bool], bool], record: Run
) -> None:
    """Runs all blocks; again from the start where the first answer turns out to be the batch's."""
    try:
        blocks.visit(run, record)
    except NotRowByRow as error:
        if record.blocks:
            raise
        model.take_for_whole_batch(error)
        blocks.visit(run, record)
    except RuntimeError as error:
        if "use_reentrant" not in str(error):
            raise
        raise ArgumentError(
            "forward_func: expected torch.utils.checkpoint with use_reentrant=False, as the other "
            "kind has gradients for parameters alone, got use_reentrant=True"
        ) from error


def _zeros(rows: Rows) -> list[Tensor]:
    """For each input a sum of nothing, in the dtype that sums are kept in."""
    wide = [torch.float64 if x.dtype == torch.float64 else torch.float32 for x in rows.inputs]
    return [
        torch.zeros((rows.batch, *x.shape[1:]), dtype=dtype, device=rows.device)
        for x, dtype in zip(rows.inputs, wide, strict=True)
    ]


def _followed(
    call: Callable[[], Tensor], model: Model, rows: Iterable[Tensor], count: int, learn: bool
) -> Tensor:
    """The outputs of a call of the model for so many rows; if asked to, learns what they cost."""
    if not learn:
        return call()
    with Footprint(rows) as footprint:
        outputs = call()
    model.cost = footprint.cost(outputs, count)
    return outputs
