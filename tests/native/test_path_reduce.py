import numpy as np
import pytest

FLOATS = {"float": np.float32, "double": np.float64, "half": np.float16}


def as_bits(array):
    return array.view(np.uint16) if array.dtype == np.float16 else array


def step_by_step(acc, grads, weights, wide):
    total = acc.copy()
    for grad, weight in zip(grads, weights, strict=True):
        total = total + wide(weight) * grad.astype(wide)
    return total


@pytest.mark.parametrize("with_acc", [True, False], ids=["acc", "no_acc"])
@pytest.mark.parametrize("steps", [0, 1, 3, 4, 9])
@pytest.mark.parametrize("begin,end", [(0, 3000), (1, 2), (5, 1030), (2999, 3000), (7, 7)])
@pytest.mark.parametrize("name", FLOATS)
def test_adds_step_after_step(harness, name, begin, end, steps, with_acc):
    dtype = FLOATS[name]
    wide = np.float64 if dtype == np.float64 else np.float32
    rng = np.random.default_rng(0)
    grads = rng.normal(size=(steps, 3000)).astype(dtype)
    weights = rng.normal(size=steps)
    acc = rng.normal(size=3000).astype(wide)
    run = getattr(harness, f"reduce_{name}")
    total = run(acc if with_acc else None, as_bits(grads), weights, begin, end, 77)
    expected = step_by_step(acc if with_acc else np.zeros_like(acc), grads, weights, wide)
    np.testing.assert_array_equal(total[begin:end], expected[begin:end])
    np.testing.assert_array_equal(np.delete(total, np.s_[begin:end]), 77)


def test_bfloat16(harness):
    rng = np.random.default_rng(0)
    bits = harness.float_to_bfloat16(rng.normal(size=500).astype(np.float32)).reshape(5, 100)
    weights = rng.normal(size=5)
    total = harness.reduce_bfloat16(None, bits, weights, 0, 100, 0)
    grads = harness.bfloat16_to_float(bits.reshape(-1)).reshape(5, 100)
    zeros = np.zeros(100, np.float32)
    np.testing.assert_array_equal(total, step_by_step(zeros, grads, weights, np.float32))
