import math

import pytest
import torch
from torch.testing import assert_close

from fastxai import ops as fastxai_ops
from fastxai.ops import native, reference
from fastxai.ops.reference.draws import noisy_draws
from tests.ops.conftest import DTYPES, SHAPES

SEED = 0x1234_5678_9ABC_DEF


def draw_case(draw, shape, dtype, baselines=3, stdev=0.3, span=(2, 7), samples=9):
    """Arguments but for the position; without baselines for None."""
    baseline = None if baselines is None else draw(baselines, *shape[1:], dtype=dtype)
    return draw(*shape, dtype=dtype), baseline, stdev, SEED, 1, samples, 4, *span


@pytest.mark.parametrize("baselines", [None, 1, 3, 20], ids=lambda k: f"{k}_baselines")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES[:-1], ids=str)
def test_kernel_equals_reference_to_the_last_bit(native_ops, draw, shape, dtype, baselines):
    for stdev in (0.0, 0.7):
        for span in ((0, 0), (0, 1), (2, 7)):
            case = draw_case(draw, shape, dtype, baselines, stdev, span)
            rows = native_ops.noisy_points(*case, None)
            assert rows.is_contiguous()
            assert_close(rows, reference.noisy_points(*case, None), rtol=0, atol=0)


def test_many_features(native_ops, draw):
    case = draw_case(draw, (2, 70_001), torch.float32, span=(0, 3))
    expected = reference.noisy_points(*case, None)
    assert_close(native_ops.noisy_points(*case, None), expected, rtol=0, atol=0)


def test_a_row_depends_on_seed_sample_and_example_alone(ops, draw):
    x, baseline = draw(4, 70), draw(3, 70)
    whole = ops.noisy_points(x, baseline, 0.5, SEED, 0, 9, 0, 0, 9, None)
    part = ops.noisy_points(x[1:3], baseline, 0.5, SEED, 0, 9, 1, 4, 6, None)
    assert_close(part, whole[4:6, 1:3], rtol=0, atol=0)


def test_rows_do_not_depend_on_the_number_of_threads(native_ops, draw):
    threads = torch.get_num_threads()
    case = draw_case(draw, (5, 20_001), torch.float32)
    expected = reference.noisy_points(*case, None)
    try:
        for number in (2, 3, 4):
            torch.set_num_threads(number)
            assert_close(native_ops.noisy_points(*case, None), expected, rtol=0, atol=0)
    finally:
        torch.set_num_threads(threads)


def noise(ops, device, shape=(20, 999), samples=40, seed=SEED, stream=0):
    zeros = torch.zeros(shape, device=device)
    return ops.noisy_points(zeros, None, 1.0, seed, stream, samples, 0, 0, samples, None)


def test_noise_is_standard_normal(ops, device):
    z = noise(ops, device).double().flatten()
    n = z.numel()
    assert abs(z.mean()) < 4 / n**0.5
    assert abs(z.var() - 1) < 4 * (2 / n) ** 0.5
    assert abs((z**3).mean()) < 4 * (15 / n) ** 0.5
    assert abs((z**4).mean() - 3) < 4 * (96 / n) ** 0.5
    at = torch.tensor([-3.0, -2, -1, -0.5, 0, 0.5, 1, 2, 3], dtype=torch.float64, device=device)
    share = (z[:, None] <= at).double().mean(0)
    assert_close(share, torch.special.ndtr(at), rtol=0, atol=4 * 0.5 / n**0.5)


def test_noise_is_independent(ops, device):
    z = noise(ops, device).double()
    n = z.numel()
    others = {
        "sample": z.roll(1, 0),
        "example": z.roll(1, 1),
        "feature": z.roll(1, 2),
        "lane": z.roll(16, 2),
        "pair": z.roll(32, 2),
        "stream": noise(ops, device, stream=1),
        "seed": noise(ops, device, seed=SEED + 1),
        "high seed": noise(ops, device, seed=SEED + 2**40),
    }
    for name, other in others.items():
        assert abs((z * other).mean()) < 4 / n**0.5, name
        assert abs((z.square() * other.square()).mean() - 1) < 4 * (8 / n) ** 0.5, name


