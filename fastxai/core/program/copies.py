"""Copies of a batch whose rows influence one another: each is a call of the model by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..checks import check
from ..engine.independence import differ, is_row_by_row
from ..modules import modules_of
from .afresh import Afresh

# Calls a function for each copy: (function, copies each [N, B, *F_i], what is the same for all).
Apart = Callable[[Callable[..., Tensor], Sequence[Tensor], Sequence[Any]], Tensor]  # [N * B, *C]

_MOST_CALLS = 256  # of the model that are written out one after the other in a program


def mapped(
    function: Callable[..., Tensor], copies: Sequence[Tensor], extra: Sequence[Any]
) -> Tensor:  # [N * B, *C]
    """All copies in one call inside ``torch.vmap``, where none sees another."""
    return in_order(torch.vmap(lambda *rows: function(*rows, *extra))(*copies)).flatten(0, 1)


def one_by_one(
    function: Callable[..., Tensor], copies: Sequence[Tensor], extra: Sequence[Any]
) -> Tensor:  # [N * B, *C]
    """A call for each copy, one after the other."""
    count = copies[0].shape[0]
    expected = (
        "rows that do not influence one another, or operations that torch.vmap takes, or copies of "
        "the batch for {} calls at most, which are written out one by one. Ask for fewer steps or "
        "samples"
    )
    check(count <= _MOST_CALLS, "forward_func", expected, count, _MOST_CALLS)
    calls = [
        function(*(c.contiguous() for c in rows), *extra) for rows in zip(*copies, strict=True)
    ]
    return torch.cat(calls)


def way_apart(
    module: Afresh,
    inputs: tuple[Tensor, ...],  # each [B, *F_i]
    baselines: tuple[Tensor, ...],  # each [B, *F_i] or [1, *F_i]
    extra: Callable[[int], tuple[Any, ...]],  # the other arguments for so many copies
) -> Apart | None:
    """How copies of the batch are kept apart; None if they may be rows of one call.

    As the engine does, two copies that differ are asked about alone and in one call: both must be
    the same. Values of examples may be the same everywhere, and then say nothing.
    """
    dims = [x.dim() for x in inputs]
    if is_row_by_row(module.module, modules_of(module.module), dims, extra(1)):
        return None
    probes = [
        _mixtures(x, b.expand(x.shape), i)
        for i, (x, b) in enumerate(zip(inputs, baselines, strict=True))
    ]
    pairs = [tuple(p[k] for p in probes) for k in (0, 1)]
    alone = [module(*(t.clone() for t in rows), *extra(1)) for rows in pairs]
    cats = [torch.cat(both) for both in zip(*pairs, strict=True)]
    told = any(not torch.equal(a, b) for a, b in zip(*pairs, strict=True))
    stacked = _tried(lambda: module(*cats, *extra(2))) if told else None
    if stacked is not None and _are_same(stacked, alone):
        if not alone[0].is_floating_point():  # whole numbers and truth values are not rounded
            return None
        changes = alone[0] - alone[1]
        if _are_same(stacked, alone, changes):
            return None
        # Large outputs are rounded by as much as others change, but not beside a copy of the same.
        twins = [module(*(torch.cat([t, t]) for t in rows), *extra(2)) for rows in pairs]
        among = [twins[0][: len(alone[0])], twins[1][len(alone[0]) :]]
        if _are_same(stacked, among, changes):
            return None
    stacks = [torch.stack(both) for both in zip(*pairs, strict=True)]
    outputs = _tried(lambda: mapped(module, stacks, extra(1)))
    return mapped if outputs is not None and _are_same(outputs, alone) else one_by_one


class _InOrder(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone(memory_format=torch.contiguous_format)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.clone(memory_format=torch.contiguous_format)


def in_order(x: Tensor) -> Tensor:
    """A copy that lies in order in memory, and so does its gradient.

    A trace for any number of rows cannot tell whether what was broadcast or transposed can be
    viewed in another shape.
    """
    found: Tensor = _InOrder.apply(x)
    return found


def _tried(call: Callable[[], Tensor]) -> Tensor | None:
    """The outputs of a call; None if it fails, but for want of memory."""
    try:
        return call()
    except torch.OutOfMemoryError:
        raise
    except Exception:
        return None


def _are_same(outputs: Tensor, alone: list[Tensor], changes: Tensor | None = None) -> bool:
    """Whether the outputs in one call are those alone, also as measured by their changes."""
    return outputs.shape[0] == sum(map(len, alone)) and not any(
        differ(one, other, changes)
        for one, other in zip(alone, outputs.split(len(alone[0])), strict=True)
    )


def _mixtures(x: Tensor, baseline: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Two copies of rows like those that methods ask about: some features of the baselines.

    Where an input is its baseline everywhere, numbers between zero and one are added: that is not
    out of any range, also if numbers are taken for indices.
    """
    generator = torch.Generator().manual_seed(seed)

    def drawn() -> Tensor:
        return torch.rand(x.shape, generator=generator).to(x.device)

    if x.is_floating_point() and torch.equal(x, baseline.to(x.dtype)):
        return x + drawn().to(x.dtype), x + drawn().to(x.dtype)
    other = baseline.to(x.dtype)
    some = torch.where(drawn() < 0.8, x, other)
    if x.is_floating_point():  # in every feature: an output may depend on one
        return some, torch.lerp(some, other, 0.9)
    return some, torch.where(drawn() < 0.4, x, other)
