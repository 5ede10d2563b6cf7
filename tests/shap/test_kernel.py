"""KernelExplainer beside shap's."""

import threading

import lightgbm
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import shap
import sklearn.datasets
import torch
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LogisticRegression

import fastxai
import fastxai.shap
from fastxai.interop.models import eval_mode

RNG = np.random.default_rng(0)
X, BACKGROUND = RNG.normal(size=(4, 5)), RNG.normal(size=(7, 5))


def game(z):
    z = np.asarray(z)
    return np.tanh(z[:, 0] * z[:, 1]) + z[:, 2] ** 2 + z[:, 3] * z[:, 4] * z[:, 0]


def column(z):
    return game(z)[:, None]


def several(z):
    return np.stack([game(z), np.asarray(z).sum(1), -np.asarray(z)[:, 0]], 1)


def probabilities(z):
    p = 1 / (1 + np.exp(-game(z)))
    return np.stack([p, 1 - p], 1)


FORMS = [(game, "identity"), (column, "identity"), (several, "identity"), (probabilities, "logit")]


def both(f, background, **kwargs):
    return shap.KernelExplainer(f, background, **kwargs), fastxai.shap.KernelExplainer(
        f, background, **kwargs
    )


@pytest.mark.parametrize("f,link", FORMS, ids=lambda v: getattr(v, "__name__", v))
@pytest.mark.parametrize("rows", [7, 1])
def test_a_game_of_all_coalitions_is_shaps(f, link, rows):
    theirs, ours = both(f, BACKGROUND[:rows], link=link)
    assert type(ours.expected_value) is type(theirs.expected_value)
    np.testing.assert_allclose(ours.expected_value, theirs.expected_value, atol=1e-12)
    for x in (X, X[0]):
        expected = theirs.shap_values(x, l1_reg=False, silent=True)
        values = ours.shap_values(x, nsamples=2**5 - 2, silent=True)
        assert values.shape == expected.shape and values.dtype == np.float64
        np.testing.assert_allclose(values, expected, atol=1e-12)


@pytest.mark.parametrize("f,link", FORMS, ids=lambda v: getattr(v, "__name__", v))
@pytest.mark.parametrize("l1_reg", ["num_features(2)", "num_features(4)", 0.01, "aic", "bic"])
def test_the_features_kept_are_shaps(f, link, l1_reg):
    theirs, ours = both(f, BACKGROUND, link=link)
    expected = theirs.shap_values(X, l1_reg=l1_reg, silent=True)
    values = ours.shap_values(X, l1_reg=l1_reg, silent=True)
    some = np.broadcast_to((expected != 0).any(1, keepdims=True), values.shape)  # are left there
    np.testing.assert_allclose(values[some], expected[some], atol=1e-12)


def test_a_penalty_that_leaves_nothing_keeps_the_sum():
    ours = fastxai.shap.KernelExplainer(game, BACKGROUND)
    with pytest.warns(UserWarning, match="l1_reg: no feature"):
        values = ours.shap_values(X, l1_reg=100.0, silent=True)
    np.testing.assert_allclose(values.sum(1) + ours.expected_value, game(X), atol=1e-12)


@pytest.mark.parametrize("f,link", FORMS, ids=lambda v: getattr(v, "__name__", v))
@pytest.mark.parametrize("nsamples", [8, 16, "auto"])
def test_values_add_up(f, link, nsamples):
    ours = fastxai.shap.KernelExplainer(f, BACKGROUND, link=link, seed=1)
    values = ours.shap_values(X, nsamples=nsamples, silent=True)
    outputs = ours.link(f(X))
    np.testing.assert_allclose(values.sum(1) + ours.expected_value, outputs, atol=1e-12)


def test_a_linear_model_in_closed_form_with_few_samples():
    weights, x, background = RNG.normal(size=20), RNG.normal(size=(3, 20)), RNG.normal(size=(9, 20))
    ours = fastxai.shap.KernelExplainer(lambda z: z @ weights, background, seed=0)
    values = ours.shap_values(x, nsamples=60, silent=True)
    np.testing.assert_allclose(values, weights * (x - background.mean(0)), atol=1e-10)


