import numpy as np
import pytest

FILL = 77  # in no result

# Examples, outputs and features: one unit of work, several columns, several blocks of examples.
SHAPES = [(1, 5, 9), (3, 40, 70), (4, 16, 16), (18, 33, 20), (40, 20, 33)]
FLOATS = {"float": np.float32, "double": np.float64}


def draw_case(rng, examples, outputs, features, one_for_all):
    """Whole numbers, whose sums are exact."""
    each = 1 if one_for_all else examples
    values = rng.integers(-3, 4, (examples, 40))
    positions = rng.integers(2, features - 1, (each, 40))
    offsets = rng.integers(0, 41, (each, 6))
    weight = rng.integers(-3, 4, (outputs, features))
    return values, positions, offsets, weight


def formula(values, positions, offsets, weight):
    out = np.zeros((offsets.shape[1] - 1, len(values), len(weight)))
    for g, b in np.ndindex(out.shape[:2]):
        m = 0 if len(offsets) == 1 else b
        group = slice(*offsets[m, g : g + 2])
        out[g, b] = weight[:, positions[m, group]] @ values[b, group]
    return out


@pytest.mark.parametrize("one_for_all", [False, True], ids=["each", "one_for_all"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", FLOATS)
def test_writes_its_units_and_no_more(harness, name, shape, one_for_all):
    examples, outputs, features = shape
    values, *tables, weight = case = draw_case(np.random.default_rng(0), *shape, one_for_all)
    expected = formula(*case)
    values, weight = values.astype(FLOATS[name]), weight.astype(FLOATS[name])
    run = getattr(harness, f"group_linear_{name}")
    size = 8 if name == "double" else 16
    blocks = -(-examples // 16)
    count = -(-outputs // size) * blocks
    for begin, end in {(0, count), (1, count), (0, count - 1), (count // 2, count // 2)}:
        out, units = run(values, *tables, weight, 2, features - 1, begin, end, FILL)
        assert units == count
        unit = np.arange(outputs) // size * blocks + np.arange(examples)[:, None] // 16
        written = (begin <= unit) & (unit < end)
        np.testing.assert_array_equal(out, np.where(written, expected, FILL))


@pytest.mark.parametrize("one_for_all", [False, True], ids=["each", "one_for_all"])
def test_range_of_positions(harness, one_for_all):
    each = 1 if one_for_all else 3
    rng = np.random.default_rng(0)
    positions = rng.integers(-(2**62), 2**62, (each, 50))
    offsets = np.sort(rng.integers(5, 45, (each, 4)), axis=1)
    used = np.concatenate(
        [p[o[0] : o[-1]] for p, o in zip(positions, offsets, strict=True)], dtype=np.int64
    )
    found = harness.position_range(positions, offsets, 3)
    assert found == (used.min(), used.max(), True)


def test_range_of_no_positions(harness):
    first, last, valid = harness.position_range(np.arange(9)[None], np.array([[5, 3, 3, 0]]), 2)
    assert valid
    assert first > last


@pytest.mark.parametrize("wrong", [-1, 10, 2**62])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_offsets_out_of_range(harness, at, wrong):
    offsets = np.array([[2, 4, 4], [0, 3, 9]])
    offsets[1, at] = wrong
    assert not harness.position_range(np.zeros((1, 9), np.int64), offsets, 2)[2]
