"""Descriptions of rows in which groups of features are replaced."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ... import ops
from ..coalition_bits import unpack
from ..prefix.deltas import Deltas, Memo, Sparse, group_of_entries
from ..prefix.mixing import CoefficientMixing, Mixing, OneDeltaMixing, PrefixSumMixing
from ..spans import length, part
from .rows import row_bytes

_MOST_MIXED = 128  # deltas that a product adds up faster than a running sum does


class CoalitionRows:
    """The input where a coalition's players are, the baseline elsewhere; K baselines for each.

    Repeat n·K + k is coalition n over baseline k.
    """

    kind = "coalitions"
    together, is_affine = False, True

    def __init__(
        self,
        inputs: tuple[Tensor, ...],  # each [B, *F_i]
        baselines: tuple[Tensor, ...],  # each [B, K, *F_i] or [1, K, *F_i]
        bits: Tensor,  # [N, W] int64
        masks: tuple[Tensor, ...],  # each [B, *F_i] or [1, *F_i] int32: the player of each feature
        players: int,  # M
    ):
        self.inputs, self.masks, self.players = inputs, masks, players
        self.baselines = self.others = baselines
        self._deltas: tuple[slice, list[Memo[Deltas]]] | None = None  # used last
        self._pieces: tuple[MaskPieces, ...] | None = None
        self.bits = bits.to(inputs[0].device)
        self.repeat_multiple = baselines[0].shape[1]
        self.repeats = bits.shape[0] * self.repeat_multiple
        self.anchors, self.mixed = self.repeat_multiple * (1 + players), players
        self.batch = inputs[0].shape[0]
        self.row_bytes, self.device = row_bytes(inputs), inputs[0].device

    # With K baselines the rows of a coalition are those of K · b examples.

    def bases(self, examples: slice) -> list[Tensor]:  # each [K * b, *F_i] or [1, *F_i]
        found = []
        for x, baseline in zip(self.inputs, self.baselines, strict=True):
            base = part(baseline, examples)
            if self.repeat_multiple > 1:
                base = base.expand(part(x, examples).shape[0], *baseline.shape[1:])
            found.append(base.transpose(0, 1).flatten(0, 1))
        return found

    def deltas(self, repeats: slice, examples: slice) -> list[Memo[Deltas]]:
        if self._deltas is None or self._deltas[0] != examples:
            self._deltas = examples, self._new_deltas(examples)
        return self._deltas[1]

    def _new_deltas(self, examples: slice) -> list[Memo[Deltas]]:
        if self._pieces is None:
            self._pieces = tuple(MaskPieces(mask, self.players) for mask in self.masks)
        found: list[Memo[Deltas]] = []
        everyone = slice(0, self.players)
        for x, base, pieces in zip(self.inputs, self.bases(examples), self._pieces, strict=True):
            positions, offsets = (
                p if p.shape[0] == 1 else p.repeat(self.repeat_multiple, 1)
                for p in pieces.positions(everyone, examples)
            )
            given = part(x, examples)
            apart = (given - base.unflatten(0, (self.repeat_multiple, -1))).flatten(0, 1).flatten(1)
            values = apart.gather(1, positions.expand(len(apart), -1))
            found.append(Memo(Sparse(values, positions, offsets, x.shape[1:], few=True)))
        return found

    def mixing(self, repeats: slice, examples: slice) -> Mixing:
        which = slice(repeats.start // self.repeat_multiple, repeats.stop // self.repeat_multiple)
        return CoefficientMixing(unpack(self.bits[which], self.players))

    def block(self, repeats: slice, examples: slice) -> tuple[Tensor, ...]:
        return tuple(
            ops.perturb(
                part(x, examples),
                part(baseline, examples),
                self.bits,
                part(mask, examples),
                repeats.start,
                repeats.stop,
            ).flatten(0, 1)
            for x, baseline, mask in zip(self.inputs, self.baselines, self.masks, strict=True)
        )


class OrderRows(CoalitionRows):
    """Coalitions that grow by one player at a time, along orders of the players.

    Coalition n · (M - 1) + j is the first j + 1 players of order n.
    """

    kind = "growing coalitions"

    def __init__(
        self,
        inputs: tuple[Tensor, ...],  # each [B, *F_i]
        baselines: tuple[Tensor, ...],  # each [B, K, *F_i] or [1, K, *F_i]
        bits: Tensor,  # [n (M - 1), W] int64
        masks: tuple[Tensor, ...],  # each [B, *F_i] or [1, *F_i] int32: the player of each feature
        orders: Tensor,  # [n, M] int64
    ):
        super().__init__(inputs, baselines, bits, masks, orders.shape[1])
        self.orders = orders.to(self.device)
        if self.players > _MOST_MIXED and self.repeat_multiple == 1:
            self.mixed = 1

    def mixing(self, repeats: slice, examples: slice) -> Mixing:
        if self.mixed == self.players:
            return super().mixing(repeats, examples)
        return PrefixSumMixing(self.orders, repeats.start, repeats.stop)


class Pieces(Protocol):
    """Groups of features of one input, which may overlap."""

    def positions(self, groups: slice, examples: slice) -> tuple[Tensor, Tensor]:
        """Flat feature positions [b, P] or [1, P] of these groups, and where each group's begin.

        The second is [b, g + 1] or [1, g + 1]: group i of the slice has the positions from
        entry i to entry i + 1. Both int64.
        """
        ...


class MaskPieces:
    """The groups of a feature mask."""

    def __init__(self, mask: Tensor, count: int):  # [B, *F] or [1, *F] int32, ids below count
        ids, self._order = mask[..., None].flatten(1).sort(dim=1, stable=True)
        bounds = torch.arange(count + 1, dtype=ids.dtype, device=ids.device)
        self._offsets = torch.searchsorted(ids, bounds.expand(ids.shape[0], -1).contiguous())

    def positions(self, groups: slice, examples: slice) -> tuple[Tensor, Tensor]:
        offsets = part(self._offsets, examples)[:, groups.start : groups.stop + 1]
        return part(self._order, examples), offsets


class AblationRows:
    """The input with one group of features replaced; group after group.

    In group g, example b gets the values of row ``sources[i][g, b]`` of ``replacements[i]``.
    """

    kind = "one group off"
    together, is_affine = False, True
    repeat_multiple, anchors, mixed = 1, 3, 1

    def __init__(
        self,
        inputs: tuple[Tensor, ...],  # each [B, *F_i]
        replacements: tuple[Tensor, ...],  # each [*, *F_i]
        sources: tuple[Tensor, ...],  # each [G, B] or [1, B] int64
        pieces: tuple[Pieces, ...],
        groups: int,
    ):
        self.inputs, self.sources = inputs, sources
        self.replacements = self.others = replacements
        self.pieces, self.repeats = pieces, groups
        self.batch = inputs[0].shape[0]
        self.row_bytes, self.device = row_bytes(inputs), inputs[0].device

    def bases(self, examples: slice) -> list[Tensor]:
        return [part(x, examples) for x in self.inputs]

    def deltas(self, repeats: slice, examples: slice) -> list[Memo[Deltas]]:
        found: list[Memo[Deltas]] = []
        for x, replacement, source, pieces in zip(
            self.bases(examples), self.replacements, self.sources, self.pieces, strict=True
        ):
            positions, offsets = _own_entries(*pieces.positions(repeats, examples))
            row = part(source, repeats)[:, examples].T  # [b, g] or [b, 1]
            if row.shape[1] > 1:
                group = group_of_entries(offsets, positions.shape[1]).clamp(max=row.shape[1] - 1)
                row = row.gather(1, group.expand(len(row), -1))
            there = replacement.flatten(1)[row, positions]  # [b, P]
            values = there - x.flatten(1).gather(1, positions.expand(len(x), -1))
            found.append(Memo(Sparse(values, positions, offsets, x.shape[1:], few=False)))
        return found

    def mixing(self, repeats: slice, examples: slice) -> Mixing:
        return OneDeltaMixing(length(repeats))

    def block(self, repeats: slice, examples: slice) -> tuple[Tensor, ...]:
        count = repeats.stop - repeats.start
        return tuple(
            ops.ablate_one(
                part(x, examples),
                replacement,
                part(source, repeats)[:, examples],
                *pieces.positions(repeats, examples),
                0,
                count,
            ).flatten(0, 1)
            for x, replacement, source, pieces in zip(
                self.inputs, self.replacements, self.sources, self.pieces, strict=True
            )
        )


def _own_entries(positions: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Without the positions of other groups, where all examples have the same."""
    if len(offsets) > 1:
        return positions, offsets
    begin, end = int(offsets[0, 0]), int(offsets[0, -1])
    return positions[:, begin:end], offsets - begin
