"""The methods as programs of tensors alone, to be traced: rows, one call of the model, a reduction.

Unlike the engine's blocks, all rows of a batch go through the model in one call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..core.inputs import check

TOP = "argmax"  # the target that is the class with the largest output


@dataclass(frozen=True)
class Question:
    """A model with its inputs and whatever else comes with a call.

    Rows are arranged as repeats × examples, repeat by repeat.
    """

    module: nn.Module
    inputs: tuple[Tensor, ...]  # each [B, *F_i]
    baselines: tuple[Tensor, ...]  # each [B, *F_i] or [1, *F_i]
    forward_args: tuple[Any, ...]
    of_rows: tuple[bool, ...]  # which of those are tensors with a row for each example
    # None; indices after the batch for all rows; [B] or [B, k] int64, one for each; or TOP
    target: Any

    @property
    def batch(self) -> int:
        return self.inputs[0].shape[0]

    def outputs(self, *rows: Tensor) -> Tensor:  # each [r * B, *F_i] -> [r * B, *C]
        """All outputs of the model."""
        repeats = rows[0].shape[0] // self.batch
        pairs = zip(self.forward_args, self.of_rows, strict=True)
        extra = (a.repeat(repeats, *[1] * (a.dim() - 1)) if own else a for a, own in pairs)
        return self.module(*rows, *extra)

    def choice(self, outputs: Tensor) -> Callable[[Tensor], Tensor]:
        """What picks the explained outputs, [r * B, *C'], out of all, [r * B, *C].

        Args:
            outputs: the outputs at the inputs, [B, *C].
        """
        if self.target is None:
            return lambda every: every
        if isinstance(self.target, tuple):
            index = (slice(None), *self.target)
            return lambda every: every[index]
        columns = outputs.argmax(1) if self.target is TOP else self.target
        columns = columns.reshape(columns.shape[0], -1)  # [B, k]
        flat = torch.zeros_like(columns[:, 0])
        for column, size in zip(columns.unbind(1), outputs.shape[1:], strict=True):
            flat = flat * size + torch.where(column < 0, column + size, column)

        def pick(every: Tensor) -> Tensor:
            return every.flatten(1).gather(1, flat.repeat(every.shape[0] // self.batch)[:, None])

        return pick


@dataclass(frozen=True)
class Answer:
    """What a program returns."""

    outputs: Tensor  # [B, *C], all outputs of the model
    attributions: tuple[Tensor, ...]
    convergence_delta: Tensor | None = None  # [B]
    standard_errors: tuple[Tensor, ...] | None = None  # as the attributions


Program = Callable[[Question], Answer]


def saliency(question: Question, abs: bool) -> Answer:
    """∂F/∂x, or its absolute value."""
    outputs, _, gradients = _gradients(question, question.inputs, slice(None))
    return Answer(outputs, tuple(g.abs() for g in gradients) if abs else gradients)


def input_x_gradient(question: Question) -> Answer:
    """x ∘ ∂F/∂x."""
    outputs, _, gradients = _gradients(question, question.inputs, slice(None))
    pairs = zip(gradients, question.inputs, strict=True)
    return Answer(outputs, tuple(g * x for g, x in pairs))


def integrated_gradients(
    question: Question,
    alphas: Tensor,  # [S] float64
    weights: Tensor,  # [S] float64
    multiply_by_inputs: bool,
) -> Answer:
    """(x − x') ∘ Σ_s w_s ∂F/∂x (x' + α_s (x − x')), and how far its sum is from F(x) − F(x')."""
    batch, last = question.batch, -2 * question.batch  # rows: the path's points, then x, then x'
    ends = list(zip(question.inputs, question.baselines, strict=True))
    rows = [torch.cat([_path(x, b, alphas), x, b.expand_as(x)]) for x, b in ends]
    at_inputs = slice(last, -batch)
    every, chosen, gradients = _gradients(question, rows, at_inputs)
    means = (
        torch.tensordot(weights.to(_wide(g)), g[:last].to(_wide(g)).unflatten(0, (-1, batch)), 1)
        for g in gradients
    )
    if multiply_by_inputs:
        found = tuple(
            mean * (x.to(mean.dtype) - b.to(mean.dtype))
            for mean, (x, b) in zip(means, ends, strict=True)
        )
    else:
        found = tuple(means)
    at_input, at_baseline = chosen[last:].reshape(2, batch).to(found[0].dtype).unbind()
    total = torch.stack([v.reshape(batch, -1).sum(1) for v in found]).sum(0)
    return Answer(every[at_inputs], found, total - (at_input - at_baseline))


def _gradients(
    question: Question, rows: Sequence[Tensor], at_inputs: slice
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """All outputs of these rows, the chosen ones, and the gradients of those."""
    pull: Callable[[Tensor], tuple[Tensor, ...]]
    back: Callable[[Tensor], tuple[Tensor]]
    outputs, pull = torch.func.vjp(question.outputs, *rows)  # type: ignore[misc]
    choice = question.choice(outputs[at_inputs])
    chosen, back = torch.func.vjp(choice, outputs)  # type: ignore[misc]
    return outputs, chosen, pull(*back(torch.ones_like(chosen)))


def _path(x: Tensor, baseline: Tensor, alphas: Tensor) -> Tensor:  # [S * B, *F]
    wide = _wide(x)
    start, end = baseline.to(wide), x.to(wide)
    steps = alphas.to(wide).reshape(-1, *[1] * x.dim())
    return (start + steps * (end - start)).to(x.dtype).flatten(0, 1)


def _wide(x: Tensor) -> torch.dtype:
    """What sums are kept in."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def check_one_number(question: Question, outputs: Tensor) -> None:
    """The target must leave one number a row."""
    chosen = question.choice(outputs)(outputs)
    check(
        chosen.numel() == chosen.shape[0],
        "target",
        "one that leaves one number a row: an int, a tensor with one for each example, or {!r}",
        f"{tuple(chosen.shape[1:])} numbers a row",
        TOP,
    )
