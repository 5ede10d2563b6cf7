"""Inputs that equal their baseline in many places: digits, padded sentences, a one-hot table.

Ratios are to "bare": forward passes alone over as many rows as would be needed if every feature
differed from the baseline, in the chunk that was fastest when searched. "all play" is fastxai
without regard to who differs; "Captum tuned" is Captum with its fastest ``perturbations_per_eval``.
The weights are frozen, as in production. Before anything is timed, features that equal the baseline
must have exactly zero, ablation must be Captum's, and Shapley values must add up. The last table is
of errors with the same samples: |φ̂ − φ|² / |φ|², against all coalitions of those that differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from typing import Any
from unittest import mock

import models
import pytest
import torch
from competitors import bare_forward, fastxai_name, with_and_without_kernels
from interleave import Competitor, fastest_chunk, record
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn

import fastxai
from fastxai.attr import ablation, kernel_shap, lime, shapley

ALL_PLAY = "all play"
CHUNKS = (1, 20, 100, 500)


class Sentences(nn.Module):
    """A two-layer encoder over ids of words, 0 where there is none: [B, 48] -> [B, 2]."""

    def __init__(self, words: int = 2000, tokens: int = 48, width: int = 64) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width, padding_idx=0)
        self.position = nn.Parameter(torch.randn(tokens, width) / 10)
        self.transformer = models.Transformer(width)

    def forward(self, ids: Tensor) -> Tensor:
        return self.transformer(self.embedding(ids) + self.position)


def digits(batch: int) -> tuple[nn.Module, Tensor]:
    """scikit-learn's handwritten digits in a black frame, about a third of 784 pixels not black."""
    from sklearn.datasets import load_digits

    small = torch.from_numpy(load_digits().images[:batch]).float()[:, None] / 16
    large = nn.functional.interpolate(small, size=(20, 20), mode="bilinear")
    x = nn.functional.pad(large, (4, 4, 4, 4)).flatten(1)
    return models.mlp(784, 512, 256, 10), torch.where(x > 0.2, x, 0)


def sentences(batch: int) -> tuple[nn.Module, Tensor]:
    """Ids of 48 words, of which 5 to 40 are there."""
    ids = torch.randint(1, 2000, (batch, 48))
    lengths = torch.randint(5, 41, (batch, 1))
    return Sentences(), torch.where(torch.arange(48) < lengths, ids, 0)


def one_hot(batch: int) -> tuple[nn.Module, Tensor]:
    """Eight categories of ten and six numbers: 86 features, 14 not zero."""
    categories = nn.functional.one_hot(torch.randint(10, (batch, 8)), 10).flatten(1)
    return models.mlp(86, 64, 64, 2), torch.cat([torch.randn(batch, 6), categories.float()], 1)


TABLES = {"digits": (digits, 4), "padded sentences": (sentences, 8), "one-hot table": (one_hot, 16)}
# Options, and model rows for an example if all of its M features play.
METHODS: dict[str, tuple[dict[str, object], Callable[[int], int]]] = {
    "KernelShap": ({"n_samples": 1000}, lambda m: 1000),
    "ShapleyValueSampling": ({"n_samples": 4}, lambda m: 4 * (m - 1) + 2),
    "Lime": ({"n_samples": 500}, lambda m: 501),
    "FeatureAblation": ({}, lambda m: m + 1),
}


def load(name: str) -> tuple[nn.Module, Tensor]:
    make, batch = TABLES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, x = make(batch)
    return model.eval().requires_grad_(False), x


@contextmanager
def all_play() -> Iterator[None]:
    """Takes every feature for one that differs from its baseline."""
    with ExitStack() as stack:
        for module in (ablation, kernel_shap, lime, shapley):
            patch = mock.patch.object(module, "groups_that_vary", lambda query, groups: None)
            stack.enter_context(patch)
        yield


