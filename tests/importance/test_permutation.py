"""Permutation importance beside scikit-learn's, and what scikit-learn's does not have."""

import re

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
)
from sklearn.inspection import permutation_importance as sklearns
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import make_scorer, mean_absolute_error
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder, StandardScaler
from torch import nn

import fastxai
from fastxai import ArgumentError, permutation_importance

RNG = np.random.default_rng(0)
X = RNG.normal(size=(97, 5))
LABELS = (X[:, 0] + X[:, 1] * X[:, 2] > 0).astype(int)
NUMBERS = X[:, 0] + X[:, 1] * X[:, 2]
WEIGHTS = RNG.uniform(size=97)
FRAME = pd.DataFrame(X, columns=[*"abcde"])
KEYS = ("importances", "importances_mean", "importances_std")

CLASSIFIERS = {
    "boosting": lambda: HistGradientBoostingClassifier(max_iter=5, random_state=0),
    "forest": lambda: RandomForestClassifier(5, random_state=0),
    "logistic": LogisticRegression,
    "mlp": lambda: MLPClassifier((8,), max_iter=5, random_state=0),
    "scaled boosting": lambda: make_pipeline(
        StandardScaler(), HistGradientBoostingClassifier(max_iter=5, random_state=0)
    ),
}


def named(arguments) -> str:
    """Arguments as text that is the same in every process."""
    return re.sub(r" at 0[xX][0-9a-fA-F]+", "", str(arguments))


def assert_same(ours, theirs):
    if "importances" not in theirs:
        assert [*ours] == [*theirs]
        for name in theirs:
            assert_same(ours[name], theirs[name])
        return
    for key in KEYS:
        assert np.array_equal(ours[key], theirs[key]), key
        assert getattr(ours, key) is ours[key]


def by_hand(estimator, rows, y):
    return estimator.predict_proba(rows)[:, 1] @ y + np.asarray(rows)[0, 0]


def several_by_hand(estimator, rows, y):
    return {"one": by_hand(estimator, rows, y), "two": estimator.score(rows, y)}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("rows", [X, FRAME, np.asfortranarray(X)], ids=["array", "frame", "F"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"scoring": "accuracy", "n_repeats": 2},
        {"scoring": "neg_log_loss"},
        {"scoring": ["roc_auc", "accuracy", "neg_brier_score"]},
        {"scoring": {"a": "f1", "by hand": by_hand}},
        {"scoring": by_hand},
        {"scoring": several_by_hand},
        {"scoring": "f1", "sample_weight": WEIGHTS},
        {"sample_weight": WEIGHTS, "max_samples": 0.4},
        {"max_samples": 31},
    ],
    ids=named,
)
@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_classifiers_as_in_sklearn(kind, options, rows):
    model = CLASSIFIERS[kind]().fit(rows, LABELS)
    ours = permutation_importance(model, rows, LABELS, random_state=3, **options)
    assert_same(ours, sklearns(model, rows, LABELS, random_state=3, **options))


@pytest.mark.parametrize("scoring", [None, "neg_mean_squared_error", "r2", "own"])
@pytest.mark.parametrize("model", [Ridge(), HistGradientBoostingRegressor(max_iter=5)], ids=str)
def test_regressors_as_in_sklearn(model, scoring):
    scoring = make_scorer(mean_absolute_error) if scoring == "own" else scoring
    model.fit(X, NUMBERS)
    y = pd.Series(NUMBERS, index=range(5, 102))
    ours = permutation_importance(model, X, y, random_state=1, scoring=scoring, max_samples=50)
    theirs = sklearns(model, X, y, random_state=1, scoring=scoring, max_samples=50)
    assert_same(ours, theirs)


def test_a_frame_of_numbers_words_and_gaps():
    frame = FRAME.assign(
        word=pd.Series(np.where(X[:, 0] > 0, "yes", "no")),
        whole=np.arange(97) % 7,
        kind=pd.Categorical(np.where(X[:, 1] > 0, "u", "v")),
    )
    frame.loc[3, "b"] = np.nan
    frame.index = frame.index + 1000
    encode = ColumnTransformer(
        [("words", OrdinalEncoder(), ["word", "kind"])], remainder="passthrough"
    )
    boosting = HistGradientBoostingClassifier(max_iter=5, random_state=0)
    model = make_pipeline(encode, boosting).fit(frame, LABELS)
    before = frame.copy()
    ours = permutation_importance(model, frame, LABELS, random_state=3)
    assert_same(ours, sklearns(model, frame, LABELS, random_state=3))
    pd.testing.assert_frame_equal(frame, before)
    assert ours.feature_names == [*frame.columns]


