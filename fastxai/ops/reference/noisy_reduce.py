"""Gradients at noisy points times the lengths of their paths."""

import torch
from torch import Tensor

from .checks import accumulation_dtype, check_device, check_dtype, check_shape
from .draws import drawn_baselines, noisy_ends
from .noisy_points import check_noisy


@torch.no_grad()
def noisy_reduce(
    acc: Tensor | None,  # [B, *F]
    grads: Tensor,  # [last - first, B, *F]
    input: Tensor,  # [B, *F]
    baseline: Tensor | None,  # [K, *F]
    stdev: float,
    seed: int,
    stream: int,
    samples: int,
    example: int,
    first: int,
    last: int,
) -> Tensor:  # [B, *F]
    places = (stream, samples, example, first, last)
    check_noisy_reduce(acc, grads, input, baseline, stdev, *places)
    differences = noisy_ends(input, stdev, seed, *places)
    if baseline is not None and differences.numel() > 0:
        picks = drawn_baselines(input, baseline, seed, *places[2:])
        differences = differences - baseline.to(differences.dtype)[picks]
    total = (differences * grads.to(differences.dtype)).sum(0)
    return total.contiguous() if acc is None else (acc + total).contiguous()


def check_noisy_reduce(
    acc: Tensor | None,
    grads: Tensor,
    input: Tensor,
    baseline: Tensor | None,
    stdev: float,
    stream: int,
    samples: int,
    example: int,
    first: int,
    last: int,
) -> None:
    op = "noisy_reduce"
    check_noisy(op, input, baseline, stdev, stream, samples, example, first, last)
    check_dtype(op, "grads", grads, input.dtype)
    check_device(op, "grads", grads, "input", input)
    check_shape(op, "grads", grads, [last - first, *input.shape])
    if acc is not None:
        check_dtype(op, "acc", acc, accumulation_dtype(input.dtype))
        check_device(op, "acc", acc, "input", input)
        check_shape(op, "acc", acc, list(input.shape))


def fake(
    acc: Tensor | None,
    grads: Tensor,
    input: Tensor,
    baseline: Tensor | None,
    stdev: float,
    seed: int,
    stream: int,
    samples: int,
    example: int,
    first: int,
    last: int,
) -> Tensor:
    places = (stream, samples, example, first, last)
    check_noisy_reduce(acc, grads, input, baseline, stdev, *places)
    return input.new_empty(input.shape, dtype=accumulation_dtype(input.dtype))
