"""The attribution methods, with Captum's names and signatures: ``captum.attr`` made fast."""

from ._base import Attribution, Explanation, GradientAttribution
from .integrated_gradients import IntegratedGradients
from .saliency import InputXGradient, Saliency

__all__ = [
    "Attribution",
    "Explanation",
    "GradientAttribution",
    "InputXGradient",
    "IntegratedGradients",
    "Saliency",
]
