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
from ..core.coalition_bits import all_coalitions, pack, unpack
from ..core.estimate.sampling import permutations
from ..interop.models import RowFunction
from ..interop.tables import Taken, as_array, checked_names
from ._background import Background
from ._coalitions import coalitions_of, from_orders, pairs, pairs_from_orders
from ._explanation import Explanation
from ._game import CoalitionGame
from ._selection import Rule, kept_by_criterion, select
from ._trees import FeatureTree, Worths
from .links import link_of

# A method, by the number of features that vary at most: its class, and its options.
Method = Callable[[int], tuple[Any, dict[str, Any]]]


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

    def values(self, X: Any, method: Method, rule: Rule = None) -> np.ndarray:
        """The values of rows by a method, [n, players, *C]; of one row without n."""
        found, _, taken = self._found(X, method, rule, False)
        return found[0] if taken.is_single else found

    def _found(
        self, X: Any, method: Method, rule: Rule, detailed: bool
    ) -> tuple[np.ndarray, np.ndarray | None, Taken]:
        taken = self.background.table.take(X, "X")
        x = taken.numbers
        varies = self.background.varies(x)  # [n, players]
        shape = (len(x), self.background.players, *self.game.expected.shape)
        if not bool(varies.any()):
            return np.zeros(shape), None, taken
        kind, options = method(int(varies.sum(1).max()))
        found, errors = self.game.values(kind, x, taken.table, detailed, **options)
        if rule is not None:
            count = options["n_samples"] - 2

            def by_criterion(rows: Tensor, own: Tensor) -> Tensor:
                bits, weights = coalitions_of(len(own), count, options["seed"])
                present = unpack(bits, len(own))
                nobody = torch.zeros(1, len(own), dtype=torch.bool)
                every = pack(torch.cat([present, nobody, ~nobody]))
                v = self.game.worths(x[rows], taken.table, every, own)
                gains = v[:-2] - v[-2]
                return kept_by_criterion(gains, v[-1] - v[-2], present, weights, str(rule))

            found, errors = select(found, varies, rule, count, by_criterion), None
        return found.numpy(), None if errors is None else errors.numpy(), taken

    def of_pairs(self, X: Any, method: Method, main: bool = False) -> Explanation:
        """The same for pairs of features, from all coalitions; the method only says if it may."""

        def solve(worths: Worths, players: int) -> tuple[Tensor, Tensor | None]:
            method(players)
            return pairs(worths(all_coalitions(players)), players), None

        return self._of_pairs(X, solve, main)

    def pairs_by_orders(self, X: Any, method: Method, main: bool = False) -> Explanation:
        """The same from random orders, as many as the method takes."""

        def solve(worths: Worths, players: int) -> tuple[Tensor, Tensor | None]:
            _, options = method(players)
            orders = permutations(players, options["n_samples"], options["seed"])
            return pairs_from_orders(worths, orders)

        return self._of_pairs(X, solve, main)

    def _of_pairs(
        self,
        X: Any,
        solve: Callable[[Worths, int], tuple[Tensor, Tensor | None]],
        main: bool,
    ) -> Explanation:
        """Values of pairs, and their errors, both [n, m, m, C], for the m groups that vary."""
        started = time.perf_counter()
        taken = self.background.table.take(X, "X")
        varies = self.background.varies(taken.numbers)  # [n, P]
        who = varies.any(0).nonzero()[:, 0]
        n, players, outputs = *varies.shape, self.game.expected.shape
        # Those that do not differ are in no pair: what is left there is rounding.
        both = (varies[:, :, None] & varies[:, None])[..., None]

        def placed(found: Tensor) -> np.ndarray:  # [n, m, m, C] -> [n, P, P, *C]
            every = torch.zeros(n, players, players, outputs.numel(), dtype=torch.float64)
            every[:, who[:, None], who] = found
            return (every * both).reshape(n, players, players, *outputs).numpy()

        found = torch.zeros(n, 0, 0, outputs.numel(), dtype=torch.float64)
        errors = None
        if len(who):
            found, errors = solve(self._worths(taken, who), len(who))
        spread = None if errors is None else placed(errors)
        return self._explained(X, taken, placed(found), spread, started, main)

    def along(self, X: Any, tree: FeatureTree, most: int | None, main: bool = False) -> Explanation:
        """Owen values along a tree of features."""
        started = time.perf_counter()
        taken = self.background.table.take(X, "X")
        values = tree.owen(self._worths(taken, torch.arange(tree.features)), most)
        # Those that do not differ gain nothing: what is left there is rounding.
        values *= self.background.varies(taken.numbers)[..., None]
        return self._explained(X, taken, self._shaped(values), None, started, main, tree)

    def along_orders(
        self, X: Any, tree: FeatureTree, method: Method, main: bool = False
    ) -> Explanation:
        """The same from random orders along the tree, as many as the method would take.

        Where all coalitions are no more than those of the orders, the values are exact.
        """
        started = time.perf_counter()
        taken = self.background.table.take(X, "X")
        varies = self.background.varies(taken.numbers)  # [n, M]
        who = varies.any(0).nonzero()[:, 0]
        values = torch.zeros(*varies.shape, self.game.expected.numel(), dtype=torch.float64)
        errors = None
        if len(who):
            _, options = method(int(varies.sum(1).max()))
            pairs, seed = options["n_samples"] // 2, options["seed"]
            if tree.coalitions <= pairs * (2 * len(who) + 1):
                return self.along(X, tree, None, main)
            orders = tree.orders(pairs, seed, who)
            found, off = from_orders(self._worths(taken, who), orders)
            values[:, who] = found * varies[:, who, None]
            if off is not None:
                spread = torch.zeros_like(values)
                spread[:, who] = off * varies[:, who, None]
                errors = self._shaped(spread)
        return self._explained(X, taken, self._shaped(values), errors, started, main, tree)

    def _worths(self, taken: Taken, who: Tensor) -> Worths:
        return lambda bits: self.game.worths(taken.numbers, taken.table, bits, who)

    def _main_effects(self, taken: Taken) -> np.ndarray:  # [n, P, *C]
        """What each feature adds to the background's outputs when it is alone."""
        varies = self.background.varies(taken.numbers)
        players = varies.shape[1]
        present = torch.cat([torch.zeros(1, players), torch.eye(players)]).bool()
        who = torch.arange(players)
        v = self.game.worths(taken.numbers, taken.table, pack(present), who)
        return self._shaped((v[1:] - v[:1]).movedim(0, 1) * varies[..., None])

    def _shaped(self, found: Tensor) -> np.ndarray:  # [n, M, C] -> [n, M, *C]
        return found.reshape(*found.shape[:2], *self.game.expected.shape).numpy()

    def explanation(
        self, X: Any, method: Method, rule: Rule = None, main: bool = False
    ) -> Explanation:
        """The same with what it is about."""
        started = time.perf_counter()
        values, errors, taken = self._found(X, method, rule, True)
        return self._explained(X, taken, values, errors, started, main)

    def _explained(
        self,
        X: Any,
        taken: Taken,
        values: np.ndarray,
        errors: np.ndarray | None,
        started: float,
        main: bool = False,
        tree: FeatureTree | None = None,
    ) -> Explanation:
        base = np.broadcast_to(
            self.game.expected.numpy(), (len(values), *self.game.expected.shape)
        ).copy()
        data = as_array(X)
        single = taken.is_single
        outputs = self.game.expected.dim()
        features = values.ndim - 1 - outputs
        effects = self._main_effects(taken) if main else None
        trees = None
        if tree is not None:  # one a row, as shap has them
            trees = np.broadcast_to(tree.tree, (len(values), *tree.tree.shape))
        return Explanation(
            values[0] if single else values,
            base[0] if single else base,
            data,
            feature_names=self.names(taken),
            output_names=self.output_names,
            main_effects=effects if effects is None or not single else effects[0],
            clustering=trees if trees is None or not single else trees[0],
            standard_errors=errors if errors is None or not single else errors[0],
            compute_time=time.perf_counter() - started,
            axes=("row", *["feature"] * features, *["output"] * outputs)[single:],
        )

    def names(self, taken: Taken) -> list[str]:
        """The features': of the rows' DataFrame, or as given before, or by number."""
        own = taken.names
        if own is not None and len(own) == self.background.players:
            return list(own)
        return self.feature_names or self._unnamed


def shows(silent: Any) -> bool:
    """Whether there is to be a progress bar, which takes tqdm."""
    return not silent and find_spec("tqdm") is not None
