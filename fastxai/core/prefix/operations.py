"""The operations that rows follow while they stay affine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..footprint import is_watched
from .affine_rows import FOLLOWS, AffineRows, AffineStep
from .deltas import Dense


def _constant(value: Any, like: AffineRows) -> bool:
    """Whether this is the same for every row, and leaves shape and dtype of rows as they are."""
    if isinstance(value, bool) or not isinstance(value, int | float | Tensor):
        return False
    if not isinstance(value, Tensor):
        return True
    if isinstance(value, AffineRows) or value.requires_grad or value.dim() > like.dim():
        return False
    one = (1, *like.base.value.shape[1:])
    try:
        fits = torch.broadcast_shapes(value.shape, one) == one
    except RuntimeError:
        return False
    return fits and torch.result_type(value, like.base.value) == like.dtype


def _weights(*values: Any) -> bool:
    """Whether these are plain tensors or None."""
    return all(
        v is None or (isinstance(v, Tensor) and not isinstance(v, AffineRows)) for v in values
    )


def _linear(x: Any, weight: Any, bias: Any = None) -> Any:
    if not (isinstance(x, AffineRows) and _weights(weight, bias)):
        return NotImplemented
    if x.dim() < 2 or weight.dim() != 2:
        return NotImplemented

    def of_base(base: Tensor) -> Tensor:
        if base.shape[0] > 1 or is_watched() or base.any():
            return F.linear(base, weight, bias)
        zeros = base.new_zeros(*base.shape[:-1], len(weight))  # as the default baseline is
        return zeros if bias is None else zeros + bias

    return AffineStep(
        x,
        of_base,
        lambda deltas: deltas.linear(weight),
        weight.shape[1],
        spreads=x.dim() > 2,
    )


def _convolution(convolve: Callable[..., Tensor], dims: int) -> Callable[..., Any]:
    def follow(x: Any, weight: Any, bias: Any = None, *args: Any, **kwargs: Any) -> Any:
        batched = isinstance(x, AffineRows) and x.dim() == dims + 2
        if not (batched and _weights(weight, bias)):
            return NotImplemented
        return AffineStep(
            x,
            lambda base: convolve(base, weight, bias, *args, **kwargs),
            lambda deltas: deltas.each(lambda d: convolve(d, weight, None, *args, **kwargs)),
            weight[0].numel(),
            spreads=True,
        )

    return follow


def _batch_norm(
    x: Any,
    mean: Any,
    variance: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    known = not training and mean is not None and variance is not None
    if not (isinstance(x, AffineRows) and known and _weights(mean, variance, weight, bias)):
        return NotImplemented

    def norm(rows: Tensor, mean: Tensor, bias: Tensor | None) -> Tensor:
        return F.batch_norm(rows, mean, variance, weight, bias, False, momentum, eps)

    return AffineStep(
        x,
        lambda base: norm(base, mean, bias),
        lambda deltas: deltas.each(lambda d: norm(d, torch.zeros_like(mean), None)),
        spreads=True,
    )


def _pool(pool: Callable[..., Tensor], dims: int) -> Callable[..., Any]:
    def follow(x: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(x, AffineRows) or x.dim() != dims + 2:
            return NotImplemented
        return _of_each(x, lambda rows: pool(rows, *args, **kwargs))

    return follow


def _of_each(x: AffineRows, function: Callable[[Tensor], Tensor], view: bool = False) -> AffineStep:
    """A linear function of every row."""
    return AffineStep(x, function, lambda deltas: deltas.each(function), spreads=True, view=view)


def _dropout(x: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    return NotImplemented if training or not isinstance(x, AffineRows) else AffineStep(x, None)


def _reshaped(shape_of: Callable[..., Tensor]) -> Callable[..., Any]:
    """Operations that arrange the numbers of every row anew, told by their effect on the shape."""

    def follow(x: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(x, AffineRows):
            return NotImplemented
        shape = shape_of(torch.empty(x.shape, device="meta"), *args, **kwargs).shape
        if len(shape) == 0 or shape[0] != x.shape[0]:
            return NotImplemented
        return AffineStep(
            x,
            lambda base: base.reshape(base.shape[0], *shape[1:]),
            lambda deltas: deltas.reshaped(shape[1:]),
            view=True,
        )

    return follow


def _permute(x: Any, *dims: Any) -> Any:
    order = dims[0] if len(dims) == 1 and not isinstance(dims[0], int) else dims
    if not isinstance(x, AffineRows) or not order or order[0] != 0:
        return NotImplemented
    return _of_each(x, lambda rows: rows.permute(order), view=True)


def _transpose(x: Any, first: int, second: int) -> Any:
    if not isinstance(x, AffineRows) or first % x.dim() == 0 or second % x.dim() == 0:
        return NotImplemented
    return _of_each(x, lambda rows: rows.transpose(first, second), view=True)


def _sum(x: Any, y: Any, sign: int) -> Any:
    if isinstance(x, AffineRows) and isinstance(y, AffineRows):
        same = x.shape == y.shape and x.mixing is y.mixing and x.dtype == y.dtype
        if not same:
            return NotImplemented
        other = y.base.value, y.deltas.value
        return AffineStep(
            x,
            lambda base: base + sign * other[0],
            lambda deltas: Dense(deltas.dense() + sign * other[1].dense()),
            spreads=True,
            other=y,
        )
    if isinstance(x, AffineRows):
        return AffineStep(x, lambda base: base + sign * y) if _constant(y, x) else NotImplemented
    if not _constant(x, y):
        return NotImplemented
    return AffineStep(
        y, lambda base: x + sign * base, lambda deltas: deltas.scaled(lambda d: sign * d)
    )


def _add(x: Any, y: Any) -> Any:
    return _sum(x, y, 1)


def _subtract(x: Any, y: Any) -> Any:
    return _sum(x, y, -1)


def _subtract_from(x: Any, y: Any) -> Any:
    return _sum(y, x, -1)


def _multiply(x: Any, y: Any) -> Any:
    if not isinstance(x, AffineRows):
        x, y = y, x
    return _scaled(x, lambda value: value * y) if _constant(y, x) else NotImplemented


def _divide(x: Any, y: Any) -> Any:
    if not (isinstance(x, AffineRows) and _constant(y, x)):
        return NotImplemented
    return _scaled(x, lambda value: value / y)


def _scaled(x: AffineRows, factor: Callable[[Tensor], Tensor]) -> AffineStep:
    return AffineStep(x, factor, lambda deltas: deltas.scaled(factor))


_TABLE: dict[Any, Callable[..., Any]] = {
    F.linear: _linear,
    F.conv1d: _convolution(F.conv1d, 1),
    F.conv2d: _convolution(F.conv2d, 2),
    F.conv3d: _convolution(F.conv3d, 3),
    F.batch_norm: _batch_norm,
    F.avg_pool1d: _pool(F.avg_pool1d, 1),
    F.avg_pool2d: _pool(F.avg_pool2d, 2),
    F.avg_pool3d: _pool(F.avg_pool3d, 3),
    F.dropout: _dropout,
    torch.flatten: _reshaped(torch.flatten),
    Tensor.flatten: _reshaped(Tensor.flatten),
    torch.reshape: _reshaped(torch.reshape),
    Tensor.reshape: _reshaped(Tensor.reshape),
    Tensor.view: _reshaped(Tensor.reshape),
    Tensor.unflatten: _reshaped(Tensor.unflatten),
    torch.unsqueeze: _reshaped(torch.unsqueeze),
    Tensor.unsqueeze: _reshaped(Tensor.unsqueeze),
    torch.permute: _permute,
    Tensor.permute: _permute,
    torch.transpose: _transpose,
    Tensor.transpose: _transpose,
    torch.add: _add,
    Tensor.add: _add,
    Tensor.__add__: _add,
    Tensor.__radd__: _add,
    torch.sub: _subtract,
    Tensor.sub: _subtract,
    Tensor.__sub__: _subtract,
    Tensor.__rsub__: _subtract_from,
    torch.mul: _multiply,
    Tensor.mul: _multiply,
    Tensor.__mul__: _multiply,
    Tensor.__rmul__: _multiply,
    torch.div: _divide,
    Tensor.div: _divide,
    Tensor.__truediv__: _divide,
}
FOLLOWS.update(_TABLE)
