"""Softmax, norms and what else divides by a sum: rules in closed form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .calls import Call, bounded, valued

_MODERATE = 64  # logits of this size are exact enough in their own precision


def _mean_of_exp(a: Tensor, b: Tensor) -> Tensor:
    """(eᵃ − eᵇ) / (a − b), which is eᵃ where they are equal."""
    apart = (a - b).abs()
    return torch.maximum(a, b).exp() * torch.where(apart > 0, -torch.expm1(-apart) / apart, 1.0)


def _logsumexp(x: Tensor, ends: tuple[Tensor, Tensor], dims: Any) -> tuple[Tensor, Tensor, Tensor]:
    """What has the multipliers of log Σ exp, and its value at the inputs and the baselines."""
    with torch.no_grad():
        total, at_baseline = (t.logsumexp(dims, keepdim=True) for t in ends)
        top = torch.maximum(total, at_baseline)
        share = _mean_of_exp(*(t - top for t in ends))
        share /= _mean_of_exp(total - top, at_baseline - top)
    return (share * x).sum(dims, keepdim=True), total, at_baseline


def _ends(x: Tensor, call: Call) -> tuple[Tensor, Tensor]:
    """The logits and their references, of the dtype of x and with bounds for what is infinite.

    In float64 where those of float32 would be too coarse for their exponentials.
    """
    ends = x.detach(), call.alike[0].to(x.dtype)
    is_coarse = x.dtype != torch.float64 and not (call.looks and all(map(_is_moderate, ends)))
    here, there = (t.double() if is_coarse else t for t in ends)
    dtype = call.operands[0].dtype
    return bounded(here, dtype), bounded(there, dtype)


def _is_moderate(x: Tensor) -> bool:
    if not x.numel():
        return True
    low, high = map(float, torch.aminmax(x.detach()))
    if low == -torch.inf:  # as masks leave it
        low = float(x.detach().masked_fill(x == -torch.inf, 0).amin())
    return low > -_MODERATE and high < _MODERATE


def softmax(call: Call) -> Tensor:
    (x,), dim = call.operands, call.argument(1, "dim")
    with torch.no_grad():
        value = call.of(x)
    x = x.to(value.dtype)
    if dim is None:
        dim = 0 if x.dim() in (0, 1, 3) else 1  # as torch chooses
    here, there = _ends(x, call)
    x = x.to(here.dtype)
    log_sum, total, at_baseline = _logsumexp(x, (here, there), dim)
    surrogate = x - log_sum
    if "log" not in call.func.__name__:
        with torch.no_grad():
            slope = _mean_of_exp(here - total, there - at_baseline)
        surrogate = surrogate * slope
    return valued(surrogate.to(value.dtype), value)


def log_of_sum(call: Call) -> Tensor:
    (x,), dims = call.operands, call.argument(1, "dim")
    with torch.no_grad():
        value = call.of(x)
    ends = _ends(x, call)
    surrogate, _, _ = _logsumexp(x.to(ends[0].dtype), ends, dims)
    return valued(surrogate.reshape(value.shape).to(value.dtype), value)


def _normalised(x: Tensor, reference: Tensor, dims: Any, eps: float, centred: bool) -> Tensor:
    """What has the multipliers of u / √(mean u² + eps), where u is x less its mean if centred."""
    u = x - x.mean(dims, keepdim=True) if centred else x
    with torch.no_grad():
        u_ref = reference - reference.mean(dims, keepdim=True) if centred else reference
        scale, at_baseline = ((v * v).mean(dims, keepdim=True).add(eps).rsqrt() for v in (u, u_ref))
        middle = (u + u_ref) / 2
        slope = -(scale**2) * at_baseline**2 / (scale + at_baseline)  # Δ scale / Δ mean u²
    change = slope * (2 * middle * u).mean(dims, keepdim=True)
    return (scale + at_baseline) / 2 * u + middle * change


def layer_norm(call: Call) -> Tensor:
    (x,), centred = call.operands, "rms" not in call.func.__name__
    shape, weight = call.argument(1, "normalized_shape"), call.argument(2, "weight")
    eps = call.argument(4, "eps", 1e-5) if centred else call.argument(3, "eps")
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    dims = tuple(range(-len(shape), 0)) if not isinstance(shape, int) else (-1,)
    surrogate = _normalised(x, call.like(call.references[0], x), dims, eps, centred)
    return _affine(call, surrogate, weight)


def group_norm(call: Call) -> Tensor:
    (x,), groups = call.operands, call.argument(1, "num_groups")
    weight, eps = call.argument(2, "weight"), call.argument(4, "eps", 1e-5)
    reference = call.like(call.references[0], x)
    x_part, ref_part = (t.reshape(*t.shape[:1], groups, -1) for t in (x, reference))
    surrogate = _normalised(x_part, ref_part, -1, eps, True).reshape(x.shape)
    return _affine(call, surrogate, _by_channel(weight, x))


def instance_norm(call: Call) -> Tensor:
    (x,), dims = call.operands, tuple(range(2, call.operands[0].dim()))
    weight, eps = call.argument(3, "weight"), call.argument(7, "eps", 1e-5)
    if not call.argument(5, "use_input_stats", True):
        normalised: Tensor = call.of(x)
        return normalised
    surrogate = _normalised(x, call.like(call.references[0], x), dims, eps, True)
    return _affine(call, surrogate, _by_channel(weight, x))


def _by_channel(weight: Tensor | None, x: Tensor) -> Tensor | None:
    return None if weight is None else weight.reshape(-1, *[1] * (x.dim() - 2))


def _affine(call: Call, surrogate: Tensor, weight: Tensor | None) -> Tensor:
    with torch.no_grad():
        value = call.of(*call.operands)
    surrogate = surrogate if weight is None else surrogate * weight
    return valued(surrogate, value)
