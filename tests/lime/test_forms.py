"""Data and models in the forms in which people have them."""

import lime.lime_tabular
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression

import fastxai
from fastxai.lime import lime_tabular
from fastxai.lime.lime_tabular import LimeTabularExplainer

from .tables import NAMES, RNG, ROW, X, Y, by_column, probabilities, values

FRAME = pd.DataFrame(X, columns=NAMES).astype({"age": int})
FRAME["kind"] = pd.Categorical.from_codes(X[:, 2].astype(int), ["red", "green", "blue"])
FRAME["city"] = np.where(RNG.random(500) < 0.5, "Bonn", "Köln")
FRAME["member"] = RNG.random(500) < 0.3


def test_data_frames():
    """Columns that hold no numbers are categorical, and a model is given frames."""

    def f(frame):
        assert list(frame.columns) == list(FRAME.columns)
        assert frame["kind"].dtype == FRAME["kind"].dtype and frame["member"].dtype == bool
        # What was whole is drawn with a fraction.
        assert len(frame) == 1 or (frame["age"][1:] % 1 != 0).mean() > 0.9
        p = 0.2 + 0.4 * (frame["kind"] == "green") + 0.3 * (frame["city"] == "Bonn")
        p = p + 0.05 * frame["member"]
        return np.stack([1 - p, p], 1)

    explainer = LimeTabularExplainer(FRAME, random_state=0)
    row = FRAME.iloc[3]
    for given in (row, FRAME.iloc[[3]]):
        found = explainer.explain_instance(given, f)
        names = [name for name, _ in found.as_list()]
        assert set(names[:2]) == {f"kind={row['kind']}", f"city={row['city']}"}
        assert f"member={row['member']}" in names


@pytest.mark.parametrize(
    "form",
    [lambda x: x, list, pd.DataFrame, torch.tensor],
    ids=["array", "list", "frame", "tensor"],
)
def test_forms_of_data_agree(form):
    expected = LimeTabularExplainer(X, random_state=0).explain_instance(ROW, probabilities)
    explainer = LimeTabularExplainer(form(X.tolist() if form is list else X), random_state=0)
    found = explainer.explain_instance(ROW, lambda x: probabilities(np.asarray(x)))
    assert [i for i, _ in found.as_map()[1]] == [i for i, _ in expected.as_map()[1]]
    np.testing.assert_allclose(found.local_pred, expected.local_pred, rtol=1e-12)


def test_estimators_and_modules():
    forest = RandomForestClassifier(10, random_state=0).fit(X, np.array(["no", "yes"])[Y])
    explainer = LimeTabularExplainer(X, random_state=0)
    found = explainer.explain_instance(ROW, forest)
    assert found.class_names == ["no", "yes"]
    assert found.as_list() == explainer.explain_instance(ROW, forest.predict_proba).as_list()
    module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Dropout(), torch.nn.Softmax(1))
    found = explainer.explain_instance(ROW, module)
    assert module.training  # as it was

    def f(x):
        with torch.no_grad():
            return torch.softmax(module[0](torch.from_numpy(x).float()), 1).numpy()

    expected = explainer.explain_instance(ROW, f)
    np.testing.assert_allclose(found.local_pred, expected.local_pred, rtol=1e-5)
    linear = LinearRegression().fit(X, values(X))
    explainer = LimeTabularExplainer(X, mode="regression", random_state=0)
    found = explainer.explain_instance(ROW, linear)
    np.testing.assert_allclose(found.predicted_value, linear.predict(ROW[None])[0], rtol=1e-12)


def test_sparse_rows():
    """Only what is not zero is varied, and divided by its deviation: lime multiplies."""
    dense = X * (RNG.random(X.shape) < 0.6)
    data = scipy.sparse.csr_matrix(dense)
    np.testing.assert_allclose(LimeTabularExplainer(data).scaler.scale_, dense.std(0))
    row = dense[np.flatnonzero((dense != 0).sum(1) == 3)[0]]
    there = np.flatnonzero(row)
    slopes = np.array([0.1, 0.2, 0.3, 0.4])
    seen = []

    def f(x):
        assert scipy.sparse.issparse(x)
        seen.append(x.toarray())
        return x @ slopes

    explainer = LimeTabularExplainer(data, mode="regression", random_state=0)
    found = explainer.explain_instance(
        scipy.sparse.csr_matrix(row), f, model_regressor=LinearRegression()
    )
    rows = np.concatenate(seen)
    assert (rows[:, row == 0] == 0).all() and (rows[0] == row).all()
    weights = dict(found.as_map()[1])
    expected = (slopes * dense.std(0))[there]
    np.testing.assert_allclose([weights[c] for c in there], expected, atol=1e-9)
    assert found.domain_mapper.feature_values == [f"{v:.2f}" for v in row[there]]
    assert "The row" in found.as_html()


SERIES = RNG.normal(size=(200, 5, 3))


def of_series(x):
    p = 1 / (1 + np.exp(-x[:, -1, 0] + x[:, 0, 2] * x[:, 1, 2]))
    return np.stack([1 - p, p], 1)


def test_series():
    """Names as lime's; the model is given series."""
    args = {"feature_names": ["a", "b", "c"], "random_state": 0}
    theirs = lime.lime_tabular.RecurrentTabularExplainer(SERIES, **args)
    ours = lime_tabular.RecurrentTabularExplainer(SERIES, **args)
    shapes = []

    def f(x):
        shapes.append(x.shape[1:])
        assert len(shapes) != 1 or (x[0] == SERIES[3]).all()
        return of_series(x)

    expected = theirs.explain_instance(SERIES[3], of_series, num_features=15)
    found = ours.explain_instance(SERIES[3], f, num_features=15)
    assert by_column(found) == by_column(expected) and set(shapes) == {(5, 3)}
    assert found.as_list()[0][0].count("a_t-0") == 1
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(15, 2), torch.nn.Softmax(1))
    found = ours.explain_instance(SERIES[3], module, (0,), num_samples=100)
    own = module(torch.from_numpy(SERIES[3:4]).float())[0].detach().numpy()
    np.testing.assert_allclose(found.predict_proba, own, rtol=1e-5)
    for bad in (lambda: ours.explain_instance(SERIES, f), lambda: type(ours)(SERIES[0])):
        with pytest.raises(fastxai.ArgumentError, match=r"^(data_row|training_data): expected"):
            bad()
