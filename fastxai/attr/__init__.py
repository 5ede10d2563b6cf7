"""The attribution methods, with Captum's names and signatures: ``captum.attr`` made fast."""

from ..core.linear_fits import Lasso, LeastSquares, Ridge
from ._base import Attribution, Explanation, GradientAttribution, PerturbationAttribution
from .ablation import FeatureAblation, FeaturePermutation, Occlusion
from .deep_lift import DeepLift, DeepLiftShap
from .guided_backprop import Deconvolution, GuidedBackprop
from .integrated_gradients import IntegratedGradients
from .kernel_shap import KernelShap
from .lime import Lime, LimeBase, get_exp_kernel_similarity_function
from .saliency import InputXGradient, Saliency
from .shapley import ShapleyValues, ShapleyValueSampling

__all__ = [
    "Attribution",
    "Deconvolution",
    "DeepLift",
    "DeepLiftShap",
    "Explanation",
    "FeatureAblation",
    "FeaturePermutation",
    "GradientAttribution",
    "GuidedBackprop",
    "InputXGradient",
    "IntegratedGradients",
    "KernelShap",
    "Lasso",
    "LeastSquares",
    "Lime",
    "LimeBase",
    "Occlusion",
    "PerturbationAttribution",
    "Ridge",
    "Saliency",
    "ShapleyValueSampling",
    "ShapleyValues",
    "get_exp_kernel_similarity_function",
]
