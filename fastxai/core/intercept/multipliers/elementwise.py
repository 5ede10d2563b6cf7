"""Operations on single numbers: the Rescale rule, and Shapley's split of what several share."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...modules import transformation
from ..relu import Substituted
from .calls import ROUNDING, Call, Scaled, are_equal, bounded, valued


def scaled_by(rule: Callable[[Call], tuple[Tensor, Tensor]]) -> Callable[[Call], Any]:
    def apply(call: Call) -> Any:
        (x,) = call.operands
        if transformation() is None:
            return Scaled.apply(x, call, rule)
        with torch.no_grad():
            value, multiplier = rule(call)
        return Substituted.apply(x * multiplier.conj(), value)

    return apply


def relu(call: Call) -> tuple[Tensor, Tensor]:
    (x,), (reference,) = call.operands, call.references
    y = x.relu()
    apart = call.less(x, reference)
    ratio = call.less(y, call.result).div_(apart)
    if _may_be_close(call, apart.abs_(), call.eps):
        ratio = torch.where(apart < call.eps, y.sign(), ratio)
    return y, ratio


def rescale(call: Call) -> tuple[Tensor, Tensor]:
    (x,), (reference,) = call.operands, call.references
    y = call.of(x)
    apart = call.less(x, reference)
    multiplier = call.less(y, call.result).div_(apart)
    most = float(x.abs().amax()) if call.looks and x.numel() else 0
    if _may_be_close(call, apart.abs(), max(call.eps, ROUNDING * torch.finfo(x.dtype).eps * most)):
        is_close = _are_close(x, apart, call.eps)
        # A gradient that nobody needs is not taken where looking is free.
        if not call.looks or is_close.any():
            multiplier = torch.where(is_close, gradient_of(call, x), multiplier)
    return y, multiplier


def gradient_of(call: Call, x: Tensor) -> Tensor:
    """The derivative of an operation of one number to one; zero where there is none.

    It matters where nothing changes: what is infinite there would make nothing of the zero.
    """
    if transformation() is not None:
        y, pull, *_ = torch.func.vjp(call.of, x.detach())
        slopes: Tensor = pull(torch.ones_like(y))[0]
        return slopes.nan_to_num(0, 0, 0)
    leaf = x.detach().requires_grad_()
    with torch.enable_grad():
        y = call.of(leaf)
        (gradient,) = torch.autograd.grad(y, leaf, torch.ones_like(y))
    return gradient.nan_to_num_(0, 0, 0)


def shared_out(call: Call) -> Tensor:
    """An operation of several numbers to one, whose change is split as Shapley does.

    Each operand changes from its reference to itself; what that adds, the others being at either
    end, has the mean over all orders. The share of an operand without gradient, a mask say, goes to
    the others in proportion to their own changes: ``x * (x > 0)`` is then what ``relu`` is.
    """
    return _shared_out(call, call.operands, call.alike, call.of)


def _shared_out(
    call: Call, operands: list[Tensor], references: list[Tensor], of: Callable[..., Tensor]
) -> Tensor:
    """The same with operands, references and values that need not be the call's own."""
    with torch.no_grad():
        y = of(*operands)
        changing = [
            i
            for i, (x, reference) in enumerate(zip(operands, references, strict=True))
            if call.has_gradient(call.operands[i]) or not (call.looks and are_equal(x, reference))
        ]
        players = [i for i in changing if call.has_gradient(call.operands[i])]
        shares = _shapley(of, operands, references, changing, y)
        apart = {i: operands[i] - references[i] for i in players}
        rest = sum((shares[i] for i in changing if i not in apart), torch.zeros(()).to(y))
        total = sum((a.abs() for a in apart.values()), torch.zeros(()).to(y))
        close = {i: _are_close(operands[i], a, call.eps) for i, a in apart.items()}
        slopes = {}
        if not call.looks or any(c.any() for c in close.values()):
            found = _gradients(call, operands, players)
            slopes = dict(zip(players, found, strict=True))
        multipliers = []
        for i in players:
            multiplier = (shares[i] + rest * (apart[i].abs() / total).nan_to_num_(0)) / apart[i]
            if slopes:
                multiplier = torch.where(close[i], slopes[i], multiplier)
            multipliers.append(multiplier)
        value = y if of == call.of else call.of(*call.operands)
    parts = [call.operands[i] * m for i, m in zip(players, multipliers, strict=True)]
    return valued(sum(parts[1:], parts[0]).to(y.dtype), value)