@pytest.mark.filterwarnings("ignore")
def test_random_states_go_on_as_in_sklearn():
    model = LogisticRegression().fit(X, LABELS)
    ours, theirs = np.random.RandomState(5), np.random.RandomState(5)
    for _ in range(2):
        found = permutation_importance(model, X, LABELS, random_state=ours)
        assert_same(found, sklearns(model, X, LABELS, random_state=theirs))
    np.random.seed(0)  # noqa: NPY002
    found = permutation_importance(model, X, LABELS)
    np.random.seed(0)  # noqa: NPY002
    assert_same(found, sklearns(model, X, LABELS))


def test_processes_change_nothing():
    model = LogisticRegression().fit(X, LABELS)
    ours = permutation_importance(model, X, LABELS, random_state=3, n_jobs=2)
    assert_same(ours, sklearns(model, X, LABELS, random_state=3))


class Counting(LogisticRegression):
    """Counts its calls, and rows."""

    def predict(self, rows):
        self.calls += 1
        return super().predict(rows)

    def predict_proba(self, rows):
        self.calls += 1
        return super().predict_proba(rows)


def test_scorers_share_answers():
    model = Counting().fit(X, LABELS)
    model.calls = 0
    names = ["roc_auc", "neg_log_loss", "neg_brier_score"]
    response = {name: name for name in names}
    permutation_importance(model, X, LABELS, scoring=response, n_repeats=2, random_state=0)
    # roc_auc asks decision_function, which is not counted; the others ask for one thing.
    assert model.calls == 1 + 2 * 5


def test_trees_are_asked_about_many_tables_at_once(monkeypatch):
    model = HistGradientBoostingClassifier(max_iter=5).fit(X, LABELS)
    asked = []
    predict = HistGradientBoostingClassifier.predict
    monkeypatch.setattr(
        HistGradientBoostingClassifier,
        "predict",
        lambda self, rows: asked.append(len(rows)) or predict(self, rows),
    )
    permutation_importance(model, X, LABELS, random_state=0)
    assert asked == [97, 25 * 97]
    monkeypatch.setattr("fastxai.core.engine.permuted_tables._MOST", 4 * X.nbytes)
    asked.clear()
    ours = permutation_importance(model, X, LABELS, random_state=0)
    assert asked == [97] + [4 * 97] * 6 + [97]
    assert_same(ours, sklearns(model, X, LABELS, random_state=0))


def test_what_is_on_top_of_trees_may_not_be_stacked():
    from fastxai.importance._estimators import is_row_by_row

    class Mine(HistGradientBoostingClassifier):
        pass

    assert is_row_by_row(CLASSIFIERS["scaled boosting"]())
    assert not is_row_by_row(Mine())
    assert not is_row_by_row(make_pipeline(StandardScaler(), Ridge()))
    assert not is_row_by_row(MLPClassifier())


def test_groups_move_together():
    model = HistGradientBoostingClassifier(max_iter=20, random_state=0).fit(FRAME, LABELS)
    mask = permutation_importance(
        model, FRAME, LABELS, random_state=0, feature_mask=[7, 2, 2, 7, 3]
    )
    named = permutation_importance(
        model, FRAME, LABELS, random_state=0, feature_mask=[["b", "c"], ["e"], ["a", 3]]
    )
    assert mask.feature_names == ["b + c", "e", "a + d"]
    assert np.array_equal(mask.importances, named.importances)
    named = {"products": ["b", "c"], "rest": ["a"]}
    found = permutation_importance(model, FRAME, LABELS, random_state=0, feature_mask=named)
    assert found.feature_names == ["products", "rest"]
    draws = np.random.RandomState(np.random.RandomState(0).randint(2**31))
    order = draws.permutation(97)  # the first shuffle of an index is a permutation
    moved = FRAME.copy()
    moved[["b", "c"]] = FRAME[["b", "c"]].to_numpy()[order]
    fallen = model.score(FRAME, LABELS) - model.score(moved, LABELS)
    assert found.importances[0, 0] == mask.importances[0, 0] == fallen


