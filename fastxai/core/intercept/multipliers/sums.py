"""Softmax, norms and what else divides by a sum: rules in closed form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .calls import Call, Pulled, bounded, valued

_MODERATE = 64  # logits of this size are exact enough in their own precision


def _mean_of_exp(a: Tensor, b: Tensor) -> Tensor:
    """(eᵃ − eᵇ) / (a − b), which is eᵃ where they are equal."""
    less = (a - b).abs_().neg_()
    ratio = torch.expm1(less).div_(less)
    return torch.maximum(a, b).exp_().mul_(torch.where(less < 0, ratio, 1.0))


@torch.no_grad()
def _logsumexp(ends: tuple[Tensor, Tensor], dims: Any) -> tuple[Tensor, Tensor, Tensor]:
    """The multipliers of log Σ exp, and its value at the inputs and the baselines."""
    total, at_baseline = (t.logsumexp(dims, keepdim=True) for t in ends)
    top = torch.maximum(total, at_baseline)
    share = _mean_of_exp(*(t - top for t in ends))
    share /= _mean_of_exp(total - top, at_baseline - top)
    return share, total, at_baseline


def _ends(call: Call, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The logits and their references, of a dtype and with bounds for what is infinite.

    In float64 where those of float32 would be too coarse for their exponentials.
    """
    x = call.operands[0]
    here, there = x.detach().to(dtype), call.alike[0].to(dtype)
    if call.looks and _are_moderate(here, there):
        return here, there  # which need no bounds
    hidden = -torch.inf  # as masks leave it, and no measure for the others
    seen = (t.masked_fill(t == hidden, 0) for t in (here, there))
    if dtype != torch.float64 and not (call.looks and _are_moderate(*seen)):
        here, there = here.double(), there.double()
    return bounded(here, x.dtype), bounded(there, x.dtype)


def _are_moderate(*ends: Tensor) -> bool:
    extremes = [float(t) for end in ends if end.numel() for t in torch.aminmax(end)]
    return all(-_MODERATE < t < _MODERATE for t in extremes)


def softmax(call: Call) -> Tensor:
    (x,), dim = call.operands, call.argument(1, "dim")
    with torch.no_grad():
        value = call.of(x)
    if dim is None:
        dim = 0 if x.dim() in (0, 1, 3) else 1  # as torch chooses
    here, there = _ends(call, value.dtype)
    share, total, at_baseline = _logsumexp((here, there), dim)
    kept = [share]
    if "log" not in call.func.__name__:
        with torch.no_grad():
            kept.append(_mean_of_exp(here - total, there - at_baseline))

    def pull(gradient: Tensor, share: Tensor, *slope: Tensor) -> tuple[Tensor]:
        gradient = gradient.to(share.dtype)
        for s in slope:
            gradient = gradient * s
        return ((gradient - share * gradient.sum(dim, keepdim=True)).to(x.dtype),)

    found: Tensor = Pulled.apply([value], pull, 1, x, *kept)
    return found


def log_of_sum(call: Call) -> Tensor:
    (x,), dims = call.operands, call.argument(1, "dim")
    with torch.no_grad():
        value = call.of(x)
    share, *_ = _logsumexp(_ends(call, value.dtype), dims)
    surrogate = (share * x.to(share.dtype)).sum(dims, keepdim=True)
    return valued(surrogate.reshape(value.shape).to(value.dtype), value)


def _normalised(
    call: Call,
    dims: Any,
    eps: float,
    centred: bool = True,
    weight: Tensor | None = None,  # as it is multiplied with x
    groups: int | None = None,  # into which channels are parted, for the last dimension to be seen
) -> Tensor:
    """w · u / √(mean u² + eps), where u is x less its mean if centred."""
    (x,) = call.operands
    whole, ends = x.shape, [x.detach(), call.like(call.references[0], x)]
    with torch.no_grad():
        value = call.of(x)
        if groups is not None:
            ends = [t.reshape(*t.shape[:1], groups, -1) for t in ends]
        scale, mean = _scale(ends[0], dims, eps, centred)
        at_baseline, mean_ref = _scale(ends[1], dims, eps, centred)
        # Of the mean of u² to the scale, which goes back to the middle of both ends twice.
        slope = -2 * (scale * at_baseline) ** 2 / (scale + at_baseline)
        kept = [*ends, (scale + at_baseline) / 2, slope]
        kept += [(mean + mean_ref) / 2] if centred else []
        kept += [] if weight is None else [weight.detach()]

    def pull(
        gradient: Tensor,
        x: Tensor,
        reference: Tensor,
        scale: Tensor,
        slope: Tensor,
        *others: Tensor,
    ) -> tuple[Tensor]:
        weighted = gradient if weight is None else gradient * others[-1]
        found, middle = weighted.reshape(x.shape), (x + reference) / 2
        if centred:
            middle -= others[0]
        found = scale * found + middle * (slope * (middle * found).mean(dims, keepdim=True))
        if centred:
            found -= found.mean(dims, keepdim=True)
        return (found.reshape(whole).to(x.dtype),)

    result: Tensor = Pulled.apply([value], pull, 1, x, *kept)
    return result


def _scale(x: Tensor, dims: Any, eps: float, centred: bool) -> tuple[Tensor, Tensor]:
    """What x is multiplied with, and its mean, which is nothing to what is not centred."""
    if not centred:
        return (x * x).mean(dims, keepdim=True).add_(eps).rsqrt_(), x
    variance, mean = torch.var_mean(x, dims, correction=0, keepdim=True)
    return variance.add_(eps).rsqrt_(), mean


def layer_norm(call: Call) -> Tensor:
    (x,), centred = call.operands, "rms" not in call.func.__name__
    shape, weight = call.argument(1, "normalized_shape"), call.argument(2, "weight")
    eps = call.argument(4, "eps", 1e-5) if centred else call.argument(3, "eps")
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    dims = tuple(range(-len(shape), 0)) if not isinstance(shape, int) else (-1,)
    return _normalised(call, dims, eps, centred, weight)


def group_norm(call: Call) -> Tensor:
    (x,), groups = call.operands, call.argument(1, "num_groups")
    weight, eps = call.argument(2, "weight"), call.argument(4, "eps", 1e-5)
    return _normalised(call, -1, eps, weight=_by_channel(weight, x), groups=groups)


def instance_norm(call: Call) -> Tensor:
    (x,), dims = call.operands, tuple(range(2, call.operands[0].dim()))
    weight, eps = call.argument(3, "weight"), call.argument(7, "eps", 1e-5)
    if not call.argument(5, "use_input_stats", True):
        normalised: Tensor = call.of(x)
        return normalised
    return _normalised(call, dims, eps, weight=_by_channel(weight, x))


def _by_channel(weight: Tensor | None, x: Tensor) -> Tensor | None:
    return None if weight is None else weight.reshape(-1, *[1] * (x.dim() - 2))
