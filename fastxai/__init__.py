"""Compiled high-performance attribution for PyTorch models, with Captum's interface."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

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
from .ops.native import LibraryLoadError, build_info

if TYPE_CHECKING:
    from .deploy.export import export
    from .deploy.package import load


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
    "plot",
]

_OF_DEPLOY = ("export", "load")
_ROOMS = ("deploy", "shap")


def __getattr__(name: str) -> Any:
    """Imports ``fastxai.deploy`` or ``shap`` when it is first used, as most programs never do."""
    if name == "shap":
        return import_module(".shap", __name__)
    if name != "deploy" and name not in _OF_DEPLOY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    package = import_module(".deploy", __name__)  # which becomes an attribute here
    for function in _OF_DEPLOY:
        globals()[function] = getattr(package, function)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS})
