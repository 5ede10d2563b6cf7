"""Exact, Permutation and SamplingExplainer beside shap's."""

import numpy as np
import pandas as pd
import pytest
import shap
from sklearn.linear_model import LogisticRegression

import fastxai
import fastxai.shap

from .test_kernel import BACKGROUND, FORMS, X, column, frame, game, probabilities, several

OF_FORM = pytest.mark.parametrize("f,link", FORMS, ids=lambda v: getattr(v, "__name__", v))


def links(name):
    return getattr(shap.links, name), getattr(fastxai.shap.links, name)


@pytest.mark.thin("rows")
@OF_FORM
@pytest.mark.parametrize("linearize", [True, False])
@pytest.mark.parametrize("rows", [7, 1])
def test_exact_is_shaps(f, link, linearize, rows):
    theirs, ours = links(link)
    masker = shap.maskers.Independent(BACKGROUND[:rows])
    peers = linearize and rows > 1  # of one row theirs is 0 / 0
    expected = shap.ExactExplainer(f, masker, link=theirs, linearize_link=peers)(X)
    found = fastxai.shap.ExactExplainer(f, BACKGROUND[:rows], ours, linearize)(X, silent=True)
    shape = (*expected.values.shape, 1) if f is column else expected.values.shape
    assert found.values.shape == shape and found.values.dtype == np.float64
    np.testing.assert_allclose(found.values, expected.values.reshape(shape), atol=1e-9)
    np.testing.assert_allclose(found.base_values, expected.base_values, atol=1e-9)
    assert found.feature_names == expected.feature_names or expected.feature_names is None


@OF_FORM
def test_exact_and_kernel_agree(f, link):
    exact = fastxai.shap.ExactExplainer(f, BACKGROUND, link, False)(X, silent=True)
    kernel = fastxai.shap.KernelExplainer(f, BACKGROUND, link=link)(X, silent=True)
    np.testing.assert_allclose(exact.values, kernel.values, atol=1e-12)
    np.testing.assert_allclose(exact.base_values, kernel.base_values, atol=1e-12)


@OF_FORM
def test_orders_add_up_and_many_come_near(f, link):
    exact = fastxai.shap.ExactExplainer(f, BACKGROUND, link)(X, silent=True).values
    explainer = fastxai.shap.PermutationExplainer(f, BACKGROUND, link, seed=0)
    found = explainer(X, max_evals=300 * 11, silent=True)
    np.testing.assert_allclose(found.values.sum(1), exact.sum(1), atol=1e-9)
    np.testing.assert_allclose(found.values, exact, atol=0.15)
    again = explainer.shap_values(X, npermutations=300, silent=True)
    np.testing.assert_array_equal(again, found.values)
    one = explainer.shap_values(X[0], npermutations=10, silent=True)
    assert one.shape == found.values.shape[1:]


def test_one_pair_of_orders_is_exact_for_pairs_of_features():
    q = np.random.default_rng(1).normal(size=(5, 5))
    f = lambda z: np.einsum("ni,ij,nj->n", z, q, z)  # noqa: E731
    exact = fastxai.shap.ExactExplainer(f, BACKGROUND)(X, silent=True).values
    found = fastxai.shap.PermutationExplainer(f, BACKGROUND, seed=0)(X, max_evals=11, silent=True)
    np.testing.assert_allclose(found.values, exact, atol=1e-12)


@pytest.mark.parametrize("f", [game, column, several])
def test_sampling_has_shaps_shapes(f):
    theirs = shap.SamplingExplainer(f, BACKGROUND)
    ours = fastxai.shap.SamplingExplainer(f, BACKGROUND, seed=0)
    assert type(ours.expected_value) is type(theirs.expected_value)
    for x in (X[:2], X[0]):
        expected = theirs.shap_values(x, nsamples=2000)
        values = ours.shap_values(x, nsamples=2000)
        assert values.reshape(expected.shape).dtype == expected.dtype
        np.testing.assert_allclose(values.reshape(expected.shape), expected, atol=0.5)


