"""Which output of a row is explained."""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checks import ArgumentError, check


class Target:
    """Which output of a row is explained.

    Args:
        target: None; an int, or a tuple that indexes the dimensions after the batch, for all rows;
            a tensor with one integer, likewise; a 1-D integer tensor or a list of int, one a row; a
            list of tuples, one a row.
        batch: the number of rows B.

    Raises:
        ArgumentError: for any other form, or a length other than B.
    """

    def __init__(self, target: Any, batch: int):
        self.everywhere: tuple[int, ...] = ()  # one index for all rows, or
        self.each: Tensor | None = None  # [B, k] int64 on the CPU: one for each row
        self.spans: list[tuple[int, int]] = []  # least and greatest index in each dimension
        if target is None:
            return
        if isinstance(target, np.ndarray):
            target = torch.from_numpy(target)
        if isinstance(target, Tensor):
            target = self._of_tensor(target)
        if isinstance(target, list | Tensor):
            check(len(target) == batch, "target", "one for each of {} rows", len(target), batch)
            self.each = self._of_list(target) if isinstance(target, list) else target[:, None]
            if self.each.numel() > 0:
                least, greatest = self.each.aminmax(dim=0)
                self.spans = list(zip(least.tolist(), greatest.tolist(), strict=True))
        else:
            self.everywhere = self._of_row(target)
            self.spans = [(i, i) for i in self.everywhere]

    @staticmethod
    def _of_tensor(target: Tensor) -> int | Tensor:
        integer = not (target.is_floating_point() or target.is_complex())
        check(integer and target.dtype != torch.bool, "target", "integers", target.dtype)
        check(target.dim() <= 1, "target", "one dimension at most", target.shape)
        return int(target) if target.numel() == 1 else target.detach().to("cpu", torch.int64)

    @staticmethod
    def _of_row(target: Any) -> tuple[int, ...]:
        if type(target) is int:
            return (target,)
        index = target if isinstance(target, tuple) else (target,)
        # What argmax returns, say.
        index = tuple(Target._of_tensor(i) if _is_number(i) else i for i in index)
        for i in index:
            check(
                isinstance(i, numbers.Integral) and not isinstance(i, bool),
                "target",
                "an int, a tuple of int, an integer tensor, or a list of int or tuples",
                repr(target) if isinstance(target, str) else target,
            )
        return tuple(int(i) for i in index)

    def _of_list(self, target: list[Any]) -> Tensor:
        rows = [self._of_row(t) for t in target]
        lengths = {len(row) for row in rows}
        check(len(lengths) <= 1, "target", "tuples of one length", f"lengths {sorted(lengths)}")
        return torch.tensor(rows, dtype=torch.int64).reshape(len(rows), max(lengths, default=1))

    def select(self, output: Tensor, repeats: int, examples: slice | Tensor) -> Tensor:
        """The chosen outputs, [r * b, *C], of an output [r * b, *C'] for a block of rows."""
        if not self.spans:
            return output
        self._check_range(output.shape)
        index: tuple[Any, ...] = (slice(None), *self.everywhere)
        if self.each is None:
            return output[index]
        all_of_them = isinstance(examples, slice) and examples == slice(0, len(self.each))
        columns = self.each if all_of_them else self.each[examples]  # [b, k]
        columns = columns.to(output.device)
        if output.dim() == 2:
            if self.spans[0][0] < 0:
                columns = columns % output.shape[1]
            if repeats == 1:
                return output.gather(1, columns).flatten()
            by_repeat = output.reshape(repeats, len(columns), output.shape[1])
            return by_repeat.gather(2, columns.expand(repeats, -1, -1)).flatten()
        columns = columns.repeat(repeats, 1)
        rows = torch.arange(output.shape[0], device=output.device)
        index = (rows, *columns.unbind(1))
        return output[index]

    def _check_range(self, shape: torch.Size) -> None:
        # Here rather than left to indexing, which on a GPU fails later, elsewhere, and for good.
        if len(self.spans) >= len(shape):
            raise ArgumentError(
                f"target: expected at most {len(shape) - 1} indices for outputs of shape "
                f"{tuple(shape)}, got {len(self.spans)}"
            )
        for dim, (low, high) in enumerate(self.spans, start=1):
            if low < -shape[dim] or high >= shape[dim]:
                raise IndexError(
                    f"target: {high if high >= shape[dim] else low} is out of range for dimension "
                    f"{dim} of forward_func's output, of shape {tuple(shape)}"
                )


def _is_number(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() == 0
