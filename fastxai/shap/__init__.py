"""shap's explainers, with its interface, over fastxai's estimators."""

from . import links, maskers
from ._background import DenseData, kmeans, sample
from ._explainer import Explainer
from ._explanation import Explanation
from ._gradients import DeepExplainer, GradientExplainer
from ._kernel import KernelExplainer
from ._maskers import ExactExplainer, PermutationExplainer
from ._sampling import SamplingExplainer

__all__ = [
    "DeepExplainer",
    "DenseData",
    "ExactExplainer",
    "Explainer",
    "Explanation",
    "GradientExplainer",
    "KernelExplainer",
    "PermutationExplainer",
    "SamplingExplainer",
    "kmeans",
    "links",
    "maskers",
    "sample",
]
