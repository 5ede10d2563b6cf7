"""Explanations are kept, cut and handed on without losing what they are about."""

import json
import os
import struct
import sys
from dataclasses import fields, replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

import fastxai
from fastxai import ArgumentError, Explanation

from ..methods import METHODS
from ..models import Exact, TwoInputs, mlp

NAMES = list("abcd")


def two(x):
    return torch.stack([x.sum(1), x[:, 0] * x[:, 1]], 1)


def explained(model=two, rows=3, **others):
    x = torch.rand(rows, 4, generator=torch.Generator().manual_seed(0))
    found = fastxai.KernelShap(model).explain(x, seed=0, **others)
    return replace(found, feature_names=NAMES, output_names=["cat", "dog"])


def of_method(name):
    """The explanation of a method in the table, by a model that suits it."""
    method, model = METHODS[name], Exact(12)
    rows = 1 if name == "LimeBase" else 2
    x = torch.rand(rows, 1, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return method.over(model, model.scale).explain(x, **method.options(x, target=1))


EXPLAINED = {
    **{name: lambda name=name: of_method(name) for name in METHODS},
    "outputs": explained,
    "row": lambda: explained()[1],
    "feature": lambda: explained()[:, "b"],
    "cell": lambda: explained()[1, 2, 0],
    "one output": lambda: explained(lambda x: two(x)[:, :1]),
    "outputs in rows": lambda: fastxai.FeatureAblation(two).explain(torch.rand(3, 4)),
    "batch": lambda: fastxai.FeatureAblation(torch.sum).explain(torch.rand(3, 4)),
    "summed": lambda: fastxai.Saliency(torch.sum).explain(torch.rand(3, 4)),
    "empty": lambda: fastxai.IntegratedGradients(mlp()).explain(torch.empty(0, 7), target=0),
    "two inputs": lambda: fastxai.KernelShap(TwoInputs()).explain(
        (torch.rand(3, 4), torch.rand(3, 2, 3)), target=[1, 0, 1], n_samples=30
    ),
    "tuple targets": lambda: fastxai.Saliency(lambda x: x[:, :, None] * x[:, None]).explain(
        torch.rand(2, 3), target=[(0, 1), (2, 2)]
    ),
    "tensor target": lambda: fastxai.Saliency(mlp()).explain(
        torch.rand(3, 7), target=torch.tensor([0, 2, 1])
    ),
    "bfloat16": lambda: fastxai.Saliency(mlp().bfloat16()).explain(
        torch.rand(3, 7, dtype=torch.bfloat16), target=1
    ),
    "groups": lambda: explained(
        feature_mask=torch.tensor([[0, 0, 1, 1]]), return_input_shape=False
    ),
    "layers": lambda: by_layers(),
    "nan": lambda: replace(explained(), values=torch.full((3, 2, 4), torch.nan)),
    "ids": lambda: fastxai.KernelShap(lambda x: x.double().sum(1)).explain(torch.arange(6)[None]),
    "sampled": lambda: fastxai.KernelShap(mlp()).explain(torch.rand(2, 7), target=0, n_samples=40),
}


def by_layers():
    model = mlp()
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Linear)][:2]
    return fastxai.attr.LayerActivation(model, layers).explain(torch.rand(3, 7))


@pytest.mark.parametrize("name", EXPLAINED)
def test_what_is_saved_comes_back_equal(name, tmp_path):
    found = EXPLAINED[name]()
    found.save(tmp_path / "found")
    back = Explanation.load(str(tmp_path / "found"))
    assert back == found and not back != found
    assert os.listdir(tmp_path) == ["found"]
    assert type(back.values) is type(found.values) and repr(back) == repr(found)


def test_what_explain_fills_in():
    x, target = torch.rand(3, 7), torch.tensor([0, 2, 1])
    found = fastxai.Saliency(mlp()).explain(x, target=target)
    assert torch.equal(found.data, x) and torch.equal(found.target, target)
    was = x.clone()
    x.zero_(), target.zero_()  # the buffers of the caller's loop
    assert torch.equal(found.data, was) and found.target.tolist() == [0, 2, 1]
    tunnel = fastxai.NoiseTunnel(fastxai.Saliency(mlp()))
    found = tunnel.explain(was, target=2, nt_samples=2)
    assert torch.equal(found.data, was) and found.target == 2
    both = EXPLAINED["two inputs"]()
    assert isinstance(both.data, tuple) and both.data[1].shape == (3, 2, 3)


def test_names_are_strings_in_a_tuple():
    assert explained().feature_names == tuple(NAMES)
    assert replace(explained(), feature_names=range(4)).feature_names == tuple("0123")
    with pytest.raises(ArgumentError, match="feature_names: expected a sequence of names"):
        replace(explained(), feature_names="abcd")


def test_parts():
    e = explained()  # values [3, 2, 4]
    row, some, one, dog = e[1], e[[2, 0]], e[:, "b"], e[..., "dog"]
    assert torch.equal(row.values, e.values[1]) and torch.equal(row.outputs, e.outputs[1])
    assert torch.equal(row.data, e.data[1]) and row.is_row and row.samples.dim() == 0
    assert torch.equal(some.values, e.values[[2, 0]]) and torch.equal(some.data, e.data[[2, 0]])
    assert torch.equal(one.values, e.values[:, :, 1]) and torch.equal(one.data, e.data[:, 1])
    assert one.feature_names == ("b",) and one.output_names == ("cat", "dog")
    assert torch.equal(one.standard_errors, e.standard_errors[:, :, 1])
    assert torch.equal(one.outputs, e.outputs)
    assert torch.equal(dog.values, e.values[:, 1]) and torch.equal(dog.outputs, e.outputs[:, 1])
    assert torch.equal(dog.baseline_outputs, e.baseline_outputs[:, 1])
    assert torch.equal(dog.convergence_delta, e.convergence_delta[:, 1])
    assert dog.output_names == ("dog",) and torch.equal(dog.data, e.data)
    # shap's order of indices, wherever values has the outputs
    assert e[1, "c", "dog"].values == e.values[1, 1, 2] and e[1, 2, 1] == e[1, "c", "dog"]
    assert row["c", "dog"] == e[1, "c", "dog"] and row[..., "dog"] == dog[1]
    both = e[:, ["d", "a"]]
    assert torch.equal(both.values, e.values[:, :, [3, 0]]) and both.feature_names == ("d", "a")
    assert torch.equal(both.data, e.data[:, [3, 0]])
    pairs = e[[0, 1, 2], [3, 0], [1]]  # each for its own axis
    assert torch.equal(pairs.values, e.values[:, [1]][:, :, [3, 0]])


