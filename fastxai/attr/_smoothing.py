"""Noisy samples of the inputs, and what becomes of attributions at them."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import ops
from ..core.checks import (
    TensorOrTuple,
    check_count,
    check_seed,
)
from ..core.engine.inputs import Inputs, check_background, check_inputs, check_stdevs
from ..core.engine.noisy_rows import ANOTHER_SEED, NoisyRows
from ..core.engine.targets import Target
from ..core.spans import length

TYPES = ("smoothgrad", "smoothgrad_sq", "vargrad")


# Bytes of noisy inputs that a method is given at once. It cuts them as suits the model; fewer would
# keep it from filling a call, more would only be held in memory.
_BYTES = {"cpu": 8_000_000, "cuda": 256_000_000}


class Samples:
    """The noisy inputs, and the method's arguments for any of them."""

    def __init__(
        self,
        inputs: TensorOrTuple,
        nt_samples: int,
        stdevs: Any,
        draw_baseline_from_distrib: bool,
        seed: int | None,
        arguments: dict[str, Any],
    ):
        self.inputs = check_inputs(inputs, differentiable=True)
        self.batch = self.inputs.batch
        self.count = check_count(nt_samples, "nt_samples")
        stdevs = check_stdevs(stdevs, self.inputs)
        Target(arguments.get("target"), self.batch)  # checks it
        self.arguments = arguments
        background = None
        if draw_baseline_from_distrib and "baselines" in arguments:
            background = check_background(arguments["baselines"], self.inputs, "baselines")
        self.seed = check_seed(seed)
        x = self.inputs.tensors
        self.noisy = NoisyRows(x, None, stdevs, self.count, self.seed)
        drawn = NoisyRows(x, background, stdevs, self.count, self.seed)
        self._baselines = None if background is None else drawn.starts()

    def in_a_call(self) -> int:
        """How many samples the method is best given at once."""
        noisy = self.noisy
        most = _BYTES.get(noisy.device.type, _BYTES["cuda"])
        return max(1, most // max(1, self.batch * noisy.row_bytes))

    def block(self, span: slice, method: Any) -> tuple[TensorOrTuple, dict[str, Any]]:
        """Inputs [s · B, *F_i], sample by sample, and the other arguments."""
        everyone = slice(0, self.batch)
        rows = self.noisy.block(span, everyone)
        if hasattr(method, "gradient_func"):  # of Captum, which would warn
            rows = tuple(x.requires_grad_() for x in rows)
        for_all = ("baselines",) if getattr(method, "_draws_baselines", False) else ()
        arguments = {
            name: value if name in for_all else _repeated(name, value, self.inputs, length(span))
            for name, value in self.arguments.items()
        }
        if self._baselines is not None:
            arguments["baselines"] = self.inputs.pack(self._baselines.block(span, everyone))
        if "seed" in inspect.signature(method.attribute).parameters:
            arguments["seed"] = self.seed ^ ANOTHER_SEED
        return self.inputs.pack(rows), arguments


class Smoothing:
    """What a type of NoiseTunnel adds up over the samples, and what becomes of the sums."""

    def __init__(self, nt_type: str, rows: int):
        self.nt_type, self.rows = nt_type, rows
        self.dtypes: list[torch.dtype] = []
        # Each row's first sample, near the mean: the variance is one of numbers around zero.
        self.shifts: list[Tensor] = []

    def add(
        self,
        sums: list[Tensor],  # each [b, *F], or none yet
        values: list[Tensor],  # each [s, b, *F]
        rows: slice,
        begins: bool,
    ) -> list[Tensor]:
        """The sums with more samples of the same rows; ``begins`` with their first."""
        self.dtypes = [v.dtype for v in values]
        wide = values
        if self.nt_type != "smoothgrad":
            wide = [v.to(torch.promote_types(v.dtype, torch.float32)) for v in values]
        if self.nt_type == "smoothgrad_sq":
            wide = [v.square() for v in wide]
        if self.nt_type == "vargrad":
            if not self.shifts:
                # An empty tensor may stand for what has no attributions.
                rows_of = [self.rows if v.numel() else v.shape[1] for v in wide]
                pairs = zip(wide, rows_of, strict=True)
                self.shifts = [v.new_empty(count, *v.shape[2:]) for v, count in pairs]
            for shift, v in zip(self.shifts, wide, strict=True):
                if begins:
                    shift[rows] = v[0]
            wide = [v - shift[rows] for v, shift in zip(wide, self.shifts, strict=True)]
            wide += [v.square() for v in wide]
        ones = torch.ones(values[0].shape[0], dtype=torch.float64, device=values[0].device)
        return [ops.path_reduce(sums[i] if sums else None, v, ones) for i, v in enumerate(wide)]

    def result(self, sums: list[Tensor], count: int) -> tuple[Tensor, ...]:  # each [rows, *F]
        means = [total / count for total in sums]
        if self.nt_type == "vargrad":
            half = len(means) // 2
            pairs = zip(means[:half], means[half:], strict=True)
            means = [(square - mean.square()).clamp_(min=0) for mean, square in pairs]
        return tuple(mean.to(dtype) for mean, dtype in zip(means, self.dtypes, strict=True))


def by_sample(values: Tensor, batch: int, samples: int) -> Tensor:
    """[s, rows, *F] of values [s · B · C, *F]: C rows for an example, if there are many outputs."""
    if samples == 1 or batch == 0:
        return values[None]
    by_sample: Tensor = values.unflatten(0, (samples, -1))
    return by_sample


def _repeated(name: str, value: Any, inputs: Inputs, times: int) -> Any:
    """An argument of the method for so many samples of the batch."""
    batch = inputs.batch
    if name == "target":
        if isinstance(value, list) and len(value) == batch:
            return value * times
        value = torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        is_each = isinstance(value, Tensor) and value.shape == (batch,) and batch != 1
        return value.repeat(times) if is_each else value
    if name == "additional_forward_args":
        values = value if isinstance(value, tuple) else (value,)
        repeated = tuple(_rows_repeated(each, batch, times, 1) for each in values)
        return repeated if isinstance(value, tuple) else repeated[0]
    if name in ("baselines", "feature_mask") and batch > 1:
        if not isinstance(value, tuple):
            return _rows_repeated(value, batch, times, inputs.tensors[0].dim())
        dims = [x.dim() for x in inputs.tensors]
        return tuple(_rows_repeated(v, batch, times, d) for v, d in zip(value, dims, strict=False))
    return value


def _rows_repeated(value: Any, batch: int, times: int, least_dims: int) -> Any:
    of_examples = isinstance(value, Tensor) and value.dim() >= least_dims
    if times == 1 or not of_examples or value.shape[0] != batch:
        return value
    return torch.cat([value] * times)
