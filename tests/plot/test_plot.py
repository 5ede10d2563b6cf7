"""The artists hold the numbers, and nothing but the axes has changed."""

import re
from html import unescape

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib import pyplot
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_hex, to_rgba
from matplotlib.figure import Figure

import fastxai
from fastxai import ArgumentError, Explanation, plot
from fastxai.plot._look import GREY, LOWERS, RAISES, is_dark

matplotlib.use("Agg")

VALUES = np.array([[1.0, -3.0, 0.5, 0.0], [2.0, 1.0, -0.5, 0.1], [-1.0, 2.0, 0.25, 0.3]])
ERRORS = np.array([[0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8], [0.2, 0.1, 0.1, 0.1]])
NAMES = ["age", "income", "חשבון", "a name that goes on and on and on, further than anyone reads"]
DATA = np.array([[1.0, 5.0, np.nan, 7.0], [2.0, 4.0, 1.0, 7.0], [3.0, 3.0, 2.0, 7.0]])
PIXELS = np.arange(-8.0, 8).reshape(4, 4)
TOKENS = ["not", "a", "bad", "film"]


def explanation(values=VALUES, errors=ERRORS, baselines=0.5, **others):
    values = torch.tensor(values)
    outputs = values.sum(1) + 0.5
    return Explanation(
        values,
        outputs,
        None if baselines is None else torch.full_like(outputs, baselines),
        None,
        None if errors is None else torch.tensor(errors),
        "Method",
        0.1,
        **others,
    )


def error_bars(ax):
    """The ends of all error bars, [N, 2, 2]."""
    lines = [line for c in ax.containers if hasattr(c, "has_xerr") for line in c.lines[2]]
    return np.concatenate([line.get_segments() for line in lines]) if lines else np.zeros((0, 2, 2))


def labels(ax):
    return [t.get_text().replace("\u200e", "") for t in ax.get_yticklabels()]


def points(ax):
    return [c for c in ax.collections if isinstance(c, PathCollection)]


DRAWN = {
    "bar": lambda ax: plot.bar(explanation(), row=0, ax=ax),
    "bar of rows": lambda ax: plot.bar(explanation(), feature_names=NAMES, ax=ax),
    "waterfall": lambda ax: plot.waterfall(explanation(), row=1, data=DATA, ax=ax),
    "beeswarm": lambda ax: plot.beeswarm(explanation(), data=DATA, ax=ax),
    "beeswarm without data": lambda ax: plot.beeswarm(explanation(), ax=ax),
    "scatter": lambda ax: plot.scatter(explanation(), 2, DATA, ax=ax),
    "scatter by another": lambda ax: plot.scatter(explanation(), 0, DATA, color_by=3, ax=ax),
    "heatmap": lambda ax: plot.heatmap(explanation(), ax=ax),
    "image": lambda ax: plot.image(PIXELS, PIXELS, errors=np.ones((4, 4)), ax=ax),
    "absolute image": lambda ax: plot.image(PIXELS, mode="absolute", ax=ax),
    "text": lambda ax: plot.text(VALUES[0], TOKENS, errors=ERRORS[0], ax=ax),
    "convergence": lambda ax: plot.convergence(VALUES, [10, 20, 90], errors=ERRORS, ax=ax),
}


@pytest.mark.parametrize("given", [True, False], ids=["ax", "new"])
@pytest.mark.parametrize("name", DRAWN)
def test_nothing_else_changes(name, given, monkeypatch):
    monkeypatch.setattr(pyplot, "show", lambda: pytest.fail("show was called"))
    mine, (current, _) = pyplot.subplots()[1], pyplot.subplots()
    before, open_figures = dict(matplotlib.rcParams), pyplot.get_fignums()
    ax = DRAWN[name](mine if given else None)
    assert dict(matplotlib.rcParams) == before
    assert pyplot.gcf() is current and pyplot.get_fignums() == open_figures
    assert (ax is mine) == given
    ax.figure.savefig("/dev/null", format="png", dpi=30)
    pyplot.close("all")


