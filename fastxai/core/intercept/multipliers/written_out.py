"""Operations that are written out in others, which have rules."""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from functools import cache, reduce
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import _reduction as _Reduction

from ..relu import Function
from .calls import is_weight


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if enable_gqa:
        times = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(times, -3), value.repeat_interleave(times, -3)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = query @ key.transpose(-2, -1) * scale
    blind = None  # [..., L, 1]: queries that may see no key, as those of padding
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.device).tril()
    if attn_mask is not None:
        hidden = attn_mask.dtype == torch.bool
        blind = (~attn_mask if hidden else attn_mask == -torch.inf).all(-1, keepdim=True)
        attn_mask = attn_mask | blind if hidden else attn_mask.masked_fill(blind, 0)
        scores = scores.masked_fill(~attn_mask, -torch.inf) if hidden else scores + attn_mask
    weights = scores.softmax(-1)
    if blind is not None:  # torch's attention gives zeros there, where softmax has NaN
        weights = weights.masked_fill(blind, 0)
    return (F.dropout(weights, dropout_p) if dropout_p > 0 else weights) @ value


def div(input: Tensor, other: Any, *, rounding_mode: str | None = None) -> Tensor:
    if rounding_mode is not None:
        quotient = div(input, other)
        return quotient.floor() if rounding_mode == "floor" else quotient.trunc()
    if not isinstance(other, Tensor) or is_weight(other):
        with torch._C.DisableTorchFunction():
            return torch.div(input, other)
    return input * other.reciprocal()


def div_(input: Tensor, other: Any, *, rounding_mode: str | None = None) -> Tensor:
    return input.copy_(div(input, other, rounding_mode=rounding_mode))


def normalize(
    input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: None = None
) -> Tensor:
    lengths: Tensor = norm(input, p, dim, True)
    return input / lengths.clamp_min(eps)


def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    return (normalize(x1, 2, dim, eps) * normalize(x2, 2, dim, eps)).sum(dim)


def norm(input: Tensor, p: Any = 2.0, dim: Any = None, keepdim: bool = False, **others: Any) -> Any:
    p = others.get("ord", p)
    matrix = isinstance(p, str) and p != "fro"
    p = 2.0 if p in ("fro", None) else p
    if matrix or p == 0:
        return NotImplemented
    dims = tuple(range(input.dim())) if dim is None else dim
    size = modulus(input) if input.is_complex() else input.abs()
    if abs(p) == torch.inf:
        return size.amax(dims, keepdim) if p > 0 else -(-size).amax(dims, keepdim)
    if p == 1:
        return size.sum(dims, keepdim=keepdim)
    if p == 2:
        return (size * size).sum(dims, keepdim=keepdim).sqrt()
    return size.pow(p).sum(dims, keepdim=keepdim).pow(1 / p)


def matrix_norm(
    input: Tensor, ord: Any = "fro", dim: Any = (-2, -1), keepdim: bool = False, **others: Any
) -> Any:
    return norm(input, 2, dim, keepdim) if ord == "fro" else NotImplemented


def linalg_norm(
    input: Tensor, ord: Any = None, dim: Any = None, keepdim: bool = False, **others: Any
) -> Any:
    if ord is None or isinstance(dim, int):
        return norm(input, 2 if ord is None else ord, dim, keepdim)
    return matrix_norm(input, ord, (-2, -1) if dim is None else dim, keepdim, **others)


def cdist(x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: Any = None) -> Tensor:
    distances: Tensor = norm(x1.unsqueeze(-2) - x2.unsqueeze(-3), p, -1)
    return distances


def pairwise_distance(
    x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False
) -> Tensor:
    distances: Tensor = norm(x1 - x2 + eps, p, -1, keepdim)
    return distances


