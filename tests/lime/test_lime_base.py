"""LimeBase beside lime's."""

import lime.lime_base
import numpy as np
import pytest
import scipy.sparse
from sklearn.linear_model import LinearRegression, Ridge

import fastxai
from fastxai.lime._rows import WeightedRows
from fastxai.lime.lime_base import LimeBase

SELECTIONS = ["none", "forward_selection", "highest_weights", "lasso_path", "auto"]


def kernel(d):
    return np.exp(-(d**2) / 8)


def neighbourhood(kind, n=300, m=9):
    """Rows [n, m], outputs [n, 2] and distances [n]."""
    rng = np.random.default_rng(0)
    if kind == "binary":
        z = (rng.random((n, m)) < np.linspace(0.2, 0.8, m)).astype(float)
        z[0] = 1
    else:
        z = rng.normal(size=(n, m)) @ rng.normal(size=(m, m)) + 3  # correlated, not centred
    y = (
        np.tanh(z @ rng.normal(size=(m, 2)) / 3)
        + z[:, :1] * z[:, 1:2]
        + 0.3 * rng.normal(size=(n, 2))
    )
    return z, y, np.sqrt(((z - z[0]) ** 2).sum(1)) / np.sqrt(m)


def both(z, y, d, *args, **kwargs):
    theirs = lime.lime_base.LimeBase(kernel).explain_instance_with_data(z, y, d, *args, **kwargs)
    return theirs, LimeBase(kernel).explain_instance_with_data(z, y, d, *args, **kwargs)


def assert_same(theirs, ours, order=True):
    np.testing.assert_allclose(ours[0], theirs[0], atol=1e-10)
    if order:
        assert [int(i) for i, _ in ours[1]] == [int(i) for i, _ in theirs[1]]
    np.testing.assert_allclose([w for _, w in ours[1]], [w for _, w in theirs[1]], atol=1e-10)
    np.testing.assert_allclose(ours[2], theirs[2], atol=1e-10)
    np.testing.assert_allclose(ours[3], theirs[3], atol=1e-10)
    assert ours[3].shape == (1,) and isinstance(ours[2], float)
    assert all(isinstance(i, np.int64) and isinstance(w, np.float64) for i, w in ours[1])


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("count", [1, 4, 7, 20])
@pytest.mark.parametrize("method", SELECTIONS)
@pytest.mark.parametrize("kind", ["binary", "numbers"])
def test_fits_are_limes(kind, method, count, label):
    z, y, d = neighbourhood(kind)
    assert_same(*both(z, y, d, label, count, method))


@pytest.mark.parametrize("method", SELECTIONS)
def test_sparse_rows_are_as_dense_ones(method):
    z, y, d = neighbourhood("binary")
    theirs = lime.lime_base.LimeBase(kernel).explain_instance_with_data(z, y, d, 1, 4, method)
    sparse = scipy.sparse.csr_matrix(z)
    assert_same(theirs, LimeBase(kernel).explain_instance_with_data(sparse, y, d, 1, 4, method))


@pytest.mark.parametrize("regressor", [LinearRegression, lambda: Ridge(3.0)])
def test_another_regressor(regressor):
    z, y, d = neighbourhood("numbers")
    for count in (3, 8):
        assert_same(*both(z, y, d, 1, count, model_regressor=regressor()))


@pytest.mark.parametrize("seed", range(20))
def test_paths_where_columns_leave(seed):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(60, 3)) @ rng.normal(size=(3, 8)) + 0.3 * rng.normal(size=(60, 8))
    y = rng.normal(size=(60, 1)) + z[:, :1]
    d = np.abs(rng.normal(size=60))
    for count in range(1, 9):
        assert_same(*both(z, y, d, 0, count, "lasso_path"))


@pytest.mark.parametrize("method", SELECTIONS)
def test_constant_and_doubled_columns(method):
    """Weights of what never varies are zero, and a copy adds nothing."""
    z, y, d = neighbourhood("binary")
    z[:, 3], z[:, 5] = 1.0, z[:, 2]
    _, pairs, score, _ = LimeBase(kernel).explain_instance_with_data(z, y, d, 0, 9, method)
    weights = dict(pairs)
    assert weights.get(3, 0) == 0 and np.isfinite(score)
    assert all(np.isfinite(w) for w in weights.values())
    # Forward selection takes the copy only when nothing else is left.
    _, pairs, _, _ = LimeBase(kernel).explain_instance_with_data(z, y, d, 0, 7, "forward_selection")
    assert len({2, 5} & {i for i, _ in pairs}) == 1