def test_a_logistic_regression_stays_additive_by_linearised_links():
    model = LogisticRegression().fit(BACKGROUND, [0, 1, 0, 1, 1, 0, 1])
    explainer = fastxai.shap.ExactExplainer(model, BACKGROUND, "logit")
    apart = fastxai.shap.ExactExplainer(model, BACKGROUND, "logit")
    found = explainer(X, silent=True).values[..., 1]
    expected = shap.ExactExplainer(model.predict_proba, BACKGROUND, link=shap.links.logit)(X)
    np.testing.assert_allclose(found, expected.values[..., 1], atol=1e-9)
    # Additive: what a feature is worth does not depend on the others.
    changed = X.copy()
    changed[:, 1:] += 1
    other = apart(changed, silent=True).values[..., 1]
    np.testing.assert_allclose(other[:, 0], found[:, 0], atol=1e-9)


def test_a_data_frame_and_shaps_maskers():
    background, x = frame(6), frame(3, seed=1)
    f = lambda z: (z["age"] * z["income"] + (z["pet"] == "dog")).to_numpy()  # noqa: E731
    plain = fastxai.shap.ExactExplainer(f, background)(x, silent=True)
    assert plain.feature_names == list(background.columns)
    np.testing.assert_allclose(plain.values.sum(1) + plain.base_values, f(x), atol=1e-9)
    numbers = pd.DataFrame(BACKGROUND, columns=list("abcde"))
    masker = shap.maskers.Independent(numbers)
    g = lambda z: (z["a"] * z["b"] + z["c"]).to_numpy()  # noqa: E731
    rows = pd.DataFrame(X, columns=list("abcde"))
    expected = shap.ExactExplainer(g, masker)(rows)
    found = fastxai.shap.ExactExplainer(g, masker)(rows, silent=True)
    np.testing.assert_allclose(found.values, expected.values, atol=1e-12)


def test_a_large_background_is_cut_as_shap_does():
    data = np.random.default_rng(2).normal(size=(130, 5))
    with pytest.warns(UserWarning, match="masker: of its 130 rows 100"):
        ours = fastxai.shap.ExactExplainer(game, data)
    expected = shap.ExactExplainer(game, data)(X[:1])
    np.testing.assert_allclose(ours(X[:1], silent=True).values, expected.values, atol=1e-9)


def test_seeds_of_orders():
    f = lambda z: np.prod(1 + z / 4, 1)  # noqa: E731
    make = lambda seed: fastxai.shap.PermutationExplainer(f, BACKGROUND, seed=seed)  # noqa: E731
    first = make(1)(X, max_evals=22, silent=True).values
    np.testing.assert_array_equal(make(1)(X, max_evals=22, silent=True).values, first)
    np.random.seed(0)  # noqa: NPY002
    free = make(None)(X, max_evals=22, silent=True).values
    assert (free != first).any()
    np.random.seed(0)  # noqa: NPY002
    np.testing.assert_array_equal(make(None)(X, max_evals=22, silent=True).values, free)


def test_bad_arguments():
    exact = fastxai.shap.ExactExplainer(game, BACKGROUND)
    orders = fastxai.shap.PermutationExplainer(game, BACKGROUND)
    wide = fastxai.shap.ExactExplainer(game, np.zeros((2, 30)))
    for call, match in (
        (lambda: exact(X, max_evals=31), r"max_evals: expected at least 2\^5 = 32.*31"),
        (lambda: exact(X, interactions=3), "interactions"),
        (lambda: wide(np.ones((1, 30)), interactions=2), r"max_evals: .* 2\^30 = .*got 100000"),
        (lambda: wide(np.ones((1, 30)), "auto", interactions=2), r"max_evals: .* 2\^30 = "),
        (lambda: wide(np.ones((1, 30)), "auto"), r"max_evals: .* 2\^30 = "),
        (lambda: orders(X, max_evals=10), "max_evals: expected at least 11.*10"),
        (lambda: orders.shap_values(X, npermutations=0), "npermutations"),
        (lambda: fastxai.shap.SamplingExplainer(probabilities, BACKGROUND, link="logit"), "link"),
        (lambda: fastxai.shap.ExactExplainer(game, shap.maskers.Fixed()), "masker: .*Fixed"),
    ):
        with pytest.raises(ValueError, match=match):
            call()


