"""What explainers of functions have in common."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.checks import check_limit
from ..interop.models import RowFunction
from ..interop.tables import Taken, as_array, checked_names
from ._background import Background
from ._explanation import Explanation
from ._game import CoalitionGame
from .links import link_of

# Values [n, players, *C] of a game for rows, from game, which play, [n, players], rows [n, M].
Method = Callable[[CoalitionGame, Tensor, Tensor], Tensor]


class BlackBox:
    """A function, a background, a link, and their names."""

    def __init__(
        self,
        model: Any,
        background: Background,
        link: Any,
        feature_names: Any,
        output_names: Any,
        batch_size: int | None,
        linearised: bool = False,
    ):
        self.link = link_of(link)
        self.background = background
        limit = check_limit(batch_size, argument="batch_size")
        given = checked_names(feature_names, background.players, "feature_names")
        function = RowFunction(model, background.table, limit)
        self.game = CoalitionGame(function, background, self.link, linearised)
        # A DataFrame's own names come first, as in shap.
        self.feature_names = list(background.names or given or [])
        if given is not None and background.table.kind != "frame":
            self.feature_names = given
        self._unnamed = [f"Feature {i}" for i in range(background.players)]
        outputs = self.game.expected
        self.output_names: list[str] | None = None
        if outputs.dim():
            names = function.classes if output_names is None else output_names
            if output_names is None and (names is None or len(names) != len(outputs)):
                names = [f"Output {i}" for i in range(len(outputs))]
            self.output_names = checked_names(names, len(outputs), "output_names")

    @property
    def expected_value(self) -> Any:
        """A float for outputs [n], an array [C] for outputs [n, C]."""
        expected = self.game.expected
        return expected.numpy().copy() if expected.dim() else float(expected)

    def values(self, X: Any, method: Method) -> tuple[np.ndarray, Taken]:  # [n, players, *C]
        """The values of rows by a method."""
        taken = self.background.table.take(X, "X")
        x = taken.numbers
        game = self.game.with_table(taken.table)
        varies = self.background.varies(x)
        shape = (len(x), self.background.players, *self.game.expected.shape)
        if not bool(varies.any()):
            return np.zeros(shape), taken
        found = method(game, varies, x)
        return np.array(found.detach().cpu().numpy(), dtype=np.float64).reshape(shape), taken

    def explanation(self, X: Any, method: Method) -> Explanation:
        """The same with what it is about."""
        started = time.perf_counter()
        values, taken = self.values(X, method)
        base = np.broadcast_to(self.game.expected.numpy(), (len(values), *values.shape[2:])).copy()
        data = as_array(X)
        single = taken.is_single
        return Explanation(
            values[0] if single else values,
            base[0] if single else base,
            data,
            feature_names=self.names(taken),
            output_names=self.output_names,
            compute_time=time.perf_counter() - started,
            axes=("row", "feature", *["output"] * (values.ndim - 2))[single:],
        )

    def names(self, taken: Taken) -> list[str]:
        """The features': of the rows' DataFrame, or as given before, or by number."""
        own = taken.names
        if own is not None and len(own) == self.background.players:
            return list(own)
        return self.feature_names or self._unnamed


def attributed(values: Tensor, present: Tensor) -> Tensor:  # [n, *C, P] -> [n, P, *C]
    """Values with the outputs last."""
    return values.movedim(-1, 1) if values.dim() > present.dim() else values


def starting(varies: Tensor) -> Tensor:  # [n, P] bool -> [n, P] float32
    """Where those play that vary; the others are as absent, and so have no say."""
    return varies.to(torch.float32)


def shows(silent: Any) -> bool:
    """Whether there is to be a progress bar, which takes tqdm."""
    return not silent and find_spec("tqdm") is not None
