"""Descriptions of the rows a method wants the model to see.

A description holds a few small tensors, knows how many rows it stands for, and makes any block of
them when the engine asks. Rows are arranged as repeats × examples: every example of the batch comes
in each of R repeats (the steps of a path, say). A block is a rectangle of that table.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from .. import ops
from .inputs import check


class Rows(Protocol):
    """R × B rows for the model."""

    repeats: int  # R
    batch: int  # B
    inputs: tuple[Tensor, ...]  # the examples, each [B, *F_i] or [1, *F_i]
    row_bytes: int  # of one row, over all inputs
    device: torch.device
    together: bool  # whether a block must hold all examples

    def block(self, repeats: slice, examples: slice) -> tuple[Tensor, ...]:
        """The rows of these repeats and examples, each [r * b, *F_i], repeat by repeat.

        They are new memory in every call: the model may write to them.
        """
        ...


# Of a block of rows, for each input: base [b, *F_i], deltas [K, b, *F_i] and coefficients [r, K].
# Row (n, e) is base[e] + Σ_k coefficients[n, k] deltas[k, e].
Anchors = tuple[list[Tensor], list[Tensor], list[Tensor]]


class Given:
    """The inputs themselves, once."""

    repeats = 1
    together = False

    def __init__(self, inputs: tuple[Tensor, ...], batch: int):  # each [B, *F_i] or [1, *F_i]
        self.inputs, self.batch = inputs, batch
        self.row_bytes, self.device = row_bytes(inputs), inputs[0].device

    def block(self, repeats: slice, examples: slice) -> tuple[Tensor, ...]:
        count = examples.stop - examples.start
        return tuple(part(x, examples).expand(count, *x.shape[1:]).clone() for x in self.inputs)


class Path:
    """Points on the straight path from the baseline (α = 0) to the input (α = 1)."""

    together = False

    def __init__(
        self,
        inputs: tuple[Tensor, ...],  # each [B, *F_i]
        baselines: tuple[Tensor, ...],  # each [B, *F_i] or [1, *F_i]
        alphas: Tensor,  # [S] float64
    ):
        self.inputs, self.baselines, self.alphas = inputs, baselines, alphas
        self.repeats = alphas.shape[0]
        self.batch = inputs[0].shape[0]
        self.row_bytes, self.device = row_bytes(inputs), inputs[0].device

    @property
    def directions(self) -> int:
        return 1

    def affine(self, repeats: slice, examples: slice) -> Anchors:
        given = [part(x, examples) for x in self.inputs]
        bases = [part(b, examples).expand_as(x) for x, b in zip(given, self.baselines, strict=True)]
        deltas = [(x - b)[None] for x, b in zip(given, bases, strict=True)]
        return bases, deltas, _in_dtypes(part(self.alphas, repeats)[:, None], given)

    def block(self, repeats: slice, examples: slice) -> tuple[Tensor, ...]:
        alphas = part(self.alphas, repeats)
        return tuple(
            ops.path_points(part(x, examples), part(b, examples), alphas).flatten(0, 1)
            for x, b in zip(self.inputs, self.baselines, strict=True)
        )


class Coalitions:
    """The input where a coalition's players are, the baseline elsewhere; K baselines for each.

    Repeat n·K + k is coalition n over baseline k.
    """

    together = False

    def __init__(
        self,
        inputs: tuple[Tensor, ...],  # each [B, *F_i]
        baselines: tuple[Tensor, ...],  # each [B, K, *F_i] or [1, K, *F_i]
        bits: Tensor,  # [N, W] int64
        masks: tuple[Tensor, ...],  # each [B, *F_i] or [1, *F_i] int32: the player of each feature
        players: int,  # M
    ):
        self.inputs, self.baselines, self.masks = inputs, baselines, masks
        self.players = players
        self._anchors: tuple[slice, list[Tensor], list[Tensor]] | None = None  # used last
        self.bits = bits.to(inputs[0].device)
        self.repeats = bits.shape[0] * baselines[0].shape[1]
        self.batch = inputs[0].shape[0]
        self.row_bytes, self.device = row_bytes(inputs), inputs[0].device

    @property
    def directions(self) -> int:
        return self.players

    def affine(self, repeats: slice, examples: slice) -> Anchors:
        player = torch.arange(self.players, device=self.device)
        z = (self.bits[repeats][:, player // 64] >> player % 64) & 1  # [r, M]
        if self._anchors is None or self._anchors[0] != examples:
            self._anchors = examples, *self._bases_and_deltas(examples)
        _, bases, deltas = self._anchors
        return bases, deltas, _in_dtypes(z, bases)

    def _bases_and_deltas(self, examples: slice) -> tuple[list[Tensor], list[Tensor]]:
        given = [part(x, examples) for x in self.inputs]
        bases = [
            part(b, examples)[:, 0].expand_as(x) for x, b in zip(given, self.baselines, strict=True)
        ]
        deltas = []
        for x, base, mask in zip(given, bases, self.masks, strict=True):
            of_player = part(mask, examples).expand_as(x)[None].long()
            delta = x.new_zeros(self.players, *x.shape)
            deltas.append(delta.scatter_(0, of_player, (x - base)[None]))
        return bases, deltas

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


class OneOff:
    """The input with one group of features replaced; group after group.

    In group g, example b gets the values of row ``sources[i][g, b]`` of ``replacements[i]``.
    """

    together = False

    def __init__(
        self,
        inputs: tuple[Tensor, ...],  # each [B, *F_i]
        replacements: tuple[Tensor, ...],  # each [*, *F_i]
        sources: tuple[Tensor, ...],  # each [G, B] or [1, B] int64
        pieces: tuple[Pieces, ...],
        groups: int,
    ):
        self.inputs, self.replacements, self.sources = inputs, replacements, sources
        self.pieces, self.repeats = pieces, groups
        self.batch = inputs[0].shape[0]
        self.row_bytes, self.device = row_bytes(inputs), inputs[0].device

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


class Permuted:
    """The input with one group of features permuted among the examples by the user's function."""

    together = True

    def __init__(
        self,
        inputs: tuple[Tensor, ...],  # each [B, *F_i]
        masks: tuple[Tensor, ...],  # each [B, *F_i] or [1, *F_i]: the group of each feature
        groups: int,
        permute: Callable[[Tensor, Tensor], Tensor],
    ):
        self.inputs, self.masks, self.repeats, self.permute = inputs, masks, groups, permute
        self.batch = inputs[0].shape[0]
        self.row_bytes, self.device = row_bytes(inputs), inputs[0].device

    def block(self, repeats: slice, examples: slice) -> tuple[Tensor, ...]:
        return tuple(
            torch.cat([self._one(x, mask == g) for g in range(repeats.start, repeats.stop)])
            for x, mask in zip(self.inputs, self.masks, strict=True)
        )

    def _one(self, x: Tensor, chosen: Tensor) -> Tensor:
        if not chosen.any():
            return x
        permuted = self.permute(x.clone(), chosen)
        got = permuted.shape if isinstance(permuted, Tensor) else type(permuted).__name__
        check(got == x.shape, "perm_func", "it to return a tensor of shape {}", got, tuple(x.shape))
        return permuted.to(x.dtype)


def part(tensor: Tensor, span: slice) -> Tensor:
    """``tensor[span]``; a tensor with one row for all, or taken whole, is itself."""
    size = tensor.shape[0]
    return tensor if size == 1 or span == slice(0, size) else tensor[span]


def _in_dtypes(coefficients: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    """In each input's dtype: one and the same tensor for inputs of one dtype."""
    by_dtype = {x.dtype: coefficients.to(x.dtype) for x in inputs}
    return [by_dtype[x.dtype] for x in inputs]


def length(span: slice) -> int:
    """How many a slice with both ends has."""
    return int(span.stop - span.start)


def row_bytes(inputs: tuple[Tensor, ...]) -> int:
    """Of one row, over all inputs."""
    return sum(x.shape[1:].numel() * x.element_size() for x in inputs)
