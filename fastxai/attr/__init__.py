"""The attribution methods, with Captum's names and signatures: ``captum.attr`` made fast."""

from ..core.estimate.linear_fits import Lasso, LeastSquares, Ridge
from . import visualization
from ._base import Attribution, GradientAttribution
from ._explanation import Explanation
from ._layer import LayerAttribution
from ._lime_base import LimeBase
from ._perturbation import PerturbationAttribution
from .ablation import FeatureAblation, FeaturePermutation, Occlusion
from .deep_lift import DeepLift
from .deep_lift_shap import DeepLiftShap
from .gradient_shap import GradientShap
from .guided_backprop import Deconvolution, GuidedBackprop
from .guided_grad_cam import GuidedGradCam
from .integrated_gradients import IntegratedGradients
from .kernel_shap import KernelShap
from .layer_deep_lift import LayerDeepLift, LayerDeepLiftShap
from .layer_gradient_shap import LayerGradientShap
from .layer_gradients import LayerActivation, LayerGradCam, LayerGradientXActivation
from .layer_integrated_gradients import LayerIntegratedGradients
from .lime import Lime, get_exp_kernel_similarity_function
from .noise_tunnel import NoiseTunnel
from .saliency import InputXGradient, Saliency
from .shapley import ShapleyValues, ShapleyValueSampling
from .token_reference import TokenReferenceBase

__all__ = [
    "Attribution",
    "Deconvolution",
    "DeepLift",
    "DeepLiftShap",
    "Explanation",
    "FeatureAblation",
    "FeaturePermutation",
    "GradientAttribution",
    "GradientShap",
    "GuidedBackprop",
    "GuidedGradCam",
    "InputXGradient",
    "IntegratedGradients",
    "KernelShap",
    "Lasso",
    "LayerActivation",
    "LayerAttribution",
    "LayerDeepLift",
    "LayerDeepLiftShap",
    "LayerGradCam",
    "LayerGradientShap",
    "LayerGradientXActivation",
    "LayerIntegratedGradients",
    "LeastSquares",
    "Lime",
    "LimeBase",
    "NoiseTunnel",
    "Occlusion",
    "PerturbationAttribution",
    "Ridge",
    "Saliency",
    "ShapleyValueSampling",
    "ShapleyValues",
    "TokenReferenceBase",
    "get_exp_kernel_similarity_function",
    "visualization",
]
