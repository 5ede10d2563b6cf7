"""Slices of rows."""

from __future__ import annotations

from torch import Tensor


def part(tensor: Tensor, span: slice) -> Tensor:
    """``tensor[span]``; a tensor with one row for all, or taken whole, is itself."""
    size = tensor.shape[0]
    return tensor if size == 1 or span == slice(0, size) else tensor[span]


def length(span: slice) -> int:
    """How many a slice with both ends has."""
    return int(span.stop - span.start)
