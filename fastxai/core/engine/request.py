"""What a method is asked, checked."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..checks import ArgumentError, check, short_list, warn
from .inputs import Inputs
from .model import Model


@dataclass(frozen=True)
class Request:
    """One question to a method, checked: these inputs, against these baselines, for this output."""

    inputs: Inputs  # each [B, *F_i]
    baselines: tuple[Tensor, ...]  # each [B, *F_i] or [1, *F_i]
    model: Model
    background: tuple[Tensor, ...] | None = None  # each [K, *F_i], in place of the baselines
    background_weights: Tensor | None = None  # [K] or [K, C] float64 of sum 1; None for all alike
    link: Callable[[Tensor], Tensor] | None = None  # of mean outputs; None for the identity
    rows: Tensor | None = None  # [B] int64: which of the user's rows they are; None for all of them
    infinite: set[int] = field(default_factory=set)  # rows whose infinite outputs were warned of

    @property
    def is_indivisible(self) -> bool:
        """Whether the model must be asked about all examples together, as far as is known."""
        return self.model.is_together

    def of(self, examples: slice | Tensor) -> Request:
        """The same question about some examples of the batch, a slice or [k] int64 in order."""
        rows = self.rows
        if rows is None:
            rows = torch.arange(self.inputs.batch, device="cpu")
        rows = rows[examples]
        return replace(
            self,
            inputs=Inputs(_of(examples, self.inputs.tensors), self.inputs.in_tuple),
            baselines=_of(examples, self.baselines),
            model=self.model.of(rows),
            rows=rows,
        )


def _of(examples: slice | Tensor, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(t if t.shape[0] == 1 else t[examples] for t in tensors)


def check_no_nan(
    outputs: Tensor,  # [r, b, *C], of the examples from start on
    start: int,
    request: Request | None = None,
) -> None:
    """An error that names the row if an output is NaN; a warning if one is infinite."""
    if not outputs.is_floating_point():
        check(not outputs.is_complex(), "forward_func", "real outputs", outputs.dtype)
        return
    # Only where looking is free: on an accelerator it would make every block wait for the device.
    if outputs.device.type != "cpu":
        return
    # Sums of halves would often be infinite themselves.
    wide = torch.float32 if outputs.dtype.itemsize < 4 else None
    if math.isfinite(outputs.sum(dtype=wide)):
        return
    each = outputs.reshape(*outputs.shape[:2], -1).transpose(0, 1).flatten(1)
    for odd, is_refused in ((each.isnan(), True), (each.isinf(), False)):
        found = odd.any(1).nonzero()[:, 0] + start
        if len(found) == 0:  # a sum of numbers may be infinite without any
            continue
        rows = found if request is None or request.rows is None else request.rows[found]
        _tell(rows.tolist(), is_refused, request)


def _tell(rows: list[int], are_nan: bool, request: Request | None) -> None:
    """That the outputs for these rows are NaN, or infinite, once for each row of a question."""
    whole = request is not None and request.model.whole_batch
    if are_nan:
        which = "the batch of inputs" if whole else f"row {rows[0]} of the inputs"
        raise ArgumentError(f"forward_func: expected numbers, got NaN for {which}")
    told = set() if request is None else request.infinite
    new = [-1] if whole else rows
    new = [row for row in new if row not in told]
    told.update(new)
    if new:
        which = "the batch of inputs" if whole else f"rows {short_list(new)} of the inputs"
        warn(
            f"forward_func: infinite outputs for {which}; attributions that they have a part in "
            "are not finite, others are not affected"
        )
