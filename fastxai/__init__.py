"""Compiled high-performance attribution for PyTorch models, with Captum's interface."""

from .attr import (
    Explanation,
    FeatureAblation,
    FeaturePermutation,
    InputXGradient,
    IntegratedGradients,
    KernelShap,
    Lime,
    LimeBase,
    Occlusion,
    Saliency,
    ShapleyValues,
    ShapleyValueSampling,
)
from .core.inputs import ArgumentError
from .core.plan import Plan
from .deploy import export, load
from .ops.native import LibraryLoadError, build_info

__version__ = "0.1.0"

__all__ = [
    "ArgumentError",
    "Explanation",
    "FeatureAblation",
    "FeaturePermutation",
    "InputXGradient",
    "IntegratedGradients",
    "KernelShap",
    "LibraryLoadError",
    "Lime",
    "LimeBase",
    "Occlusion",
    "Plan",
    "Saliency",
    "ShapleyValueSampling",
    "ShapleyValues",
    "build_info",
    "export",
    "load",
]
