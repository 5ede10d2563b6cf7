"""Compiled high-performance attribution for PyTorch models, with Captum's interface."""

from importlib import import_module
from typing import Any

from . import metrics, plot
from ._version import __version__ as __version__
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
    LayerDeepLift,
    LayerDeepLiftShap,
    LayerGradCam,
    LayerGradientShap,
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
from .core.checks import ArgumentError
from .core.engine.plan import Plan
from .deploy import export, load
from .importance import permutation_importance
from .ops.native import LibraryLoadError, build_info

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
    "LayerDeepLift",
    "LayerDeepLiftShap",
    "LayerGradCam",
    "LayerGradientShap",
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
    "permutation_importance",
    "plot",
]

_ROOMS = ("lime", "shap")


def __getattr__(name: str) -> Any:
    """Imports ``fastxai.lime`` and ``fastxai.shap`` when first used, as most programs never do."""
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(f".{name}", __name__)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS})
