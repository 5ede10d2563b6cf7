"""fastxai.lime's explainer of tables beside lime's, of an MLP as numpy function.

Ratios are to "bare": the model's own forward pass over as many rows, in the chunk that was fastest
when searched. Both take 5,000 samples and explain one class of one row; both draw around the row
where nothing is cut into bins, as fastxai does by default.
"""

from __future__ import annotations

from typing import Any

import models
import numpy as np
import pytest
import torch
from bench_shap import TABULAR, forward, numpy_function
from competitors import fastxai_name, with_and_without_kernels
from interleave import Competitor, fastest_chunk, record
from pytest_benchmark.fixture import BenchmarkFixture

import fastxai.lime

FEATURES, SAMPLES = 30, 5000
CASES: dict[str, dict[str, Any]] = {
    "quartiles, 10 features": {"num_features": 10},
    "quartiles, 5 features": {"num_features": 5},
    "not discretised, 10 features": {"num_features": 10, "discretize_continuous": False},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.benchmark(
    group="lime's LimeTabularExplainer of an MLP 30-64-64-2, 5,000 samples, one row: time"
)
def test_tabular(benchmark: BenchmarkFixture, case: str) -> None:
    import lime.lime_tabular

    logits = numpy_function(models.load(TABULAR, 1)[0])

    def function(x: Any) -> Any:
        e = np.exp(logits(x))
        return e / e.sum(1, keepdims=True)

    options = dict(CASES[case])
    count = options.pop("num_features")
    rng = np.random.default_rng(0)
    training, row = rng.normal(size=(1000, FEATURES)), rng.normal(size=FEATURES)
    rows = np.resize(training, (SAMPLES, FEATURES))
    options |= {"sample_around_instance": True, "random_state": 0}
    theirs = lime.lime_tabular.LimeTabularExplainer(training, **options)
    ours = fastxai.lime.LimeTabularExplainer(training, **options)

    def weights(explainer: Any) -> torch.Tensor:
        """Of all features: those left out are zero."""
        found = np.zeros(FEATURES)
        explained = explainer.explain_instance(row, function, num_features=count)
        for feature, weight in explained.as_map()[1]:
            found[feature] = weight
        return torch.from_numpy(found)

    bare = forward(function, rows)
    best = fastest_chunk(lambda chunk: lambda: bare(chunk), (250, 500, 1000, 2500, 5000))
    record(
        benchmark,
        [
            Competitor("bare", lambda: bare(best)),
            Competitor("lime", lambda: weights(theirs)),
            *with_and_without_kernels(lambda: weights(ours)),
        ],
        case=case,
        target=fastxai_name(),
        reference="bare",
        tolerance=0.5,  # two samples, whose least features are others
        fewest=3,
    )
