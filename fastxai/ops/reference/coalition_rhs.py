"""Weighted sums of the values of coalitions."""

import torch
from torch import Tensor

from .blocks import unpack_in_blocks
from .checks import check_bits, check_device, check_floating, check_players, check_row_weights


@torch.no_grad()
def coalition_rhs(
    bits: Tensor,  # [N, W] int64
    players: int,  # M
    weights: Tensor,  # [N] float64
    values: Tensor,  # [N, C]
) -> Tensor:  # [M, C] float64
    check_coalition_rhs(bits, players, weights, values)
    total = weights.new_zeros(players, values.shape[1])
    first = 0
    for z in unpack_in_blocks(bits, players, max(players, values.shape[1])):
        rows = slice(first, first + z.shape[0])
        total += _sum_of_held(z, weights[rows, None] * values[rows].double())
        first += z.shape[0]
    return total


def check_coalition_rhs(bits: Tensor, players: int, weights: Tensor, values: Tensor) -> None:
    op = "coalition_rhs"
    check_players(op, players)
    check_bits(op, bits, players)
    check_row_weights(op, weights, bits)
    check_floating(op, "values", values)
    check_device(op, "values", values, "bits", bits)
    if values.dim() != 2 or values.shape[0] != bits.shape[0]:
        raise RuntimeError(
            f"{op}: expected values of shape [{bits.shape[0]}, C], got {list(values.shape)}"
        )


def _sum_of_held(z: Tensor, terms: Tensor) -> Tensor:  # [N, M], [N, C] -> [M, C]
    """The sum over the rows that hold each player, whatever stands in the others."""
    if terms.isfinite().all():
        return z.T @ terms
    # As a factor of 0 would make NaNs of those, they are counted and put in afterwards.
    sums = z.T @ terms.where(terms.isfinite(), 0)
    for special in (torch.inf, -torch.inf):
        sums += torch.where(z.T @ (terms == special).double() > 0, special, 0.0)
    return sums.masked_fill(z.T @ terms.isnan().double() > 0, torch.nan)


def fake(bits: Tensor, players: int, weights: Tensor, values: Tensor) -> Tensor:
    check_coalition_rhs(bits, players, weights, values)
    return weights.new_empty([players, values.shape[1]])
