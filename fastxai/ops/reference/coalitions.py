"""Random coalitions of given sizes."""

import torch
from torch import Tensor

from .blocks import rows_in_block
from .checks import check_device, check_dtype, check_players, check_shape, coalition_words
from .draws import COUNTABLE, WORD, all_players, coalitions_of_size, count_subsets


def coalitions(
    players: int,  # M
    sizes: Tensor,  # [N] int64
    ranks: Tensor,  # [N] int64
    seed: int,
) -> Tensor:  # [N, W] int64
    check_coalitions(players, sizes, ranks)
    if sizes.device.type == "cpu":
        _check_subsets(players, sizes, ranks)
    key = (seed & WORD, seed >> 32 & WORD)
    sizes = sizes.clamp(-1, players)
    bits = sizes.new_empty(sizes.shape[0], coalition_words(players))
    for size in sizes.unique().tolist():
        of_size = (sizes == size).nonzero()[:, 0]
        for rows in of_size.split(rows_in_block(players)):
            bits[rows] = coalitions_of_size(players, size, ranks[rows], key)
    return bits & all_players(players, sizes.device)


def check_coalitions(players: int, sizes: Tensor, ranks: Tensor) -> None:
    op = "coalitions"
    check_players(op, players)
    check_dtype(op, "sizes", sizes, torch.int64)
    if sizes.dim() != 1:
        raise RuntimeError(f"{op}: expected sizes of shape [N], got {list(sizes.shape)}")
    check_dtype(op, "ranks", ranks, torch.int64)
    check_device(op, "ranks", ranks, "sizes", sizes)
    check_shape(op, "ranks", ranks, list(sizes.shape))


def _check_subsets(players: int, sizes: Tensor, ranks: Tensor) -> None:
    op = "coalitions"
    wrong = ((sizes < -1) | (sizes > players)).nonzero()
    if len(wrong):
        row = int(wrong[0])
        raise RuntimeError(
            f"{op}: expected sizes from -1 to {players}, got {int(sizes[row])} in row {row}"
        )
    most = torch.full_like(sizes, 2**63 - 1)
    for size in sizes.unique().tolist():
        if size >= 0 and (count := count_subsets(players, size)) < COUNTABLE:
            most[sizes == size] = count - 1
    wrong = ((ranks < 0) | (ranks > most)).nonzero()
    if len(wrong):
        row = int(wrong[0])
        raise RuntimeError(
            f"{op}: expected ranks from 0 to {int(most[row])} for size {int(sizes[row])}, "
            f"got {int(ranks[row])} in row {row}"
        )


def fake(players: int, sizes: Tensor, ranks: Tensor, seed: int) -> Tensor:
    check_coalitions(players, sizes, ranks)
    return sizes.new_empty([sizes.shape[0], coalition_words(players)])
