"""SamplingExplainer: an order, its reverse and a row of the background at a time."""

import numpy as np
import pytest
import shap

import fastxai.shap

rng = np.random.default_rng(0)
BACKGROUND, X = rng.normal(size=(40, 8)), rng.normal(size=(2, 8))
INWARDS, OUTWARDS = rng.normal(size=(8, 16)) / 2, rng.normal(size=16)


def curved(rows):
    return np.tanh(rows @ INWARDS) @ OUTWARDS


def two(rows):
    return np.stack([curved(rows), rows[:, 0] * rows[:, 1]], 1)


def off(values):
    exact = fastxai.shap.ExactExplainer(curved, BACKGROUND)(X, silent=True).values
    return np.square(values - exact).mean()


def test_errors_are_less_than_shaps_and_as_told():
    theirs, ours, told = [], [], []
    for seed in range(4):
        np.random.seed(seed)  # noqa: NPY002
        explainer = shap.SamplingExplainer(curved, BACKGROUND)
        theirs.append(off(explainer.shap_values(X, nsamples=1500, silent=True)))
        found = fastxai.shap.SamplingExplainer(curved, BACKGROUND, seed=seed)(X, nsamples=1500)
        ours.append(off(found.values))
        told.append(np.square(found.standard_errors).mean())
    assert np.mean(ours) < 0.5 * np.mean(theirs)
    assert 0.15 < np.mean(ours) / np.mean(told) < 1.5  # told is what rows with few turns differ by


@pytest.mark.parametrize("nsamples", [1, 30, 500])
def test_values_add_up_and_have_no_more_calls_than_asked_for(nsamples):
    rows = []

    def counted(x):
        rows.append(len(x))
        return two(x)

    explainer = fastxai.shap.SamplingExplainer(counted, BACKGROUND, seed=0)
    rows.clear()
    values = explainer.shap_values(X, nsamples=nsamples)
    total = two(X) - two(BACKGROUND).mean(0)
    np.testing.assert_allclose(values.sum(1), total, atol=1e-12)
    assert sum(rows) <= len(X) * (1 + 2 * max(7, nsamples + 3.5))
    again = fastxai.shap.SamplingExplainer(two, BACKGROUND, seed=0)
    np.testing.assert_array_equal(again.shap_values(X, nsamples=nsamples), values)


def test_weights_of_the_background_count():
    data = fastxai.shap.kmeans(BACKGROUND, 5)
    exact = fastxai.shap.ExactExplainer(curved, data)(X, silent=True).values
    found = fastxai.shap.SamplingExplainer(curved, data, seed=0)(X, nsamples=30_000)
    assert (np.abs(found.values - exact) < 5 * found.standard_errors + 1e-3).all()
    unweighted = fastxai.shap.ExactExplainer(curved, data.data)(X, silent=True).values
    assert np.abs(unweighted - exact).max() > 0.05


def test_what_does_not_vary_has_nothing():
    background, x = BACKGROUND.copy(), X.copy()
    background[:, 3] = x[0, 3] = 0.5
    found = fastxai.shap.SamplingExplainer(curved, background, seed=0)(x, nsamples=100)
    assert found.values[0, 3] == 0 and found.standard_errors[0, 3] == 0
    assert found.values[1, 3] != 0
    same = fastxai.shap.SamplingExplainer(curved, X[:1], seed=0)(X[:1], nsamples=100)
    np.testing.assert_array_equal(same.values, 0)


def test_one_feature():
    explainer = fastxai.shap.SamplingExplainer(lambda z: z[:, 0] ** 2, np.array([[0.0], [2.0]]))
    found = explainer(np.array([[1.0], [3.0]]), nsamples=4)
    np.testing.assert_allclose(found.values, [[-1.0], [7.0]])
