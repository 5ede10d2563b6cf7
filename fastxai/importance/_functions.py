"""Scores of modules and functions on inputs of which groups of features are permuted."""

from __future__ import annotations

import contextlib
import numbers
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..core import engine
from ..core.checks import check, check_dense
from ..core.engine.coalition_rows import AblationRows
from ..core.engine.model import Model
from ..core.engine.rows import InputRows
from ..interop.models import RowFunction, eval_mode
from ..interop.tables import Table

Scores = dict[Any, Any]
_MOST = 64 << 20  # bytes of outputs that are held


class Metrics:
    """One metric or several of outputs and targets.

    Args:
        scoring: a function of outputs [B, *C] and targets, or a dict of functions.

    Raises:
        ArgumentError: if it is neither.
    """

    def __init__(self, scoring: Any):
        expected = "a function of outputs and targets, as the model is no estimator"
        is_dict = isinstance(scoring, Mapping) and len(scoring) > 0
        self._each: dict[Any, Callable[..., Any]] = dict(scoring) if is_dict else {None: scoring}
        for metric in self._each.values():
            check(callable(metric), "scoring", expected, repr(metric)[:80])

    def __call__(self, outputs: Tensor, targets: Any, weights: Tensor | None) -> Scores:
        named = {} if weights is None else {"sample_weight": weights.to(outputs.device)}
        if isinstance(targets, Tensor):
            targets = targets.to(outputs.device)
        scores: Scores = {}
        for name, metric in self._each.items():
            found = metric(outputs, targets, **named)
            is_number = isinstance(found, numbers.Real | np.ndarray | Tensor)
            is_number = is_number and np.prod(getattr(found, "shape", ())) == 1
            check(is_number, "scoring", "it to return a number", repr(found)[:80])
            scores[name] = float(found)
        return scores


def as_rows(model: Any, table: Any) -> tuple[Callable[..., Any], Tensor]:
    """The model as a function of tensors, and its inputs as one.

    Raises:
        ArgumentError: if the inputs are not rows.
    """
    if isinstance(table, Tensor):
        check_dense(table, "X")
        check(table.dim() >= 2, "X", "rows of features, [B, *F]", table.shape)
        return model, table.detach()
    how, rows = Table.of(table, "X")
    function = RowFunction(model, how)
    return function, rows.to(**function.place) if function.module is not None else rows


def evaluating(model: Any) -> contextlib.AbstractContextManager[None]:
    """Has a module in eval mode for the time being."""
    return eval_mode(model) if isinstance(model, nn.Module) else contextlib.nullcontext()


def at_inputs(
    function: Callable[..., Any],
    rows: Tensor,  # [B, *F]
    targets: Any,
    weights: Tensor | None,  # [B]
    metrics: Metrics,
) -> Scores:
    """The scores of the outputs at the inputs."""
    model = Model(function, len(rows), dims=[rows.dim()])
    outputs = engine.values(model, InputRows((rows,), len(rows)))[0]
    return metrics(outputs, targets, weights)


def permuted(
    function: Callable[..., Any],
    rows: Tensor,  # [B, *F]
    groups: list[np.ndarray],  # flat places of features
    orders: list[np.ndarray],  # each [B]
    targets: Any,
    weights: Tensor | None,  # [B]
    metrics: Metrics,
) -> list[list[Scores]]:  # for each group, each repeat
    """The scores after each group was permuted in each order."""
    model = Model(function, len(rows), dims=[rows.dim()])
    first = engine.values(model, InputRows((rows,), len(rows)), to_come=len(groups) * len(orders))
    count = max(1, _MOST // max(1, first.nbytes))  # groups whose outputs are held at once
    scores: list[list[Scores]] = [[] for _ in groups]
    for start in range(0, len(groups), count):
        some = groups[start : start + count]
        pieces = _Lists(some, rows.device)
        for order in orders:
            source = torch.from_numpy(order).to(rows.device)[None]
            asked = AblationRows((rows,), (rows,), (source,), (pieces,), len(some))
            for i, outputs in enumerate(engine.values(model, asked)):
                scores[start + i].append(metrics(outputs, targets, weights))
    return scores


class _Lists:
    """Groups of features that are listed, and may overlap."""

    def __init__(self, groups: list[np.ndarray], device: torch.device):
        self._positions = torch.from_numpy(np.concatenate(groups)).to(device)[None]
        ends = np.cumsum([0, *map(len, groups)])
        self._offsets = torch.from_numpy(ends).to(device)[None]

    def positions(self, groups: slice, examples: slice) -> tuple[Tensor, Tensor]:
        return self._positions, self._offsets[:, groups.start : groups.stop + 1]
