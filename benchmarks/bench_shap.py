"""fastxai.shap's explainers beside shap's, of an MLP as numpy function and as module.

Ratios are to "bare": the model's own time for as many rows, in the chunk that was fastest when
searched: its forward pass for Kernel, Exact and Permutation, which take 100 model rows for each
coalition, forward and backward for Deep (a pair of rows for each background row, all outputs in one
pass) and Gradient. Both explain all outputs, with as many coalitions or samples. shap runs without
selection of features (``l1_reg=False``); fastxai runs at its defaults.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import models
import numpy as np
import pytest
import torch
from competitors import fastxai_name, with_and_without_kernels
from interleave import Competitor, fastest_chunk, record
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn

import fastxai.shap

TABULAR = "tabular MLP 30-64-64-2"
CHUNKS = (1000, 3000, 10_000, 30_000)
SEARCHED = (
    60_000  # rows at most in the search for the fastest chunk, which has twelve calls or more
)
BACKGROUND = 100
Function = Callable[[Any], Any]
Bare = Callable[[int], None]  # takes the rows of a chunk


def numpy_function(module: nn.Module) -> Function:
    """The MLP in numpy, in float64."""
    layers = [m for m in module.modules() if isinstance(m, nn.Linear)]
    arrays = [[p.detach().double().numpy() for p in (m.weight.T, m.bias)] for m in layers]

    def function(x: Any) -> Any:
        for i, (weight, bias) in enumerate(arrays):
            x = x @ weight + bias
            x = x if i == len(arrays) - 1 else np.maximum(x, 0)
        return x

    return function


def compare(
    benchmark: BenchmarkFixture,
    case: str,
    bare_over: Callable[[Any], Bare],
    rows: Any,  # [n, F]
    chunks: Iterable[int],
    theirs: Callable[[], Any],
    ours: Callable[[], Any],
    tolerance: float,
) -> None:
    """Bare, shap and fastxai, which return values [B, F, C]."""
    few, bare = bare_over(rows[:SEARCHED]), bare_over(rows)
    best = fastest_chunk(lambda chunk: lambda: few(chunk), chunks)
    record(
        benchmark,
        [
            Competitor("bare", lambda: bare(best)),
            Competitor("shap", lambda: torch.as_tensor(theirs()).double()),
            *with_and_without_kernels(lambda: torch.as_tensor(ours()).double()),
        ],
        case=case,
        target=fastxai_name(),
        reference="bare",
        tolerance=tolerance,
        fewest=3,  # shap takes a quarter of a minute for some
    )


def forward(function: Function, rows: Any) -> Bare:
    def bare(chunk: int) -> None:
        for first in range(0, len(rows), chunk):
            function(rows[first : first + chunk])

    return bare


def forward_and_backward(module: nn.Module, rows: Tensor) -> Bare:
    def bare(chunk: int) -> None:
        for part in rows.split(chunk):
            part = part.detach().requires_grad_()
            torch.autograd.grad(module(part).sum(), part)

    return bare


def data(batch: int, features: int = 30) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(batch, features)), rng.normal(size=(BACKGROUND, features))


@pytest.mark.parametrize("batch", [1, 10])
@pytest.mark.parametrize("form", ["numpy function", "torch module"])
@pytest.mark.benchmark(
    group="shap's KernelExplainer of an MLP 30-64-64-2, 100 background rows, 2,108 samples: time"
)
def test_kernel(benchmark: BenchmarkFixture, form: str, batch: int) -> None:
    import shap

    module = models.load(TABULAR, batch)[0]
    x, background = data(batch)
    count = 2108 * BACKGROUND * batch

    @torch.no_grad()
    def of_tensors(rows: Any) -> Any:
        return module(torch.as_tensor(rows, dtype=torch.float32)).numpy()

    function, explained = numpy_function(module), numpy_function(module)
    rows: Any = np.resize(background, (count, 30))
    if form == "torch module":
        function, explained, rows = of_tensors, module, torch.from_numpy(rows).float()
    theirs = shap.KernelExplainer(function, background)
    ours = fastxai.shap.KernelExplainer(explained, background, seed=0)
    compare(
        benchmark,
        f"{form}, {batch} rows",
        partial(forward, function),
        rows,
        CHUNKS,
        lambda: theirs.shap_values(x, l1_reg=False, silent=True),
        lambda: ours.shap_values(x, silent=True),
        tolerance=1e-1,  # two samples of the same least squares problem
    )


@pytest.mark.parametrize("kind", ["Exact", "Permutation"])
@pytest.mark.benchmark(
    group="shap's explainers over maskers, an MLP 10-64-64-2, 100 background rows, 5 rows: time"
)
def test_maskers(benchmark: BenchmarkFixture, kind: str) -> None:
    import shap

    torch.manual_seed(0)
    function = numpy_function(
        nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    )
    x, background = data(5, 10)
    coalitions = 1024 if kind == "Exact" else 500 // 21 * 18 + 2
    rows = np.resize(background, (coalitions * BACKGROUND * len(x), 10))
    masker = shap.maskers.Independent(background)
    theirs = getattr(shap, f"{kind}Explainer")(function, masker)
    ours = getattr(fastxai.shap, f"{kind}Explainer")(function, background)
    compare(
        benchmark,
        f"{kind}Explainer",
        partial(forward, function),
        rows,
        CHUNKS,
        lambda: theirs(x, silent=True).values,
        lambda: ours(x, silent=True).values,
        tolerance=1e-9 if kind == "Exact" else 1e-1,
    )


@pytest.mark.parametrize("kind", ["Deep", "Gradient"])
@pytest.mark.benchmark(
    group="shap's explainers by gradients, an MLP 30-64-64-2, 100 background rows, 10 rows: time"
)
def test_gradients(benchmark: BenchmarkFixture, kind: str) -> None:
    import shap

    module = models.load(models.trainable(TABULAR), 10)[0]
    x, background = (torch.from_numpy(a).float() for a in data(10))
    options = {} if kind == "Deep" else {"nsamples": 200, "rseed": 0}
    count = 10 * (BACKGROUND if kind == "Deep" else 200)
    theirs = getattr(shap, f"{kind}Explainer")(module, background)
    ours = getattr(fastxai.shap, f"{kind}Explainer")(module, background)
    compare(
        benchmark,
        f"{kind}Explainer",
        partial(forward_and_backward, module),
        torch.randn(count, 30),
        (250, 500, 1000, 2000),
        lambda: theirs.shap_values(x, **options),
        lambda: ours.shap_values(x, **options),
        tolerance=1e-4 if kind == "Deep" else 0.5,  # two samples of 200
    )
