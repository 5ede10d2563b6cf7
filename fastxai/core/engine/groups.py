"""Which features belong together: feature masks, checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..checks import check, check_dense, name_of
from .inputs import Inputs


@dataclass(frozen=True)
class FeatureGroups:
    """Which features of the inputs are present and absent together: the players of a game."""

    masks: tuple[Tensor, ...]  # each [B, *F_i] or [1, *F_i] int32: a feature's group, 0..count-1
    count: int  # M
    ids: Tensor | None  # [M] int64, the user's ids in order; None if they are 0..M-1

    @property
    def one_for_all(self) -> bool:
        """Whether all rows of the batch are grouped alike."""
        return all(mask.shape[0] == 1 for mask in self.masks)

    def of(self, examples: slice | Tensor) -> FeatureGroups:
        """The groups of some examples of the batch, a slice or [k] int64."""
        if self.one_for_all:
            return self
        chosen = (mask if mask.shape[0] == 1 else mask[examples] for mask in self.masks)
        return FeatureGroups(tuple(chosen), self.count, self.ids)

    def spread(self, values: Tensor) -> tuple[Tensor, ...]:  # [B, *C, M]
        """Every group's value at each of its features, [B, *C, *F_i] for each input."""
        return tuple(_spread(values, mask) for mask in self.masks)

    def by_id(self, values: Tensor) -> Tensor:  # [B, *C, M]
        """Values arranged by the user's ids from the least on, zero where there is none.

        [B, *C, greatest id − least id + 1], as Captum has it.
        """
        if self.ids is None:
            return values
        place = (self.ids - self.ids[0]).to(values.device)
        out = values.new_zeros(*values.shape[:-1], int(place[-1]) + 1)
        out[..., place] = values
        return out


def _spread(values: Tensor, mask: Tensor) -> Tensor:
    if mask.shape[0] == 1:
        flat = values.index_select(-1, mask.flatten())
        return flat.reshape(*values.shape[:-1], *mask.shape[1:])
    outputs = values.shape[1:-1]
    index = mask.long().reshape(mask.shape[0], *[1] * len(outputs), mask.shape[1:].numel())
    index = index.expand(values.shape[0], *outputs, -1)
    return values.gather(-1, index).reshape(*values.shape[:-1], *mask.shape[1:])


def check_feature_mask(feature_mask: Any, inputs: Inputs) -> FeatureGroups:
    """Brings a feature mask into one form; without one, every feature is a group.

    Args:
        feature_mask: None, a tensor of whole numbers that broadcasts to the input, with one row for
            all or one for each, or a tuple of them, one for each input. Features with the same id
            belong together, across the tensors of a tuple too; ids may have gaps.
        inputs: the checked inputs.

    Raises:
        ArgumentError: naming the mask at fault.
    """
    if feature_mask is None:
        return _each_feature(inputs)
    masks = feature_mask if isinstance(feature_mask, tuple) else (feature_mask,)
    wanted = len(inputs.tensors)
    check(len(masks) == wanted, "feature_mask", "one for each of the {} inputs", len(masks), wanted)
    names = [name_of("feature_mask", i, isinstance(feature_mask, tuple)) for i in range(wanted)]
    triples = zip(masks, inputs.tensors, names, strict=True)
    aligned = [_check_mask(mask, x, name) for mask, x, name in triples]
    flat = torch.cat([mask.flatten() for mask in aligned])
    if inputs.batch == 0 and flat.numel() == 0:  # masks for each of no examples
        return _each_feature(inputs)
    check(flat.numel() > 0, "feature_mask", "at least one feature", "none")
    ids, players = torch.unique(flat, return_inverse=True)
    parts = players.to(torch.int32).split([mask.numel() for mask in aligned])
    numbered = (p.reshape(mask.shape) for p, mask in zip(parts, aligned, strict=True))
    full = tuple(
        mask.expand(mask.shape[0], *x.shape[1:]).contiguous()
        for mask, x in zip(numbered, inputs.tensors, strict=True)
    )
    count = ids.numel()
    return FeatureGroups(full, count, None if int(ids[-1]) == count - 1 else ids)


def _each_feature(inputs: Inputs) -> FeatureGroups:
    sizes = [x.shape[1:].numel() for x in inputs.tensors]
    count = sum(sizes)
    check(count > 0, "inputs", "at least one feature", inputs.tensors[0].shape)
    every = torch.arange(count, dtype=torch.int32, device=inputs.tensors[0].device)
    pairs = zip(every.split(sizes), inputs.tensors, strict=True)
    return FeatureGroups(tuple(p.reshape(1, *x.shape[1:]) for p, x in pairs), count, None)


def _check_mask(mask: Any, x: Tensor, name: str) -> Tensor:
    check(isinstance(mask, Tensor), name, "an integer torch.Tensor", type(mask).__name__)
    check_dense(mask, name)
    check(not mask.is_meta, name, "a tensor with values", "one on the meta device")
    check(not mask.is_complex() and mask.dtype != torch.bool, name, "integer ids", mask.dtype)
    lead = x.dim() - mask.dim()
    shape = (*[1] * lead, *mask.shape)
    fits = lead >= 0 and all(m in (1, n) for m, n in zip(shape, x.shape, strict=True))
    check(fits, name, "a shape that broadcasts to the input's, {}", mask.shape, tuple(x.shape))
    mask = mask.detach()
    if mask.is_floating_point():  # as zeros_like makes one of an input
        whole = mask.isfinite().all() and bool((mask == mask.round()).all())
        small = mask.numel() == 0 or bool(mask.abs().max() < 2**31)
        check(bool(whole), name, "whole numbers", "others")
        check(small, name, "ids below 2**31", "greater ones")
    mask = mask.to(x.device, torch.int64).reshape(shape)
    if mask.numel() > 0:
        least, greatest = (int(i) for i in mask.aminmax())
        check(least >= 0, name, "ids of at least 0", least)
        check(greatest < 2**31, name, "ids below 2**31", greatest)
    ids: Tensor = mask
    return ids


_MOST_IDS = 10_000_000


def check_id_range(groups: FeatureGroups) -> None:
    """One number for each id between the least and the greatest must be few enough to return."""
    span = groups.count if groups.ids is None else int(groups.ids[-1] - groups.ids[0]) + 1
    expected = "ids within {} of each other, as there is a number for each"
    check(span <= _MOST_IDS, "feature_mask", expected, f"{span} apart", _MOST_IDS)
