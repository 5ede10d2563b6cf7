import numpy as np
import pytest
import torch

from fastxai.ops import reference
from fastxai.ops.reference.draws import noisy_draws

FLOATS = {"float": np.float32, "double": np.float64}
SEED = 123456789123


def reference_noise(features, samples=1, first=5):
    """Of example 7 in stream 3, [samples, features]."""
    zeros = torch.zeros(1, features)
    last = first + samples
    rows = reference.noisy_points(zeros, None, 1.0, SEED, 3, last, 7, first, last, None)
    return rows[:, 0].numpy()


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 100, 257])
def test_shuffled_is_a_permutation_that_the_shift_moves(harness, count):
    rng = np.random.default_rng(0)
    seen = set()
    for key, shift in rng.integers(0, 2**32, (20, 2)).tolist():
        order = [harness.shuffled(i, count, key, shift) for i in range(count)]
        assert sorted(order) == list(range(count))
        moved = [harness.shuffled(i, count, key, shift + 1) for i in range(count)]
        if shift + 1 < 2**32:
            assert moved == [(place + 1) % count for place in order]
        seen.add(tuple((place - order[0]) % count for place in order))
    assert len(seen) >= min(count - 1, 10)


@pytest.mark.parametrize(
    ("samples", "baselines"), [(50, 10), (25, 10), (5, 100), (12, 1), (1, 1), (1000, 7)]
)
def test_draws_are_the_reference_s(harness, samples, baselines):
    example = 2**33 + 1
    picks, alphas = noisy_draws(
        torch.zeros(1, 1), torch.zeros(baselines, 1), SEED, samples, example, 0, samples
    )
    for n in range(samples):
        pick, alpha = harness.draw(n, example, samples, baselines, SEED)
        assert (pick, alpha) == (picks[n, 0].item(), alphas[n, 0].item())


def test_logarithm(harness):
    values = np.concatenate([np.arange(1, 5001), np.arange(2**24 - 5000, 2**24 + 1)]) * 2.0**-24
    exact = np.log(values)
    found = harness.logarithm(values.astype(np.float32)).astype(np.float64)
    assert (np.abs(found - exact) <= 1.5e-7 * np.abs(exact) + 1e-12).all()


def test_box_muller(harness):
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 2**32, (2, 20000), dtype=np.uint32)
    first[:2], second[:8] = (0, 2**32 - 1), [0, 1, 2, 3, 2**31, 2**31 + 1, 2**31 - 1, 2**32 - 1]
    one, other = harness.box_muller(first, second).astype(np.float64)
    radius = np.sqrt(-2 * np.log(((first >> 8).astype(np.float64) + 1) * 2.0**-24))
    within = (second.view(np.int32) >> 8) * 2.0**-23 * np.pi / 4
    angle = (second & 3) * np.pi / 2 + within
    np.testing.assert_allclose(one, radius * np.cos(angle), atol=1e-6, rtol=0)
    np.testing.assert_allclose(other, radius * np.sin(angle), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("has_baseline", [True, False])
@pytest.mark.parametrize("begin,n", [(0, 1024), (0, 1), (0, 65), (1024, 1000), (2048, 48)])
def test_writes_its_tile_and_no_more(harness, name, has_baseline, begin, n):
    dtype, rng = FLOATS[name], np.random.default_rng(0)
    x, b = rng.normal(size=(2, 2100)).astype(dtype)
    noise = reference_noise(2100)[0].astype(dtype)
    run = getattr(harness, f"noisy_{name}")
    for stdev in (0.0, 0.25):
        ends = x + dtype(stdev) * noise
        expected = b + dtype(0.375) * (ends - b) if has_baseline else ends
        row = run(x, b if has_baseline else None, 0.375, stdev, SEED, begin, n, 77)
        inside = np.zeros(2100, bool)
        inside[begin : begin + n] = True
        np.testing.assert_array_equal(row[inside], expected[inside])
        np.testing.assert_array_equal(row[~inside], 77)


def test_half_precisions(harness):
    rng = np.random.default_rng(0)
    x, b = rng.normal(size=(2, 100)).astype(np.float32)
    for name, to_float in (("half", "half_to_float"), ("bfloat16", "bfloat16_to_float")):
        narrow, widen = getattr(harness, f"float_to_{name}"), getattr(harness, to_float)
        x_bits, b_bits = narrow(x), narrow(b)
        ends = widen(x_bits) + np.float32(0.25) * reference_noise(100)[0]
        expected = widen(b_bits) + np.float32(0.375) * (ends - widen(b_bits))
        row = getattr(harness, f"noisy_{name}")(x_bits, b_bits, 0.375, 0.25, SEED, 0, 100, 0)
        np.testing.assert_array_equal(row, narrow(expected))
