"""The attribution methods, with Captum's names and signatures: ``captum.attr`` made fast."""

from ._base import Attribution, Explanation, GradientAttribution, PerturbationAttribution
from .ablation import FeatureAblation, FeaturePermutation, Occlusion
from .integrated_gradients import IntegratedGradients
from .kernel_shap import KernelShap
from .saliency import InputXGradient, Saliency
from .shapley import ShapleyValues, ShapleyValueSampling

__all__ = [
    "Attribution",
    "Explanation",
    "FeatureAblation",
    "FeaturePermutation",
    "GradientAttribution",
    "InputXGradient",
    "IntegratedGradients",
    "KernelShap",
    "Occlusion",
    "PerturbationAttribution",
    "Saliency",
    "ShapleyValueSampling",
    "ShapleyValues",
]
