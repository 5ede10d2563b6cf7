"""The ops in plain PyTorch: what every kernel must agree with, and what runs without a library.

Same names, arguments and errors as the native ops in ``csrc/library.cpp``.
"""

import torch
from torch import Tensor

FLOATING_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


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


def path_reduce(
    acc: Tensor | None,  # [B, *F]
    grads: Tensor,  # [S, B, *F]
    weights: Tensor,  # [S] float64
) -> Tensor:  # [B, *F]
    check_path_reduce(acc, grads, weights)
    dtype = accumulation_dtype(grads.dtype)
    total = torch.tensordot(weights.to(dtype), grads.to(dtype), dims=1)
    return total if acc is None else (acc + total).contiguous()


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that sums are kept in: float32, or float64 for float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def check_path_points(input: Tensor, baseline: Tensor, alphas: Tensor) -> None:
    op = "path_points"
    _check_floating(op, "input", input)
    _check_dim(op, "input", input, 1, "[B, *F]")
    _check_dtype(op, "baseline", baseline, input.dtype)
    _check_device(op, "baseline", baseline, "input", input)
    shape, one = list(input.shape), [1, *input.shape[1:]]
    if list(baseline.shape) not in (shape, one):
        expected = f"{shape} or {one}"
        raise RuntimeError(
            f"{op}: expected baseline of shape {expected}, got {list(baseline.shape)}"
        )
    _check_steps(op, "alphas", alphas, "input", input)


def check_path_reduce(acc: Tensor | None, grads: Tensor, weights: Tensor) -> None:
    op = "path_reduce"
    _check_floating(op, "grads", grads)
    _check_dim(op, "grads", grads, 2, "[S, B, *F]")
    _check_steps(op, "weights", weights, "grads", grads)
    _check_shape(op, "weights", weights, [grads.shape[0]])
    if acc is not None:
        _check_dtype(op, "acc", acc, accumulation_dtype(grads.dtype))
        _check_device(op, "acc", acc, "grads", grads)
        _check_shape(op, "acc", acc, list(grads.shape[1:]))


def _check_steps(op: str, name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    _check_dtype(op, name, value, torch.float64)
    _check_device(op, name, value, other_name, other)
    if value.dim() != 1:
        raise RuntimeError(f"{op}: expected {name} of shape [S], got {list(value.shape)}")


def _check_floating(op: str, name: str, value: Tensor) -> None:
    if value.dtype not in FLOATING_DTYPES:
        raise RuntimeError(
            f"{op}: expected {name} of dtype float16, bfloat16, float32 or float64, "
            f"got {_dtype_name(value.dtype)}"
        )


def _check_dim(op: str, name: str, value: Tensor, least: int, layout: str) -> None:
    if value.dim() < least:
        raise RuntimeError(f"{op}: expected {name} of shape {layout}, got {list(value.shape)}")


def _check_dtype(op: str, name: str, value: Tensor, dtype: torch.dtype) -> None:
    if value.dtype != dtype:
        raise RuntimeError(
            f"{op}: expected {name} of dtype {_dtype_name(dtype)}, got {_dtype_name(value.dtype)}"
        )


def _check_device(op: str, name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    if value.device != other.device:
        raise RuntimeError(
            f"{op}: expected {name} on {other.device} like {other_name}, got {value.device}"
        )


def _check_shape(op: str, name: str, value: Tensor, shape: list[int]) -> None:
    if list(value.shape) != shape:
        raise RuntimeError(f"{op}: expected {name} of shape {shape}, got {list(value.shape)}")


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
