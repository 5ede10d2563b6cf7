"""All explainers beside shap's: shapes, types, what models are called with, what is left alone."""

import lightgbm
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import shap
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from torch import nn

import fastxai
import fastxai.shap

from .test_gradients import network, rows
from .test_kernel import BACKGROUND, X, column, frame, game, several

ours = fastxai.shap
RNG = np.random.default_rng(3)
OUTPUTS = pytest.mark.parametrize("f", [game, column, several])
SEEDED = ("KernelExplainer", "PermutationExplainer", "SamplingExplainer")
BLACK_BOXES = ("ExactExplainer", *SEEDED)
EVERY = pytest.mark.parametrize("name", BLACK_BOXES)


def make(name, *args, **kwargs):
    return getattr(ours, name)(*args, **kwargs)


def calls(name, explainer, x):
    """The values by each way that shap's class of this name has to call it."""
    yield explainer(x, silent=True).values
    if name != "ExactExplainer":
        yield explainer.shap_values(x, silent=True)


@EVERY
@OUTPUTS
def test_shapes_and_types(name, f):
    outputs = np.shape(f(X))[1:]
    explainer = make(name, f, BACKGROUND)
    expected = explainer.expected_value
    assert type(expected) is (np.ndarray if outputs else float)
    assert np.shape(expected) == outputs
    np.testing.assert_allclose(expected, f(BACKGROUND).mean(0), atol=1e-12)
    for x, lead in ((X, (4,)), (X[0], ()), (X[:1], (1,)), (X[:0], (0,))):
        for values in calls(name, explainer, x):
            assert isinstance(values, np.ndarray) and values.dtype == np.float64
            assert values.shape == (*lead, 5, *outputs)
        found = explainer(x, silent=True)
        assert isinstance(found.base_values, np.ndarray | float)
        assert np.shape(found.base_values) == (*lead, *outputs)
        assert found.feature_names == [f"Feature {i}" for i in range(5)]
        assert found.output_names == ([f"Output {i}" for i in range(*outputs)] if outputs else None)
        np.testing.assert_array_equal(found.data, x)
        assert found.compute_time >= 0


@OUTPUTS
def test_shapes_and_types_are_shaps(f):
    theirs, explainer = shap.KernelExplainer(f, BACKGROUND), ours.KernelExplainer(f, BACKGROUND)
    assert type(theirs.expected_value) is type(explainer.expected_value)
    for x in (X, X[0]):
        expected = theirs.shap_values(x, silent=True)
        values = explainer.shap_values(x, silent=True)
        assert (values.shape, values.dtype, type(values)) == (
            expected.shape,
            expected.dtype,
            type(expected),
        )
    expected, found = theirs(X, silent=True), explainer(X, silent=True)
    assert found.values.shape == expected.values.shape
    assert found.base_values.shape == expected.base_values.shape
    assert type(found.data) is type(expected.data)


def by_definition(f, x, background, weights, groups):
    """Σ_S 1 / (M C(M − 1, |S|)) (v(S ∪ i) − v(S)), a subset at a time."""
    from itertools import combinations
    from math import comb

    def v(players):
        z = background.copy()
        z[:, [j for p in players for j in groups[p]]] = x[[j for p in players for j in groups[p]]]
        return weights @ f(z)

    everyone, count = range(len(groups)), len(groups)
    found = []
    for i in everyone:
        others = [p for p in everyone if p != i]
        found.append(
            sum(
                (v((*s, i)) - v(s)) / (count * comb(count - 1, size))
                for size in range(count)
                for s in combinations(others, size)
            )
        )
    return np.stack(found)


