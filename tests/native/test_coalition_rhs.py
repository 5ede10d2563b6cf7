import numpy as np
import pytest

from tests.native.test_coalition_gram import draw_coalitions

FLOATS = {"float": np.float32, "double": np.float64, "half": np.float16}


def test_sums_by_hand(harness):
    bits = np.array([[0b00011], [0b10010], [0b10001]])
    weights = np.array([1.0, 2.0, 0.5])
    values = np.array([[10.0], [100.0], [1000.0]])
    sums = harness.sum_block_double(bits, 0, weights, values, 0, 1, 0, 3, 5)
    np.testing.assert_array_equal(sums, [[510], [210], [0], [0], [700]])


@pytest.mark.parametrize("columns", [1, 2, 4, 5, 16])
@pytest.mark.parametrize("begin,end", [(0, 200), (3, 4), (17, 150), (5, 5)])
@pytest.mark.parametrize("name", FLOATS)
def test_sums_its_rows_players_and_outputs(harness, name, begin, end, columns):
    rng = np.random.default_rng(0)
    bits, z = draw_coalitions(100, 200)
    weights = rng.integers(-3, 4, 200).astype(float)  # whole numbers: sums are exact
    values = rng.integers(-50, 50, (200, 20)).astype(FLOATS[name])
    run = getattr(harness, f"sum_block_{name}")
    as_bits = values.view(np.uint16) if name == "half" else values
    terms = weights[begin:end, None] * values[begin:end, 3 : 3 + columns].astype(float)
    expected = z[begin:end].T @ terms
    for word, players in ((0, 64), (0, 9), (1, 36), (1, 35)):
        sums = run(bits, word, weights, as_bits, 3, columns, begin, end, players)
        np.testing.assert_array_equal(sums[:, :columns], expected[64 * word :][:players])
        assert (sums[:, columns:] == 0).all()
