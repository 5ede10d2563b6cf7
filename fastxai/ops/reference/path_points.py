"""Points on the straight paths from baselines to inputs."""

from typing import Any

import torch
from torch import Tensor

from .checks import (
    accumulation_dtype,
    check_device,
    check_dim,
    check_dtype,
    check_floating,
    check_steps,
)
from .vmap import one_by_one, to_front


def path_points(
    input: Tensor,  # [B, *F]
    baseline: Tensor,  # [B, *F] or [1, *F]
    alphas: Tensor,  # [S] float64
) -> Tensor:  # [S, B, *F]
    check_path_points(input, baseline, alphas)
    dtype = accumulation_dtype(input.dtype)
    start = baseline.to(dtype)
    steps = alphas.to(dtype).reshape(-1, *[1] * input.dim())
    points = steps * (input.to(dtype) - start) + start
    return points.to(input.dtype).contiguous()


def check_path_points(input: Tensor, baseline: Tensor, alphas: Tensor) -> None:
    op = "path_points"
    check_floating(op, "input", input)
    check_dim(op, "input", input, 1, "[B, *F]")
    check_dtype(op, "baseline", baseline, input.dtype)
    check_device(op, "baseline", baseline, "input", input)
    shape, one = list(input.shape), [1, *input.shape[1:]]
    if list(baseline.shape) not in (shape, one):
        expected = f"{shape} or {one}"
        raise RuntimeError(
            f"{op}: expected baseline of shape {expected}, got {list(baseline.shape)}"
        )
    check_steps(op, "alphas", alphas, "input", input)


def fake(input: Tensor, baseline: Tensor, alphas: Tensor) -> Tensor:
    check_path_points(input, baseline, alphas)
    return input.new_empty([alphas.shape[0], *input.shape])


def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    input, baseline, alphas = ctx.saved_tensors
    need_input, need_baseline, need_alphas = ctx.needs_input_grad
    grad_input = grad_baseline = grad_alphas = None
    path_reduce = torch.ops.fastxai.path_reduce
    if need_input:
        grad_input = path_reduce(None, grad, alphas).to(input.dtype)
    if need_baseline:
        grad_baseline = path_reduce(None, grad, 1 - alphas)
        if baseline.shape != input.shape:
            grad_baseline = grad_baseline.sum(0, keepdim=True)
        grad_baseline = grad_baseline.to(baseline.dtype)
    if need_alphas:
        dtype = accumulation_dtype(input.dtype)
        difference = input.to(dtype) - baseline.to(dtype)
        grad_alphas = (grad.to(dtype) * difference).flatten(1).sum(1).to(alphas.dtype)
    return grad_input, grad_baseline, grad_alphas


def vmap(
    info: Any, in_dims: tuple[int | None, ...], input: Tensor, baseline: Tensor, alphas: Tensor
) -> tuple[Tensor, int]:
    in_input, in_baseline, in_alphas = in_dims
    path_points = torch.ops.fastxai.path_points
    if in_alphas is not None:
        return one_by_one(path_points, info, in_dims, (input, baseline, alphas))
    input = to_front(input, in_input, info.batch_size)
    baseline = to_front(baseline, in_baseline, info.batch_size).expand_as(input)
    points = path_points(input.flatten(0, 1), baseline.flatten(0, 1), alphas)
    return points.unflatten(1, input.shape[:2]), 1