def var(
    input: Tensor,
    dim: Any = None,
    unbiased: bool = True,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Tensor:
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    dims = tuple(range(input.dim())) if dim is None else dim
    apart = input - input.mean(dims, keepdim=True)
    total = (apart * apart).sum(dims, keepdim=keepdim)
    less = float(unbiased) if correction is None else correction
    return total / (input.numel() / max(1, total.numel()) - less)


def std(*args: Any, **kwargs: Any) -> Tensor:
    return var(*args, **kwargs).sqrt()


def and_mean(spread: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, Tensor]]:
    def both(input: Tensor, dim: Any = None, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        keepdim = kwargs.get("keepdim", args[1] if len(args) > 1 else False)
        dims = tuple(range(input.dim())) if dim is None or isinstance(dim, bool) else dim
        return spread(input, dim, *args, **kwargs), input.mean(dims, keepdim=keepdim)

    return both


def maximum(input: Tensor, other: Tensor) -> Tensor:
    return input + (other - input).relu()


def minimum(input: Tensor, other: Tensor) -> Tensor:
    return input - (input - other).relu()


def amin(input: Tensor, dim: Any = (), keepdim: bool = False) -> Tensor:
    return -(-input).amax(dim, keepdim)


def aminmax(input: Tensor, *, dim: int | None = None, keepdim: bool = False) -> Any:
    dims = tuple(range(input.dim())) if dim is None else dim
    found = amin(input, dims, keepdim), input.amax(dims, keepdim)
    return torch.return_types.aminmax(found)


def greater(input: Tensor, other: Any = None, *args: Any, **kwargs: Any) -> Any:
    return maximum(input, other) if isinstance(other, Tensor) else NotImplemented


def least(input: Tensor, dim: Any = None, keepdim: bool = False, **others: Any) -> Any:
    dim = others.get("other", dim)
    if isinstance(dim, Tensor):
        return minimum(input, dim)
    if dim is None:
        return NotImplemented
    values, places = (-input).max(dim, keepdim)
    return torch.return_types.min((-values, places))


def quantile(
    input: Tensor,
    q: Any,
    dim: int | None = None,
    keepdim: bool = False,
    *,
    interpolation: str = "linear",
    out: None = None,
) -> Tensor:
    input, dim = (input.flatten(), 0) if dim is None else (input, dim)
    ranked = input.sort(dim)[0]
    wanted = q.tolist() if isinstance(q, Tensor) else q
    each = [
        _at_rank(ranked, share * (input.shape[dim] - 1), dim, interpolation)
        for share in (wanted if isinstance(wanted, list) else [wanted])
    ]
    found = torch.stack([value.unsqueeze(dim) if keepdim else value for value in each])
    return found if isinstance(wanted, list) else found[0]


def _at_rank(ranked: Tensor, rank: float, dim: int, interpolation: str) -> Tensor:
    below, above = int(rank), min(int(rank) + 1, ranked.shape[dim] - 1)
    part = rank - below
    part = {"lower": 0, "higher": float(part > 0), "midpoint": 0.5 * (part > 0)}.get(
        interpolation, round(part) if interpolation == "nearest" else part
    )
    return ranked.select(dim, below) * (1 - part) + ranked.select(dim, above) * part


def glu(input: Tensor, dim: int = -1) -> Tensor:
    passed, gate = input.chunk(2, dim)
    return passed * gate.sigmoid()


def masked_fill(input: Tensor, mask: Tensor, value: Any) -> Tensor:
    value = value if isinstance(value, Tensor) else input.new_tensor(value)
    return torch.where(mask, value.to(input.dtype), input)


def masked_fill_(input: Tensor, mask: Tensor, value: Any) -> Tensor:
    return input.copy_(masked_fill(input.clone(), mask, value))


def setitem(input: Tensor, index: Any, value: Any) -> Any:
    """``x[mask] = number`` is a mask's work; all else is linear."""
    is_mask = isinstance(index, Tensor) and index.dtype == torch.bool
    if not is_mask or index.shape != input.shape or (isinstance(value, Tensor) and value.dim()):
        return NotImplemented
    masked_fill_(input, index, value)
    return None


def modulus(input: Tensor) -> Any:
    if not input.is_complex():
        return NotImplemented
    parts = torch.view_as_real(input)
    return (parts * parts).sum(-1).sqrt()


def angle(input: Tensor) -> Any:
    return torch.atan2(input.imag, input.real) if input.is_complex() else NotImplemented


def polar(abs: Tensor, angle: Tensor, *, out: None = None) -> Tensor:
    return torch.complex(abs * angle.cos(), abs * angle.sin())


def multi_dot(tensors: Sequence[Tensor], *, out: None = None) -> Tensor:
    return reduce(torch.matmul, tensors)


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: Any = None,
    ignore_index: int = -100,
    reduce: Any = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    logs = F.log_softmax(input, int(input.dim() > 1))
    if not target.is_floating_point() and not label_smoothing:
        return F.nll_loss(logs, target, weight, size_average, ignore_index, reduce, reduction)
    classes = int(input.dim() > 1)
    weights = torch.ones_like(logs[:1]) if weight is None else by_class(weight, logs)
    if target.is_floating_point():
        shares = target * (1 - label_smoothing) + label_smoothing / logs.shape[classes]
        found = -(logs * shares * weights).sum(classes)
        return _reduce(found, reduction, found.numel() if classes == 0 else len(logs))
    kept = target != ignore_index
    labels = target.where(kept, torch.zeros_like(target))
    chosen = F.one_hot(labels, logs.shape[classes]).movedim(-1, classes).to(logs.dtype)
    smooth = label_smoothing / logs.shape[classes]
    found = -(logs * (chosen * (1 - label_smoothing) + smooth) * weights).sum(classes) * kept
    return _reduce(found, reduction, ((chosen * weights).sum(classes) * kept).sum())


def by_class(weight: Tensor, logs: Tensor) -> Tensor:
    return weight.reshape(-1, *[1] * max(0, logs.dim() - 2))


def _reduce(found: Tensor, reduction: str, count: Any) -> Tensor:
    if reduction == "none":
        return found
    return found.sum() / count if reduction == "mean" else found.sum()


def reduced(loss: Function) -> Callable[..., Tensor]:
    """A loss of torch's in Python, number by number, and what it is reduced to."""
    call, each = signature(loss), opened(loss)

    def written_out(*args: Any, **kwargs: Any) -> Tensor:
        given = call.bind(*args, **kwargs)
        given.apply_defaults()
        reduction = given.arguments["reduction"]
        old = given.arguments.pop("size_average", None), given.arguments.pop("reduce", None)
        if old != (None, None):
            reduction = _Reduction.legacy_get_string(*old, emit_warning=False)
        given.arguments["reduction"] = "none"
        found = each(**given.arguments)
        count = found.shape[0] if reduction == "batchmean" else found.numel()
        return _reduce(found, reduction.replace("batchmean", "mean"), max(1, count))

    return written_out


@cache
def opened(function: Any) -> Function:
    """A function of torch's in Python, whose operations are seen one by one."""
    never = dict.fromkeys(_ASKED, lambda *tensors: False)
    names = {**function.__globals__, **never}
    result = types.FunctionType(
        function.__code__, names, function.__name__, function.__defaults__, function.__closure__
    )
    result.__kwdefaults__ = function.__kwdefaults__
    return result


_ASKED = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")
