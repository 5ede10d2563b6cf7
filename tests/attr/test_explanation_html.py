"""What notebooks show."""

import base64
from dataclasses import replace
from io import BytesIO

import pytest
import torch

import fastxai

from ..explanations import EXPLAINED, NAMES, Page, explained, of_method, two
from ..models import mlp


@pytest.mark.parametrize("name", EXPLAINED)
def test_every_explanation_can_be_shown(name):
    found = EXPLAINED[name]()
    page = Page(found._repr_html_())
    assert found.method in page.text
    assert all(len({len(row) for row in rows}) == 1 for rows in page.tables)
    assert page.tables or name == "empty"


def test_a_page_of_features():
    found = replace(explained(), method="<b>&", tier='"x"')
    page = Page(found._repr_html_())
    head, *lines = page.tables[0]
    assert head == ["row", "of", "output", "at baseline", *NAMES]
    assert len(lines) == 6 and [line[1] for line in lines[:2]] == ["cat", "dog"]
    value, error = found.values[0, 1, 2], found.standard_errors[0, 1, 2]
    expected = f"{value:+.4g} ± {error:.2g}{found.data[0, 2]:.4g}".replace("-", "−")
    assert lines[1][6] == expected
    assert lines[1][2] == f"{found.outputs[0, 1]:.4g}"
    assert "Below each is the feature's own value." in page.text
    assert "Below each" not in Page(replace(found, data=None)._repr_html_()).text
    assert "<b>&" in page.text and '"x" tier' in page.text and "16 samples" in page.text


def test_names_in_a_page_are_only_text():
    evil = ['<script>alert("a")</script>', '"><img src=x onerror=y>', "</style>", "'"]
    found = replace(explained(), feature_names=evil, output_names=["<i>", "&amp;"])
    page = Page(found._repr_html_())
    assert page.tables[0][0][-2:] == evil[2:] and page.tables[0][1][1] == "<i>"
    Page(replace(found[..., 0], target="<u>", output_names=None)._repr_html_())


def test_a_page_of_much():
    x = torch.linspace(1, 2, 40)[:, None].expand(40, 30)
    found = fastxai.Saliency(lambda x: x**2 @ torch.linspace(0, 1, 30)).explain(x)
    page = Page(found._repr_html_())
    assert page.tables[0][0][2:] == [*[f"Feature {i}" for i in range(18, 30)], "..."]
    assert len(page.tables[0]) == 12 and page.tables[0][-1][0] == "..."
    assert "12 of 30 features" in page.text and "10 of 40 rows" in page.text
    many = fastxai.ShapleyValues(lambda x: x[:, :1] * torch.arange(9)).explain(x[:2, :3])
    page = Page(many._repr_html_())
    assert "5 of 9 outputs" in page.text and len(page.tables[0]) == 1 + 2 * 6


def test_colours_of_a_page():
    values = torch.tensor([[4.0, -2.0, 0.0, torch.nan]])
    found = replace(explained(lambda x: two(x)[:, 0])[:1], values=values, standard_errors=None)
    cells = found._repr_html_().split("<tbody>")[1]
    shades = [part.split(")")[0] for part in cells.split("rgba(")[1:]]
    assert shades[:3] == ["221, 107, 32, 0.75", "49, 130, 206, 0.38", "49, 130, 206, 0.00"]
    assert shades[3].endswith("0.00") and "+nan" in cells


def test_a_page_of_pictures():
    image = pytest.importorskip("PIL.Image")
    x = torch.rand(6, 3, 200, 100)
    found = fastxai.InputXGradient(
        lambda x: (x[:, :, :100] - x[:, :, 100:]).sum((1, 2, 3))
    ).explain(x)
    text = found._repr_html_()
    page = Page(text)
    assert len(page.pictures) == 2 * 4 and "4 of 6 rows" in page.text and len(text) < 500_000
    grey, signed = (image.open(BytesIO(base64.b64decode(p))) for p in page.pictures[:2])
    assert grey.size == signed.size == (100, 160)
    top, bottom = signed.getpixel((50, 10)), signed.getpixel((50, 150))
    assert top[:3] == (221, 107, 32) and bottom[:3] == (49, 130, 206) and top[3] > 0
    assert grey.getpixel((3, 3))[3] == 255
    layer = Page(of_method("LayerIntegratedGradients")._repr_html_())
    assert len(layer.pictures) == 2 and "input" not in layer.tables[0][0]


def test_a_page_of_tokens():
    x = torch.rand(2, 5, 8)  # words as vectors
    found = fastxai.InputXGradient(lambda x: (x**2).sum((1, 2))).explain(x)
    page = Page(found._repr_html_())
    assert page.tables[0][0][2:] == [f"Feature {i}" for i in range(5)]
    assert page.tables[0][1][2] == f"{found.values[0, 0].sum():+.4g}"
    assert "sum over the dimensions after the first" in page.text


def test_targets_in_a_page():
    one = fastxai.Saliency(mlp()).explain(torch.rand(3, 7), target=2)
    names = ["ant", "bee", "cat", "dog"]
    assert "target cat" in Page(replace(one, output_names=names)._repr_html_()).text
    each = replace(EXPLAINED["tensor target"](), output_names=names)
    assert [row[1] for row in Page(each._repr_html_()).tables[0]] == ["of", "ant", "cat", "bee"]
    assert [row[1] for row in Page(each[1]._repr_html_()).tables[0]] == ["of", "cat"]
