"""Explainer, which chooses one by the number of features."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..core.checks import ArgumentError, check, check_choice
from ._callable import is_callable_masker
from ._gradients import DeepExplainer
from ._maskers import ExactExplainer, PermutationExplainer
from ._trees import FeatureTree
from .links import identity

_FEW = 10  # features, of which all coalitions are taken
_FEW_IN_TREE = 32  # and those of a tree, unless it is so uneven that they are too many
_MOST_EVALS = 100_000  # ExactExplainer's default
_ALGORITHMS = ("auto", "exact", "permutation", "deep")
_OF_SHAP = ("additive", "linear", "partition", "tree")  # those that shap alone has


def Explainer(  # as shap calls it
    model: Any,
    masker: Any = None,
    link: Any = identity,
    algorithm: str = "auto",
    output_names: Any = None,
    feature_names: Any = None,
    linearize_link: bool = True,
    seed: int | None = None,
) -> ExactExplainer | PermutationExplainer | DeepExplainer:
    """The explainer that shap would choose for a function.

    All coalitions are taken of up to ten features, or along a tree of up to 32; otherwise random
    orders.

    Args:
        model: as for :class:`ExactExplainer`.
        masker: as for :class:`ExactExplainer`; for "deep" the background.
        link: as for :class:`ExactExplainer`.
        algorithm: "auto", "exact", "permutation" or "deep"; shap has others.
        output_names: one for each output.
        feature_names: one for each feature.
        linearize_link: as for :class:`ExactExplainer`.
        seed: as for :class:`PermutationExplainer`.
    """
    if algorithm in _OF_SHAP:
        raise ArgumentError(
            f"algorithm: expected one of {', '.join(_ALGORITHMS)}, got {algorithm!r}, which shap "
            f"has: shap.Explainer(model, masker, algorithm={algorithm!r})"
        )
    algorithm = check_choice(algorithm, "algorithm", _ALGORITHMS)
    check(masker is not None, "masker", "rows that stand for absent features", "None")
    if algorithm == "deep":
        return DeepExplainer(model, masker, feature_names=feature_names, output_names=output_names)
    if algorithm == "auto":
        algorithm = "exact" if _has_few(masker) else "permutation"
    if algorithm == "exact":
        return ExactExplainer(
            model, masker, link, linearize_link, feature_names, output_names=output_names
        )
    return PermutationExplainer(
        model, masker, link, feature_names, linearize_link, seed, output_names=output_names
    )


def _has_few(masker: Any) -> bool:
    if is_callable_masker(masker):
        return False  # as in shap
    tree = getattr(masker, "clustering", None)
    if tree is not None:
        own = FeatureTree(tree)
        return own.features <= _FEW_IN_TREE and own.coalitions <= _MOST_EVALS
    shape = getattr(masker, "shape", None) or np.shape(getattr(masker, "data", masker))
    return bool(shape[-1] <= _FEW)
