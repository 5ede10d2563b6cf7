"""Descriptions of the rows a method wants the model to see.

A description holds a few small tensors, knows how many rows it stands for, and makes any block of
them when the engine asks. Rows are arranged as repeats × examples: every example of the batch comes
in each of R repeats (the steps of a path, say). A block is a rectangle of that table.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeGuard

import torch
from torch import Tensor

from .. import ops
from .affine import (
    Deltas,
    Dense,
    Drawn,
    Each,
    Kept,
    Mixed,
    Mixing,
    Running,
    Sparse,
    group_of_entries,
)
from .designs import unpack
from .inputs import check

_MOST_MIXED = 128  # deltas that a product adds up faster than a running sum does


class Rows(Protocol):
    """R × B rows for the model."""

    kind: str  # in words
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


class Affine(Rows, Protocol):
    """Rows that are bases with deltas mixed in: the first of few examples are enough for many."""

    others: tuple[Tensor, ...]  # what is in the rows beside the inputs, of their dtypes
    grain: int  # a block's repeats must begin and end at multiples of this
    anchors: int  # about as many rows for each example cost what base and deltas cost
    mixed: int  # how many deltas are added for one row

    def bases(self, examples: slice) -> list[Tensor]:
        """For each input [b, *F_i] or [1, *F_i]."""
        ...

    def deltas(self, repeats: slice, examples: slice) -> list[Kept[Deltas]]:
        """For each input [K, b, *F_i]; the same objects as before if they are the same."""
        ...

    def mixing(self, repeats: slice, examples: slice) -> Mixing:
        """How the rows of these repeats and examples are made of bases and deltas."""
        ...


class Given:
    """The inputs themselves, once."""

    kind = "inputs"
    repeats = 1

    def __init__(
        self,
        inputs: tuple[Tensor, ...],  # each [B, *F_i] or [1, *F_i]
        batch: int,
        together: bool = False,
    ):
        self.inputs, self.batch, self.together = inputs, batch, together
        self.row_bytes, self.device = row_bytes(inputs), inputs[0].device

    def block(self, repeats: slice, examples: slice) -> tuple[Tensor, ...]:
        count = length(examples)
        rows = [part(x, examples) for x in self.inputs]
        return tuple(
            [(x if x.shape[0] == count else x.expand(count, *x.shape[1:])).clone() for x in rows]
        )


class Ends:
    """The inputs, and then the baselines."""

    kind = "inputs and baselines"
    repeats, together = 2, False

    def __init__(
        self,
        inputs: tuple[Tensor, ...],  # each [B, *F_i]
        baselines: tuple[Tensor, ...],  # each [B, *F_i] or [1, *F_i]
    ):
        self.inputs, self.batch = inputs, inputs[0].shape[0]
        pairs = zip(baselines, inputs, strict=True)
        self.baselines = [b.to(x.dtype).expand(x.shape) for b, x in pairs]
        self.row_bytes, self.device = row_bytes(inputs), inputs[0].device

    def block(self, repeats: slice, examples: slice) -> tuple[Tensor, ...]:
        of_inputs = zip(*(self.inputs, self.baselines)[repeats], strict=True)
        return tuple([torch.cat([part(t, examples) for t in ends]) for ends in of_inputs])


class Pairs:
    """Each example with each of K baselines: the inputs, then as many baselines as they need.

    Baseline r of a block belongs to the examples of repeat r; with one for each example, K is 1.
    What it is made for copies the tensors before the model may write to them.

    Attributes:
        latest: which block was made last, repeats and examples.
    """

    kind = "inputs against baselines"
    together = False

    def __init__(
        self,
        inputs: tuple[Tensor, ...],  # each [B, *F_i]
        baselines: tuple[Tensor, ...],  # each [K, *F_i], or [B, *F_i]
        repeats: int,  # K, or 1
    ):
        self.inputs, self.baselines, self.repeats = inputs, baselines, repeats
        self.batch = inputs[0].shape[0]
        self.latest = slice(0, repeats), slice(0, self.batch)
        self.row_bytes, self.device = row_bytes(inputs), inputs[0].device

    def block(self, repeats: slice, examples: slice) -> tuple[Tensor, ...]:
        self.latest, count = (repeats, examples), length(repeats)
        rows = [part(x, examples) for x in self.inputs]
        if count > 1:
            rows = [x.repeat(count, *[1] * (x.dim() - 1)) for x in rows]
        which = repeats if self.repeats > 1 else examples
        return (*rows, *(part(baseline, which) for baseline in self.baselines))


class Path:
    """Points on the straight path from the baseline (α = 0) to the input (α = 1)."""

    kind = "points of paths"
    together = False
    grain, anchors, mixed = 1, 2, 1

    def __init__(
        self,
        inputs: tuple[Tensor, ...],  # each [B, *F_i]
        baselines: tuple[Tensor, ...],  # each [B, *F_i] or [1, *F_i]
        alphas: Tensor,  # [S] float64
    ):
        self.inputs, self.alphas = inputs, alphas
        self.baselines = self.others = baselines
        self._deltas: tuple[slice, list[Kept[Deltas]]] | None = None  # used last
        self.repeats = alphas.shape[0]
        self.batch = inputs[0].shape[0]
        self.row_bytes, self.device = row_bytes(inputs), inputs[0].device

    def bases(self, examples: slice) -> list[Tensor]:
        return [part(baseline, examples) for baseline in self.baselines]

    def deltas(self, repeats: slice, examples: slice) -> list[Kept[Deltas]]:
        if self._deltas is None or self._deltas[0] != examples:
            pairs = zip(self.inputs, self.bases(examples), strict=True)
            self._deltas = examples, [Kept(Dense((part(x, examples) - b)[None])) for x, b in pairs]
        return self._deltas[1]

    def mixing(self, repeats: slice, examples: slice) -> Mixing:
        return Mixed(part(self.alphas, repeats)[:, None])

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

    kind = "coalitions"
    together = False

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
        self._deltas: tuple[slice, list[Kept[Deltas]]] | None = None  # used last
        self._pieces: tuple[MaskPieces, ...] | None = None
        self.bits = bits.to(inputs[0].device)
        self.grain = baselines[0].shape[1]
        self.repeats = bits.shape[0] * self.grain
        self.anchors, self.mixed = self.grain * (1 + players), players
        self.batch = inputs[0].shape[0]
        self.row_bytes, self.device = row_bytes(inputs), inputs[0].device

    # With K baselines the rows of a coalition are those of K · b examples.

    def bases(self, examples: slice) -> list[Tensor]:  # each [K * b, *F_i] or [1, *F_i]
        found = []
        for x, baseline in zip(self.inputs, self.baselines, strict=True):
            base = part(baseline, examples)
            if self.grain > 1:
                base = base.expand(part(x, examples).shape[0], *baseline.shape[1:])
            found.append(base.transpose(0, 1).flatten(0, 1))
        return found

    def deltas(self, repeats: slice, examples: slice) -> list[Kept[Deltas]]:
        if self._deltas is None or self._deltas[0] != examples:
            self._deltas = examples, self._new_deltas(examples)
        return self._deltas[1]

    def _new_deltas(self, examples: slice) -> list[Kept[Deltas]]:
        if self._pieces is None:
            self._pieces = tuple(MaskPieces(mask, self.players) for mask in self.masks)
        found: list[Kept[Deltas]] = []
        everyone = slice(0, self.players)
        for x, base, pieces in zip(self.inputs, self.bases(examples), self._pieces, strict=True):
            positions, offsets = (
                p if p.shape[0] == 1 else p.repeat(self.grain, 1)
                for p in pieces.positions(everyone, examples)
            )
            given = part(x, examples)
            apart = (given - base.unflatten(0, (self.grain, -1))).flatten(0, 1).flatten(1)
            values = apart.gather(1, positions.expand(len(apart), -1))
            found.append(Kept(Sparse(values, positions, offsets, x.shape[1:], few=True)))
        return found

    def mixing(self, repeats: slice, examples: slice) -> Mixing:
        which = slice(repeats.start // self.grain, repeats.stop // self.grain)
        return Mixed(unpack(self.bits[which], self.players))

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


class Prefixes(Coalitions):
    """Coalitions that grow by one player at a time, along orders of the players.

    Repeat n · (M - 1) + j is the first j + 1 players of order n.
    """

    kind = "growing coalitions"

    def __init__(
        self,
        inputs: tuple[Tensor, ...],  # each [B, *F_i]
        baselines: tuple[Tensor, ...],  # each [B, 1, *F_i] or [1, 1, *F_i]
        bits: Tensor,  # [n (M - 1), W] int64
        masks: tuple[Tensor, ...],  # each [B, *F_i] or [1, *F_i] int32: the player of each feature
        orders: Tensor,  # [n, M] int64
    ):
        super().__init__(inputs, baselines, bits, masks, orders.shape[1])
        self.orders = orders.to(self.device)
        if self.players > _MOST_MIXED:
            self.mixed = 1

    def mixing(self, repeats: slice, examples: slice) -> Mixing:
        if self.mixed == self.players:
            return super().mixing(repeats, examples)
        return Running(self.orders, repeats.start, repeats.stop)


class Noisy:
    """Noisy inputs; with a background, random points on the paths to them from its rows.

    Repeat n of an example is its sample n. All is drawn from the seed, the sample and the example
    by the op that makes the rows. Sample n has the background row of sample n - K.
    """

    kind = "noisy inputs"
    together = False
    grain = 1

    def __init__(
        self,
        inputs: tuple[Tensor, ...],  # each [B, *F_i]
        background: tuple[Tensor, ...] | None,  # each [K, *F_i]
        stdevs: tuple[float, ...],
        samples: int,
        seed: int,
    ):
        self.inputs, self.background, self.stdevs = inputs, background, stdevs
        self.samples = self.repeats = samples
        self.seed = seed
        self.position: float | None = None
        self.others = background or ()
        self.mixed = len(self.others[0]) if self.others else 1
        self.anchors = 1 + self.mixed
        self._deltas: tuple[slice, list[Kept[Deltas]]] | None = None  # used last
        self.batch = inputs[0].shape[0]
        self.row_bytes, self.device = row_bytes(inputs), inputs[0].device

    def ends(self) -> Noisy:
        """The noisy inputs that the paths lead to."""
        return Noisy(self.inputs, None, self.stdevs, self.samples, self.seed)

    def starts(self) -> Noisy:
        """The background rows of the first K samples, which come again in every K."""
        assert self.background is not None
        starts = copy.copy(self)
        starts.position, starts.stdevs = 0.0, (0.0,) * len(self.inputs)
        starts.repeats = min(self.samples, self.background[0].shape[0])
        return starts

    def block(self, repeats: slice, examples: slice) -> tuple[Tensor, ...]:
        return tuple(
            ops.noisy_points(**draws, position=self.position).flatten(0, 1)
            for draws in self._draws(repeats, examples)
        )

    @property
    def is_affine(self) -> bool:
        """Whether all are mixed of the inputs and the background: nothing else is as few."""
        return bool(self.others) and self.position is None and not any(self.stdevs)

    def bases(self, examples: slice) -> list[Tensor]:
        return [part(x, examples) for x in self.inputs]

    def deltas(self, repeats: slice, examples: slice) -> list[Kept[Deltas]]:
        if self._deltas is None or self._deltas[0] != examples:
            pairs = zip(self.others, self.bases(examples), strict=True)
            self._deltas = examples, [Kept(Dense(start[:, None] - x)) for start, x in pairs]
        return self._deltas[1]

    def mixing(self, repeats: slice, examples: slice) -> Mixing:
        # The op tells what it draws by rows of one number: the path from 1 to 0, and from k to 0.
        end = torch.zeros(length(examples), 1, dtype=torch.float64, device=self.device)
        starts = torch.arange(self.mixed, dtype=torch.float64, device=self.device)[:, None]
        draws = {**next(self._draws(repeats, examples)), "input": end}
        left = ops.noisy_points(**draws | {"baseline": torch.ones_like(starts)})
        which = ops.noisy_points(**draws | {"baseline": starts}, position=0.0)
        return Drawn(which[..., 0].long(), left[..., 0], self.mixed)

    def add_products(
        self,
        sums: list[Tensor],  # each [b, *F_i], or none yet
        gradients: list[Tensor],  # each [r, b, *F_i]
        repeats: slice,
        examples: slice,
    ) -> list[Tensor]:
        """The sums and Σ_r (end - start) · gradient, over the samples of the repeats."""
        draws = self._draws(repeats, examples)
        return [
            ops.noisy_reduce(sums[i] if sums else None, gradients[i], **drawn)
            for i, drawn in enumerate(draws)
        ]

    def products(self, gradients: list[Tensor], repeats: slice, examples: slice) -> Tensor:
        """Σ (end - start) · gradient over the features of all inputs, [r, b] float64."""
        ends = self.ends().block(repeats, examples)
        starts = self.starts().block(repeats, examples)
        found = [
            (end - start).reshape(gradient.shape).double().mul_(gradient).flatten(2).sum(2)
            for gradient, end, start in zip(gradients, ends, starts, strict=True)
        ]
        return torch.stack(found).sum(0)

    def _draws(self, repeats: slice, examples: slice) -> Iterator[dict[str, Any]]:
        """For each input what the ops draw from."""
        for i, x in enumerate(self.inputs):
            yield {
                "input": part(x, examples),
                "baseline": None if self.background is None else self.background[i],
                "stdev": self.stdevs[i],
                "seed": self.seed,
                "stream": i,
                "samples": self.samples,
                "example": examples.start,
                "first": repeats.start,
                "last": repeats.stop,
            }


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

    kind = "one group off"
    together = False
    grain, anchors, mixed = 1, 3, 1

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

    def deltas(self, repeats: slice, examples: slice) -> list[Kept[Deltas]]:
        found: list[Kept[Deltas]] = []
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
            found.append(Kept(Sparse(values, positions, offsets, x.shape[1:], few=False)))
        return found

    def mixing(self, repeats: slice, examples: slice) -> Mixing:
        return Each(length(repeats))

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

    kind = "one group permuted"
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


class Perturbed:
    """The inputs as a function changes them, each repeat in another way."""

    kind = "perturbed inputs"
    together = True

    def __init__(
        self,
        inputs: tuple[Tensor, ...],  # each [B, *F_i]
        repeats: int,
        perturb: Callable[[slice], tuple[Tensor, ...]],  # what block is to give
    ):
        self.inputs, self.repeats, self.perturb = inputs, repeats, perturb
        self.batch = inputs[0].shape[0]
        self.row_bytes, self.device = row_bytes(inputs), inputs[0].device

    def block(self, repeats: slice, examples: slice) -> tuple[Tensor, ...]:
        return self.perturb(repeats)


def part(tensor: Tensor, span: slice) -> Tensor:
    """``tensor[span]``; a tensor with one row for all, or taken whole, is itself."""
    size = tensor.shape[0]
    return tensor if size == 1 or span == slice(0, size) else tensor[span]


def is_affine(rows: Rows) -> TypeGuard[Affine]:
    return isinstance(rows, Path | Coalitions | OneOff) or (
        isinstance(rows, Noisy) and rows.is_affine
    )


def _own_entries(positions: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Without the positions of other groups, where all examples have the same."""
    if len(offsets) > 1:
        return positions, offsets
    begin, end = int(offsets[0, 0]), int(offsets[0, -1])
    return positions[:, begin:end], offsets - begin


def length(span: slice) -> int:
    """How many a slice with both ends has."""
    return int(span.stop - span.start)


def row_bytes(inputs: tuple[Tensor, ...]) -> int:
    """Of one row, over all inputs."""
    return sum([x.shape[1:].numel() * x.element_size() for x in inputs])
