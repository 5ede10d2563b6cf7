"""Explainer, which chooses one by the number of features."""

from __future__ import annotations

from typing import Any

from ..core.checks import check, check_choice
from ._gradients import DeepExplainer
from ._maskers import ExactExplainer, PermutationExplainer
from .links import identity

_FEW = 10  # features, of which all coalitions are taken
_ALGORITHMS = ("auto", "exact", "permutation", "deep")


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
    """The explainer that shap would choose: exact for up to ten features, else by permutations.

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
    algorithm = check_choice(algorithm, "algorithm", _ALGORITHMS)
    check(masker is not None, "masker", "rows that stand for absent features", "None")
    if algorithm == "deep":
        return DeepExplainer(model, masker, feature_names=feature_names, output_names=output_names)
    if algorithm == "auto":
        shape = getattr(masker, "shape", None) or getattr(masker, "data", masker)
        width = shape[-1] if isinstance(shape, tuple) else len(shape[0])
        has_tree = getattr(masker, "clustering", None) is not None
        algorithm = "exact" if width <= _FEW or has_tree else "permutation"
    if algorithm == "exact":
        return ExactExplainer(
            model, masker, link, linearize_link, feature_names, output_names=output_names
        )
    return PermutationExplainer(
        model, masker, link, feature_names, linearize_link, seed, output_names=output_names
    )
