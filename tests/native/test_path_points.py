import numpy as np
import pytest

FLOATS = {"float": np.float32, "double": np.float64, "half": np.float16}


def as_bits(array):
    return array.view(np.uint16) if array.dtype == np.float16 else array


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("begin,n", [(0, 1024), (0, 1), (5, 17), (1024, 1000), (2000, 48), (7, 0)])
@pytest.mark.parametrize("period", [2048, 1024, 30, 1])
def test_writes_its_tile_and_no_more(harness, name, begin, n, period):
    dtype = FLOATS[name]
    rng = np.random.default_rng(0)
    size = 2048 - 2048 % period
    n = min(n, size - begin)
    input, baseline = rng.normal(size=size).astype(dtype), rng.normal(size=period).astype(dtype)
    alphas = rng.random(5)
    fill = as_bits(np.array([77], dtype))[0]
    run = getattr(harness, f"points_{name}")
    points = run(as_bits(input), as_bits(baseline), alphas, begin, n, fill).view(dtype)
    wide = np.float64 if dtype == np.float64 else np.float32
    start = np.resize(baseline, size).astype(wide)
    expected = (start + alphas.astype(wide)[:, None] * (input.astype(wide) - start)).astype(dtype)
    inside = np.zeros(size, bool)
    inside[begin : begin + n] = True
    np.testing.assert_array_equal(points[:, inside], expected[:, inside])
    np.testing.assert_array_equal(points[:, ~inside], 77)


def test_bfloat16(harness):
    rng = np.random.default_rng(0)
    bits = harness.float_to_bfloat16(rng.normal(size=200).astype(np.float32))
    start, end = bits[:100], bits[100:]
    points = harness.points_bfloat16(end, start, np.array([0.25, 0.7]), 0, 100, 0)
    b, x = harness.bfloat16_to_float(start), harness.bfloat16_to_float(end)
    for row, alpha in zip(points, (np.float32(0.25), np.float32(0.7)), strict=True):
        np.testing.assert_array_equal(row, harness.float_to_bfloat16(b + alpha * (x - b)))
