"""GradientShap and NoiseTunnel against the model's own time, and Captum.

Ratios are to "bare": forward and backward passes over the same number of rows, nothing else, in
the chunk that was fastest when searched. Everyone draws samples of their own, so results are
compared with the mean of many samples before anything is timed; fastxai runs at its defaults.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import models
import pytest
import torch
from competitors import Bare, chunk_sizes, fastxai_name, with_and_without_kernels
from interleave import Competitor, fastest_chunk, record
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn

import fastxai

N_SAMPLES, N_BASELINES = 50, 10
MLP, RESNET, TRANSFORMER, TABULAR, _ = models.MODELS
CASES = [(MLP, 32), (models.trainable(MLP), 32), (MLP, 1), (TRANSFORMER, 8), (TABULAR, 256)]
STDEVS = {"no noise": 0.0, "noise": 0.1}


def background(inputs: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(N_BASELINES, *inputs.shape[1:], generator=generator)
    return rows.to(inputs.device)


def competitors(
    model: nn.Module,
    inputs: Tensor,
    target: Tensor,
    ours: Callable[[], Tensor],
    theirs: Callable[[], Tensor],
    exact: Tensor,
) -> list[Competitor]:
    """Bare, Captum and fastxai; both are held to the exact result, within half of its norm."""
    bare = Bare(model, inputs, target, N_SAMPLES)
    chunks = set(chunk_sizes(len(inputs), N_SAMPLES).values())
    best = fastest_chunk(lambda chunk: lambda: bare(chunk), chunks)
    found = [Competitor("bare", lambda: bare(best))]
    explainers = [ours]
    if find_spec("captum"):
        explainers.append(theirs)
        found.append(Competitor("Captum", lambda: _no_result(theirs)))
    for explain in explainers:
        error = (explain() - exact).norm() / exact.norm()
        assert error < 0.5, f"off by {error:.1e}"
    return found + with_and_without_kernels(ours)


def _no_result(explain: Callable[[], Tensor]) -> None:
    explain()


@pytest.mark.parametrize("noise", STDEVS)
@pytest.mark.parametrize(("name", "batch"), CASES)
@pytest.mark.benchmark(group="GradientShap: time")
def test_gradient_shap(benchmark: BenchmarkFixture, name: str, batch: int, noise: str) -> None:
    model, inputs, target = models.load(name, batch)
    baselines, stdev = background(inputs), STDEVS[noise]
    ours = fastxai.GradientShap(model)

    def explain(n_samples: int = N_SAMPLES) -> Tensor:
        return ours.attribute(inputs, baselines, n_samples, stdev, target, seed=1)

    def theirs() -> Tensor:
        from captum.attr import GradientShap

        return GradientShap(model).attribute(inputs, baselines, N_SAMPLES, stdev, target)

    record(
        benchmark,
        competitors(model, inputs, target, explain, theirs, explain(40 * N_SAMPLES)),
        case=f"{name}, batch {batch}, {noise}",
        target=fastxai_name(),
        reference="bare",
        tolerance=1e-4,
    )


@pytest.mark.parametrize("method", ["Saliency", "InputXGradient"])
@pytest.mark.parametrize(("name", "batch"), CASES)
@pytest.mark.benchmark(group="NoiseTunnel: time")
def test_noise_tunnel(benchmark: BenchmarkFixture, name: str, batch: int, method: str) -> None:
    model, inputs, target = models.load(name, batch)
    ours = fastxai.NoiseTunnel(getattr(fastxai, method)(model))

    def explain(n_samples: int = N_SAMPLES) -> Tensor:
        return ours.attribute(inputs, nt_samples=n_samples, stdevs=0.1, target=target, seed=1)

    def theirs() -> Tensor:
        from captum import attr

        tunnel = attr.NoiseTunnel(getattr(attr, method)(model))
        return tunnel.attribute(inputs, nt_samples=N_SAMPLES, stdevs=0.1, target=target)

    record(
        benchmark,
        competitors(model, inputs, target, explain, theirs, explain(10 * N_SAMPLES)),
        case=f"{method}, {name}, batch {batch}",
        target=fastxai_name(),
        reference="bare",
        tolerance=1e-4,
    )


@pytest.mark.parametrize("n_samples", [10, 50, 200])
@pytest.mark.benchmark(group="GradientShap: error of n samples, as a share of the exact result")
def test_error(benchmark: BenchmarkFixture, n_samples: int) -> None:
    """Against Integrated Gradients averaged over the baselines; independent samples beside."""
    model, inputs, target = models.load(MLP, 8)
    baselines = background(inputs)
    integrated = fastxai.IntegratedGradients(model)
    each = [integrated.attribute(inputs, b[None], target, n_steps=300) for b in baselines]
    exact = torch.stack(each).mean(0)
    ours = fastxai.GradientShap(model)

    def independent(seed: int) -> Tensor:
        """One sample a seed: nothing is stratified."""
        runs = [
            ours.attribute(inputs, baselines, 1, target=target, seed=seed * n_samples + n)
            for n in range(n_samples)
        ]
        return torch.stack(runs).mean(0)

    def stratified(seed: int) -> Tensor:
        return ours.attribute(inputs, baselines, n_samples, target=target, seed=seed)

    def errors() -> dict[str, float]:
        return {
            name: torch.stack([(run(seed) - exact).norm() for seed in range(5)]).mean().item()
            / exact.norm().item()
            for name, run in (("independent", independent), ("fastxai", stratified))
        }

    benchmark.extra_info.update(
        case=f"{MLP}, {n_samples} samples, {N_BASELINES} baselines",
        errors=benchmark.pedantic(errors),
    )
