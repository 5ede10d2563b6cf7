"""What people bring: arrays, DataFrames, sparse matrices, dicts, estimators, class names."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from captum.attr import Saliency as CaptumSaliency
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from torch import nn

from fastxai import (
    DeepLift,
    FeatureAblation,
    FeaturePermutation,
    GradientShap,
    InputXGradient,
    IntegratedGradients,
    KernelShap,
    LayerGradCam,
    LayerIntegratedGradients,
    Lime,
    NoiseTunnel,
    Occlusion,
    Saliency,
    ShapleyValues,
    ShapleyValueSampling,
)
from fastxai.attr import GuidedBackprop
from fastxai.core.checks import ArgumentError

WEIGHTS = np.arange(1.0, 5.0)
rng = np.random.default_rng(0)
X, BACKGROUND = rng.normal(size=(3, 4)), rng.normal(size=(5, 4))
VALUES = WEIGHTS * (X - BACKGROUND.mean(0))


def net(features=4, classes=3, dtype=torch.float32):
    torch.manual_seed(5)
    layers = nn.Linear(features, 8), nn.Tanh(), nn.Linear(8, classes)
    return nn.Sequential(*layers).to(dtype).eval()


class Spy:
    """A linear function that keeps what it was called with."""

    def __init__(self, *weights):
        self.weights, self.seen = weights or (WEIGHTS,), []

    def __call__(self, *rows):
        self.seen.append(rows)
        return sum(r @ w for r, w in zip(rows, self.weights, strict=True))


PERTURBING = {
    FeatureAblation: {},
    KernelShap: {"n_samples": 20},
    Lime: {"n_samples": 20, "seed": 0},
    Occlusion: {"sliding_window_shapes": (1,)},
    ShapleyValues: {},
    ShapleyValueSampling: {"seed": 0},
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.uint8, bool])
@pytest.mark.parametrize("method", PERTURBING)
def test_a_function_is_given_arrays_of_the_dtype_that_it_was_brought(method, dtype):
    spy, rows = Spy(), (X > 0).astype(dtype)
    values = method(spy).attribute(rows, **PERTURBING[method])
    assert isinstance(values, np.ndarray)
    assert {type(r) for (r,) in spy.seen} == {np.ndarray}
    assert {r.dtype for (r,) in spy.seen} == {np.dtype(dtype)}
    tensors = method(lambda z: z.double() @ torch.from_numpy(WEIGHTS)).attribute(
        torch.from_numpy(rows), **PERTURBING[method]
    )
    np.testing.assert_allclose(values, tensors.numpy(), atol=1e-6)


def test_arrays_in_any_layout():
    backwards, swapped = X[::-1, ::-1][::-1, ::-1], X.astype(">f8")
    fixed = X.copy()
    fixed.flags.writeable = False
    for rows in (backwards, swapped, fixed, np.asfortranarray(X), X.tolist()):
        values = KernelShap(Spy()).attribute(rows, background=BACKGROUND)
        np.testing.assert_allclose(values, VALUES)


def test_what_a_function_writes_to_its_arrays_is_not_kept():
    def writes(rows):
        rows[:, 0] = 7
        return rows @ WEIGHTS

    rows = X.copy()
    for method, options in PERTURBING.items():
        if method is not Lime:
            values = method(writes).attribute(rows, **options)
            np.testing.assert_allclose(values[:, 0], 0, atol=1e-12)
            np.testing.assert_allclose(values[:, 1:], (X * WEIGHTS)[:, 1:])
    np.testing.assert_array_equal(rows, X)


def test_several_arrays_with_further_arguments_and_masks():
    seen = []

    def function(a, b, scale, name):
        seen.append((type(a), type(b), type(scale), name))
        return (a.sum(1) + b.sum((1, 2))) * scale

    a, b, scale = rng.normal(size=(3, 2)), rng.normal(size=(3, 2, 2)), np.array([1.0, 2.0, 3.0])
    mask = np.array([[0, 0]]), np.array([[[1, 1], [2, 2]]])
    found = FeatureAblation(function).attribute(
        (a, b), additional_forward_args=(scale, "n"), feature_mask=mask
    )
    assert {*seen} == {(np.ndarray, np.ndarray, np.ndarray, "n")}
    expected = np.repeat((a.sum(1) * scale)[:, None], 2, 1)
    np.testing.assert_allclose(found[0], expected)
    np.testing.assert_allclose(found[1], (b.sum(2) * scale[:, None])[..., None].repeat(2, 2))


def test_no_rows():
    assert KernelShap(net()).attribute(X[:0], target=0).shape == (0, 4)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        *((m, o) for m, o in PERTURBING.items()),
        (IntegratedGradients, {}),
        (Saliency, {}),
        (InputXGradient, {}),
        (DeepLift, {}),
        (GuidedBackprop, {}),
        (GradientShap, {"baselines": BACKGROUND, "seed": 0}),
        (FeaturePermutation, {"seed": 0}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_module_is_given_tensors_of_its_dtype(method, options, dtype):
    model = net(dtype=dtype)
    found = method(model).attribute(X, target=1, **options)
    assert isinstance(found, np.ndarray)
    plain = {
        k: torch.from_numpy(v).to(dtype) if k == "baselines" else v for k, v in options.items()
    }
    expected = method(model).attribute(torch.from_numpy(X).to(dtype), target=1, **plain)
    np.testing.assert_array_equal(found, expected.numpy())


def test_integers_are_made_floats_where_they_are_differentiated_and_no_place_else():
    model, rows = net(), np.arange(12).reshape(3, 4)
    expected = IntegratedGradients(model).attribute(torch.from_numpy(rows).float(), target=0)
    found = IntegratedGradients(model).attribute(rows, target=0)
    np.testing.assert_array_equal(found, expected.numpy())

    seen = []
    words = nn.Sequential(nn.Embedding(20, 3), nn.Flatten(), nn.Linear(12, 2)).eval()
    words.register_forward_pre_hook(lambda _, args: seen.append(args[0].dtype))
    FeatureAblation(words).attribute(rows, target=0)
    LayerIntegratedGradients(words, words[0]).attribute(rows, target=0)
    assert {*seen} == {torch.int64}


def test_the_mode_of_a_module_is_left():
    model = net().train()
    KernelShap(model).attribute(X, target=0)
    assert model.training


def frame():
    return pd.DataFrame(
        {
            "age": [31, 45, 60, 22],
            "income": [2.5, np.nan, 4.0, 1.0],
            "job": pd.Categorical(["a", "b", "a", "c"]),
            "owner": [True, False, True, True],
            "city": ["x", "y", "x", "x"],
        }
    )


def scored(seen):
    def score(rows):
        seen.append(rows)
        own = rows["owner"].to_numpy().astype(float)
        job = (rows["job"] == "a").to_numpy()
        return rows["age"].to_numpy() / 10 + rows["income"].fillna(3).to_numpy() + 2 * own + job

    return score


def test_a_function_sees_frames_with_columns_and_dtypes_as_they_are():
    rows, seen = frame(), []
    values = KernelShap(scored(seen)).attribute(rows[:2], background=rows)
    for table in seen:
        assert list(table.columns) == list(rows.columns)
        pd.testing.assert_series_equal(table.dtypes, rows.dtypes)
    own, job = rows["owner"].astype(float), (rows["job"] == "a").astype(float)
    parts = rows["age"] / 10, rows["income"].fillna(3), job, 2 * own, 0 * own
    expected = np.stack([p[:2] - p.mean() for p in parts], 1)
    np.testing.assert_allclose(values, expected, atol=1e-12)
    baseline = FeatureAblation(scored([])).attribute(rows[:2], baselines=rows.iloc[3])
    np.testing.assert_allclose(baseline, np.stack([p[:2] - p[3] for p in parts], 1), atol=1e-12)


def test_a_series_is_one_row_and_a_sparse_matrix_stays_sparse():
    rows, seen = frame(), []
    one = KernelShap(scored(seen)).attribute(rows.iloc[0], background=rows)
    many = KernelShap(scored(seen)).attribute(rows[:1], background=rows)
    np.testing.assert_allclose(one, many, atol=1e-9)

    seen, table = [], scipy.sparse.csr_matrix(X * (X > 0))

    def function(rows):
        seen.append(type(rows))
        return rows @ WEIGHTS

    values = FeatureAblation(function).attribute(table)
    np.testing.assert_allclose(values, WEIGHTS * table.toarray())
    assert {*seen} == {scipy.sparse.csr_matrix}


def test_a_module_is_given_a_frames_numbers():
    rows = pd.DataFrame(X, columns=list("abcd")).assign(d=[True, False, True])
    found = IntegratedGradients(net()).attribute(rows, target=0)
    floats = torch.from_numpy(rows.to_numpy(dtype=np.float32))
    expected = IntegratedGradients(net()).attribute(floats, target=0)
    np.testing.assert_array_equal(found, expected.numpy())


LABELS = np.array(["no", "yes", "perhaps"])


def classifier():
    rows = rng.normal(size=(60, 4))
    return LogisticRegression().fit(rows, LABELS[(rows[:, 0] > 0) + (rows[:, 1] > 1) * 1])


def test_estimators():
    model = classifier()
    by_function = KernelShap(lambda z: model.predict_proba(z)[:, 2]).attribute(
        X, background=BACKGROUND
    )
    for target in (2, "yes", ["yes"] * 3, np.array(["yes"] * 3), pd.Series(["yes"] * 3)):
        found = KernelShap(model).attribute(X, background=BACKGROUND, target=target)
        np.testing.assert_allclose(found, by_function)
    as_tensors = KernelShap(model).attribute(
        torch.from_numpy(X), background=torch.from_numpy(BACKGROUND), target="yes"
    )
    assert isinstance(as_tensors, torch.Tensor)
    np.testing.assert_allclose(as_tensors, by_function)

    line = LinearRegression().fit(rows := rng.normal(size=(20, 4)), rows @ WEIGHTS)
    np.testing.assert_allclose(KernelShap(line).attribute(X, background=BACKGROUND), VALUES)


def test_a_pipeline_over_categories():
    rows = frame().assign(income=[1.0, 2, 3, 4])
    columns = ColumnTransformer(
        [("names", OneHotEncoder(), ["job", "city"])], remainder="passthrough"
    )
    model = make_pipeline(columns, LinearRegression()).fit(rows, [1.0, 2, 3, 5])
    values = KernelShap(model).attribute(rows, background=rows)
    total = model.predict(rows) - model.predict(rows).mean()
    np.testing.assert_allclose(values.sum(1), total, atol=1e-9)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        (IntegratedGradients, {}),
        (KernelShap, {"n_samples": 20, "seed": 0}),
        (DeepLift, {}),
        (GradientShap, {"baselines": torch.zeros(2, 4), "seed": 0}),
        (FeatureAblation, {}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_argmax(method, options):
    model, x = net(), torch.from_numpy(X).float() * 4
    largest = model(x).argmax(1)
    assert len(largest.unique()) > 1
    found = method(model).attribute(x, target="argmax", **options)
    assert torch.equal(found, method(model).attribute(x, target=largest, **options))
    explained = method(model).explain(x, target="argmax", **options)
    assert torch.equal(explained.values, found)
    assert torch.equal(explained.outputs, model(x).max(1).values.detach())


def test_argmax_of_tunnels_and_layers():
    model, x = net(), torch.from_numpy(X).float()
    largest = model(x).argmax(1)
    tunnel = NoiseTunnel(Saliency(model))
    expected = tunnel.attribute(x, target=largest, seed=0)
    assert torch.equal(tunnel.attribute(x, target="argmax", seed=0), expected)
    assert isinstance(tunnel.attribute(X, target="argmax", seed=0), np.ndarray)
    theirs = NoiseTunnel(CaptumSaliency(model)).attribute(X, target="argmax", seed=0)
    np.testing.assert_allclose(theirs, expected, rtol=1e-5)
    layer = LayerIntegratedGradients(model, model[0])
    assert torch.equal(layer.attribute(x, target="argmax"), layer.attribute(x, target=largest))
    images = nn.Sequential(nn.Conv2d(1, 2, 2), nn.Flatten(), nn.Linear(18, 2)).eval()
    cam = LayerGradCam(images, images[0]).attribute(rng.normal(size=(2, 1, 4, 4)), target="argmax")
    assert isinstance(cam, np.ndarray)


def test_argmax_asks_about_rows_that_interact_together():
    model = net()

    def function(x):  # the largest output depends on the batch
        return model(x - x.mean(0))

    x = torch.from_numpy(X).float() + 3
    expected = Saliency(function).attribute(x, target=function(x).argmax(1))
    assert torch.equal(Saliency(function).attribute(x, target="argmax"), expected)


class Mixed(nn.Module):
    """Numbers and categories, by name."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.numbers, self.categories = nn.Linear(3, 2), nn.Embedding(10, 2)

    def forward(self, *, numbers, categories, scale=None):
        out = self.numbers(numbers) + self.categories(categories).sum(1)
        return out if scale is None else out * scale


