"""Rows of coalitions as operations on tensors, for packages."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..core import coalition_bits
from ..core.checks import check
from ..core.engine.coalition_rows import MaskPieces, Pieces
from ..core.engine.groups import FeatureGroups, check_feature_mask, check_id_range
from ..core.engine.inputs import Inputs
from ..core.prefix.mixing import CoefficientMixing
from ..core.program.program import Replaced, Spread


def positions_of(pieces: Iterable[Pieces], count: int) -> tuple[tuple[Tensor, Tensor], ...]:
    """Which features of each input are of which group, one grouping for all examples."""
    return tuple(p.positions(slice(0, count), slice(0, 1)) for p in pieces)


def groups_for_all(
    feature_mask: Any, inputs: Inputs, return_input_shape: bool = True
) -> FeatureGroups:
    """What :func:`check_feature_mask` gives, for packages: one grouping for all examples.

    Raises:
        ArgumentError: naming the mask at fault.
    """
    groups = check_feature_mask(feature_mask, inputs)
    check(groups.one_for_all, "feature_mask", "one row for all examples", "one for each")
    if not return_input_shape:
        check_id_range(groups)
    # A file has trouble with tensors that share memory, as the parts of one mask do.
    return replace(groups, masks=tuple(mask.clone() for mask in groups.masks))


def by_id(groups: FeatureGroups) -> Spread:
    """One number for each id between the least and the greatest, zero where there is none."""
    ids = torch.arange(groups.count) if groups.ids is None else groups.ids.cpu()
    source = torch.full((int(ids[-1] - ids[0]) + 1,), groups.count)  # a zero beside the values
    source[ids - ids[0]] = torch.arange(groups.count)
    source = source.to(groups.masks[0].device)
    return lambda values: (torch.nn.functional.pad(values, (0, 1))[..., source],)


def players_present(
    bits: Tensor, groups: FeatureGroups, inputs: Inputs, with_nobody: bool = False
) -> Tensor:  # [N, M] bool
    """Who is in these coalitions, and at last in the full one."""
    present = coalition_bits.unpack(bits, groups.count).to(torch.bool)
    everyone = torch.ones_like(present[:1]) if len(present) else torch.ones(1, groups.count).bool()
    first = [~everyone] if with_nobody else []
    return torch.cat([*first, present, everyone]).to(device_of(inputs))


def coalitions_replaced(
    present: Tensor,  # [N, M] bool: which groups each kind of row keeps; the last keeps all
    groups: FeatureGroups,
    inputs: Inputs,
) -> Replaced:
    """The rows of a program in which coalitions of groups are left and the others replaced."""

    def kept() -> tuple[Tensor, ...]:
        return tuple(
            present[:, mask.flatten().long()].unflatten(1, mask.shape[1:]) for mask in groups.masks
        )

    pieces = (MaskPieces(mask, groups.count) for mask in groups.masks)
    mixing = CoefficientMixing(present.to(inputs.tensors[0].dtype))
    return Replaced(kept, positions_of(pieces, groups.count), mixing)


def device_of(inputs: Inputs) -> torch.device:
    return inputs.tensors[0].device
