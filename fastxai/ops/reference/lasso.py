"""Least squares with an L1 penalty."""

import torch
from torch import Tensor

from .checks import check_device, check_dtype


@torch.no_grad()
def lasso(
    gram: Tensor,  # [P, M, M] float64
    rhs: Tensor,  # [P, M, C] float64
    alpha: float,
    tolerance: float,
    max_sweeps: int,
) -> Tensor:  # [P, M, C] float64
    check_lasso(gram, rhs, alpha, tolerance, max_sweeps)
    coefficients = torch.zeros_like(rhs, memory_format=torch.contiguous_format)
    if rhs.numel() == 0:
        return coefficients
    gradient = rhs.clone()  # of the smooth part, its sign turned: rhs - gram @ coefficients
    scale = gram.diagonal(dim1=1, dim2=2).clamp(min=0).sqrt()[..., None]  # [P, M, 1]
    limit = tolerance * torch.where(scale > 0, rhs.abs() / scale, 0).amax(1)  # [P, C]
    running = torch.ones_like(limit, dtype=torch.bool)
    for _ in range(max_sweeps):
        largest = torch.zeros_like(limit)
        for j in range(rhs.shape[1]):
            square = gram[:, j, j, None]
            pull = gradient[:, j] + square * coefficients[:, j]
            target = pull.sign() * (pull.abs() - alpha).clamp(min=0) / square
            step = torch.where(running & (square > 0), target - coefficients[:, j], 0)
            coefficients[:, j] += step
            gradient -= gram[:, j, :, None] * step[:, None]
            largest = torch.maximum(largest, scale[:, j] * step.abs())
        running &= largest > limit
        if not running.any():
            break
    return coefficients


def check_lasso(gram: Tensor, rhs: Tensor, alpha: float, tolerance: float, max_sweeps: int) -> None:
    op = "lasso"
    check_dtype(op, "gram", gram, torch.float64)
    if gram.dim() != 3 or gram.shape[1] != gram.shape[2]:
        raise RuntimeError(f"{op}: expected gram of shape [P, M, M], got {list(gram.shape)}")
    check_dtype(op, "rhs", rhs, torch.float64)
    check_device(op, "rhs", rhs, "gram", gram)
    if rhs.dim() != 3 or rhs.shape[:2] != gram.shape[:2]:
        expected = f"[{gram.shape[0]}, {gram.shape[1]}, C]"
        raise RuntimeError(f"{op}: expected rhs of shape {expected}, got {list(rhs.shape)}")
    for name, value in (("alpha", alpha), ("tolerance", tolerance), ("max_sweeps", max_sweeps)):
        if not value >= 0:
            raise RuntimeError(f"{op}: expected {name} of at least 0, got {value:g}")


def fake(gram: Tensor, rhs: Tensor, alpha: float, tolerance: float, max_sweeps: int) -> Tensor:
    check_lasso(gram, rhs, alpha, tolerance, max_sweeps)
    return rhs.new_empty(rhs.shape)
