"""LimeTabularExplainer beside lime's."""

import lime.discretize
import lime.lime_tabular
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import scipy.stats
from sklearn.linear_model import LinearRegression, LogisticRegression

import fastxai
from fastxai.lime import discretize, lime_tabular
from fastxai.lime.lime_tabular import LimeTabularExplainer

from .tables import FUNCTIONS, KINDS, NAMES, RNG, ROW, X, Y, by_column, probabilities, values


def both(**kwargs):
    args = {"feature_names": NAMES, "random_state": 0} | kwargs
    return lime.lime_tabular.LimeTabularExplainer(X, **args), LimeTabularExplainer(X, **args)


@pytest.mark.parametrize("mode", FUNCTIONS)
@pytest.mark.parametrize(
    "kinds", [{}, KINDS, {"categorical_features": [2]}], ids=["", "names", "c"]
)
@pytest.mark.parametrize(
    "bins", ["quartile", "decile", "entropy", {"discretize_continuous": False}], ids=str
)
def test_names_are_limes(bins, kinds, mode):
    bins = bins if isinstance(bins, dict) else {"discretizer": bins, "training_labels": Y}
    theirs, ours = both(mode=mode, **kinds, **bins)
    for row in (ROW, X[3], X[100] + 100):
        row = row.copy()
        row[2] %= 3
        expected = theirs.explain_instance(row, FUNCTIONS[mode], num_samples=300)
        found = ours.explain_instance(row, FUNCTIONS[mode], num_samples=300)
        assert {n for n, _ in found.as_list()} == {n for n, _ in expected.as_list()}
        assert by_column(found) == by_column(expected)
        mapper = expected.domain_mapper
        assert list(found.domain_mapper.feature_values) == list(mapper.feature_values)
        assert list(found.domain_mapper.feature_names) == list(mapper.feature_names)


@pytest.mark.parametrize("kinds", [{}, KINDS], ids=["", "categorical"])
@pytest.mark.parametrize("bins", ["quartile", "decile", "entropy"])
def test_statistics_are_limes(bins, kinds):
    theirs, ours = both(discretizer=bins, training_labels=Y, **kinds)
    assert list(ours.categorical_features) == list(theirs.categorical_features)
    for c in range(4):
        assert list(ours.feature_values[c]) == list(theirs.feature_values[c])
        np.testing.assert_array_equal(ours.feature_frequencies[c], theirs.feature_frequencies[c])
    assert ours.discretizer.names == theirs.discretizer.names
    for name in ("means", "stds", "mins", "maxs"):
        mine, other = getattr(ours.discretizer, name), getattr(theirs.discretizer, name)
        assert mine.keys() == other.keys()
        for c in mine:
            np.testing.assert_allclose(mine[c], other[c], rtol=1e-12)
    np.testing.assert_array_equal(ours.discretizer.discretize(X), theirs.discretizer.discretize(X))
    np.testing.assert_array_equal(ours.scaler.mean_, theirs.scaler.mean_)
    np.testing.assert_array_equal(ours.scaler.scale_, theirs.scaler.scale_)


def asked(explainer, row=ROW, **kwargs):
    """The rows that a model is asked about, the explanation, rows z and weights of the fit."""
    rows, fitted = [], []
    fit = explainer.base.fit

    def fitting(weighted, *args):
        fitted.append(weighted)
        return fit(weighted, *args)

    explainer.base.fit = fitting

    def f(x):
        rows.append(x.copy())
        return probabilities(x)

    found = explainer.explain_instance(row, f, **kwargs)
    return np.concatenate(rows), found, fitted[0].rows, fitted[0].weights