def test_features_that_never_differ_have_zero_and_cost_nothing():
    background, x = BACKGROUND.copy(), X.copy()
    background[:, 2] = x[:, 2] = np.nan
    background[:, 3] = x[0, 3]  # one row does not differ there
    rows = []

    def f(z):
        rows.append(len(z))
        return np.nan_to_num(z) @ np.arange(1.0, 6)

    values = fastxai.shap.KernelExplainer(f, background).shap_values(x[:1], silent=True)
    assert (values[0, [2, 3]] == 0).all() and (values[0, [0, 1, 4]] != 0).all()
    assert sum(rows) <= 7 + (2**3 + 4) * 7


def test_a_small_scale_is_not_zero():
    ours = fastxai.shap.KernelExplainer(lambda z: z @ np.array([1e9, 1.0]), np.zeros((1, 2)))
    values = ours.shap_values(np.array([3e-9, 1.0]), silent=True)
    np.testing.assert_allclose(values, [3, 1], rtol=1e-9)


def test_kmeans_is_shaps_and_its_weights_count():
    data = RNG.normal(size=(60, 5))
    theirs, ours = shap.kmeans(data, 4), fastxai.shap.kmeans(data, 4)
    np.testing.assert_array_equal(ours.data, theirs.data)
    np.testing.assert_array_equal(ours.weights, theirs.weights)
    expected = shap.KernelExplainer(several, theirs)
    for background in (theirs, ours):
        explainer = fastxai.shap.KernelExplainer(several, background)
        np.testing.assert_allclose(explainer.expected_value, expected.expected_value, atol=1e-12)
        np.testing.assert_allclose(
            explainer.shap_values(X, silent=True),
            expected.shap_values(X, l1_reg=False, silent=True),
            atol=1e-12,
        )


def test_groups_of_columns_are_players():
    arguments = BACKGROUND, ["a", "b"], [[0, 3, 4], [1, 2]]
    theirs = shap.KernelExplainer(several, shap.utils._legacy.DenseData(*arguments))
    ours = fastxai.shap.KernelExplainer(several, fastxai.shap.DenseData(*arguments))
    expected = theirs.shap_values(X, l1_reg=False, silent=True)
    np.testing.assert_allclose(ours.shap_values(X, silent=True), expected, atol=1e-12)
    assert ours(X, silent=True).feature_names == ["a", "b"]


@pytest.mark.parametrize("form", [np.array, pd.DataFrame, scipy.sparse.csr_matrix, torch.tensor])
def test_sample_is_shaps(form):
    data = form(np.arange(60.0).reshape(20, 3))
    ours = fastxai.shap.sample(data, 6, random_state=3)
    expected = shap.sample(np.arange(60.0).reshape(20, 3), 6, random_state=3)
    dense = ours.toarray() if scipy.sparse.issparse(ours) else np.asarray(ours)
    assert type(ours) is type(data)
    np.testing.assert_array_equal(dense, expected)
    assert fastxai.shap.sample(data, 20) is data


def test_seeds():
    f, wide, x = np.prod, RNG.normal(size=(3, 14)), RNG.normal(size=(1, 14))
    f = lambda z: np.prod(1 + z / 4, 1)  # noqa: E731
    of = lambda **kw: fastxai.shap.KernelExplainer(f, wide, **kw).shap_values(  # noqa: E731
        x, nsamples=100, silent=True
    )
    np.random.seed(0)  # noqa: NPY002
    first = of()
    second = of()
    np.random.seed(0)  # noqa: NPY002
    np.testing.assert_array_equal(of(), first)
    assert (first != second).any()
    before, before_torch = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    np.testing.assert_array_equal(of(seed=3), of(seed=3))
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before_torch)


def test_a_call_has_at_most_so_many_rows():
    rows = []
    f = lambda z: (rows.append(len(z)), game(z))[1]  # noqa: E731
    values = fastxai.shap.KernelExplainer(f, BACKGROUND, batch_size=5).shap_values(X, silent=True)
    assert max(rows) == 5
    free = fastxai.shap.KernelExplainer(game, BACKGROUND).shap_values(X, silent=True)
    np.testing.assert_allclose(values, free, atol=1e-12)


def frame(n, seed=0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "age": rng.integers(20, 60, n),
            "member": rng.random(n) < 0.5,
            "income": rng.normal(size=n),
            "town": pd.Categorical(rng.choice(["Ulm", "Bonn"], n), ["Bonn", "Ulm", "Trier"]),
            "pet": rng.choice(["cat", "dog"], n),
        }
    )