def test_constant_outputs():
    z, _, d = neighbourhood("binary")
    theirs, ours = both(z, np.full((len(z), 1), 0.25), d, 0, 9, "none")
    np.testing.assert_allclose(ours[0], 0.25, atol=1e-15)
    assert [w for _, w in ours[1]] == [0] * 9 and ours[2] == theirs[2] == 1


def test_wide_rows():
    """More columns than the Gram matrix of which one would make."""
    rng = np.random.default_rng(0)
    z = (rng.random((40, 5000)) < 0.5).astype(float)
    z[0] = 1
    y = z[:, :3] @ [[3.0], [2.0], [-2.5]] + 1
    _, pairs, _, _ = LimeBase(kernel).explain_instance_with_data(z, y, np.zeros(40), 0, 3)
    assert {int(i) for i, _ in pairs} == {0, 1, 2}
    theirs, ours = both(z, y, np.zeros(40), 0, 10)
    assert_same(theirs, ours)


def test_standard_errors_tell_how_weights_vary():
    rng = np.random.default_rng(0)
    found, told = [], []
    base = LimeBase(kernel)
    for _ in range(400):
        z = (rng.random((200, 4)) < 0.5).astype(float)
        z[0] = 1
        y = (z @ [1.0, 2, 3, 0])[:, None] + (0.2 + z[:, :1]) * rng.normal(size=(200, 1))
        rows = WeightedRows(z, y, kernel(np.sqrt((z == 0).sum(1))))
        fit = base.fit(rows, 0, 4, "none")
        order = np.argsort([i for i, _ in fit.weights])
        found.append(np.array([w for _, w in fit.weights])[order])
        told.append(fit.standard_errors[order])
    ratio = np.mean(told, 0) / np.std(found, 0)
    assert ((ratio > 0.85) & (ratio < 1.15)).all(), ratio


def test_verbose_prints_the_local_prediction(capsys):
    z, y, d = neighbourhood("binary")
    LimeBase(kernel, verbose=True).explain_instance_with_data(z, y, d, 0, 3)
    assert "Prediction_local" in capsys.readouterr().out


BAD = {
    "kernel_fn": lambda z, y, d: LimeBase(3),
    "neighborhood_data": lambda z, y, d: explain(z[0], y, d),
    "neighborhood_labels": lambda z, y, d: explain(z, y[:5], d),
    "label": lambda z, y, d: explain(z, y, d, label=2),
    "num_features": lambda z, y, d: explain(z, y, d, count=0),
    "feature_selection": lambda z, y, d: explain(z, y, d, method="best"),
    "kernel": lambda z, y, d: explain(z, y, d[:4]),
}


def explain(z, y, d, label=0, count=3, method="auto"):
    return LimeBase(kernel).explain_instance_with_data(z, y, d, label, count, method)


@pytest.mark.parametrize("argument", BAD)
def test_bad_arguments_are_named(argument):
    with pytest.raises(fastxai.ArgumentError, match=rf"^{argument}: expected"):
        BAD[argument](*neighbourhood("binary"))


@pytest.mark.parametrize("weights", [np.nan, -1.0, 0.0])
def test_bad_weights(weights):
    z, y, d = neighbourhood("binary")
    base = LimeBase(lambda d: np.full(len(d), weights))
    with pytest.raises(fastxai.ArgumentError, match=r"^kernel: expected"):
        base.explain_instance_with_data(z, y, d, 0, 3)


def test_a_kernel_too_narrow_is_told():
    z, y, d = neighbourhood("numbers")
    with pytest.warns(UserWarning, match="kernel_width: nearly all"):
        LimeBase(lambda d: np.exp(-(d**2) * 100)).explain_instance_with_data(z, y, d, 0, 3)


@pytest.mark.parametrize("seed", range(5))
def test_columns_that_follow_from_others_are_chosen_last(seed):
    """What is left of them is rounding, of which nothing may be made a gain."""
    rng = np.random.default_rng(seed)
    basis = rng.normal(size=(100, 3))
    copies = basis @ rng.integers(-3, 4, size=(3, 300)) * 1.1
    z = np.concatenate([basis, copies, rng.normal(size=(100, 1))], 1)
    y = (1e3 * basis.sum(1) + 1e-11 * z[:, -1])[:, None]
    weighted = WeightedRows(z, y, np.ones(100))
    assert 303 in weighted.select(0, 4, "forward_selection")
