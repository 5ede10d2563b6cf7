"""How many samples to take: a number, or as many as it takes to be sure enough."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .inputs import check, check_count

AUTO = "auto"

# A round adds at least and at most so much to the samples there are. The errors at the end of a
# round foretell how many are needed; a little more, since what is foretold is itself uncertain.
_LEAST_GROWTH, _MOST_GROWTH, _MORE = 1.25, 2.0, 1.1


@dataclass(frozen=True)
class Budget:
    """At most so many samples, or fewer if they do: see :func:`check_budget`."""

    most: int
    tolerance: float | None = None  # None: take all of them

    @property
    def is_open(self) -> bool:
        """Whether it depends on the answers how many samples are taken."""
        return self.tolerance is not None

    def rounds(
        self, problems: int, first: int, together: bool = False, there_are: int | None = None
    ) -> Rounds:
        """Rounds of samples for so many problems.

        Args:
            problems: how many.
            first: samples of the first round.
            together: whether problems can leave only all at once.
            there_are: samples that tell everything: nobody takes more, nor more than half of them
                rather than all.
        """
        return Rounds(self, problems, first if self.is_open else self.most, together, there_are)


def check_budget(
    n_samples: Any, tolerance: Any, max_samples: Any, default: int, at_least: int = 1
) -> Budget:
    """Checks how many samples a method is to take.

    Args:
        n_samples: a number, or "auto".
        tolerance: with "auto", the largest standard error to end with, as a share of the range of
            the values.
        max_samples: with "auto", how many samples to take at most; None for ``default``.
        default: see ``max_samples``.
        at_least: how many samples the method needs.

    Raises:
        ArgumentError: naming the argument at fault.
    """
    if not isinstance(n_samples, str):
        check(max_samples is None, "max_samples", "none beside a number of n_samples", max_samples)
        return Budget(check_count(n_samples, "n_samples", at_least))
    expected = "an integer of at least {} or {!r}"
    check(n_samples == AUTO, "n_samples", expected, repr(n_samples), at_least, AUTO)
    is_number = isinstance(tolerance, numbers.Real) and not isinstance(tolerance, bool)
    fine = is_number and 0 < tolerance < math.inf
    check(fine, "tolerance", "a finite number above 0", tolerance)
    most = default if max_samples is None else check_count(max_samples, "max_samples", at_least)
    return Budget(most, float(tolerance))


class Rounds:
    """Rounds of samples, of problems that leave when they are within tolerance.

    Iterating gives for each round how many samples there are to be, those of earlier rounds among
    them, and which problems are still open, [k]; before the next one :meth:`tell` must have been
    called.

    Attributes:
        samples: taken for each problem so far, [P] int64.
        reached: the largest standard error as a share of the range of the values, [P] float64.
    """

    def __init__(
        self, budget: Budget, problems: int, first: int, together: bool, there_are: int | None
    ):
        self.samples = torch.zeros(problems, dtype=torch.int64)
        self.reached = torch.full((problems,), torch.inf, dtype=torch.float64)
        self._budget, self._together, self._there_are = budget, together, there_are
        self._open = torch.arange(problems)
        self._first = min(budget.most, self._all_or_half(first))

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        n = self._first
        while True:
            yield n, self._open
            self.samples[self._open] = n
            reached = self.reached[self._open]
            missed = ~self._within(reached)
            if n in (self._budget.most, self._there_are) or not missed.any():
                return
            if not self._together:
                self._open, reached = self._open[missed], reached[missed]
            n = min(self._budget.most, self._after(n, reached))

    def tell(self, relative_errors: Tensor) -> None:  # [k]
        """How far off the open problems may be now."""
        self.reached[self._open] = relative_errors.cpu()

    @property
    def missed(self) -> Tensor:
        """The problems that are not within tolerance, [k]."""
        return (~self._within(self.reached)).nonzero()[:, 0]

    @property
    def worst(self) -> float:
        """The largest relative error of any problem."""
        return float(self.reached.max()) if len(self.reached) else 0.0

    def _within(self, reached: Tensor) -> Tensor:
        # NaN, for what is not known, is not within.
        return reached <= (self._budget.tolerance or math.inf)

    def _after(self, n: int, reached: Tensor) -> int:
        # The one that needs least decides, so that none pays for another.
        needed = (reached / (self._budget.tolerance or math.inf)).square() * _MORE
        growth = float(needed.nan_to_num(_MOST_GROWTH).min())
        more = math.ceil(n * min(_MOST_GROWTH, max(_LEAST_GROWTH, growth)))
        return self._all_or_half(more + more % 2)  # samples come in pairs

    def _all_or_half(self, n: int) -> int:
        whole = self._there_are
        return whole if whole is not None and 2 * n > whole and self._budget.is_open else n


def relative_errors(
    values: Tensor,  # [M, P, C]
    errors: Tensor,  # [M, P, C]
    rounding: Tensor,  # [P, C]: an error as small as that is none
) -> Tensor:  # [P]
    """The largest standard error of each problem as a share of the range of its values and zero.

    Source: Covert and Lee, "Improving KernelSHAP" (2021), whose range is without the zero.
    """
    high, low = values.amax(0).clamp(min=0), values.amin(0).clamp(max=0)
    worst = errors.amax(0)  # NaN if one is
    share = torch.where(worst <= rounding, 0, worst / (high - low))  # [P, C]
    return share.amax(1)