def test_draws_are_as_often_as_in_the_training_data():
    """Bins and values by their frequencies, and independent of each other."""
    explainer = LimeTabularExplainer(X, **KINDS, random_state=3)
    rows, _, z, weights = asked(explainer, num_samples=20_000)
    assert (rows[0] == ROW).all() and (z[0] == 1).all()
    bins, own = explainer.discretizer.discretize(rows), explainer.discretizer.discretize(ROW)
    np.testing.assert_array_equal(z, bins == own)
    for c in range(4):
        found, counts = np.unique(bins[1:, c], return_counts=True)
        assert list(found) == explainer.feature_values[c]
        expected = explainer.feature_frequencies[c] * counts.sum()
        assert scipy.stats.chisquare(counts, expected).pvalue > 1e-3
    table = pd.crosstab(bins[1:, 0], bins[1:, 2])
    assert scipy.stats.chi2_contingency(table).pvalue > 1e-3
    zeros = (z == 0).sum(1)
    np.testing.assert_allclose(weights, np.exp(-zeros / (1.125 * 4)), atol=1e-15)


def test_values_within_bins_are_truncated_normals():
    """Their means and deviations by the density, and the whole distribution by its quantiles."""
    explainer = LimeTabularExplainer(X, random_state=5)
    rows = asked(explainer, num_samples=40_000)[0][1:]
    d = explainer.discretizer
    for c in (0, 1):
        bins = d.discretize(rows)[:, c]
        for k in range(4):
            mean, std, low, high = (s[c][k] for s in (d.means, d.stds, d.mins, d.maxs))
            normal = scipy.stats.truncnorm((low - mean) / std, (high - mean) / std, mean, std)
            inside = rows[bins == k, c]
            assert inside.min() >= low and inside.max() <= high
            error = normal.std() / np.sqrt(len(inside))
            assert abs(inside.mean() - normal.mean()) < 4 * error
            assert scipy.stats.kstest(inside, normal.cdf).pvalue > 1e-3


def test_bins_of_one_value_give_that_value():
    """Lime gives 0.99999999999, as its deviations are not zero."""
    x = np.stack([RNG.integers(0, 3, 400), np.full(400, 7.0), *RNG.normal(size=(2, 400))], 1)
    rows, found, _, _ = asked(LimeTabularExplainer(x, random_state=0), x[0], num_samples=500)
    assert set(rows[:, 0]) == {0.0, 1.0, 2.0} and set(rows[:, 1]) == {7.0}
    assert dict(found.as_map()[1])[1] == 0  # what is constant has no weight


@pytest.mark.parametrize("around", [True, False])
def test_numbers_that_are_not_cut_into_bins_are_normal(around):
    explainer = LimeTabularExplainer(
        X, **KINDS, discretize_continuous=False, sample_around_instance=around, random_state=0
    )
    rows, _, z, weights = asked(explainer, num_samples=20_000)
    for c in (0, 1, 3):
        centre = ROW[c] if around else X[:, c].mean()
        normal = scipy.stats.norm(centre, X[:, c].std())
        assert scipy.stats.kstest(rows[1:, c], normal.cdf).pvalue > 1e-3
        np.testing.assert_allclose(z[:, c], (rows[:, c] - X[:, c].mean()) / X[:, c].std())
    np.testing.assert_array_equal(z[:, 2], rows[:, 2] == ROW[2])
    squares = ((z - z[0]) ** 2).sum(1)
    np.testing.assert_allclose(weights, np.exp(-squares / (2 * explainer.kernel_width**2)))


def weights_of(explainer, times, **kwargs):
    """Weights by column, [times, 4], and the explanations."""
    found = [explainer.explain_instance(ROW, probabilities, **kwargs) for _ in range(times)]
    return np.array([[dict(e.as_map()[1])[c] for c in range(4)] for e in found]), found


def test_weights_approach_limes():
    """Means over seeds, within three and a half of their standard errors."""
    theirs, ours = both(random_state=np.random.RandomState(0), **KINDS)
    found = [
        [
            dict(e.explain_instance(ROW, probabilities, num_samples=1000).as_map()[1])
            for _ in "a" * 40
        ]
        for e in (theirs, ours)
    ]
    theirs, ours = (np.array([[w[c] for c in range(4)] for w in each]) for each in found)
    error = np.sqrt((theirs.var(0) + ours.var(0)) / 40)
    assert (np.abs(theirs.mean(0) - ours.mean(0)) < 3.5 * error).all()
    assert (ours.std(0) < 1.6 * theirs.std(0)).all()


