"""Sliding windows over the features of one input."""

from __future__ import annotations

import math
import numbers
from typing import Any

import torch
from torch import Tensor

from ..checks import check, name_of
from .inputs import Inputs


class Windows:
    """All places of a hyperrectangle that slides over a feature shape, the first dimension fastest.

    The first window begins at the origin; the last in each dimension is the first that reaches its
    end, and is cut off there.

    Args:
        shape: the features' shape F_1, ..., F_D.
        window: the window's extent in each dimension.
        strides: its steps in each dimension.
        first: how many groups come before these, of other inputs.
        device: where positions are wanted.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        window: tuple[int, ...],
        strides: tuple[int, ...],
        first: int,
        device: torch.device,
    ):
        self.shape, self.window, self.strides = shape, window, strides
        self.first, self.device = first, device
        triples = zip(shape, window, strides, strict=True)
        self.counts = tuple(math.ceil((size - w) / step) + 1 for size, w, step in triples)
        self.count = math.prod(self.counts)

    def positions(self, groups: slice, examples: slice) -> tuple[Tensor, Tensor]:
        """The features of these groups; none of those that belong to other inputs."""
        number = torch.arange(groups.start, groups.stop, device=self.device)
        features, inside = self.features(number[None])
        offsets = torch.nn.functional.pad(inside.sum(2).cumsum(1), (1, 0))
        return features[inside][None], offsets

    def only(self, which: Tensor) -> SomeWindows:  # [B, G] or [1, G] int64
        """These windows alone, of each example or all of them."""
        return SomeWindows(self, which)

    def features(self, number: Tensor) -> tuple[Tensor, Tensor]:  # [b, g] int64
        """Flat positions of the features of these windows, [b, g, n], and which there are."""
        number = number - self.first
        inside = ((number >= 0) & (number < self.count))[..., None]
        flat = torch.zeros_like(number)[..., None]
        for size, w, step, count in zip(
            self.shape, self.window, self.strides, self.counts, strict=True
        ):
            along = (number % count * step)[..., None] + torch.arange(w, device=self.device)
            number = number // count
            flat = (flat[..., None] * size + along[:, :, None, :]).flatten(2)
            inside = (inside[..., None] & (along < size)[:, :, None, :]).flatten(2)
        return flat, inside

    def any(self, features: Tensor) -> Tensor:  # [B, *F] bool
        """Whether any of a window's features is true, [B, windows]."""
        found = features.to(torch.float32)
        with torch.autocast(found.device.type, enabled=False):  # which is for the user's model
            for cover in self._covers(found):  # each dimension goes from the front to the back
                found = torch.tensordot(found, cover, dims=([1], [1]))
        found = found.permute(0, *range(found.dim() - 1, 0, -1))
        return found.reshape(len(features), self.count) > 0

    def spread(self, values: Tensor) -> Tensor:  # [..., windows]
        """For every feature the mean of the values of the windows that cover it, [..., *F]."""
        # As every dimension slides by itself, so may the sum over the windows be taken.
        lead = values.shape[:-1]
        total = values.reshape(*lead, *reversed(self.counts))
        total = total.permute(*range(len(lead)), *range(total.dim() - 1, len(lead) - 1, -1))
        with torch.autocast(values.device.type, enabled=False):
            for cover in self._covers(values):  # each dimension goes from the front to the back
                total = torch.tensordot(total, cover / cover.sum(0), dims=([len(lead)], [0]))
        return total

    def _covers(self, values: Tensor) -> list[Tensor]:
        """For each dimension, whether a window covers a feature, [windows, features]."""
        covers = []
        for size, w, step, count in zip(
            self.shape, self.window, self.strides, self.counts, strict=True
        ):
            starts = torch.arange(count, device=values.device)[:, None] * step
            at = torch.arange(size, device=values.device)
            covers.append(((at >= starts) & (at < starts + w)).to(values.dtype))
        return covers


class SomeWindows:
    """Some of the windows, of each example others."""

    def __init__(self, windows: Windows, which: Tensor):  # [B, G] or [1, G] int64
        self.windows, self.which = windows, which

    def positions(self, groups: slice, examples: slice) -> tuple[Tensor, Tensor]:
        """As :meth:`Windows.positions`; where the examples have fewer features than others, any."""
        which = self.which if len(self.which) == 1 else self.which[examples]
        features, inside = self.windows.features(which[:, groups])
        counts = inside.sum(2)
        offsets = torch.nn.functional.pad(counts.cumsum(1), (1, 0))
        if len(which) == 1:
            return features[inside][None], offsets
        # Those inside come first, in their order.
        order = inside.flatten(1).to(torch.int8).argsort(dim=1, descending=True, stable=True)
        most = int(offsets[:, -1].max())
        return features.flatten(1).gather(1, order[:, :most]), offsets


def check_windows(shapes: Any, strides: Any, inputs: Inputs) -> tuple[Windows, ...]:
    """Checks sliding windows and their strides, one for each input.

    Args:
        shapes: a tuple of int with one for each feature dimension, or a tuple of those for a tuple
            of inputs.
        strides: None (1), an int, a tuple of int with one for each dimension, or a tuple of either
            for a tuple of inputs.
        inputs: the checked inputs.

    Raises:
        ArgumentError: naming the argument and the input it is for.
    """
    wanted = len(inputs.tensors)
    name = "sliding_window_shapes"
    if wanted == 1:  # then both may be given in a tuple, or as they are
        nested = isinstance(shapes, tuple) and len(shapes) == 1 and isinstance(shapes[0], tuple)
        shapes = shapes if nested else (shapes,)
        strides = strides if isinstance(strides, tuple) and len(strides) == 1 else (strides,)
    elif strides is None or isinstance(strides, numbers.Integral):
        strides = (strides,) * wanted
    for argument, value in ((name, shapes), ("strides", strides)):
        check(isinstance(value, tuple), argument, "a tuple", type(value).__name__)
        check(len(value) == wanted, argument, "one for each of the {} inputs", len(value), wanted)
    found: list[Windows] = []
    for i, x in enumerate(inputs.tensors):
        shape = tuple(x.shape[1:])
        at = name_of(name, i, inputs.in_tuple)
        window = _extents(shapes[i], len(shape), at)
        step = 1 if strides[i] is None else strides[i]
        step = (step,) * len(shape) if isinstance(step, numbers.Integral) else step
        stride = _extents(step, len(shape), name_of("strides", i, inputs.in_tuple))
        fits = all(w <= size for w, size in zip(window, shape, strict=True))
        check(fits, at, "at most the input's shape {}", window, shape)
        gapless = all(s <= w or w == size for s, w, size in zip(stride, window, shape, strict=True))
        check(
            gapless,
            name_of("strides", i, inputs.in_tuple),
            "at most the window's shape {}, so that no feature is left out",
            stride,
            window,
        )
        first = found[-1].first + found[-1].count if found else 0
        found.append(Windows(shape, window, stride, first, x.device))
    return tuple(found)


def _extents(value: Any, dims: int, name: str) -> tuple[int, ...]:
    fine = isinstance(value, tuple) and all(
        isinstance(v, numbers.Integral) and not isinstance(v, bool) and int(v) > 0 for v in value
    )
    check(fine, name, "a tuple of positive int", value)
    check(len(value) == dims, name, "one for each of {} feature dimensions", value, dims)
    return tuple(int(v) for v in value)
