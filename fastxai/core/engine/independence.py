"""Whether the rows of a call are independent: then copies may be stacked, and batches cut."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

_ACTIVATIONS = {
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish),
    *(nn.Tanh, nn.Sigmoid, nn.Softplus, nn.Softsign, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid),
}
_BY_ROW = {
    *(nn.Linear, nn.Identity, nn.GroupNorm, nn.MaxPool2d, nn.AvgPool2d),
    *(nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, *_ACTIVATIONS),
}
_OF_ONE_WIDTH = {
    *(nn.Identity, nn.Dropout, nn.BatchNorm1d, nn.LayerNorm, nn.Softmax, nn.LogSoftmax),
    *_ACTIVATIONS,
}
_BY_ROW_IN_EVAL = {nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.Dropout, nn.Dropout2d}
_CONVOLUTIONS: dict[type, int] = {
    nn.Conv1d: 3,
    nn.Conv2d: 4,
    nn.Conv3d: 5,
}  # dimensions with the batch's
_ROUNDINGS = 16  # units in the last place that are no more than rounding, whatever is computed


class RowByRow:
    """A function that has its user's word that it treats rows one by one."""


def is_row_by_row(
    forward_func: Callable[..., Any],
    modules: Iterable[nn.Module],
    dims: Sequence[int],
    forward_args: Sequence[Any],
) -> bool:
    """Whether a function is known to treat rows one by one, as a chain of layers may be.

    Args:
        forward_func: the function.
        modules: it and all those in it, in order, if it is a module.
        dims: how many dimensions each input has, with the batch's.
        forward_args: what it is called with beside the rows.
    """
    if isinstance(forward_func, RowByRow):
        return True
    if forward_args or not isinstance(forward_func, nn.Module) or len(dims) != 1:
        return False
    if nn.modules.module._has_any_global_hook() or torch._C._len_torch_function_stack() > 0:
        return False
    dim: int | None = dims[0]  # of what the next layer is given
    for module in modules:
        kind, own = type(module), module.__dict__
        hooks = own["_forward_hooks"] or own["_forward_pre_hooks"]
        hooks = hooks or own["_backward_hooks"] or own["_backward_pre_hooks"]
        if hooks or "forward" in own or own.get("_compiled_call_impl"):
            return False
        if kind is nn.Sequential and None not in own["_modules"].values():
            continue
        assert dim is not None
        if kind in _BY_ROW_IN_EVAL:
            if own["training"] or getattr(module, "running_mean", module) is None:
                return False
        elif kind not in _BY_ROW:
            dim = _dim_after(module, dim)
        if dim is None or dim < 2:
            return False
    return True


def numbers_written(modules: Iterable[Any], width: int) -> int | None:
    """How many numbers layers write for one row of a table; None where that cannot be read off.

    Args:
        modules: a chain of layers, with the containers that they are in.
        width: how many columns the table has.
    """
    count = 0
    for module in modules:
        kind = type(module)
        if kind is nn.Sequential:
            continue
        if kind is nn.Linear:
            width = module.out_features
        elif kind not in _OF_ONE_WIDTH:
            return None
        count += width
    return count


def _dim_after(module: Any, dim: int) -> int | None:
    """How many dimensions its output has for inputs with so many; None if rows may mix."""
    kind = type(module)
    if kind in _CONVOLUTIONS:  # fewer would be one row without a batch
        return dim if dim == _CONVOLUTIONS[kind] else None
    if kind is nn.LayerNorm:
        return dim if dim > len(module.normalized_shape) else None
    if kind is nn.Softmax or kind is nn.LogSoftmax:
        return dim if module.dim == -1 and dim > 1 else None
    if kind is nn.Embedding:  # one with max_norm writes to its weight
        return dim + 1 if module.max_norm is None else None
    if kind is nn.Flatten:
        end = module.end_dim % dim
        return dim - (end - module.start_dim) if 1 <= module.start_dim <= end else None
    return None


def differ(
    one: Tensor,  # [n, *C]
    other: Tensor,  # [n, *C] or [n]
    change: Tensor | None = None,  # [n, *C]
) -> bool:
    """Whether outputs for the same rows differ by more than rounding in calls of other sizes.

    Args:
        one: the outputs in one call.
        other: those in another.
        change: how much the outputs change with the rows. With it the measure is that, beside what
            rounding there is in few operations; otherwise it is the outputs, which may be large
            where they hardly change.
    """
    if one.numel() != other.numel():
        return True
    other = other.reshape(one.shape)
    if not (one.is_floating_point() or one.is_complex()):
        return not torch.equal(one, other)
    if one.numel() == 0:
        return False
    eps = torch.finfo(one.dtype).eps
    strictest = math.sqrt(eps) if change is None else _ROUNDINGS * eps
    if bool(((one - other).abs() <= strictest * one.abs()).all()):
        return False
    eps = _precision(one, other)
    # A row is measured by its own size, or that of most rows if it is near zero. What is not finite
    # must be so in both, and is no measure for the rest.
    one, other = one.reshape(len(one), -1), other.reshape(len(one), -1)
    if change is None:
        tolerance = math.sqrt(eps) * _sizes(one)
    else:
        tolerance = math.sqrt(eps) * _sizes(change.reshape(one.shape))
        tolerance += _ROUNDINGS * eps * _sizes(one)
    same = (one == other) | (one.isnan() & other.isnan())
    return not bool((same | ((one - other).abs() <= tolerance)).all())


def _sizes(values: Tensor) -> Tensor:  # [n, c] -> [n, 1]
    each = values.abs().nan_to_num(0.0, posinf=0.0).amax(1, keepdim=True)
    return torch.maximum(each, each.median())


def _precision(one: Tensor, other: Tensor) -> float:
    """The relative error of a number: that of float32 for outputs that were made wider afterwards.

    Whole numbers, which are labels or counts, tell nothing about that.
    """
    if one.dtype == torch.float64:
        both = torch.stack([one, other]).nan_to_num(0.0, 0.0, 0.0)
        if torch.equal(both, both.float().double()) and not torch.equal(both, both.round()):
            return torch.finfo(torch.float32).eps
    return torch.finfo(one.dtype).eps
