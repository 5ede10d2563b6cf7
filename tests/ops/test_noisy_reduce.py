import pytest
import torch
from torch.testing import assert_close

from fastxai import ops as fastxai_ops
from fastxai.ops import native, reference
from fastxai.ops.reference.checks import accumulation_dtype
from tests.ops.conftest import DTYPES, SHAPES

SEED = 987654321987


def draw_case(draw, shape, dtype, baselines=3, stdev=0.3, span=(2, 7), samples=9):
    """Arguments but for the sum so far; without baselines for None."""
    baseline = None if baselines is None else draw(baselines, *shape[1:], dtype=dtype)
    grads = draw(span[1] - span[0], *shape, dtype=dtype)
    input = draw(*shape, dtype=dtype)
    return grads, input, baseline, stdev, SEED, 1, samples, 4, *span


@pytest.mark.parametrize("baselines", [None, 3, 20], ids=lambda k: f"{k}_baselines")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES[:-1], ids=str)
def test_kernel_equals_reference(native_ops, draw, shape, dtype, baselines):
    wide = accumulation_dtype(dtype)
    tolerance = (
        {"rtol": 1e-5, "atol": 1e-5} if wide == torch.float32 else {"rtol": 0, "atol": 1e-14}
    )
    for stdev in (0.0, 0.7):
        for span in ((0, 0), (0, 1), (2, 7)):
            case = draw_case(draw, shape, dtype, baselines, stdev, span)
            for acc in (None, draw(*shape, dtype=wide)):
                sums = native_ops.noisy_reduce(acc, *case)
                assert sums.is_contiguous() and sums.dtype == wide
                assert_close(sums, reference.noisy_reduce(acc, *case), **tolerance)


def test_equals_the_formula_with_the_rows_of_noisy_points(ops, draw):
    grads, input, baseline, *rest = draw_case(draw, (3, 1100), torch.float64)
    ends = ops.noisy_points(input, None, *rest, None)
    starts = ops.noisy_points(input, baseline, *rest, 0.0)
    acc = draw(3, 1100, dtype=torch.float64)
    expected = acc + ((ends - starts) * grads).sum(0)
    sums = ops.noisy_reduce(acc, grads, input, baseline, *rest)
    assert_close(sums, expected, rtol=1e-13, atol=1e-13)
    without = ops.noisy_reduce(None, grads, input, None, *rest)
    assert_close(without, (ends * grads).sum(0), rtol=1e-13, atol=1e-13)


def test_blocks_change_no_bit(native_ops, draw):
    grads, input, baseline, *rest = draw_case(draw, (3, 1100), torch.float32, span=(0, 9))
    whole = native_ops.noisy_reduce(None, grads, input, baseline, *rest)
    acc = None
    for first, last in ((0, 2), (2, 3), (3, 9)):
        acc = native_ops.noisy_reduce(
            acc, grads[first:last], input, baseline, *rest[:-2], first, last
        )
    assert_close(acc, whole, rtol=0, atol=0)


def test_sums_do_not_depend_on_the_number_of_threads(native_ops, draw):
    threads = torch.get_num_threads()
    case = draw_case(draw, (5, 20_001), torch.float32)
    expected = native_ops.noisy_reduce(None, *case)
    try:
        for number in (2, 3, 4):
            torch.set_num_threads(number)
            assert_close(native_ops.noisy_reduce(None, *case), expected, rtol=0, atol=0)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_any_strides(ops, draw, dtype):
    input = draw(6, 5, 4, dtype=dtype).permute(2, 0, 1)[::2]
    baseline = draw(3, 5, 6, dtype=dtype).transpose(1, 2)
    grads = draw(2, 6, 5, 5, dtype=dtype).permute(3, 0, 1, 2)
    acc = draw(6, 2, 5, dtype=accumulation_dtype(dtype)).transpose(0, 1)
    rest = (0.2, SEED, 0, 5, 0, 0, 5)
    whole = [t.contiguous() for t in (acc, grads, input, baseline)]
    expected = reference.noisy_reduce(*whole, *rest)
    assert_close(ops.noisy_reduce(acc, grads, input, baseline, *rest), expected)
    one = draw(1, 2, 6, 5, dtype=dtype).expand(5, 2, 6, 5)
    expected = reference.noisy_reduce(None, one.contiguous(), *whole[2:], *rest)
    assert_close(ops.noisy_reduce(None, one, input, baseline, *rest), expected)


def test_arguments_stay(ops, draw):
    case = draw_case(draw, (3, 5), torch.float32)
    acc = draw(3, 5)
    before = acc.clone()
    ops.noisy_reduce(acc, *case).zero_()
    assert_close(acc, before, rtol=0, atol=0)


def test_opcheck(native_ops, draw):
    for baselines, acc in ((None, None), (3, draw(3, 2, 5))):
        case = draw_case(draw, (3, 2, 5), torch.float32, baselines)
        torch.library.opcheck(torch.ops.fastxai.noisy_reduce.default, (acc, *case))


def test_public_function_is_the_backend(draw):
    case = draw_case(draw, (3, 5), torch.float32)
    expected = native.backend().noisy_reduce(None, *case)
    assert_close(fastxai_ops.noisy_reduce(None, *case), expected, rtol=0, atol=0)


X, G = torch.zeros(4, 3), torch.zeros(5, 4, 3)
REST = (0.1, 1, 0, 5, 0, 0, 5)
BAD = {
    "expected input of dtype float16, bfloat16, float32 or float64, got int64": (
        None,
        G.long(),
        X.long(),
        None,
        *REST,
    ),
    "expected grads of dtype float32, got float64": (None, G.double(), X, None, *REST),
    "expected grads of shape [5, 4, 3], got [4, 4, 3]": (None, G[:4], X, None, *REST),
    "expected baseline of shape [4, 3], got [4, 2]": (None, G, X, X[:, :2], *REST),
    "expected acc of dtype float32, got float64": (X.double(), G, X, None, *REST),
    "expected acc of dtype float32, got float16": (X.half(), G.half(), X.half(), None, *REST),
    "expected acc of shape [4, 3], got [3]": (X[0], G, X, None, *REST),
    "expected stdev of at least 0, got -0.5": (None, G, X, None, -0.5, *REST[1:]),
    "expected 0 <= first <= last <= 5, got first 0 and last 6": (
        None,
        G,
        X,
        None,
        *REST[:-1],
        6,
    ),
}


@pytest.mark.parametrize("message", BAD, ids=str)
def test_bad_arguments(ops, device, message):
    case = [a.to(device) if isinstance(a, torch.Tensor) else a for a in BAD[message]]
    with pytest.raises(RuntimeError) as caught:
        ops.noisy_reduce(*case)
    assert str(caught.value) == f"noisy_reduce: {message}"
