"""Columns that look alike, and numbers that float64 does not hold."""

import numpy as np
import pandas as pd
import pytest

from fastxai import ArgumentError, IntegratedGradients, ShapleyValues
from fastxai.interop.tables import Table


def back(background, *others):
    """What comes back of all."""
    table, numbers = Table.of(background, "background")
    taken = [numbers]
    for other in others:
        found = table.take(other, "inputs")
        table = found.table
        taken.append(found.numbers)
    return [table.back(n) for n in taken]


def frame(*values, **options):
    return pd.DataFrame({"a": pd.Series(values, **options)})


def test_objects_that_are_equal_are_told_apart():
    values = [True, 1, 1.0, "x", None, float("nan"), pd.NA, np.float64("nan"), "1"]
    (found, other) = back(frame(*values, dtype=object), frame(0, False, dtype=object))
    assert list(map(type, found["a"])) == list(map(type, values))
    assert list(map(type, other["a"])) == [int, bool]


def test_truth_values_of_which_some_are_missing():
    given = frame(True, None, False, dtype=object)
    before, found = back(frame(True, False), given)
    assert before["a"].tolist() == [True, False]
    assert found["a"].tolist() == [True, None, False]


def test_integers_beyond_the_backgrounds_are_refused():
    for large in (2**53 + 1, 2**63 - 1):
        for dtype in ("int64", object):
            with pytest.raises(ArgumentError, match=rf"inputs: column 'a': .*2\^53.*{large}"):
                back(frame(1, 2), frame(1, large, dtype=dtype))
    with pytest.raises(ArgumentError, match="inputs: column 'a'"):
        back(frame(1, 2), frame(2**64 - 1, dtype="uint64"))


def test_what_cannot_be_hashed_is_refused():
    with pytest.raises(ArgumentError, match=r"background: column 'a': .*hashed"):
        back(frame([1], [1, 2]))


@pytest.mark.parametrize("dtype", ["Int64", "UInt8", "Float64", "boolean"])
def test_pandas_own_numbers_are_numbers(dtype):
    given = frame(1, 0, None, dtype=dtype)
    pd.testing.assert_frame_equal(back(given)[0], given)
    wider = back(given, frame(0.5, 1.0, None, dtype="Float64"))[1]
    assert wider["a"].dtype == "Float64" and wider["a"].isna().tolist() == [False, False, True]

    def model(rows):
        return rows["a"].astype("Float64").fillna(5).to_numpy(float)

    explanation = ShapleyValues(model).explain(given, background=given)
    np.testing.assert_allclose(explanation.values[:, 0], [1 - 2, 0 - 2, 5 - 2])
    assert np.isnan(explanation.data[2, 0])
    values = IntegratedGradients(lambda x: 3 * x[:, 0]).attribute(given[:2])
    np.testing.assert_allclose(values, [[3], [0]])


def test_missing_values_among_words_are_shown():
    given = pd.DataFrame({"s": pd.array(["u", pd.NA], dtype="string"), "b": [1, 2]})

    def model(rows):
        return rows["s"].map({"u": 1.0}).fillna(0).to_numpy(float) * rows["b"]

    explanation = ShapleyValues(model).explain(given, background=given)
    assert explanation.data[0].tolist() == ["u", 1] and np.isnan(explanation.data[1, 0])