def test_path_formula_and_position(ops, draw):
    x, baseline = draw(3, 70, dtype=torch.float64), draw(4, 70, dtype=torch.float64)
    draws = (SEED, 0, 9, 0)
    ends = ops.noisy_points(x, None, 0.5, *draws, 0, 9, None)
    picks, alphas = noisy_draws(x, baseline, SEED, 9, 0, 0, 9)
    starts = baseline[picks]
    rows = ops.noisy_points(x, baseline, 0.5, *draws, 0, 9, None)
    assert_close(rows, starts + alphas[..., None] * (ends - starts), rtol=1e-14, atol=1e-14)
    assert_close(ops.noisy_points(x, baseline, 0.5, *draws, 0, 9, 0.0), starts, rtol=0, atol=0)
    one = ops.noisy_points(x, baseline, 0.5, *draws, 0, 9, 1.0)
    assert_close(one, ends, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize(
    ("samples", "baselines"), [(50, 10), (25, 10), (5, 100), (12, 1), (1, 1), (1, 7), (64, 8)]
)
def test_draws_are_stratified(samples, baselines):
    x, rows = torch.zeros(6, 1), torch.zeros(baselines, 1)
    picks, alphas = noisy_draws(x, rows, SEED, samples, 0, 0, samples)
    assert ((alphas > 0) & (alphas < 1)).all()
    rounds, places = math.ceil(samples / baselines), min(samples, baselines)
    for pick, alpha in zip(picks.T, alphas.T, strict=True):
        counts = torch.bincount(pick, minlength=baselines)
        assert counts.max() - counts.min() <= 1
        assert torch.equal(pick[baselines:], pick[:-baselines])  # again in every K
        strata = (alpha * rounds * places).long()
        assert strata.unique().numel() == samples  # no two in one stratum
        for k in pick.unique():  # nor two of one baseline in a coarse one
            coarse = (alpha[pick == k] * rounds).long()
            assert coarse.unique().numel() == coarse.numel()


def test_every_single_draw_is_uniform():
    baselines, n = 3, 4000
    x, rows = torch.zeros(n, 1), torch.zeros(baselines, 1)
    for samples, sample in ((7, 4), (7, 0), (2, 1), (1, 0)):
        picks, alphas = noisy_draws(x, rows, SEED, samples, 0, sample, sample + 1)
        cells = picks[0] * 4 + (alphas[0] * 4).long()  # baseline and quarter of the path
        counts = torch.bincount(cells, minlength=12).double()
        chi_squared = ((counts - n / 12) ** 2 / (n / 12)).sum()
        assert chi_squared < 31.3  # 11 degrees of freedom, p = 0.001


def test_examples_have_orders_of_their_own():
    x, rows = torch.zeros(64, 1), torch.zeros(8, 1)
    picks, _ = noisy_draws(x, rows, SEED, 8, 0, 0, 8)
    assert len({tuple(order) for order in picks.T.tolist()}) > 50
    following = torch.bincount((picks[1:] - picks[:-1]).remainder(8).flatten(), minlength=8)
    assert following[0] == 0 and following[1:].max() < 2 * following.sum() / 7


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_any_strides(ops, draw, dtype):
    x = draw(6, 5, 4, dtype=dtype).permute(2, 0, 1)[::2]
    baseline = draw(3, 5, 6, dtype=dtype).transpose(1, 2)
    rest = (0.2, SEED, 0, 5, 0, 0, 5)
    expected = reference.noisy_points(x.contiguous(), baseline.contiguous(), *rest, None)
    rows = ops.noisy_points(x, baseline, *rest, None)
    assert rows.is_contiguous()
    assert_close(rows, expected, rtol=0, atol=0)


def test_no_gradient_is_recorded_and_arguments_stay(ops, draw):
    case = draw_case(draw, (3, 5), torch.float32)
    before = case[0].clone()
    rows = ops.noisy_points(case[0].requires_grad_(), *case[1:], None)
    assert not rows.requires_grad
    rows.zero_()
    assert_close(case[0].detach(), before, rtol=0, atol=0)


def test_opcheck(native_ops, draw):
    for baselines, position in ((None, None), (3, None), (3, 0.5)):
        case = draw_case(draw, (3, 2, 5), torch.float32, baselines)
        torch.library.opcheck(torch.ops.fastxai.noisy_points.default, (*case, position))


def test_compiles_in_one_graph(native_ops, draw):
    def f(x, baseline):
        return fastxai_ops.noisy_points(x * 2, baseline, 0.1, 5, 0, 4, 0, 1, 3).sin()

    compiled = torch.compile(f, fullgraph=True, backend="aot_eager", dynamic=True)
    for size in ((3, 5), (6, 7)):
        x, baseline = draw(*size), draw(2, size[1])
        assert_close(compiled(x, baseline), f(x, baseline))


def test_public_function_is_the_backend(draw):
    case = draw_case(draw, (3, 5), torch.float32)
    expected = native.backend().noisy_points(*case, None)
    assert_close(fastxai_ops.noisy_points(*case), expected, rtol=0, atol=0)


X = torch.zeros(4, 3)
REST = (0.1, 1, 0, 5, 0, 0, 5)
BAD = {
    "expected input of dtype float16, bfloat16, float32 or float64, got int64": (
        X.long(),
        None,
        *REST,
    ),
    "expected input of shape [B, *F], got []": (X[0, 0], None, *REST),
    "expected baseline of dtype float32, got float64": (X, X.double(), *REST),
    "expected baseline of shape [4, 3], got [4, 2]": (X, X[:, :2], *REST),
    "expected baseline of shape [1, 3], got [0, 3]": (X, X[:0], *REST),
    "expected baseline of shape [K, *F], got []": (X, X[0, 0], *REST),
    "expected stdev of at least 0, got -0.5": (X, None, -0.5, *REST[1:]),
    "expected stdev of at least 0, got nan": (X, None, math.nan, *REST[1:]),
    "expected stream from 0 to 65535, got -1": (X, None, 0.1, 1, -1, 5, 0, 0, 5),
    "expected stream from 0 to 65535, got 65536": (X, None, 0.1, 1, 65536, 5, 0, 0, 5),
    "expected example from 0 to 4611686018427387903, got -2": (X, None, 0.1, 1, 0, 5, -2, 0, 5),
    "expected samples from 0 to 2147483647, got -5": (X, None, 0.1, 1, 0, -5, 0, 0, 0),
    "expected 0 <= first <= last <= 5, got first 0 and last 6": (X, None, 0.1, 1, 0, 5, 0, 0, 6),
    "expected 0 <= first <= last <= 5, got first 3 and last 2": (X, None, 0.1, 1, 0, 5, 0, 3, 2),
}


@pytest.mark.parametrize("message", BAD, ids=str)
def test_bad_arguments(ops, device, message):
    case = [a.to(device) if isinstance(a, torch.Tensor) else a for a in BAD[message]]
    with pytest.raises(RuntimeError) as caught:
        ops.noisy_points(*case, None)
    assert str(caught.value) == f"noisy_points: {message}"
