"""A linear layer of rows that are zero but in one group of features."""

import torch
from torch import Tensor

from .blocks import group_entries, rows_in_block
from .checks import (
    accumulation_dtype,
    check_device,
    check_dtype,
    check_floating,
    check_ids,
    check_matrix,
    check_one_or_each,
)


@torch.no_grad()
def group_linear(
    values: Tensor,  # [B, P]
    positions: Tensor,  # [B, P] or [1, P] int64
    offsets: Tensor,  # [B, G + 1] or [1, G + 1] int64
    weight: Tensor,  # [H, F]
) -> Tensor:  # [G, B, H]
    check_group_linear(values, positions, offsets, weight)
    op, batch, groups = "group_linear", values.shape[0], offsets.shape[1] - 1
    outputs, features = weight.shape
    sums = values.new_zeros(groups * batch, outputs)
    if sums.numel() == 0:
        return sums.view(groups, batch, outputs)
    row, example, at = group_entries(op, positions, offsets, batch)
    position = positions.expand(batch, -1)[example, at]
    check_ids(op, "positions", position, features)
    dtype = accumulation_dtype(values.dtype)
    factors = values[example, at].to(dtype)
    bounds = torch.searchsorted(row, torch.arange(groups * batch + 1, device=row.device))
    first = 0
    for block in weight.split(rows_in_block(max(features, 1))):
        columns = block.to(dtype).t().contiguous()
        sums[:, first : first + len(block)] = torch.nn.functional.embedding_bag(
            position,
            columns,
            bounds,
            mode="sum",
            per_sample_weights=factors,
            include_last_offset=True,
        )
        first += len(block)
    return sums.view(groups, batch, outputs)


def check_group_linear(values: Tensor, positions: Tensor, offsets: Tensor, weight: Tensor) -> None:
    op = "group_linear"
    check_floating(op, "values", values)
    check_matrix(op, "values", values, "[B, P]")
    batch, entries = values.shape
    for name, table, layout in (
        ("positions", positions, "[B, P] or [1, P]"),
        ("offsets", offsets, "[B, G + 1] or [1, G + 1]"),
    ):
        check_dtype(op, name, table, torch.int64)
        check_device(op, name, table, "values", values)
        check_matrix(op, name, table, layout)
    check_one_or_each(op, "positions", positions, batch, [entries])
    check_one_or_each(op, "offsets", offsets, batch, [max(offsets.shape[1], 1)])
    check_dtype(op, "weight", weight, values.dtype)
    check_device(op, "weight", weight, "values", values)
    check_matrix(op, "weight", weight, "[H, F]")


def fake(values: Tensor, positions: Tensor, offsets: Tensor, weight: Tensor) -> Tensor:
    check_group_linear(values, positions, offsets, weight)
    return values.new_empty([offsets.shape[1] - 1, values.shape[0], weight.shape[0]])