@pytest.mark.parametrize("f", [game, several])
@pytest.mark.parametrize("groups", [None, [[0, 3], [4], [1, 2]]])
def test_weights_and_groups_by_definition_and_shaps(f, groups):
    weights = RNG.random(7) + 0.1
    names = list("abcde") if groups is None else list("abc")
    theirs = shap.utils._legacy.DenseData(BACKGROUND, names, groups, weights)
    own = ours.DenseData(BACKGROUND, names, groups, weights)
    each = [[i] for i in range(5)] if groups is None else groups
    shares = weights / weights.sum()
    right = np.stack([by_definition(f, x, BACKGROUND, shares, each) for x in X])
    expected = shap.KernelExplainer(f, theirs).shap_values(X, l1_reg=False, silent=True)
    np.testing.assert_allclose(expected, right, atol=1e-10)
    for data in (own, theirs):
        for explainer in (ours.KernelExplainer(f, data), ours.ExactExplainer(f, data)):
            found = explainer(X, silent=True)
            np.testing.assert_allclose(found.values, right, atol=1e-12)
            np.testing.assert_allclose(found.base_values[0], shares @ f(BACKGROUND), atol=1e-12)
            assert found.feature_names == names
        sampled = ours.PermutationExplainer(f, data, seed=0)(X, max_evals=3000, silent=True)
        np.testing.assert_allclose(sampled.values, right, atol=0.2)
        np.testing.assert_allclose(sampled.values.sum(1), right.sum(1), atol=1e-12)


KINDS = {
    "array": np.array,
    "frame": lambda z: pd.DataFrame(z, columns=list("abcde")),
    "sparse": scipy.sparse.csr_matrix,
}


def spied(f, seen):
    def call(z):
        seen.append((type(z), getattr(z, "dtype", None)))
        return f(z.toarray() if scipy.sparse.issparse(z) else np.asarray(z))

    return call


@pytest.mark.parametrize("kind", KINDS)
@EVERY
def test_a_model_is_called_with_what_shap_calls_it_with(name, kind):
    form, seen, theirs = KINDS[kind], [], []
    found = make(name, spied(game, seen), form(BACKGROUND))(form(X), silent=True)
    if name in ("ExactExplainer", "PermutationExplainer") and kind != "sparse":
        masker = shap.maskers.Independent(form(BACKGROUND))
        getattr(shap, name)(spied(game, theirs), masker)(form(X), silent=True)
    elif (
        kind == "array"
    ):  # of frames the others make arrays there, and maskers fail with sparse rows
        getattr(shap, name)(spied(game, theirs), BACKGROUND).shap_values(X, silent=True)
    wanted = {type(form(X))}
    assert {t for t, _ in seen} == wanted
    assert {t for t, _ in theirs} in (wanted, set())
    if kind == "array":
        assert {d for _, d in seen} == {np.dtype(np.float64)}
    plain = make(name, game, BACKGROUND, **({"seed": 0} if name in SEEDED else {}))(X, silent=True)
    if name in ("ExactExplainer", "KernelExplainer"):
        np.testing.assert_allclose(found.values, plain.values, atol=1e-12)
    else:
        np.testing.assert_allclose(found.values.sum(1), plain.values.sum(1), atol=1e-12)
    assert found.feature_names == (list("abcde") if kind == "frame" else plain.feature_names)


def states():
    return np.random.get_state()[1].copy(), np.random.get_state()[2], torch.get_rng_state()  # noqa: NPY002


