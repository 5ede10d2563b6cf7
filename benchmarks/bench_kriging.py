"""KernelShap's fits to the values of coalitions: what each tier adds to the model's own time."""

from collections.abc import Callable

import pytest
import torch
from interleave import Competitor, record
from pytest_benchmark.fixture import BenchmarkFixture

from fastxai import ops
from fastxai.core.estimate.designs import kriging_design
from fastxai.core.estimate.kriging import Kriging
from fastxai.core.estimate.shapley_regression import ShapleyRegression


@pytest.mark.benchmark(group="KernelShap's fits with standard errors: time")
@pytest.mark.parametrize(
    ("players", "n_samples", "rows"), [(30, 240, 1), (30, 240, 64), (49, 490, 1), (49, 800, 1)]
)
def test_fits(benchmark: BenchmarkFixture, players: int, n_samples: int, rows: int) -> None:
    design = kriging_design(players, n_samples, 0)
    values = torch.randn(len(design.bits), rows, dtype=torch.float64)
    empty, full = torch.randn(2, rows, dtype=torch.float64)
    regression, kriging = ShapleyRegression(design), Kriging(design)

    def fast() -> torch.Tensor:
        moment = ops.coalition_rhs(design.bits, players, design.weights, values)
        phi = regression.solve(moment, full - empty)
        regression.standard_errors(values, full - empty, phi)
        return phi  # of another estimate than the others', and so not compared with them

    def by_kriging(own_scales: bool) -> Callable[[], None]:
        def solve() -> None:
            kriging.solve(values, empty, full, own_scales, True)

        return solve

    competitors = [
        Competitor("fast", fast),
        Competitor("shared", by_kriging(False)),
        Competitor("accurate", by_kriging(True)),
        Competitor("factor, once for a design", lambda: _nothing(Kriging(design))),
    ]
    record(
        benchmark,
        competitors,
        case=f"{n_samples} samples of {players} groups, {rows} {'row' if rows == 1 else 'rows'}",
        target="accurate",
        reference="fast",
        tolerance=0,
    )


def _nothing(result: object) -> None:
    """For competitors whose result is not to be compared."""
