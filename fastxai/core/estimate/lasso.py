"""The lasso, solved exactly by sweeps over the normal equations."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ... import ops

_BLOCK = 1 << 21  # numbers in a temporary: 16 MiB
_SMALL = 128  # players, so few that all of them may be solved for at once


def lasso(gram: Tensor, rhs: Tensor, alpha: float) -> Tensor:
    """The minimum of b gram b / 2 − b rhs + α |b|₁ for each problem and output, [P, M, C].

    Coordinate descent is fast where there are many rows. Where they are few, or the penalty is
    light, it may take sweeps beyond number: what is not there after some is brought there.
    """
    m = gram.shape[-1]
    found = ops.lasso(gram, rhs, alpha, max_sweeps=300)
    slope = rhs - gram @ found
    off = torch.where(found != 0, slope - alpha * found.sign(), (slope.abs() - alpha).clamp(min=0))
    problems, outputs = (off.abs().amax(1) > 1e-9 * rhs.abs().amax(1)).nonzero(as_tuple=True)
    if m > _SMALL:
        for p, c in zip(problems.tolist(), outputs.tolist(), strict=True):
            found[p, :, c] = _lasso_of_many(gram[p], rhs[p, :, c], found[p, :, c], alpha)
        return found
    step = max(1, _BLOCK // m**2)
    for first in range(0, len(problems), step):
        p, c = problems[first : first + step], outputs[first : first + step]
        found[p, :, c] = _search_signs(gram[p], rhs[p, :, c], found[p, :, c], alpha)
    return found


def _lasso_of_many(gram: Tensor, rhs: Tensor, start: Tensor, alpha: float) -> Tensor:  # [M]
    def among(chosen: Tensor) -> tuple[Tensor, Tensor]:
        return gram[chosen][:, chosen], rhs[chosen]

    def slope(chosen: Tensor, b: Tensor) -> Tensor:
        return rhs - gram[:, chosen] @ b

    return lasso_by_parts(among, slope, start, alpha)


def lasso_by_parts(
    among: Callable[[Tensor], tuple[Tensor, Tensor]],  # players [k] -> gram [k, k], rhs [k]
    slope: Callable[[Tensor, Tensor], Tensor],  # players [k], their coefficients [k] -> [M]
    start: Tensor,  # [M]
    alpha: float,
) -> Tensor:  # [M]
    """A lasso over a few players, to which others are let in until none outside would move."""
    found = start.clone()
    chosen = found.nonzero()[:, 0]
    slack = 1e-9 * slope(chosen[:0], found[:0]).abs().max()
    for _ in range(100):  # some ten, if rounding does not make it go round in circles
        if len(chosen) > 0:
            gram, rhs = among(chosen)
            found[chosen] = _search_signs(gram[None], rhs[None], found[None, chosen], alpha)[0]
            chosen = found.nonzero()[:, 0]
        pull = slope(chosen, found[chosen]).abs().index_fill(0, chosen, 0)
        count = min(max(16, len(chosen)), int((pull > alpha + slack).sum()))
        if count == 0:
            break
        chosen = torch.cat([chosen, pull.topk(count).indices])
    return found


def _search_signs(gram: Tensor, rhs: Tensor, start: Tensor, alpha: float) -> Tensor:  # [Q, M]
    """Which coefficients of a lasso are positive and negative decides all the rest.

    With signs fixed the minimum is a linear system. On the way there the first coefficient to
    change its sign becomes zero; at the minimum the zero with the steepest slope gets a sign. Ends
    after few steps from a start that is near.

    Source: Lee, Battle, Raina and Ng, "Efficient sparse coding algorithms" (2007).
    """
    found, signs = start.clone(), start.sign()
    identity = identity_matrix(gram)
    # So little that it does not show where the solution is unique; it chooses one where not.
    damping = 1e-13 * gram.diagonal(dim1=1, dim2=2).amax(1)[:, None, None] * identity
    open_ones = torch.arange(len(gram), device=gram.device)
    for _ in range(10 * gram.shape[-1]):
        g, r, b, s = (x[open_ones] for x in (gram, rhs, found, signs))
        active = s != 0
        system = g.where(active[:, :, None] & active[:, None, :], identity) + damping[open_ones]
        pull = (r - alpha * s).where(active, 0)
        goal = torch.linalg.solve_ex(system, pull[..., None]).result[..., 0]
        turns = goal * s < 0
        share = torch.where(turns, b / (b - goal), 1)  # of the way, until it is zero
        least = share.amin(1, keepdim=True)
        b = torch.lerp(b, goal, least)
        ends = turns & (share <= least)
        b, s = b.masked_fill(ends, 0), s.masked_fill(ends, 0)
        slope = r - (g @ b[..., None])[..., 0]
        excess, steepest = (slope.abs() - alpha).where(s == 0, 0).max(1)
        arrived = least[:, 0] == 1
        joins = arrived & (excess > 1e-10 * r.abs().amax(1))
        s[joins, steepest[joins]] = slope[joins, steepest[joins]].sign()
        found[open_ones], signs[open_ones] = b, s
        open_ones = open_ones[joins | ~arrived]
        if len(open_ones) == 0:
            break
    return found


def identity_matrix(gram: Tensor) -> Tensor:  # [M, M]
    return torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
