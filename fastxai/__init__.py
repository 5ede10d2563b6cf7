"""Compiled high-performance attribution for PyTorch models, with Captum's interface."""

from .attr import Explanation, InputXGradient, IntegratedGradients, Saliency
from .core.inputs import ArgumentError
from .ops.native import LibraryLoadError, build_info

__version__ = "0.1.0"

__all__ = [
    "ArgumentError",
    "Explanation",
    "InputXGradient",
    "IntegratedGradients",
    "LibraryLoadError",
    "Saliency",
    "build_info",
]
