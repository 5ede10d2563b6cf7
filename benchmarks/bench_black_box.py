"""KernelShap of functions that only numpy's arrays reach, and of an MLP as module and function.

Ratios are to "bare": the function's own time for as many rows, in the chunk that was fastest when
searched. shap evaluates the same number of coalitions over the same background, in one call for
each row, and fits them without selection (``l1_reg=False``). fastxai runs at its defaults.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import models
import numpy as np
import pytest
import torch
from competitors import fastxai_name, with_and_without_kernels
from interleave import Competitor, fastest_chunk, record
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

import fastxai

TABULAR = "tabular MLP 30-64-64-2"
Function = Callable[[Any], Any]  # of arrays [N, 30]
CHUNKS = (1000, 3000, 10_000, 30_000, 100_000)


def by_torch(predict: Function) -> Callable[[Tensor], Tensor]:
    """A function of arrays as one of tensors, which it leaves."""
    return lambda rows: torch.from_numpy(predict(rows.numpy()))


def compare(
    benchmark: BenchmarkFixture,
    case: str,
    predict: Function,
    explained: Callable[[Tensor], Tensor],
    inputs: Tensor,  # [B, 30]
    background: Tensor,  # [K, 30]
    n_samples: int,
    tolerance: float = 1e-1,  # two samples of the same least squares problem
) -> None:
    """Bare, shap and fastxai; all outputs are explained."""
    import shap

    count = n_samples * len(background) * len(inputs)
    some = torch.cat([background, inputs]).repeat(-(-count // (len(background) + len(inputs))), 1)
    rows = some[:count].numpy()

    def bare(chunk: int) -> None:
        for first in range(0, count, chunk):
            predict(rows[first : first + chunk])

    best = fastest_chunk(lambda chunk: lambda: bare(chunk), CHUNKS)
    theirs = shap.KernelExplainer(predict, background.numpy())
    ours = fastxai.KernelShap(explained)

    def explain_theirs() -> Tensor:
        # It adds the empty and the full coalition to those it is asked for.
        values = theirs.shap_values(
            inputs.numpy(), nsamples=n_samples - 2, l1_reg=False, silent=True
        )
        return torch.as_tensor(values).movedim(-1, 1).float()  # [B, C, F]

    def explain() -> Tensor:
        values = ours.attribute(inputs, background=background, n_samples=n_samples, seed=0)
        return values.float()

    record(
        benchmark,
        [
            Competitor("bare", lambda: bare(best)),
            Competitor("shap.KernelExplainer", explain_theirs),
            *with_and_without_kernels(explain),
        ],
        case=case,
        target=fastxai_name(),
        reference="bare",
        tolerance=tolerance,
    )


@pytest.mark.parametrize("batch", [1, 10])
@pytest.mark.parametrize("form", ["frozen module", "trainable module", "numpy function"])
@pytest.mark.benchmark(
    group="KernelShap of a tabular MLP 30-64-64-2, 100 background rows, 2,108 samples: time"
)
def test_mlp(benchmark: BenchmarkFixture, form: str, batch: int) -> None:
    name = models.trainable(TABULAR) if form == "trainable module" else TABULAR
    model, inputs, _ = models.load(name, batch)
    background = torch.randn(100, 30, generator=torch.Generator().manual_seed(1))

    @torch.no_grad()
    def predict(x: Any) -> Any:
        return model(torch.as_tensor(x, dtype=torch.float32)).numpy()

    explained = by_torch(predict) if form == "numpy function" else model
    compare(benchmark, f"{form}, {batch} rows", predict, explained, inputs, background, 2108)


def fitted(name: str) -> tuple[Function, Tensor]:
    """The probabilities that boosted trees give, and the data [569, 30] they were fitted to."""
    from sklearn.datasets import load_breast_cancer

    x, y = load_breast_cancer(return_X_y=True)
    if name == "LightGBM":
        from lightgbm import LGBMClassifier

        model = LGBMClassifier(random_state=0, verbose=-1)
    else:
        from sklearn import ensemble

        model = getattr(ensemble, name)(random_state=0)
    return model.fit(x, y).predict_proba, torch.from_numpy(np.ascontiguousarray(x))


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
@pytest.mark.parametrize(
    "name", ["GradientBoostingClassifier", "HistGradientBoostingClassifier", "LightGBM"]
)
@pytest.mark.benchmark(
    group="KernelShap of boosted trees on breast cancer, 50 background rows, 2,108 samples: time"
)
def test_trees(benchmark: BenchmarkFixture, name: str) -> None:
    predict, x = fitted(name)
    rows, background = x[100:104], x[::11][:50]
    # Trees jump: samples of this problem differ more.
    compare(benchmark, f"{name}, 4 rows", predict, by_torch(predict), rows, background, 2108, 2e-1)
