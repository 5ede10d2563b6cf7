"""DeepLift, DeepLiftShap and GuidedBackprop against the model's own time and Captum.

Ratios are to "bare": one forward and backward pass over the input rows and the baseline rows that a
method compares, pair by pair, and nothing else. Captum is left out where its numbers do not add up
(see :class:`fastxai.DeepLift`). Results are compared before they are timed.
"""

from __future__ import annotations

import warnings
from importlib.util import find_spec

import models
import pytest
import torch
from competitors import compare
from interleave import Competitor, fastest_chunk
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn

import fastxai

MLP, RESNET, TRANSFORMER, *_ = models.MODELS
BASELINES = 10


def bare(model: nn.Module, rows: Tensor, target: Tensor) -> Competitor:
    """The model's own forward and backward pass over the rows, in the fastest chunk."""

    def run(chunk: int) -> None:
        for part, chosen in zip(rows.split(chunk), target.split(chunk), strict=True):
            leaf = part.detach().requires_grad_()
            torch.autograd.grad(model(leaf).gather(1, chosen[:, None]).sum(), leaf)

    chunks = sorted({-(-len(rows) // count) for count in (1, 2, 4, 8)})
    best = fastest_chunk(lambda chunk: lambda: run(chunk), chunks)
    return Competitor("bare", lambda: run(best))


def captum(method: str, model: nn.Module, *arguments: Tensor, target: Tensor) -> list[Competitor]:
    if not find_spec("captum"):
        return []
    import captum.attr

    theirs = getattr(captum.attr, method)(model)

    def explain() -> Tensor:
        leaf = arguments[0].clone().requires_grad_()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found: Tensor = theirs.attribute(leaf, *arguments[1:], target=target)
        return found.detach()

    return [Competitor("Captum", explain)]


@pytest.mark.parametrize(
    ("name", "batch", "captum_adds_up"),
    [
        *((MLP, 32, True), (models.trainable(MLP), 32, True)),
        *((RESNET, 1, False), (TRANSFORMER, 8, False)),
    ],
)
@pytest.mark.benchmark(group="DeepLift: time")
def test_deep_lift(
    benchmark: BenchmarkFixture, name: str, batch: int, captum_adds_up: bool
) -> None:
    model, inputs, target = models.load(name, batch)
    theirs = captum("DeepLift", model, inputs, target=target) if captum_adds_up else []
    ours = fastxai.DeepLift(model)
    compare(
        benchmark,
        f"{name}, batch {batch}",
        bare(model, torch.cat([inputs, torch.zeros_like(inputs)]), target.repeat(2)),
        theirs,
        lambda: ours.attribute(inputs, target=target),
    )


@pytest.mark.parametrize("name", [MLP, models.trainable(MLP)])
@pytest.mark.benchmark(group="DeepLiftShap: time")
def test_deep_lift_shap(benchmark: BenchmarkFixture, name: str) -> None:
    model, inputs, target = models.load(name, 32)
    baselines = 0.1 * inputs[:BASELINES].flip(1)
    ours = fastxai.DeepLiftShap(model)
    pairs = torch.cat([inputs.repeat_interleave(BASELINES, 0), baselines.repeat(len(inputs), 1)])
    compare(
        benchmark,
        f"{name}, batch {len(inputs)}, {BASELINES} baselines",
        bare(model, pairs, target.repeat(2 * BASELINES)),
        captum("DeepLiftShap", model, inputs, baselines, target=target),
        lambda: ours.attribute(inputs, baselines, target=target),
    )


@pytest.mark.parametrize("name", [RESNET, models.trainable(RESNET)])
@pytest.mark.benchmark(group="GuidedBackprop: time")
def test_guided_backprop(benchmark: BenchmarkFixture, name: str) -> None:
    model, inputs, target = models.load(name, 1)
    for module in model.modules():  # Captum needs a ReLU of its own for each use
        if isinstance(module, models.BasicBlock):
            module.relu = nn.ReLU()
    ours = fastxai.GuidedBackprop(model)
    compare(
        benchmark,
        f"{name}, batch 1",
        bare(model, inputs, target),
        captum("GuidedBackprop", model, inputs, target=target),
        lambda: ours.attribute(inputs, target=target),
    )
