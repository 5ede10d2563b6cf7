"""Integrated Gradients against the model's own time, Captum, and fastxai without its kernels.

Ratios are to "bare": forward and backward passes over the same number of rows, nothing else, in
the chunk that was fastest when searched. "Captum tuned" is Captum with the fastest
``internal_batch_size``; fastxai runs at its defaults. Results are compared before they are timed.
"""

from __future__ import annotations

import memory
import models
import pytest
import torch
from competitors import chunk_sizes, fastxai_name, integrated_gradients
from interleave import Competitor, record
from pytest_benchmark.fixture import BenchmarkFixture

import fastxai

N_STEPS = 50
MLP, RESNET, TRANSFORMER, TABULAR, WIDE = models.MODELS


def tolerance(name: str) -> float:
    """Largest difference allowed between results, as a share of the largest attribution.

    Another chunk size rounds otherwise, and in a deep network a rounding error opens or closes
    a few ReLU and max-pooling gates.
    """
    return 1e-2 if name == RESNET else 1e-5


@pytest.mark.parametrize(
    ("name", "batch"),
    [
        *((MLP, 32), (models.trainable(MLP), 32), (MLP, 1), (WIDE, 8), (WIDE, 1)),
        *((RESNET, 1), (TRANSFORMER, 8), (TABULAR, 1), (TABULAR, 256)),
    ],
)
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
@pytest.mark.benchmark(group="Integrated Gradients: time")
def test_time(benchmark: BenchmarkFixture, name: str, batch: int, device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    model, inputs, target = models.load(name, batch, device)
    record(
        benchmark,
        integrated_gradients(model, inputs, target, n_steps=N_STEPS),
        case=f"{name}, batch {batch}{', cuda' if device == 'cuda' else ''}",
        target=fastxai_name(),
        reference="bare",
        tolerance=tolerance(name),
    )


@pytest.mark.parametrize(("name", "batch"), [(MLP, 32), (RESNET, 1)])
@pytest.mark.benchmark(group="Integrated Gradients: fixed chunks against the default")
def test_chunk(benchmark: BenchmarkFixture, name: str, batch: int) -> None:
    model, inputs, target = models.load(name, batch)
    ours = fastxai.IntegratedGradients(model)

    def explain(label: str, chunk: int | None) -> Competitor:
        return Competitor(
            label,
            lambda: ours.attribute(
                inputs, target=target, n_steps=N_STEPS, internal_batch_size=chunk
            ),
        )

    fixed = [explain(f"in {n}", chunk) for n, chunk in chunk_sizes(batch, N_STEPS).items()]
    record(
        benchmark,
        [explain("default", None), *fixed],
        case=f"{name}, batch {batch}",
        target="default",
        reference="default",
        tolerance=tolerance(name),
    )


@pytest.mark.benchmark(group="Integrated Gradients: peak memory above the loaded model")
def test_memory(benchmark: BenchmarkFixture) -> None:
    runs = {"Captum": ("captum", N_STEPS), "fastxai": ("fastxai", N_STEPS)}
    runs[f"fastxai, {8 * N_STEPS} steps"] = ("fastxai", 8 * N_STEPS)

    def measure() -> dict[str, float]:
        return {label: memory.in_child(*run) for label, run in runs.items()}

    benchmark.extra_info.update(
        case=f"{memory.MODEL}, batch 1, {N_STEPS} steps", megabytes=benchmark.pedantic(measure)
    )
