"""Latency of one row in production: exported and compiled against the model alone, Captum and shap.

Medians and 99th percentiles in microseconds. Calls come in bursts, as a service has them, and
competitors burst by burst in turn; the first calls of a burst, with another's data in the caches,
do not count. Yardsticks: for Integrated Gradients the model's eager forward pass of that row; for
KernelShap a forward pass of as many rows as there are coalitions, compiled like the package.
Results are compared before they are timed; shap draws other coalitions and is only held to the same
target, where it does not select features (its default does, which takes it longer).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from random import Random
from statistics import quantiles

import models
import numpy as np
import pytest
import torch
from interleave import Competitor, differences
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn

import fastxai

N_STEPS = 16
N_SAMPLES = 512
BURST, WARM_UP = 25, 5
TABULAR = "tabular MLP 30-64-64-2"


def in_bursts(
    competitors: Sequence[Competitor], rounds: int, random: Random
) -> dict[str, list[float]]:
    """Seconds of every call by name, without the first of each burst."""
    seconds: dict[str, list[float]] = {competitor.name: [] for competitor in competitors}
    for _ in range(rounds):
        for competitor in random.sample(competitors, len(competitors)):
            burst = [competitor.seconds() for _ in range(BURST)]
            seconds[competitor.name] += burst[WARM_UP:]
    return seconds


def record(
    benchmark: BenchmarkFixture,
    competitors: Sequence[Competitor],
    case: str,
    tolerances: dict[str, float],
    rounds: int,
) -> None:
    """Median and 99th percentile of everyone; the first is the yardstick."""
    with torch.no_grad():
        off = differences(competitors)
    for name, tolerance in tolerances.items():
        assert off[name] <= tolerance, f"{name} is off by {off[name]:.1e}"

    def measure() -> dict[str, list[float]]:
        seconds = in_bursts(competitors, rounds, Random(0))
        cuts = {name: quantiles(times, n=100) for name, times in seconds.items()}
        return {name: [1e6 * cut[49], 1e6 * cut[98]] for name, cut in cuts.items()}

    if benchmark.disabled:
        return
    benchmark.extra_info.update(case=case, microseconds=benchmark.pedantic(measure))


def packaged(explainer: fastxai.attr.Attribution, x: Tensor, path: Path, **arguments: object):
    sha256 = fastxai.export(explainer, x, path, **arguments)
    return fastxai.load(path, sha256=sha256)


def compiled(model: nn.Module, rows: Tensor, path: Path):
    """The model alone, for these rows, by the compiler that packages come from."""
    from torch._inductor import aoti_compile_and_package, aoti_load_package

    program = torch.export.export(model, (rows,))
    aoti_compile_and_package(program, package_path=str(path))
    run = aoti_load_package(str(path)).loader.run

    def call() -> None:
        run([rows])

    return call


@pytest.mark.benchmark(group="One row in production")
def test_integrated_gradients(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    captum = pytest.importorskip("captum.attr")
    model, x, target = models.load(TABULAR, 1)
    ours, theirs = fastxai.IntegratedGradients(model), captum.IntegratedGradients(model)
    package = packaged(ours, x, tmp_path / "ig.pt2", target="argmax", n_steps=N_STEPS)
    for_one_row = ours.compile(x, target="argmax", n_steps=N_STEPS)

    @torch.no_grad()
    def forward() -> None:
        model(x)

    record(
        benchmark,
        [
            Competitor("model alone", forward),
            Competitor("package", lambda: package(x).attributions),
            Competitor("compiled", lambda: for_one_row(x).attributions),
            Competitor("fastxai", lambda: ours.attribute(x, target=target, n_steps=N_STEPS)),
            Competitor("Captum", lambda: theirs.attribute(x, target=target, n_steps=N_STEPS)),
        ],
        f"IntegratedGradients, {N_STEPS} steps",
        {"fastxai": 1e-5, "Captum": 1e-5},
        rounds=100,
    )


@pytest.mark.benchmark(group="One row in production")
def test_kernel_shap(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    shap = pytest.importorskip("shap")
    model, x, target = models.load(TABULAR, 1)
    options = {"n_samples": N_SAMPLES, "seed": 0}
    ours = fastxai.KernelShap(model)
    package = packaged(ours, x, tmp_path / "shap.pt2", target="argmax", **options)
    for_one_row = ours.compile(x, target="argmax", **options)

    @torch.no_grad()
    def in_numpy(rows: np.ndarray) -> np.ndarray:
        return model(torch.from_numpy(rows).float())[:, target[0]].numpy()

    explainer = shap.KernelExplainer(in_numpy, np.zeros((1, x.shape[1]), np.float32))

    def theirs(**selection: object) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = explainer.shap_values(x.numpy(), nsamples=N_SAMPLES, silent=True, **selection)
        return torch.from_numpy(found).float()

    record(
        benchmark,
        [
            Competitor(
                "model alone",
                compiled(model, torch.randn(N_SAMPLES, x.shape[1]), tmp_path / "bare.pt2"),
            ),
            Competitor("package", lambda: package(x).attributions),
            Competitor("compiled", lambda: for_one_row(x).attributions),
            Competitor("fastxai", lambda: ours.attribute(x, target=target, **options)),
            Competitor("shap", theirs),
            Competitor("shap, no selection", lambda: theirs(l1_reg=False)),
        ],
        f"KernelShap, {N_SAMPLES} coalitions",
        {"fastxai": 1e-4, "shap, no selection": 0.5},
        rounds=30,
    )


@pytest.mark.benchmark(group="One row in production")
def test_wide_first_layer(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    model, x, target = models.load("wide MLP 10000-256-64-2", 1)
    groups = torch.arange(x.shape[1])[None] // 100
    options = {"n_samples": N_SAMPLES, "seed": 0, "feature_mask": groups}
    ours, without = fastxai.KernelShap(model), fastxai.KernelShap(model, affine_prefix=False)
    package = packaged(ours, x, tmp_path / "shap.pt2", target="argmax", **options)
    plain = packaged(without, x, tmp_path / "plain.pt2", target="argmax", **options)
    rows = torch.randn(N_SAMPLES, x.shape[1])
    record(
        benchmark,
        [
            Competitor("model alone", compiled(model, rows, tmp_path / "bare.pt2")),
            Competitor("package, no affine prefix", lambda: plain(x).attributions),
            Competitor("package", lambda: package(x).attributions),
            Competitor("fastxai", lambda: ours.attribute(x, target=target, **options)),
        ],
        f"KernelShap, wide MLP, {N_SAMPLES} coalitions",
        {"package": 1e-4, "fastxai": 1e-4},
        rounds=5,
    )
