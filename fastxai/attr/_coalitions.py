"""Rows of coalitions, and values by player arranged as features."""

from __future__ import annotations

from torch import Tensor

from ..core.checks import check
from ..core.engine.coalition_rows import CoalitionRows, OrderRows
from ..core.engine.groups import FeatureGroups
from ..core.engine.outputs import result_dtype
from ..core.engine.request import Request


def coalition_rows(
    request: Request,
    groups: FeatureGroups,
    bits: Tensor,  # [N, W] int64
    orders: Tensor | None = None,  # [n, M] int64
) -> CoalitionRows:
    """Rows for coalitions of the groups, over the background or else the baselines.

    With orders, the coalitions are their beginnings.
    """
    if request.background is None:
        baselines = tuple(baseline[:, None] for baseline in request.baselines)  # [B, 1, *F_i]
    else:
        baselines = tuple(rows[None] for rows in request.background)  # [1, K, *F_i]
    if orders is not None:
        return OrderRows(request.inputs.tensors, baselines, bits, groups.masks, orders)
    return CoalitionRows(request.inputs.tensors, baselines, bits, groups.masks, groups.count)


def arranged(
    values: Tensor,  # [B, C, M] float64
    outputs: Tensor,  # [B, *C]
    groups: FeatureGroups,
    return_input_shape: bool,
) -> tuple[Tensor, ...]:
    """Values of groups in the form that KernelShap and Lime return: one output a row is [B]."""
    shape = outputs.shape[:1] if outputs.shape[1:].numel() == 1 else outputs.shape
    values = values.reshape(*shape, groups.count).to(groups.masks[0].device, result_dtype(outputs))
    return groups.spread(values) if return_input_shape else (groups.by_id(values),)


def check_groups_for_batch(request: Request, groups: FeatureGroups) -> None:
    """One answer for the batch needs one grouping for the batch."""
    check(
        groups.one_for_all or not request.model.whole_batch,
        "feature_mask",
        "one row for all examples, as forward_func gives one answer for the batch",
        "one for each example",
    )
