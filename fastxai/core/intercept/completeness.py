"""Whether DeepLift's attributions add up, told by the two passes that it takes anyway."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from functools import cache, reduce
from typing import Any

import torch
from torch import Tensor

from ..checks import ArgumentError
from .deep_lift import Lifted


class Told:
    """A lifted function that notes the chosen outputs of both passes.

    The gradient that comes to a model's output from what is explained is one at the output that was
    chosen of each row: the place at which both passes are read. So the chosen outputs of every
    block of rows come with its multipliers, from no other call of the model.

    Args:
        lifted: the function.
        note: takes F(x) − F(x') of the rows of the latest call, [N], as they are known; None for
            who knows which output was chosen and reads ``change``.

    Attributes:
        change: how much all outputs of the latest call change, [N, *C].
    """

    change: Tensor

    def __init__(self, lifted: Lifted, note: Callable[[Tensor], None] | None):
        self.lifted, self.note = lifted, note
        self._graph: Any = None  # of the latest call
        self._outputs: tuple[Tensor, ...] = ()  # its changes and references

    def __call__(self, *tensors: Any) -> Any:
        output, count = self.lifted(*tensors), len(tensors[0])
        if not isinstance(output, Tensor) or not output.requires_grad:
            return output
        if output.dim() and output.shape[0] != count:
            return output
        reference = self.lifted.reference
        if reference.shape[1:] != output.shape[1:]:
            raise ArgumentError(
                "forward_func: expected outputs of one shape for inputs and baselines, got "
                f"{tuple(output.shape)} and {tuple(reference.shape)}"
            )
        with torch.no_grad():
            if output.dim() and 1 < len(reference) < count:
                each = count // len(reference)
                change = (output.unflatten(0, (-1, each)) - reference[:, None]).flatten(0, 1)
            else:
                change = output - reference
        self._graph, self._outputs = output.grad_fn, (change, reference)
        self.change, note = change, self.note
        if note is None:
            return output

        def read(gradient: Tensor) -> None:
            if gradient.dim() < 2:
                note(change)
                return
            chosen = change.masked_fill(gradient == 0, 0)  # others may be infinite
            note(chosen.sum(tuple(range(1, chosen.dim()))))

        output.register_hook(read)
        return output

    def missed(self, attributions: Sequence[Tensor], change: Tensor) -> tuple[float, float] | None:
        """By how much some rows of the latest call do not add up, and how large outputs are.

        None if they do.

        Args:
            attributions: to all inputs, each [n, *F_i].
            change: F(x) − F(x') of each row, [n].
        """
        rows = [a.flatten(1) if a.dim() > 1 else a[:, None] for a in attributions]
        off = reduce(torch.add, [r.sum(1) for r in rows]) - change
        if not off.numel():
            return None
        share = max([_half_the_digits(r.dtype) for r in rows])
        missed = float(torch.linalg.vector_norm(off, torch.inf))
        if not math.isfinite(missed):  # of such rows another warning tells
            told = off.isfinite()
            return self.missed([a[told] for a in attributions], change[told])
        if missed <= share * float(torch.linalg.vector_norm(change, torch.inf)):
            return None
        size = sum(float(t.abs().nan_to_num(0, 0, 0).max()) for t in self._outputs)
        sizes = reduce(torch.add, [r.abs().sum(1) for r in rows])
        return None if (off.abs() <= share * (size + sizes)).all() else (missed, size)

    def warn(self, found: Sequence[tuple[float, float]]) -> None:
        """Warns of the greatest of what was missed, and names operations without a rule."""
        missed, size = (max(numbers) for numbers in zip(*found, strict=True))
        names = ", ".join(self._unruled())
        reason = f"no rule for {names}: gradients are used instead" if names else _OTHERWISE
        warnings.warn(
            f"DeepLift: attributions miss F(x) - F(x') by up to {missed:.3g}, for outputs of up "
            f"to {size:.3g} ({reason})",
            stacklevel=5,
        )

    def _unruled(self) -> list[str]:
        """Names of the operations without a rule, also of those that users wrote."""
        names = [function.__name__ for function in self.lifted.unruled]
        nodes, seen = [self._graph], set()
        while nodes:
            node = nodes.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            nodes += [before for before, _ in node.next_functions]
            function = getattr(node, "_forward_cls", None)
            if function is not None and not function.__module__.startswith(__package__):
                names.append(function.__name__)
        return list(dict.fromkeys(names))


@cache
def _half_the_digits(dtype: torch.dtype) -> float:
    """What the rounding of a deep network may take."""
    return float(torch.finfo(dtype).eps ** 0.5)


_OTHERWISE = (
    "every operation has a rule; rows that influence one another, or masks and numbers made of "
    "what has no gradient, may be the reason"
)