def test_inputs_in_a_dict():
    model = Mixed().eval()
    given = {"numbers": torch.randn(3, 3), "categories": torch.randint(1, 9, (3, 2)), "scale": None}
    positional = FeatureAblation(lambda n, c: model(numbers=n, categories=c))
    mixed = given["numbers"], given["categories"]
    for baselines in (None, {"categories": 1}, {"numbers": torch.ones(3), "categories": 2}):
        found = FeatureAblation(model).attribute(given, target=0, baselines=baselines)
        known = baselines or {}
        plain = known.get("numbers", 0), known.get("categories", 0)
        expected = positional.attribute(mixed, target=0, baselines=plain)
        assert list(found) == ["numbers", "categories"]
        assert all(map(torch.equal, found.values(), expected))
    arrays = {name: None if v is None else v.numpy() for name, v in given.items()}
    found = FeatureAblation(model).attribute(arrays, target="argmax")
    assert all(isinstance(v, np.ndarray) for v in found.values())


def bert():
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    names = {0: "NEGATIVE", 1: "POSITIVE"}
    config = BertConfig(vocab_size=50, intermediate_size=16, id2label=names, **small)
    return BertForSequenceClassification(config).eval()


def test_a_tokenizers_answer_to_a_model_of_hugging_face():
    from transformers import BatchEncoding

    model, mask = bert(), torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
    ids = torch.randint(5, 50, (2, 6))
    given = BatchEncoding({"attention_mask": mask, "input_ids": ids})

    def plain(ids, mask):
        return model(input_ids=ids, attention_mask=mask).logits

    embeddings = model.bert.embeddings.word_embeddings
    found = LayerIntegratedGradients(model, embeddings).attribute(given, target="POSITIVE")
    expected = LayerIntegratedGradients(plain, embeddings).attribute(
        ids, target=1, additional_forward_args=mask
    )
    torch.testing.assert_close(found, expected)
    options = {"n_samples": 64, "seed": 0}
    found = KernelShap(model).attribute(given, target="POSITIVE", **options)
    expected = KernelShap(plain).attribute(ids, target=1, additional_forward_args=mask, **options)
    torch.testing.assert_close(found, expected)


