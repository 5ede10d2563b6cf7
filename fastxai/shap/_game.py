"""The game that every black-box explainer plays: what a model says when features are absent."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..attr._worth import Worth
from ..core import engine
from ..core.coalition_bits import pack, unpack
from ..core.engine.coalition_rows import CoalitionRows
from ..core.engine.independence import RowByRow
from ..core.engine.model import Model, Prefix
from ..core.engine.rows import InputRows
from ..interop.models import RowFunction, eval_mode
from ..interop.tables import Table
from ._background import Background
from .links import Link


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
        self._shares = background.weights  # [K] or [K, *C]
        self._by_row = linearised and not link.is_identity
        rows = background.rows
        outputs = engine.values(Model(function, len(rows)), InputRows((rows.clone(),), len(rows)))
        self.at_background = at_background = outputs[0]  # [K, *C]
        if self._by_row:
            self._shares = _linearised(at_background, background.weights, link)
            self.expected = (linked(link, at_background) * self._shares).sum(0)  # [*C]
        else:
            mean = torch.einsum("k,k...->...", background.weights, at_background)
            self.expected = linked(link, mean)

    def values(
        self, kind: Any, x: Tensor, table: Table, detailed: bool, **options: Any
    ) -> tuple[Tensor, Tensor | None]:  # [n, M] -> [n, P, *C]
        """A method's values, and their standard errors if they are wanted and it has them.

        Args:
            kind: the method's class.
            x: the rows to explain.
            table: how they came.
            detailed: whether standard errors are wanted.
            **options: further arguments of ``attribute``.
        """
        background, module = self._background, self._function.plain_module
        by_row, link = self._by_row, self._link
        model: Any = self._function.with_table(table)
        place: dict[str, Any] = {}
        if by_row:
            model = _Linked(model, link)
        elif module is not None:
            model, place = module, self._function.place
        mask = None if background.is_ungrouped else background.groups[None]
        if mask is not None and place:
            mask = mask.to(place["device"])
        options |= {
            "background": background.rows.to(**place),
            "background_weights": self._shares,
            "link": "identity" if by_row or link.is_identity else link,
            "feature_mask": mask,
        }
        method = kind(model)
        with eval_mode(model) if isinstance(model, nn.Module) else nullcontext():
            if not detailed:
                return self._by_player(method.attribute(x.to(**place), **options)), None
            found = method.explain(x.to(**place), **options)
        errors = found.standard_errors
        return self._by_player(found.values), None if errors is None else self._by_player(errors)

    def at(self, x: Tensor, table: Table) -> Tensor:  # [n, M] -> [n, C]
        """The outputs for rows."""
        model = Model(self._function.with_table(table), len(x))
        return engine.values(model, InputRows((x,), len(x)))[0].reshape(len(x), -1)

    def worths(
        self, x: Tensor, table: Table, bits: Tensor, who: Tensor, row: int | None = None
    ) -> Tensor:  # [n, M] -> [N, n, C]
        """What coalitions of some of the groups are worth for rows.

        Args:
            x: the rows to explain.
            table: how they came.
            bits: coalitions of the groups ``who``, [N, W].
            who: groups, [m] int64; all others are as in the background, or do not differ from it.
            row: of the background, the only one that absent groups are taken from; None for all.
        """
        background, function = self._background, self._function.with_table(table)
        number = torch.full((background.players,), len(who), dtype=torch.int32)
        number[who] = torch.arange(len(who), dtype=torch.int32)
        mask = number[background.groups][None]  # [1, M]
        bits = pack(torch.nn.functional.pad(unpack(bits, len(who)), (0, 1)))  # nobody is absent
        absent = background.rows if row is None else background.rows[row : row + 1]
        rows = CoalitionRows((x,), (absent[None],), bits, (mask,), len(who) + 1)
        called = _Linked(function, self._link) if self._by_row else function
        shares = self._shares.reshape(len(self._shares), -1)
        worth = Worth(len(absent), shares.expand(-1, self.expected.numel()))
        found = torch.zeros(len(bits), len(x), self.expected.numel(), dtype=torch.float64)

        def add(values: Tensor, repeats: slice, examples: slice) -> None:
            y, which = worth.mean(values.reshape(*values.shape[:2], -1), repeats)
            found[which, examples] += y

        engine.stream(Model(called, len(x), prefix=Prefix(wanted=False)), rows, add)
        return found if self._by_row else linked(self._link, found)

    def _by_player(self, values: Tensor) -> Tensor:  # [n, *C, M] -> [n, P, *C]
        values = values.detach().to("cpu", torch.float64)
        if not self._background.is_ungrouped:  # each column has its group's
            values = values[..., self._background.first_columns]
        return values.movedim(-1, 1).reshape(*values.shape[:1], -1, *self.expected.shape)


class _Linked(RowByRow):
    """A function whose outputs are linked."""

    def __init__(self, function: RowFunction, link: Link):
        self._function, self._link = function, link

    def __call__(self, rows: Tensor) -> Tensor:
        return linked(self._link, self._function(rows))


def linked(link: Link, values: Tensor) -> Tensor:
    """The link of outputs, or of their means."""
    if link.is_identity:
        return values
    return torch.from_numpy(np.array(link(values.numpy()), dtype=np.float64))


def _linearised(outputs: Tensor, weights: Tensor, link: Link) -> Tensor:  # [K, *C] -> [K, *C]
    """How much the link of each row's output counts.

    The weights are those with which it is as if the link were its tangent at the mean.
    """
    weights = weights.view(-1, *[1] * (outputs.dim() - 1))
    mean = (weights * outputs).sum(0)
    at_mean, step = linked(link, mean), 1e-4
    slope = (linked(link, mean + step) - at_mean) / step
    change = linked(link, outputs) - at_mean
    tangent = slope * (outputs - mean)
    ratio = torch.where(change == 0, 1.0, tangent / change)
    shares = weights * ratio
    return shares / shares.sum(0)


def draw_seed(seed: Any) -> Any:
    """A seed from numpy's global generator, as users of shap seed that; or the one given."""
    return int(np.random.randint(2**31 - 1)) if seed is None else seed  # noqa: NPY002