def test_a_linear_model_has_its_slopes():
    slopes = np.array([0.5, -2.0, 0.0, 3.0])
    explainer = LimeTabularExplainer(
        X, mode="regression", discretize_continuous=False, random_state=0
    )
    found = explainer.explain_instance(
        ROW, lambda x: x @ (slopes / X.std(0)) + 1, model_regressor=LinearRegression()
    )
    weights = dict(found.as_map()[1])
    np.testing.assert_allclose([weights[c] for c in range(4)], slopes, atol=1e-9)
    np.testing.assert_allclose(found.local_pred, found.predicted_value, atol=1e-9)
    assert found.score > 1 - 1e-12


def test_a_linear_model_of_bins_has_its_slopes():
    explainer = LimeTabularExplainer(X, mode="regression", random_state=0)
    own = explainer.discretizer.discretize(ROW)
    slopes = np.array([0.5, -2.0, 0.0, 3.0])
    found = explainer.explain_instance(
        ROW,
        lambda x: (explainer.discretizer.discretize(x) == own) @ slopes,
        model_regressor=LinearRegression(),
    )
    weights = dict(found.as_map()[1])
    np.testing.assert_allclose([weights[c] for c in range(4)], slopes, atol=1e-9)


def test_seeds():
    def weights(explainer):
        return explainer.explain_instance(ROW, probabilities, num_samples=200).as_list()

    whole, moving = LimeTabularExplainer(X, random_state=1), np.random.RandomState(1)
    assert weights(whole) == weights(whole) == weights(LimeTabularExplainer(X, random_state=1))
    assert weights(whole) != weights(LimeTabularExplainer(X, random_state=2))
    once = LimeTabularExplainer(X, random_state=moving)
    assert weights(once) != weights(once)
    free = LimeTabularExplainer(X)
    np.random.seed(0)  # noqa: NPY002
    first = weights(free)
    np.random.seed(0)  # noqa: NPY002
    assert weights(free) == first != weights(free)


def test_labels_have_scores_of_their_own():
    """Lime keeps those of the last label."""
    explainer = LimeTabularExplainer(X, random_state=0)
    each = [explainer.explain_instance(ROW, probabilities, labels=(k,)) for k in range(3)]
    found = explainer.explain_instance(ROW, probabilities, labels=(0, 1, 2))
    assert found.available_labels() == [0, 1, 2]
    for k, alone in enumerate(each):
        assert found.as_list(k) == alone.as_list(k)
        assert found.score[k] == alone.score == alone.score[k]
        assert found.local_pred[k] == alone.local_pred[0] == alone.local_pred[k]
        assert found.intercept[k] == alone.intercept[k]
    assert found.score == each[2].score and np.asarray(found.local_pred).shape == (1,)


@pytest.mark.parametrize("k", [1, 2, 3, 7])
def test_top_labels(k):
    theirs, ours = both()
    expected = theirs.explain_instance(ROW, probabilities, top_labels=k, num_samples=100)
    found = ours.explain_instance(ROW, probabilities, top_labels=k, num_samples=100)
    assert found.top_labels == expected.top_labels == found.available_labels()
    assert found.local_exp.keys() == expected.local_exp.keys()
    np.testing.assert_array_equal(found.predict_proba, expected.predict_proba)
    assert found.class_names == expected.class_names == ["0", "1", "2"]


