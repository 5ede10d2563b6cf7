"""Draws from frequencies and from truncated normal distributions."""

import numpy as np
import pytest
import scipy.stats

import fastxai
from fastxai.lime._draws import Frequencies, TruncatedNormals, normal_quantiles, seed_of


@pytest.mark.parametrize("count", [1, 2, 6, 7, 40])
def test_spans_are_as_wide_as_frequencies(count):
    shares = np.random.default_rng(count).random(count)
    shares[count // 2 : -1] *= np.arange(count - 1 - count // 2) % 2  # some are never drawn
    shares[-1] = 0 if count > 2 else 1
    shares /= shares.sum()
    u = (np.arange(100_000) + 0.5) / 100_000
    drawn = Frequencies(shares)
    which = drawn.which(u)
    found = np.bincount(which, minlength=count) / len(u)
    np.testing.assert_allclose(found, shares, atol=2e-5)
    assert (found[shares == 0] == 0).all()
    inside = (u - drawn.starts[which]) / drawn.widths[which]
    assert inside.min() > -1e-9 and inside.max() < 1 + 1e-9
    last = drawn.which(np.array([0.0, 1 - 2.0**-53]))  # also where rounding leaves a gap
    assert (shares[last] > 0).all()


@pytest.mark.parametrize(
    "bounds", [(-1.0, 2.0), (0.5, 3.0), (8.0, 9.0), (-9.0, -8.0), (-0.1, 50.0)], ids=str
)
def test_quantiles_are_scipys(bounds):
    """In the tails, too, where shares next to 1 have no digits left."""
    low, high = (3 + 2 * z for z in bounds)
    normals = TruncatedNormals([3.0], [2.0], [low], [high])
    inside = np.linspace(0.001, 0.999, 99)
    which = np.zeros(99, dtype=np.int64)
    values = np.sort(normals.values(which, normal_quantiles(normals.shares(which, inside))))
    expected = scipy.stats.truncnorm.ppf(inside, *bounds, 3, 2)
    np.testing.assert_allclose(values, expected, rtol=1e-7)


@pytest.mark.parametrize(("bounds", "value"), [((60.0, 70.0), 60), ((-70.0, -60.0), -60)])
def test_where_nothing_is_left_it_is_the_next_bound(bounds, value):
    normals = TruncatedNormals([0.0], [1.0], *[[b] for b in bounds])
    which = np.zeros(5, dtype=np.int64)
    shares = normals.shares(which, np.linspace(0, 0.99, 5))
    assert (normals.values(which, normal_quantiles(shares)) == value).all()


def test_seeds():
    assert seed_of(3) == seed_of(np.int64(3)) == 3
    generator = np.random.default_rng(0)
    assert seed_of(generator) != seed_of(generator)
    for odd in (-1, 0.5, True, "a"):
        with pytest.raises(fastxai.ArgumentError, match=r"^random_state: expected"):
            seed_of(odd)
