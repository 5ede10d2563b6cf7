"""Descriptions of the rows a method wants the model to see.

A description holds a few small tensors, knows how many rows it stands for, and makes any block of
them when the engine asks. Rows are arranged as repeats × examples: every example of the batch comes
in each of R repeats (the steps of a path, say). A block is a rectangle of that table.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from .. import ops


class Rows(Protocol):
    """R × B rows for the model."""

    repeats: int  # R
    batch: int  # B
    inputs: tuple[Tensor, ...]  # the examples, each [B, *F_i] or [1, *F_i]
    row_bytes: int  # of one row, over all inputs
    device: torch.device

    def block(self, repeats: slice, examples: slice) -> tuple[Tensor, ...]:
        """The rows of these repeats and examples, each [r * b, *F_i], repeat by repeat.

        They are new memory in every call: the model may write to them.
        """
        ...


class Given:
    """The inputs themselves, once."""

    repeats = 1

    def __init__(self, inputs: tuple[Tensor, ...], batch: int):  # each [B, *F_i] or [1, *F_i]
        self.inputs, self.batch = inputs, batch
        self.row_bytes, self.device = _row_bytes(inputs), inputs[0].device

    def block(self, repeats: slice, examples: slice) -> tuple[Tensor, ...]:
        count = examples.stop - examples.start
        return tuple(part(x, examples).expand(count, *x.shape[1:]).clone() for x in self.inputs)


class Path:
    """Points on the straight path from the baseline (α = 0) to the input (α = 1)."""

    def __init__(
        self,
        inputs: tuple[Tensor, ...],  # each [B, *F_i]
        baselines: tuple[Tensor, ...],  # each [B, *F_i] or [1, *F_i]
        alphas: Tensor,  # [S] float64
    ):
        self.inputs, self.baselines, self.alphas = inputs, baselines, alphas
        self.repeats = alphas.shape[0]
        self.batch = inputs[0].shape[0]
        self.row_bytes, self.device = _row_bytes(inputs), inputs[0].device

    def block(self, repeats: slice, examples: slice) -> tuple[Tensor, ...]:
        alphas = part(self.alphas, repeats)
        return tuple(
            ops.path_points(part(x, examples), part(b, examples), alphas).flatten(0, 1)
            for x, b in zip(self.inputs, self.baselines, strict=True)
        )


def part(tensor: Tensor, span: slice) -> Tensor:
    """``tensor[span]``; a tensor with one row for all, or taken whole, is itself."""
    size = tensor.shape[0]
    return tensor if size == 1 or span == slice(0, size) else tensor[span]


def _row_bytes(inputs: tuple[Tensor, ...]) -> int:
    return sum(x.shape[1:].numel() * x.element_size() for x in inputs)