@pytest.mark.parametrize("shape", [lambda y: y, lambda y: y[:, None]])
def test_regression(shape):
    theirs, ours = both(mode="regression")
    expected = theirs.explain_instance(ROW, lambda x: shape(values(x)))
    found = ours.explain_instance(ROW, lambda x: shape(values(x)))
    assert found.predicted_value == expected.predicted_value
    assert found.min_value < found.predicted_value < found.max_value
    assert found.class_names == expected.class_names and found.dummy_label == 1
    assert found.local_exp.keys() == expected.local_exp.keys() == found.intercept.keys()
    assert [(i, -w) for i, w in found.local_exp[1]] == found.local_exp[0]
    assert found.as_list() == found.as_list(0) == found.as_list(1)
    with pytest.raises(NotImplementedError):
        found.available_labels()


def test_standard_errors_go_with_the_weights():
    explainer = LimeTabularExplainer(X, random_state=np.random.RandomState(0))
    found, all_ = weights_of(explainer, 60, num_samples=500)
    told = np.mean([[dict(e.standard_errors[1])[c] for c in range(4)] for e in all_], 0)
    ratio = told / found.std(0)
    assert ((ratio > 0.7) & (ratio < 1.4)).all(), ratio
    assert [i for i, _ in all_[0].standard_errors[1]] == [i for i, _ in all_[0].as_map()[1]]


def test_batches_change_nothing():
    explainer, sizes = LimeTabularExplainer(X, random_state=0), []

    def f(x):
        sizes.append(len(x))
        return probabilities(x)

    expected = explainer.explain_instance(ROW, f, num_samples=1000)
    found = explainer.explain_instance(ROW, f, num_samples=1000, batch_size=300)
    assert found.as_list() == expected.as_list() and max(sizes[1:]) <= 300 and sum(sizes) == 2000


@pytest.mark.parametrize("metric", ["cosine", "manhattan", "chebyshev"])
def test_distances(metric):
    import sklearn.metrics

    explainer = LimeTabularExplainer(X, random_state=0, kernel=lambda d, kernel_width: 1 / (1 + d))
    _, _, z, weights = asked(explainer, distance_metric=metric)
    d = sklearn.metrics.pairwise_distances(z, z[:1], metric=metric).ravel()
    np.testing.assert_allclose(weights, 1 / (1 + d))


def test_statistics_instead_of_data():
    theirs = lime.lime_tabular.LimeTabularExplainer(X, random_state=0)
    d = theirs.discretizer
    stats = {name: getattr(d, name) for name in ("means", "stds", "mins", "maxs")}
    stats |= {"feature_values": theirs.feature_values, "bins": {c: d.mins[c][1:] for c in range(4)}}
    stats |= {"feature_frequencies": theirs.feature_frequencies}
    ours = LimeTabularExplainer(X, random_state=0)
    by_stats = LimeTabularExplainer(X[:5], training_data_stats=stats, random_state=0)
    expected = ours.explain_instance(ROW, probabilities)
    assert by_stats.explain_instance(ROW, probabilities).as_list() == expected.as_list()


@pytest.mark.parametrize("base", [discretize.BaseDiscretizer, lime.discretize.BaseDiscretizer])
def test_a_discretizer_of_the_users(base):
    class Halves(base):
        def bins(self, data, labels):
            return [[np.median(data[:, c])] for c in self.to_discretize]

    mine = Halves(X, [], NAMES)
    explainer = LimeTabularExplainer(X, feature_names=NAMES, discretizer=mine, random_state=0)
    names = [n for n, _ in explainer.explain_instance(ROW, probabilities).as_list()]
    assert set(names) <= {n for both in mine.names.values() for n in both}
    inside = mine.undiscretize(np.zeros((50, 4)))
    assert (mine.discretize(inside) == 0).all()


def test_precision_tells_small_edges_apart():
    explainer = LimeTabularExplainer(X / 1e4, precision=6, random_state=0)
    names = [n for n, _ in explainer.explain_instance(ROW / 1e4, probabilities).as_list()]
    assert len(set(names)) == 4 and set(names) <= {
        name for each in explainer.discretizer.names.values() for name in each
    }
    edge = np.percentile(X[:, 0] / 1e4, 25)
    assert explainer.discretizer.names[0][0] == f"0 <= {edge:.6f}"


