"""How similar perturbed inputs are to the input."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..checks import TensorOrTuple, check_choice, check_number


@dataclass(frozen=True)
class ExpKernel:
    """A similarity of exp(−d² / (2 width²)), d a distance between model inputs as flat vectors.

    It may be called as any ``similarity_func``; :class:`Lime` knows it, and works the distances
    out from the coalitions.

    Args:
        distance_mode: "cosine", one minus the cosine of the angle; or "euclidean".
        kernel_width: the width, in units of the distance.

    Raises:
        ArgumentError: the mode is another, or the width is not above zero.
    """

    distance_mode: str = "cosine"
    kernel_width: float = 1.0

    def __post_init__(self) -> None:
        check_choice(self.distance_mode, "distance_mode", ("cosine", "euclidean"))
        width = check_number(self.kernel_width, "kernel_width", "a width above 0", positive=True)
        object.__setattr__(self, "kernel_width", width)

    def __call__(
        self, original: TensorOrTuple, perturbed: TensorOrTuple, interpretable: Any, **kwargs: Any
    ) -> float:
        x, p = _flat(original), _flat(perturbed)
        if self.distance_mode == "cosine":
            distance = cosine_distance(*(products(a, b).sum() for a, b in ((x, p), (x, x), (p, p))))
        else:
            distance = squares(x - p).sum().sqrt()
        return float(self.of_distance(distance))

    def of_distance(self, distance: Tensor) -> Tensor:
        return (distance.square() / (-2 * self.kernel_width**2)).exp()


def cosine_distance(product: Tensor, square: Tensor, other_square: Tensor) -> Tensor:
    """One minus the cosine of the angle between two vectors; 1 if one is zero."""
    lengths = (s.clamp(min=0).sqrt().clamp(min=1e-8) for s in (square, other_square))
    return 1 - product / math.prod(lengths)


def _flat(tensors: TensorOrTuple) -> Tensor:
    """[*] float64, or complex128 if one is complex."""
    parts = tensors if isinstance(tensors, tuple) else (tensors,)
    return torch.cat([in_float64(p.detach().flatten()) for p in parts])


def in_float64(x: Tensor) -> Tensor:
    return x.to(torch.complex128 if x.is_complex() else torch.float64)


def squares(x: Tensor) -> Tensor:
    return products(x, x)


def products(x: Tensor, other: Tensor) -> Tensor:
    product = (x * other.conj()).real if x.is_complex() else x * other
    return torch.where(x.isnan() | other.isnan(), 0, product)
