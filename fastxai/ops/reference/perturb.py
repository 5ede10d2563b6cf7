"""Rows that keep the players of a coalition."""

import torch
from torch import Tensor

from .checks import (
    check_device,
    check_dim,
    check_dtype,
    check_ids,
    check_matrix,
    check_one_or_each,
    check_range,
)


def perturb(
    input: Tensor,  # [B, *F]
    baseline: Tensor,  # [B, K, *F] or [1, K, *F]
    bits: Tensor,  # [N, W] int64
    mask: Tensor,  # [B, *F] or [1, *F] int32
    first: int,
    last: int,
) -> Tensor:  # [last - first, B, *F]
    check_perturb(input, baseline, bits, mask, first, last)
    if last == first or input.numel() == 0:
        return input.new_empty([last - first, *input.shape])
    check_ids("perturb", "mask", mask, 64 * bits.shape[1])
    repeats = torch.arange(first, last, device=input.device)
    n = repeats.div(baseline.shape[1], rounding_mode="floor")
    k = repeats.remainder(baseline.shape[1])
    players = bits[n].unsqueeze(2) >> torch.arange(64, device=input.device)  # [rows, W, 64]
    present = (players & 1).bool().flatten(1)[:, mask.long()]
    absent = baseline.detach()[:, k].movedim(1, 0)
    return torch.where(present, input.detach(), absent).contiguous()


def check_perturb(
    input: Tensor, baseline: Tensor, bits: Tensor, mask: Tensor, first: int, last: int
) -> None:
    op = "perturb"
    check_dim(op, "input", input, 1, "[B, *F]")
    check_dtype(op, "baseline", baseline, input.dtype)
    check_device(op, "baseline", baseline, "input", input)
    check_dim(op, "baseline", baseline, 2, "[B, K, *F] or [1, K, *F]")
    backgrounds, features = baseline.shape[1], list(input.shape[1:])
    check_one_or_each(op, "baseline", baseline, input.shape[0], [backgrounds, *features])
    check_dtype(op, "bits", bits, torch.int64)
    check_device(op, "bits", bits, "input", input)
    check_matrix(op, "bits", bits, "[N, W]")
    check_dtype(op, "mask", mask, torch.int32)
    check_device(op, "mask", mask, "input", input)
    check_one_or_each(op, "mask", mask, input.shape[0], features)
    check_range(op, first, last, bits.shape[0] * backgrounds)


def fake(
    input: Tensor, baseline: Tensor, bits: Tensor, mask: Tensor, first: int, last: int
) -> Tensor:
    check_perturb(input, baseline, bits, mask, first, last)
    return input.new_empty([last - first, *input.shape])
