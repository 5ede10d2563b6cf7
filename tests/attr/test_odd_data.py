"""Data and models that are seldom seen: dtypes, masks, slots, lists, names that do not fit."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from sklearn.cluster import KMeans
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.multioutput import MultiOutputClassifier
from sklearn.svm import SVC
from torch import nn

from fastxai import (
    FeatureAblation,
    IntegratedGradients,
    KernelShap,
    LayerActivation,
    NoiseTunnel,
    ShapleyValues,
)
from fastxai.core.checks import ArgumentError

WEIGHTS = np.arange(1.0, 5.0)
rng = np.random.default_rng(0)
X, BACKGROUND = rng.normal(size=(3, 4)), rng.normal(size=(5, 4))


def linear(rows):
    return np.asarray(rows @ WEIGHTS).ravel()


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.uint64, np.longdouble])
def test_dtypes_that_torch_does_not_compute_with(dtype):
    rows = np.arange(12).reshape(3, 4).astype(dtype)
    values = ShapleyValues(linear).attribute(rows)
    np.testing.assert_allclose(values, rows.astype(float) * WEIGHTS)


def test_integers_beyond_torchs_are_refused():
    with pytest.raises(ArgumentError, match="inputs: expected integers below 2"):
        ShapleyValues(linear).attribute(np.full((1, 4), 2**63, np.uint64))


@pytest.mark.parametrize("method", [KernelShap, ShapleyValues, FeatureAblation])
def test_tensors_that_torch_only_stores_are_refused(method):
    for dtype in (torch.uint16, torch.uint32, torch.uint64):
        with pytest.raises(ArgumentError, match=f"inputs: .*computes with, got {dtype}"):
            method(lambda z: pytest.fail("was called")).attribute(torch.ones(2, 3).to(dtype))


def test_a_name_that_two_columns_have_tells_neither():
    frame = pd.DataFrame(X, columns=["a", "b", "a", "c"])
    found = ShapleyValues(lambda f: f.to_numpy() @ WEIGHTS).explain(frame)
    np.testing.assert_allclose(found[:, "b"].values, X[:, 1] * 2)
    with pytest.raises(ArgumentError, match=r"index: .*several features.*'a'"):
        found[:, "a"]


def test_what_is_masked_is_not_looked_at():
    masked = np.ma.masked_array(X, mask=X > 0)
    seen = []
    ShapleyValues(lambda rows: seen.append(rows) or np.nansum(rows, 1)).attribute(masked)
    assert not any((np.isin(rows, X[X > 0])).any() for rows in seen)
    whole = np.ma.masked_array(np.arange(8).reshape(2, 4))
    assert ShapleyValues(linear).explain(whole).data.dtype == whole.dtype
    with pytest.raises(ArgumentError, match=r"forward_func: .*masked"):
        ShapleyValues(lambda r: np.ma.masked_array(linear(r), mask=linear(r) > 0)).attribute(X)


@pytest.mark.parametrize("form", [np.longdouble, ">f8"])
def test_outputs_in_odd_forms(form):
    values = ShapleyValues(lambda rows: linear(rows).astype(form)).attribute(X)
    np.testing.assert_allclose(values, X * WEIGHTS)


def test_numbers_as_arrays_without_dimensions():
    for number in (np.array(0.5), np.float32(0.5)):
        for rows in (X, pd.DataFrame(X)):
            values = ShapleyValues(lambda r: linear(np.asarray(r))).attribute(rows, number)
            np.testing.assert_allclose(values, (X - 0.5) * WEIGHTS)
    with pytest.raises(ArgumentError, match="inputs"):
        ShapleyValues(linear).attribute(np.array(3.0))


@pytest.mark.parametrize("inputs", [list(torch.zeros(2, 4)), "abc", None, (r for r in X)])
def test_what_is_no_data_is_refused_by_name(inputs):
    with pytest.raises(ArgumentError, match=r"^inputs: expected a t"):
        ShapleyValues(linear).attribute(inputs)


def test_sparse_matrices_of_every_kind():
    dense = np.where(X > 0, X, 0)
    values = ShapleyValues(linear).attribute(scipy.sparse.dok_array(dense))
    np.testing.assert_allclose(values, dense * WEIGHTS)
    baselines = scipy.sparse.csr_array(dense[:1])
    values = ShapleyValues(linear).attribute(dense, baselines=baselines)
    np.testing.assert_allclose(values, (dense - dense[:1]) * WEIGHTS)


def half(model):
    return model.to(torch.bfloat16)


def test_a_module_in_bfloat16_explains_arrays():
    model = half(nn.Linear(4, 2))
    expected = IntegratedGradients(model).attribute(torch.tensor(X, dtype=torch.bfloat16), target=1)
    for found in (
        IntegratedGradients(model).attribute(X, target=1),
        IntegratedGradients(model).explain(X, target=1).values,
        FeatureAblation(model).attribute(X, target=1),
    ):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected.float().numpy(), atol=0.05)


class Product(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(3, 2), nn.Linear(4, 2)

    def forward(self, left, right, both=False):
        a, b = self.left(left), self.right(right)
        return (a, b) if both else a * b


def test_a_delta_beside_the_attributions_of_a_dict():
    model, left, right = Product(), torch.randn(3, 3), torch.randn(3, 4)
    method = IntegratedGradients(model)
    given = {"right": right, "left": left}
    found, delta = method.attribute(given, target=1, return_convergence_delta=True)
    values, expected = method.attribute((left, right), target=1, return_convergence_delta=True)
    assert torch.equal(delta, expected) and delta.shape == (3,)
    assert torch.equal(found["left"], values[0]) and torch.equal(found["right"], values[1])


def test_what_a_layer_gives_has_not_the_names_of_inputs():
    class Pair(nn.Module):
        def forward(self, z):
            return z, z + 1

    class Model(Product):
        def __init__(self):
            super().__init__()
            self.pair = Pair()

        def forward(self, left, right):
            return sum(self.pair(self.left(left) + self.right(right)))

    model = Model()
    found = LayerActivation(model, model.pair).attribute({"left": X[:, :3], "right": X})
    assert isinstance(found, tuple) and len(found) == 2


def test_lists_and_frames_in_a_dict():
    model, left, right = Product(), torch.randn(3, 3), torch.randn(3, 4)
    expected = IntegratedGradients(model).attribute((left, right), target=1)
    given = {"left": left.tolist(), "right": pd.DataFrame(right.numpy())}
    found = IntegratedGradients(model).attribute(given, target=1)
    np.testing.assert_allclose(found["left"], expected[0].numpy(), atol=1e-6)
    np.testing.assert_allclose(found["right"], expected[1].numpy(), atol=1e-6)
    with pytest.raises(ArgumentError, match=r"inputs\['left'\].*one length"):
        IntegratedGradients(model).attribute({**given, "left": [[1.0], [1.0, 2.0]]}, target=1)
    with pytest.raises(ArgumentError, match="inputs: expected names"):
        IntegratedGradients(model).attribute({**given, 1: left}, target=1)


class Reader(nn.Module):
    """Says something of every token, as models of Hugging Face do."""

    main_input_name = "input_ids"

    class config:
        id2label = {0: "no", 1: "yes"}  # noqa: RUF012

    def __init__(self, by_token):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.by_token = nn.Embedding(20, 2), by_token

    def forward(self, input_ids, attention_mask=None):
        found = self.embedding(input_ids).tanh() * attention_mask[..., None]
        return {"logits": found if self.by_token else found.sum(1), "other": found}


def test_tokens_in_lists():
    ids, mask = torch.randint(1, 20, (2, 5)), torch.ones(2, 5, dtype=torch.long)
    method = FeatureAblation(Reader(False))
    expected = method.attribute({"input_ids": ids, "attention_mask": mask}, target=1)
    lists = {"input_ids": ids.tolist(), "attention_mask": mask.tolist()}
    np.testing.assert_allclose(method.attribute(lists, target="yes"), expected.numpy())
    chosen = FeatureAblation(Reader(False), output="logits")
    assert chosen.explain(lists).output_names == ("no", "yes")
    np.testing.assert_allclose(chosen.attribute(lists, target="yes"), expected.numpy())


def test_a_class_by_name_for_a_token_and_not_for_all():
    ids = torch.randint(1, 20, (2, 5))
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    method = FeatureAblation(Reader(True))
    with pytest.raises(ArgumentError, match=r"target: .*2 classes.*'yes'.*\(2, 5, 2\)"):
        method.attribute(given, target="yes")
    expected = method.attribute(given, target=(3, 1))
    assert torch.equal(method.attribute(given, target=(3, "yes")), expected)


@dataclass(slots=True)
class Slots:
    first: object
    second: object


class OldSlots:
    __slots__ = ("first", "second")

    def __init__(self, first, second):
        self.first, self.second = first, second


@pytest.mark.parametrize("kind", [Slots, OldSlots])
def test_outputs_without_a_dict_and_in_arrays(kind):
    with pytest.raises(ArgumentError, match="output='first' or 'second'"):
        ShapleyValues(lambda r: kind(linear(r), 2 * linear(r))).attribute(X)
    method = ShapleyValues(lambda r: kind(linear(r), 2 * linear(r)), output="second")
    np.testing.assert_allclose(method.attribute(X), 2 * X * WEIGHTS)


@pytest.mark.parametrize("of", [RandomForestClassifier, MultiOutputClassifier])
def test_a_classifier_of_several_outputs(of):
    rows = rng.normal(size=(60, 4))
    labels = np.c_[rng.integers(0, 3, 60), rng.integers(4, 6, 60)]
    made = of(LogisticRegression()) if of is MultiOutputClassifier else of(4, random_state=0)
    model = made.fit(rows, labels)
    with pytest.raises(ArgumentError, match="output=0 or 1"):
        ShapleyValues(model).attribute(X)
    found = ShapleyValues(model, output=1).explain(X)
    expected = ShapleyValues(lambda r: model.predict_proba(r)[1]).attribute(X)
    np.testing.assert_allclose(found.values, expected)
    assert found.output_names == ("4", "5")
    one = ShapleyValues(model, output=0).attribute(X, target="2")
    other = ShapleyValues(lambda r: model.predict_proba(r)[0][:, 2]).attribute(X)
    np.testing.assert_allclose(one, other)


def test_labels_are_no_numbers():
    rows, labels = rng.normal(size=(30, 4)), rng.integers(0, 3, 30)
    for model in (SVC().fit(rows, labels), KMeans(2, n_init=1).fit(rows)):
        with pytest.raises(ArgumentError, match=r"forward_func: .*labels.*(SVC|KMeans)"):
            KernelShap(model)
    assert ShapleyValues(SVC().fit(rows, labels).predict).attribute(X).shape == (3, 4)


def test_noise_on_a_functions_arrays_and_frames():
    torch.manual_seed(0)
    options = {"nt_samples": 4, "seed": 0, "stdevs": 0.5}
    frame = pd.DataFrame(rng.integers(0, 9, (3, 4)), columns=list("abcd"))
    curved = NoiseTunnel(FeatureAblation(lambda r: r**2 @ torch.tensor(WEIGHTS)))
    expected = curved.attribute(torch.tensor(frame.to_numpy(float)), **options)
    method = NoiseTunnel(FeatureAblation(lambda r: r.astype(float) ** 2 @ WEIGHTS))
    np.testing.assert_allclose(method.attribute(frame.to_numpy(float), **options), expected)
    np.testing.assert_allclose(
        NoiseTunnel(FeatureAblation(lambda f: f.astype(float) ** 2 @ WEIGHTS)).attribute(
            frame, **options
        ),
        expected,
    )
    with pytest.raises(ArgumentError, match="column 'a'"):
        method.attribute(frame.assign(a="word"), **options)


@pytest.mark.parametrize("dtype", [np.longdouble, ">f8", np.uint16])
def test_explanations_of_odd_dtypes_are_whole(dtype, tmp_path):
    rows = np.arange(12).reshape(3, 4).astype(dtype)
    found = ShapleyValues(linear).explain(rows)
    np.testing.assert_array_equal(found.data, rows)
    assert "values (3, 4)" in repr(found) and "<table" in found._repr_html_()
    found.save(tmp_path / "it")
    assert type(found).load(tmp_path / "it") == found
    np.testing.assert_array_equal(found[::-1].data, rows[::-1])


def test_numpys_numbers_among_words_are_saved(tmp_path):
    frame = pd.DataFrame({"n": [1.0, 2.0], "k": pd.Series([np.int64(3), "x"], dtype=object)})
    found = ShapleyValues(lambda f: f["n"].to_numpy()).explain(frame, background=frame)
    found.save(tmp_path / "it")
    assert type(found).load(tmp_path / "it") == found


def test_no_rows_for_shap():
    pytest.importorskip("shap")
    assert ShapleyValues(linear).explain(X[:0], target=None).to_shap().shape == (0, 4)
    several = ShapleyValues(lambda r: r[:, :2]).explain(X)
    assert several[:0].to_shap().shape == (0, 4, 2)
    assert FeatureAblation(linear).explain(X[:0]).to_shap().base_values.shape == (0,)


def test_parts_of_words_are_whole(tmp_path):
    frame = pd.DataFrame({"n": [1.0, 2.0], "word": ["u", None]})
    found = ShapleyValues(lambda f: f["n"].to_numpy()).explain(frame, background=frame)
    for part in (found[0, "word"], found[0, "n"], found[1], found[:, "word"], found[5:9]):
        assert "Explanation" in repr(part) and part._repr_html_()
        part.save(tmp_path / "it")
        assert type(part).load(tmp_path / "it") == part
    assert found[0, "word"].data == "u" and found[5:9].data.shape == (0, 2)


def test_explanations_in_bfloat16_have_a_table():
    rows = torch.tensor(X, dtype=torch.bfloat16)
    assert "<table" in FeatureAblation(half(nn.Linear(4, 2))).explain(rows)._repr_html_()
