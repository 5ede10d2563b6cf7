"""The model and the rows that it is asked about. Only this package calls the model."""

from .evaluate import (
    Add,
    Gradients,
    Weighted,
    gradient_sum,
    gradient_sums,
    gradients,
    gradients_inside,
    multiplications,
    stream,
    values,
)
from .graph import Unused

__all__ = [
    "Add",
    "Gradients",
    "Unused",
    "Weighted",
    "gradient_sum",
    "gradient_sums",
    "gradients",
    "gradients_inside",
    "multiplications",
    "stream",
    "values",
]