def check(model: nn.Module, x: Tensor, method: str, found: Tensor) -> None:
    assert (found[x == 0] == 0).all(), "a feature that equals the baseline has a value"
    if "Shap" in method:
        difference = (model(x) - model(torch.zeros_like(x)))[:, 1]
        torch.testing.assert_close(found.sum(1), difference, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", TABLES)
@pytest.mark.benchmark(group="Features that equal the baseline: time")
def test_players(benchmark: BenchmarkFixture, name: str, method: str) -> None:
    model, x = load(name)
    options, rows = METHODS[method]
    count = rows(x.shape[1]) * len(x)
    seed = {} if method == "FeatureAblation" else {"seed": 0}
    fits = {}
    if method == "Lime":  # with Captum's default penalty most coefficients would be zero
        fits = {"interpretable_model": fastxai.attr.Lasso(alpha=1e-4)}
    explainer = getattr(fastxai.attr, method)(model, **fits)

    def ours() -> Tensor:
        return explainer.attribute(x, target=1, **options, **seed)

    check(model, x, method, ours())
    run = bare_forward(model, x, count)
    chunks = sorted({-(-count // parts) for parts in (1, 2, 4, 8, 16, 64)})
    best = fastest_chunk(lambda chunk: lambda: run(chunk), chunks)
    competitors = [Competitor("bare", lambda: run(best))]
    if find_spec("captum"):
        theirs: Any = captum_explainer(method, model)

        def captum(chunk: int) -> Tensor:
            return theirs.attribute(x, target=1, perturbations_per_eval=chunk, **options)

        if method == "FeatureAblation":
            torch.testing.assert_close(ours(), captum(20), rtol=1e-3, atol=1e-5)
        tuned = fastest_chunk(lambda chunk: lambda: _no_result(captum, chunk), CHUNKS)
        competitors.append(Competitor("Captum tuned", lambda: _no_result(captum, tuned)))
    competitors.append(Competitor(ALL_PLAY, lambda: _no_result(lambda _: ours(), 0), all_play))
    record(
        benchmark,
        competitors + with_and_without_kernels(ours),
        case=f"{method}, {name}, {count:,} rows",
        target=fastxai_name(),
        reference="bare",
        tolerance=1e-4,
    )


@pytest.mark.parametrize("name", ["padded sentences", "one-hot table"])
@pytest.mark.parametrize("samples", [200, 1000])
@pytest.mark.benchmark(group="Features that equal the baseline: error of KernelShap")
def test_error(benchmark: BenchmarkFixture, name: str, samples: int) -> None:
    model, x = load(name)
    if name == "padded sentences":  # whose exact values can be had in no time
        x = torch.where(torch.arange(48) < torch.arange(5, 13)[:, None], x, 0)
    ours = fastxai.attr.KernelShap(model)
    truth = fastxai.attr.ShapleyValues(model).attribute(x, target=1).double()

    def error(found: Tensor) -> float:
        return float(((found - truth).square().sum(1) / truth.square().sum(1)).mean())

    def explain(seed: int) -> Tensor:
        return ours.attribute(x, target=1, n_samples=samples, tier="fast", seed=seed)

    def errors() -> dict[str, float]:
        found = {fastxai_name(): sum(error(explain(seed)) for seed in range(5)) / 5}
        with all_play():
            found = {ALL_PLAY: sum(error(explain(seed)) for seed in range(5)) / 5, **found}
        if not find_spec("captum"):
            return found
        torch.manual_seed(0)
        theirs: Any = captum_explainer("KernelShap", model)
        options = {"n_samples": samples, "perturbations_per_eval": 100}
        return {"Captum": error(theirs.attribute(x, target=1, **options)), **found}

    benchmark.extra_info.update(
        case=f"{name}, {x.shape[1]} features, {len(x)} rows, {samples} samples",
        errors=benchmark.pedantic(errors),
    )


def captum_explainer(method: str, model: nn.Module) -> object:
    import captum.attr

    if method != "Lime":
        return getattr(captum.attr, method)(model)
    from captum._utils.models.linear_model import SkLearnLasso

    return captum.attr.Lime(model, interpretable_model=SkLearnLasso(alpha=1e-4))


def _no_result(explain: Callable[[int], Tensor], chunk: int) -> None:
    explain(chunk)
