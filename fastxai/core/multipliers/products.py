"""Products of several operands: the mean gradient between baseline and input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .calls import Call, valued
from .elementwise import shared_out


def product(call: Call) -> Tensor:
    """Linear in each of n operands: Shapley's split, which is the mean gradient on the way.

    The way is straight, and the gradient of degree n − 1 along it, so that few points suffice; for
    two operands it is the one half-way.
    """
    return mean_gradient(call, len(call.operands))


def of_degree(degree: Callable[[Call], int]) -> Callable[[Call], Tensor]:
    """For a polynomial of its operands, of a degree that the call tells."""
    return lambda call: mean_gradient(call, degree(call))


def factor(call: Call) -> Tensor:
    """A product of two numbers. One may be a mask, or what else has no gradient of its own."""
    constant = [x for x in call.operands if not call.has_gradient(x)]
    if not constant:
        return product(call)
    reference = call.alike[0 if constant[0] is call.operands[0] else 1]
    if call.looks and _are_equal(constant[0], reference):
        return call.of(*call.operands)
    return shared_out(call)


def mean_gradient(call: Call, degree: int) -> Tensor:
    """The mean gradient on the way from the references, exact for polynomials of that degree."""
    points, weights = np.polynomial.legendre.leggauss(max(1, (degree + 1) // 2))
    alphas = ((1 + points) / 2).tolist()
    references = call.alike
    with torch.no_grad():
        value = call.of(*call.operands)
    surrogate: Any = 0
    for alpha, weight in zip(alphas, (weights / 2).tolist(), strict=True):
        pairs = zip(call.operands, references, strict=True)
        y = call.of(*(_between(x, reference, 1 - alpha) for x, reference in pairs))
        surrogate = y if len(alphas) == 1 else surrogate + weight * y
    return valued(surrogate, value)


def _between(x: Tensor, reference: Tensor, share: float) -> Tensor:
    """The point so far from x on the way to its reference, which gradients take for x."""
    if x.layout not in (torch.strided, torch.sparse_coo):  # sums of sparse tensors are for those
        x, reference = x.to_sparse_coo(), reference.to_sparse_coo()
    return x + ((reference - x) * share).detach()


def _are_equal(x: Tensor, reference: Tensor) -> bool:
    if x.layout == torch.strided:
        return torch.equal(x, reference)
    a, b = x.to_sparse_coo().coalesce(), reference.to_sparse_coo().coalesce()
    return torch.equal(a.indices(), b.indices()) and torch.equal(a.values(), b.values())
