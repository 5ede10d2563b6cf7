"""What an explanation holds beside the attributions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ..core.checks import TensorOrTuple


@dataclass(frozen=True)
class Result:
    """What a method has to tell. What it does not know by itself is None."""

    values: tuple[Tensor, ...]  # each [B, *C, *F_i], or as attribute documents it
    outputs: Tensor | None = None  # [B, *C]
    baseline_outputs: Tensor | None = None  # [B, *C]
    convergence_delta: Tensor | None = None  # [B, *C]
    standard_errors: tuple[Tensor, ...] | None = None  # as values
    samples: Tensor | None = None  # [B] int64
    players: Tensor | None = None  # [B] int64
    reached: Tensor | None = None  # [B] float64
    tier: str | None = None
    form: Callable[[Sequence[Tensor]], Any] | None = None  # of what is returned, if not the inputs'


@dataclass(frozen=True, eq=False)  # tensors have no truth value to compare by
class Explanation:
    """What :meth:`Attribution.explain` found.

    Attributes:
        values: the attributions, as :meth:`Attribution.attribute` returns them: a tensor [B, *F],
            or a tuple of them for a tuple of inputs; by layer for a method of layers.
        outputs: the explained output for each input, [B], or [B, *C] where a method explains
            several at once.
        baseline_outputs: the same at the baselines, or its mean over the background; None for a
            method without baselines.
        convergence_delta: Σ attributions − (output − baseline output): how far the attributions
            are from adding up, each feature group counted once. None for a method that does not
            promise to.
        standard_errors: how far the values may be off because not all coalitions were evaluated,
            one standard deviation, in the values' form; None for a method that does not sample.
        method: the method's name, "Integrated Gradients".
        seconds: wall time of the attribution.
        samples: how many samples each example took, [B] int64; None for a method that does not
            sample.
        players: how many groups of features (or windows) of each example differ from the baseline,
            [B] int64. The others have exactly zero, and cost no samples. None for a method that
            does not put baselines in the place of groups.
        reached: the largest standard error of each example, as a share of the range of its values
            and zero, [B] float64; None where standard errors are not known.
        tier: how the values were found from the outputs, where there are several ways:
            :class:`KernelShap` tells which. With samples by tolerance it is that of the last round;
            if examples with fewer players have a simpler one, the most accurate.
    """

    values: Any
    outputs: Tensor
    baseline_outputs: Tensor | None
    convergence_delta: Tensor | None
    standard_errors: TensorOrTuple | None
    method: str
    seconds: float
    samples: Tensor | None = None
    players: Tensor | None = None
    reached: Tensor | None = None
    tier: str | None = None

    def __repr__(self) -> str:
        shapes = ", ".join(str(tuple(v.shape)) for v in tree_leaves(self.values))
        delta = self.convergence_delta
        worst = (
            f", convergence_delta up to {delta.abs().max():.2g}"
            if delta is not None and delta.numel()
            else ""
        )
        sampled = ""
        if self.samples is not None and self.samples.numel():
            sampled = f", {self.samples.max():,} samples"
        if self.players is not None and self.players.numel():
            least, most = self.players.min(), self.players.max()
            sampled += f", {least:,} to {most:,} players" if least < most else f", {most:,} players"
        if self.reached is not None and self.reached.numel():
            sampled += f", standard errors up to {self.reached.max():.2%}"
        if self.tier is not None:
            sampled += f", {self.tier} tier"
        milliseconds = f"{self.seconds * 1e3:.3g} ms"
        return f"Explanation({self.method}: values {shapes}{worst}{sampled}, {milliseconds})"


def only_one(values: Sequence[Tensor]) -> Tensor:
    return values[0]


def convergence_delta(
    values: tuple[Tensor, ...], outputs: Tensor, baseline_outputs: Tensor
) -> Tensor:
    total = torch.stack([v.detach().flatten(1).sum(1) if v.dim() > 1 else v for v in values]).sum(0)
    if len(outputs) == 1:  # it may be the batch's
        total = total.sum(0, keepdim=True)
    return total - (outputs.to(total.dtype) - baseline_outputs.to(total.dtype))
