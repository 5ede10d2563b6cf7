"""Rules for integrating over the straight path from baseline to input, α in [0, 1]."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..checks import check_choice, check_count

METHODS = (
    "gausslegendre",
    "riemann_left",
    "riemann_right",
    "riemann_middle",
    "riemann_trapezoid",
)


def rule(method: str, n_steps: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Nodes and weights of a rule.

    Args:
        method: one of ``METHODS``. ``riemann_trapezoid`` puts n points on [0, 1] with weights 1/n,
            halved at the ends, so that its weights sum to (n - 1)/n: Captum's convention.
        n_steps: number of nodes S, at least 1 (2 for the trapezoid).
        device: where the result lives.

    Returns:
        alphas [S] and weights [S], float64; shared with other callers, so not to be written to.

    Raises:
        ArgumentError: for an unknown method or too few steps.
    """
    check_choice(method, "method", METHODS)
    n_steps = check_count(n_steps, "n_steps", at_least=2 if method == "riemann_trapezoid" else 1)
    return _cached(method, n_steps, device)


@lru_cache(maxsize=32)
@torch.inference_mode(False)  # else what the first call leaves here may not serve the next
def _cached(method: str, n_steps: int, device: torch.device) -> tuple[Tensor, Tensor]:
    alphas, weights = _rule(method, n_steps)
    return torch.from_numpy(alphas).to(device), torch.from_numpy(weights).to(device)


def _rule(method: str, n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if method == "gausslegendre":
        return _gauss_legendre(n)
    step = np.arange(n, dtype=np.float64)
    weights = np.full(n, 1 / n)
    if method == "riemann_left":
        return step / n, weights
    if method == "riemann_right":
        return (step + 1) / n, weights
    if method == "riemann_middle":
        return (step + 0.5) / n, weights
    weights[[0, -1]] /= 2
    return step / (n - 1), weights


def _gauss_legendre(n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    # Newton's method on the Legendre polynomial, all roots at once: O(n²), where the eigenvalue
    # method of numpy.polynomial.legendre.leggauss takes O(n³) and gigabytes for 10,000 nodes.
    x = np.cos(np.pi * (np.arange(n, 0, -1) - 0.25) / (n + 0.5))  # Tricomi's estimate, ascending
    for _ in range(10):
        p, slope = _legendre(n, x)
        step = p / slope
        x -= step
        if np.abs(step).max() < 1e-15:
            break
    _, slope = _legendre(n, x)
    return 0.5 * (1 + x), 1 / ((1 - x * x) * slope * slope)


def _legendre(n: int, x: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """P_n(x) and its derivative, by the three-term recurrence."""
    before, p = np.zeros_like(x), np.ones_like(x)
    for k in range(1, n + 1):
        before, p = p, ((2 * k - 1) * x * p - (k - 1) * before) / k
    return p, n * (x * p - before) / (x * x - 1)