def test_outputs_that_are_no_probabilities_are_told():
    explainer = LimeTabularExplainer(X, random_state=0)
    with pytest.warns(UserWarning, match="predict_fn: its outputs do not add up to 1"):
        explainer.explain_instance(ROW, lambda x: 2 * probabilities(x))
    with pytest.raises(NotImplementedError, match=r"predict_fn: expected probabilities \[n, C\]"):
        explainer.explain_instance(ROW, values)


MISSING = np.where(np.arange(4) == 2, np.nan, X)
BAD_DATA = {
    "training_data": {"training_data": MISSING},
    "mode": {"mode": "ranking"},
    "feature_names": {"feature_names": NAMES[:3]},
    "categorical_features": {"categorical_features": [4]},
    "categorical_names": {"categorical_names": {9: ["a"]}},
    "kernel_width": {"kernel_width": 0},
    "kernel": {"kernel": 3},
    "feature_selection": {"feature_selection": "best"},
    "discretizer": {"discretizer": "thirds"},
    "labels": {"discretizer": "entropy"},
    "random_state": {"random_state": -1},
    "precision": {"precision": 0.5},
    "training_data_stats": {"training_data_stats": {"means": {}}},
}


@pytest.mark.parametrize("argument", BAD_DATA)
def test_bad_arguments_are_named(argument):
    with pytest.raises(fastxai.ArgumentError, match=rf"^{argument}: expected"):
        LimeTabularExplainer(**{"training_data": X} | BAD_DATA[argument])


def test_missing_values_name_their_columns():
    with pytest.raises(fastxai.ArgumentError, match="column 'kind'"):
        LimeTabularExplainer(pd.DataFrame(MISSING, columns=NAMES))


def never(x):
    raise AssertionError("the model was called")


BAD_CALLS = {
    "data_row": {"data_row": ROW[:3]},
    "predict_fn": {"predict_fn": 3},
    "labels": {"labels": "a"},
    "top_labels": {"top_labels": -1},
    "num_features": {"num_features": 0},
    "num_samples": {"num_samples": 1},
    "distance_metric": {"distance_metric": "far"},
    "batch_size": {"batch_size": 0},
    "kernel": {"of": {"kernel": lambda d, kernel_width: -d - 1}},
    "categorical_names": {"of": {"categorical_features": [2], "categorical_names": {2: ["red"]}}},
}


@pytest.mark.parametrize("argument", BAD_CALLS)
def test_bad_arguments_of_calls_are_named(argument):
    row = np.where(np.arange(4) == 2, 1.0, ROW)
    options = {"data_row": row, "predict_fn": never} | BAD_CALLS[argument]
    explainer = LimeTabularExplainer(X, random_state=0, **options.pop("of", {}))
    with pytest.raises(fastxai.ArgumentError, match=rf"^{argument}: expected"):
        explainer.explain_instance(**options)


def test_what_only_outputs_can_tell():
    explainer = LimeTabularExplainer(X, random_state=0)
    with pytest.raises(fastxai.ArgumentError, match=r"^labels: expected some of 3 classes, got 5"):
        explainer.explain_instance(ROW, probabilities, labels=(5,))
    named = LimeTabularExplainer(X, random_state=0, class_names=["a"])
    with pytest.raises(fastxai.ArgumentError, match=r"^class_names: expected 3 names"):
        named.explain_instance(ROW, probabilities)
    value = LimeTabularExplainer(X, mode="regression", random_state=0)
    with pytest.raises(fastxai.ArgumentError, match=r"^predict_fn: expected values \[n\]"):
        value.explain_instance(ROW, probabilities)


def test_modules_have_the_names_of_limes():
    assert lime_tabular.LimeTabularExplainer is fastxai.lime.LimeTabularExplainer
    logistic = LogisticRegression().fit(X, Y)
    found = LimeTabularExplainer(X).explain_instance(ROW, logistic)
    assert isinstance(found, fastxai.lime.explanation.Explanation)
