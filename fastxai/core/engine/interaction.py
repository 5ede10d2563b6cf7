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
from .outputs import NotRowByRow, WrongBlock
from .rows import InputAndBaselineRows, Rows

# How many of the first rows and of the last are asked about apart: odd numbers, as rows may come in
# pairs, and two of them, as groups may be as large as one of them.
_FIRST, _LAST = 7, 5
_SOME = 64  # rows that stand for a batch that may be too large for memory
_MOST_OF_THE_WAY = 0.9
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
            ask = partial(_asked, model, _joined(other, first), 2, every, differentiable)
            ends = slice(rows.batch, None), slice(0, rows.batch)
            closer = partial(_differ_closer, model, first, other, differentiable)
            _compare(model, ask, alone, of_other, at=ends, closer=closer)
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
    settle(model, InputAndBaselineRows(inputs, baselines), limit)


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
    if model.cut is None or model.cut > 0 or is_cut or model.rows_interact:
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
    has_room: bool = False,
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
        has_room: whether a further copy may come in the same call. It is between the inputs and all
            others, as what an output depends on may be one feature, which few copies change.
        differentiable: whether inputs may require gradients, for models that take some themselves.
    """
    batch, every, parts = model.batch, slice(0, model.batch), [block]
    if block[0].shape[0] != repeats * batch:
        raise WrongBlock(block, repeats, batch)

    def place(i: int) -> slice:
        return slice(i * batch, (i + 1) * batch)

    def copy_of(i: int) -> tuple[Tensor, ...]:
        return tuple(t[place(i)].detach().clone() for t in block)

    def alone(rows: tuple[Tensor, ...]) -> Tensor:
        with torch.no_grad():
            return _alone(model, rows, every, differentiable)

    if beside_inputs:
        assert model.alone is not None
        first, outputs = model.alone
        if has_room:
            i, second = repeats, _between(block, first, repeats)
            parts.append(second)
        else:
            i = _furthest(block, first, repeats)
            second = copy_of(i)
        parts.append(first)
        count = repeats + len(parts) - 1
        ends = place(count - 1), place(i)
    else:
        i, count = _furthest(block, tuple(t[:batch] for t in block), repeats), repeats
        one = 0 if i else repeats - 1
        first, second, ends = copy_of(one), copy_of(i), (place(one), place(i))
        outputs = alone(first)
    pair = outputs, alone(second)
    rows = _joined(*parts) if beside_inputs else block
    closer = partial(_differ_closer, model, first, second, differentiable)
    found = _compare(model, lambda: ask(rows, count), *pair, at=ends, closer=closer)
    return found[: repeats * batch] if found is not None and beside_inputs else found


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


def _joined(*copies: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Several copies of the batch as rows of one call, in the dtypes of the first."""
    of_inputs = zip(*copies, strict=True)
    return tuple([torch.cat([t.to(same[0].dtype) for t in same]) for same in of_inputs])


def _differ_closer(
    model: Model,
    first: tuple[Tensor, ...],  # each [B, *F_i]
    second: tuple[Tensor, ...],  # each [B, *F_i]
    differentiable: bool,
    changes: Tensor,  # [B, *C], of the outputs from one to the other
) -> bool:
    """Whether a copy has other outputs beside one that differs than beside itself.

    Large outputs are rounded by as much as others change, but not where all calls have the same
    number of rows.
    """
    every = slice(0, model.batch)
    with torch.no_grad(), model.statistics_kept():
        mixed, ones, others = (
            _asked(model, _joined(a, b), 2, every, differentiable).chunk(2)
            for a, b in ((first, second), (first, first), (second, second))
        )
    pairs = (ones[0], mixed[0]), (others[1], mixed[1])
    return any(differ(a, b, changes) for a, b in pairs)


def _another(rows: Rows, first: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Rows all of whose features differ from the first repeat's, if they do in any.

    What an output depends on may be one feature, which few repeats change: then they are between
    the first and all others.
    """
    every = slice(0, rows.batch)
    numbers = rows.batch * sum(x.shape[1:].numel() for x in rows.inputs)
    count = max(1, min(rows.repeats, _SEEN // max(1, numbers)))
    begin = (rows.repeats - count + 1) // 2
    block = rows.block(slice(begin, begin + count), every)
    i = _furthest(block, first, count)
    other = tuple(t[i * rows.batch : (i + 1) * rows.batch] for t in block)
    if not all(bool((t != x).all()) for t, x in zip(other, first, strict=True)):
        other = _between(block, first, count)
    for r in (rows.repeats - 1, 0):
        if not all(torch.equal(a.to(b.dtype), b) for a, b in zip(first, other, strict=True)):
            break
        other = rows.block(slice(r, r + 1), every)
    return other


def _between(
    block: tuple[Tensor, ...],  # each [r * B, *F_i]
    reference: tuple[Tensor, ...],  # each [B, *F_i]
    repeats: int,
) -> tuple[Tensor, ...]:  # each [B, *F_i]
    """Most of the way to the furthest that any copy is from the reference, number by number.

    Not all of it: what is zero hides what it is multiplied by. Whole numbers, which may be indices,
    are taken from the copies, and so are truth values.
    """
    found = []
    for rows, x in zip(block, reference, strict=True):
        copies, x = rows.detach().unflatten(0, (repeats, -1)), x.detach().to(rows.dtype)
        if not rows.is_floating_point():
            which = (copies != x).long().argmax(0, keepdim=True)
            found.append(copies.gather(0, which)[0])
            continue
        least, most = copies.amin(0), copies.amax(0)
        step = torch.where(most - x >= x - least, most, least) - x
        found.append(x + _MOST_OF_THE_WAY * step.nan_to_num(0.0, 0.0, 0.0))
    return tuple(found)


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
    closer: Callable[[Tensor], bool] | None = None,
) -> Tensor | None:
    """The outputs of a call, if those at some places are as they were alone.

    Otherwise, or if the call fails, rows interact.

    Args:
        model: the bound model.
        call: what is compared.
        *alone: outputs in calls of their own; of two, it counts too how much they differ.
        at: where they are in the call.
        closer: looks closer at two, by how much they differ, where rounding may explain what is
            seen; tells whether rows interact.
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
    pairs = [(one, outputs[place].detach()) for one, place in zip(alone, at, strict=True)]
    changes = alone[0] - alone[1] if closer and alone[0].is_floating_point() else None
    changed = [differ(*pair, changes) for pair in pairs]
    interact = any(changed)
    if interact and closer is not None and changes is not None:
        interact = any(differ(*pair) for pair in pairs) or closer(changes)
    model.rows_interact = interact
    return None if interact else outputs
