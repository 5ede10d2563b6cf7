"""shap's explainers, with its interface, over fastxai's estimators."""

from . import links
from ._background import DenseData, kmeans, sample
from ._explanation import Explanation
from ._kernel import KernelExplainer

__all__ = ["DenseData", "Explanation", "KernelExplainer", "kmeans", "links", "sample"]
