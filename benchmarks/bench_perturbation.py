"""KernelShap, Lime, ablation and Shapley sampling against the model's own time and Captum.

Ratios are to "bare": forward passes over the same number of rows, nothing else, in the chunk that
was fastest when searched. "Captum tuned" is Captum with the fastest ``perturbations_per_eval``;
fastxai runs at its defaults. Results are compared before they are timed.
"""

from __future__ import annotations

from collections.abc import Callable

import memory
import models
import pytest
import torch
from competitors import fastxai_name, perturbation
from interleave import Competitor, record
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn

import fastxai
from fastxai.core.estimate import designs
from fastxai.core.estimate.shapley_regression import ShapleyRegression

MLP, RESNET, _, TABULAR, WIDE = models.MODELS
CHUNKS = (1, 10, 50, 100, 250, 1000)
CUDA = pytest.param("cuda", marks=pytest.mark.cuda)


def load(name: str, batch: int, device: str) -> tuple[nn.Module, Tensor, Tensor]:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return models.load(name, batch, device)


def case(name: str, device: str) -> str:
    return name if device == "cpu" else f"{name}, {device}"


TILES = models.tiles(28, 4).reshape(1, 784)
HUNDREDS = (torch.arange(10_000) // 100)[None]
# model, method -> (model rows, whether Captum's numbers must be ours, options of attribute)
ON_MLP: dict[tuple[str, str], tuple[int, bool, dict[str, object]]] = {
    (MLP, "KernelShap"): (1000, False, {"n_samples": 1000, "feature_mask": TILES}),
    (MLP, "Lime"): (1000, False, {"n_samples": 1000, "feature_mask": TILES}),
    (MLP, "FeatureAblation"): (785, True, {}),
    (MLP, "ShapleyValueSampling"): (25 * 48 + 2, False, {"n_samples": 25, "feature_mask": TILES}),
    (models.trainable(MLP), "KernelShap"): (
        *(1000, False, {"n_samples": 1000, "feature_mask": TILES}),
    ),
    (WIDE, "KernelShap"): (1000, False, {"n_samples": 1000, "feature_mask": HUNDREDS}),
    (WIDE, "FeatureAblation"): (101, True, {"feature_mask": HUNDREDS}),
}


@pytest.mark.parametrize(("name", "method"), ON_MLP)
@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.benchmark(group="Perturbation methods on one row of an MLP: time")
def test_mlp(benchmark: BenchmarkFixture, name: str, method: str, device: str) -> None:
    import captum.attr

    model, inputs, target = load(name, 1, device)
    rows, same_numbers, options = ON_MLP[name, method]
    options = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in options.items()}
    fits = ({}, {})
    if method == "Lime":  # at Captum's default penalty this model's coefficients are all zero
        from captum._utils.models.linear_model import SkLearnLasso

        fits = tuple(
            {"interpretable_model": lasso(alpha=1e-4)}
            for lasso in (fastxai.attr.Lasso, SkLearnLasso)
        )
    ours = getattr(fastxai.attr, method)(model, **fits[0])
    all_rows = getattr(fastxai.attr, method)(model, **fits[0], affine_prefix=False)
    theirs = getattr(captum.attr, method)(model, **fits[1])
    seed = {} if same_numbers else {"seed": 0}

    def explain(chunk: int) -> Tensor:
        return theirs.attribute(inputs, target=target, perturbations_per_eval=chunk, **options)

    record(
        benchmark,
        perturbation(
            model,
            inputs,
            rows,
            lambda: ours.attribute(inputs, target=target, **options, **seed),
            explain,
            CHUNKS,
            same_numbers,
            all_rows=lambda: all_rows.attribute(inputs, target=target, **options, **seed),
        ),
        case=case(f"{method}, {rows} rows, {name}", device),
        target=fastxai_name(),
        reference="bare",
        tolerance=1e-4,
    )


