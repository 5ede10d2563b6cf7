"""Compiled high-performance attribution for PyTorch models, with Captum's interface."""

from . import metrics
from .attr import (
    Deconvolution,
    DeepLift,
    DeepLiftShap,
    Explanation,
    FeatureAblation,
    FeaturePermutation,
    GradientShap,
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
    NoiseTunnel,
    Occlusion,
    Saliency,
    ShapleyValues,
    ShapleyValueSampling,
    TokenReferenceBase,
)
from .core.inputs import ArgumentError
from .core.plan import Plan
from .deploy import export, load
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
    "GradientShap",
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
    "NoiseTunnel",
    "Occlusion",
    "Plan",
    "Saliency",
    "ShapleyValueSampling",
    "ShapleyValues",
    "TokenReferenceBase",
    "build_info",
    "export",
    "load",
    "metrics",
]
