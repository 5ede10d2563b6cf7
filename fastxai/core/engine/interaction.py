"""Sees, by few small calls, whether rows influence one another, before they are stacked or parted.

No single call tells. Copies of the same rows hide a mean over the batch, an empty coalition hides a
sum, the inputs hide what later rows do to earlier ones. So two copies that differ are compared,
each with its outputs in a call of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from ..spans import part
from .blocks import fits_whole, is_out_of_memory
from .independence import differ
from .model import Model
from .outputs import NotRowByRow
from .rows import Ends, Rows

# How many of the first rows and of the last are asked about apart: odd numbers, as rows may come in
# pairs, and two of them, as groups may be as large as one of them.
_FIRST, _LAST = 7, 5
_SOME = 64  # rows that stand for a batch that may be too large for memory
_SEEN = 1 << 19  # numbers in the rows among which another copy is looked for

Ask = Callable[[tuple[Tensor, ...], int], Tensor]  # (each [r * B, *F_i], r) -> [r * B, *C]


def settle(
    model: Model, rows: Rows, limit: int | None = None, differentiable: bool = False
) -> None:
    """Finds out whether rows interact, unless that is known, before copies of them are stacked.

    The inputs, or else the first repeat, are asked about alone, and so is another one; both must be
    the same in one call.

    Args:
        model: the bound model.
        rows: R × B rows.
        limit: rows a call at most; None for no limit.
        differentiable: whether inputs may require gradients, for models that take some themselves.
    """
    if not model.is_unsettled or rows.repeats < 2 or rows.batch == 0:
        return
    if limit is not None and limit < rows.batch:  # cut by the user
        model.rows_interact = False
        return
    if not fits_whole(rows, 2, forward_only=True):
        _settle_some(model, rows, differentiable)
        return
    if limit is not None and limit < 2 * rows.batch:  # each copy comes by itself
        return
    every = slice(0, rows.batch)
    with torch.no_grad(), model.statistics_kept():
        try:
            if model.alone is None:
                first = rows.block(slice(0, 1), every)
                model.alone = first, _alone(model, first, every, differentiable)
            first, alone = model.alone
            other = _another(rows, first)
            of_other = _alone(model, other, every, differentiable)
            pairs = zip(first, other, strict=True)
            both = tuple(torch.cat([x.to(t.dtype), t]) for x, t in pairs)
            ends = slice(0, rows.batch), slice(rows.batch, None)
            ask = partial(_asked, model, both, 2, every, differentiable)
            _compare(model, ask, alone, of_other, at=ends)
        except NotRowByRow as error:
            model.take_for_whole_batch(error)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            model.rows_interact = False  # they are cut in any case


def settle_parts(
    model: Model,
    baselines: tuple[Tensor, ...],  # each [B, *F_i] or [1, *F_i]
    limit: int | None,
) -> None:
    """Finds out whether examples may be asked about apart from each other, unless that is known.

    The first few and the last few are, and must have the same outputs as among all; then it is seen
    whether copies may be stacked.
    """
    if model.alone is None or not model.is_unsettled or model.batch < 2:
        return
    inputs, outputs = model.alone
    if not _are_apart(model, inputs, outputs, _ends(model.batch), differentiable=False):
        return
    if limit is not None and limit < 2 * model.batch:  # copies of the batch are not stacked
        model.rows_interact = False
        return
    model.rows_interact = None
    settle(model, Ends(inputs, baselines), limit)


def settle_cut(
    model: Model,
    rows: Rows,
    size: int,
    limit: int | None = None,
    differentiable: bool = False,
) -> None:
    """Finds out whether a batch may be cut into parts of so many examples, unless that is known.

    Rows may come in groups, which are not to be cut. So the first part and the last are asked about
    apart.
    """
    is_cut = limit is not None and limit < rows.batch  # by the user
    if model.cut is None or size <= model.cut or is_cut or model.rows_interact:
        return
    if model.alone is None:
        _settle_some(model, rows, differentiable)
    else:
        inputs, outputs = model.alone
        last = (rows.batch - 1) // size * size
        known, parts = model.rows_interact, (slice(0, size), slice(last, rows.batch))
        if not _are_apart(model, inputs, outputs, parts, differentiable):
            return
        model.rows_interact = known
    model.cut = size


def stacked(
    model: Model,
    block: tuple[Tensor, ...],  # each [r * B, *F_i]
    repeats: int,  # r
    ask: Ask,
    beside_inputs: bool = False,
    differentiable: bool = False,
) -> Tensor | None:  # [r * B, *C]
    """The outputs for the first block with several copies of the batch; None if rows interact.

    They do if the outputs for one of two copies are others than in a call of its own.

    Args:
        model: the bound model.
        block: the rows.
        repeats: how many copies of the batch they are.
        ask: asks the model about rows.
        beside_inputs: whether the inputs, whose outputs are known, come in the same call, and are
            one of the two. They come last: the first could be right by being so, as nodes 0 to
            B - 1 of a graph have its edges.
        differentiable: whether inputs may require gradients, for models that take some themselves.
    """
    batch, every = model.batch, slice(0, model.batch)

    def copy_of(i: int) -> tuple[slice, Tensor]:
        place = slice(i * batch, (i + 1) * batch)
        rows = tuple(t[place].detach().clone() for t in block)
        with torch.no_grad():
            return place, _alone(model, rows, every, differentiable)

    if not beside_inputs:
        other = _furthest(block, tuple(t[:batch] for t in block), repeats)
        first = copy_of(0 if other else repeats - 1)
        second = copy_of(other)
        pair = first[1], second[1]
        return _compare(model, lambda: ask(block, repeats), *pair, at=(first[0], second[0]))
    assert model.alone is not None
    inputs, outputs = model.alone
    place, of_other = copy_of(_furthest(block, inputs, repeats))
    rows = tuple(torch.cat([t, x.to(t.dtype)]) for t, x in zip(block, inputs, strict=True))
    count = repeats * batch
    ends = slice(count, None), place
    found = _compare(model, lambda: ask(rows, repeats + 1), outputs, of_other, at=ends)
    return None if found is None else found[:count]


def _settle_some(model: Model, rows: Rows, differentiable: bool) -> None:
    """By some rows of a batch that may be too large: whether they are the same apart."""
    some = slice(0, min(_SOME, rows.batch))
    block = rows.block(slice(0, 1), some)
    with torch.no_grad(), model.statistics_kept():
        try:
            outputs = _alone(model, block, some, differentiable)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            model.rows_interact = True  # it may want the whole batch
            return
    if _are_apart(model, block, outputs, _ends(len(outputs)), differentiable):
        model.rows_interact = False


def _are_apart(
    model: Model,
    rows: tuple[Tensor, ...],  # each [b, *F_i], of the first examples
    outputs: Tensor,  # [b, *C], at all of them
    parts: Iterable[slice],
    differentiable: bool,
) -> bool:
    """Whether parts of some rows have the same outputs apart; otherwise rows interact."""
    for few in parts:
        some = tuple(part(x, few).clone() for x in rows)
        ask = partial(_asked, model, some, 1, few, differentiable)
        with torch.no_grad(), model.statistics_kept():
            if _compare(model, ask, outputs[few]) is None:
                return False
    return True


def _ends(count: int) -> Iterator[slice]:
    """The first few and the last few of so many rows, in odd numbers."""
    half = count // 2
    most = half - 1 + half % 2
    if most > 0:
        yield slice(0, min(_FIRST, most))
        yield slice(count - min(_LAST, most), count)


def _alone(model: Model, rows: tuple[Tensor, ...], examples: slice, differentiable: bool) -> Tensor:
    """The outputs for examples once, [b, *C]."""
    return _asked(model, tuple(t.clone() for t in rows), 1, examples, differentiable)


def _asked(
    model: Model,
    rows: tuple[Tensor, ...],  # each [r * b, *F_i]
    repeats: int,
    examples: slice,
    differentiable: bool,
) -> Tensor:  # [r * b, *C]
    try:
        return model(rows, repeats, examples).detach()
    except RuntimeError as error:
        if not (differentiable and "grad" in str(error)):
            raise
    with torch.enable_grad():
        return model(tuple(map(_on_leaf, rows)), repeats, examples).detach()


def _on_leaf(rows: Tensor) -> Tensor:
    """A copy that the model may write to, of a leaf of the graph."""
    return rows.requires_grad_().clone() if rows.is_floating_point() else rows


def _another(rows: Rows, first: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """A repeat that differs from the first: one of those in the middle, if they do."""
    every = slice(0, rows.batch)
    numbers = rows.batch * sum(x.shape[1:].numel() for x in rows.inputs)
    count = max(1, min(rows.repeats, _SEEN // max(1, numbers)))
    begin = (rows.repeats - count + 1) // 2
    block = rows.block(slice(begin, begin + count), every)
    i = _furthest(block, first, count)
    other = tuple(t[i * rows.batch : (i + 1) * rows.batch] for t in block)
    for r in (rows.repeats - 1, 0):
        if not all(torch.equal(a.to(b.dtype), b) for a, b in zip(first, other, strict=True)):
            break
        other = rows.block(slice(r, r + 1), every)
    return other


def _furthest(
    block: tuple[Tensor, ...],  # each [r * B, *F_i]
    reference: tuple[Tensor, ...],  # each [B, *F_i] or [1, *F_i]
    repeats: int,
) -> int:
    """Which copy has the largest change in one number; of several, the one nearest the middle.

    What depends on the largest number of the batch shows where that is changed.
    """
    middle, most = repeats // 2, torch.zeros(repeats)
    if repeats < 3:
        return middle
    for rows, x in zip(block, reference, strict=True):
        if rows.is_floating_point() and rows.numel() > 0:
            change = (rows.detach().unflatten(0, (repeats, -1)) - x.detach()).abs()
            most = torch.maximum(most, change.flatten(1).amax(1).nan_to_num().float().cpu())
    distance = (torch.arange(repeats) - middle).abs()
    return int(torch.where(most < most.max(), repeats, distance).argmin())


def _compare(
    model: Model,
    call: Callable[[], Tensor],
    *alone: Tensor,  # each [b, *C]
    at: Sequence[slice] = (slice(None),),
) -> Tensor | None:
    """The outputs of a call, if those at some places are as they were alone.

    Otherwise, or if the call fails, rows interact.
    """
    try:
        outputs = call()
    except NotRowByRow as error:  # what looked like an output for each row was the batch's
        if model.may_answer_for_batch(error):
            model.take_for_whole_batch(error)
        else:
            model.rows_interact = True
        return None
    except Exception as error:
        if is_out_of_memory(error):
            raise
        model.rows_interact = True
        return None
    pairs = zip(alone, at, strict=True)
    changed = [differ(one, outputs[place].detach()) for one, place in pairs]
    model.rows_interact = any(changed)
    return None if model.rows_interact else outputs
