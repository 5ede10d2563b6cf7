"""Methods of layers against the model's own time and Captum.

"bare" is, for Layer Integrated Gradients, forward and backward passes from the embeddings on over
the rows of the path, in the chunk that was fastest when searched; for Grad-CAM, one forward pass
and one backward pass to the layer. Results are compared before they are timed.
"""

from __future__ import annotations

from importlib.util import find_spec

import memory
import models
import pytest
import torch
from competitors import Bare, chunk_sizes, fastxai_name, with_and_without_kernels
from interleave import Competitor, fastest_chunk, record
from pytest_benchmark.fixture import BenchmarkFixture

import fastxai

N_STEPS = 50
RESNET = "ResNet-18 224²"


@pytest.mark.parametrize(("batch", "frozen"), [(1, True), (1, False), (4, True)])
@pytest.mark.benchmark(group="Layer Integrated Gradients: time")
def test_words(benchmark: BenchmarkFixture, batch: int, frozen: bool) -> None:
    model, ids, target = models.load_text(batch, frozen=frozen)
    with torch.no_grad():
        y, baseline = model.embedding(ids), model.embedding(torch.zeros_like(ids[:1]))
    bare = Bare(lambda x: model.on_embeddings(x + baseline), y - baseline, target, N_STEPS)
    chunks = set(chunk_sizes(batch, N_STEPS).values())
    best = fastest_chunk(lambda chunk: lambda: bare(chunk), chunks)
    competitors = [Competitor("bare", lambda: bare(best))]
    if find_spec("captum"):
        from captum.attr import LayerIntegratedGradients

        theirs = LayerIntegratedGradients(model, model.embedding)

        def explain(chunk: int | None) -> torch.Tensor:
            return theirs.attribute(ids, target=target, n_steps=N_STEPS, internal_batch_size=chunk)

        tuned = fastest_chunk(lambda chunk: lambda: explain(chunk), chunks)
        competitors += [
            Competitor("Captum", lambda: explain(None)),
            Competitor("Captum tuned", lambda: explain(tuned)),
        ]
    ours = fastxai.LayerIntegratedGradients(model, model.embedding)
    competitors += with_and_without_kernels(
        lambda: ours.attribute(ids, target=target, n_steps=N_STEPS)
    )
    record(
        benchmark,
        competitors,
        case=f"4-layer encoder{'' if frozen else models.trainable('')}, 128 words, batch {batch}",
        target=fastxai_name(),
        reference="bare",
        tolerance=1e-3,  # a ReLU near zero goes either way in float32; 2e-8 apart in float64
    )


@pytest.mark.parametrize(
    ("name", "batch"), [(RESNET, 1), (models.trainable(RESNET), 1), (RESNET, 8)]
)
@pytest.mark.benchmark(group="Grad-CAM: time")
def test_grad_cam(benchmark: BenchmarkFixture, name: str, batch: int) -> None:
    model, images, target = models.load(name, batch)
    layer = model[4][1].conv2

    stages = torch.nn.Sequential(*model)

    def bare() -> None:
        with torch.no_grad():
            y = stages[:5](images)
        y.requires_grad_()
        torch.autograd.grad(stages[5:](y).gather(1, target[:, None]).sum(), y)

    competitors = [Competitor("bare", bare)]
    if find_spec("captum"):
        from captum.attr import LayerGradCam

        theirs = LayerGradCam(model, layer)
        competitors.append(
            Competitor("Captum", lambda: theirs.attribute(images, target=target).detach())
        )
    ours = fastxai.LayerGradCam(model, layer)
    competitors.append(Competitor("fastxai", lambda: ours.attribute(images, target=target)))
    record(
        benchmark,
        competitors,
        case=f"{name}, batch {batch}",
        target="fastxai",
        reference="bare",
        tolerance=1e-5,
    )


@pytest.mark.benchmark(group="Layer Integrated Gradients: peak memory above the loaded model")
def test_memory(benchmark: BenchmarkFixture) -> None:
    runs = {"Captum": ("text_captum", N_STEPS), "fastxai": ("text_fastxai", N_STEPS)}
    runs[f"fastxai, {8 * N_STEPS} steps"] = ("text_fastxai", 8 * N_STEPS)

    def measure() -> dict[str, float]:
        return {label: memory.in_child(*run) for label, run in runs.items()}

    benchmark.extra_info.update(
        case=f"4-layer encoder, 128 words, batch 1, {N_STEPS} steps",
        megabytes=benchmark.pedantic(measure),
    )
