"""The figures hold what Captum's hold."""

import re
import sys
import types
import warnings

import matplotlib
import numpy as np
import pytest
import torch

matplotlib.use("Agg")

from captum.attr import visualization as theirs
from captum.attr._utils import visualization as their_module
from matplotlib import pyplot
from matplotlib.colors import to_rgba

import fastxai.attr.visualization as viz
from fastxai import ArgumentError

IMAGE_METHODS = list(viz.ImageVisualizationMethod.__members__)
SERIES_METHODS = list(viz.TimeseriesVisualizationMethod.__members__)
SIGNS = list(viz.VisualizeSign.__members__)


@pytest.fixture(autouse=True)
def closes(monkeypatch):
    monkeypatch.setattr(pyplot, "show", lambda: None)
    # which matplotlib no longer has, and Captum still asks for
    monkeypatch.setattr(matplotlib.cm, "get_cmap", pyplot.get_cmap, raising=False)
    yield
    pyplot.close("all")


@pytest.fixture
def image():
    return np.random.default_rng(0).random((7, 5, 3))


@pytest.fixture
def attr():
    return np.random.default_rng(1).normal(size=(7, 5, 3))


def same_axes(ours, theirs):
    assert ours.get_title() == theirs.get_title()
    assert ours.get_ylabel() == theirs.get_ylabel()
    assert [t.get_text() for t in ours.get_xticklabels()] == [
        t.get_text() for t in theirs.get_xticklabels()
    ]
    for kind in ("images", "patches", "lines", "collections"):
        assert len(getattr(ours, kind)) == len(getattr(theirs, kind)), kind
    for mine, other in zip(ours.images, theirs.images, strict=True):
        np.testing.assert_allclose(mine.get_array(), other.get_array(), rtol=1e-12, atol=1e-12)
        assert mine.get_clim() == other.get_clim() and mine.get_alpha() == other.get_alpha()
        assert mine.get_cmap()(np.linspace(0, 1, 9)).tolist() == (
            other.get_cmap()(np.linspace(0, 1, 9)).tolist()
        )
    for mine, other in zip(ours.patches, theirs.patches, strict=True):
        np.testing.assert_allclose(mine.get_facecolor(), other.get_facecolor(), atol=1e-12)
        np.testing.assert_allclose(mine.get_extents().bounds, other.get_extents().bounds)
    for mine, other in zip(ours.lines, theirs.lines, strict=True):
        np.testing.assert_array_equal(mine.get_xydata(), other.get_xydata())
        assert to_rgba(mine.get_color()) == to_rgba(other.get_color())
        assert mine.get_linewidth() == other.get_linewidth()
    for mine, other in zip(ours.collections, theirs.collections, strict=True):
        if other.get_array() is not None:
            np.testing.assert_allclose(mine.get_array(), other.get_array())
        if hasattr(other, "get_segments"):
            np.testing.assert_allclose(mine.get_segments(), other.get_segments())
        assert (mine.norm.vmin, mine.norm.vmax) == (other.norm.vmin, other.norm.vmax)


def same_figures(ours, theirs):
    assert len(ours.axes) == len(theirs.axes)
    np.testing.assert_array_equal(ours.get_size_inches(), theirs.get_size_inches())
    for mine, other in zip(ours.axes, theirs.axes, strict=True):
        same_axes(mine, other)
        np.testing.assert_allclose(mine.get_xlim(), other.get_xlim())
        np.testing.assert_allclose(mine.get_ylim(), other.get_ylim())
        assert mine.axison == other.axison


@pytest.mark.parametrize("outlier_perc", [0, 2, 30.5])
@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize("method", IMAGE_METHODS)
def test_images(image, attr, method, sign, outlier_perc):
    def drawn(module):
        return module.visualize_image_attr(
            attr,
            image,
            method,
            sign,
            outlier_perc=outlier_perc,
            show_colorbar=True,
            title="a title",
            fig_size=(4, 3),
            use_pyplot=False,
        )[0]

    if sign == "all" and method in ("masked_image", "alpha_scaling"):
        for module in (viz, theirs):
            with pytest.raises(AssertionError):
                drawn(module)
        return
    same_figures(drawn(viz), drawn(theirs))


