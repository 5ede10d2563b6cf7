"""What KernelShap is asked for beside its request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..core.checks import ArgumentError
from ..core.estimate import designs
from ..core.estimate.budget import Budget, check_budget
from ..core.estimate.shapley_regression import ShapleyRegression

_MOST_SAMPLES = 100  # for each group, if the errors decide how many


@dataclass(frozen=True)
class Options:
    """What was asked for, whoever plays."""

    regression: Callable[[int, str | None, int], tuple[designs.Design, ShapleyRegression]]
    seed: int
    amount: tuple[Any, Any, Any]  # n_samples, tolerance, max_samples
    limit: int | None
    design: str | None
    tier: str | None
    detailed: bool
    too_few: list[int] = field(default_factory=list)  # players whose values are not determined

    def budget(self, players: int) -> Budget:
        return check_budget(*self.amount, _MOST_SAMPLES * players, at_least=2)

    def rows(self, players: int) -> int:
        """Coalitions for the model at most: they are pairs, and the full one is the input."""
        budget, population_size = self.budget(players), count_coalitions(players)
        most = budget.most if population_size is None else min(budget.most, population_size)
        return most - 1 if budget.is_adaptive else most // 2 * 2 - 1

    def design_for(self, players: int, n_samples: int) -> str | None:
        """The design, which all groups have but some alone need not have; None for the best."""
        if self.design is None:
            return None
        try:
            self.regression(players, self.design, n_samples)
        except ArgumentError:
            return None
        return self.design


def count_coalitions(players: int) -> int | None:
    """How many there are, if they are few enough to count."""
    return 1 << players if players < 63 else None