def test_a_data_frame_stays_what_it_is():
    background, x, seen = frame(6), frame(3, seed=1), []

    def f(z):
        seen.append(z)
        ill = z["town"].map({"Ulm": 1.0, "Bonn": 2.0, "Trier": 4.0}).astype(float)
        return (z["age"] * ill + z["member"] * (z["pet"] == "dog") + z["income"]).to_numpy()

    explainer = fastxai.shap.KernelExplainer(f, background)
    found = explainer(x, silent=True)
    for z in seen:
        assert isinstance(z, pd.DataFrame) and list(z.columns) == list(background.columns)
        assert (z.dtypes == background.dtypes).all()
    assert found.feature_names == list(background.columns)
    np.testing.assert_allclose(found.values.sum(1) + found.base_values, f(x), atol=1e-9)
    row = explainer.shap_values(x.iloc[1], silent=True)
    np.testing.assert_allclose(row, found.values[1], atol=1e-12)
    np.testing.assert_allclose(explainer.shap_values(x.to_numpy(), silent=True), found.values)


def test_sklearn_regressor_with_a_data_frame():
    data, y = sklearn.datasets.load_diabetes(return_X_y=True, as_frame=True)
    data = data.iloc[:, :6]
    model = RandomForestRegressor(10, random_state=0).fit(data, y)
    background = fastxai.shap.sample(data, 10)
    theirs, ours = both(model.predict, background)
    expected = theirs.shap_values(data.iloc[:3], l1_reg=False, silent=True)
    np.testing.assert_allclose(ours.shap_values(data.iloc[:3], silent=True), expected, atol=1e-9)
    explanation = ours(data.iloc[:3], silent=True)
    assert explanation.feature_names == list(data.columns)
    np.testing.assert_allclose(explanation.base_values, [theirs.expected_value] * 3)


def test_classifiers_as_tutorials_have_them():
    data, y = sklearn.datasets.load_iris(return_X_y=True)
    forest = RandomForestClassifier(10, random_state=0).fit(data, y)
    theirs = shap.KernelExplainer(forest.predict_proba, data[::15], link="logit")
    expected = theirs.shap_values(data[:2], l1_reg=False, silent=True)
    for model in (forest.predict_proba, forest):
        ours = fastxai.shap.KernelExplainer(model, data[::15], link="logit")
        np.testing.assert_allclose(ours.shap_values(data[:2], silent=True), expected, atol=1e-9)
        assert ours(data[:2], silent=True).output_names == ["0", "1", "2"]


def test_lightgbm_with_categories():
    data = frame(200).drop(columns="pet")
    y = data["age"] * 0.1 + (data["town"] == "Ulm") + data["income"]
    model = lightgbm.LGBMRegressor(n_estimators=10, verbose=-1).fit(data, y)
    explainer = fastxai.shap.KernelExplainer(model.predict, fastxai.shap.sample(data, 8))
    values = explainer.shap_values(data.iloc[:3], silent=True)
    total = values.sum(1) + explainer.expected_value
    np.testing.assert_allclose(total, model.predict(data.iloc[:3]), atol=1e-9)
    booster = fastxai.shap.KernelExplainer(model.booster_, fastxai.shap.sample(data, 8))
    np.testing.assert_allclose(booster.shap_values(data.iloc[:3], silent=True), values, atol=1e-9)


def test_a_sparse_background():
    seen = []

    def f(z):
        seen.append(scipy.sparse.issparse(z))
        return game(z.toarray())

    dense = fastxai.shap.KernelExplainer(game, BACKGROUND).shap_values(X, silent=True)
    rows = scipy.sparse.csr_matrix(BACKGROUND)
    ours = fastxai.shap.KernelExplainer(f, rows)
    found = ours.shap_values(scipy.sparse.lil_matrix(X), silent=True)
    assert all(seen)
    np.testing.assert_allclose(found, dense, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("form", [np.array, torch.tensor, pd.DataFrame, list])
def test_a_module_is_explained_in_eval_mode(dtype, form):
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(5, 6), torch.nn.Dropout(), torch.nn.Linear(6, 2))
    module.to(dtype).train()
    module[0].eval()
    background, x = ([*v.tolist()] if form is list else form(v) for v in (BACKGROUND, X))
    ours = fastxai.shap.KernelExplainer(module, background)
    values = ours.shap_values(x, silent=True)
    weights = (module[2].weight @ module[0].weight).detach().double().numpy()
    expected = (X - BACKGROUND.mean(0))[..., None] * weights.T
    assert isinstance(values, np.ndarray)
    np.testing.assert_allclose(values, expected, atol=1e-5 if dtype == torch.float32 else 1e-12)
    assert [m.training for m in module.modules()] == [True, False, True, True]