@pytest.mark.parametrize("form", ["csr_matrix", "csc_matrix", "csr_array"])
@pytest.mark.parametrize("options", [{}, {"max_samples": 50}, {"feature_mask": [0, 0, 1, 2, 1]}])
def test_sparse_rows_as_dense(form, options):
    dense = np.where(np.abs(X) > 0.5, X, 0)
    sparse = getattr(scipy.sparse, form)(dense)
    before = sparse.copy()
    model = LogisticRegression().fit(dense, LABELS)
    ours = permutation_importance(model, sparse, LABELS, random_state=0, **options)
    expected = permutation_importance(model, dense, LABELS, random_state=0, **options)
    np.testing.assert_array_equal(ours.importances, expected.importances)
    assert (sparse != before).nnz == 0


class Writing(LogisticRegression):
    """Doubles its rows in place, and then takes half of them."""

    def predict(self, rows):
        rows *= 2
        return super().predict(rows / 2)


def right_answers(estimator, rows, y):
    return float((estimator.predict(rows) == y).mean())


@pytest.mark.parametrize("scoring", [None, right_answers])
def test_an_estimator_that_writes_to_its_rows(scoring):
    rows, model = X.copy(), Writing().fit(X, LABELS)
    model.intercept_ += 0.3  # so that twice the rows are not of the same classes
    careful = LogisticRegression().fit(X, LABELS)
    careful.intercept_ += 0.3
    found = permutation_importance(model, rows, LABELS, random_state=0, scoring=scoring)
    assert_same(found, sklearns(careful, X, LABELS, random_state=0))
    assert np.array_equal(rows, X)


def test_standard_errors():
    model = LogisticRegression().fit(X, LABELS)
    found = permutation_importance(model, X, LABELS, random_state=0, n_repeats=4)
    expected = found.importances.std(axis=1, ddof=1) / 2
    np.testing.assert_allclose(found.importances_sem, expected)
    one = permutation_importance(model, X, LABELS, random_state=0, n_repeats=1)
    assert np.isnan(one.importances_sem).all()


def negative_error(outputs, targets, sample_weight=None):
    errors = (outputs.reshape(len(targets)) - targets) ** 2
    return -(errors if sample_weight is None else errors * sample_weight).mean()


class AsEstimator:
    """What scikit-learn is shown for a module."""

    def __init__(self, module):
        self.module = module

    def fit(self):
        raise NotImplementedError

    def predict(self, rows):
        with torch.no_grad():
            return self.module(torch.from_numpy(rows)).numpy().ravel()


def module():
    torch.manual_seed(0)
    layers = nn.Linear(5, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 1)
    return nn.Sequential(*layers).double()


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
@pytest.mark.parametrize("form", ["tensor", "array", "frame", "function", "numpy function"])
def test_modules_and_functions(form, weights):
    model = module()  # in train mode, which is left on
    rows = {"frame": FRAME, "array": X, "numpy function": X}.get(form, torch.from_numpy(X))
    asked = {
        "function": lambda x: model.eval()(x),
        "numpy function": AsEstimator(model.eval() if form == "numpy function" else model).predict,
    }.get(form, model)
    state = {name: t.clone() for name, t in model.state_dict().items()}
    random, mode = torch.get_rng_state(), model.training
    ours = permutation_importance(
        asked, rows, NUMBERS, scoring=negative_error, random_state=2, sample_weight=weights
    )
    assert model.training == (mode and form != "function")
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(t, state[name]) for name, t in model.state_dict().items())

    def scorer(estimator, rows, y, sample_weight=None):
        found = torch.from_numpy(estimator.predict(rows))
        w = None if sample_weight is None else torch.from_numpy(sample_weight)
        return negative_error(found, torch.from_numpy(y), w).item()

    theirs = sklearns(
        AsEstimator(model.eval()), X, NUMBERS, scoring=scorer, random_state=2, sample_weight=weights
    )
    for key in KEYS:
        np.testing.assert_allclose(ours[key], theirs[key], rtol=1e-9, atol=1e-12)


def test_images_in_groups_and_several_metrics(monkeypatch):
    images = torch.randn(12, 1, 4, 4)
    mask = torch.arange(16).reshape(1, 1, 4, 4) // 4
    weights = torch.arange(16.0)
    model = lambda x: (x.flatten(1) * weights).sum(1, keepdim=True)  # noqa: E731
    metrics = {"error": negative_error, "drop": lambda out, y: out[0]}
    options = {"scoring": metrics, "random_state": 0, "feature_mask": mask, "n_repeats": 3}
    found = permutation_importance(model, images, torch.zeros(12), **options)
    draws = np.random.RandomState(np.random.RandomState(0).randint(2**31))
    order = draws.permutation(12)
    for group in range(4):
        moved = torch.where(mask == group, images[order], images)
        fallen = (model(images) - model(moved))[0].item()
        assert found["drop"].importances[group, 0] == pytest.approx(fallen, abs=1e-4)
    monkeypatch.setattr("fastxai.importance._functions._MOST", 100)  # two groups at a time
    again = permutation_importance(model, images, torch.zeros(12), **options)
    for name in metrics:
        np.testing.assert_allclose(again[name].importances, found[name].importances, rtol=1e-5)


