"""Lime as operations on tensors, for packages."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .. import ops
from ..core.engine.groups import FeatureGroups
from ..core.estimate.linear_fits import Lasso, LinearFit, NormalEquations, Ridge
from ..core.estimate.local_regression import pair_variance
from ..core.estimate.similarity import ExpKernel, cosine_distance, products, squares
from ..core.estimate.similarity import in_float64 as _float64
from ..core.program.program import (
    Answer,
    Replaced,
    Spread,
    TracedRequest,
    by_output,
    magnitude_of,
    values_of,
)


def lime(
    request: TracedRequest,
    rows: Replaced,  # by the features of players that are not in a coalition
    present: Tensor,  # [N, M] bool: the players in each of these coalitions, and at last all
    groups: FeatureGroups,  # one grouping for all examples
    kernel: ExpKernel,
    fit: LinearFit,
    spread: Spread,
    standard_errors: bool,
) -> Answer:
    """The coefficients of a linear fit to the outputs, weighed by how near a coalition's row is."""
    outputs, values = values_of(request, rows)
    x = present[:-1].to(torch.float64)  # [N - 1, M]
    w = _similarities(request, kernel, x, groups)  # [B, N - 1]
    y = values[:-1].to(torch.float64) - values[-1].to(torch.float64)
    y = y.reshape(x.shape[0], -1, values.shape[2:].numel()).transpose(0, 1)  # [B, N, C]

    total = w.sum(1)
    share = (w / total[:, None])[..., None]  # [B, N, 1]
    centred = x - (share * x).sum(1, keepdim=True)  # [B, N, M]
    weighed = (w[..., None] * centred).mT
    normal = NormalEquations(total, weighed @ centred, weighed @ y)
    found = _fitted(fit, normal)  # [B, M, C]
    coefficients = spread(by_output(found.mT, values[-1]))
    magnitude = magnitude_of(values)
    if not standard_errors:
        return Answer(outputs, coefficients, magnitude=magnitude)
    residual = y - (share * y).sum(1, keepdim=True) - centred @ found  # [B, N, C]
    pairs = zip(residual.unbind(-1), found.unbind(-1), strict=True)
    variances = [
        pair_variance(centred, w, total, left, _sensitivity(fit, normal, b)) for left, b in pairs
    ]
    errors = by_output(torch.stack(variances, 1).sqrt(), values[-1])  # [B, *C, M]
    return Answer(outputs, coefficients, standard_errors=spread(errors), magnitude=magnitude)


def _fitted(fit: LinearFit, normal: NormalEquations) -> Tensor:  # [B, M, C]
    if isinstance(fit, Lasso) and fit.alpha > 0:
        total = normal.total[:, None, None]
        return ops.lasso(normal.gram / total, normal.rhs / total, fit.alpha)
    if isinstance(fit, Ridge) and fit.alpha > 0:
        solution: Tensor = torch.linalg.solve(fit.penalised(normal.gram), normal.rhs)
        return solution
    return _pseudo_inverse(normal.gram) @ normal.rhs


def _sensitivity(fit: LinearFit, normal: NormalEquations, coefficients: Tensor) -> Tensor:
    """As :meth:`LinearFit.sensitivity`, [B, M, M]."""
    if isinstance(fit, Ridge) and fit.alpha > 0:
        inverse: Tensor = torch.linalg.inv(fit.penalised(normal.gram))
        return inverse
    if isinstance(fit, Lasso) and fit.alpha > 0:
        return fit.among_active(normal.gram, coefficients, _pseudo_inverse)
    return _pseudo_inverse(normal.gram)


def _pseudo_inverse(gram: Tensor) -> Tensor:
    inverse: Tensor = torch.linalg.pinv(gram, rtol=1e-12, hermitian=True)
    return inverse


def _similarities(
    request: TracedRequest, kernel: ExpKernel, x: Tensor, groups: FeatureGroups
) -> Tensor:  # [B, N]
    """What the coalitions weigh; distances follow from sums over each group."""

    def sums(product: Callable[[Tensor, Tensor], Tensor]) -> Tensor:  # [B, M]
        total = x.new_zeros(request.batch, groups.count)
        triples = zip(request.inputs, request.baselines, groups.masks, strict=True)
        for given, baseline, mask in triples:
            values = product(_float64(given), _float64(baseline))
            values = values.expand(given.shape).reshape(request.batch, -1)
            total = total.index_add(1, mask.flatten().long(), values)
        return total

    if kernel.distance_mode == "euclidean":
        return kernel.of_distance((sums(lambda a, b: squares(a - b)) @ (1 - x).T).sqrt())
    aa, bb = sums(lambda a, b: squares(a)), sums(lambda a, b: squares(b))
    ab = sums(products)
    product = (aa - ab) @ x.T + ab.sum(1, keepdim=True)
    square = (aa - bb) @ x.T + bb.sum(1, keepdim=True)
    return kernel.of_distance(cosine_distance(product, aa.sum(1, keepdim=True), square))
