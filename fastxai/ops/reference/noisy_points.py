"""Noisy inputs, and random points on the paths to them."""

import torch
from torch import Tensor

from .checks import check_device, check_dim, check_dtype, check_floating, check_range, check_shape
from .draws import noisy_draws, noisy_ends


@torch.no_grad()
def noisy_points(
    input: Tensor,  # [B, *F]
    baseline: Tensor | None,  # [K, *F]
    stdev: float,
    seed: int,
    stream: int,
    samples: int,
    example: int,
    first: int,
    last: int,
    position: float | None,
) -> Tensor:  # [last - first, B, *F]
    op, places = "noisy_points", (stream, samples, example, first, last)
    check_noisy(op, input, baseline, stdev, *places)
    rows = noisy_ends(input, stdev, seed, *places)
    if baseline is not None and rows.numel() > 0:
        picks, alphas = noisy_draws(input, baseline, seed, *places[1:])
        start = baseline.to(rows.dtype)[picks]  # [S, B, *F]
        if position is not None:
            alphas = torch.full_like(alphas, position)
        alphas = alphas.to(rows.dtype).reshape(*alphas.shape, *[1] * (input.dim() - 1))
        rows = alphas * (rows - start) + start
    return rows.to(input.dtype).contiguous()


def check_noisy(
    op: str,
    input: Tensor,
    baseline: Tensor | None,
    stdev: float,
    stream: int,
    samples: int,
    example: int,
    first: int,
    last: int,
) -> None:
    check_floating(op, "input", input)
    check_dim(op, "input", input, 1, "[B, *F]")
    if baseline is not None:
        check_dtype(op, "baseline", baseline, input.dtype)
        check_device(op, "baseline", baseline, "input", input)
        check_dim(op, "baseline", baseline, 1, "[K, *F]")
        shape = [max(1, baseline.shape[0]), *input.shape[1:]]
        check_shape(op, "baseline", baseline, shape)
    if not stdev >= 0:  # written out only then, as a number that is traced has no digits
        raise RuntimeError(f"{op}: expected stdev of at least 0, got {stdev:g}")
    for fine, expected, got in (
        (0 <= stream < 65536, "stream from 0 to 65535", stream),
        (0 <= example < 2**62, "example from 0 to 4611686018427387903", example),
        (0 <= samples < 2**31, "samples from 0 to 2147483647", samples),
    ):
        if not fine:
            raise RuntimeError(f"{op}: expected {expected}, got {got}")
    check_range(op, first, last, samples)


def fake(
    input: Tensor,
    baseline: Tensor | None,
    stdev: float,
    seed: int,
    stream: int,
    samples: int,
    example: int,
    first: int,
    last: int,
    position: float | None,
) -> Tensor:
    places = (stream, samples, example, first, last)
    check_noisy("noisy_points", input, baseline, stdev, *places)
    return input.new_empty([last - first, *input.shape])
