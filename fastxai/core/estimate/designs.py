"""Which coalitions of players a method asks the model about, and what each of them weighs.

Coalitions are bits: bit j of word w of a row is player 64 w + j, 1 where the player is present
(the input's value) and 0 where it is absent (the baseline's). A player is a feature or a group of
features. Every design is a pure function of its arguments, the same on every machine.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ... import ops
from ..coalition_bits import (
    all_coalitions,
    complement,
    on_cpu,
    paired,
    positions,
    single,
    subset_sizes,
)
from .hadamard import HADAMARD_MOST, digits_of, hadamard_rows
from .sampling import COUPLES, random_order, to_int64

SHAPLEY_DESIGNS = ("enumeration", "hadamard", "leverage", "mixed")

_HADAMARD_UP_TO = 30  # samples per player
_ALONE_UP_TO, _SHARE_BEYOND, _AT_MOST = 5, 0.4, 7  # samples per player of a mixed design's halves
_ODD = 0x9E3779B97F4A7C15 - (1 << 64)  # the golden ratio's bits, as an int64


@dataclass(frozen=True, eq=False)
class Design:
    """Coalitions other than the empty and the full one, each beside its complement.

    Rows 2p and 2p + 1 are complements and weigh the same. Weights matter up to a common factor;
    their mean is 1.
    """

    name: str
    players: int  # M
    bits: Tensor  # [N, W] int64
    weights: Tensor  # [N] float64
    # The chance that the row's coalition is in the design; None where it was not drawn by chance.
    inclusion: Tensor | None  # [N] float64


@on_cpu
def shapley_design(players: int, n_samples: int, seed: int, name: str | None = None) -> Design:
    """Coalitions from which :class:`~.surrogate.ShapleyRegression` estimates Shapley values.

    - ``"enumeration"``: all 2^M of them. The result is exact.
    - ``"hadamard"``: both ends and the middle of the sizes, weighted by Simpson's rule. The ends
      are the players alone and, with many samples, couples of them; the middle are balanced halves
      of the players, rows of Hadamard matrices. Exact for interactions of up to three players but
      for the choice of halves and couples; more players in one interaction bias it. By far the best
      of the three while samples are few. Derived for fastxai.
    - ``"leverage"``: every size equally often, drawn without replacement and weighted by the
      Shapley kernel over the chance to be drawn. It comes to the exact values as samples come to
      2^M. Musco and Witter, "Provably accurate Shapley value estimation via leverage score
      sampling" (2024).
    - ``"mixed"``: hadamard up to 5 samples for each player, then 2 of 5 more, 7 at most; the rest
      is leverage's. It is what :class:`~.kriging.Kriging` predicts best from: the halves tell about
      interactions of few players, the others keep it from being led astray by those of many.

    All are paired, each coalition beside its complement (Covert and Lee, "Improving KernelSHAP",
    2021).

    Args:
        players: number of players M, at least 1.
        n_samples: how many coalitions the model may be asked about, at least 2: the empty and the
            full one, which every estimate needs and no design lists, count too.
        seed: of the draw; any integer, of which the low 64 bits count.
        name: which of ``SHAPLEY_DESIGNS``; None for the best that fits a regression.

    Returns:
        At most ``n_samples - 2`` coalitions, fewer where pairs do not fill it or there are no more.

    Raises:
        ValueError: the design named cannot be built for these numbers.
    """
    if players < 1 or n_samples < 2:
        raise ValueError(
            "a design needs at least 1 player and 2 samples, "
            f"got {players} players and {n_samples} samples"
        )
    if name is None:
        name = _best(players, n_samples)
    if name == "enumeration":
        return _enumeration(players, n_samples)
    if name == "hadamard":
        return _hadamard(players, n_samples, seed)
    if name == "leverage":
        return _leverage(players, n_samples, seed)
    if name == "mixed":
        return _mixed(players, n_samples, seed)
    raise ValueError(f"expected design to be one of {', '.join(SHAPLEY_DESIGNS)}, got {name!r}")


@on_cpu
def kriging_design(players: int, n_samples: int, seed: int) -> Design:
    """The best coalitions for :class:`~.kriging.Kriging`; see :func:`shapley_design`."""
    # With most coalitions leverage is nearly exact.
    name = "mixed" if 2 * n_samples <= 1 << players else None
    return shapley_design(players, n_samples, seed, name)


@on_cpu
def growing_design(players: int, n_samples: int, seed: int, name: str = "hadamard") -> Design:
    """A design of n samples that holds those of fewer samples, from 2 M + 6 on.

    A ``"mixed"`` one is such by itself. A ``"hadamard"`` one is it for as long as it is the best of
    :func:`shapley_design`; then what the leverage design adds joins it. Where more than half of all
    coalitions are wanted they are all taken, if ``n_samples`` allows.

    Args, returns: as :func:`shapley_design`.
    """
    if n_samples >> players:
        return _enumeration(players, n_samples)
    if name == "mixed":
        return _mixed(players, n_samples, seed)
    return _with_leverage(_HADAMARD_UP_TO * players, players, n_samples, seed)


def _best(players: int, n_samples: int) -> str:
    if n_samples >> players:
        return "enumeration"
    # Measured, see benchmarks/bench_accuracy.py. With most coalitions leverage is nearly exact.
    few = n_samples <= _HADAMARD_UP_TO * players and 2 * n_samples <= 1 << players
    return "hadamard" if few and _hadamard_fits(players, n_samples) else "leverage"


def _enumeration(players: int, n_samples: int) -> Design:
    if not n_samples >> players:
        raise ValueError(
            f"the enumeration design needs 2^{players} samples for {players} players, "
            f"got {n_samples}"
        )
    bits = paired(all_coalitions(players)[1 : 1 << (players - 1)], players)
    sizes = subset_sizes(bits)
    population_size = torch.tensor([math.comb(players, s) for s in range(players + 1)])
    weights = 1 / (
        sizes * (players - sizes) * population_size[sizes].double()
    )  # the Shapley kernel
    chance = torch.ones_like(weights)
    return Design("enumeration", players, bits, weights / weights.mean(), chance)


def _hadamard(players: int, n_samples: int, seed: int) -> Design:
    if not _hadamard_fits(players, n_samples):
        raise ValueError(
            f"the hadamard design needs 5 to {HADAMARD_MOST} players and not too many of their "
            "coalitions, "
            f"got {players} players and {n_samples} samples"
        )
    singles, couples, halves = _hadamard_parts(players, n_samples)
    bits = single(torch.arange(singles), players)
    bits = _extended(
        bits, couples, players // 2, functools.partial(_couples, players, seed), players
    )
    rows = (1 << digits_of(players)) - 1
    bits = _extended(bits, halves, rows, functools.partial(hadamard_rows, players, seed), players)
    weights = simpson_weights(players, subset_sizes(bits), singles + couples)
    return Design("hadamard", players, paired(bits, players), weights.repeat_interleave(2), None)


def _mixed(players: int, n_samples: int, seed: int) -> Design:
    further = max(0, n_samples - _ALONE_UP_TO * players)
    most = min(_AT_MOST * players, _ALONE_UP_TO * players + int(_SHARE_BEYOND * further))
    return _with_leverage(most, players, n_samples, seed)


def _with_leverage(most: int, players: int, n_samples: int, seed: int) -> Design:
    """Hadamard's coalitions for so many samples at most, or as fit, and leverage's for the others.

    Either part would do for an estimate: each counts by its number of coalitions.
    """
    first = min(n_samples, most, 1 << min(62, players - 1))
    while first > 2 and not _hadamard_fits(players, first):
        first = first * 9 // 10
    if first <= 2:
        return _leverage(players, n_samples, seed)
    halves = _hadamard(players, first, seed)
    wanted = min(2 * _pairs(n_samples), (1 << min(62, players)) - 2)
    design, drawn = halves, 2
    while (missing := wanted - len(design.bits)) > 0:  # some may be drawn that are there already
        drawn += missing
        design = _joined(halves, _leverage(players, drawn, seed))
    return design


def _joined(one: Design, other: Design) -> Design:
    """The coalitions of both designs, each of which weighs as a whole as it has coalitions."""
    # In each design the weights have the sum over coalitions of w s (M − s) that makes it one.
    parts = []
    for design in (one, other):
        sizes = subset_sizes(design.bits)
        share = design.weights * (sizes * (design.players - sizes))
        parts.append(design.weights * (len(sizes) / share.sum()))
    again = positions(other.bits, one.bits)
    is_new = again < 0
    bits = torch.cat([one.bits, other.bits[is_new]])
    weights = torch.cat(
        [parts[0].index_add(0, again[~is_new], parts[1][~is_new]), parts[1][is_new]]
    )
    return Design("hadamard and leverage", one.players, bits, weights / weights.mean(), None)


def _hadamard_parts(players: int, n_samples: int) -> tuple[int, int, int]:
    """How many players alone, couples and halves the design has.

    With too few samples for every player alone it has halves only: these determine the values far
    better than as many random coalitions. Noise in the output for one player alone is never
    averaged out; so where there are many samples, couples take a growing part.
    """
    pairs = _pairs(n_samples)
    if pairs < players + 2:
        return 0, 0, pairs
    couples = max(0, pairs - 4 * players) // 2
    return players, couples, pairs - players - couples


def _hadamard_fits(players: int, n_samples: int) -> bool:
    """Whether there are enough distinct couples and halves. The last tenth is long in coming."""
    if not 5 <= players <= HADAMARD_MOST:
        return False
    _, couples, halves = _hadamard_parts(players, n_samples)
    population_size = _pairs_of_size(players, limit=1 << 60)
    return 10 * couples <= 9 * population_size[1] and 10 * halves <= 9 * population_size[-1]


def simpson_weights(players: int, sizes: Tensor, ends: int) -> Tensor:
    """Weights of coalitions of these sizes [N]: so many at the ends, the others in the middle.

    What a player adds, averaged over all coalitions of s and of M - s players, is quadratic in s
    for a game with interactions of up to three players, and the Shapley value is its average over
    s. A rule whose mean square distance of s from M / 2 is that of all sizes has no error there:
    Simpson's rule, if the ends are players alone. A middle of few rows weighs less: no more than
    its part of rows beside those of the players alone.

    Returns:
        weights [N] float64, of mean 1.
    """
    n = sizes.shape[0]
    share = torch.ones(n, dtype=torch.float64)
    if ends:
        square = (sizes.double() - players / 2).square()
        far, near = float(square[:ends].mean()), float(square[ends:].mean())
        rule = (far - players * (players - 2) / 12) / (far - near)
        middle = min(rule, (n - ends) / (players + n - ends))
        share[:ends] = (1 - middle) / ends
        share[ends:] = middle / (n - ends)
    weights = share / (sizes * (players - sizes))
    return weights / weights.mean()


def _extended(
    bits: Tensor,  # [N, W]
    count: int,
    rows: int,
    draw: Callable[[int, int], Tensor],
    players: int,
) -> Tensor:  # [N + count, W]
    """Adds the first new coalitions of blocks 0, 1, ...: draw(b, n) has n blocks of so many rows.

    New is what neither is there nor has its complement there.
    """
    wanted = bits.shape[0] + count
    block = 0
    while bits.shape[0] < wanted:
        more = -((bits.shape[0] - wanted) // rows)
        bits = _distinct(torch.cat([bits, draw(block, more)]), players)
        block += more
    return bits[:wanted]


def _couples(players: int, seed: int, first: int, blocks: int) -> Tensor:
    """In each block the players are paired off at random: [blocks * (M // 2), W]."""
    order = random_order(blocks, players, seed, COUPLES + first)[:, : players // 2 * 2]
    one, other = order.reshape(-1, 2).unbind(1)
    return single(one, players) | single(other, players)


def _distinct(bits: Tensor, players: int) -> Tensor:
    """The rows [N, W] that neither repeat an earlier one nor are its complement, in their order."""
    has_first = (bits[:, :1] & 1).bool()
    halves = torch.where(has_first, bits, complement(bits, players))
    # One number stands for each pair. Should two pairs share one, the later is left out: no harm.
    key = (halves * torch.full_like(halves[0], _ODD).cumprod(0)).sum(1)
    _, first = np.unique(key.numpy(), return_index=True)
    return bits[torch.from_numpy(np.sort(first))]


def _leverage(players: int, n_samples: int, seed: int) -> Design:
    sizes = torch.arange(1, players // 2 + 1)  # [T], of the smaller coalition of each pair
    is_half = 2 * sizes == players
    drawn, whole = _spread(players, _pairs(n_samples))
    size = sizes.repeat_interleave(drawn)
    rank = torch.arange(size.shape[0]) - (drawn.cumsum(0) - drawn).repeat_interleave(drawn)
    # Of two halves take the one without the last player, so that no pair can come twice.
    cut = int(drawn[~is_half].sum())
    smaller = ops.coalitions(players, size[:cut], rank[:cut], to_int64(seed))
    without_last = players - 1 + players % 2
    halves = ops.coalitions(without_last, size[cut:], rank[cut:], to_int64(seed))
    bits = paired(torch.cat([smaller, halves]), players)

    rows = (drawn * (1 + is_half)).double()  # of each size
    factorial = torch.lgamma(torch.arange(1, players + 2, dtype=torch.float64))
    log_there_are = factorial[players] - factorial[sizes] - factorial[players - sizes]
    chance = (rows.log() - log_there_are).exp().masked_fill(whole, 1)
    weights = 1 / (sizes * (players - sizes) * rows)  # kernel over chance: C(M, s) cancels
    weights, chance = (x.repeat_interleave(2 * drawn) for x in (weights, chance))
    return Design("leverage", players, bits, weights / weights.mean(), chance)


def _spread(players: int, pairs: int) -> tuple[Tensor, Tensor]:
    """How many pairs of each size 1, ..., M // 2 to draw, [T] int64; which sizes are whole, [T].

    As many of each size s and M - s as of every other, but no more than there are.
    """
    population_size = torch.tensor(_pairs_of_size(players, limit=pairs + 1), dtype=torch.int64)
    share = torch.ones(players // 2, dtype=torch.float64)
    if players % 2 == 0:
        share[-1] = 0.5  # one size, not two
    # Sizes become whole from the smallest on. The level of each and all after it, if all before
    # it are whole:
    before = population_size.cumsum(0) - population_size
    level = (pairs - before) / share.flip(0).cumsum(0).flip(0)
    whole = level * share >= population_size
    expected = torch.where(whole, population_size.double(), level[~whole][:1].sum() * share)
    drawn = expected.floor().long()
    left = min(pairs, int(population_size.sum())) - int(drawn.sum())
    drawn[(drawn - expected).argsort(stable=True)[:left]] += 1
    return drawn, drawn == population_size


def _pairs_of_size(players: int, limit: int) -> list[int]:
    """How many pairs of coalitions of s and M - s players there are, or the limit if fewer.

    For s = 1, ..., M // 2.
    """
    counts, count = [], 1
    for size in range(1, players // 2 + 1):
        if count < 2 * limit:
            count = count * (players - size + 1) // size
        counts.append(min(limit, count // 2 if 2 * size == players else count))
    return counts


def _pairs(n_samples: int) -> int:
    return (n_samples - 2) // 2