def chosen(call: Call) -> Tensor:
    """``where``, which is linear in what it chooses from unless it chooses otherwise.

    What masks hide is often -inf, and then changes without bound; see :func:`bounded`.
    """
    pairs = zip(call.operands, call.alike, strict=True)
    masks = [(x, reference) for x, reference in pairs if x.dtype == torch.bool]
    if call.looks and all(are_equal(x, reference) for x, reference in masks):
        found: Tensor = call.of(*call.operands)
        return found
    with torch.no_grad():
        operands, references = ([bounded(t) for t in ts] for ts in (call.operands, call.alike))
    return _shared_out(call, operands, references, lambda *xs: bounded(call.of(*xs)))


def _shapley(
    of: Callable[..., Tensor],
    operands: Sequence[Tensor],
    references: Sequence[Tensor],
    changing: list[int],
    y: Tensor,
) -> dict[int, Tensor]:
    """What each changing operand adds to the result, in the mean over all orders."""
    count = len(changing)
    values = {}
    for here in itertools.product((False, True), repeat=count):
        mixed = list(operands)
        for i, is_here in zip(changing, here, strict=True):
            mixed[i] = operands[i] if is_here else references[i]
        values[here] = y if all(here) else of(*mixed)
    shares = {}
    for n, i in enumerate(changing):
        share = torch.zeros_like(y)
        for here, value in values.items():
            if here[n]:
                before = values[here[:n] + (False,) + here[n + 1 :]]  # noqa: RUF005
                share += (value - before) / (count * math.comb(count - 1, sum(here) - 1))
        shares[i] = share
    return shares


def _may_be_close(call: Call, apart: Tensor, eps: float) -> bool:
    """Whether any distance may be below eps; one look at the least is the quickest.

    The least is NaN where any is, which tells nothing of the others.
    """
    return not call.looks or (apart.numel() > 0 and not float(apart.amin()) >= eps)


def _are_close(x: Tensor, apart: Tensor, eps: float) -> Tensor:
    """Where an operand and its reference are the same as far as can be told."""
    close = x.abs().mul_(ROUNDING * torch.finfo(x.dtype).eps).clamp_(min=eps)
    return apart.abs() < close


def _gradients(call: Call, operands: Sequence[Tensor], players: list[int]) -> list[Tensor]:
    """∂y/∂operand for the players, of y's shape; zero where there is none."""
    with torch.enable_grad():
        every = [x.detach() for x in operands]
        with torch.no_grad():
            shape = call.of(*every).shape
        for i in players:
            every[i] = every[i].expand(shape).clone()
        if transformation() is not None:
            return _pulled(call, every, players)
        for i in players:
            every[i].requires_grad_()
        y = call.of(*every)
        leaves = [every[i] for i in players]
        if not y.requires_grad:
            return [torch.zeros_like(leaf) for leaf in leaves]
        found = torch.autograd.grad(y, leaves, torch.ones_like(y), materialize_grads=True)
    return [g.nan_to_num_(0, 0, 0) for g in found]


def _pulled(call: Call, operands: list[Tensor], players: list[int]) -> list[Tensor]:
    """The same inside torch.func.vmap."""

    def of_players(*given: Tensor) -> Any:
        every = list(operands)
        for i, x in zip(players, given, strict=True):
            every[i] = x
        return call.of(*every)

    y, pull, *_ = torch.func.vjp(of_players, *(operands[i] for i in players))
    return [g.nan_to_num(0, 0, 0) for g in pull(torch.ones_like(y))]
