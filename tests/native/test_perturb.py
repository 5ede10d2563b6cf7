import itertools

import numpy as np
import pytest

WORDS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
FILL = 77  # in no argument


def draw_words(rng, size, *shape):
    words = rng.integers(0, 2**32, shape, dtype=np.uint64).astype(WORDS[size])
    words[words == FILL] = 78
    return words


def draw_case(rng, size, shape, players, one_for_all, lanes_each=1):
    coalitions, backgrounds, examples, lanes = shape
    each = 1 if one_for_all else examples
    input = draw_words(rng, size, examples, lanes)
    baseline = draw_words(rng, size, each, backgrounds, lanes)
    low, high = -(2**63), 2**63 - 1
    bits = rng.integers(low, high, (coalitions, -(-players // 64)), endpoint=True)
    mask = rng.integers(0, players, (each, lanes // lanes_each)).astype(np.int32)
    # Half of them in order, so that neighbours share pieces of a coalition.
    half = mask.shape[1] // 2
    mask[:, :half].sort(axis=1)
    return input, baseline, bits, mask


def formula(input, baseline, bits, mask):
    lanes_each = input.shape[1] // mask.shape[1]
    ids = mask.repeat(lanes_each, axis=1)
    present = (bits[:, ids // 64] >> (ids % 64)) & 1 == 1  # [N, B | 1, lanes]
    return np.where(present[:, None], input, baseline.swapaxes(0, 1))  # [N, K, B, lanes]


SHAPES = [(3, 1, 1, 1), (2, 1, 1, 30), (2, 3, 70, 30), (2, 1, 3, 513), (3, 2, 2, 2100)]


@pytest.mark.parametrize("one_for_all", [False, True], ids=["each", "one_for_all"])
@pytest.mark.parametrize("players", [5, 40, 100, 700])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("size", WORDS)
def test_every_unit_writes_its_part_and_no_more(harness, size, shape, players, one_for_all):
    case = draw_case(np.random.default_rng(0), size, shape, players, one_for_all)
    perturb = getattr(harness, f"perturb_{size}")
    expected = formula(*case)
    rows, units, valid = perturb(*case, 0, 2**62, FILL)
    assert valid
    np.testing.assert_array_equal(rows, expected)
    written = np.zeros(shape, int)
    bounds = sorted({0, 1, units // 3, units // 2 + 1, units})
    for begin, end in itertools.pairwise(bounds):
        rows, _, _ = perturb(*case, begin, end, FILL)
        inside = rows != FILL
        np.testing.assert_array_equal(rows[inside], expected[inside])
        written += inside
    np.testing.assert_array_equal(written, 1)


@pytest.mark.parametrize("lanes", [2, 62, 2000])
def test_two_lanes_of_one_element_have_one_player(harness, lanes):
    case = draw_case(np.random.default_rng(0), 8, (3, 2, 4, lanes), 90, True, lanes_each=2)
    rows, _, _ = harness.perturb_8(*case, 0, 2**62, FILL)
    np.testing.assert_array_equal(rows, formula(*case))


@pytest.mark.parametrize("id", [-1, 64, 2**31 - 1])
@pytest.mark.parametrize("size", WORDS)
def test_tells_of_ids_out_of_range(harness, size, id):
    input, baseline, bits, mask = draw_case(np.random.default_rng(0), size, (2, 1, 2, 50), 64, True)
    mask[0, 49] = id
    _, _, valid = getattr(harness, f"perturb_{size}")(input, baseline, bits, mask, 0, 2**62, FILL)
    assert not valid