@pytest.mark.parametrize("face", ["white", "black"])
@pytest.mark.parametrize("name", DRAWN)
def test_writing_can_be_read_on_the_background(name, face):
    # The style of the program says nothing of the figure that is given.
    figure = Figure(facecolor=face)
    ax = DRAWN[name](figure.add_subplot(facecolor="none"))
    texts = [ax.xaxis.label, ax.yaxis.label, ax.title, *ax.get_xticklabels(), *ax.texts]
    legend = ax.get_legend()
    texts += legend.get_texts() if legend else []
    colours = {to_hex(t.get_color()).upper() for t in texts if t.get_text()}
    colours -= {RAISES, LOWERS, GREY}
    assert {is_dark(c) for c in colours} <= {face == "white"}


def test_colours_stand_out_from_white_and_black():
    def luminance(colour):
        linear = np.array(to_rgba(colour)[:3])
        linear = np.where(linear <= 0.04045, linear / 12.92, ((linear + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    for colour in (RAISES, LOWERS, GREY):
        assert 1.05 / (luminance(colour) + 0.05) > 3 and (luminance(colour) + 0.05) / 0.05 > 3


def test_bar_of_one_row():
    ax = plot.bar(explanation(), row=0, feature_names=NAMES, data=DATA, target_names="P(yes)")
    assert [b.get_width() for b in ax.patches] == [-3, 1, 0.5, 0]
    colours = [to_hex(b.get_facecolor()).upper() for b in ax.patches]
    assert colours == [LOWERS, RAISES, RAISES, GREY]
    assert labels(ax)[:3] == ["income = 5", "age = 1", "חשבון = missing"]
    assert len(labels(ax)[3]) < 45 and "…" in labels(ax)[3]
    assert ax.get_xlabel().strip() == "contribution to P(yes)"
    ends = error_bars(ax)
    np.testing.assert_allclose(ends[:, 1, 0] - ends[:, 0, 0], 2 * ERRORS[0][[1, 0, 2, 3]])
    np.testing.assert_allclose(ends.mean(1)[:, 0], [-3, 1, 0.5, 0])
    assert [t.get_text() for t in ax.texts] == ["−3 ± 0.2", "+1 ± 0.1", "+0.5 ± 0.3", "0 ± 0.4"]
    assert [t.get_text() for t in ax.get_legend().get_texts()] == [
        "raises the output",
        "lowers it",
        "± 1 standard error",
    ]


def test_bar_of_several_rows():
    ax = plot.bar(explanation())
    mean = np.abs(VALUES).mean(0)
    order = [1, 0, 2, 3]
    np.testing.assert_allclose([b.get_width() for b in ax.patches], mean[order])
    ends = error_bars(ax)
    np.testing.assert_allclose(ends[:, 1, 0] - ends[:, 0, 0], 2 * ERRORS.mean(0)[order])
    assert ax.get_xlim()[0] == 0
    assert not {to_hex(b.get_facecolor()).upper() for b in ax.patches} & {RAISES, LOWERS}


def test_two_hundred_features_and_one():
    values = np.linspace(-1, 2, 200)
    ax = plot.bar(values, errors=np.full(200, 0.1), max_features=10)
    assert len(ax.patches) == 10 and labels(ax)[-1] == "sum of 191 others"
    shown = sum(b.get_width() for b in ax.patches)
    assert shown == pytest.approx(values.sum())
    last = error_bars(ax)[-1]
    assert last[1, 0] - last[0, 0] == pytest.approx(2 * 0.1 * np.sqrt(191))
    assert [b.get_width() for b in plot.bar([0.3]).patches] == [0.3]
    ax = plot.waterfall(values, max_features=1)
    assert len(ax.patches) == 1 and ax.patches[0].get_width() == pytest.approx(values.sum())
    assert len(plot.beeswarm(VALUES[:, :1], data=DATA[:, :1]).get_yticks()) == 1
    assert plot.heatmap(np.tile(values, (3, 1))).images[0].get_array().shape == (3, 30)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(bad):
    values = np.where(VALUES == 0.5, bad, VALUES)
    errors = np.where(ERRORS == 0.2, np.inf, ERRORS)
    for draw in (plot.bar, plot.waterfall):
        ax = draw(values, row=0, errors=errors)
        written = {"nan": "NaN", "inf": "∞", "-inf": "−∞"}[str(bad)]
        assert written in [t.get_text() for t in ax.texts]
        assert np.isfinite(ax.get_xlim()).all() and np.abs(ax.get_xlim()).max() < 10
        ax.figure.savefig("/dev/null", format="png", dpi=30)
    ax = plot.beeswarm(values, errors=errors, data=DATA)
    assert sum(len(c.get_offsets()) for c in points(ax)) == 11
    assert np.abs(ax.get_xlim()).max() < 10
    ax = plot.heatmap(values, errors=errors)
    assert ax.images[0].get_array().mask.sum() == 1 and "grey: not a number" in ax.get_title("left")
    for values in (np.full((2, 3), np.nan), np.zeros((2, 3))):
        plot.bar(values), plot.waterfall(values, row=0), plot.beeswarm(values), plot.heatmap(values)
        plot.image(values), plot.text(values[0], ["a", "b", "c"])


def test_waterfall_goes_from_the_baselines_output_to_the_output():
    ax = plot.waterfall(explanation(), row=0, feature_names=NAMES)
    starts, widths = np.array([(b.get_x(), b.get_width()) for b in ax.patches]).T
    np.testing.assert_allclose(widths, [-3, 1, 0.5, 0])
    assert starts[-1] == 0.5 and starts[0] + widths[0] == pytest.approx(-1.0)
    np.testing.assert_allclose(starts[:-1], starts[1:] + widths[1:])
    ends = error_bars(ax)
    np.testing.assert_allclose(ends.mean(1)[:, 0], starts + widths)
    assert {"start 0.5", "output −1"} <= {t.get_text() for t in ax.texts}


def test_waterfall_shows_what_is_not_attributed():
    ax = plot.waterfall(explanation(baselines=0.1), row=0)
    assert labels(ax)[-1] == "not attributed"
    assert ax.patches[-1].get_width() == pytest.approx(0.4)
    assert to_hex(ax.patches[-1].get_facecolor()).upper() == GREY
    # Without a baseline the values lead to the output from wherever they must.
    ax = plot.waterfall(explanation(baselines=None), row=0)
    assert len(ax.patches) == 4 and ax.patches[-1].get_x() == pytest.approx(0.5)
    assert plot.waterfall(VALUES[0], base=2).patches[-1].get_x() == 2


def test_beeswarm_tells_what_grey_is():
    words = np.array([["a", 1.0], ["b", 2.0], ["a", np.nan]], dtype=object)
    ax = plot.beeswarm(VALUES[:, :2], data=words)
    assert "grey: a word, or missing" in ax.figure.axes[1].get_ylabel()


def test_beeswarm():
    ax = plot.beeswarm(explanation(), data=DATA, feature_names=NAMES)
    assert labels(ax)[:3] == ["income", "age", "חשבון"]
    placed = np.concatenate([c.get_offsets() for c in points(ax)])
    for place, feature in zip([3, 2, 1, 0], [1, 0, 2, 3], strict=True):
        near = placed[np.abs(placed[:, 1] - place) < 0.5]
        assert sorted(near[:, 0]) == sorted(VALUES[:, feature])
    ranks = [c.get_array().tolist() for c in points(ax) if c.get_array() is not None]
    assert [1, 0.5, 0] in ranks and [0.5] * 3 in ranks and [0, 1] in ranks  # of a constant, too
    ends = error_bars(ax)
    assert sorted(ends[:, 1, 0] - ends[:, 0, 0]) == pytest.approx(sorted(2 * ERRORS.ravel()))
    ax = plot.beeswarm(VALUES[:1])
    colours = {to_hex(c).upper() for p in points(ax) for c in p.get_facecolors()}
    assert colours == {RAISES, LOWERS, GREY}


def test_points_of_one_place_lie_side_by_side():
    ax = plot.beeswarm(np.zeros((50, 1)))
    heights = points(ax)[0].get_offsets()[:, 1]
    assert len(set(heights.round(9))) == 50 and np.abs(heights).max() < 0.5


def test_scatter():
    ax = plot.scatter(explanation(), "age", DATA, feature_names=NAMES)
    placed = points(ax)[0].get_offsets()
    np.testing.assert_array_equal(placed, np.stack([DATA[:, 0], VALUES[:, 0]], 1))
    ends = error_bars(ax)
    np.testing.assert_allclose(ends[:, 1, 1] - ends[:, 0, 1], 2 * ERRORS[:, 0])
    assert ax.get_xlabel().strip() == "age"
    ax = plot.scatter(VALUES, 2, DATA)
    assert points(ax)[0].get_offsets()[0, 0] < 1 and "missing" in [t.get_text() for t in ax.texts]
    assert min(ax.get_xticks()) > points(ax)[0].get_offsets()[0, 0]
    words = np.array([["b"], ["a"], ["b"]], dtype=object)
    ax = plot.scatter(VALUES[:, :1], 0, words)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["a", "b"]
    assert points(ax)[0].get_offsets()[:, 0].round().tolist() == [1, 0, 1]
    ax = plot.scatter(VALUES, 0, DATA, color_by=1)
    assert points(ax)[-1].get_array().tolist() == [1, 0.5, 0]


def test_heatmap():
    ax = plot.heatmap(explanation(), feature_names=NAMES, row_names=["a", "b", "c"])
    order = [1, 0, 2, 3]
    np.testing.assert_array_equal(ax.images[0].get_array(), VALUES[:, order])
    assert ax.images[0].get_clim() == (-3, 3)
    dots = {tuple(p) for p in points(ax)[0].get_offsets().astype(int).tolist()}
    doubtful = np.abs(VALUES) < 2 * ERRORS
    assert dots == {(x, y) for y, x in np.argwhere(doubtful[:, order])}
    assert labels(ax) == ["a", "b", "c"]
    assert [t.get_text() for t in ax.get_xticklabels()][:2] == ["income", "age"]


def test_images():
    errors = np.where(PIXELS > 4, 0.1, 100.0)
    ax = plot.image(PIXELS[None, None], PIXELS, errors=errors[None, None], titles="one")
    behind, over = ax.images
    np.testing.assert_array_equal(behind.get_array(), PIXELS)
    np.testing.assert_array_equal(over.get_array(), PIXELS)
    assert over.get_clim()[0] == -over.get_clim()[1] and ax.get_title() == "one"
    outline = [c for c in ax.collections if isinstance(c, LineCollection)]
    assert len(outline[0].get_segments()) == 8  # around three pixels in a row
    channels = np.stack([PIXELS, PIXELS])
    ax = plot.image(channels, mode="absolute")
    np.testing.assert_array_equal(ax.images[0].get_array(), np.abs(2 * PIXELS))
    assert ax.images[0].get_clim()[0] == 0
    axes = plot.image({"IG": PIXELS, "Lime": -PIXELS}, PIXELS)
    assert [one.get_title() for one in axes] == ["IG", "Lime"]
    np.testing.assert_array_equal(axes[1].images[1].get_array(), -PIXELS)


def test_text():
    ax = plot.text(explanation(), TOKENS, row=0)
    words = [t for t in ax.texts if t.get_text() in TOKENS]
    assert [t.get_text() for t in words] == TOKENS
    faces = [t.get_bbox_patch().get_facecolor() for t in words]
    assert [to_hex(f[:3]).upper() for f in faces[:3]] == [RAISES, LOWERS, RAISES]
    np.testing.assert_allclose([f[3] for f in faces], 0.75 * np.abs(VALUES[0]) / 3)
    assert len(ax.lines) == 2  # under the last two
    assert [t.get_position()[0] for t in words] == sorted(t.get_position()[0] for t in words)


def test_text_runs_from_right_to_left_and_over_several_lines():
    words = ["הסרט", "היה", "מצוין", "ואהבתי"]
    ax = plot.text(VALUES[0], words)
    places = [t.get_position()[0] for t in ax.texts]
    assert places == sorted(places, reverse=True)
    many = ["$word$"] * 300
    ax = plot.text(np.linspace(-1, 1, 300), many, ax=Figure(figsize=(4, 1)).add_subplot())
    figure = ax.figure
    figure.canvas.draw()
    boxes = [t.get_window_extent() for t in ax.texts]
    bounds = ax.get_window_extent()
    assert all(bounds.x0 - 5 <= b.x0 and b.x1 <= bounds.x1 + 5 for b in boxes)
    assert len({round(b.y0) for b in boxes}) > 5


def test_dollars_are_no_formulas():
    names = ["price ($) of $1", "$x_{", "$$", "a"]
    drawn = [
        plot.bar(VALUES[0], feature_names=names, target_names="$y_{$"),
        plot.waterfall(VALUES[0], feature_names=names, target_names="$y_{$"),
        plot.beeswarm(VALUES, feature_names=names, target_names="$y_{$"),
        plot.heatmap(VALUES, feature_names=names, row_names=names[:3]),
        plot.scatter(VALUES, 1, DATA, color_by=0, feature_names=names),
        plot.image(PIXELS, titles="$y_{$"),
        plot.text(VALUES[0], names, target_names="$y_{$"),
        plot.convergence(VALUES, [1, 2, 3], feature_names=names),
    ]
    for ax in drawn:
        ax.figure.savefig("/dev/null", format="png", dpi=30)  # formulas with errors would raise
    assert labels(drawn[0])[1] == r"price (\$) of \$1"
    assert not any(t.get_parse_math() for t in drawn[6].texts)


def test_text_as_html():
    page = plot.text_html(explanation(), ["<b>", "a", "R&B", "\n"], row=0, target_names="good")
    assert page.count("title=") == 4 and "<b>" not in page and "&lt;b&gt;" in page
    assert re.findall(r'title="(.*?)"', page) == ["+1 ± 0.1", "−3 ± 0.2", "+0.5 ± 0.3", "0 ± 0.4"]
    assert page.count("underline dotted") == 2 and "raises good" in unescape(page)
    assert 'dir="rtl"' in plot.text_html([1.0], ["שלום"]) and 'dir="ltr"' in page


def test_convergence():
    found = [
        explanation(VALUES[i : i + 1], ERRORS[i : i + 1], samples=torch.tensor([n]))
        for i, n in enumerate((40, 10, 160))
    ]
    ax = plot.convergence(found, feature_names=NAMES, max_features=2)
    lines = [c.lines[0] for c in ax.containers]
    assert [line.get_ydata().tolist() for line in lines] == [[1, -3, 2], [2, 1, -1]]
    np.testing.assert_allclose(lines[0].get_xdata(), [10, 40, 160], rtol=0.05)
    assert [line.get_color() for line in lines] == [RAISES, LOWERS]
    ends = error_bars(ax)
    np.testing.assert_allclose(ends[:3, 1, 1] - ends[:3, 0, 1], 2 * ERRORS[[1, 0, 2], 1])
    assert {t.get_text() for t in ax.texts} == {"income", "age"}


def test_explanations_of_methods():
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh()).eval()
    x = torch.rand(5, 4)
    found = fastxai.KernelShap(model).explain(x, target=1, n_samples=8)
    ax = plot.waterfall(found, row=2, data=x)
    last = ax.patches[0]
    assert last.get_x() + last.get_width() == pytest.approx(float(found.outputs[2]), abs=1e-5)
    plot.bar(found), plot.beeswarm(found, data=x), plot.heatmap(found), plot.scatter(found, 0, x)
    images = torch.rand(2, 3, 6, 6)
    picture = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(108, 2)).eval()
    ax = plot.image(fastxai.Saliency(picture).explain(images, target=0), images, row=1)
    assert ax.get_title() == "Saliency"


def test_one_of_several_outputs():
    values = torch.arange(24.0).reshape(2, 3, 4)  # [B, C, F]
    found = Explanation(values, values.sum(2), None, None, None, "Method", 0.1)
    ax = plot.bar(found, row=1, target=2, target_names=["a", "b", "c"])
    assert [b.get_width() for b in ax.patches] == [23, 22, 21, 20]
    assert ax.get_xlabel().strip() == "contribution to c"
    with pytest.raises(ArgumentError, match="target: expected an index, as 3 outputs"):
        plot.bar(found)


def test_inputs_of_several_tensors():
    values = (torch.tensor([[1.0, 2.0]]), torch.tensor([[[3.0], [4.0]]]))
    found = Explanation(values, torch.ones(1), None, None, None, "Method", 0.1)
    ax = plot.bar(found)
    assert labels(ax) == [
        "input 1, feature [1, 0]",
        "input 1, feature [0, 0]",
        "input 0, feature 1",
        "input 0, feature 0",
    ]


BAD = [
    ("explanation: expected an array of numbers", lambda: plot.bar("values")),
    ("explanation: expected shape", lambda: plot.bar(3.0)),
    ("explanation: expected at least one row and one", lambda: plot.bar(np.zeros((2, 0)))),
    ("explanation: expected at least one row", lambda: plot.bar(np.zeros((0, 2)))),
    ("explanation: expected an array of numbers", lambda: plot.bar([[1.0], [1.0, 2.0]])),
    ("errors: expected one for each value", lambda: plot.bar(VALUES, errors=[1.0])),
    ("errors: expected no negative", lambda: plot.bar(VALUES, errors=-ERRORS)),
    ("feature_names: expected 4 names, got 1", lambda: plot.bar(VALUES, feature_names=["a"])),
    ("feature_names: expected a sequence", lambda: plot.bar(VALUES, feature_names="abcd")),
    ("data: expected the shape", lambda: plot.beeswarm(VALUES, data=DATA[:, :2])),
    ("data: expected the inputs", lambda: plot.scatter(VALUES, 0)),
    ("feature: expected one of", lambda: plot.scatter(VALUES, "x", DATA)),
    ("feature: expected an index below 4", lambda: plot.scatter(VALUES, 4, DATA)),
    ("color_by: expected an index", lambda: plot.scatter(VALUES, 0, DATA, color_by=9)),
    ("row: expected an index, as there are 3 rows", lambda: plot.waterfall(VALUES)),
    ("row: expected an index below 3", lambda: plot.bar(VALUES, row=3)),
    ("max_features: expected an integer", lambda: plot.bar(VALUES, max_features=0)),
    ("base: expected a finite number", lambda: plot.waterfall(VALUES[0], base=np.nan)),
    ("target: expected an index into", lambda: plot.bar(VALUES, target_names=["a", "b"])),
    ("ax: expected matplotlib axes", lambda: plot.bar(VALUES, ax="ax")),
    ("row_names: expected 3 names", lambda: plot.heatmap(VALUES, row_names=["a"])),
    ("mode: expected one of", lambda: plot.image(PIXELS, mode="both")),
    ("picture: expected the height", lambda: plot.image(PIXELS, np.ones((3, 3)))),
    ("titles: expected 1 names", lambda: plot.image(PIXELS, titles=["a", "b"])),
    ("ax: expected 2 axes", lambda: plot.image([PIXELS, PIXELS], ax=[Figure().add_subplot()])),
    ("tokens: expected 4, one for each", lambda: plot.text(VALUES[0], ["a"])),
    ("tokens: expected a sequence", lambda: plot.text(VALUES[0], "abcd")),
    ("tokens: expected strings", lambda: plot.text_html(VALUES[0], [1, 2, 3, 4])),
    ("calls: expected one number", lambda: plot.convergence(VALUES, [1, 2])),
    ("calls: expected numbers above", lambda: plot.convergence(VALUES, [0, 1, 2])),
    ("calls: expected the number", lambda: plot.convergence(VALUES)),
    ("explanations: expected a sequence", lambda: plot.convergence(explanation())),
]


@pytest.mark.parametrize("message, draw", BAD, ids=[f"{i}" for i in range(len(BAD))])
def test_bad_input(message, draw):
    with pytest.raises(ArgumentError, match=re.escape(message)):
        draw()


def test_an_explanation_brings_its_own_names_and_data():
    found = explanation(data=torch.tensor(DATA), feature_names=NAMES, output_names=["P(yes)"])
    assert labels(plot.bar(found, row=0))[:3] == ["income = 5", "age = 1", "חשבון = missing"]
    assert labels(plot.waterfall(found, row=0))[0] == "income = 5"
    assert labels(plot.beeswarm(found))[:2] == ["income", "age"]
    assert len(plot.beeswarm(found).figure.axes) == 2  # the colours of their own values
    ax = plot.scatter(found, "age", errors=np.zeros_like(VALUES))
    np.testing.assert_array_equal(points(ax)[0].get_offsets()[:, 0], DATA[:, 0])
    assert ax.get_ylabel().startswith("contribution to P(yes)")
    ticks = [t.get_text() for t in plot.heatmap(found).get_xticklabels()]
    assert ticks[:2] == ["income", "age"]
    # What is given goes before.
    ax = plot.bar(found, row=0, feature_names=list("abcd"), data=DATA + 1, target_names="Q")
    assert labels(ax)[:2] == ["b = 6", "a = 2"] and ax.get_xlabel().strip().endswith("to Q")


def test_names_and_data_that_are_of_something_else_are_left_out():
    found = explanation(data=torch.ones(3, 9), feature_names=list("abcdefghi"))
    assert labels(plot.bar(found, row=0))[0] == "feature 1"
    one = explanation(output_names=["no", "yes"], target=1)
    assert plot.bar(one).get_xlabel().strip().endswith("contribution| to yes")
    each = explanation(output_names=["no", "yes"], target=torch.tensor([0, 1, 1]))
    assert plot.bar(each).get_xlabel().strip().endswith("to the output")


def test_parts_of_an_explanation_are_drawn():
    values = torch.arange(24.0).reshape(2, 3, 4)  # [B, C, F]
    found = Explanation(
        *(values, values.sum(2), None, None, values / 9, "Method", 0.1),
        data=torch.rand(2, 4),
        feature_names=NAMES,
        output_names=["a", "b", "c"],
    )
    assert plot.bar(found, row=0, target=1).get_xlabel().strip() == "contribution to b"
    ax = plot.waterfall(found[1, :, "c"])
    assert labels(ax)[-1].startswith("age = ") and ax.get_xlabel().strip() == "c"
    assert [b.get_width() for b in plot.bar(found[1], target=2).patches] == [23, 22, 21, 20]
    given = plot.bar(found[1, :, "c"], data=[7, 8, 9, 10], errors=[1.0, 2, 3, 4])
    assert labels(given)[-1] == "age = 7" and given.texts[0].get_text() == "+23 ± 4"
    ax = plot.bar(found[:, "age"], target=0)
    assert labels(ax) == ["age"] and ax.patches[0].get_width() == 6
    rows = fastxai.FeatureAblation(lambda x: x.cumsum(1)[:, :2]).explain(torch.ones(3, 4))
    assert [b.get_width() for b in plot.bar(rows, target=1).patches][:2] == [1, 1]


def test_convergence_of_one_row():
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh()).eval()
    x = torch.rand(5, 4)
    found = [fastxai.KernelShap(model).explain(x, target=1, n_samples=n) for n in (8, 12)]
    drawn = plot.convergence([e[2] for e in found]).lines[0].get_ydata()
    np.testing.assert_array_equal(drawn, plot.convergence(found, row=2).lines[0].get_ydata())


def test_colours_are_those_of_tables():
    from fastxai.attr import _palette

    assert (RAISES, LOWERS) == (_palette.RAISES, _palette.LOWERS)


def test_a_layers_places_are_stretched_over_the_picture():
    places, picture = np.array([[1.0, -2.0], [0.5, 3.0]]), np.zeros((1, 6, 9))
    errors = np.array([[2.0, 0.1], [2.0, 2.0]])
    for ax in (
        plot.image(places, picture, errors=errors),
        plot.image([np.ones((6, 9)), places[None]], picture)[1],
    ):
        behind, drawn = ax.images
        assert behind.get_extent() == drawn.get_extent()
        assert drawn.get_array()[::3, ::5].tolist() == places.tolist()
    around = plot.image(places, picture, errors=errors).collections[0].get_segments()
    assert np.concatenate(around).max(0).tolist() == [
        8.5,
        2.5,
    ]  # the one that is sure: 4 × 3 pixels
    for shape in ((1, 6, 2), (1, 1, 2)):
        with pytest.raises(ArgumentError, match=r"picture: expected the height and width"):
            plot.image(places, np.zeros(shape))
