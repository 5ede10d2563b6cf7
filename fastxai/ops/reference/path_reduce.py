"""Weighted sums of gradients along paths."""

from typing import Any

import torch
from torch import Tensor

from .checks import (
    accumulation_dtype,
    check_device,
    check_dim,
    check_dtype,
    check_floating,
    check_shape,
    check_steps,
)
from .vmap import one_by_one, to_front


def path_reduce(
    acc: Tensor | None,  # [B, *F]
    grads: Tensor,  # [S, B, *F]
    weights: Tensor,  # [S] float64
) -> Tensor:  # [B, *F]
    check_path_reduce(acc, grads, weights)
    dtype = accumulation_dtype(grads.dtype)
    with torch.autocast(grads.device.type, enabled=False):  # which is for the user's model
        total: Tensor = torch.tensordot(weights.to(dtype), grads.to(dtype), dims=1)
    return total if acc is None else (acc + total).contiguous()


def check_path_reduce(acc: Tensor | None, grads: Tensor, weights: Tensor) -> None:
    op = "path_reduce"
    check_floating(op, "grads", grads)
    check_dim(op, "grads", grads, 2, "[S, B, *F]")
    check_steps(op, "weights", weights, "grads", grads)
    check_shape(op, "weights", weights, [grads.shape[0]])
    if acc is not None:
        check_dtype(op, "acc", acc, accumulation_dtype(grads.dtype))
        check_device(op, "acc", acc, "grads", grads)
        check_shape(op, "acc", acc, list(grads.shape[1:]))


def fake(acc: Tensor | None, grads: Tensor, weights: Tensor) -> Tensor:
    check_path_reduce(acc, grads, weights)
    return grads.new_empty(grads.shape[1:], dtype=accumulation_dtype(grads.dtype))


def setup_context(ctx: Any, inputs: tuple[Tensor | None, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[1:])


def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    grads, weights = ctx.saved_tensors
    need_acc, need_grads, need_weights = ctx.needs_input_grad
    grad_grads = grad_weights = None
    if need_grads:
        origin = torch.zeros_like(grad[:1])
        grad_grads = torch.ops.fastxai.path_points(grad, origin, weights).to(grads.dtype)
    if need_weights:
        grad_weights = (grads.to(grad.dtype) * grad).flatten(1).sum(1).to(weights.dtype)
    return grad if need_acc else None, grad_grads, grad_weights


def vmap(
    info: Any, in_dims: tuple[int | None, ...], acc: Tensor | None, grads: Tensor, weights: Tensor
) -> tuple[Tensor, int]:
    in_acc, in_grads, in_weights = in_dims
    path_reduce = torch.ops.fastxai.path_reduce
    if in_weights is not None:
        return one_by_one(path_reduce, info, in_dims, (acc, grads, weights))
    grads = to_front(grads, in_grads, info.batch_size).transpose(0, 1)
    if acc is not None:
        acc = to_front(acc, in_acc, info.batch_size).flatten(0, 1)
    return path_reduce(acc, grads.flatten(1, 2), weights).unflatten(0, grads.shape[1:3]), 0
