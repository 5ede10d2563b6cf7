"""Functions as maskers beside shap's explainers."""

import numpy as np
import pandas as pd
import pytest
import shap

import fastxai
import fastxai.shap

from .test_kernel import BACKGROUND, X, game, probabilities, several

ours = fastxai.shap


class Blur:
    """Three features of two, two and one columns; absent ones are a mix of the row and a mean."""

    shape = (2, 3)

    def __init__(self, form=np.array):
        self._rows, self._form = np.empty((2, 5)), form  # written over at every call

    def mask_shapes(self, x):  # which shap asks for
        return [(3,)]

    def __call__(self, mask, x):
        assert mask.dtype == bool and mask.shape == (3,)
        wide = mask[[0, 0, 1, 1, 2]]
        self._rows[0] = np.where(wide, x, BACKGROUND.mean(0))
        self._rows[1] = np.where(wide, x, x / 2)
        return self._rows if self._form is np.array else self._form(self._rows)


@pytest.mark.parametrize("f", [game, several, probabilities])
@pytest.mark.parametrize("link", ["identity", "logit"])
def test_all_coalitions_are_shaps(f, link):
    if link == "logit" and f is not probabilities:
        return
    theirs = shap.ExactExplainer(f, Blur(), link=getattr(shap.links, link), linearize_link=False)
    explainer = ours.ExactExplainer(f, Blur(), link)
    expected, found = theirs(X, silent=True), explainer(X, silent=True)
    assert found.values.shape == expected.values.shape
    np.testing.assert_allclose(found.values, expected.values, atol=1e-10)
    np.testing.assert_allclose(found.base_values, expected.base_values, atol=1e-12)
    assert (found.base_values[0] != found.base_values[1]).any()
    assert found.feature_names == ["Feature 0", "Feature 1", "Feature 2"]
    one = explainer(X[1], silent=True)
    np.testing.assert_allclose(one.values, found.values[1], atol=1e-12)
    pairs = explainer(X, interactions=2, silent=True)
    their_pairs = theirs(X, interactions=2, silent=True).values
    np.testing.assert_allclose(pairs.values, their_pairs.reshape(pairs.values.shape), atol=1e-10)


@pytest.mark.parametrize("f", [game, several])
def test_orders_come_near(f):
    exact = ours.ExactExplainer(f, Blur())(X, silent=True)
    explainer = ours.Explainer(f, Blur(), seed=0)
    assert isinstance(explainer, ours.PermutationExplainer)
    found = explainer(X, max_evals=7 * 50, silent=True)
    np.testing.assert_allclose(found.values.sum(1), exact.values.sum(1), atol=1e-12)
    np.testing.assert_allclose(found.values, exact.values, atol=0.2)
    assert found.standard_errors.shape == found.values.shape
    np.testing.assert_array_equal(explainer.shap_values(X, 50), found.values)


def test_other_forms_of_rows_and_shapes():
    expected = ours.ExactExplainer(game, Blur())(X, silent=True).values
    named = lambda z: game(z[list("abcde")])  # noqa: E731
    to_frame = Blur(lambda z: pd.DataFrame(z, columns=list("abcde")))
    found = ours.ExactExplainer(named, to_frame)(X, silent=True).values
    np.testing.assert_allclose(found, expected, atol=1e-12)
    found = ours.ExactExplainer(game, Blur(lambda z: (z,)))(X, silent=True).values
    np.testing.assert_allclose(found, expected, atol=1e-12)
    asked = Blur()
    asked.shape = lambda x: (2, 3)
    found = ours.ExactExplainer(game, asked, batch_size=3)(X, silent=True).values
    np.testing.assert_allclose(found, expected, atol=1e-12)
    plain = lambda mask, x: np.where(mask, x, BACKGROUND)  # noqa: E731
    found = ours.ExactExplainer(game, plain)(X, silent=True).values
    right = ours.ExactExplainer(game, BACKGROUND)(X, silent=True).values
    np.testing.assert_allclose(found, right, atol=1e-12)
    frame = pd.DataFrame(X, columns=list("abcde"))
    assert ours.ExactExplainer(game, plain)(frame, silent=True).feature_names == list("abcde")


def test_bad_maskers_are_named():
    shapeless = Blur()
    shapeless.shape = 3
    for masker, match in (
        (lambda mask, x: "rows", "masker: "),
        (lambda mask, x: np.zeros((2, 2, 2)), "masker: expected rows of features"),
        (lambda mask, x: (x[None], x[None]), "masker: expected rows for one argument"),
        (shapeless, "masker: expected a shape"),
    ):
        with pytest.raises(fastxai.ArgumentError, match=match):
            ours.ExactExplainer(game, masker)(X, silent=True)
    with pytest.raises(fastxai.ArgumentError, match="max_evals"):
        ours.ExactExplainer(game, Blur())(X, max_evals=7)
    with pytest.raises(fastxai.ArgumentError, match="main_effects"):
        ours.ExactExplainer(game, Blur())(X, main_effects=True)
    with pytest.raises(fastxai.ArgumentError, match="feature_names"):
        ours.ExactExplainer(game, Blur(), feature_names=["a"])(X, silent=True)
    with pytest.raises(fastxai.ArgumentError, match="model: expected a module or callable"):
        ours.ExactExplainer(3, Blur())
