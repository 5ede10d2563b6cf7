"""Explanations of every form, for tests of what is done with them."""

from dataclasses import replace
from html.parser import HTMLParser

import torch

import fastxai

from .methods import METHODS
from .models import Exact, TwoInputs, mlp

NAMES = list("abcd")


def two(x):
    return torch.stack([x.sum(1), x[:, 0] * x[:, 1]], 1)


def explained(model=two, rows=3, **others):
    x = torch.rand(rows, 4, generator=torch.Generator().manual_seed(0))
    found = fastxai.KernelShap(model).explain(x, seed=0, **others)
    return replace(found, feature_names=NAMES, output_names=["cat", "dog"])


def of_method(name):
    """The explanation of a method in the table, by a model that suits it."""
    method, model = METHODS[name], Exact(12)
    rows = 1 if name == "LimeBase" else 2
    x = torch.rand(rows, 1, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return method.over(model, model.scale).explain(x, **method.options(x, target=1))


EXPLAINED = {
    **{name: lambda name=name: of_method(name) for name in METHODS},
    "outputs": explained,
    "row": lambda: explained()[1],
    "feature": lambda: explained()[:, "b"],
    "cell": lambda: explained()[1, 2, 0],
    "one output": lambda: explained(lambda x: two(x)[:, :1]),
    "outputs in rows": lambda: fastxai.FeatureAblation(two).explain(torch.rand(3, 4)),
    "batch": lambda: fastxai.FeatureAblation(torch.sum).explain(torch.rand(3, 4)),
    "summed": lambda: fastxai.Saliency(torch.sum).explain(torch.rand(3, 4)),
    "empty": lambda: fastxai.IntegratedGradients(mlp()).explain(torch.empty(0, 7), target=0),
    "two inputs": lambda: fastxai.KernelShap(TwoInputs()).explain(
        (torch.rand(3, 4), torch.rand(3, 2, 3)), target=[1, 0, 1], n_samples=30
    ),
    "tuple targets": lambda: fastxai.Saliency(lambda x: x[:, :, None] * x[:, None]).explain(
        torch.rand(2, 3), target=[(0, 1), (2, 2)]
    ),
    "tensor target": lambda: fastxai.Saliency(mlp()).explain(
        torch.rand(3, 7), target=torch.tensor([0, 2, 1])
    ),
    "bfloat16": lambda: fastxai.Saliency(mlp().bfloat16()).explain(
        torch.rand(3, 7, dtype=torch.bfloat16), target=1
    ),
    "groups": lambda: explained(
        feature_mask=torch.tensor([[0, 0, 1, 1]]), return_input_shape=False
    ),
    "layers": lambda: by_layers(),
    "nan": lambda: replace(explained(), values=torch.full((3, 2, 4), torch.nan)),
    "ids": lambda: fastxai.KernelShap(lambda x: x.double().sum(1)).explain(torch.arange(6)[None]),
    "sampled": lambda: fastxai.KernelShap(mlp()).explain(torch.rand(2, 7), target=0, n_samples=40),
}


def by_layers():
    model = mlp()
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Linear)][:2]
    return fastxai.attr.LayerActivation(model, layers).explain(torch.rand(3, 7))


WORDS = ("div", "style", "b", "small", "span")


class Page(HTMLParser):
    """The cells of tables; refuses what is not closed, and whatever would fetch or run."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tables, self.pictures, self.text = [], [], [], ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        assert tag in (*WORDS, "table", "thead", "tbody", "tr", "th", "td", "br", "img")
        known = {"style", "title", "class", "alt", "src"}
        assert {name for name, _ in attrs} <= known
        held = dict(attrs)
        if tag == "img":
            assert held["src"].startswith("data:image/png;base64,")
            self.pictures.append(held["src"].split(",")[1])
        assert "url" not in held.get("style", "")
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in ("br", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] == ["style"]:
            assert "url" not in data and "import" not in data
            return
        self.text += data
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data
