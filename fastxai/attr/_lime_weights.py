"""How much coalitions weigh, by how near their rows are to the input."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..core.engine.groups import FeatureGroups
from ..core.engine.request import Request
from ..core.estimate.similarity import ExpKernel, cosine_distance, in_float64, products, squares


def weigher(
    kernel: ExpKernel, request: Request, groups: FeatureGroups
) -> Callable[[Tensor, slice], Tensor]:
    """How much coalitions z [n, M] weigh for each of these problems p: (z, p) -> [n, p].

    A row is the input in some groups and the baseline in the others: its distance from the input
    follows from sums over each group.
    """

    def sums(product: Callable[[Tensor, Tensor], Tensor]) -> Tensor:  # [P, M] float64
        total = request.inputs.tensors[0].new_zeros(
            request.inputs.batch, groups.count, dtype=torch.float64
        )
        for x, b, mask in zip(request.inputs.tensors, request.baselines, groups.masks, strict=True):
            values = product(in_float64(x), in_float64(b)).expand(x.shape)
            rows = (len(x), x.shape[1:].numel())
            players = mask.long().reshape(len(mask), rows[1]).expand(rows)
            total.scatter_add_(1, players, values.reshape(rows))
        return total.sum(0, keepdim=True) if request.model.whole_batch else total

    if kernel.distance_mode == "euclidean":
        apart = sums(lambda x, b: squares(x - b))
        return lambda z, p: kernel.of_distance(((1 - z) @ apart[p].T).sqrt())

    xx, bb = sums(lambda x, b: squares(x)), sums(lambda x, b: squares(b))
    xb = sums(products)

    def weigh(z: Tensor, p: slice) -> Tensor:
        product = z @ (xx - xb)[p].T + xb[p].sum(1)
        square = z @ (xx - bb)[p].T + bb[p].sum(1)
        return kernel.of_distance(cosine_distance(product, xx[p].sum(1), square))

    return weigh
