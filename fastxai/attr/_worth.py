"""What a coalition is worth: v(z) = link(Σ_k w_k f(row_k)), over the rows for absent features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.checks import ArgumentError, check
from ..core.engine.coalition_rows import CoalitionRows
from ..core.engine.inputs import check_background
from ..core.engine.progress import Bar
from ..core.engine.request import Request
from ._perturbation import PerturbationAttribution

# A function of outputs, in the unit of which values add up.
Link = Callable[[Tensor], Tensor]

_NEAREST = 1e-15  # of a probability to 0 and 1, as in shap
_ROUNDING = 1e-3  # of probabilities in float16


@dataclass(frozen=True)
class Worth:
    """How outputs for the rows of a coalition become what it is worth.

    Args:
        rows: how many rows a coalition has, K.
        weights: of these, [K] or [K, C] float64, of sum 1; None for the plain mean.
        link: None for the identity.
    """

    rows: int = 1
    weights: Tensor | None = None
    link: Link | None = None

    def mean(
        self,
        values: Tensor,  # [r, b, C], repeat n * K + k is coalition n over background row k
        repeats: slice,
    ) -> tuple[Tensor, slice]:
        """What these repeats give of the mean over K, [n, b, C], for a slice of the coalitions."""
        k, weights = self.rows, self.weights
        if k == 1:
            return values, repeats
        if repeats.start % k == 0 and repeats.stop % k == 0:
            of_each = slice(repeats.start // k, repeats.stop // k)
            values = values.unflatten(0, (-1, k))
            if weights is None:
                return values.sum(1, dtype=torch.float64).div_(k), of_each
            # Not as a product of matrices, whose threads would go on to wait on the model's cores.
            shares = values.to(torch.float64) * self._shares(weights, values)
            return shares.sum(1), of_each
        first, last = repeats.start // k, (repeats.stop - 1) // k + 1
        at = torch.arange(repeats.start, repeats.stop, device=values.device)
        if weights is None:
            shares = values.to(torch.float64) / k
        else:
            shares = values.to(torch.float64) * self._shares(weights, values)[at % k]
        sums = shares.new_zeros(last - first, *values.shape[1:])
        return sums.index_add_(0, at // k - first, shares), slice(first, last)

    def _shares(self, weights: Tensor, values: Tensor) -> Tensor:  # [K, 1, C] or [K, 1, 1]
        """The weights, for values [..., C]."""
        each, outputs = weights.reshape(self.rows, 1, -1).to(values.device), values.shape[-1]
        check(
            each.shape[-1] in (1, outputs),
            "background_weights",
            "shape ({0}), or ({0}, {1}) for the outputs that are explained",
            weights.shape,
            self.rows,
            outputs,
        )
        return each

    def linked(self, values: Tensor) -> Tensor:
        """The link of means, or of the outputs at the inputs, in float64; as they are without."""
        if self.link is None:
            return values
        found = self.link(values.to(torch.float64))
        fits = isinstance(found, Tensor) and found.shape == values.shape
        check(fits, "link", "a number for each number", getattr(found, "shape", type(found)))
        odd = values.isfinite() & ~found.isfinite()
        if bool(odd.any()):  # as differences of infinities are no numbers either
            expected = "a function that gives finite numbers"
            got = f"{found[odd][0].item()} for {values[odd][0].item():.6g}"
            raise ArgumentError(f"link: expected {expected}, got {got}")
        return found.to(torch.float64)


def worth_of(request: Request) -> Worth:
    """What a coalition is worth in a request's game."""
    background = request.background
    rows = 1 if background is None else background[0].shape[0]
    return Worth(rows, request.background_weights, request.link)


def with_background(
    request: Request, baselines: Any, background: Any, background_weights: Any, link: Any
) -> Request:
    """The request over a background, if there is one, in a link's unit.

    Raises:
        ArgumentError: one of them does not fit.
    """
    request = replace(request, link=_check_link(link))
    if background is None:
        check(background_weights is None, "background_weights", "a background beside them", "none")
        return request
    check(baselines is None, "background", "no baselines beside it", "both")
    background = check_background(background, request.inputs)
    inputs = request.inputs.in_dtypes_of(background)
    weights = _check_weights(background_weights, background[0].shape[0])
    return replace(request, inputs=inputs, background=background, background_weights=weights)


def _check_weights(given: Any, rows: int) -> Tensor | None:  # [K] or [K, C] float64, of sum 1
    if given is None:
        return None
    name = "background_weights"
    check(isinstance(given, Tensor), name, "a torch.Tensor", type(given).__name__)
    check(not given.is_complex(), name, "real numbers", given.dtype)
    fits = given.dim() in (1, 2) and given.shape[0] == rows
    check(fits, name, "shape ({}), or ({}, C) for those of each output", given.shape, rows, rows)
    weights = given.detach().to(torch.float64)
    total = weights.sum(0, keepdim=True)
    fine = bool((weights >= 0).all() & (total > 0).all() & total.isfinite().all())
    check(fine, name, "finite numbers of at least 0, not all of them 0", given.tolist())
    shares: Tensor = weights / total
    return shares


def _check_link(link: Any) -> Link | None:
    if isinstance(link, str):
        if link in ("identity", "logit"):
            return _logit if link == "logit" else None
    elif callable(link):
        return lambda values: _called(link, values)
    raise ArgumentError(f"link: expected 'identity', 'logit' or a function, got {link!r}")


def _called(link: Callable[[Any], Any], values: Tensor) -> Tensor:
    """A link that may know numpy's arrays alone, as shap's do."""
    found = link(values.cpu().numpy())
    return torch.from_numpy(np.array(found, dtype=np.float64)).to(values.device)


def _logit(p: Tensor) -> Tensor:
    wrong = (p < -_ROUNDING) | (p > 1 + _ROUNDING)
    if bool(wrong.any()):
        got = f"{p[wrong][0].item():.6g}"
        raise ArgumentError(f"link: expected probabilities from the model for 'logit', got {got}")
    p = p.clamp(_NEAREST, 1 - _NEAREST)
    return (p / (1 - p)).log()


def stream_worths(
    method: PerturbationAttribution,
    request: Request,
    rows: CoalitionRows,
    worth: Worth,
    add: Callable[[Tensor, slice, slice], None],
    limit: int | None,
    progress: Bar | None = None,
) -> None:
    """Shows ``add`` what coalitions are worth, as ``add([n, b, C], coalitions, examples)``.

    Without a link a coalition may come in parts, which add up; with one, whose mean must be
    complete, all come at once.
    """
    kept: Tensor | None = None

    def visit(values: Tensor, repeats: slice, examples: slice) -> None:
        nonlocal kept
        y, which = worth.mean(values.reshape(*values.shape[:2], -1), repeats)
        if worth.link is None:
            add(y, which, examples)
            return
        if kept is None:
            examples_in_all = y.shape[1] if request.model.whole_batch else rows.batch
            shape = len(rows.bits), examples_in_all, y.shape[2]
            kept = torch.zeros(shape, dtype=torch.float64, device=y.device)
        kept[which, examples] += y

    method._stream(request, rows, visit, limit, progress)
    if kept is not None:
        add(worth.linked(kept), slice(0, len(kept)), slice(0, kept.shape[1]))
