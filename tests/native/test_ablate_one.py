import numpy as np
import pytest

FILL = 77  # in no argument


def draw_case(rng, groups, examples, features, one_for_all):
    each = 1 if one_for_all else examples
    input = rng.integers(0, FILL, (examples, features))
    baseline = rng.integers(FILL + 1, 255, (3, features))
    source = rng.integers(0, 3, (1 if one_for_all else groups, examples))
    positions = rng.integers(0, features, (each, 20))
    offsets = rng.integers(0, 21, (each, groups + 1))
    return input, baseline, source, positions, offsets


def formula(input, baseline, source, positions, offsets):
    groups, examples = offsets.shape[1] - 1, len(input)
    rows = np.repeat(input[None], groups, axis=0)
    for g in range(groups):
        for b in range(examples):
            m = 0 if len(offsets) == 1 else b
            chosen = positions[m, offsets[m, g] : offsets[m, g + 1]]
            rows[g, b, chosen] = baseline[source[0 if len(source) == 1 else g, b], chosen]
    return rows


@pytest.mark.parametrize("one_for_all", [False, True], ids=["each", "one_for_all"])
@pytest.mark.parametrize("groups,examples,features", [(4, 3, 7), (3, 1500, 30), (2, 2, 40_000)])
@pytest.mark.parametrize("size,dtype", [(1, np.uint8), (4, np.uint32)])
def test_writes_its_rows_and_no_more(harness, size, dtype, groups, examples, features, one_for_all):
    case = draw_case(np.random.default_rng(0), groups, examples, features, one_for_all)
    input, baseline, *tables = case
    expected = formula(*case)
    count = groups * examples
    for begin, end in [(0, count), (1, count - 1), (examples - 1, examples + 1), (2, 2)]:
        run = getattr(harness, f"ablate_{size}")
        arguments = (input.astype(dtype), baseline.astype(dtype), *tables)
        rows, valid = run(*arguments, begin, end, FILL)
        assert valid
        rows = rows.reshape(count, features)
        np.testing.assert_array_equal(rows[begin:end], expected.reshape(count, -1)[begin:end])
        np.testing.assert_array_equal(np.delete(rows, slice(begin, end), 0), FILL)


@pytest.mark.parametrize("table", ["source", "positions", "offsets"])
@pytest.mark.parametrize("wrong", [-1, 2**40])
def test_leaves_out_what_is_out_of_range(harness, table, wrong):
    tables = {
        "source": np.zeros((1, 2), np.int64),
        "positions": np.arange(4)[None],
        "offsets": np.array([[0, 2, 4]]),
    }
    tables[table][0, -1] = wrong
    input, baseline = np.zeros((2, 4), np.uint32), np.ones((1, 4), np.uint32)
    rows, valid = harness.ablate_4(input, baseline, *tables.values(), 0, 4, FILL)
    assert not valid
    left_out = {"source": rows[:, 1], "positions": rows[1, :, 3], "offsets": rows[1]}
    assert not left_out[table].any()
    assert rows[0, 0].tolist() == [1, 1, 0, 0]
