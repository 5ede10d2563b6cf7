"""Products of several operands: the mean gradient between baseline and input."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .calls import Call, Pulled, are_equal, valued
from .elementwise import shared_out

_ADDED = (torch.strided, torch.sparse_coo)  # what torch can add up


def product(call: Call) -> Tensor:
    """Linear in each of n operands: Shapley's split, which is the mean gradient on the way.

    The way is straight, and the gradient of degree n − 1 along it, so that few points suffice; for
    two operands it is the one half-way.
    """
    return mean_gradient(call, len(call.operands))


def of_matrices(call: Call) -> Tensor:
    """A product of two matrices, or of two equal batches of them: done once, at the operands."""
    operands, references = call.operands, call.alike
    if not _are_batches(operands, references):
        return product(call)
    with torch.no_grad():
        value = call.of(*operands)
    if value.dtype != operands[0].dtype:  # autocast
        return product(call)

    def pull(gradient: Tensor, a: Tensor, b: Tensor, *references: Tensor) -> tuple[Tensor, Tensor]:
        a_ref, b_ref = references
        return gradient @ torch.lerp(b, b_ref, 0.5).mH, torch.lerp(a, a_ref, 0.5).mH @ gradient

    ends = [t.detach() for t in [*operands, *references]]
    found: Tensor = Pulled.apply([value], pull, 2, *operands, *ends)
    return found


def _are_batches(operands: list[Tensor], references: list[Tensor]) -> bool:
    if len(operands) != 2 or operands[0].dim() < 2 or operands[0].dim() != operands[1].dim():
        return False
    for a, b in (operands, references):
        if a.shape[:-2] != b.shape[:-2] or a.dtype != b.dtype:
            return False
        if a.layout != torch.strided or b.layout != torch.strided:
            return False
    return True


@cache
def _points(degree: int) -> tuple[list[float], list[float]]:
    """Where on the way from 0 to 1 the mean of a polynomial is to be taken, and the weights."""
    points, weights = np.polynomial.legendre.leggauss(max(1, (degree + 1) // 2))
    return ((1 + points) / 2).tolist(), (weights / 2).tolist()


def of_degree(degree: Callable[[Call], int]) -> Callable[[Call], Tensor]:
    """For a polynomial of its operands, of a degree that the call tells."""
    return lambda call: mean_gradient(call, degree(call))


def factor(call: Call) -> Tensor:
    """A product of two numbers. One may be a mask, or what else has no gradient of its own."""
    constant = [x for x in call.operands if not call.has_gradient(x)]
    if not constant:
        return product(call)
    reference = call.alike[0 if constant[0] is call.operands[0] else 1]
    same = are_equal if constant[0].layout == torch.strided else _are_equal
    if call.looks and same(constant[0], reference):
        found: Tensor = call.of(*call.operands)
        return found
    return shared_out(call)


def mean_gradient(call: Call, degree: int) -> Tensor:
    """The mean gradient on the way from the references, exact for polynomials of that degree."""
    alphas, weights = _points(degree)
    operands, references = call.operands, call.alike
    with torch.no_grad():
        value = call.of(*operands)
    for i, x in enumerate(operands):
        if x.layout not in _ADDED:
            operands = [*operands[:i], x.to_sparse_coo(), *operands[i + 1 :]]
            references[i] = references[i].to_sparse_coo()
    surrogate: Any = 0
    for alpha, weight in zip(alphas, weights, strict=True):
        between = [
            x + ((reference - x) * (1 - alpha)).detach()
            for x, reference in zip(operands, references, strict=True)
        ]
        y = call.of(*between)
        surrogate = y if len(alphas) == 1 else surrogate + weight * y
    return valued(surrogate, value)


def _are_equal(x: Tensor, reference: Tensor) -> bool:
    """Whether sparse tensors are the same, which torch.equal does not know."""
    a, b = x.to_sparse_coo().coalesce(), reference.to_sparse_coo().coalesce()
    return torch.equal(a.indices(), b.indices()) and torch.equal(a.values(), b.values())
