"""The game that every black-box explainer plays: what a model says when features are absent."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core import engine
from ..core.engine.model import Model
from ..core.engine.rows import InputRows
from ..interop.models import RowFunction
from ..interop.tables import Table
from ._background import Background
from .links import Link

_NUMBERS = 1 << 22  # of rows × features, made at a time: 32 MiB


class CoalitionGame:
    """v(z): a link of the mean output over a background, absent features taken from its rows.

    Args:
        function: the user's model.
        background: weighted rows.
        link: in which unit values add up.
        linearised: whether each row's output is linked by itself, weighted such that the mean over
            rows is the link of the mean at the background. What is additive after the link then
            stays so.
    """

    def __init__(
        self, function: RowFunction, background: Background, link: Link, linearised: bool = False
    ):
        self._function, self._background, self._link = function, background, link
        self._shares: Tensor | None = None  # [K, *C]
        rows = background.rows
        model = Model(function, len(rows))
        self.at_background = engine.values(model, InputRows((rows.clone(),), len(rows)))[0]
        if linearised and not link.is_identity:
            self._shares = self._linearised(self.at_background)
        self.expected = self._mean(self.at_background[None])[0]  # [*C]

    def with_table(self, table: Table) -> CoalitionGame:
        """The same for rows that came with other columns."""
        other: CoalitionGame = object.__new__(CoalitionGame)
        vars(other).update(vars(self))
        other._function = self._function.with_table(table)
        return other

    def __call__(self, present: Tensor, x: Tensor) -> Tensor:  # [n, players], [n, M] -> [n, *C]
        rows, groups = self._background.rows, self._background.groups
        step = max(1, _NUMBERS // max(1, rows.numel()))
        found = []
        for z, part in zip(present.split(step), x.split(step), strict=True):
            there = (z != 0)[:, groups]
            made = torch.where(there[:, None], part[:, None], rows)  # [n, K, M]
            outputs = self._function(made.flatten(0, 1))
            found.append(self._mean(outputs.unflatten(0, (len(z), len(rows)))))
        return torch.cat(found)

    def _mean(self, outputs: Tensor) -> Tensor:  # [n, K, *C] -> [n, *C]
        if self._shares is not None:
            linked = self._linked(outputs)
            return (linked * self._shares).sum(1)
        weights = self._background.weights
        mean = torch.einsum("k,nk...->n...", weights, outputs)
        return mean if self._link.is_identity else self._linked(mean)

    def _linked(self, values: Tensor) -> Tensor:
        return torch.from_numpy(np.array(self._link(values.numpy()), dtype=np.float64))

    def _linearised(self, outputs: Tensor) -> Tensor:  # [K, *C] -> [K, *C]
        """How much the link of each row's output counts.

        The weights are those with which it is as if the link were its tangent at the mean.
        """
        weights = self._background.weights.view(-1, *[1] * (outputs.dim() - 1))
        mean = (weights * outputs).sum(0)
        at_mean, step = self._linked(mean), 1e-4
        slope = (self._linked(mean + step) - at_mean) / step
        change = self._linked(outputs) - at_mean
        tangent = slope * (outputs - mean)
        ratio = torch.where(change == 0, 1.0, tangent / change)
        shares = weights * ratio
        return shares / shares.sum(0)


def draw_seed(seed: Any) -> Any:
    """A seed from numpy's global generator, as users of shap seed that; or the one given."""
    return int(np.random.randint(2**31 - 1)) if seed is None else seed  # noqa: NPY002
