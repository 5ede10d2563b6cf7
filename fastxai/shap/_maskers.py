"""Explainers over maskers: all coalitions, or orders of features."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from ..attr.shapley import ShapleyValues, ShapleyValueSampling
from ..core.checks import check, check_count, warn
from ..interop.tables import is_frame, is_sparse
from ._background import Background, DenseData, sample
from ._black_box import BlackBox, Method, shows
from ._callable import MaskedBox, is_callable_masker
from ._explanation import Explanation
from ._game import draw_seed
from ._trees import FeatureTree
from .links import identity
from .maskers import Independent

_MOST_EVALS = 1 << 25  # coalitions where no limit is given: those of 25 features
_MOST_ROWS = 100  # of a background that comes without a masker


class _MaskerExplainer:
    """What both have in common."""

    def __init__(
        self,
        model: Any,
        masker: Any,
        link: Any,
        linearize_link: bool,
        feature_names: Any,
        output_names: Any,
        batch_size: int | None,
    ):
        self.model, self.masker, self._tree = model, masker, None
        self._masked: MaskedBox | None = None
        if is_callable_masker(masker):
            options = feature_names, output_names, batch_size
            self._masked = MaskedBox(model, masker, link, *options)
            self.link, self.expected_value = self._masked.link, None  # each row has its own
            return
        background = Background.of(_rows_of(masker), warns=False)
        self._box = BlackBox(
            model, background, link, feature_names, output_names, batch_size, linearize_link
        )
        self.link = self._box.link
        tree = getattr(masker, "clustering", None)
        self._tree = None if tree is None else FeatureTree(tree)
        self.expected_value = self._box.expected_value


class ExactExplainer(_MaskerExplainer):
    """Shapley values of any function from all coalitions of features.

    Has shap's interface over :class:`fastxai.ShapleyValues`.

    Args:
        model: as for :class:`KernelExplainer`.
        masker: the background, in any form; or ``maskers.Independent`` of one, here or in shap. Of
            more than 100 rows, 100 are taken by :func:`sample`, and a warning tells. With
            ``maskers.Partition`` the values are Owen values along its tree of features. Or a
            function ``masker(mask, x)`` of a mask [m], False where a feature is absent, and a row,
            that returns rows for the model, [K, F], over which outputs are averaged; its ``shape``
            is (K, m), or a function of x that tells.
        link: "identity", "logit" or a link.
        linearize_link: whether outputs are linked row by row of the background, weighted such that
            their mean is the link of the mean: a logistic regression then stays additive. A
            function as masker has no such rows: there it is the link of the mean.
        feature_names: one for each feature.
        output_names: one for each output.
        batch_size: at most so many rows in a call of the model; None to choose for speed.
    """

    def __init__(
        self,
        model: Any,
        masker: Any,
        link: Any = identity,
        linearize_link: bool = True,
        feature_names: Any = None,
        *,
        output_names: Any = None,
        batch_size: int | None = None,
    ):
        super().__init__(
            model, masker, link, linearize_link, feature_names, output_names, batch_size
        )

    def __call__(
        self,
        X: Any,
        max_evals: int | str = 100000,
        *,
        main_effects: bool = False,
        interactions: int | bool = 1,
        silent: bool = False,
    ) -> Explanation:
        """Explains rows.

        Args:
            X: rows [n, M], or one row [M], in any form.
            max_evals: the most coalitions of a row; an error if it has more. "auto" for 2^25.
            main_effects: whether the explanation is to have what each feature adds by itself to the
                outputs for the background.
            interactions: 1 for a value of each feature; 2 or True for one of each pair of them,
                [n, M, M] or [n, M, M, C], with a feature's own effect on the diagonal, by the
                Shapley-Taylor index. All add up to what the values of features do.
            silent: True for no progress bar.
        """
        of_pairs = _are_of_pairs(interactions)

        def method(players: int) -> tuple[Any, dict[str, Any]]:
            limit = _MOST_EVALS
            if max_evals != "auto":
                limit = check_count(max_evals, "max_evals", below=None)
            expected = "at least 2^{} = {:,}, all coalitions of the features that vary"
            expected += " (PermutationExplainer samples)"
            needed = 1 << players
            check(needed <= limit, "max_evals", expected, limit, players, needed)
            return ShapleyValues, {"show_progress": shows(silent)}

        if self._masked is not None:
            check(not main_effects, "main_effects", "False with a function as masker", True)
            return self._masked.exactly(X, method, of_pairs)
        if self._tree is not None:
            check(not of_pairs, "interactions", "1 with a tree of features", interactions)
            most = None if max_evals == "auto" else check_count(max_evals, "max_evals", below=None)
            return self._box.along(X, self._tree, most, main_effects)
        if of_pairs:
            return self._box.of_pairs(X, method, main_effects)
        return self._box.explanation(X, method, main=main_effects)


class PermutationExplainer(_MaskerExplainer):
    """Shapley values of any function from random orders of features, each with its reverse.

    Has shap's interface over :class:`fastxai.ShapleyValueSampling`. Values add up exactly, and one
    order and its reverse are exact for a model with interactions of two features at most. With
    ``maskers.Partition`` orders keep the clusters of its tree together, and values are Owen values.

    Args:
        model: as for :class:`KernelExplainer`.
        masker: as for :class:`ExactExplainer`.
        link: as for :class:`ExactExplainer`.
        feature_names: one for each feature.
        linearize_link: as for :class:`ExactExplainer`.
        seed: decides the orders; None takes one from numpy's global generator at every call.
        output_names: one for each output.
        batch_size: at most so many rows in a call of the model; None to choose for speed.
    """

    def __init__(
        self,
        model: Any,
        masker: Any,
        link: Any = identity,
        feature_names: Any = None,
        linearize_link: bool = True,
        seed: int | None = None,
        *,
        output_names: Any = None,
        batch_size: int | None = None,
    ):
        super().__init__(
            model, masker, link, linearize_link, feature_names, output_names, batch_size
        )
        self._seed = seed

    def __call__(
        self,
        X: Any,
        max_evals: int | str = 500,
        silent: bool = False,
        *,
        main_effects: bool = False,
        interactions: int | bool = 1,
    ) -> Explanation:
        """Explains rows.

        Args:
            X: rows [n, M], or one row [M], in any form.
            max_evals: coalitions of a row: an order and its reverse take 2 M + 1 of them, M
                counting the features that vary; an order for pairs of features M (M + 1) / 2 + 1.
                "auto" for ten orders and their reverses.
            silent: True for no progress bar.
            main_effects: as for :class:`ExactExplainer`.
            interactions: as for :class:`ExactExplainer`: 2 or True for values of pairs of features,
                of which there are standard errors from four orders on.
        """
        if _are_of_pairs(interactions):
            check(self._tree is None, "interactions", "1 with a tree of features", interactions)
            method = _by_orders_of_pairs(max_evals, self._seed)
            if self._masked is not None:
                check(not main_effects, "main_effects", "False with a function as masker", True)
                return self._masked.by_orders(X, method, of_pairs=True)
            return self._box.pairs_by_orders(X, method, main_effects)

        def pairs(players: int) -> int:
            if max_evals == "auto":
                return 10
            count, least = check_count(max_evals, "max_evals", below=None), 2 * players + 1
            expected = "at least {}, for one order of the features that vary and its reverse"
            check(count >= least, "max_evals", expected, count, least)
            return count // least

        return self._of_orders(X, _by_orders(pairs, self._seed, silent), main_effects)

    def shap_values(self, X: Any, npermutations: int = 10, silent: bool = False) -> np.ndarray:
        """The values of rows, [n, M] or [n, M, C], from so many orders and their reverses."""
        count = check_count(npermutations, "npermutations")
        method = _by_orders(lambda m: count, self._seed, silent)
        if self._tree is not None or self._masked is not None:
            return np.asarray(self._of_orders(X, method).values)
        return self._box.values(X, method)

    def _of_orders(self, X: Any, method: Method, main_effects: bool = False) -> Explanation:
        if self._masked is not None:
            check(not main_effects, "main_effects", "False with a function as masker", True)
            return self._masked.by_orders(X, method)
        if self._tree is not None:
            return self._box.along_orders(X, self._tree, method, main_effects)
        return self._box.explanation(X, method, main=main_effects)


def _by_orders(pairs: Any, seed: int | None, silent: bool) -> Method:
    """Values from so many orders and their reverses, by the number of players."""

    def method(players: int) -> tuple[Any, dict[str, Any]]:
        return ShapleyValueSampling, {
            "n_samples": 2 * pairs(players),
            "seed": draw_seed(seed),
            "show_progress": shows(silent),
        }

    return method


def _by_orders_of_pairs(max_evals: int | str, seed: int | None) -> Method:
    """As many orders as so many coalitions allow: one, or each with its reverse."""

    def method(players: int) -> tuple[Any, dict[str, Any]]:
        count, each = 20, players * (players + 1) // 2
        if max_evals != "auto":
            most = check_count(max_evals, "max_evals", below=None)
            expected = "at least {}, for one order of the features that vary and their pairs"
            check(most > each, "max_evals", expected, most, each + 1)
            count = (most - 1) // each
        return ShapleyValueSampling, {
            "n_samples": count if count == 1 else count // 2 * 2,
            "seed": draw_seed(seed),
        }

    return method


def _are_of_pairs(interactions: Any) -> bool:
    of_pairs = interactions is True or (interactions is not False and interactions == 2)
    fine = of_pairs or interactions is False or interactions == 1
    check(fine, "interactions", "1 or 2", interactions)
    return bool(of_pairs)


def _rows_of(masker: Any) -> Any:
    """The background that is meant by a masker."""
    if isinstance(masker, DenseData):
        return masker
    if isinstance(masker, Independent):
        return masker.data
    module = type(masker).__module__
    if module.startswith("shap.maskers"):
        name = type(masker).__name__
        expected = "rows, or shap.maskers.Independent or Partition"
        check(name in ("Independent", "Partition"), "masker", expected, name)
        if getattr(masker, "output_dataframe", False):
            return _frame_of(masker)
        return masker.data
    rows = masker if is_frame(masker) or is_sparse(masker) or hasattr(masker, "shape") else None
    if rows is None or len(rows.shape) != 2 or rows.shape[0] <= _MOST_ROWS:
        return masker
    warn(f"masker: of its {rows.shape[0]} rows {_MOST_ROWS} are taken, as shap does")
    return sample(masker, _MOST_ROWS)


def _frame_of(masker: Any) -> Any:
    """The DataFrame that shap's masker was made from."""
    frame = sys.modules["pandas"].DataFrame(masker.data, columns=masker.feature_names)
    return frame.infer_objects()
