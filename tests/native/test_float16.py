import numpy as np
import pytest

ALL_BITS = np.arange(2**16, dtype=np.uint16)


def assert_same_floats(got, expected):
    """The same bits, save for which NaN it is."""
    nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(got), nan)
    np.testing.assert_array_equal(got.view(np.uint32)[~nan], expected.view(np.uint32)[~nan])


def assert_same_halves(got, expected):
    nan = np.isnan(expected.view(np.float16))
    np.testing.assert_array_equal(np.isnan(got.view(np.float16)), nan)
    np.testing.assert_array_equal(got[~nan], expected[~nan])


def awkward_floats():
    """Every half, the midpoints between halves and their neighbours, and floats at random."""
    halves = ALL_BITS.view(np.float16).astype(np.float32)
    halves = np.unique(halves[np.isfinite(halves)])
    middles = np.concatenate([(halves[1:] + halves[:-1]) / 2, np.float32([65520, -65520])])
    near = [np.nextafter(middles, np.float32(to)) for to in (-np.inf, np.inf)]
    any_bits = np.random.default_rng(0).integers(0, 2**32, 500_000, dtype=np.uint32)
    special = np.float32([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, 65504, 65519.996, 3.4e38])
    return np.concatenate([halves, middles, *near, any_bits.view(np.float32), special])


def test_every_half_to_float(harness):
    expected = ALL_BITS.view(np.float16).astype(np.float32)
    assert_same_floats(harness.half_to_float(ALL_BITS), expected)


def test_every_bfloat16_to_float(harness):
    expected = (ALL_BITS.astype(np.uint32) << 16).view(np.float32)
    assert_same_floats(harness.bfloat16_to_float(ALL_BITS), expected)


@pytest.mark.filterwarnings("ignore:overflow")
def test_float_to_half_rounds_to_nearest_even(harness):
    floats = awkward_floats()
    expected = floats.astype(np.float16).view(np.uint16)
    assert_same_halves(harness.float_to_half(floats), expected)


def test_float_to_bfloat16_rounds_to_nearest_even(harness):
    torch = pytest.importorskip("torch")
    every = harness.bfloat16_to_float(ALL_BITS)
    every = np.unique(every[np.isfinite(every)]).astype(np.float64)
    middles = ((every[1:] + every[:-1]) / 2).astype(np.float32)
    near = [np.nextafter(middles, np.float32(to)) for to in (-np.inf, np.inf)]
    floats = np.concatenate([awkward_floats(), middles, *near])
    expected = torch.from_numpy(floats).bfloat16().float().numpy()
    assert_same_floats(harness.bfloat16_to_float(harness.float_to_bfloat16(floats)), expected)
