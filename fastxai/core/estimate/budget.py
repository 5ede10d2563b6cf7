"""How many samples to take: a number, or as many as it takes to be sure enough."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..checks import check, check_count, check_number

AUTO = "auto"

# So many rounds double the samples. The errors at the end of a round foretell how many a problem
# needs, and so which round it waits for; as what is foretold is uncertain, not more than double.
_DOUBLING = 3
_FEWEST = 8  # samples of the first round, so that each round has more than the one before


@dataclass(frozen=True)
class Budget:
    """At most so many samples, or fewer if they do: see :func:`check_budget`."""

    most: int
    tolerance: float | None = None  # None: take all of them

    @property
    def is_adaptive(self) -> bool:
        """Whether it depends on the answers how many samples are taken."""
        return self.tolerance is not None

    def rounds(
        self, problems: int, first: int, together: bool = False, population_size: int | None = None
    ) -> Rounds:
        """Rounds of samples for so many problems.

        Args:
            problems: how many.
            first: samples of the first round.
            together: whether problems can leave only all at once.
            population_size: samples that tell everything: nobody takes more, nor more than half of
                them rather than all.
        """
        return Rounds(self, problems, first, together, population_size)


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
    tolerance = check_number(tolerance, "tolerance", "a finite number above 0", positive=True)
    most = default if max_samples is None else check_count(max_samples, "max_samples", at_least)
    return Budget(most, float(tolerance))


class Rounds:
    """Rounds of samples, of problems that leave when they are within tolerance.

    Iterating gives for each round how many samples there are to be, those of earlier rounds among
    them, and which problems are still open, [k]; before the next one :meth:`tell` must have been
    called. All who are open take the samples, but a problem may leave in those rounds alone that
    its own errors foretell: how many it takes does not depend on the others.

    Attributes:
        samples: taken for each problem so far, [P] int64.
        reached: the largest standard error as a share of the range of the values, [P] float64.
    """

    def __init__(
        self, budget: Budget, problems: int, first: int, together: bool, population_size: int | None
    ):
        self.samples = torch.zeros(problems, dtype=torch.int64)
        self.reached = torch.full((problems,), torch.inf, dtype=torch.float64)
        self._budget, self._first = budget, first
        self._together, self._there_are = together, population_size
        self._open = torch.arange(problems)
        self._is_due = torch.ones(problems, dtype=torch.bool)  # of those, who may leave

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        number = 0
        waits = torch.zeros_like(self._open)  # for the round of that number
        while True:
            n = self._samples_of(number)
            is_last = n in (self._budget.most, self._there_are)
            self._is_due = (waits == number) | is_last
            yield n, self._open
            due = self._open[self._is_due]
            self.samples[due] = n
            waits[self._is_due] = number + self._steps(self.reached[due])
            missed = waits > number
            if is_last or not missed.any():
                return
            number = int(waits[missed].min())
            if self._together:
                waits[:] = number
            else:
                self._open, waits = self._open[missed], waits[missed]

    def tell(self, relative_errors: Tensor) -> None:  # [k]
        """How far off the open problems may be now."""
        self.reached[self._open[self._is_due]] = relative_errors.cpu()[self._is_due]

    @property
    def missed(self) -> Tensor:
        """The problems that are not within tolerance, [k]."""
        return self._steps(self.reached).nonzero()[:, 0]

    @property
    def worst(self) -> float:
        """The largest relative error of any problem."""
        return float(self.reached.max()) if len(self.reached) else 0.0

    def _steps(self, reached: Tensor) -> Tensor:
        """In how many rounds these may be within tolerance, [k] int64; 0 for those that are."""
        needed = (reached / (self._budget.tolerance or math.inf)).square()  # of the samples
        # NaN, for what is not known, is not within.
        steps = (_DOUBLING * needed.log2()).ceil().nan_to_num(_DOUBLING).clamp(1, _DOUBLING)
        return torch.where(needed <= 1, 0, steps).long()

    def _samples_of(self, number: int) -> int:
        if not self._budget.is_adaptive:
            return self._budget.most
        n = 2 * math.ceil(max(_FEWEST, self._first) * 2 ** (number / _DOUBLING) / 2)  # in pairs
        whole = self._there_are
        return min(self._budget.most, whole if whole is not None and 2 * n > whole else n)


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
