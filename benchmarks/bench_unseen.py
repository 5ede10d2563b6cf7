"""What one explanation costs beside the model, on models that no other benchmark has.

Small models show it best: frozen (``requires_grad_(False)``), in eval mode, one row and several,
also behind a function. Ratios are to "bare": the model's own passes over the rows that a method
needs, in the chunk that was fastest when searched; forward and backward, or forward alone for
methods without gradients. For Grad-CAM and other methods of layers, bare goes to the input all the
same. Results are compared before they are timed, but for Captum's where they are other numbers: it
has no rule for SELU and GELU in DeepLift (they keep their gradients), and draws other samples.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from competitors import compare
from interleave import Competitor, fastest_chunk
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn

import fastxai

N_STEPS, N_SAMPLES = 50, 512
PARTS = (1, 2, 4, 8, 16, 32)  # into how many chunks the rows of bare are cut at most


def tabular(activation: type[nn.Module]) -> nn.Sequential:
    """[B, 47] -> [B, 5]."""
    layers = [nn.Linear(47, 200), activation(), nn.Linear(200, 100), activation()]
    return nn.Sequential(*layers, nn.Linear(100, 5))


class Own(nn.Module):
    """The same net behind a forward of one's own, which proves nothing about its rows."""

    def __init__(self, activation: type[nn.Module]) -> None:
        super().__init__()
        self.layers = tabular(activation)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Depthwise(nn.Module):
    """A small net of depthwise and pointwise convolutions: [B, 3, 32, 32] -> [B, 10]."""

    def __init__(self, activation: type[nn.Module], width: int = 32) -> None:
        super().__init__()

        def block(before: int, after: int, stride: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(before, before, 3, stride, 1, groups=before, bias=False),
                nn.BatchNorm2d(before),
                activation(),
                nn.Conv2d(before, after, 1, bias=False),
                nn.BatchNorm2d(after),
                activation(),
            )

        stem = (nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), activation())
        self.stem = nn.Sequential(*stem)
        widths = [(width, 2 * width, 1), (2 * width, 2 * width, 2), (2 * width, 4 * width, 2)]
        self.blocks = nn.Sequential(*(block(*w) for w in widths))
        self.head = nn.Linear(4 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class Sentences(nn.Module):
    """A three-layer GELU encoder over ids of words: [B, 48] -> [B, 2]."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(1000, 64)
        self.position = nn.Parameter(torch.randn(48, 64) / 10)
        layer = nn.TransformerEncoderLayer(64, 4, 256, activation="gelu", batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.head = nn.Linear(64, 2)

    def on_embeddings(self, x: Tensor) -> Tensor:  # [B, T, D]
        return self.head(self.encoder(x + self.position).mean(1))

    def forward(self, ids: Tensor) -> Tensor:
        return self.on_embeddings(self.embedding(ids))


class Recurrent(nn.Module):
    """An LSTM over 25 times: [B, 25, 9] -> [B, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(9, 64, batch_first=True)
        self.head = nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


def load(
    build: Callable[[], nn.Module], batch: int, *features: int, frozen: bool = True
) -> tuple[nn.Module, Tensor, Tensor]:
    """The model, inputs [batch, *features] and predicted classes [batch]."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build().eval().requires_grad_(not frozen)
        words = torch.randint(1, 1000, (batch, *features))
        inputs = words if isinstance(model, Sentences) else torch.randn(batch, *features)
    with torch.no_grad():
        return model, inputs, model(inputs).argmax(1)


def bare(
    function: Callable[[Tensor], Tensor], rows: Tensor, target: Tensor | None = None
) -> Competitor:
    """Forward passes over the rows in the best chunk; with a target [len(rows)] backward ones."""

    def run(chunk: int) -> None:
        if target is None:
            with torch.no_grad():
                for part in rows.split(chunk):
                    function(part)
            return
        for part, chosen in zip(rows.split(chunk), target.split(chunk), strict=True):
            leaf = part.detach().requires_grad_()
            torch.autograd.grad(function(leaf).gather(1, chosen[:, None]).sum(), leaf)

    chunks = sorted({-(-len(rows) // count) for count in PARTS})
    best = fastest_chunk(lambda chunk: lambda: run(chunk), chunks, seconds_to_spend=1)
    return Competitor("bare", lambda: run(best))


def captum(
    method: str,
    model: Callable[[Tensor], Tensor],
    inputs: Tensor,
    *built_with: nn.Module,
    same_numbers: bool = True,
    limits: tuple[str, Iterable[int]] | None = None,
    **arguments: Any,
) -> list[Competitor]:
    """Captum's method at its defaults; with limits of rows a call, also with the best of them."""
    if not find_spec("captum"):
        return []
    import captum.attr

    theirs = getattr(captum.attr, method)(model, *built_with)

    def explain(**limit: int) -> Tensor | None:
        leaf = inputs.clone().requires_grad_(inputs.is_floating_point())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found: Tensor = theirs.attribute(leaf, **arguments, **limit)
        return found.detach() if same_numbers else None

    competitors = [Competitor("Captum", explain)]
    if limits is not None:
        name, sizes = limits
        best = fastest_chunk(lambda size: lambda: explain(**{name: size}), sizes, 2)
        competitors.append(Competitor("Captum tuned", lambda: explain(**{name: best})))
    return competitors


@pytest.mark.parametrize(
    ("activation", "batch", "frozen", "as_function"),
    [
        (nn.SELU, 16, True, False),
        (nn.SELU, 1, True, False),
        (nn.GELU, 16, True, False),
        (nn.ReLU, 16, True, False),
        (nn.ReLU, 1, True, False),
        (nn.Tanh, 16, True, False),
        (nn.Tanh, 16, False, False),
        (nn.Tanh, 16, True, True),
    ],
)
@pytest.mark.benchmark(group="One explanation, DeepLift of a tabular net 47-200-100-5: time")
def test_deep_lift(
    benchmark: BenchmarkFixture,
    activation: type[nn.Module],
    batch: int,
    frozen: bool,
    as_function: bool,
) -> None:
    model, inputs, target = load(lambda: tabular(activation), batch, 47, frozen=frozen)
    has_rule = activation in (nn.ReLU, nn.Tanh)
    kind = "" if frozen else ", not frozen"
    ours = fastxai.DeepLift((lambda x: model(x)) if as_function else model)
    compare(
        benchmark,
        f"{activation.__name__}, batch {batch}{kind}{', as a function' if as_function else ''}",
        bare(model, torch.cat([inputs, torch.zeros_like(inputs)]), target.repeat(2)),
        captum("DeepLift", model, inputs, same_numbers=has_rule, target=target),
        lambda: ours.attribute(inputs, target=target),
    )


@pytest.mark.parametrize("batch", [1, 16])
@pytest.mark.benchmark(group="One explanation, DeepLiftShap of a tabular net, 5 baselines: time")
def test_deep_lift_shap(benchmark: BenchmarkFixture, batch: int) -> None:
    model, inputs, target = load(lambda: tabular(nn.Tanh), batch, 47)
    baselines = load(lambda: tabular(nn.Tanh), 5, 47)[1] / 3
    pairs = torch.cat([inputs.repeat_interleave(5, 0), baselines.repeat(batch, 1)])
    ours = fastxai.DeepLiftShap(model)
    compare(
        benchmark,
        f"Tanh, batch {batch}",
        bare(model, pairs, target.repeat(10)),
        captum("DeepLiftShap", model, inputs, baselines=baselines, target=target),
        lambda: ours.attribute(inputs, baselines, target=target),
    )


@pytest.mark.parametrize("batch", [1, 16])
@pytest.mark.parametrize(
    "method", ["Saliency", "InputXGradient", "GuidedBackprop", "Deconvolution"]
)
@pytest.mark.benchmark(group="One explanation, gradients of a tabular net: time")
def test_gradients(benchmark: BenchmarkFixture, method: str, batch: int) -> None:
    model, inputs, target = load(lambda: tabular(nn.ReLU), batch, 47)
    ours = getattr(fastxai, method)(model)
    compare(
        benchmark,
        f"{method}, batch {batch}",
        bare(model, inputs, target),
        captum(method, model, inputs, target=target),
        lambda: ours.attribute(inputs, target=target),
    )


@pytest.mark.parametrize("batch", [1, 16])
@pytest.mark.parametrize("build", [tabular, Own])
@pytest.mark.benchmark(group="One explanation, Integrated Gradients of a tabular net: time")
def test_integrated_gradients(
    benchmark: BenchmarkFixture, build: Callable[..., nn.Module], batch: int
) -> None:
    model, inputs, target = load(lambda: build(nn.SELU), batch, 47)
    rows = (torch.linspace(0, 1, N_STEPS)[:, None, None] * inputs).flatten(0, 1)
    ours = fastxai.IntegratedGradients(model)
    compare(
        benchmark,
        f"SELU, batch {batch}{', a module of one’s own' if build is Own else ''}",
        bare(model, rows, target.repeat(N_STEPS)),
        captum("IntegratedGradients", model, inputs, target=target, n_steps=N_STEPS),
        lambda: ours.attribute(inputs, target=target, n_steps=N_STEPS),
    )


@pytest.mark.parametrize("batch", [1, 16])
@pytest.mark.benchmark(group="One explanation, NoiseTunnel of Saliency, 10 samples: time")
def test_noise_tunnel(benchmark: BenchmarkFixture, batch: int) -> None:
    model, inputs, target = load(lambda: tabular(nn.SELU), batch, 47)
    ours = fastxai.NoiseTunnel(fastxai.Saliency(model))
    theirs: list[Competitor] = []
    if find_spec("captum"):
        from captum.attr import NoiseTunnel, Saliency

        tunnel = NoiseTunnel(Saliency(model))

        def explain() -> None:
            tunnel.attribute(inputs.clone().requires_grad_(), nt_samples=10, target=target)

        theirs.append(Competitor("Captum", explain))
    compare(
        benchmark,
        f"SELU, batch {batch}",
        bare(model, inputs.repeat(10, 1), target.repeat(10)),
        theirs,
        lambda: ours.attribute(inputs, nt_samples=10, target=target, seed=0),
    )


@pytest.mark.parametrize("batch", [1, 16])
@pytest.mark.parametrize("method", ["LayerActivation", "LayerGradientXActivation"])
@pytest.mark.benchmark(group="One explanation, a layer of a tabular net: time")
def test_layers(benchmark: BenchmarkFixture, method: str, batch: int) -> None:
    model, inputs, target = load(lambda: tabular(nn.SELU), batch, 47)
    asked = {} if method == "LayerActivation" else {"target": target}
    ours = getattr(fastxai, method)(model, model[2])
    compare(
        benchmark,
        f"{method}, batch {batch}",
        bare(model, inputs, asked.get("target")),
        captum(method, model, inputs, model[2], **asked),
        lambda: ours.attribute(inputs, **asked),
    )


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize(
    ("method", "activation"),
    [
        ("LayerGradCam", nn.ReLU6),
        ("GuidedGradCam", nn.ReLU),
        ("Saliency", nn.ReLU),
        ("GuidedBackprop", nn.ReLU),
    ],
)
@pytest.mark.benchmark(group="One explanation, a depthwise net, 3 × 32 × 32: time")
def test_images(
    benchmark: BenchmarkFixture, method: str, activation: type[nn.Module], batch: int
) -> None:
    model, images, target = load(lambda: Depthwise(activation), batch, 3, 32, 32)
    layers = (model.blocks[2][3],) if method.endswith("GradCam") else ()
    ours = getattr(fastxai, method)(model, *layers)
    compare(
        benchmark,
        f"{method}, batch {batch}",
        bare(model, images, target),
        captum(method, model, images, *layers, target=target),
        lambda: ours.attribute(images, target=target),
    )


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.benchmark(group="One explanation, Layer Integrated Gradients at an embedding: time")
def test_words(benchmark: BenchmarkFixture, batch: int) -> None:
    model, ids, target = load(Sentences, batch, 48)
    with torch.no_grad():
        y, start = model.embedding(ids), model.embedding(torch.zeros_like(ids[:1]))
    rows = (torch.linspace(0, 1, N_STEPS)[:, None, None, None] * (y - start) + start).flatten(0, 1)
    ours = fastxai.LayerIntegratedGradients(model, model.embedding)
    sizes = [batch * steps for steps in (5, 10, 17, 25, 50)]
    compare(
        benchmark,
        f"3-layer GELU encoder, 48 words, batch {batch}",
        bare(model.on_embeddings, rows, target.repeat(N_STEPS)),
        captum(
            "LayerIntegratedGradients",
            model,
            ids,
            model.embedding,
            limits=("internal_batch_size", sizes),
            target=target,
            n_steps=N_STEPS,
        ),
        lambda: ours.attribute(ids, target=target, n_steps=N_STEPS),
    )


@pytest.mark.parametrize("batch", [1, 16])
@pytest.mark.parametrize("build", [tabular, Own])
@pytest.mark.benchmark(group=f"One explanation, KernelShap, {N_SAMPLES} samples a row: time")
def test_kernel_shap(
    benchmark: BenchmarkFixture, build: Callable[..., nn.Module], batch: int
) -> None:
    model, inputs, target = load(lambda: build(nn.SELU), batch, 47)
    ours = fastxai.KernelShap(model)
    rows = torch.randn(batch * (N_SAMPLES + 1), 47)
    compare(
        benchmark,
        f"SELU 47-200-100-5, batch {batch}{', a module of one’s own' if build is Own else ''}",
        bare(model, rows),
        [],
        lambda: ours.attribute(inputs, target=target, n_samples=N_SAMPLES, seed=0),
    )


@pytest.mark.parametrize("batch", [1, 8, 64])
@pytest.mark.benchmark(group="One explanation, ablation of 25 times of an LSTM: time")
def test_ablation(benchmark: BenchmarkFixture, batch: int) -> None:
    model, inputs, target = load(Recurrent, batch, 25, 9)
    times = torch.arange(25)[None, :, None]  # [1, 25, 1]
    ours = fastxai.FeatureAblation(model)
    compare(
        benchmark,
        f"LSTM of 64, batch {batch}",
        bare(model, torch.randn(26 * batch, 25, 9)),
        captum(
            "FeatureAblation",
            model,
            inputs,
            limits=("perturbations_per_eval", (2, 5, 13, 25)),
            target=target,
            feature_mask=times.expand(1, 25, 9),
        ),
        lambda: ours.attribute(inputs, target=target, feature_mask=times),
    )