@pytest.mark.parametrize(
    "key, rows",
    [
        (slice(None, 2), [0, 1]),
        (slice(None, None, -1), [2, 1, 0]),
        (torch.tensor([True, False, True]), [0, 2]),
        (np.array([True, False, True]), [0, 2]),
        ([True, False, True], [0, 2]),
        (torch.tensor([2, 2]), [2, 2]),
        ([-1], [2]),
        (range(1, 3), [1, 2]),
        ([], []),
        (..., [0, 1, 2]),
    ],
    ids=str,
)
def test_rows(key, rows):
    e = explained()
    part = e[key]
    assert len(part) == len(rows) and not part.is_row
    for field in fields(Explanation):
        value = getattr(e, field.name)
        expected = value[rows] if isinstance(value, torch.Tensor) else value
        got = getattr(part, field.name)
        same = torch.equal(got, expected) if isinstance(value, torch.Tensor) else got == expected
        assert same, field.name


@pytest.mark.parametrize("row", [np.int64(-2), torch.tensor(1), 1], ids=str)
def test_one_row(row):
    assert explained()[row] == explained()[1] and explained()[row].is_row


def test_every_explanation_can_be_cut_and_iterated():
    for name, make in EXPLAINED.items():
        found = make()
        if found.is_row:
            continue
        assert found[:] == found[...], name
        rows = list(found)
        assert len(rows) == len(found), name
        assert all(row.is_row and "Explanation(" in repr(row) for row in rows), name
        if rows:
            assert found[-1] == rows[-1] and len(found[[0, -1]]) == 2, name


def test_parts_of_targets_layers_and_batches():
    both = EXPLAINED["two inputs"]()
    assert both[1].target == 0 and both[1:].target == [0, 1] and both[[2, 0]].target == [1, 1]
    assert both[1].values[1].shape == (2, 3) and both[1].data[1].shape == (2, 3)
    assert EXPLAINED["tensor target"]()[[2, 1]].target.tolist() == [1, 2]
    assert [v.shape[0] for v in by_layers()[:2].values] == [2, 2]
    with pytest.raises(IndexError, match=r"at most 1 indices \(row\), got 2"):
        both[:, "a"]
    batch = EXPLAINED["batch"]()
    assert len(batch) == 1 and batch[0].data.shape == (3, 4)  # it is about all of them
    rows = EXPLAINED["summed"]()  # one output of all rows
    assert rows[:2].values.shape == (2, 4) and rows[:2].outputs.shape == (1,)
    assert rows[2].outputs.shape == () and len(rows[2]) == 4
    flat = EXPLAINED["outputs in rows"]()  # Captum's [B · C, F]
    assert flat.values.shape == (6, 4) and len(flat) == 3
    assert torch.equal(flat[1].values, flat.values[2:4])
    image = of_method("Saliency")
    assert image[0, :, 1:].values.shape == (1, 2, 4) and len(image[0]) == 1


@pytest.mark.parametrize(
    "key, error, message",
    [
        (3, IndexError, "places of 3 rows"),
        (-4, IndexError, "places of 3 rows"),
        ([0, 5], IndexError, "places of 3 rows"),
        ("a", ArgumentError, "a number, as rows have no names, got 'a'"),
        ((0, "e"), ArgumentError, "one of the features a, b, c, d, got 'e'"),
        ((0, "cat"), ArgumentError, "one of the features"),
        ((..., "cow"), ArgumentError, "one of the outputs cat, dog, got 'cow'"),
        ([True, False], IndexError, "a mask of the 3 rows, got 2"),
        (torch.zeros(3, 4, dtype=torch.bool), IndexError, "places, a mask or names of the rows"),
        (0.5, IndexError, "places, a mask or names of the rows, got 0.5"),
        (None, IndexError, "got None"),
        (True, IndexError, "got True"),
        ((0, 0, 0, 0), IndexError, r"at most 3 indices \(row, feature, output\), got 4"),
        ((..., 0, ...), IndexError, "at most 3 indices"),
    ],
    ids=str,
)
def test_what_is_not_there(key, error, message):
    with pytest.raises(error, match=message):
        explained()[key]


def test_equality():
    e = explained()
    assert e == replace(e, values=e.values.clone()) and e != 3 and e != replace(e, tier="other")
    for field in ("values", "outputs", "baseline_outputs", "standard_errors", "samples", "data"):
        value = getattr(e, field)
        assert e != replace(e, **{field: None}) and e != replace(e, **{field: (value,)})
        assert e != replace(e, **{field: value + 1}) and e != replace(e, **{field: value[:1]})
    assert e != replace(e, values=e.values.double())
    holed = e.values.clone()
    holed[0, 0, 0] = torch.nan
    assert replace(e, values=holed) == replace(e, values=holed.clone()) != e
    assert isinstance(e == e, bool)
    with pytest.raises(TypeError, match="unhashable"):
        hash(e)
