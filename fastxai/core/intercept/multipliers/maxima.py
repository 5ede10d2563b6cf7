"""Maxima, pooling, and the numbers of an order: sorts, quantiles and their like."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..relu import Function, spellings
from .calls import Call, bounded, valued


def _split(
    call: Call,
    x: Tensor,
    ends: tuple[Tensor, Tensor],
    best: Iterable[Tensor],
    best_ref: Iterable[Tensor],
) -> Tensor:
    """Maxima along x's last dimension, [*, P] of [*, n], and their places, so for the baselines.

    The ends are x and its reference, with bounds for what is infinite.
    """
    (y, place), (y_ref, place_ref) = best, best_ref
    with torch.no_grad():
        apart, stop = ends[0] - ends[1], torch.maximum(y, y_ref)
        parts = ((stop - y_ref, place, 1.0), (y - stop, place_ref.expand(place.shape), 0.0))
        steps = [(step, p, tie, apart.gather(-1, p)) for step, p, tie in parts]
        multipliers = [
            (p, torch.where(there.abs() < call.eps, tie, step / there))
            for step, p, tie, there in steps
        ]
    return sum((x.gather(-1, p) * m for p, m in multipliers), torch.zeros_like(y))


def greatest(call: Call) -> Any:
    (x,), dims = call.operands, call.argument(1, "dim")
    dims = (dims,) if isinstance(dims, int) else tuple(dims)
    reference = call.like(call.references[0], x)
    last = tuple(range(-len(dims), 0))
    rows, ref_rows = (t.movedim(dims, last).flatten(-len(dims)) for t in (x, reference))
    with torch.no_grad():
        value = call.of(x)
        best, best_ref = (t.max(-1, keepdim=True) for t in (rows, ref_rows))
        ends = bounded(rows), bounded(ref_rows)
    surrogate = _split(call, rows, ends, best, best_ref)
    if isinstance(value, Tensor):
        return valued(surrogate.reshape(value.shape), value)
    values = valued(surrogate.reshape(value.values.shape), value.values)
    return torch.return_types.max((values, value.indices))


def max_pool(call: Call) -> Any:
    (x,), name = call.operands, call.func.__name__
    pool, dims, most = POOLS[call.func]
    options = {k: v for k, v in call.kwargs.items() if k not in ("input", "return_indices")}

    def flat(t: Tensor) -> Tensor:
        return t.reshape(*t.shape[:-dims], -1)

    reference = call.like(call.references[0], x)
    with torch.no_grad():
        y, index = pool(x, *call.args[1:most], **options)
        found = pool(call.references[0], *call.args[1:most], **options)
        y_ref, index_ref = (call.like(t, y) for t in found)
    best, best_ref = ([flat(t) for t in pair] for pair in ((y, index), (y_ref, index_ref)))
    surrogate = _split(call, flat(x), (flat(x), flat(reference)), best, best_ref)
    out = valued(surrogate.reshape(y.shape), y)
    wants_index = name.endswith("indices") or call.argument(most, "return_indices", False)
    return (out, index) if wants_index else out


def ordered(dim_place: int) -> Callable[[Call], Any]:
    """Numbers by their rank along a dimension, with their places; the dimension is an argument.

    As a number of rank k goes up from y' to y, there are some that pass by: not above y' at the
    baseline, and not below y at the input. They have equal shares; so for one that goes down. Of
    a maximum that is the rule of :func:`greatest`.
    """

    def rule(call: Call) -> Any:
        (x,), (reference,) = call.operands, call.references
        dim = call.argument(dim_place, "dim", -1)
        with torch.no_grad():
            found, found_ref = call.of(x), call.of(reference)
        y, place = found
        reduced = y.dim() < x.dim()

        def last(t: Tensor, is_reduced: bool = reduced) -> Tensor:
            return (t.unsqueeze(dim) if is_reduced else t).movedim(dim, -1)

        y_ref = last(call.like(found_ref[0], y))
        rows, ref_rows = last(x, False), last(call.alike[0], False)
        with torch.no_grad():
            multipliers = _of_ranks(rows, ref_rows, last(y), y_ref, last(place))
        surrogate = (multipliers @ rows.unsqueeze(-1)).squeeze(-1).movedim(-1, dim)
        values = valued(surrogate.squeeze(dim) if reduced else surrogate, y)
        return type(found)((values, place))

    return rule


def _of_ranks(
    x: Tensor,  # [*, n]
    reference: Tensor,
    y: Tensor,  # [*, k]
    y_ref: Tensor,
    place: Tensor,
) -> Tensor:  # [*, k, n]
    x, reference = x.unsqueeze(-2), reference.unsqueeze(-2)
    change = (y - y_ref).unsqueeze(-1)
    y, y_ref = y.unsqueeze(-1), y_ref.unsqueeze(-1)
    rises = (x >= y) & (reference <= y_ref)
    falls = (x <= y) & (reference >= y_ref)
    passes = torch.where(change > 0, rises, falls)
    shares = change / passes.sum(-1, keepdim=True) / (x - reference)
    itself = F.one_hot(place, x.shape[-1]).to(x.dtype)
    return torch.where(change == 0, itself, torch.where(passes, shares, 0))


POOLS: dict[Function, tuple[Function, int, int]] = {}  # with indices, dimensions, arguments
for _dims in (1, 2, 3):
    for _kind, _most in (("max_pool", 6), ("adaptive_max_pool", 2)):
        _with_indices = getattr(F, f"{_kind}{_dims}d_with_indices")
        for _function in {*spellings(f"{_kind}{_dims}d"), _with_indices}:
            POOLS[_function] = _with_indices, _dims, _most
