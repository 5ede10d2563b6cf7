"""Infidelity and maximum sensitivity against the model's own time and Captum.

"bare" is what no one can do without, in the chunk that was fastest when searched: for infidelity
the draws of the user's function and the model's forward pass over the rows, for sensitivity the
forward and backward passes. "Captum tuned" is Captum with the fastest ``max_examples_per_batch``;
fastxai runs at its defaults. Both sensitivities are of fastxai's Saliency, at the same rows, and
results are compared before they are timed.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec

import models
import pytest
import torch
from competitors import fastxai_name, with_and_without_kernels
from interleave import Competitor, fastest_chunk, record
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

import fastxai

MLP, BATCH = "MLP 784-512-256-10", 32
PARTS = (1, 2, 4, 10)


def fixed(rows: Tensor) -> tuple[Tensor, Tensor]:
    """A perturbation of the row alone, so that all see the same whatever their chunks."""
    change = 0.1 * torch.sin(30 * rows)
    return change, rows - change


def competitors(
    bare: Callable[[int], None], measure: Callable[[str, int | None], Tensor], samples: int
) -> list[Competitor]:
    """bare first, then Captum, fastxai last; ``bare`` takes repeats of the batch a call.

    ``measure`` takes the library and ``max_examples_per_batch``.
    """
    chunks = sorted({-(-samples // parts) for parts in PARTS})
    best = fastest_chunk(lambda chunk: lambda: bare(chunk), chunks)
    found = [Competitor("bare", lambda: bare(best))]
    if find_spec("captum"):
        tuned = fastest_chunk(lambda chunk: lambda: measure("captum", chunk * BATCH), chunks)
        found.append(Competitor("Captum", lambda: measure("captum", None)))
        found.append(Competitor("Captum tuned", lambda: measure("captum", tuned * BATCH)))
    return found + with_and_without_kernels(lambda: measure("fastxai", None))


@pytest.mark.parametrize("name", [MLP, models.trainable(MLP)])
@pytest.mark.parametrize("samples", [100])
@pytest.mark.benchmark(group="Infidelity: time")
def test_infidelity(benchmark: BenchmarkFixture, name: str, samples: int) -> None:
    model, inputs, target = models.load(name, BATCH)
    values = fastxai.InputXGradient(model).attribute(inputs, target)

    @torch.no_grad()
    def bare(chunk: int) -> None:
        for _ in range(0, samples, chunk):
            model(fixed(inputs.repeat(chunk, 1))[1])

    def measure(library: str, limit: int | None) -> Tensor:
        return import_module(f"{library}.metrics").infidelity(
            model,
            fixed,
            inputs,
            values,
            target=target,
            n_perturb_samples=samples,
            max_examples_per_batch=limit,
        )

    record(
        benchmark,
        competitors(bare, measure, samples),
        case=f"{name}, batch {BATCH}, {samples} samples",
        target=fastxai_name(),
        reference="bare",
        tolerance=1e-4,
    )


@pytest.mark.parametrize("name", [MLP, models.trainable(MLP)])
@pytest.mark.parametrize("samples", [10])
@pytest.mark.benchmark(group="Maximum sensitivity of Saliency: time")
def test_sensitivity_max(benchmark: BenchmarkFixture, name: str, samples: int) -> None:
    model, inputs, target = models.load(name, BATCH)
    explain = fastxai.Saliency(model).attribute

    def bare(chunk: int) -> None:
        for repeats in (1, *[chunk] * -(-samples // chunk)):
            rows = fixed(inputs.repeat(repeats, 1))[1].requires_grad_()
            output = model(rows).gather(1, target.repeat(repeats)[:, None]).sum()
            torch.autograd.grad(output, rows)

    def measure(library: str, limit: int | None) -> Tensor:
        return import_module(f"{library}.metrics").sensitivity_max(
            explain,
            inputs,
            lambda rows: fixed(rows)[1],
            n_perturb_samples=samples,
            max_examples_per_batch=limit,
            target=target,
        )

    record(
        benchmark,
        competitors(bare, measure, samples),
        case=f"{name}, batch {BATCH}, {samples} samples",
        target=fastxai_name(),
        reference="bare",
        tolerance=1e-4,
    )
