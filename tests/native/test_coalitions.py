import itertools
import math

import numpy as np
import pytest


def pack(subset):
    return sum(1 << player for player in subset)


def in_colex_order(players, size):
    """Colexicographic order of subsets is the order of their bits as numbers."""
    return sorted(pack(subset) for subset in itertools.combinations(range(players), size))


def as_numbers(bits):
    words = bits.astype(np.uint64).reshape(len(bits), -1)
    return [sum(int(word) << 64 * w for w, word in enumerate(row)) for row in words]


def colex_rank(subset):
    return sum(math.comb(player, k) for k, player in enumerate(sorted(subset), 1))


@pytest.mark.parametrize("tabulated", [True, False], ids=["table", "no_table"])
@pytest.mark.parametrize("players", [1, 2, 5, 8, 11])
def test_unrank_goes_through_all_subsets_in_colex_order(harness, players, tabulated):
    for size in range(players // 2 + 1):
        numbers = np.arange(math.comb(players, size))
        bits = harness.unrank(players, size, numbers, tabulated)
        assert as_numbers(bits) == in_colex_order(players, size)


@pytest.mark.parametrize("tabulated", [True, False], ids=["table", "no_table"])
@pytest.mark.parametrize("players,size", [(65, 32), (64, 32), (130, 9), (1000, 5), (40_000, 4)])
def test_unrank_inverts_the_rank(harness, players, size, tabulated):
    rng = np.random.default_rng(0)
    drawn = [rng.choice(players, size, replace=False).tolist() for _ in range(30)]
    subsets = [list(range(size)), list(range(players - size, players)), *drawn]
    numbers = np.array([colex_rank(subset) for subset in subsets])
    bits = harness.unrank(players, size, numbers, tabulated)
    assert as_numbers(bits) == [pack(subset) for subset in subsets]


@pytest.mark.parametrize("players", [1, 2, 7, 49, 63, 64])
def test_a_tile_of_subsets_is_one_by_one(harness, players):
    rng = np.random.default_rng(0)
    sizes = rng.integers(0, players // 2, 64, endpoint=True)
    numbers = np.array([rng.integers(0, math.comb(players, size)) for size in sizes])
    numbers[:5] = [math.comb(players, size) - 1 for size in sizes[:5]]
    expected = [
        harness.unrank(players, size, numbers[i : i + 1], True)[0, 0]
        for i, size in enumerate(sizes)
    ]
    np.testing.assert_array_equal(harness.unrank_tile(players, sizes, numbers), expected)


@pytest.mark.parametrize("count", [*range(1, 40), 64, 100, 2047, 2048, 2049, 4096, 4097, 100_000])
def test_permute_is_a_permutation_that_the_seed_sets(harness, count):
    orders = [harness.permute(count, 3, 30, seed) for seed in range(4)]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(count))
    if count > 10:
        assert len({tuple(order) for order in orders}) == 4
        assert not any((order == np.arange(count)).mean() > 0.5 for order in orders)


def test_sizes_that_are_numbered(harness):
    for players in (1, 2, 3, 10, 64, 65, 66, 67, 100, 1000, 32_767, 150_528, 2**24):
        numbered = harness.countable_sizes(players)
        assert math.comb(players, numbered - 1) < 2**62
        assert 2 * numbered > players or math.comb(players, numbered) >= 2**62


@pytest.mark.parametrize("players", [49, 130])
def test_writes_its_rows_and_no_more(harness, players):
    rng = np.random.default_rng(0)
    sizes = rng.integers(-1, players, 300, endpoint=True)
    ranks = np.array([rng.integers(0, min(math.comb(players, max(s, 0)), 2**62)) for s in sizes])
    whole = harness.coalitions(players, sizes, ranks, 9, 0, 300, 77)
    for begin, end in ((0, 1), (5, 64), (63, 200), (299, 300), (8, 8)):
        bits = harness.coalitions(players, sizes, ranks, 9, begin, end, 77)
        np.testing.assert_array_equal(bits[begin:end], whole[begin:end])
        assert (np.delete(bits, np.s_[begin:end], axis=0) == 77).all()
