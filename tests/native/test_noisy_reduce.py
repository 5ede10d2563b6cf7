import numpy as np
import pytest

from tests.native.test_noisy_points import FLOATS, SEED, reference_noise


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("begin,n", [(0, 1024), (0, 1), (1024, 1000), (2048, 48)])
def test_adds_sample_after_sample(harness, name, begin, n):
    dtype, rng = FLOATS[name], np.random.default_rng(0)
    x, grads = rng.normal(size=2100).astype(dtype), rng.normal(size=(4, 2100)).astype(dtype)
    start = rng.normal(size=n).astype(dtype)
    inside = slice(begin, begin + n)
    for stdev in (0.0, 0.25):
        ends = x + dtype(stdev) * reference_noise(2100, samples=4).astype(dtype)
        expected = start
        for end, grad in zip(ends, grads, strict=True):
            expected = expected + end[inside] * grad[inside]
        run = getattr(harness, f"noisy_sums_{name}")
        np.testing.assert_array_equal(run(start, grads, x, stdev, SEED, begin), expected)


def test_half_precisions_are_summed_in_float(harness):
    rng = np.random.default_rng(0)
    x, grads = rng.normal(size=100).astype(np.float32), rng.normal(size=(4, 100)).astype(np.float32)
    zeros = np.zeros(100, np.float32)
    for name in ("half", "bfloat16"):
        narrow, widen = getattr(harness, f"float_to_{name}"), getattr(harness, f"{name}_to_float")
        x_bits, grad_bits = narrow(x), narrow(grads.ravel()).reshape(4, 100)
        run = getattr(harness, f"noisy_sums_{name}")
        found = run(zeros, grad_bits, x_bits, 0.0, SEED, 0)
        expected = zeros
        for grad in grad_bits:
            expected = expected + widen(x_bits) * widen(grad)
        np.testing.assert_array_equal(found, expected)
