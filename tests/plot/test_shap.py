"""Explanations of shap and data frames are drawn with their names, and words have room."""

import warnings
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import shap

import fastxai.shap
from fastxai import ArgumentError, plot
from fastxai.plot._table import table

VALUES = np.array([[1.0, -3.0, 0.5, 0.0], [2.0, 1.0, -0.5, 0.1], [-1.0, 2.0, 0.25, 0.3]])
DATA = np.array([[1.0, 5.0, np.nan, 7.0], [2.0, 4.0, 1.0, 7.0], [3.0, 3.0, 2.0, 7.0]])


def games(columns):
    """Explanations of a function with so many outputs, or without a dimension for them, twice."""
    weights = np.arange(1.0, 5)[:, None] * np.arange(1.0, 1 + max(columns, 1))
    x, behind = np.arange(24.0).reshape(6, 4) ** 1.5, np.ones((2, 4))

    def f(z):
        return z @ weights if columns else (z @ weights)[:, 0]

    ours = fastxai.shap.ExactExplainer(f, behind)(x, silent=True)
    theirs = shap.explainers.ExactExplainer(f, shap.maskers.Independent(behind))(x)
    return x, (x - behind[0])[:, :, None] * weights, weights.sum(0), (ours, theirs)


@pytest.mark.parametrize("columns", [0, 1, 3])
def test_explanations_of_shap_are_read_as_fastxais(columns):
    x, values, bases, both = games(columns)
    for e in both:
        target = {"target": 1} if columns == 3 else {}
        place = 1 if columns == 3 else 0
        for asked, row, options in (
            (e, None, target),
            (e[2], 2, target),
            *([(e[..., 1], None, {}), (e[2, :, 1], 2, {})] if columns == 3 else ()),
        ):
            found = table(asked, **options)
            which = slice(None) if row is None else slice(row, row + 1)
            np.testing.assert_allclose(found.values, values[which, :, place], atol=1e-9)
            np.testing.assert_array_equal(found.data, x[which])
            assert found.names == [f"Feature {i}" for i in range(4)]
            np.testing.assert_allclose(found.baseline_outputs, bases[place])
            expected = bases[place] + values[which, :, place].sum(1)
            np.testing.assert_allclose(found.outputs, expected)
        ax = plot.waterfall(e, row=2, **target)
        assert "Feature 3 = 36.48" in [
            t.get_text().replace("\u200e", "") for t in ax.get_yticklabels()
        ]
        if columns == 1 and e is both[1]:  # shap cannot take this apart
            continue
        column = table(e[:, "Feature 2"], **target)
        np.testing.assert_allclose(column.values, values[:, 2:3, place], atol=1e-9)
        assert column.names == ["Feature 2"]
        if columns == 3:
            with pytest.raises(ArgumentError, match="target: expected an index, as 3 outputs"):
                plot.bar(e)


def test_values_of_pairs_are_no_outputs():
    explainer = fastxai.shap.ExactExplainer(lambda z: z[:, 0] * z[:, 1], np.zeros((1, 4)))
    found = explainer(np.ones((3, 4)), interactions=2, silent=True)
    assert table(found).values.shape == (3, 16)
    assert table(found[0]).values.shape == (4, 4)


def test_a_data_frame_names_the_features():
    frame = pd.DataFrame(DATA, columns=["age", "debt", "rent", "job"])
    assert table(VALUES, data=frame).names == list(frame)
    assert table(VALUES[0], data=frame.iloc[0]).names == list(frame)
    assert table(VALUES, data=frame, feature_names=list("wxyz")).names == list("wxyz")
    plot.scatter(VALUES, "debt", data=frame, color_by="job")


@pytest.mark.parametrize("count", [2, 12, 100])
def test_words_along_the_axis_do_not_overlap(count):
    words = [f"occupation {i:03}" for i in range(count)]
    ax = plot.scatter(np.ones((count, 1)), 0, data=np.array(words, dtype=object)[:, None])
    ax.figure.draw_without_rendering()
    labels = ax.get_xticklabels()
    assert len(labels) <= 24
    slanted = labels[0].get_rotation() == 45
    assert slanted == (count > 2)
    boxes = [label.get_window_extent() for label in labels]
    line = boxes[0].height if not slanted else labels[0].get_size() * ax.figure.dpi / 72
    for one, other in pairwise(boxes):
        if slanted:  # their right ends are this far apart across the slope
            assert (other.x1 - one.x1) / 2**0.5 > 0.9 * line
        else:
            assert one.x1 < other.x0
    legend = ax.get_legend().get_window_extent()
    assert legend.y0 >= 0 and legend.y1 < min(box.y0 for box in boxes)


def test_what_is_beside_the_colours_fits():
    ax = plot.beeswarm(VALUES[:, :1], data=DATA[:, 2:3])
    ax.figure.draw_without_rendering()
    beside = ax.figure.axes[1].yaxis.label.get_window_extent()
    assert beside.y0 >= 0 and beside.y1 <= ax.figure.bbox.y1
    axes = plot.image({"a title that is wider than its picture is, by far": VALUES, "b": VALUES})
    axes[0].figure.draw_without_rendering()
    title = axes[0].title.get_window_extent()
    assert title.x0 >= 0 and title.x1 < axes[1].title.get_window_extent().x0


def test_a_heat_map_asks_matplotlib_for_nothing_that_goes_away():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot.heatmap(VALUES).figure.draw_without_rendering()
