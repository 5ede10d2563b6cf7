"""Descriptions of the rows a method wants the model to see.

A description holds a few small tensors, knows how many rows it stands for, and makes any block of
them when the engine asks. Rows are arranged as repeats × examples: every example of the batch comes
in each of R repeats (the steps of a path, say). A block is a rectangle of that table.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeGuard

import torch
from torch import Tensor

from ... import ops
from ..checks import check
from ..prefix.deltas import Deltas, Dense, Memo
from ..prefix.mixing import CoefficientMixing, Mixing
from ..spans import length, part


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
    repeat_multiple: int  # a block's repeats must begin and end at multiples of this
    anchors: int  # about as many rows for each example cost what base and deltas cost
    mixed: int  # how many deltas are added for one row

    def bases(self, examples: slice) -> list[Tensor]:
        """For each input [b, *F_i] or [1, *F_i]."""
        ...

    def deltas(self, repeats: slice, examples: slice) -> list[Memo[Deltas]]:
        """For each input [K, b, *F_i]; the same objects as before if they are the same."""
        ...

    def mixing(self, repeats: slice, examples: slice) -> Mixing:
        """How the rows of these repeats and examples are made of bases and deltas."""
        ...


class InputRows:
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


class InputAndBaselineRows:
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


class BaselinePairRows:
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


class PathRows:
    """Points on the straight path from the baseline (α = 0) to the input (α = 1)."""

    kind = "points of paths"
    together, is_affine = False, True
    repeat_multiple, anchors, mixed = 1, 2, 1

    def __init__(
        self,
        inputs: tuple[Tensor, ...],  # each [B, *F_i]
        baselines: tuple[Tensor, ...],  # each [B, *F_i] or [1, *F_i]
        alphas: Tensor,  # [S] float64
    ):
        self.inputs, self.alphas = inputs, alphas
        self.baselines = self.others = baselines
        self._deltas: tuple[slice, list[Memo[Deltas]]] | None = None  # used last
        self.repeats = alphas.shape[0]
        self.batch = inputs[0].shape[0]
        self.row_bytes, self.device = row_bytes(inputs), inputs[0].device

    def bases(self, examples: slice) -> list[Tensor]:
        return [part(baseline, examples) for baseline in self.baselines]

    def deltas(self, repeats: slice, examples: slice) -> list[Memo[Deltas]]:
        if self._deltas is None or self._deltas[0] != examples:
            pairs = zip(self.inputs, self.bases(examples), strict=True)
            self._deltas = examples, [Memo(Dense((part(x, examples) - b)[None])) for x, b in pairs]
        return self._deltas[1]

    def mixing(self, repeats: slice, examples: slice) -> Mixing:
        return CoefficientMixing(part(self.alphas, repeats)[:, None])

    def block(self, repeats: slice, examples: slice) -> tuple[Tensor, ...]:
        alphas = part(self.alphas, repeats)
        return tuple(
            ops.path_points(part(x, examples), part(b, examples), alphas).flatten(0, 1)
            for x, b in zip(self.inputs, self.baselines, strict=True)
        )


class PermutedRows:
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
            torch.cat(
                [permuted(x, mask == g, self.permute) for g in range(repeats.start, repeats.stop)]
            )
            for x, mask in zip(self.inputs, self.masks, strict=True)
        )


def permuted(
    x: Tensor,  # [n, *F]
    chosen: Tensor,  # [1, *F] or [n, *F] bool
    perm_func: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:  # [n, *F]
    """What the user's function makes of a tensor, of which it is to permute the chosen features."""
    if not chosen.any():
        return x
    found = perm_func(x.clone(), chosen)
    got = found.shape if isinstance(found, Tensor) else type(found).__name__
    check(got == x.shape, "perm_func", "it to return a tensor of shape {}", got, tuple(x.shape))
    return found.to(x.dtype)


class PerturbedRows:
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


def is_affine(rows: Rows) -> TypeGuard[Affine]:
    """Whether rows say of themselves that they are bases with deltas mixed in."""
    return bool(getattr(rows, "is_affine", False))


def row_bytes(inputs: tuple[Tensor, ...]) -> int:
    """Of one row, over all inputs."""
    return sum([x.shape[1:].numel() * x.element_size() for x in inputs])
