"""Explainers over a masker that is a function: the game of one row at a time."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core import engine
from ..core.checks import check, check_limit
from ..core.coalition_bits import all_coalitions, unpack
from ..core.engine.model import Model
from ..core.engine.rows import InputRows
from ..core.estimate.sampling import permutations
from ..interop.models import RowFunction, callable_of
from ..interop.tables import Table, as_array, checked_names, names_of
from ._black_box import Method
from ._coalitions import from_orders, pairs, pairs_from_orders, shapley
from ._explanation import Explanation
from ._game import linked
from .links import link_of

_AT_ONCE = 1024  # coalitions whose rows are held at a time


def is_callable_masker(masker: Any) -> bool:
    """Whether it is a function of a mask and a row, and neither data nor a masker of shap's."""
    known = type(masker).__module__.startswith(("shap.maskers", "fastxai.shap", "numpy", "torch"))
    return callable(masker) and not known


class MaskedBox:
    """A function, and a masker that makes its rows.

    Args:
        model: as for :class:`ExactExplainer`.
        masker: a function ``masker(mask, x)`` of a mask [m] bool, False where a feature is absent,
            and a row; it returns rows for the model, [K, F], over which outputs are averaged. Its
            ``shape``, (K, m) or a function of a row, has the number of features; without one they
            are as many as numbers in a row.
        link: taken of means.
        feature_names: one for each of m.
        output_names: one for each output.
        batch_size: at most so many rows in a call of the model.
    """

    def __init__(
        self,
        model: Any,
        masker: Any,
        link: Any,
        feature_names: Any,
        output_names: Any,
        batch_size: int | None,
    ):
        callable_of(model)
        self.model, self.masker, self.link = model, masker, link_of(link)
        self._limit = check_limit(batch_size, argument="batch_size")
        self._names, self._outputs = feature_names, output_names

    def exactly(self, X: Any, method: Method, of_pairs: bool) -> Explanation:
        """Values, or those of pairs, from all coalitions; the method only says if it may."""
        players = self._players(X)
        method(players)
        present = unpack(all_coalitions(players), players)
        solve = pairs if of_pairs else shapley
        return self._explained(X, lambda worths: (solve(worths(present), players), None))

    def by_orders(self, X: Any, method: Method, of_pairs: bool = False) -> Explanation:
        """Values, or those of pairs, from random orders, the same for all rows."""
        players = self._players(X)
        _, options = method(players)
        orders = permutations(players, options["n_samples"], options["seed"])
        solve = pairs_from_orders if of_pairs else from_orders
        return self._explained(
            X, lambda worths: solve(lambda bits: worths(unpack(bits, players)), orders)
        )

    def _players(self, X: Any) -> int:
        rows = as_array(X)
        check(rows.ndim > 0 and rows.size > 0, "X", "at least one row", f"shape {rows.shape}")
        row = rows if rows.ndim == 1 else rows[0]
        shape = getattr(self.masker, "shape", (None, row.size))
        shape = shape(row) if callable(shape) else shape
        fits = isinstance(shape, tuple) and len(shape) == 2 and isinstance(shape[1], int)
        check(fits, "masker", "a shape (rows, features)", shape)
        return int(shape[1])

    def _explained(self, X: Any, solve: Any) -> Explanation:
        started = time.perf_counter()
        data = as_array(X)
        single = data.ndim == 1
        players = self._players(X)
        nobody = torch.zeros(1, players, dtype=torch.bool)
        found, bases = [], []
        function: RowFunction | None = None
        for row in data[None] if single else data:

            def worths(present: Tensor, row: Any = row) -> Tensor:  # [N, m] -> [N, 1, *C]
                nonlocal function
                parts = []
                for some in present.split(_AT_ONCE):
                    rows, sizes, table = self._masked(some, row)
                    function = function or RowFunction(self.model, table, self._limit)
                    parts.append(self._means(function, rows, sizes))
                return linked(self.link, torch.cat(parts))[:, None]

            bases.append(worths(nobody)[0, 0])
            shape = bases[-1].shape
            found.append(solve(lambda p: worths(p).reshape(len(p), 1, -1)))
        values = np.concatenate([v.reshape(*v.shape[:-1], *shape).numpy() for v, _ in found])
        errors = None
        if found[0][1] is not None:
            errors = np.concatenate([e.reshape(*e.shape[:-1], *shape).numpy() for _, e in found])
        names = names_of(X)
        own = list(names) if names is not None and len(names) == players else None
        given = checked_names(self._names, players, "feature_names")
        outputs = None
        if len(shape):
            classes = None if function is None else function.classes
            usual = classes if classes is not None and len(classes) == shape[0] else None
            usual = usual or [f"Output {i}" for i in range(shape[0])]
            outputs = checked_names(self._outputs, shape[0], "output_names") or usual
        base = torch.stack(bases).numpy()
        axes = ("row", *["feature"] * (values.ndim - 1 - len(shape)), *["output"] * len(shape))
        return Explanation(
            values[0] if single else values,
            base[0] if single else base,
            data,
            feature_names=own or given or [f"Feature {i}" for i in range(players)],
            output_names=outputs,
            standard_errors=errors if errors is None or not single else errors[0],
            compute_time=time.perf_counter() - started,
            axes=axes[single:],
        )

    def _masked(self, present: Tensor, row: Any) -> tuple[Tensor, list[int], Table]:
        """The rows of coalitions [N, m] one after another, how many each has, and how they came."""
        parts, sizes = [], []
        for mask in present.numpy():
            made = self.masker(mask.copy(), row)
            if isinstance(made, tuple):
                check(len(made) == 1, "masker", "rows for one argument", f"{len(made)} arguments")
                made = made[0]
            table, rows = Table.of(made, "masker")  # a copy, as maskers may write over theirs
            parts.append(rows)
            sizes.append(len(rows))
        return torch.cat(parts), sizes, table

    def _means(self, function: RowFunction, rows: Tensor, sizes: list[int]) -> Tensor:
        outputs = engine.values(Model(function, len(rows)), InputRows((rows,), len(rows)))[0]
        return torch.stack([part.mean(0) for part in outputs.split(sizes)])