def test_a_function_of_tensors_gets_those_of_its_background():
    seen = []

    def f(z):
        seen.append((type(z), z.dtype))
        return z.sum(1)

    background = torch.zeros(2, 3)
    values = fastxai.shap.KernelExplainer(f, background).shap_values(torch.ones(1, 3), silent=True)
    assert set(seen) == {(torch.Tensor, torch.float32)}
    np.testing.assert_allclose(values, np.ones((1, 3)), atol=1e-6)


def test_an_explanation_is_sliced_with_its_names():
    explainer = fastxai.shap.KernelExplainer(several, BACKGROUND, output_names=["p", "q", "r"])
    found = explainer(X, silent=True)
    assert found.shape == (4, 5, 3) and found.base_values.shape == (4, 3) and len(found) == 4
    assert found.feature_names == [f"Feature {i}" for i in range(5)]
    one = found[2]
    np.testing.assert_array_equal(one.base_values, explainer.expected_value)
    np.testing.assert_array_equal(one.data, X[2])
    output = found[..., "q"]
    np.testing.assert_array_equal(output.values, found.values[:, :, 1])
    np.testing.assert_array_equal(output.base_values, found.base_values[:, 1])
    assert output.output_names == "q"
    last = found[1:3, "Feature 3", 0]
    np.testing.assert_array_equal(last.values, found.values[1:3, 3, 0])
    np.testing.assert_array_equal(last.data, X[1:3, 3])
    assert np.isscalar(found[0, :, 0].base_values)
    with pytest.raises(fastxai.ArgumentError, match=r"index: .*'Feature 9'"):
        found[:, "Feature 9"]


def test_an_explanation_becomes_shaps():
    found = fastxai.shap.KernelExplainer(several, BACKGROUND)(X, silent=True)
    theirs = found.to_shap()
    assert isinstance(theirs, shap.Explanation)
    for key in ((0, slice(None), 1), (slice(None), slice(None), 2), (slice(1, 3),)):
        a, b = found[key], theirs[key]
        np.testing.assert_array_equal(a.values, b.values)
        np.testing.assert_array_equal(a.base_values, b.base_values)
        np.testing.assert_array_equal(a.data, b.data)
    one = found[0, :, 1].to_shap()
    assert one.feature_names == found.feature_names and one.shape == (5,)


def refused(match, f=game, background=BACKGROUND, x=X, **kwargs):
    with pytest.raises(fastxai.ArgumentError, match=match):
        fastxai.shap.KernelExplainer(f, background, **kwargs).shap_values(x, silent=True)


def test_bad_rows_are_named_before_the_model_is_called():
    background = frame(4)
    calls = []
    f = lambda z: (calls.append(len(z)), z["age"].to_numpy() * 1.0)[1]  # noqa: E731
    explainer = fastxai.shap.KernelExplainer(f, background)
    before = len(calls)
    text = frame(2).astype({"age": object})
    text.loc[1, "age"] = "old"
    town = frame(2)
    town["town"] = ["Ulm", "Rome"]
    cases = [
        (frame(2).drop(columns="income"), "X: .*none called 'income'"),
        (frame(2)[["member", "age", "income", "town", "pet"]], "X: .*'age' at place 0"),
        (frame(2).assign(more=1), "X: .*'more' as well"),
        (town, "X: column 'town'.*'Bonn', 'Ulm', 'Trier'.*'Rome'"),
        (text, "X: column 'age': expected numbers.*'old'"),
        (np.zeros((2, 3)), "X: expected rows of 5 features"),
    ]
    for x, match in cases:
        with pytest.raises(fastxai.ArgumentError, match=match):
            explainer.shap_values(x, silent=True)
    assert len(calls) == before


def test_the_columns_of_kmeans_keep_their_order():
    data = pd.DataFrame(BACKGROUND, columns=[*"abcde"])
    explainer = fastxai.shap.KernelExplainer(game, fastxai.shap.kmeans(data, 3))
    with pytest.raises(fastxai.ArgumentError, match=r"X: .*'a' at place 0, got 'b' there"):
        explainer.shap_values(data[[*"bacde"]], silent=True)
    assert explainer(data, silent=True).feature_names == [*"abcde"]


