"""Every op: the native kernels, the reference, and a plain copy of the bytes.

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
from fastxai.ops.reference.checks import coalition_words

# Steps, rows and features: a tabular row, one MNIST row, 32 of them, one ImageNet picture.
SIZES = {
    "50x1x30": (50, 1, 30),
    "50x1x784": (50, 1, 784),
    "50x32x784": (50, 32, 784),
    "50x1x150528": (50, 1, 150_528),
}
# Coalitions, backgrounds, rows, features and players: a chunk for an MLP, pictures for a ResNet,
# a table, a table over many backgrounds.
COALITIONS = {
    "500x1x1x784": (500, 1, 1, 784, 49),
    "16x1x1x150528": (16, 1, 1, 150_528, 49),
    "1x1x16x150528": (1, 1, 16, 150_528, 49),
    "512x1x1000x30": (512, 1, 1000, 30, 30),
    "21x100x10x30": (21, 100, 10, 30, 30),
}
# Groups, rows and features, in groups of neighbours.
GROUPS = {
    "784x1x784": (784, 1, 784),
    "16x1x150528": (16, 1, 150_528),
    "30x1000x30": (30, 1000, 30),
}
# Features, outputs, groups and rows: a wide table, patches of 4x4 pixels, single pixels.
LINEARS = {
    "10000x256x100x1": (10_000, 256, 100, 1),
    "784x512x49x1": (784, 512, 49, 1),
    "784x512x784x1": (784, 512, 784, 1),
    "784x512x49x32": (784, 512, 49, 32),
}
# Rows, players, and what their subsets are: sizes at random, or fair coins.
DRAWS = {
    "1000x49 sized": (1000, 49, True),
    "100000x49 sized": (100_000, 49, True),
    "100000x49 coins": (100_000, 49, False),
    "2000x200 sized": (2000, 200, True),
}
# Rows, players, and of how many weights each is: as many as there are sizes, or all different.
GRAMS = {
    "1000x49 few weights": (1000, 49, 24),
    "100000x49 few weights": (100_000, 49, 24),
    "1000x49 all different": (1000, 49, None),
    "2000x200 few weights": (2000, 200, 100),
}
# Rows, players and outputs: a chunk of a stream, all rows at once, many outputs.
MOMENTS = {
    "200x49x1": (200, 49, 1),
    "100000x49x1": (100_000, 49, 1),
    "10000x49x100": (10_000, 49, 100),
}
# Problems, players and outputs.
LASSOS = {"1x49x1": (1, 49, 1), "100x49x1": (100, 49, 1), "1x200x10": (1, 200, 10)}
# Samples, rows, features and baselines: a chunk for an MLP, of a picture, of a table.
NOISY = {
    "50x11x784x10": (50, 11, 784, 10),
    "10x1x150528x10": (10, 1, 150_528, 10),
    "50x80x30x100": (50, 80, 30, 100),
}
STDEVS = {"noise": 0.1, "no noise": 0.0}
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


@pytest.mark.benchmark(group="Ops: time, and a copy of the bytes they must move")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", COALITIONS)
def test_perturb(benchmark, device, size, dtype):
    coalitions, backgrounds, rows, features, players = COALITIONS[size]
    input = torch.randn(rows, features).to(device, DTYPES[dtype])
    baseline = torch.randn(1, backgrounds, features).to(device, DTYPES[dtype])
    bits = torch.randint(2**players, (coalitions, 1), device=device)
    mask = (torch.arange(features) * players // features)[None].to(device, torch.int32)
    arguments = (input, baseline, bits, mask, 0, coalitions * backgrounds)
    moved = coalitions * backgrounds * input.numel() + input.numel() + baseline.numel()
    calls = {
        "native": lambda: native.backend().perturb(*arguments),
        "reference": lambda: reference.perturb(*arguments),
    }
    moved *= input.element_size()
    compare(benchmark, f"perturb {size} {dtype} {device}", calls, device, moved)


@pytest.mark.benchmark(group="Ops: time, and a copy of the bytes they must move")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", GROUPS)
def test_ablate_one(benchmark, device, size, dtype):
    groups, rows, features = GROUPS[size]
    input = torch.randn(rows, features).to(device, DTYPES[dtype])
    baseline = torch.zeros_like(input[:1])
    source = torch.zeros(1, rows, dtype=torch.int64, device=device)
    positions = torch.arange(features, device=device)[None]
    offsets = (torch.arange(groups + 1, device=device) * features // groups)[None]
    arguments = (input, baseline, source, positions, offsets, 0, groups)
    moved = (groups + 1) * input.numel() * input.element_size()
    calls = {
        "native": lambda: native.backend().ablate_one(*arguments),
        "reference": lambda: reference.ablate_one(*arguments),
    }
    compare(benchmark, f"ablate_one {size} {dtype} {device}", calls, device, moved)


@pytest.mark.benchmark(group="Ops: time, and a copy of the bytes they must move")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", LINEARS)
def test_group_linear(benchmark, device, size, dtype):
    """Beside BLAS on the rows, which are there already, with their zeros."""
    features, outputs, groups, rows = LINEARS[size]
    # Whole numbers: the sums are exact, and so are equal in every dtype.
    weight = (3 * torch.randn(outputs, features)).round().to(device, DTYPES[dtype])
    values = (3 * torch.randn(rows, features)).round().to(device, DTYPES[dtype])
    positions = torch.arange(features, device=device)[None]
    offsets = (torch.arange(groups + 1, device=device) * features // groups)[None]
    of_group = torch.bucketize(positions[0], offsets[0, 1:], right=True)
    dense = values * (of_group == torch.arange(groups, device=device)[:, None])[:, None]
    calls = {
        "native": lambda: native.backend().group_linear(values, positions, offsets, weight),
        "reference": lambda: reference.group_linear(values, positions, offsets, weight),
    }
    if dtype == "float32":
        calls["matmul"] = lambda: dense @ weight.T
    moved = weight.numel() + values.numel() + groups * rows * outputs
    moved *= weight.element_size()
    compare(benchmark, f"group_linear {size} {dtype} {device}", calls, device, moved)


@pytest.mark.benchmark(group="Ops: time, and a copy of the bytes they must move")
@pytest.mark.parametrize("size", DRAWS)
def test_coalitions(benchmark, device, size):
    rows, players, sized = DRAWS[size]
    sizes = torch.randint(5, players - 4, (rows,)) if sized else torch.full((rows,), -1)
    arguments = players, sizes.to(device), torch.arange(rows, device=device), 1
    calls = {
        "native": lambda: native.backend().coalitions(*arguments),
        "reference": lambda: reference.coalitions(*arguments),
    }
    moved = 8 * rows * (2 + coalition_words(players))
    compare(benchmark, f"coalitions {size} {device}", calls, device, moved)


@pytest.mark.benchmark(group="Ops: time, and a copy of the bytes they must move")
@pytest.mark.parametrize("size", GRAMS)
def test_coalition_gram(benchmark, device, size):
    """Beside BLAS on the coalitions as float64 zeros and ones, which it does not have to unpack."""
    rows, players, weights = GRAMS[size]
    bits, z = flip_coins(rows, players, device)
    if weights is None:
        weight = torch.rand(rows, dtype=torch.float64, device=device)
    else:
        weight = (torch.randint(weights, (rows,)).double() / 7).to(device)
    calls = {
        "native": lambda: native.backend().coalition_gram(bits, players, weight),
        "reference": lambda: reference.coalition_gram(bits, players, weight),
        "matmul": lambda: z.T @ (weight[:, None] * z),
    }
    moved = 8 * (bits.numel() + rows + players**2)
    compare(benchmark, f"coalition_gram {size} {device}", calls, device, moved)


@pytest.mark.benchmark(group="Ops: time, and a copy of the bytes they must move")
@pytest.mark.parametrize("size", MOMENTS)
def test_coalition_rhs(benchmark, device, size):
    """Beside BLAS on the coalitions as float64 zeros and ones, which it does not have to unpack."""
    rows, players, outputs = MOMENTS[size]
    bits, z = flip_coins(rows, players, device)
    weights = torch.rand(rows, dtype=torch.float64, device=device)
    values = torch.randn(rows, outputs, device=device)
    calls = {
        "native": lambda: native.backend().coalition_rhs(bits, players, weights, values),
        "reference": lambda: reference.coalition_rhs(bits, players, weights, values),
        "matmul": lambda: z.T @ (weights[:, None] * values),
    }
    moved = 8 * (bits.numel() + rows + players * outputs) + 4 * values.numel()
    compare(benchmark, f"coalition_rhs {size} {device}", calls, device, moved)


@pytest.mark.benchmark(group="Ops: time, and a copy of the bytes they must move")
@pytest.mark.parametrize("size", LASSOS)
def test_lasso(benchmark, device, size):
    problems, players, outputs = LASSOS[size]
    _, z = flip_coins(1000, players, device)
    x = z - z.mean(0)
    effects = torch.randn(problems, players, outputs, dtype=torch.float64, device=device)
    gram = (x.T @ x / 1000).expand(problems, -1, -1).contiguous()
    rhs = gram @ effects
    calls = {
        "native": lambda: native.backend().lasso(gram, rhs, 0.01, 1e-10, 10_000),
        "reference": lambda: reference.lasso(gram, rhs, 0.01, 1e-10, 10_000),
    }
    if device == "cpu" and rhs.shape[::2] == (1, 1):
        calls["scikit-learn"] = scikit_learn_lasso(x, x @ effects[0])
    compare(benchmark, f"lasso {size} {device}", calls, device, 8 * (gram.numel() + rhs.numel()))


@pytest.mark.benchmark(group="Ops: time, and a copy of the bytes they must move")
@pytest.mark.parametrize("stdev", STDEVS)
@pytest.mark.parametrize("size", NOISY)
def test_noisy_points(benchmark, device, size, stdev):
    case, moved = noisy_case(size, stdev, device)
    calls = {
        "native": lambda: native.backend().noisy_points(*case, None),
        "reference": lambda: reference.noisy_points(*case, None),
    }
    compare(benchmark, f"noisy_points {size} {stdev} {device}", calls, device, moved)


@pytest.mark.benchmark(group="Ops: time, and a copy of the bytes they must move")
@pytest.mark.parametrize("stdev", STDEVS)
@pytest.mark.parametrize("size", NOISY)
def test_noisy_reduce(benchmark, device, size, stdev):
    case, moved = noisy_case(size, stdev, device)
    samples, rows, features, _ = NOISY[size]
    grads = torch.randn(samples, rows, features).to(device)
    acc = torch.randn(rows, features, device=device)
    calls = {
        "native": lambda: native.backend().noisy_reduce(acc, grads, *case),
        "reference": lambda: reference.noisy_reduce(acc, grads, *case),
    }
    compare(benchmark, f"noisy_reduce {size} {stdev} {device}", calls, device, moved)


def noisy_case(size: str, stdev: str, device: str) -> tuple[tuple, int]:
    """Arguments of noisy_points, and the bytes of its rows."""
    samples, rows, features, baselines = NOISY[size]
    input = torch.randn(rows, features).to(device)
    baseline = torch.randn(baselines, features).to(device)
    case = (input, baseline, STDEVS[stdev], 1, 0, samples, 0, 0, samples)
    return case, samples * input.numel() * input.element_size()


def scikit_learn_lasso(x: Tensor, y: Tensor) -> Callable[[], Tensor]:
    """Also on a Gram matrix that is already there; it looks at the rows as well."""
    from sklearn.linear_model import Lasso

    gram = (x.T @ x).numpy()
    fit = Lasso(alpha=0.01, tol=1e-10, fit_intercept=False, precompute=gram, max_iter=10_000)
    rows, outputs = x.numpy(), y.numpy()
    return lambda: torch.from_numpy(fit.fit(rows, outputs).coef_)[None, :, None]


def flip_coins(rows: int, players: int, device: str) -> tuple[Tensor, Tensor]:
    """Coalitions as bits, and as zeros and ones [N, M] float64."""
    coins = torch.full((rows,), -1), torch.arange(rows)
    bits = reference.coalitions(players, *coins, 1).to(device)
    z = bits[..., None] >> torch.arange(64, device=device) & 1
    return bits, z.flatten(1)[:, :players].double()


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
