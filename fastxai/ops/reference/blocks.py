"""Blocks of rows that bound the memory, and the features of groups."""

from collections.abc import Iterator

import torch
from torch import Tensor

from .checks import check_ids


def group_entries(
    op: str, positions: Tensor, offsets: Tensor, batch: int
) -> tuple[Tensor, Tensor, Tensor]:  # [E] each
    """One entry for every feature of every group: row of [G, B], example, place in P."""
    check_ids(op, "offsets", offsets, positions.shape[1] + 1)
    offsets = offsets.expand(batch, -1).t()
    begins, lengths = offsets[:-1].flatten(), (offsets[1:] - offsets[:-1]).clamp(min=0).flatten()
    row = torch.repeat_interleave(lengths)
    within = torch.arange(len(row), device=row.device) - (lengths.cumsum(0) - lengths)[row]
    return row, row.remainder(batch), begins[row] + within


def rows_in_block(width: int) -> int:
    """So many rows that `width` numbers for each take 16 MiB."""
    return max(1, 2**21 // width)


def unpack_in_blocks(bits: Tensor, players: int, width: int) -> Iterator[Tensor]:
    """Blocks [n, M] float64 of all rows, few enough for `width` numbers a row."""
    shifts = torch.arange(64, device=bits.device)
    for block in bits.split(rows_in_block(width)):
        yield (block[..., None] >> shifts & 1).flatten(1)[:, :players].double()
