"""lime's Explanation: lists, figures, pages."""

import copy
import pickle
import re
import subprocess
import sys
from html import unescape

import lime.lime_tabular
import matplotlib
import numpy as np
import pytest

import fastxai
from fastxai.lime.explanation import DomainMapper, Explanation
from fastxai.lime.lime_tabular import LimeTabularExplainer

matplotlib.use("agg")
RNG = np.random.default_rng(0)
X = RNG.normal(size=(300, 4))
NAMES = ["a<b>", "b & c", "$x$", "d"]


def probabilities(x):
    p = 1 / (1 + np.exp(-x[:, 0] + 2 * x[:, 1]))
    return np.stack([1 - p, p], 1)


def values(x):
    return x[:, 0] - 2 * x[:, 1]


def explained(mode="classification", explainer=LimeTabularExplainer, **kwargs):
    made = explainer(X, feature_names=NAMES, mode=mode, random_state=0)
    f = probabilities if mode == "classification" else values
    return made.explain_instance(X[0], f, num_samples=300, **kwargs)


@pytest.mark.parametrize("mode", ["classification", "regression"])
def test_lists_are_of_plain_numbers(mode):
    pairs = explained(mode).as_list()
    assert all(type(name) is str and type(weight) is float for name, weight in pairs)
    sizes = [abs(weight) for _, weight in pairs]
    assert sizes == sorted(sizes, reverse=True)


def test_labels_that_were_not_explained():
    found = explained()
    for ask in (found.as_list, found.as_pyplot_figure, lambda label: found.as_html([label])):
        with pytest.raises(KeyError, match="label: expected one that was explained, 1, got 0"):
            ask(0)


@pytest.mark.parametrize("mode", ["classification", "regression"])
def test_figures_are_limes(mode):
    from matplotlib import pyplot
    from matplotlib.container import ErrorbarContainer

    found, theirs = explained(mode), explained(mode, lime.lime_tabular.LimeTabularExplainer)
    theirs.local_exp = found.local_exp
    figures = [e.as_pyplot_figure() for e in (theirs, found)]
    told = []
    for figure in figures:
        (axes,) = figure.axes
        names = [label.get_text() for label in axes.get_yticklabels()]
        bars = [(p.get_y(), p.get_width(), p.get_facecolor()) for p in axes.patches]
        told.append((axes.get_title(), names, bars))
    assert told[0] == told[1]
    assert list(found.as_pyplot_figure(figsize=(7, 3)).get_size_inches()) == [7, 3]
    containers = figures[1].axes[0].containers
    (drawn,) = [c for c in containers if isinstance(c, ErrorbarContainer)]
    segments = drawn.lines[2][0].get_segments()
    errors = [error for _, error in found.standard_errors[1]][::-1]
    np.testing.assert_allclose([(s[1, 0] - s[0, 0]) / 2 for s in segments], errors)
    figures[1].canvas.draw()  # "$x$" is a name
    pyplot.close("all")


def test_pages_show_bars_in_order():
    found = explained(labels=(0, 1))
    text = found.as_html()
    assert text.count('<div class="p"') == 2  # classes
    assert len(re.findall(r'<div class="(?:up|down)"', text)) == 8
    for label in (0, 1):
        part = text.split(f"Local explanation for class {label}</h2>")[1].split("</section>")[0]
        names = re.findall('<tr><td>(.*?)</td><td class="b">', part)
        assert [unescape(name) for name in names] == [name for name, _ in found.as_list(label)]
        kinds = re.findall(r'<div class="(up|down)"', part)
        assert kinds == ["up" if weight > 0 else "down" for _, weight in found.as_list(label)]
    assert "<script" not in text and "a<b>" not in text
    assert found.as_html(predict_proba=False).count('<div class="p"') == 0
    assert len(re.findall(r'<div class="(?:up|down)"', found.as_html(labels=[0]))) == 4
    assert "The row" in text and "The row" not in found.as_html(show_table=False)


def test_pages_of_regressions_show_the_value():
    found = explained("regression", num_features=2)
    text = found.as_html()
    assert "Predicted value" in text and f"{found.predicted_value:.4g}" in text
    assert "Predicted value" not in found.as_html(show_predicted_value=False)
    row = text.split("The row</h2>")[1]
    assert row.count("<tr class") == 2
    assert found.as_html(show_all=True).split("The row</h2>")[1].count("<tr class") == 4


def test_files_are_pages(tmp_path):
    found = explained()
    found.save_to_file(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text(encoding="utf8") == found.as_html()


def test_notebooks_show_the_page(monkeypatch):
    from types import ModuleType

    shown, module = [], ModuleType("IPython.display")
    module.HTML, module.display = str, shown.append
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    found = explained()
    found.show_in_notebook(predict_proba=False)
    assert shown == [found.as_html(predict_proba=False)]


@pytest.mark.parametrize("again", [copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))])
def test_copies_and_pickles(again):
    found = explained(labels=(0, 1))
    other = again(found)
    assert other.as_list(0) == found.as_list(0) and other.as_html() == found.as_html()
    assert [other.score[k] for k in (0, 1)] == [found.score[k] for k in (0, 1)]
    assert [other.local_pred[k] for k in (0, 1)] == [found.local_pred[k] for k in (0, 1)]


def test_explainers_can_be_pickled():
    made = LimeTabularExplainer(X, random_state=0)
    other = pickle.loads(pickle.dumps(made))
    both = (e.explain_instance(X[0], probabilities, num_samples=200) for e in (made, other))
    assert len({str(e.as_list()) for e in both}) == 1


def test_predictions_are_arrays():
    said = explained(labels=(1,)).local_pred
    assert said.shape == (1,) and said[0] == said[1] == said[-1] == float(np.asarray(said)[0])
    assert (said + 1)[0] == said[0] + 1


def test_an_explanation_by_hand():
    found = Explanation(DomainMapper(), class_names=["no", "yes"])
    found.local_exp[1] = [(0, 0.5), (1, -0.25)]
    assert found.as_list() == [(0, 0.5), (1, -0.25)] and found.available_labels() == [1]
    assert "Local explanation for class yes" in found.as_html()
    with pytest.raises(fastxai.ArgumentError, match=r"^mode: expected"):
        Explanation(DomainMapper(), mode="other")


def test_no_heavy_module_is_imported():
    code = """
import sys, numpy as np, fastxai.lime
x = np.random.default_rng(0).normal(size=(50, 3))
made = fastxai.lime.LimeTabularExplainer(x, mode="regression")
made.explain_instance(x[0], lambda rows: rows.sum(1)).as_html()
print([m for m in ("sklearn", "scipy", "pandas", "matplotlib", "lime") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
