"""Descriptions of rows with noise, and of random points on paths."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ... import ops
from ..prefix.deltas import Deltas, Dense, Memo
from ..prefix.mixing import Mixing, SampledMixing
from ..spans import length, part
from .rows import row_bytes


class NoisyRows:
    """Noisy inputs; with a background, random points on the paths to them from its rows.

    Repeat n of an example is its sample n. All is drawn from the seed, the sample and the example
    by the op that makes the rows. Sample n has the background row of sample n - K.
    """

    kind = "noisy inputs"
    together = False
    repeat_multiple = 1

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
        self._deltas: tuple[slice, list[Memo[Deltas]]] | None = None  # used last
        self.batch = inputs[0].shape[0]
        self.row_bytes, self.device = row_bytes(inputs), inputs[0].device

    def ends(self) -> NoisyRows:
        """The noisy inputs that the paths lead to."""
        return NoisyRows(self.inputs, None, self.stdevs, self.samples, self.seed)

    def starts(self) -> NoisyRows:
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

    def deltas(self, repeats: slice, examples: slice) -> list[Memo[Deltas]]:
        if self._deltas is None or self._deltas[0] != examples:
            pairs = zip(self.others, self.bases(examples), strict=True)
            self._deltas = examples, [Memo(Dense(start[:, None] - x)) for start, x in pairs]
        return self._deltas[1]

    def mixing(self, repeats: slice, examples: slice) -> Mixing:
        # The op tells what it draws by rows of one number: the path from 1 to 0, and from k to 0.
        end = torch.zeros(length(examples), 1, dtype=torch.float64, device=self.device)
        starts = torch.arange(self.mixed, dtype=torch.float64, device=self.device)[:, None]
        draws = {**next(self._draws(repeats, examples)), "input": end}
        left = ops.noisy_points(**draws | {"baseline": torch.ones_like(starts)})
        which = ops.noisy_points(**draws | {"baseline": starts}, position=0.0)
        return SampledMixing(which[..., 0].long(), left[..., 0], self.mixed)

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


ANOTHER_SEED = 0x5DEECE66D  # what a method draws has a seed of its own
