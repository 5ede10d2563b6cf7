"""Compiled high-performance attribution for PyTorch models, with Captum's interface."""

from .attr import (
    Deconvolution,
    DeepLift,
    DeepLiftShap,
    Explanation,
    FeatureAblation,
    FeaturePermutation,
    GuidedBackprop,
    GuidedGradCam,
    InputXGradient,
    IntegratedGradients,
    KernelShap,
    LayerActivation,
    LayerAttribution,
    LayerGradCam,
    LayerGradientXActivation,
    LayerIntegratedGradients,
    Lime,
    LimeBase,
    Occlusion,
    Saliency,
    ShapleyValues,
    ShapleyValueSampling,
    TokenReferenceBase,
)
from .core.inputs import ArgumentError
from .core.plan import Plan
from .ops.native import LibraryLoadError, build_info

__version__ = "0.1.0"

__all__ = [
    "ArgumentError",
    "Deconvolution",
    "DeepLift",
    "DeepLiftShap",
    "Explanation",
    "FeatureAblation",
    "FeaturePermutation",
    "GuidedBackprop",
    "GuidedGradCam",
    "InputXGradient",
    "IntegratedGradients",
    "KernelShap",
    "LayerActivation",
    "LayerAttribution",
    "LayerGradCam",
    "LayerGradientXActivation",
    "LayerIntegratedGradients",
    "LibraryLoadError",
    "Lime",
    "LimeBase",
    "Occlusion",
    "Plan",
    "Saliency",
    "ShapleyValueSampling",
    "ShapleyValues",
    "TokenReferenceBase",
    "build_info",
]
