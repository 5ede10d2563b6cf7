"""Random points between what a layer has at baselines and what it has at the inputs."""

from __future__ import annotations

import torch
from torch import Tensor

from ..engine.noisy_rows import NoisyRows
from ..engine.rows import row_bytes
from ..prefix.mixing import SampledMixing
from ..spans import length


def drawn(
    batch: int, baselines: int, samples: int, seed: int, device: torch.device
) -> tuple[Tensor, Tensor]:  # [N, B] int64 and [N, B] float64
    """Which baseline each sample of an example has, and where between both ends it is.

    As in :class:`NoisyRows` from the same seed: sample n has the baseline of sample n - K, and
    position 0 is the baseline.
    """
    ends = torch.zeros(batch, 1, dtype=torch.float64, device=device)
    starts = torch.zeros(baselines, 1, dtype=torch.float64, device=device)
    rows = NoisyRows((ends,), (starts,), (0.0,), samples, seed)
    found = rows.mixing(slice(0, samples), slice(0, batch))
    assert isinstance(found, SampledMixing)
    return found.which, 1 - found.coefficients


class Picked:
    """Rows of a background: repeat r of example b is row ``which[r, b]``."""

    kind = "baselines"
    together = False

    def __init__(
        self,
        inputs: tuple[Tensor, ...],  # each [B, *F_i]
        background: tuple[Tensor, ...],  # each [K, *F_i]
        which: Tensor,  # [R, B] int64
    ):
        self.inputs, self.background, self.which = inputs, background, which
        self.repeats, self.batch = which.shape
        self.row_bytes, self.device = row_bytes(inputs), inputs[0].device

    def block(self, repeats: slice, examples: slice) -> tuple[Tensor, ...]:
        rows = self.which[repeats, examples].flatten()
        return tuple(t[rows] for t in self.background)


class Between:
    """Points between starts and ends, which come again when repeats exceed them.

    Args:
        starts: each [R', B, *F_i].
        ends: each [R'', B, *F_i].
        positions: [R, B] float64, 0 for the start and 1 for the end.
    """

    kind = "points of paths"
    together = False

    def __init__(
        self, starts: tuple[Tensor, ...], ends: tuple[Tensor, ...], positions: Tensor
    ) -> None:
        self.starts, self.ends, self.positions = starts, ends, positions
        self.repeats, self.batch = positions.shape
        self.inputs = tuple(end[0] for end in ends)
        self.row_bytes, self.device = row_bytes(self.inputs), positions.device

    def block(self, repeats: slice, examples: slice) -> tuple[Tensor, ...]:
        found = []
        for start, apart in self._paths(repeats, examples):
            positions = self.positions[repeats, examples].to(apart.dtype)
            shape = (*positions.shape, *[1] * (apart.dim() - 2))
            found.append(apart.mul_(positions.reshape(shape)).add_(start).flatten(0, 1))
        pairs = zip(found, self.ends, strict=True)
        return tuple(rows.to(end.dtype) for rows, end in pairs)

    def apart(self, repeats: slice, examples: slice) -> list[Tensor]:
        """End less start of these repeats and examples, each [r, b, *F_i], in float32 at least."""
        return [apart for _, apart in self._paths(repeats, examples)]

    def _paths(self, repeats: slice, examples: slice) -> list[tuple[Tensor, Tensor]]:
        found = []
        for starts, ends in zip(self.starts, self.ends, strict=True):
            wide = torch.float64 if ends.dtype == torch.float64 else torch.float32
            start, end = (_again(t, repeats, examples).to(wide) for t in (starts, ends))
            found.append((start, end - start))
        return found


def _again(tensor: Tensor, repeats: slice, examples: slice) -> Tensor:
    """Some repeats [r, b, *F] of a tensor [R', B, *F] that comes again and again."""
    of_examples = tensor[:, examples]
    if len(tensor) == 1:
        return of_examples.expand(length(repeats), *of_examples.shape[1:])
    which = torch.arange(repeats.start, repeats.stop, device=tensor.device) % len(tensor)
    return of_examples[which]