@pytest.mark.parametrize("scale", [1, 255], ids=["of 1", "of 255"])
def test_scales_colours_and_channels_of_images(image, attr, scale):
    pictures = (image * scale).astype(int if scale == 255 else float)
    for method in IMAGE_METHODS:
        args = (attr[:, :, 0], pictures, method, "positive")
        kwargs = {"cmap": "viridis", "alpha_overlay": 0.3, "use_pyplot": False}
        same_figures(
            viz.visualize_image_attr(*args, **kwargs)[0],
            theirs.visualize_image_attr(*args, **kwargs)[0],
        )
    grey = (attr, pictures[:, :, :1])
    for method in ("original_image", "blended_heat_map", "masked_image"):
        same_figures(
            viz.visualize_image_attr(*grey, method, use_pyplot=False)[0],
            theirs.visualize_image_attr(*grey, method, use_pyplot=False)[0],
        )


@pytest.mark.parametrize("use_pyplot", [True, False])
def test_several_images(image, attr, use_pyplot):
    args = (
        attr,
        image,
        ["original_image", "heat_map", "alpha_scaling"],
        ["all", "all", "positive"],
    )
    kwargs = {"titles": ["a", "b", "c"], "show_colorbar": True, "use_pyplot": use_pyplot}
    ours, axes = viz.visualize_image_attr_multiple(*args, **kwargs)
    others, their_axes = theirs.visualize_image_attr_multiple(*args, **kwargs)
    same_figures(ours, others)
    assert type(axes) is type(their_axes) and len(axes) == 3
    one, ax = viz.visualize_image_attr_multiple(attr, image, ["heat_map"], ["all"])
    assert ax is one.axes[0]


@pytest.mark.thin("outlier_perc")
@pytest.mark.parametrize("outlier_perc", [0, 2, 30.5])
@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize("method", SERIES_METHODS)
def test_series(method, sign, outlier_perc):
    draw = np.random.default_rng(2)
    attr, data = draw.normal(size=(9, 3)), draw.normal(size=(9, 3))
    kwargs = {
        "x_values": np.arange(9) * 0.5,
        "channel_labels": ["a", "b", "c"],
        "outlier_perc": outlier_perc,
        "show_colorbar": True,
        "title": "a title",
        "linewidth": 3,
    }
    figure, _ = viz.visualize_timeseries_attr(attr, data, method=method, sign=sign, **kwargs)
    other, _ = theirs.visualize_timeseries_attr(attr, data, method=method, sign=sign, **kwargs)
    same_figures(figure, other)
    kwargs |= {"channels_last": False, "use_pyplot": False}
    again, _ = viz.visualize_timeseries_attr(attr.T, data.T, method=method, sign=sign, **kwargs)
    same_figures(again, other)


def test_series_leave_other_figures_alone():
    before = pyplot.figure()
    ax = before.add_subplot(xlim=(0, 7))
    spacing = before.subplotpars.hspace
    viz.visualize_timeseries_attr(np.ones((4, 2)), np.ones((4, 2)), use_pyplot=False)
    assert ax.get_xlim() == (0, 7) and before.subplotpars.hspace == spacing
    assert pyplot.gcf() is before


def test_a_series_above_zero_is_in_view():
    data = np.linspace(5, 6, 8)[:, None]
    _, ax = viz.visualize_timeseries_attr(data, data, method="colored_graph", use_pyplot=False)
    assert ax.get_ylim()[0] < 5 and ax.get_ylim()[1] > 6


def records(module):
    return [
        module.VisualizationDataRecord(
            scores, 0.913, "pos", 1, "neg", 1.2345, ["<s>", "good", "film", "<pad>"], 0.1
        )
        for scores in (
            torch.tensor([-1.5, 0.25, 0.0, 1.0]),
            np.array([0.1, -0.2, 0.7, -1]),
            [0.5, 0.1, 0.3, 0.2, 0.9],
            [],
        )
    ]


def normal(markup):
    """Markup with whitespace and what no browser reads alike."""
    markup = markup.replace("<table width: 100%>", '<table style="width: 100%">')
    markup = re.sub(r"(</th>)(<tr>)", r"\1</tr>\2", markup)
    markup = markup.replace("</td><tr>", "</td></tr>")
    heads = re.search(r"<tr><th>.*?</th>(</tr>)?", markup)
    if heads and not heads[1]:
        markup = markup[: heads.end()] + "</tr>" + markup[heads.end() :]
    markup = re.sub(r"\s+", " ", markup)
    markup = re.sub(r"<div style=\"(.*?)\"> ?<b>", r'<div style="\1"><b>', markup)
    return re.sub(r"> (<)|(>) <", r">\1<", markup).replace("> <", "><").replace("><", ">\n<")


