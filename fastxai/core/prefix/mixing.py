"""How rows are made of bases and deltas."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class Mixing:
    """Which rows base and deltas make."""

    count: int  # r

    def rows(self, base: Tensor, deltas: Tensor) -> Tensor:
        """[r, b, *S], of base [b, *S] or [1, *S] and deltas [K, b, *S]."""
        raise NotImplementedError

    def with_leaf(self, base: Tensor, deltas: Tensor) -> tuple[Tensor, Tensor]:
        """The rows [r * b, *S], and a leaf whose gradient is the sum over rows of theirs.

        The leaf is [b, *S], or [K, b, *S] where rows of different deltas are told apart.
        """
        leaf = base.expand(deltas.shape[1:]).detach().requires_grad_()
        return self.rows(leaf, deltas).flatten(0, 1), leaf


class CoefficientMixing(Mixing):
    """Row n is the base and deltas by row n of coefficients [r, K]."""

    def __init__(self, coefficients: Tensor):
        self.coefficients, self.count = coefficients, coefficients.shape[0]

    def rows(self, base: Tensor, deltas: Tensor) -> Tensor:
        c = self.coefficients.to(base.dtype)
        r, k = c.shape
        if k == 1:
            return torch.addcmul(base, c.reshape(r, *[1] * base.dim()), deltas)
        start = base.expand(deltas.shape[1:]).reshape(1, -1)
        return torch.addmm(start, c, deltas.reshape(k, -1)).reshape(r, *deltas.shape[1:])


class OneDeltaMixing(Mixing):
    """Row n is the base and delta n."""

    def __init__(self, count: int):
        self.count = count

    def rows(self, base: Tensor, deltas: Tensor) -> Tensor:
        return base + deltas


class PrefixSumMixing(Mixing):
    """Rows along orders of the deltas: each adds one to the row before, or begins an order."""

    def __init__(self, orders: Tensor, first: int, last: int):  # [n, K]; of n · (K - 1) rows
        self.orders, self.first, self.count = orders, first, last - first

    def rows(self, base: Tensor, deltas: Tensor) -> Tensor:
        made = base.new_empty(self.count, *deltas.shape[1:])
        length = self.orders.shape[1] - 1
        row = 0
        while row < self.count:
            order, at = divmod(self.first + row, length)
            n = min(length - at, self.count - row)
            start = base
            if at:
                start = base + deltas[self.orders[order, :at]].sum(0)
            steps = deltas[self.orders[order, at : at + n]]
            torch.cumsum(steps, 0, out=made[row : row + n]).add_(start)
            row += n
        return made


class SampledMixing(Mixing):
    """Row n of an example is its base and one of its deltas by a coefficient.

    Args:
        which: [r, b] int64, below K.
        coefficients: [r, b].
        count: K.
    """

    def __init__(self, which: Tensor, coefficients: Tensor, count: int):
        self.which, self.coefficients, self.of = which, coefficients, count
        self.count = len(which)

    def rows(self, base: Tensor, deltas: Tensor) -> Tensor:
        rows: Tensor = self.flat(base, deltas).unflatten(0, self.which.shape)
        return rows

    def flat(self, base: Tensor, deltas: Tensor) -> Tensor:  # -> [r * b, *S]
        b = deltas.shape[1]
        place = self.which * b + torch.arange(b, device=deltas.device)  # [r, b]
        made = deltas.flatten(0, 1).index_select(0, place.flatten())
        chosen = made.unflatten(0, place.shape)
        along = self.coefficients.to(deltas.dtype).reshape(*place.shape, *[1] * (base.dim() - 1))
        torch.addcmul(base, chosen, along, out=chosen)
        return made

    def with_leaf(self, base: Tensor, deltas: Tensor) -> tuple[Tensor, Tensor]:
        leaf = deltas.new_zeros(()).expand(deltas.shape).requires_grad_()
        return _Shifted.apply(leaf, base, deltas, self), leaf


class _Shifted(torch.autograd.Function):
    """Drawn rows, of which each moves as the leaf [K, b, *S] does for its delta and example."""

    @staticmethod
    def forward(
        ctx: Any, leaf: Tensor, base: Tensor, deltas: Tensor, mixing: SampledMixing
    ) -> Tensor:
        ctx.mixing = mixing
        return mixing.flat(base, deltas)  # no view: the model may write to it

    @staticmethod
    def backward(ctx: Any, gradients: Tensor) -> tuple[Tensor, None, None, None]:  # [r * b, *S]
        which, count = ctx.mixing.which, ctx.mixing.of
        gradients = gradients.unflatten(0, which.shape)
        chosen = F.one_hot(which.T, count).transpose(1, 2).to(gradients.dtype)  # [b, K, r]
        sums = torch.bmm(chosen, gradients.flatten(2).transpose(0, 1))  # [b, K, S]
        return sums.transpose(0, 1).unflatten(2, gradients.shape[2:]), None, None, None
