"""Explanation beside shap's: slices, operations, fields, and what shap's plots make of them."""

import copy
import operator
import pickle
import subprocess
import sys

import matplotlib
import numpy as np
import pandas as pd
import pytest
import shap

import fastxai
import fastxai.shap

from .test_kernel import BACKGROUND, X, game, several

matplotlib.use("Agg")
Explanation = fastxai.shap.Explanation

RNG = np.random.default_rng(0)
ROWS, FEATURES, OUTPUTS = 6, 4, 3
NAMES, CLASSES = list("abcd"), ["p", "q", "r"]


def both(outputs=(), **more):
    """The same explanation here and in shap."""
    values = RNG.normal(size=(ROWS, FEATURES, *outputs))
    base, data = RNG.normal(size=(ROWS, *outputs)), RNG.normal(size=(ROWS, FEATURES))
    named = {"feature_names": NAMES, "output_names": CLASSES if outputs else None, **more}
    return Explanation(values, base, data, **named), shap.Explanation(values, base, data, **named)


def agree(ours, theirs, *fields):
    for field in ("values", *fields):
        found, expected = getattr(ours, field), getattr(theirs, field)
        np.testing.assert_allclose(found, expected, atol=1e-12, err_msg=field)
    assert ours.shape == np.shape(theirs.values)


WAYS = {
    "abs": lambda e: e.abs,
    "argsort": lambda e: e.argsort,
    "mean": lambda e: e.mean(0),
    "abs mean": lambda e: e.abs.mean(0),
    "max": lambda e: e.max(0),
    "min": lambda e: e.min(0),
    "sum": lambda e: e.sum(0),
    "mean of features": lambda e: e.mean(1),
    "sum of features": lambda e: e.sum(axis=1),
    "percentile": lambda e: e.percentile(30, 0),
    "percentile of features": lambda e: e.percentile(30, axis=1),
    "order": lambda e: e.abs.mean(0).argsort.flip,
    "flip of a row": lambda e: e[2].flip,
    "row": lambda e: e[1].abs,
    "sample": lambda e: e.sample(4),
    "sample more": lambda e: e.sample(99, random_state=3),
    "sample with replacement": lambda e: e.sample(5, replace=True, random_state=1),
}


@pytest.mark.parametrize("outputs", [(), (OUTPUTS,)], ids=["one", "three"])
@pytest.mark.parametrize("way", WAYS)
def test_operations_are_shaps(way, outputs):
    if outputs and way in ("flip of a row", "order"):
        return  # shap flips all axes there, and so do we, but names the outputs wrongly
    ours, theirs = both(outputs)
    before = copy.deepcopy(ours.values)
    agree(WAYS[way](ours), WAYS[way](theirs))
    np.testing.assert_array_equal(ours.values, before)


@pytest.mark.parametrize("outputs", [(), (OUTPUTS,)], ids=["one", "three"])
def test_what_goes_with_rows_and_outputs(outputs):
    ours, theirs = both(outputs)
    for way in ("mean", "max", "min", "sum", "sample"):
        agree(WAYS[way](ours), WAYS[way](theirs), "data", "base_values")
        assert WAYS[way](ours).feature_names == NAMES
    np.testing.assert_array_equal(ours.abs.data, ours.data)  # shap takes their sizes as well
    assert ours.sum(1).feature_names is None and ours.sum(1).base_values is None
    if outputs:
        last = ours.mean(2)
        np.testing.assert_allclose(last.values, ours.values.mean(2))
        np.testing.assert_allclose(last.base_values, ours.base_values.mean(1))
        assert last.output_names is None and last.feature_names == NAMES
        np.testing.assert_array_equal(last.data, ours.data)
        np.testing.assert_array_equal(ours.mean(-1).values, last.values)
        one = ours.mean(0)[:, "q"]
        np.testing.assert_allclose(one.values, ours.values.mean(0)[:, 1])
        np.testing.assert_allclose(one.base_values, ours.base_values.mean(0)[1])
    assert ours.sum().values == ours.values.sum() and ours.mean().shape == ()
    with pytest.raises(IndexError):
        ours.mean(7)