def test_bad_arguments_are_named():
    refused("model: expected outputs that are numbers, got NaN", f=lambda z: z.sum(1) * np.nan)
    refused("X: expected 5 features a row", x=X[:, :4])
    refused("X: column 1: expected numbers, got 'a'", x=np.array([[1, "a", 1, 1, 1]], object))
    refused("X: .*column 'b' of ", x=pd.DataFrame([[1, "x", 1, 1, 1]], columns=[*"abcde"]))
    refused("X: expected an array.*str", x="rows")
    refused("X: expected rows of one length", x=[[1, 2, 3, 4, 5], [1, 2]])
    refused("data: column 0: expected numbers", background=np.array([["a"] * 5]))
    refused("data: expected at least one row", background=np.zeros((0, 5)))
    refused("model: expected a module or callable", f=3)
    refused("model: expected outputs.*a list", f=lambda z: [0.0] * len(z))
    refused("model: expected outputs.*shape", f=lambda z: np.zeros(3))
    refused("model: expected outputs.*explain predict_proba", f=lambda z: np.array(["a"] * len(z)))
    refused("link: ", link="probit")
    refused("feature_names: expected 5 names", feature_names=["a"])
    refused("output_names: expected 3 names", f=several, output_names=["a"])
    refused("batch_size: ", batch_size=0)
    explainer = fastxai.shap.KernelExplainer(game, BACKGROUND)
    for name, value in (("nsamples", "many"), ("nsamples", 0), ("l1_reg", "lasso"), ("l1_reg", -1)):
        with pytest.raises(fastxai.ArgumentError, match=name):
            explainer.shap_values(X, silent=True, **{name: value})


def test_a_large_background_is_told():
    with pytest.warns(UserWarning, match="data: .* 101 model rows"):
        fastxai.shap.KernelExplainer(game, RNG.normal(size=(101, 5)))


def test_no_rows():
    ours = fastxai.shap.KernelExplainer(several, BACKGROUND)
    assert ours.shap_values(X[:0], silent=True).shape == (0, 5, 3)


def test_a_logistic_regression_by_its_links():
    model = LogisticRegression().fit(BACKGROUND, [0, 1, 0, 1, 1, 0, 1])
    for link in (fastxai.shap.links.logit, shap.links.logit, "logit"):
        ours = fastxai.shap.KernelExplainer(model.predict_proba, BACKGROUND[:1], link=link)
        values = ours.shap_values(X, silent=True)[..., 1]
        np.testing.assert_allclose(values, model.coef_[0] * (X - BACKGROUND[0]), atol=1e-9)


def test_a_criterion_keeps_few_of_many_features():
    weights = np.zeros(16)
    weights[[2, 9]] = 1, -2
    x, background = RNG.normal(size=(2, 16)), RNG.normal(size=(3, 16))
    ours = fastxai.shap.KernelExplainer(lambda z: z @ weights, background, seed=0)
    values = ours.shap_values(x, nsamples=200, l1_reg="bic", silent=True)
    np.testing.assert_allclose(values, weights * (x - background.mean(0)), atol=1e-9)
    assert (values != 0).sum() == 4


def test_threads_that_share_a_module_in_train_mode_all_explain_it_in_eval_mode():
    inside, first_is_done = threading.Barrier(2, timeout=60), threading.Event()
    modes = {}

    class Slow(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.part = torch.nn.Dropout()

        def forward(self, x):
            return self.part(x).sum(1)

    module = Slow().train()

    def first():
        with eval_mode(module):
            inside.wait()
        first_is_done.set()

    def second():
        with eval_mode(module.part):
            inside.wait()
            first_is_done.wait(60)
            modes["part"] = module.part.training

    threads = [threading.Thread(target=each) for each in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert modes == {"part": False}
    assert module.training and module.part.training


def test_what_is_no_probability_has_no_log_odds():
    def margin(z):
        return z.sum(1)

    for kind in (fastxai.shap.KernelExplainer, fastxai.shap.ExactExplainer):
        with pytest.raises(fastxai.ArgumentError, match="link: expected probabilities"):
            explainer = kind(margin, BACKGROUND, link="logit")
            explainer(X, silent=True)


def test_masked_outputs_are_refused():
    def masked(x):
        return np.ma.masked_greater(x.sum(1), 0.0)

    with pytest.raises(fastxai.ArgumentError, match=r"model: .* numbers, got masked"):
        fastxai.shap.KernelExplainer(masked, np.ones((3, 2)))
