"""The games that KernelShap plays: values of coalitions, and fits to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from .. import ops
from ..core import coalition_bits
from ..core.checks import ArgumentError, warn
from ..core.engine.groups import FeatureGroups
from ..core.engine.progress import Bar
from ..core.engine.request import Request
from ..core.estimate import designs
from ..core.estimate.kriging import Kriging, leaves_residuals
from ..core.estimate.shapley_regression import ShapleyRegression
from ._coalitions import coalition_rows
from ._perturbation import PerturbationAttribution
from ._worth import Worth

_NUMBERS_KEPT = 1 << 20  # coalitions × groups of a design to keep; their bits are 128 KiB
# Further names of designs: of those that grow with the samples, and of those for kriging.
GROWING, GROWING_MIXED, FOR_KRIGING = "growing", "growing mixed", "for kriging"


@dataclass(frozen=True)
class Fits:
    """What is fitted to the outputs for so many samples."""

    regression: Callable[[int], tuple[designs.Design, ShapleyRegression]]
    kriging: Callable[[int], Kriging]
    tier: Callable[[int], str]


class Game:
    """A model's outputs for the coalitions of a design, and the regression on them.

    The outputs are added up as they come, unless ``keeps``: then all are there for kriging, the
    standard errors and for a design that grows.
    """

    def __init__(
        self,
        method: PerturbationAttribution,
        groups: FeatureGroups,
        full: Tensor,  # [P, *C]
        worth: Worth,
        limit: int | None,
        fits: Fits,
        keeps: bool,
        with_errors: bool,
    ):
        self._worth = worth
        self._method, self._groups, self._limit = method, groups, limit
        self._fits, self._with_errors = fits, with_errors
        self.tier = "fast"  # of the last estimate
        self._full = full.reshape(columns_of(full)).to(torch.float64)  # [P, C]
        self._empty = torch.zeros_like(self._full)
        self._moment = self._full.new_zeros(groups.count, *self._full.shape)  # [M, P, C]
        # A link is of the mean over all of a background, which may come in several blocks.
        keeps = keeps or worth.link is not None
        self._known = _Known(groups.count, self._full) if keeps else None

    @property
    def empty(self) -> Tensor:
        """v(∅), [P, C] float64, where the model is."""
        return self._empty

    def ask(self, request: Request, taken: slice, problems: Tensor, progress: Bar) -> None:
        m, is_first = self._groups.count, taken.start == 0
        plan, _ = self._fits.regression(taken.stop)
        bits, weights = plan.bits, plan.weights
        if is_first:  # coalition 0 has nobody; it fits any values, and so weighs nothing
            bits = torch.cat((bits.new_zeros(1, bits.shape[1]), bits))
            weights = torch.cat((weights.new_zeros(1), weights))
        elif self._known is not None:
            bits = self._known.others(bits)
        rows = coalition_rows(request, self._groups.of(problems), bits)
        weights = weights.to(rows.device)
        new = torch.zeros(len(bits) if self._known else 0, *self._full[problems].shape).double()

        def add(values: Tensor, repeats: slice, examples: slice) -> None:
            y, which = self._worth.mean(values.reshape(*values.shape[:2], -1), repeats)
            if self._known is not None:
                new[which, examples] += y.cpu()
            else:
                part = ops.coalition_rhs(rows.bits[which], m, weights[which], y.flatten(1))
                self._moment[:, examples] += part.unflatten(1, y.shape[1:])
            if is_first and which.start == 0:
                self._empty[examples] += y[0]

        self._method._stream(request, rows, add, self._limit, progress)
        if is_first:
            self._empty = self._worth.linked(self._empty)
        if self._known is not None:
            self._known.add(bits, self._worth.linked(new), problems)

    def estimate(
        self, request: Request, n: int, problems: Tensor
    ) -> tuple[Tensor, Tensor | None]:  # [M, k, C]
        plan, fit = self._fits.regression(n)
        difference = (self._full - self._empty)[problems].cpu()  # v(all) − v(∅)
        if self._known is None:
            return fit.solve(self._moment.cpu(), difference), None
        values = self._known.of(plan.bits, problems)  # [N, k, C]
        self.tier = self._fits.tier(n) if leaves_residuals(plan, fit) else "fast"
        if self.tier != "fast":
            try:
                return self._by_kriging(n, values, problems)
            except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
                warn(f"tier: a factorisation failed, the values are of the fast tier ({error})")
                self.tier = "fast"
        moment = ops.coalition_rhs(plan.bits, plan.players, plan.weights, values.flatten(1))
        phi = fit.solve(moment.unflatten(1, difference.shape), difference)
        if not self._with_errors:
            return phi, None
        return phi, fit.standard_errors(values, difference, phi)

    def _by_kriging(
        self, n: int, values: Tensor, problems: Tensor
    ) -> tuple[Tensor, Tensor | None]:  # [N, k, C] -> [M, k, C]
        kriging = self._fits.kriging(n)
        empty, full = (x[problems].cpu().flatten() for x in (self._empty, self._full))
        accurate = self.tier == "accurate"
        phi, errors = kriging.solve(values.flatten(1), empty, full, accurate, self._with_errors)
        shape = phi.shape[:1] + values.shape[1:]
        return phi.view(shape), None if errors is None else errors.view(shape)


class _Known:
    """The values v(z) of coalitions so far."""

    def __init__(self, players: int, full: Tensor):  # [P, C]
        self._bits = torch.zeros(0, -(-players // 64), dtype=torch.int64)  # [n, W]
        self._values = torch.zeros(0, *full.shape, dtype=torch.float64)  # [n, P, C]

    def others(self, bits: Tensor) -> Tensor:  # [N, W]
        """Those coalitions of which there are no values."""
        return bits[coalition_bits.positions(bits, self._bits) < 0]

    def add(self, bits: Tensor, values: Tensor, problems: Tensor) -> None:  # [n, W], [n, k, C]
        every = values.new_zeros(len(bits), *self._values.shape[1:])
        every[:, problems] = values
        self._bits = torch.cat([self._bits, bits])
        self._values = torch.cat([self._values, every])

    def of(self, bits: Tensor, problems: Tensor) -> Tensor:  # [N, W] -> [N, k, C]
        return self._values[coalition_bits.positions(bits, self._bits)[:, None], problems]


def regression_of(
    seed: int, players: int, design: str | None, n_samples: int
) -> tuple[designs.Design, ShapleyRegression]:
    # Neither depends on the model, so that a call with the seed of an earlier one takes its own.
    make = _kept_regression if n_samples * players <= _NUMBERS_KEPT else _new_regression
    try:
        return make(seed, players, design, n_samples)
    except ValueError as error:
        raise ArgumentError(f"design: {error}") from error


def _new_regression(
    seed: int, players: int, design: str | None, n_samples: int
) -> tuple[designs.Design, ShapleyRegression]:
    if design == GROWING:
        plan = designs.growing_design(players, n_samples, seed)
    elif design == GROWING_MIXED:
        plan = designs.growing_design(players, n_samples, seed, "mixed")
    elif design == FOR_KRIGING:
        plan = designs.kriging_design(players, n_samples, seed)
    else:
        plan = designs.shapley_design(players, n_samples, seed, design)
    return plan, ShapleyRegression(plan)


_kept_regression = lru_cache(maxsize=8)(_new_regression)


def kriging_of(seed: int, players: int, design: str | None, n_samples: int) -> Kriging:
    make = _kept_kriging if n_samples**2 <= _NUMBERS_KEPT else _new_kriging
    return make(seed, players, design, n_samples)


def _new_kriging(seed: int, players: int, design: str | None, n_samples: int) -> Kriging:
    return Kriging(regression_of(seed, players, design, n_samples)[0])


_kept_kriging = lru_cache(maxsize=4)(_new_kriging)


def columns_of(outputs: Tensor) -> tuple[int, int]:
    """[P, *C] as [P, C]."""
    return outputs.shape[0], outputs.shape[1:].numel()