def test_one_base_value_for_all_rows():
    values, base = RNG.normal(size=(5, 4, 3)), np.arange(3.0)
    found = Explanation(values, base, output_names=CLASSES)
    np.testing.assert_allclose(found.mean(0).base_values, base)
    np.testing.assert_allclose(found.sum(0).base_values, 5 * base)
    assert Explanation(values[..., 0], 2.0).sum(0).base_values == 10
    assert Explanation(values[..., 0]).sum(0).base_values is None


def test_flip_takes_the_names_along():
    ours, _ = both((OUTPUTS,))
    found = ours.flip
    assert found.feature_names == NAMES[::-1] and found.output_names == CLASSES[::-1]
    np.testing.assert_array_equal(found[0, "a", "r"].values, ours[-1, "a", "r"].values)
    np.testing.assert_array_equal(found.data, ours.data[::-1, ::-1])


OPERATORS = (operator.add, operator.sub, operator.mul, operator.truediv)


@pytest.mark.parametrize("does", OPERATORS)
def test_arithmetic_is_shaps(does):
    (ours, theirs), (more, their_more) = both(), both()
    agree(does(ours, more), does(theirs, their_more), "base_values")
    agree(does(ours, 2.5), does(theirs, 2.5), "base_values")
    weights = RNG.normal(size=FEATURES) + 3
    np.testing.assert_allclose(does(ours, weights).values, does(ours.values, weights))
    assert does(ours, weights).base_values is None
    if does is not operator.truediv:
        agree(does(np.float64(2.5), ours), does(Explanation(2.5 + 0 * ours.values), ours))
        np.testing.assert_allclose(does(weights, ours).values, does(weights, ours.values))


def test_arithmetic_keeps_what_still_holds():
    ours, _ = both()
    ours.standard_errors = np.ones(ours.shape)
    ours.main_effects = ours.values
    mean = (ours + ours) / 2
    agree(mean, ours, "data", "base_values")
    np.testing.assert_array_equal((-2 * ours).standard_errors, 2 * np.ones(ours.shape))
    np.testing.assert_array_equal((1 + ours).standard_errors, ours.standard_errors)
    np.testing.assert_array_equal((1 - ours).values, 1 - ours.values)
    np.testing.assert_array_equal((-ours).base_values, -ours.base_values)
    assert mean.standard_errors is None and mean.main_effects is None  # they are not independent
    assert (ours + both()[0]).data is None
    agree(sum([ours, ours]), ours + ours)
    for bad in (ours[:3], np.ones((2, ROWS, FEATURES)), ours[0]):
        with pytest.raises(fastxai.ArgumentError, match="other: expected"):
            ours + bad
    for bad in ("a", [1, 2], None):
        with pytest.raises((TypeError, np._core._exceptions._UFuncNoLoopError)):
            ours + bad


def test_arrays_and_iteration():
    ours, _ = both()
    assert len(ours) == ROWS and len(list(ours)) == ROWS
    for row, values in zip(ours, ours.values, strict=True):
        np.testing.assert_array_equal(row.values, values)
        assert row.feature_names == NAMES
    np.testing.assert_array_equal(np.asarray(ours), ours.values)
    np.testing.assert_array_equal(np.abs(ours), np.abs(ours.values))
    assert np.asarray(ours, dtype=np.float32).dtype == np.float32


def test_hstack():
    ours, _ = both()
    left, right = ours[:, :3], ours[:, ["d"]]
    agree(left.hstack(right), ours, "data", "base_values")
    assert left.hstack(right).feature_names == NAMES
    agree(left[0].hstack(right[0]), ours[0], "data", "base_values")
    several, _ = both((OUTPUTS,))
    agree(several[:, :1].hstack(several[:, 1:]), several, "base_values")
    other, _ = both()
    for bad, match in (
        (other, "base values"),
        (ours[:2], "but for the features"),
        (ours[0], "axes"),
        (ours.values, "an explanation"),
    ):
        with pytest.raises(fastxai.ArgumentError, match=f"other: .*{match}"):
            ours.hstack(bad)


CHAINS = {
    "abs mean": lambda E: E.abs.mean(0),
    "order": lambda E: E.abs.mean(0).argsort.flip,
    "row": lambda E: E.abs[1],
    "percentile": lambda E: E.percentile(90, axis=0),
    "max": lambda E: E.max(axis=0),
}


