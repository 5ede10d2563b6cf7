"""Whether the rows of a call are independent: then copies may be stacked, and batches cut."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

_BY_ROW = {
    *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Identity, nn.LayerNorm, nn.GroupNorm),
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish),
    *(nn.Tanh, nn.Sigmoid, nn.Softplus, nn.Softsign, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid),
    *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Embedding),
}
_BY_ROW_IN_EVAL = {nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.Dropout, nn.Dropout2d}


def is_row_by_row(
    forward_func: Callable[..., Any], modules: Iterable[nn.Module], forward_args: Sequence[Any]
) -> bool:
    """Whether a function is a chain of layers each of which is known to treat rows one by one.

    Args:
        forward_func: the function.
        modules: it and all those in it, if it is a module.
        forward_args: what it is called with beside the rows.
    """
    if forward_args or not isinstance(forward_func, nn.Module):
        return False
    if nn.modules.module._has_any_global_hook():
        return False
    for module in modules:
        kind, own = type(module), module.__dict__
        if "forward" in own or own["_forward_hooks"] or own["_forward_pre_hooks"]:
            return False
        if own.get("_compiled_call_impl"):
            return False
        if kind in _BY_ROW or (kind is nn.Sequential and None not in own["_modules"].values()):
            continue
        if kind in _BY_ROW_IN_EVAL:
            if own["training"] or getattr(module, "running_mean", module) is None:
                return False
        elif not _is_by_last_dimensions(module):
            return False
    return True


def differ(one: Tensor, other: Tensor) -> bool:  # [n, *C], [n, *C] or [n]
    """Whether outputs for the same rows differ by more than rounding in calls of other sizes."""
    if one.numel() != other.numel():
        return True
    other = other.reshape(one.shape)
    if not (one.is_floating_point() or one.is_complex()):
        return not torch.equal(one, other)
    if one.numel() == 0:
        return False
    # A row is measured by its own size, or that of most rows if it is near zero. What is not finite
    # must be so in both, and is no measure for the rest.
    one, other = one.reshape(len(one), -1), other.reshape(len(one), -1)
    each = one.abs().nan_to_num(0.0, posinf=0.0).amax(1, keepdim=True)
    tolerance = math.sqrt(torch.finfo(one.dtype).eps) * torch.maximum(each, each.median())
    same = (one == other) | (one.isnan() & other.isnan())
    return not bool((same | ((one - other).abs() <= tolerance)).all())


def _is_by_last_dimensions(module: nn.Module) -> bool:
    if type(module) is nn.Flatten:
        return module.start_dim >= 1
    if type(module) is nn.Softmax or type(module) is nn.LogSoftmax:
        return module.dim == -1
    return False
