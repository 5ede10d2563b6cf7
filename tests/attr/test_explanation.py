"""Explanations are cut and handed on without losing what they are about."""

import subprocess
import sys
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

import fastxai
from fastxai import ArgumentError, Explanation

from ..explanations import EXPLAINED, NAMES, by_layers, explained, of_method
from ..models import mlp


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
    ints = fastxai.Saliency(mlp()).explain(was, target=np.int64(1))
    assert type(ints.target) is int
    # Of layers and groups it would not be known what belongs to what.
    assert EXPLAINED["groups"]().data is None and by_layers().data is None
    assert of_method("LayerGradCam").data is None and of_method("GuidedGradCam").data is not None
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
    each = replace(e, target=torch.tensor([0, 2, 1]))
    assert each[1].target == 2 and each[1]["c"].target == 2 and each[1]["c"].target.dim() == 0
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
    found = explained()
    assert found[row] == found[1] and found[row].is_row


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


def test_to_shap():
    pytest.importorskip("shap")
    e = explained()
    s = replace(e, feature_names=None, output_names=None).to_shap()
    assert s.values.shape == (3, 4, 2) and s.values.dtype == np.float64
    assert s.base_values.shape == (3, 2) and s.data.shape == (3, 4)
    np.testing.assert_array_equal(s.values[..., 1], e.values[:, 1].double())
    np.testing.assert_array_equal(s.base_values, e.baseline_outputs.double())
    assert s.feature_names == [f"Feature {i}" for i in range(4)]
    assert list(s.output_names) == ["Output 0", "Output 1"]  # shap's own
    named = e.to_shap()
    assert list(named.feature_names) == NAMES and list(named.output_names) == ["cat", "dog"]
    given = e.to_shap(feature_names=list("wxyz"), output_names=["p", "q"])
    assert list(given.feature_names) == list("wxyz") and list(given.output_names) == ["p", "q"]
    np.testing.assert_allclose(s.values.sum(1) + s.base_values, e.outputs, atol=1e-6)
    np.testing.assert_array_equal(named.error_std[:, :, 0], e.standard_errors[:, 0].double())
    row = e[1].to_shap()
    assert row.shape == (4, 2) and row.base_values.shape == (2,) and row.data.shape == (4,)
    assert e[..., "dog"].to_shap().values.shape == (3, 4)
    assert e[:, "b", "dog"].to_shap().feature_names == "b"


def test_to_shap_of_other_forms():
    pytest.importorskip("shap")
    both = EXPLAINED["two inputs"]()
    s = both.to_shap()
    assert s.values.shape == s.data.shape == (3, 10)
    assert s.feature_names[3:5] == ["Input 0, feature 3", "Input 1, feature [0, 0]"]
    np.testing.assert_allclose(s.values.sum(1) + s.base_values, both.outputs, atol=1e-5)
    np.testing.assert_array_equal(s.data[:, 4:], both.data[1].flatten(1))
    image = of_method("IntegratedGradients")
    assert image.to_shap().values.shape == image.to_shap().data.shape == (2, 1, 3, 4)
    flat = image.to_shap(feature_names=range(12))
    assert flat.values.shape == (2, 12) and flat.feature_names[-1] == "11"
    groups = replace(EXPLAINED["groups"](), feature_names=NAMES).to_shap()
    assert groups.values.shape == (3, 2, 2) and groups.data is None
    assert groups.feature_names == ["Feature 0", "Feature 1"]
    free = EXPLAINED["bfloat16"]().to_shap()  # without baselines: what is left of the output
    outputs = EXPLAINED["bfloat16"]().outputs
    assert free.base_values.shape == (3,) and free.values.dtype == np.float64 and len(outputs) == 3
    rows = EXPLAINED["outputs in rows"]().to_shap()
    assert rows.values.shape == (3, 4, 2)
    assert EXPLAINED["one output"]().to_shap().values.shape == (3, 4)
    batch = EXPLAINED["summed"]().to_shap()
    assert batch.values.shape == (3, 4) and batch.base_values.shape == (3,)
    for name, make in EXPLAINED.items():
        if name not in ("layers", "empty"):
            assert make().to_shap() is not None, name
    with pytest.raises(ArgumentError, match="values: expected those of one layer"):
        by_layers().to_shap()


def test_to_shap_refuses_other_names(monkeypatch):
    pytest.importorskip("shap")
    with pytest.raises(ArgumentError, match="feature_names: expected 4 names, got 1"):
        explained().to_shap(["a"])
    with pytest.raises(ArgumentError, match="feature_names: expected a sequence of 4 names"):
        explained().to_shap("abcd")
    with pytest.raises(ArgumentError, match="output_names: expected 2 names, got 1"):
        explained().to_shap(output_names=["a"])
    monkeypatch.setitem(sys.modules, "shap", None)
    with pytest.raises(ImportError, match="pip install shap"):
        explained().to_shap()


@pytest.mark.parametrize("named", [True, False])
def test_shap_draws_it(named):
    shap = pytest.importorskip("shap")
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    e = explained(rows=5)[..., "dog"]
    e = e if named else replace(e, feature_names=None)
    s = e.to_shap()
    draws = [
        lambda: shap.plots.waterfall(e[1].to_shap(), show=False),
        lambda: shap.plots.bar(s, show=False),
        lambda: shap.plots.bar(s[0], show=False),
        lambda: shap.plots.beeswarm(s, show=False),
        lambda: shap.plots.heatmap(s, show=False),
        lambda: shap.plots.scatter(s[:, 1], show=False),
        lambda: shap.plots.scatter(e[:, "b"].to_shap() if named else s[:, 0], show=False),
        lambda: shap.plots.force(e[0].to_shap(), matplotlib=True, show=False),
        lambda: shap.plots.force(s),
        lambda: shap.plots.waterfall(EXPLAINED["two inputs"]().to_shap()[0], show=False),
        lambda: shap.plots.bar(EXPLAINED["groups"]()[..., 0].to_shap(), show=False),
    ]
    for draw in draws:
        assert draw() is not None or pyplot.gca().has_data()
        pyplot.close("all")


def test_nothing_is_imported_for_what_is_not_used():
    code = (
        "import sys, torch, fastxai; f = lambda x: x.sum(1); x = torch.rand(2, 3);"
        "fastxai.Saliency(f).explain(x)[0]._repr_html_();"
        "assert not {'safetensors', 'matplotlib', 'shap', 'PIL'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