@pytest.mark.parametrize("way", CHAINS)
def test_chains_of_the_class(way):
    ours, theirs = both()
    chain = CHAINS[way](Explanation)
    agree(chain.apply(ours), CHAINS[way](theirs))
    agree(chain.apply(ours.to_shap()), CHAINS[way](theirs)) if way != "row" else None
    again = pickle.loads(pickle.dumps(fastxai.shap._operators.Chain((("abs", None, {}),))))
    np.testing.assert_array_equal(again.apply(ours).values, np.abs(ours.values))


def test_a_chain_as_an_index():
    ours, _ = both()
    order = np.abs(ours.values).mean(0).argsort()[::-1]
    for chains in (Explanation, fastxai.shap._operators.Chain()):
        found = ours[:, chains.abs.mean(0).argsort.flip[:2]]
        np.testing.assert_array_equal(found.values, ours.values[:, order[:2]])
        assert found.feature_names == [NAMES[i] for i in order[:2]]
    np.testing.assert_array_equal(
        ours[pd.Series(ours.data[:, 0] > 0)].values, ours.values[ours.data[:, 0] > 0]
    )


def test_chains_without_shap():
    code = """
import sys, numpy as np
from fastxai.shap import Explanation as E
e = E(np.array([[1.0, -2.0]]))
assert "shap" not in sys.modules
assert E.abs.mean(0).apply(e).values.tolist() == [1, 2]
assert e[:, E.abs.mean(0).argsort.flip].values.tolist() == [[-2, 1]]
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_all_fields_in_shaps_order_are_sliced_and_handed_over():
    import inspect

    theirs = list(inspect.signature(shap.Explanation.__init__).parameters)
    own = list(inspect.signature(Explanation.__init__).parameters)
    assert own[: len(theirs)] == theirs
    shape = (ROWS, FEATURES)
    beside = {
        name: RNG.normal(size=shape)
        for name in ("lower_bounds", "upper_bounds", "error_std", "main_effects", "display_data")
    }
    tree = np.array([[0, 1, 0.1, 2], [2, 3, 0.2, 2], [4, 5, 0.5, 4.0]])
    more = {
        **beside,
        "instance_names": [f"row {i}" for i in range(ROWS)],
        "clustering": np.broadcast_to(tree, (ROWS, 3, 4)),
        "hierarchical_values": RNG.normal(size=(ROWS, 3)),
    }
    ours, theirs = both(**more)
    for key in (2, slice(1, 4), [0, 3], (slice(None), 1), (slice(2, 5), "b"), (0, [1, 2])):
        agree(ours[key], theirs[key], *beside, "data", "base_values")
    agree(ours[1:3], theirs[1:3], "clustering", "hierarchical_values")
    agree(ours["row 4"], theirs[4], *beside)
    assert ours[1:3].instance_names == ["row 1", "row 2"]
    assert ours[:, :2].clustering is None  # shap keeps the tree of all features
    np.testing.assert_array_equal(ours.mean(0).clustering, tree)
    handed = ours.to_shap()
    assert isinstance(handed, shap.Explanation)
    agree(ours, handed, *beside, "clustering", "hierarchical_values")
    assert list(handed.instance_names) == more["instance_names"]
    pairs = Explanation(RNG.normal(size=(6, 4, 4)), np.ones(6), main_effects=beside["main_effects"])
    np.testing.assert_array_equal(pairs[1:3, 2].main_effects, beside["main_effects"][1:3, 2])
    effects = RNG.normal(size=(6, 4, 3))
    pairs = Explanation(
        RNG.normal(size=(6, 4, 4, 3)), np.ones((6, 3)), output_names=CLASSES, main_effects=effects
    )
    np.testing.assert_array_equal(pairs[1:3, 2, :, 1].main_effects, effects[1:3, 2, 1])


def test_data_frames_are_arrays():
    frame = pd.DataFrame(X, columns=list("abcde"))
    found = Explanation(X, 0.0, frame, frame.iloc[:, ::-1])
    np.testing.assert_array_equal(found[1:3, 2].data, X[1:3, 2])
    np.testing.assert_array_equal(found[1, 0].display_data, X[1, 4])


def all_interact(z):
    return np.prod(1 + z / 3, 1) + np.tanh(z.sum(1))


def twice(z):
    return np.stack([all_interact(z), all_interact(-z)], 1)


@pytest.mark.parametrize("f", [all_interact, twice])
def test_standard_errors_tell_how_far_off_values_are(f):
    x, background = RNG.normal(size=(3, 13)), RNG.normal(size=(4, 13))
    exact = fastxai.shap.ExactExplainer(f, background)(x, silent=True)
    assert exact.standard_errors is None or (exact.standard_errors == 0).all()
    for make, call in (
        (fastxai.shap.PermutationExplainer, {"max_evals": 27 * 25}),
        (fastxai.shap.KernelExplainer, {"nsamples": 400}),
        (fastxai.shap.SamplingExplainer, {"nsamples": 48 * 50}),
    ):
        off = []
        for seed in range(8):
            found = make(f, background, seed=seed)(x, **call, silent=True)
            assert found.standard_errors.shape == found.values.shape
            off.append((found.values - exact.values) / found.standard_errors)
            part = found[1, 2]
            np.testing.assert_array_equal(part.standard_errors, found.standard_errors[1, 2])
        assert 0.6 < np.sqrt(np.mean(np.square(off))) < 1.5, make
        handed = found.to_shap()
        np.testing.assert_array_equal(handed.error_std, found.standard_errors)
        np.testing.assert_array_equal(handed[1].error_std, found.standard_errors[1])


@pytest.mark.parametrize("f", [game, several])
def test_main_effects_are_shaps(f):
    x = X.copy()
    background = BACKGROUND.copy()
    background[:, 1] = x[:, 1] = 1
    masker = shap.maskers.Independent(background)
    explainer = shap.ExactExplainer(f, masker)  # its calls lose main_effects=True on the way
    expected = explainer(x, interactions=2, silent=True).values
    expected = expected.reshape(4, 5, 5, *np.shape(f(x))[1:])[:, range(5), range(5)]
    for make in (fastxai.shap.ExactExplainer, fastxai.shap.PermutationExplainer):
        found = make(f, masker)(x, main_effects=True, silent=True).main_effects
        np.testing.assert_allclose(found, expected, atol=1e-12)
        assert make(f, masker)(x, silent=True).main_effects is None
        one = make(f, masker)(x[1], main_effects=True, silent=True).main_effects
        np.testing.assert_allclose(one, found[1], atol=1e-12)
    tree = fastxai.shap.maskers.Partition(background)
    for make in (fastxai.shap.ExactExplainer, fastxai.shap.PermutationExplainer):
        found = make(f, tree)(x, main_effects=True, silent=True)
        np.testing.assert_allclose(found.main_effects, expected, atol=1e-12)
        assert found.clustering.shape == (4, 4, 4)
        np.testing.assert_array_equal(found[0].clustering, tree.clustering)


def test_shaps_plots_take_them(monkeypatch):
    plt = pytest.importorskip("matplotlib.pyplot")
    monkeypatch.setattr(plt, "show", lambda *a, **k: None)
    masker = fastxai.shap.maskers.Partition(BACKGROUND)
    found = fastxai.shap.ExactExplainer(game, masker)(X, silent=True)
    shap.plots.bar(found.to_shap(), order=Explanation.abs, show=False)
    shap.plots.bar(found.abs.mean(0).to_shap(), show=False)
    shap.plots.waterfall(found[0].to_shap(), show=False)
    plain = fastxai.shap.ExactExplainer(game, BACKGROUND)(X, silent=True)  # without a tree
    shap.plots.beeswarm(plain.abs.to_shap(), order=Explanation.abs.mean(0), show=False)
    shap.plots.heatmap(found.to_shap(), instance_order=Explanation.sum(1), show=False)
    shap.plots.scatter(found[:, "Feature 1"].to_shap(), show=False)
    plt.close("all")
    bars = plt.bar(found.feature_names, found[0])
    assert [b.get_height() for b in bars] == list(found[0].values)
    plt.bar(found.feature_names, found[0].values)
    plt.close("all")
