"""path_points and path_reduce: the native kernels, the reference, and a plain copy of the bytes.

The copy moves as many bytes as the op must at least read and write, half of them each way: what the
machine's memory (or, for small sizes, its cache) allows. ``gb_per_s`` counts those same bytes.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from interleave import Competitor, record
from torch import Tensor

from fastxai.ops import native, reference

# Steps, rows and features: a tabular row, one MNIST row, 32 of them, one ImageNet picture.
SIZES = {
    "50x1x30": (50, 1, 30),
    "50x1x784": (50, 1, 784),
    "50x32x784": (50, 32, 784),
    "50x1x150528": (50, 1, 150_528),
}
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    if native.backend() is reference:
        pytest.skip(f"no native library: {native.build_info().reason}")
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return request.param


@pytest.mark.benchmark(group="Ops: time, and a copy of the bytes they must move")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_path_points(benchmark, device, size, dtype):
    steps, rows, features = SIZES[size]
    input = torch.randn(rows, features).to(device, DTYPES[dtype])
    baseline = torch.zeros_like(input[:1])
    alphas = torch.linspace(0, 1, steps, dtype=torch.float64, device=device)
    moved = (steps + 1) * input.numel() * input.element_size()
    calls = {
        "native": lambda: native.backend().path_points(input, baseline, alphas),
        "reference": lambda: reference.path_points(input, baseline, alphas),
    }
    compare(benchmark, f"path_points {size} {dtype} {device}", calls, device, moved)


@pytest.mark.benchmark(group="Ops: time, and a copy of the bytes they must move")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_path_reduce(benchmark, device, size, dtype):
    shape = SIZES[size]
    grads = torch.randn(shape).to(device, DTYPES[dtype])
    weights = torch.rand(shape[0], dtype=torch.float64).to(device)
    acc = torch.randn(shape[1:], device=device)
    moved = grads.numel() * grads.element_size() + 2 * acc.numel() * acc.element_size()
    calls = {
        "native": lambda: native.backend().path_reduce(acc, grads, weights),
        "reference": lambda: reference.path_reduce(acc, grads, weights),
    }
    compare(benchmark, f"path_reduce {size} {dtype} {device}", calls, device, moved)


def compare(
    benchmark: pytest.FixtureRequest,
    case: str,
    calls: dict[str, Callable[[], Tensor]],
    device: str,
    moved: int,
) -> None:
    source = torch.ones(moved // 8, device=device)
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)

    competitors = [
        Competitor(name, call, without_gradients) for name, call in {**calls, "copy": copy}.items()
    ]
    record(
        benchmark,
        competitors,
        case=case,
        target="native",
        reference="reference",
        tolerance=1e-5,
        seconds_to_spend=1.5,
    )
    benchmark.extra_info["gb_per_s"] = {
        name: moved / milliseconds / 1e6
        for name, milliseconds in benchmark.extra_info.get("milliseconds", {}).items()
    }


def without_gradients() -> AbstractContextManager[object]:
    return torch.no_grad()
