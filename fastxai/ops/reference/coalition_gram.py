"""The weighted Gram matrix of coalitions."""

import torch
from torch import Tensor

from .blocks import unpack_in_blocks
from .checks import check_bits, check_players, check_row_weights


@torch.no_grad()
def coalition_gram(
    bits: Tensor,  # [N, W] int64
    players: int,  # M
    weights: Tensor,  # [N] float64
) -> Tensor:  # [M, M] float64
    check_coalition_gram(bits, players, weights)
    gram = weights.new_zeros(players, players)
    classes, counts = weights.unique(return_counts=True)
    of_class = weights.argsort().split(counts.tolist())
    for weight, rows in zip(classes, of_class, strict=True):
        count = torch.zeros_like(gram)
        for z in unpack_in_blocks(bits[rows], players, players):
            count += z.T @ z  # whole numbers: exact
        gram += weight * count
    return gram


def check_coalition_gram(bits: Tensor, players: int, weights: Tensor) -> None:
    op = "coalition_gram"
    check_players(op, players)
    check_bits(op, bits, players)
    check_row_weights(op, weights, bits)


def fake(bits: Tensor, players: int, weights: Tensor) -> Tensor:
    check_coalition_gram(bits, players, weights)
    return weights.new_empty([players, players])
