import numpy as np
import pytest


def draw_coalitions(players, rows, seed=0):
    z = np.random.default_rng(seed).random((rows, players)) < 0.5
    octets = np.zeros((rows, -(-players // 64) * 8), np.uint8)
    packed = np.packbits(z, axis=1, bitorder="little")
    octets[:, : packed.shape[1]] = packed
    return octets.view("<i8").astype(np.int64), z.astype(np.int64)


def test_transpose(harness):
    words = np.random.default_rng(0).integers(0, 2**64, 64, dtype=np.uint64)

    def square(words):
        octets = words.astype("<u8").view(np.uint8).reshape(64, 8)
        return np.unpackbits(octets, axis=1, bitorder="little")

    np.testing.assert_array_equal(square(harness.transpose(words)), square(words).T)


def test_counts_a_pair_by_hand(harness):
    bits = np.array([[0b011], [0b111], [0b110], [0b010], [0b111]])
    rows = np.array([0, 1, 2, 3, 4])
    counts = harness.count_pairs(np.zeros((3, 3), int), bits, rows, 3, 0, 3)
    np.testing.assert_array_equal(counts, [[3, 0, 0], [3, 5, 0], [2, 3, 3]])


@pytest.mark.parametrize("rows", [0, 1, 63, 64, 65, 1000, 4096])
@pytest.mark.parametrize(
    "players,first,last", [(1, 0, 1), (49, 8, 16), (64, 56, 64), (130, 64, 72)]
)
def test_counts_pairs_of_its_players(harness, players, first, last, rows):
    bits, z = draw_coalitions(players, rows + 10)
    chosen = np.random.default_rng(1).permutation(rows + 10)[:rows]
    before = np.arange((last - first) * players).reshape(last - first, players)
    counts = harness.count_pairs(before, bits, chosen, players, first, last)
    added = z[chosen].T @ z[chosen]
    until_diagonal = np.tri(players, dtype=int)
    expected = before + (added * until_diagonal)[first:last]
    np.testing.assert_array_equal(counts, expected)


@pytest.mark.parametrize(
    "players,first,last,begin",
    [
        (1, 0, 1, 0),
        (9, 8, 9, 0),
        (49, 16, 24, 0),
        (130, 64, 72, 0),
        (130, 64, 72, 64),
        (64, 56, 64, 0),
    ],
)
def test_adds_rows_one_by_one(harness, players, first, last, begin):
    bits, z = draw_coalitions(players, 40)
    rng = np.random.default_rng(1)
    weights, before = rng.normal(size=40), rng.normal(size=(players, players))
    gram = harness.add_rows(before, bits, weights, first, last, begin)
    expected = before.copy()
    for row, weight in zip(z, weights, strict=True):
        expected += weight * np.outer(row, row)
    inside = np.zeros((players, players), bool)
    inside[first:last, begin : begin + 64] = True
    until_diagonal = inside & np.tri(players, dtype=bool)
    np.testing.assert_array_equal(gram[until_diagonal], expected[until_diagonal])
    beyond = np.arange(players) >= last
    np.testing.assert_array_equal(gram[~inside], before[~inside])
    np.testing.assert_array_equal(gram[:, beyond], before[:, beyond])


WEIGHTS = {
    "none": [],
    "one": [2.0, 2.0, 2.0],
    "zeros": [0.0, -0.0, 0.0, 1.0],
    "signs": [1.0, -1.0, 1.0, -2.0, 3.0],
    "special": [np.inf, 1.0, np.nan, -np.inf, 1.0, np.nan],
    "few": np.random.default_rng(0).integers(0, 30, 5000) / 7,
    "as many as are hashed": np.random.default_rng(0).permutation(1024) / 7,
    "one more": np.random.default_rng(0).permutation(1025) / 7,
    "hash collisions": np.random.default_rng(0).integers(0, 1000, 5000) * 2.0**-1000,
}


@pytest.mark.parametrize("by_sorting", [True, False], ids=["sorting", "hashing"])
@pytest.mark.parametrize("name", WEIGHTS)
def test_classes_of_weights(harness, name, by_sorting):
    weights = np.array(WEIGHTS[name], float)
    rows, classes = harness.weight_classes(weights, by_sorting)
    np.testing.assert_array_equal(np.sort(rows), np.arange(len(weights)))
    bits = weights.view(np.int64)
    assert len(classes) == len(np.unique(bits))
    ends = [0]
    for weight, begin, end in classes:
        assert begin == ends[-1] < end
        ends.append(end)
        same = np.full(end - begin, weight)
        np.testing.assert_array_equal(bits[rows[begin:end]], same.view(np.int64))
    assert ends[-1] == len(weights)
    numbers = [weight for weight, _, _ in classes if not np.isnan(weight)]
    assert numbers == sorted(numbers)
