"""The model and the rows that it is asked about. Only this package calls the model."""

from .evaluate import (
    Add,
    Gradients,
    Unused,
    Weighted,
    gradient_sum,
    gradients,
    gradients_inside,
    multiplications,
    stream,
    values,
)

__all__ = [
    "Add",
    "Gradients",
    "Unused",
    "Weighted",
    "gradient_sum",
    "gradients",
    "gradients_inside",
    "multiplications",
    "stream",
    "values",
]