def test_rows_that_are_drawn_for_a_module():
    model, rows = module(), torch.from_numpy(X)
    found = permutation_importance(
        model, rows, NUMBERS, scoring=negative_error, random_state=0, max_samples=20
    )
    draws = np.random.RandomState(np.random.RandomState(0).randint(2**31))
    some = rows[draws.permutation(97)[:20]]
    assert found.importances.shape == (5, 5) and len(some) == 20
    assert np.isfinite(found.importances).all()


class Untouched:
    """An estimator that must not be asked."""

    def fit(self, rows, y):
        return self

    def predict(self, rows):
        raise AssertionError("asked")

    def score(self, rows, y):
        raise AssertionError("asked")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"estimator": 3}, "estimator: expected a fitted estimator"),
        ({"estimator": LogisticRegression}, "estimator: expected a fitted estimator"),
        ({"X": X[0]}, "X: expected rows"),
        ({"X": X[:0], "y": []}, "X: expected"),
        ({"X": "rows"}, "X: expected rows"),
        ({"y": LABELS[:5]}, "y: expected 97 values, as X has rows, got 5"),
        ({"y": 3}, "y: expected 97 values"),
        ({"scoring": "acuracy"}, "scoring: "),
        ({"scoring": []}, "scoring: expected names"),
        ({"scoring": {}}, "scoring: expected at least one"),
        ({"scoring": ["r2", "r2"]}, "scoring: expected each scorer once"),
        ({"n_repeats": 0}, "n_repeats: expected an integer of at least 1, got 0"),
        ({"n_jobs": 0}, "n_jobs: expected"),
        ({"random_state": "a"}, "random_state: expected"),
        ({"random_state": np.random.default_rng(0)}, "random_state: expected"),
        ({"sample_weight": np.ones(3)}, "sample_weight: expected 97 values"),
        ({"sample_weight": ["a"] * 97}, "sample_weight: expected numbers"),
        ({"max_samples": 98}, "max_samples: expected 1 to 97 rows, got 98"),
        ({"max_samples": 0.0}, "max_samples: expected"),
        ({"max_samples": 0.001}, "max_samples: expected at least one of 97"),
        ({"feature_mask": [0, 1]}, "feature_mask: expected ids of groups"),
        ({"feature_mask": [["a"]]}, "feature_mask: expected names of columns"),
        ({"feature_mask": [[5]]}, "feature_mask: expected places below 5, got 5"),
        ({"feature_mask": [[1, 1]]}, "feature_mask: expected each column once"),
        ({"feature_mask": {}}, "feature_mask: expected at least one group"),
        ({"estimator": Untouched().predict}, "scoring: expected a function of outputs"),
        ({"estimator": Untouched().predict, "scoring": "r2"}, "scoring: expected a function"),
    ],
    ids=named,
)
def test_bad_arguments_before_any_call(changes, message):
    arguments = {"estimator": Untouched(), "X": X, "y": LABELS, **changes}
    with pytest.raises(ArgumentError, match=f"^{message}"):
        permutation_importance(
            arguments.pop("estimator"), arguments.pop("X"), arguments.pop("y"), **arguments
        )


def test_a_picture_with_names_and_standard_errors():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    model = LogisticRegression().fit(FRAME, LABELS)
    found = permutation_importance(model, FRAME, LABELS, random_state=0)
    ax = fastxai.plot.bar(found)
    labels = [t.get_text() for t in ax.get_yticklabels()]
    assert {*labels} == {*"abcde"}
    order = np.argsort(-np.abs(found.importances_mean), kind="stable")
    widths = [bar.get_width() for bar in ax.patches[:5]]
    np.testing.assert_allclose(widths, found.importances_mean[order])
    (lines,) = ax.collections
    ends = np.array([segment[1, 0] - segment[0, 0] for segment in lines.get_segments()])
    np.testing.assert_allclose(ends, 2 * found.importances_sem[order])
    assert "the score" in ax.get_xlabel()