def display_stub(monkeypatch):
    shown = []

    class HTML:
        def __init__(self, data):
            self.data = data

    package, module = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    package.__spec__ = types.SimpleNamespace(name="IPython")
    module.HTML, module.display, package.display = HTML, shown.append, module
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    for name, value in {"HTML": HTML, "display": lambda page: None, "HAS_IPYTHON": True}.items():
        monkeypatch.setattr(their_module, name, value, raising=False)
    return shown


@pytest.mark.parametrize("legend", [True, False])
def test_texts(monkeypatch, legend):
    shown = display_stub(monkeypatch)
    page = viz.visualize_text(records(viz), legend)
    assert shown == [page]
    other = theirs.visualize_text(records(theirs), legend)
    assert normal(page.data) == normal(other.data)


def test_texts_without_ipython(monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython", None)
    monkeypatch.setattr("fastxai.attr._text_html.find_spec", lambda name: None)
    page = viz.visualize_text(records(viz))
    assert page == page.data == page._repr_html_() and "film" in page


def test_words_are_text_not_markup():
    found = viz.format_word_importances(["a<b", "R&B", "<script>", "ok"], [0.1, 0.2, 0.3, 0.4])
    assert "a&lt;b" in found and "R&amp;B" in found and "#script" in found
    assert viz.format_classname("<i>") == theirs.format_classname("&lt;i&gt;")


def test_parts_of_texts():
    for words, values in ((["a", "b"], [0.3, -2.0]), ([], None), (["a"], np.array([0.5, 0.1]))):
        ours = viz.format_word_importances(words, values)
        assert normal(ours) == normal(theirs.format_word_importances(words, values))
    assert viz.format_classname(3) == theirs.format_classname(3)
    assert normal(viz.format_tooltip("a", "b")) == normal(theirs.format_tooltip("a", "b"))
    for token in ("<pad>", "pad", "<", "a>"):
        assert viz.format_special_tokens(token) == theirs.format_special_tokens(token)


def test_masks():
    mask = np.zeros((8, 9), dtype=bool)
    mask[1:7, 2:] = True
    pictures = []
    for module in (viz, theirs):
        ax = pyplot.figure().add_subplot()
        module.draw_mask_border(ax, mask, 2, "red")
        module.draw_mask_border(ax, np.zeros_like(mask))
        module.draw_mask_legend(ax, mask, "one")
        pictures.append(ax)
    same_axes(*pictures)
    ours, other = (ax.texts[0] for ax in pictures)
    assert ours.get_position() == other.get_position() and ours.get_text() == other.get_text()


def test_everything_of_captums_is_there():
    found = {name: thing for name, thing in vars(their_module).items() if name[0] != "_"}
    here = their_module.__name__
    own = {name for name, thing in found.items() if getattr(thing, "__module__", "") == here}
    assert own <= set(viz.__all__) and len(own) > 10


def test_tensors_and_no_attributions(image, attr):
    figure, _ = viz.visualize_image_attr(
        torch.tensor(attr, requires_grad=True), torch.tensor(image), use_pyplot=False
    )
    same_figures(figure, theirs.visualize_image_attr(attr, image, use_pyplot=False)[0])
    viz.visualize_image_attr(None, image, method="original_image", use_pyplot=False)


BAD = {
    "attr: expected an array": {"attr": [1.0]},
    "attr: expected shape": {"attr": np.ones(3)},
    "attr: expected finite": {"attr": np.full((7, 5), np.nan)},
    "attr: expected values other than zero of sign 'negative'": {
        "attr": np.ones((7, 5)),
        "sign": "negative",
    },
    "method: expected one of": {"method": "heatmap"},
    "sign: expected one of": {"sign": "both"},
    "sign: expected another than 'all'": {"method": "masked_image", "sign": "all"},
    "original_image: expected an image": {"original_image": None, "method": "masked_image"},
    "original_image: expected the height": {"original_image": np.ones((5, 7, 3))},
    "original_image: expected 1, 3 or 4": {"original_image": np.ones((7, 5, 2))},
    "outlier_perc: expected a percentage": {"outlier_perc": 101},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input(image, attr, message):
    given = {"attr": attr, "original_image": image, "use_pyplot": True} | BAD[message]
    before = pyplot.get_fignums()
    with pytest.raises(ArgumentError, match=re.escape(message)):
        viz.visualize_image_attr(**given)
    assert pyplot.get_fignums() == before


def test_small_values_warn_at_the_users_line(image):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        viz.visualize_image_attr(np.full((7, 5), 1e-7), use_pyplot=False)
    assert [w.filename for w in caught] == [__file__]