def test_the_explainer_that_shap_would_choose():
    wide = np.zeros((2, 11))
    make = fastxai.shap.Explainer
    for masker in (BACKGROUND, BACKGROUND.tolist(), pd.DataFrame(BACKGROUND)):
        assert isinstance(make(game, masker), fastxai.shap.ExactExplainer)
    assert isinstance(make(game, shap.maskers.Independent(wide)), fastxai.shap.PermutationExplainer)
    assert isinstance(make(game, wide, algorithm="exact"), fastxai.shap.ExactExplainer)
    expected = shap.Explainer(several, BACKGROUND)(X)
    found = make(several, BACKGROUND, output_names=["p", "q", "r"])(X, silent=True)
    np.testing.assert_allclose(found.values, expected.values, atol=1e-12)
    assert found.output_names == ["p", "q", "r"]
    for options, match in (
        ({"algorithm": "tree"}, "algorithm: expected one of auto, exact"),
        ({"masker": None}, "masker: expected rows"),
    ):
        with pytest.raises(fastxai.ArgumentError, match=match):
            make(game, **{"masker": BACKGROUND, **options})


@OF_FORM
def test_pairs_of_features_are_shaps(f, link):
    theirs, ours = links(link)
    masker = shap.maskers.Independent(BACKGROUND)
    expected = shap.ExactExplainer(f, masker, link=theirs, linearize_link=False)(
        X, interactions=2
    ).values
    explainer = fastxai.shap.ExactExplainer(f, BACKGROUND, ours, False)
    for interactions in (2, True):
        found = explainer(X, interactions=interactions, silent=True)
        outputs = () if f is game else (np.asarray(f(X)).shape[1],)
        assert found.values.shape == (4, 5, 5, *outputs)
        np.testing.assert_allclose(found.values, expected.reshape(found.values.shape), atol=1e-10)
    alone = explainer(X, silent=True)
    np.testing.assert_allclose(found.values.sum((1, 2)), alone.values.sum(1), atol=1e-10)
    one = found[1, "Feature 2"]
    np.testing.assert_array_equal(one.values, found.values[1, 2])


def test_pairs_by_hand_where_some_columns_never_differ():
    x, background = X[:2].copy(), BACKGROUND[:3].copy()
    background[:, 1] = x[:, 1] = 7
    background[:, 3] = x[0, 3]
    f = lambda z: z[:, 0] * z[:, 2] + 3 * z[:, 3] * z[:, 1] + z[:, 4]  # noqa: E731
    found = fastxai.shap.ExactExplainer(f, background)(x, interactions=2, silent=True).values
    means = background.mean(0)
    expected = np.zeros((2, 5, 5))
    expected[:, 0, 0] = ((x[:, 0, None] - background[:, 0]) * background[:, 2]).mean(1)
    expected[:, 2, 2] = ((x[:, 2, None] - background[:, 2]) * background[:, 0]).mean(1)
    products = (x[:, 0, None] - background[:, 0]) * (x[:, 2, None] - background[:, 2])
    expected[:, 0, 2] = expected[:, 2, 0] = products.mean(1) / 2
    expected[:, 3, 3] = 21 * (x[:, 3] - means[3])
    expected[:, 4, 4] = x[:, 4] - means[4]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert (found[:, 1] == 0).all() and (found[0, 3] == 0).all()


@OF_FORM
def test_owen_values_along_a_tree_are_shaps(f, link):
    theirs, ours = links(link)
    peers = shap.maskers.Partition(BACKGROUND)
    own = fastxai.shap.maskers.Partition(BACKGROUND, clustering=peers.clustering)
    expected = shap.ExactExplainer(f, peers, link=theirs, linearize_link=False)(X).values
    for masker in (own, peers):
        found = fastxai.shap.Explainer(f, masker, ours, linearize_link=False)(X, silent=True)
        np.testing.assert_allclose(found.values.reshape(expected.shape), expected, atol=1e-10)


def test_bad_trees_are_named():
    for tree in (np.zeros((3, 4)), np.zeros((4, 4))):
        with pytest.raises(fastxai.ArgumentError, match="clustering: expected"):
            fastxai.shap.maskers.Partition(BACKGROUND, clustering=tree)
    with pytest.raises(fastxai.ArgumentError, match="max_evals: expected at least"):
        masker = fastxai.shap.maskers.Partition(BACKGROUND)
        fastxai.shap.ExactExplainer(game, masker)(X, 3)
