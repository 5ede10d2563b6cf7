"""Permutation importance beside scikit-learn's, of boosted trees and of an MLP.

Ratios are to "bare": the estimator's own ``predict`` for as many rows, in the chunk that was
fastest when searched. Both score accuracy, with the same shuffles, and are equal to the last bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from competitors import fastxai_name
from interleave import Competitor, fastest_chunk, record
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

import fastxai

ROWS, COLUMNS, REPEATS = 2000, 30, 5
CHUNKS = (10_000, 50_000, 150_000, 300_000)


def fitted(kind: str, rows: np.ndarray, labels: np.ndarray) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.neural_network import MLPClassifier

    if kind == "MLP 30-64-64-2":
        model: Any = MLPClassifier((64, 64), max_iter=20, random_state=0)
    else:
        model = HistGradientBoostingClassifier(random_state=0)
    return model.fit(rows, labels)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("kind", ["HistGradientBoosting", "MLP 30-64-64-2"])
@pytest.mark.benchmark(
    group="permutation importance of 30 columns, 2,000 rows, 5 repeats, accuracy: time"
)
def test_permutation_importance(benchmark: BenchmarkFixture, kind: str) -> None:
    from sklearn.inspection import permutation_importance

    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, COLUMNS))
    labels = (x[:, 0] + x[:, 1] * x[:, 2] > 0).astype(int)
    model = fitted(kind, x, labels)
    count = ROWS * (COLUMNS * REPEATS + 1)
    many = np.resize(x, (count, COLUMNS))

    def bare(chunk: int) -> None:
        for first in range(0, count, chunk):
            model.predict(many[first : first + chunk])

    def importances(function: Any) -> Tensor:
        found = function(model, x, labels, n_repeats=REPEATS, random_state=0)
        return torch.from_numpy(found.importances)

    best = fastest_chunk(lambda chunk: lambda: bare(chunk), CHUNKS)
    record(
        benchmark,
        [
            Competitor("bare", lambda: bare(best)),
            Competitor("scikit-learn", lambda: importances(permutation_importance)),
            Competitor(fastxai_name(), lambda: importances(fastxai.permutation_importance)),
        ],
        case=kind,
        target=fastxai_name(),
        reference="bare",
        tolerance=0,
        fewest=3,  # scikit-learn takes many seconds on busy cores
    )