@pytest.mark.parametrize("name", SEEDED)
def test_generators_are_left_alone_with_a_seed(name):
    wide, x = RNG.normal(size=(3, 13)), RNG.normal(size=(1, 13))
    f = lambda z: np.prod(1 + z / 4, 1)  # noqa: E731
    before = states()
    explainer = make(name, f, wide, seed=5)
    first = explainer(x, silent=True).values
    np.testing.assert_array_equal(explainer(x, silent=True).values, first)
    for one, other in zip(before, states(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert (make(name, f, wide, seed=6)(x, silent=True).values != first).any()


def test_generators_are_left_alone_where_nothing_is_drawn():
    module, data = network(), rows(5, 4)
    before = states()
    ours.ExactExplainer(game, ours.maskers.Partition(BACKGROUND))(X, silent=True)
    ours.ExactExplainer(game, BACKGROUND)(X, silent=True)
    ours.sample(BACKGROUND, 3)
    ours.kmeans(BACKGROUND, 3)
    ours.DeepExplainer(module, data).shap_values(data)
    ours.GradientExplainer(module, data).shap_values(data, rseed=0)
    ours.ExactExplainer(game, BACKGROUND)(X, silent=True).sample(2)
    for one, other in zip(before, states(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", (*BLACK_BOXES, "DeepExplainer", "GradientExplainer"))
def test_a_module_is_as_before(name):
    module, data = nn.Sequential(network(), nn.Dropout(0.5)), rows(5, 4)
    module[0].eval()
    module.requires_grad_(True)
    module[0][0].weight.grad = torch.ones_like(module[0][0].weight)
    modes = [m.training for m in module.modules()]
    state = {k: v.clone() for k, v in module.state_dict().items()}
    found = make(name, module, data)
    (found(data) if name in ("DeepExplainer", "GradientExplainer") else found(data, silent=True))
    assert [m.training for m in module.modules()] == modes
    for m in module.modules():
        assert not m._forward_hooks and not m._forward_pre_hooks and not m._backward_hooks
    assert all(p.requires_grad for p in module.parameters())
    assert (module[0][0].weight.grad == 1).all() and module[0][0].bias.grad is None
    for key, value in module.state_dict().items():
        assert torch.equal(value, state[key])
    assert data.grad is None and not data.requires_grad


@EVERY
@OUTPUTS
def test_a_background_of_one_row(name, f):
    for one in (BACKGROUND[:1], BACKGROUND[0] if name != "ExactExplainer" else BACKGROUND[:1]):
        found = make(name, f, one)(X, silent=True)
        np.testing.assert_allclose(found.values.sum(1) + found.base_values, f(X), atol=1e-9)
        np.testing.assert_allclose(found.base_values[0], f(BACKGROUND[:1])[0], atol=1e-12)


@EVERY
def test_estimators_as_tutorials_have_them(name):
    y = (game(BACKGROUND) > game(BACKGROUND).mean()).astype(int)
    forest = RandomForestClassifier(5, random_state=0).fit(BACKGROUND, y)
    linear = LinearRegression().fit(BACKGROUND, game(BACKGROUND))
    boosted = lightgbm.LGBMRegressor(n_estimators=3, min_child_samples=1, verbose=-1)
    boosted.fit(BACKGROUND, game(BACKGROUND))
    for model, outputs in (
        (forest.predict_proba, 2),
        (lambda z: forest.predict_proba(z)[:, 1], None),
        (linear.predict, None),
        (boosted.predict, None),
        (LogisticRegression().fit(BACKGROUND, y).decision_function, None),
    ):
        found = make(name, model, BACKGROUND)(X, silent=True)
        assert found.values.shape == ((4, 5) if outputs is None else (4, 5, outputs))
        total = found.values.sum(1) + found.base_values
        np.testing.assert_allclose(total, model(X), atol=1e-9)
    found = make(name, linear.predict, BACKGROUND)(X, silent=True).values
    near = 0.02 if name == "SamplingExplainer" else 1e-9  # whose rows of the background are few
    np.testing.assert_allclose(found, linear.coef_ * (X - BACKGROUND.mean(0)), atol=near)


def test_tensors_straight_into_deep_explainer():
    module, data = network(1), rows(20, 4)
    for background in (data[:10], data[:1]):
        theirs = shap.DeepExplainer(module, background).shap_values(data[10:])
        explainer = ours.DeepExplainer(module, background)
        values = explainer.shap_values(data[10:])
        assert isinstance(values, np.ndarray) and values.shape == (10, 4, 1) == theirs.shape
        np.testing.assert_allclose(values, theirs, atol=1e-6)
        total = values.sum(1) + explainer.expected_value
        np.testing.assert_allclose(total, module(data[10:]).detach(), atol=1e-5)
        np.testing.assert_allclose(explainer(data[10:])[0, :, 0].values, values[0, :, 0])


BAD_ROWS = {
    "a missing column": (lambda x: x.drop(columns="income"), "X: .*none called 'income'"),
    "another order": (lambda x: x[x.columns[::-1]], "X: columns in|X: expected columns in .*order"),
    "an unseen category": (
        lambda x: x.assign(town=pd.Categorical(["Rome"] * len(x))),
        "X: column 'town'.*'Rome'",
    ),
    "text among numbers": (
        lambda x: x.assign(income=["much"] * len(x)),
        "X: column 'income'.*'much'",
    ),
    "too few columns": (lambda x: np.zeros((2, 3)), "X: expected rows of 5 features"),
    "nothing of the kind": (lambda x: {"age": 3}, "X: "),
}


@pytest.mark.parametrize("case", BAD_ROWS)
@EVERY
def test_bad_rows_are_named_before_the_model_is_called(name, case):
    bad, match = BAD_ROWS[case]
    asked = []

    def f(z):
        asked.append(len(z))
        return z["age"].to_numpy() * 1.0

    explainer = make(name, f, frame(6))
    before = len(asked)
    for call in [explainer, *([explainer.shap_values] if name != "ExactExplainer" else [])]:
        with pytest.raises(fastxai.ArgumentError, match=match):
            call(bad(frame(2, seed=1)), silent=True)
    assert len(asked) == before


@EVERY
def test_rows_for_modules_must_be_numbers(name):
    module, asked = network(), []
    module.register_forward_pre_hook(lambda *_: asked.append(1))
    text = np.array([[1.0, "a", 2.0, 3.0]] * 2, dtype=object)
    with pytest.raises(fastxai.ArgumentError, match=r"(data|masker): column 1: expected numbers"):
        make(name, module, text)
    assert not asked
    explainer = make(name, module, rows(3, 4))
    asked.clear()
    with pytest.raises(fastxai.ArgumentError, match=r"X: column 1: expected numbers, got 'a'"):
        explainer(text, silent=True)
    with pytest.raises(fastxai.ArgumentError, match=r"X: .*column 'a' of object"):
        explainer(pd.DataFrame(text, columns=list("abcd")), silent=True)
    with pytest.raises(fastxai.ArgumentError, match="X: expected 4 features"):
        explainer(np.zeros((2, 5)), silent=True)
    assert not asked
    numbers = np.array([[1, 2, 3, 4.5]], dtype=object)  # as DataFrame.to_numpy() gives mixed ones
    assert explainer(numbers, silent=True).values.shape == (1, 4, 3)


BAD_MODELS = {
    "a list": (lambda z: [0.0] * len(z), "model: expected outputs.*a list"),
    "too few": (lambda z: np.zeros(len(z) - 1), "model: expected outputs.*shape"),
    "one for all": (lambda z: np.float64(3), "model: expected outputs"),
    "labels": (lambda z: np.array(["yes"] * len(z)), "model: .*predict_proba"),
    "three dimensions": (lambda z: np.zeros((len(z), 2, 2)), "model: expected outputs.*shape"),
    "None": (lambda z: None, "model: expected outputs.*NoneType"),
    "no function": (3, "model: expected a module or callable"),
}


@pytest.mark.parametrize("case", BAD_MODELS)
@EVERY
def test_bad_models_are_named(name, case):
    model, match = BAD_MODELS[case]
    with pytest.raises(fastxai.ArgumentError, match=match):
        make(name, model, BACKGROUND)


@EVERY
def test_a_classifier_of_one_class(name):
    class Sure:
        classes_ = np.array(["yes"])

        def predict_proba(self, z):
            return np.ones((len(z), 1))

    found = make(name, Sure(), BACKGROUND)(X, silent=True)
    assert found.values.shape == (4, 5, 1) and np.abs(found.values).max() < 1e-12
    assert found.output_names == ["yes"]
    np.testing.assert_allclose(found.base_values, np.ones((4, 1)), atol=1e-12)
