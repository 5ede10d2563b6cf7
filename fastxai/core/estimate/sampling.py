"""Random coalitions and orders of players."""

from __future__ import annotations

import torch
from torch import Tensor

from ... import ops
from ..coalition_bits import on_cpu, paired, single

# Where the random numbers of a seed begin that are for other than halves, coins and leverage.
COUPLES, COLUMNS, WHOSE, BLOCKS, ROWS, SIDES = (part << 40 for part in range(1, 7))


@on_cpu
def bernoulli_pairs(players: int, n: int, seed: int) -> Tensor:
    """Coalitions that each player joins by a fair coin, each beside its complement.

    Returns:
        bits [n, W] int64, rows 2p and 2p + 1 complements; of an odd n the last is single.
    """
    return paired(coins(players, -(-n // 2), seed), players)[:n]


@on_cpu
def permutations(players: int, n: int, seed: int) -> Tensor:
    """Random orders of the players, each followed by its reverse.

    Returns:
        order [n, M] int64, row 2p + 1 being row 2p reversed; of an odd n the last is single.
    """
    orders = random_order(-(-n // 2), players, seed)
    return torch.stack([orders, orders.flip(1)], 1).flatten(0, 1)[:n]


@on_cpu
def prefixes(orders: Tensor) -> Tensor:
    """The coalitions that form as the players enter in these orders.

    Args:
        orders: [n, M] int64, each row an order of the players.

    Returns:
        bits [n * (M - 1), W]: order by order, the first player, the first two, ..., all but the
        last.
    """
    n, players = orders.shape
    entered: Tensor = single(orders.flatten(), players).unflatten(0, (n, players))
    return entered.cumsum(1)[:, : players - 1].flatten(0, 1)  # distinct bits: a sum is a union


def coins(players: int, n: int, seed: int, first: int = 0) -> Tensor:
    """Rows first, first + 1, ... of fair coins, [n, W]."""
    sizes = torch.full((n,), -1)
    return ops.coalitions(players, sizes, torch.arange(first, first + n), to_int64(seed))


def random_order(n: int, things: int, seed: int, first: int = 0) -> Tensor:
    """n random orders of 0, ..., things - 1, [n, things] int64."""
    keys = coins(64 * things, n, seed, first)  # every word is 64 random bits
    return keys.argsort(dim=1, stable=True)


def to_int64(seed: int) -> int:
    """The seed modulo 2^64, as ops take it."""
    return (int(seed) + (1 << 63)) % (1 << 64) - (1 << 63)