@pytest.mark.parametrize(
    ("name", "batch", "with_captum"),
    [(TABULAR, 1000, False), (TABULAR, 1, True), (models.trainable(TABULAR), 1, True)],
)
@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.benchmark(group="KernelShap on a tabular MLP 30-64-64-2, 512 samples: time")
def test_tabular(
    benchmark: BenchmarkFixture, name: str, batch: int, with_captum: bool, device: str
) -> None:
    import captum.attr

    model, inputs, target = load(name, batch, device)
    ours, theirs = fastxai.attr.KernelShap(model), captum.attr.KernelShap(model)

    def explain(chunk: int) -> Tensor:
        return theirs.attribute(inputs, target=target, n_samples=512, perturbations_per_eval=chunk)

    record(
        benchmark,
        perturbation(
            model,
            inputs,
            512 * batch,
            lambda: ours.attribute(inputs, target=target, n_samples=512, seed=0),
            explain if with_captum else None,
            CHUNKS,
            same_numbers=False,
        ),
        case=case(f"{name}, batch {batch}", device),
        target=fastxai_name(),
        reference="bare",
        tolerance=1e-4,
    )


# method -> (model rows, options of attribute)
ON_RESNET: dict[str, tuple[int, Callable[[], dict[str, object]]]] = {
    "KernelShap": (
        200,
        lambda: {"n_samples": 200, "feature_mask": models.tiles(224, 32)[None, None]},
    ),
    "Occlusion": (
        170,
        lambda: {"sliding_window_shapes": (3, 32, 32), "strides": (3, 16, 16)},
    ),
}


@pytest.mark.parametrize(
    ("name", "method"),
    [*((RESNET, method) for method in ON_RESNET), (models.trainable(RESNET), "Occlusion")],
)
@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.benchmark(group="Perturbation methods on one image, ResNet-18 224²: time")
def test_resnet(benchmark: BenchmarkFixture, name: str, method: str, device: str) -> None:
    model, inputs, target = load(name, 1, device)
    rows, make = ON_RESNET[method]
    options = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in make().items()}
    ours = getattr(fastxai.attr, method)(model)
    seed = {"seed": 0} if method == "KernelShap" else {}
    record(
        benchmark,
        perturbation(
            model,
            inputs,
            rows,
            lambda: ours.attribute(inputs, target=target, **options, **seed),
            parts=(12, 25),
        ),
        case=case(f"{method}, {rows} rows, {name}", device),
        target=fastxai_name(),
        reference="bare",
        tolerance=1e-2,
    )


@pytest.mark.benchmark(
    group="KernelShap without a model, 100,000 samples of 49 groups of 784 features: time"
)
def test_stages(benchmark: BenchmarkFixture) -> None:
    """What each stage adds to a model's time, beside writing as many bytes as the rows have."""
    players, n, block = 49, 100_000, 1000
    plan = designs.shapley_design(players, n, 0)
    x, baseline = torch.randn(1, 784), torch.zeros(1, 1, 784)
    mask = models.tiles(28, 4).reshape(1, 784)
    values = torch.randn(len(plan.bits), 1)
    blocks = range(0, len(plan.bits), block)

    def perturb() -> None:
        for first in blocks:
            last = min(first + block, len(plan.bits))
            fastxai.ops.perturb(x, baseline, plan.bits, mask.int(), first, last)

    def moments() -> None:
        for first in blocks:
            part = slice(first, first + block)
            fastxai.ops.coalition_rhs(plan.bits[part], players, plan.weights[part], values[part])

    def copy() -> None:
        rows = x.expand(block, -1).contiguous()
        for _ in blocks:
            rows.clone()

    shap = fastxai.attr.KernelShap(lambda rows: rows[:, 0])
    whole = f"a whole call, {fastxai_name()}"
    record(
        benchmark,
        [
            Competitor("copying the rows", copy),
            Competitor("design", lambda: _nothing(designs.shapley_design(players, n, 0))),
            Competitor("Gram matrix and factor", lambda: _nothing(ShapleyRegression(plan))),
            Competitor("rows", perturb),
            Competitor("moments", moments),
            Competitor(whole, lambda: shap.attribute(x, feature_mask=mask, n_samples=n, seed=0)),
        ],
        case=f"{n * 784 * 4 / 1e6:.0f} MB of rows",
        target=whole,
        reference="copying the rows",
        tolerance=0,
    )


def _nothing(result: object) -> None:
    """For competitors whose result is not to be compared."""


@pytest.mark.benchmark(group="KernelShap: peak memory above the loaded model")
def test_memory(benchmark: BenchmarkFixture) -> None:
    def measure() -> dict[str, float]:
        counts = {"1,000 samples": 1_000, "1,000,000 samples": 1_000_000}
        return {label: memory.in_child("kernel_shap", n) for label, n in counts.items()}

    benchmark.extra_info.update(
        case=f"{MLP}, batch 1, 49 groups", megabytes=benchmark.pedantic(measure)
    )