REFUSED = {
    "words": ("inputs", lambda m: m.attribute(np.array([["a", "b", "c", "d"]]), target=0)),
    "rows of other lengths": ("inputs", lambda m: m.attribute([[1.0], [1.0, 2.0]], target=0)),
    "words in baselines": ("baselines", lambda m: m.attribute(X, np.array(["a"] * 4), target=0)),
    "a mask of fractions": (
        "feature_mask",
        lambda m: m.attribute(X, target=0, feature_mask=np.full((1, 4), 0.5)),
    ),
    "no such class": ("target", lambda m: m.attribute(X, target="cat")),
    "an empty dict": ("inputs", lambda m: m.attribute({}, target=0)),
    "further arguments beside a dict": (
        "additional_forward_args",
        lambda m: m.attribute({"input": X}, target=0, additional_forward_args=1),
    ),
    "a baseline for none of them": (
        "baselines",
        lambda m: m.attribute({"input": X}, target=0, baselines={"other": 0}),
    ),
    "a frame with words": ("column 'job'", lambda m: m.attribute(frame(), target=0)),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("method", [KernelShap, FeatureAblation])
def test_refused_by_name_before_any_call(name, method):
    model = net()
    model.register_forward_pre_hook(lambda *_: pytest.fail("the model was called"))
    word, call = REFUSED[name]
    with pytest.raises(ArgumentError, match=word):
        call(method(model))


def test_refused_columns():
    rows, seen = frame(), []
    method = KernelShap(scored(seen))
    other = rows[:1].astype({"job": object})
    other["job"] = "d"
    for given, word in (
        (rows.drop(columns="city"), "'city'"),
        (rows[["income", "age", "job", "owner", "city"]], "'income'"),
        (rows.assign(more=1), "'more'"),
        (other, "column 'job'"),
        (rows.assign(age="old"), "column 'age'"),
    ):
        with pytest.raises(ArgumentError, match=word):
            method.attribute(given[:1], background=rows)
    with pytest.raises(ArgumentError, match=r"baselines.*'job'"):
        method.attribute(rows)
    assert seen == []
