"""Data of other libraries in, and out again."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch

from fastxai import ArgumentError
from fastxai.interop.models import RowFunction, as_outputs
from fastxai.interop.tables import Table

ROWS = np.arange(12.0).reshape(4, 3)


@pytest.mark.parametrize(
    "form",
    [
        np.array,
        torch.tensor,
        pd.DataFrame,
        scipy.sparse.csr_matrix,
        scipy.sparse.coo_array,
        lambda x: x.tolist(),
        lambda x: x.astype(np.int32),
        lambda x: np.asfortranarray(x),
    ],
)
def test_rows_are_taken_and_copied(form):
    data = form(ROWS)
    table, rows = Table.of(data, "data")
    assert rows.dtype == torch.float64 and torch.equal(rows, torch.from_numpy(ROWS))
    rows.zero_()
    again = table.take(data, "X").numbers
    assert torch.equal(again, torch.from_numpy(ROWS))
    assert table.take(data, "X").is_single is False


@pytest.mark.parametrize("form", [np.array, torch.tensor, pd.Series, list])
def test_one_row(form):
    table, rows = Table.of(form([1.0, 2.0]), "data")
    assert rows.tolist() == [[1, 2]] and table.take(form([1.0, 2.0]), "X").is_single


def columns():
    return pd.DataFrame(
        {
            "int": np.array([1, 2, 3], np.int8),
            "large": [2**60, 2**60 + 1, 0],
            "bool": [True, False, True],
            "float": np.array([0.5, np.nan, 1], np.float32),
            "category": pd.Categorical(["x", None, "y"], ["y", "x", "z"], ordered=True),
            "text": ["a", "b", None],
            "mixed": pd.Series([1, "b", None], dtype=object),
            "time": pd.to_datetime(["2020-01-01", "2021-05-05", None]),
            "nullable": pd.array([1, None, 3], "Int64"),
        }
    )


def test_columns_come_back_as_they_were():
    frame = columns()
    table, numbers = Table.of(frame, "data")
    pd.testing.assert_frame_equal(table.back(numbers), frame)
    swapped = table.back(numbers[[2, 0, 1]])
    pd.testing.assert_frame_equal(swapped, frame.iloc[[2, 0, 1]].reset_index(drop=True))


def test_columns_called_alike_and_by_number():
    for names in (["a", "a"], [0, 1]):
        frame = pd.DataFrame([[1, "x"], [2, "y"]], columns=names)
        table, numbers = Table.of(frame, "data")
        pd.testing.assert_frame_equal(table.back(numbers), frame)


def test_a_row_of_a_frame_keeps_its_integers():
    frame = pd.DataFrame({"a": [1, 2], "b": [0.5, 1.5], "c": [True, False]})
    taken = Table.of(frame, "data")[0].take(frame.iloc[1], "X")
    pd.testing.assert_frame_equal(
        taken.table.back(taken.numbers), frame.iloc[[1]].reset_index(drop=True)
    )


def test_halves_among_integers_are_not_cut_off():
    table, _ = Table.of(pd.DataFrame({"a": [1, 2], "b": [True, False]}), "data")
    taken = table.take(pd.DataFrame({"a": [1.5, np.nan], "b": [True, False]}), "X")
    back = taken.table.back(taken.numbers)
    assert back["a"].iloc[0] == 1.5 and np.isnan(back["a"].iloc[1])
    assert back["b"].dtype == bool


def test_text_may_be_new_and_categories_may_not():
    frame = columns()[["text", "category"]]
    table, before = Table.of(frame, "data")
    new = frame.assign(text=["b", "new", "a"])
    taken = table.take(new, "X")
    pd.testing.assert_frame_equal(taken.table.back(taken.numbers), new)
    pd.testing.assert_frame_equal(taken.table.back(before), frame)
    plain = frame.assign(category=["z", "x", None])  # no categories, but known values
    codes = table.take(plain, "X").numbers[:, 1]
    assert codes.tolist() == [2, 1, -1]
    with pytest.raises(ArgumentError, match=r"X: column 'category'.*'y', 'x', 'z'.*'w'"):
        table.take(frame.assign(category=["w", "x", None]), "X")


def test_nothing_is_imported_that_the_user_has_not():
    code = """
import sys, numpy, torch, fastxai.shap as s
e = s.KernelExplainer(lambda z: z.sum(1), numpy.zeros((2, 3)))
e(numpy.ones((2, 3)), silent=True); e(torch.ones(2, 3), silent=True); s.sample([[1.0]] * 3, 2)
s.KernelExplainer(torch.nn.Linear(3, 2), [[0.0] * 3])([1.0, 2.0, 3.0], silent=True)
print([m for m in ("pandas", "scipy", "sklearn", "shap", "lightgbm") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(
    "found",
    [
        np.ones((2, 3), np.float32),
        torch.ones(2, 3, dtype=torch.bfloat16),
        pd.DataFrame(np.ones((2, 3))),
        np.ones((2, 3), bool),
    ],
)
def test_outputs_are_taken(found):
    outputs = as_outputs(found, 2)
    assert outputs.dtype == torch.float64 and outputs.tolist() == [[1.0] * 3] * 2


@pytest.mark.parametrize(
    "found",
    [[1.0, 2.0], 1.0, None, np.array([1.0, np.nan]), np.ones(3), np.ones((2, 1, 1)), np.ones(())],
)
def test_other_outputs_are_refused(found):
    with pytest.raises(ArgumentError, match="model: expected outputs"):
        as_outputs(found, 2)


def test_logits_are_taken():
    class Output:
        logits = torch.ones(2, 3)

    class Module(torch.nn.Module):
        def forward(self, x):
            return Output()

    table, rows = Table.of(ROWS[:2], "data")
    assert RowFunction(Module(), table)(rows).shape == (2, 3)
