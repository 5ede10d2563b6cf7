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


WORDS = ("div", "style", "b", "small", "span")


class Page(HTMLParser):
    """The cells of tables; refuses what is not closed, and whatever would fetch or run."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tables, self.pictures, self.text = [], [], [], ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        assert tag in (*WORDS, "table", "thead", "tbody", "tr", "th", "td", "br", "img")
        known = {"style", "title", "class", "alt", "src"}
        assert {name for name, _ in attrs} <= known
        held = dict(attrs)
        if tag == "img":
            assert held["src"].startswith("data:image/png;base64,")
            self.pictures.append(held["src"].split(",")[1])
        assert "url" not in held.get("style", "")
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in ("br", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] == ["style"]:
            assert "url" not in data and "import" not in data
            return
        self.text += data
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data


@pytest.mark.parametrize("name", EXPLAINED)
def test_every_explanation_can_be_shown(name):
    found = EXPLAINED[name]()
    page = Page(found._repr_html_())
    assert found.method in page.text
    assert all(len({len(row) for row in rows}) == 1 for rows in page.tables)
    assert page.tables or name == "empty"


def test_a_page_of_features():
    found = replace(explained(), method="<b>&", tier='"x"')
    page = Page(found._repr_html_())
    head, *lines = page.tables[0]
    assert head == ["row", "of", "output", "at baseline", *NAMES]
    assert len(lines) == 6 and [line[1] for line in lines[:2]] == ["cat", "dog"]
    value, error = found.values[0, 1, 2], found.standard_errors[0, 1, 2]
    expected = f"{value:+.4g} ± {error:.2g}{found.data[0, 2]:.4g}".replace("-", "−")
    assert lines[1][6] == expected
    assert lines[1][2] == f"{found.outputs[0, 1]:.4g}"
    assert "<b>&" in page.text and '"x" tier' in page.text and "16 samples" in page.text


def test_names_in_a_page_are_only_text():
    evil = ['<script>alert("a")</script>', '"><img src=x onerror=y>', "</style>", "'"]
    found = replace(explained(), feature_names=evil, output_names=["<i>", "&amp;"])
    page = Page(found._repr_html_())
    assert page.tables[0][0][-2:] == evil[2:] and page.tables[0][1][1] == "<i>"
    Page(replace(found[..., 0], target="<u>", output_names=None)._repr_html_())


def test_a_page_of_much():
    x = torch.rand(40, 30)
    found = fastxai.Saliency(lambda x: x**2 @ torch.linspace(0, 1, 30)).explain(x)
    page = Page(found._repr_html_())
    assert page.tables[0][0][2:] == [*[f"Feature {i}" for i in range(18, 30)], "..."]
    assert len(page.tables[0]) == 12 and page.tables[0][-1][0] == "..."
    assert "12 of 30 features" in page.text and "10 of 40 rows" in page.text
    many = fastxai.ShapleyValues(lambda x: x[:, :1] * torch.arange(9)).explain(x[:2, :3])
    page = Page(many._repr_html_())
    assert "5 of 9 outputs" in page.text and len(page.tables[0]) == 1 + 2 * 6


def test_colours_of_a_page():
    values = torch.tensor([[4.0, -2.0, 0.0, torch.nan]])
    found = replace(explained(lambda x: two(x)[:, 0])[:1], values=values, standard_errors=None)
    cells = found._repr_html_().split("<tbody>")[1]
    shades = [part.split(")")[0] for part in cells.split("rgba(")[1:]]
    assert shades[:3] == ["221, 107, 32, 0.75", "49, 130, 206, 0.38", "49, 130, 206, 0.00"]
    assert shades[3].endswith("0.00") and "+nan" in cells


def test_a_page_of_pictures():
    from io import BytesIO

    image = pytest.importorskip("PIL.Image")
    x = torch.rand(6, 3, 200, 100)
    found = fastxai.InputXGradient(lambda x: (x[:, :, :100] - x[:, :, 100:]).sum((1, 2, 3))).explain(x)
    text = found._repr_html_()
    page = Page(text)
    assert len(page.pictures) == 2 * 4 and "4 of 6 rows" in page.text and len(text) < 500_000
    import base64

    grey, signed = (image.open(BytesIO(base64.b64decode(p))) for p in page.pictures[:2])
    assert grey.size == signed.size == (100, 160)
    top, bottom = signed.getpixel((50, 10)), signed.getpixel((50, 150))
    assert top[:3] == (221, 107, 32) and bottom[:3] == (49, 130, 206) and top[3] > 0
    assert grey.getpixel((3, 3))[3] == 255
    layer = Page(of_method("LayerIntegratedGradients")._repr_html_())
    assert len(layer.pictures) == 2 and "input" not in layer.tables[0][0]


def test_a_page_of_tokens():
    x = torch.rand(2, 5, 8)  # words as vectors
    found = fastxai.InputXGradient(lambda x: (x**2).sum((1, 2))).explain(x)
    page = Page(found._repr_html_())
    assert page.tables[0][0][2:] == [f"Feature {i}" for i in range(5)]
    assert page.tables[0][1][2] == f"{found.values[0, 0].sum():+.4g}"
    assert "sum over the dimensions after the first" in page.text


def test_targets_in_a_page():
    one = fastxai.Saliency(mlp()).explain(torch.rand(3, 7), target=2)
    names = ["ant", "bee", "cat", "dog"]
    assert "target cat" in Page(replace(one, output_names=names)._repr_html_()).text
    each = replace(EXPLAINED["tensor target"](), output_names=names)
    assert [row[1] for row in Page(each._repr_html_()).tables[0]] == ["of", "ant", "cat", "bee"]


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


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "found"
    first, second = explained(), explained(rows=2)
    first.save(path)

    def fail(*of):
        raise OSError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="no space"):
            second.save(path)
    assert os.listdir(tmp_path) == ["found"] and Explanation.load(path) == first
    second.save(path)
    assert Explanation.load(path) == second
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask
    with pytest.raises(FileNotFoundError):
        first.save(tmp_path / "nowhere" / "found")
    with pytest.raises(FileNotFoundError):
        Explanation.load(tmp_path / "none")
    with pytest.raises(OSError):
        Explanation.load(tmp_path)


def test_what_is_loaded_stays_when_the_file_goes(tmp_path):
    found = explained()
    found.save(tmp_path / "found")
    back = Explanation.load(tmp_path / "found")
    size = (tmp_path / "found").stat().st_size
    (tmp_path / "found").write_bytes(b"\xff" * size)
    assert back == found


def test_views_are_saved_as_what_they_show(tmp_path):
    found = explained(rows=50)
    found[10:12].save(tmp_path / "part")
    assert Explanation.load(tmp_path / "part") == found[10:12]
    assert (tmp_path / "part").stat().st_size < 4000


@pytest.mark.parametrize(
    "change, message",
    [
        ({"values": torch.zeros(3, 2, 4, dtype=torch.complex64)}, "values: expected real numbers"),
        ({"target": object()}, "target: expected tensors, tuples or lists of them, or None"),
        ({"values": {"a": torch.zeros(3)}}, "values: expected tensors"),
        ({"seconds": float("nan")}, "explanation: expected another seconds, got nan"),
        ({"samples": torch.zeros(3)}, "explanation: expected another samples"),
        ({"standard_errors": torch.zeros(3)}, "standard_errors in the values' form"),
        ({"outputs": torch.zeros(2, 2)}, "explanation: expected"),
    ],
    ids=str,
)
def test_what_cannot_be_saved(change, message, tmp_path):
    with pytest.raises(ArgumentError, match=message):
        replace(explained(), **change).save(tmp_path / "found")
    assert not os.listdir(tmp_path)


def test_saving_needs_safetensors(monkeypatch, tmp_path):
    found = explained()
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(ImportError, match=r"Explanation.save needs safetensors.*fastxai\[save\]"):
        found.save(tmp_path / "found")
    with pytest.raises(ImportError, match="Explanation.load needs safetensors"):
        Explanation.load(tmp_path / "found")


def saved(tmp_path, name="outputs"):
    """A file, as what it says in its header and the bytes behind."""
    EXPLAINED[name]().save(tmp_path / "found")
    content = (tmp_path / "found").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def written(path, header, tensors):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + tensors)
    return path


def refused(path, message="expected a file that Explanation.save of this version wrote"):
    with pytest.raises(ArgumentError, match=message) as caught:
        Explanation.load(path)
    assert str(path) in str(caught.value)


def test_files_of_something_else_are_refused(tmp_path):
    header, tensors = saved(tmp_path)
    content = (tmp_path / "found").read_bytes()
    path = tmp_path / "other"
    others = [
        *(b"", b"\0", b"PK\x03\x04" + content, content[1:], b"\xff" * 200, content + b"\0"),
        struct.pack("<Q", 2**63) + content[8:],  # a header larger than everything
        struct.pack("<Q", 99_000_000) + content[8:],
        struct.pack("<Q", 0) + content[8:],
        *(content[:n] for n in range(0, len(content), 97)),
    ]
    for other in others:
        path.write_bytes(other)
        refused(path)
    refused(written(path, b"[" * 100_000, tensors))
    torch.save({"values": torch.zeros(3)}, path)
    refused(path)
    import safetensors.torch

    safetensors.torch.save_file({"values": torch.zeros(3)}, path)
    refused(path, "fastxai_explanation in its header")


def test_every_damaged_byte_of_the_header_is_refused_or_harmless(tmp_path):
    saved(tmp_path)
    content = bytearray((tmp_path / "found").read_bytes())
    (length,) = struct.unpack("<Q", content[:8])
    path, loaded = tmp_path / "other", 0
    for place in range(0, 8 + length, 3):
        damaged = content.copy()
        damaged[place] ^= 0x11
        path.write_bytes(damaged)
        try:
            found = Explanation.load(path)
        except ArgumentError:
            continue
        loaded += 1  # another name or number
        assert repr(found) and Page(found._repr_html_()).text and len(found) == 3
    assert loaded < length / 12


SAID = [
    ({"version": 2}, "version 1, got 2"),
    ({"version": True}, "version 1"),
    ({"version": 1.0}, "version 1"),
    ({"more": 1}, "a header of"),
    ({"method": 3}, "another method"),
    ({"method": None}, "another method"),
    ({"seconds": -1}, "another seconds"),
    ({"seconds": "1"}, "another seconds"),
    ({"seconds": True}, "another seconds"),
    ({"seconds": 10**400}, "seconds|float"),
    ({"tier": []}, "another tier"),
    ({"feature_names": "abcd"}, "another feature_names"),
    ({"feature_names": [1, 2]}, "another feature_names"),
    ({"output_names": {"a": 1}}, "another output_names"),
    ({"is_row": 1}, "another is_row"),
    ({"is_row": True}, "expected"),
    ({"forms": []}, "forms of"),
]
FORMS = [
    ({"values": None}, "another values|no other tensors"),
    ({"values": "outputs"}, "the form of values"),
    ({"values": {"tuple": []}}, "no other tensors"),
    ({"values": {"dict": []}}, "the form of values"),
    ({"values": {"tuple": ["tensor"]}}, "a tensor values.0"),
    ({"data": {"is": "words"}}, "the form of data"),
    ({"outputs": None}, "no other tensors"),
    ({"samples": None}, "no other tensors"),
    ({"target": "tensor"}, "a tensor target"),
    ({"target": {"is": 1.5}}, "the form of target"),
    ({"target": {"is": 2**70}}, "the form of target"),
    ({"target": {"is": [1]}}, "the form of target"),
    ({"target": {"list": [{"list": [{"list": [{"list": [{"list": []}]}]}]}]}}, "form of target"),
    ({"target": {"tuple": [], "list": []}}, "the form of target"),
    ({"more": None}, "forms of"),
]


@pytest.mark.parametrize("change, message", SAID + FORMS, ids=str)
def test_what_the_header_says_is_checked(change, message, tmp_path):
    header, tensors = saved(tmp_path)
    said = json.loads(header["__metadata__"]["fastxai_explanation"])
    (said["forms"] if (change, message) in FORMS else said).update(change)
    header["__metadata__"]["fastxai_explanation"] = json.dumps(said)
    refused(written(tmp_path / "found", header, tensors), message)


@pytest.mark.parametrize("key", ["method", "forms", "is_row", "version"])
def test_nothing_may_be_missing_or_there_twice(key, tmp_path):
    header, tensors = saved(tmp_path)
    text = header["__metadata__"]["fastxai_explanation"]
    said = json.loads(text)
    twice = text[:-1] + f', "{key}": {json.dumps(said[key])}}}'
    del said[key]
    for changed, message in ((json.dumps(said), "expected"), (twice, "each name once")):
        header["__metadata__"]["fastxai_explanation"] = changed
        refused(written(tmp_path / "found", header, tensors), message)


@pytest.mark.parametrize(
    "name, tensor",
    [
        ("values", torch.zeros(4, 2, 4)),
        ("values", torch.zeros(())),
        ("outputs", torch.zeros(5)),
        ("outputs", torch.zeros(())),
        ("baseline_outputs", torch.zeros(3, 3)),
        ("baseline_outputs", torch.zeros(3)),
        ("convergence_delta", torch.zeros(2, 2)),
        ("standard_errors", torch.zeros(3, 2, 5)),
        ("samples", torch.zeros(3)),
        ("samples", torch.zeros(3, 1, dtype=torch.int64)),
        ("samples", torch.zeros(7, dtype=torch.int64)),
        ("players", torch.zeros((), dtype=torch.int64)),
        ("reached", torch.zeros(3, dtype=torch.int64)),
        ("reached", torch.zeros(4)),
        ("data", torch.zeros(())),
        ("values", torch.zeros(3, 2, 4).to(torch.float8_e4m3fn)),
        ("values", torch.zeros(3, 2, 4, dtype=torch.uint16)),
    ],
    ids=lambda v: f"{tuple(v.shape)} {v.dtype}" if isinstance(v, torch.Tensor) else v,
)
def test_tensors_that_do_not_fit_are_refused(name, tensor, tmp_path):
    import safetensors.torch

    header, _ = saved(tmp_path)
    tensors = safetensors.torch.load_file(tmp_path / "found")
    tensors = {key: value.clone() for key, value in tensors.items()}
    safetensors.torch.save_file({**tensors, name: tensor}, tmp_path / "bad", header["__metadata__"])
    refused(tmp_path / "bad")
    tensors["another"] = torch.zeros(1)
    safetensors.torch.save_file(tensors, tmp_path / "bad", header["__metadata__"])
    refused(tmp_path / "bad", "no other tensors")


def test_torch_load_refuses_what_it_does_not_know(tmp_path):
    torch.save(explained(), tmp_path / "found")
    with pytest.raises(Exception, match="Explanation"):
        torch.load(tmp_path / "found", weights_only=True)
    assert torch.load(tmp_path / "found", weights_only=False).feature_names == tuple(NAMES)


def test_nothing_is_imported_for_what_is_not_used():
    import subprocess

    code = (
        "import sys, torch, fastxai; f = lambda x: x.sum(1); x = torch.rand(2, 3);"
        "fastxai.Saliency(f).explain(x)[0]._repr_html_();"
        "assert not {'safetensors', 'matplotlib', 'shap', 'PIL'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
