"""Rows in which one group of features is replaced."""

import torch
from torch import Tensor

from .blocks import group_entries
from .checks import (
    check_device,
    check_dim,
    check_dtype,
    check_ids,
    check_matrix,
    check_one_or_each,
    check_range,
    check_shape,
)


def ablate_one(
    input: Tensor,  # [B, *F]
    baseline: Tensor,  # [R, *F]
    source: Tensor,  # [G, B] or [1, B] int64
    positions: Tensor,  # [B, P] or [1, P] int64
    offsets: Tensor,  # [B, G + 1] or [1, G + 1] int64
    first: int,
    last: int,
) -> Tensor:  # [last - first, B, *F]
    check_ablate_one(input, baseline, source, positions, offsets, first, last)
    rows = input.new_empty([last - first, *input.shape]).copy_(input.detach())
    if rows.numel() == 0:
        return rows
    op, batch = "ablate_one", input.shape[0]
    if source.shape[0] > 1:
        source = source[first:last]
    check_ids(op, "source", source, baseline.shape[0])
    row, example, at = group_entries(op, positions, offsets[:, first : last + 1], batch)
    group = row.div(batch, rounding_mode="floor")
    position = positions.expand(batch, -1)[example, at]
    features = rows[0, 0].numel()
    check_ids(op, "positions", position, features)
    values = baseline.detach().reshape(-1, features)
    drawn = source.expand(last - first, -1)[group, example]
    rows.view(-1, features)[row, position] = values[drawn, position]
    return rows


def check_ablate_one(
    input: Tensor,
    baseline: Tensor,
    source: Tensor,
    positions: Tensor,
    offsets: Tensor,
    first: int,
    last: int,
) -> None:
    op = "ablate_one"
    check_dim(op, "input", input, 1, "[B, *F]")
    check_dtype(op, "baseline", baseline, input.dtype)
    check_device(op, "baseline", baseline, "input", input)
    check_dim(op, "baseline", baseline, 1, "[R, *F]")
    check_shape(op, "baseline", baseline, [baseline.shape[0], *input.shape[1:]])
    for name, value, layout in (
        ("source", source, "[G, B] or [1, B]"),
        ("positions", positions, "[B, P] or [1, P]"),
        ("offsets", offsets, "[B, G + 1] or [1, G + 1]"),
    ):
        check_dtype(op, name, value, torch.int64)
        check_device(op, name, value, "input", input)
        check_matrix(op, name, value, layout)
    batch, groups = input.shape[0], max(offsets.shape[1], 1) - 1
    check_one_or_each(op, "positions", positions, batch, [positions.shape[1]])
    check_one_or_each(op, "offsets", offsets, batch, [groups + 1])
    check_one_or_each(op, "source", source, groups, [batch])
    check_range(op, first, last, groups)


def fake(
    input: Tensor,
    baseline: Tensor,
    source: Tensor,
    positions: Tensor,
    offsets: Tensor,
    first: int,
    last: int,
) -> Tensor:
    check_ablate_one(input, baseline, source, positions, offsets, first, last)
    return input.new_empty([last - first, *input.shape])
