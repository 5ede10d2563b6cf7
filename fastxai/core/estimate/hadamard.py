"""Coalitions that are rows of Hadamard matrices."""

from __future__ import annotations

import torch
from torch import Tensor

from ..coalition_bits import complement, on_cpu, pack, paired, subset_sizes
from .sampling import BLOCKS, COLUMNS, ROWS, SIDES, WHOSE, bernoulli_pairs, coins, random_order

HADAMARD_MOST = 1 << 14  # players: a block of rows is 32 MiB then, and grows with their square


_ALL_UP_TO = 12  # players, so few (4096 coalitions) that one may ask for all


@on_cpu
def foldover_hadamard(players: int, n: int, seed: int) -> Tensor:
    """Coalitions like those of fair coins, but balanced, each beside its complement.

    They come in blocks: each has the 2^d rows, in random order, of the smallest of Sylvester's
    Hadamard matrices with a column for every player. In a whole block every player is present in
    half of the rows and any two are present independently. Which column is whose, and which of its
    entries mean presence, is drawn anew for each block: every coalition is as likely in every
    place, and players tied in one block are not tied in the next.

    Up to 12 players the blocks draw without replacement: each 2^M rows are all coalitions, once.
    Beyond 16384 players, where a block is dear and n is hardly ever a large part of one, they are
    :func:`bernoulli_pairs`.

    Source: Plackett and Burman, "The design of optimum multifactorial experiments" (1946); Box and
    Hunter, "The 2^(k-p) fractional factorial designs" (1961), whose foldover adds complements.

    Returns:
        bits [n, W] int64, rows 2p and 2p + 1 complements; of an odd n the last is single. A larger
        n begins with the same rows.
    """
    if players > HADAMARD_MOST:
        return bernoulli_pairs(players, n, seed)
    pairs = -(-n // 2)
    few = players <= _ALL_UP_TO
    columns, rows = (_disjoint_blocks if few else _random_blocks)(players, pairs, seed)
    digits = players - 1 if few else digits_of(players)
    negative = _hadamard_signs(columns, rows[:, :pairs], digits)
    sides = coins(players, len(columns), seed, SIDES)
    return paired((negative ^ sides.unsqueeze(1)).flatten(0, 1)[:pairs], players)[:n]


def digits_of(players: int) -> int:
    """Binary digits of a row or column of the smallest Hadamard matrix with a column for each."""
    return (players - 1).bit_length()


def hadamard_rows(players: int, seed: int, first: int, blocks: int) -> Tensor:
    """Coalitions of about half the players: [about blocks * 2^digits, W].

    Rows of Sylvester's Hadamard matrix on columns drawn anew for each block of rows. In half of the
    rows of a whole block, or nearly, any two players are on the same side.
    """
    digits = digits_of(players)
    order = 1 << digits
    drawn = random_order(2 * blocks, order, seed, first=2 * first).reshape(blocks, 2, order)
    # Row and column 0 have no negative entry. The row is the full coalition, of no use; the column
    # is as good as any other, being orthogonal to them, but of use only where all are needed.
    others = drawn[drawn > 0].reshape(blocks, 2, order - 1)
    columns = (drawn if players == order else others)[:, 0, :players]
    bits = complement(_hadamard_signs(columns, others[:, 1], digits).flatten(0, 1), players)
    sizes = subset_sizes(bits)
    return bits[(sizes >= 2) & (sizes <= players - 2)]


def _random_blocks(players: int, pairs: int, seed: int) -> tuple[Tensor, Tensor]:
    """Columns [blocks, M] and all rows [blocks, 2^d] of Hadamard matrices, for so many pairs."""
    order = 1 << digits_of(players)
    blocks = -(-pairs // order)
    columns = random_order(blocks, order, seed, COLUMNS)[:, :players]
    return columns, random_order(blocks, order, seed, ROWS)


def _disjoint_blocks(players: int, pairs: int, seed: int) -> tuple[Tensor, Tensor]:
    """Columns [cycles, M] and all rows [cycles, 2^(M-1)] of matrices that have every coalition.

    These matrices have M - 1 digits, of which the low d make up a block. Every coalition or its
    complement is in one row if the M columns, a one put before each, are independent. So d + 1 of
    them are 0, 1, 2, 4, ...; each of the others has a digit of its own above the low ones.
    """
    digits = digits_of(players)
    blocks, order = 1 << (players - 1 - digits), 1 << digits
    cycles = -(-pairs // (blocks * order))
    drawn = random_order(cycles, order, seed, COLUMNS)
    own = 1 << torch.arange(digits, players - 1)
    is_other = drawn & (drawn - 1) != 0
    others = drawn[is_other].reshape(cycles, order - digits - 1)[:, : len(own)] + own
    first = drawn[~is_other].reshape(cycles, digits + 1)
    whose = random_order(cycles, players, seed, WHOSE)
    columns = torch.cat([first, others], 1).gather(1, whose)
    block = random_order(cycles, blocks, seed, BLOCKS).unsqueeze(-1)
    row = random_order(cycles * blocks, order, seed, ROWS).unflatten(0, (cycles, blocks))
    return columns, (block * order + row).flatten(1)


def _hadamard_signs(columns: Tensor, rows: Tensor, digits: int) -> Tensor:
    """Where these rows [B, R] of Sylvester's matrices are negative in columns [B, M]: [B, R, W]."""
    # Entry (r, c) is negative where r & c has odd parity: so the signs of row r are the sum modulo
    # two, over the digits of r that are one, of that digit of the columns. Sums over the low half
    # of the digits and over the high half are few: a table of all rows would be large.
    of_digits = pack((columns.unsqueeze(1) >> torch.arange(digits).unsqueeze(1)) & 1 == 1)
    half = digits // 2
    low = chosen(_all_sums(of_digits[:, :half]), rows & ((1 << half) - 1))
    return low ^ chosen(_all_sums(of_digits[:, half:]), rows >> half)


def _all_sums(terms: Tensor) -> Tensor:
    """Sums modulo two of all subsets of terms [B, d, W]: [B, 2^d, W]."""
    sums = terms.new_zeros(terms.shape[0], 1, terms.shape[2])
    for term in terms.split(1, 1):
        sums = torch.cat([sums, sums ^ term], 1)
    return sums


def chosen(table: Tensor, rows: Tensor) -> Tensor:  # [B, T, W], [B, R] -> [B, R, W]
    return table.gather(1, rows.unsqueeze(-1).expand(-1, -1, table.shape[2]))
