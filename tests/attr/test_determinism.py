"""The same seed, the same bits: called again, by any number of threads, in any company.

The model's own outputs are the same bits in any batch and for any number of threads, and so what
is left is ours.
"""

import random
from inspect import signature

import numpy as np
import pytest
import torch
from torch import nn

from fastxai import attr
from fastxai.core.engine import blocks
from fastxai.core.engine import shortcut as prefix
from fastxai.ops import native

from ..methods import METHODS, background
from ..models import Exact


class Breakable(Exact):
    broken = False

    def forward(self, x):
        x = super().forward(x)
        if self.broken:
            raise ValueError("in the model")
        return x


MODEL = Breakable(12)
AUTO = {"n_samples": "auto", "tolerance": 0.03, "seed": 3, "max_samples": 400}


def rows(count):
    """Some need more samples than others."""
    x = torch.randn(count, 1, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x *= torch.logspace(-1, 0.7, count, dtype=torch.float64)[:, None, None, None]
    return x, torch.arange(count) % 3


def asked(*names):
    """Methods of the table over the model, by name."""
    x, _ = rows(1)
    return {n: (METHODS[n].over(MODEL, MODEL.scale), METHODS[n].options(x)) for n in names}


def variant(name, method=None, **options):
    """One of them, made or asked in another way."""
    ((explainer, fixed),) = asked(name).values()
    return (method or explainer), {**fixed, **options}


# What a row's attributions depend on but for itself and the seed:
ROUNDING = {  # that of sums and solutions in float64, made for all rows at once
    **asked("ShapleyValues", "ShapleyValueSampling", "KernelShap", "Lime"),
    "ShapleyValueSampling, auto": variant("ShapleyValueSampling", **AUTO),
    "KernelShap, background": variant("KernelShap", background=background(rows(1)[0])),
    "KernelShap, shared tier": variant("KernelShap", tier="shared"),
    "KernelShap, accurate tier": variant("KernelShap", tier="accurate"),
    "KernelShap, auto": variant("KernelShap", **AUTO),
    "KernelShap, accurate tier, auto": variant("KernelShap", **AUTO, tier="accurate"),
    "Lime, ridge": variant("Lime", attr.Lime(MODEL, attr.Ridge())),
    "Lime, auto": variant("Lime", **AUTO),
}
PLACE = {  # where in its batch the row is
    **asked("GradientShap", "LayerGradientShap", "NoiseTunnel"),
    "GradientShap, noise": variant("GradientShap", stdevs=0.3),
    "NoiseTunnel, vargrad": variant(
        "NoiseTunnel",
        attr.NoiseTunnel(attr.IntegratedGradients(MODEL)),
        n_steps=5,
        nt_type="vargrad",
    ),
}
BATCH = asked("FeaturePermutation")  # the other rows
APART = {"LimeBase"}  # which takes one number for the batch
NOTHING = {  # not a bit of them
    **asked(*(n for n in METHODS if n not in {*ROUNDING, *PLACE, *BATCH, *APART})),
    "Occlusion, overlapping": variant("Occlusion", sliding_window_shapes=(1, 2, 2)),
}
ALL = NOTHING | ROUNDING | PLACE | BATCH
DRAWS = [name for name in ALL if "seed" in ALL[name][1]]
NATIVE = native.build_info().native  # plain torch adds up as it likes
LIMITS = ("internal_batch_size", "perturbations_per_eval", "nt_samples_batch_size")


def ask(name, x, target, **more):
    explainer, arguments = ALL[name]
    if "LayerActivation" not in name:
        more["target"] = target
    return explainer.attribute(x, **{**arguments, **more})


def assert_same(name, found, expected, exact=None):
    exact = (NATIVE and name not in ROUNDING) if exact is None else exact
    off = 0 if exact else 1e-13 * float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=0, atol=off)


pytestmark = pytest.mark.filterwarnings("ignore:max_samples")


@pytest.mark.parametrize("name", ALL)
def test_again_and_with_any_number_of_threads(name):
    x, target = rows(60 if "auto" in name else 400)  # enough for two
    threads, found = torch.get_num_threads(), []
    try:
        for number in (1, 1, 2, 3):
            torch.set_num_threads(number)
            found.append(ask(name, x, target))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[1], found[0])
    for other in found[2:]:
        # Kriging takes eigenvalues of LAPACK, which rounds by the number of its threads.
        assert_same(name, other, found[0], exact=NATIVE and "tier" not in name)


@pytest.mark.parametrize("name", NOTHING | ROUNDING)
def test_a_row_alone_and_anywhere_in_a_batch(name):
    x, target = rows(6)
    together = ask(name, x, target)
    alone = [ask(name, x[i : i + 1], target[i : i + 1]) for i in range(len(x))]
    assert_same(name, torch.cat(alone), together)
    order = torch.tensor([4, 0, 5, 1, 3, 2])
    assert_same(name, ask(name, x[order], target[order]), together[order])


@pytest.mark.parametrize("name", PLACE)
def test_a_row_in_its_place_whatever_the_others_are(name):
    x, target = rows(6)
    together = ask(name, x, target)
    for i in range(len(x)):
        others = torch.randn(i, 1, 3, 4, dtype=torch.float64)
        batch = torch.cat([others, x[i : i + 1]])
        assert_same(name, ask(name, batch, target[: i + 1])[i], together[i])
    # Each row has noise of its own: in another place it has another.
    assert not torch.isclose(ask(name, x.flip(0), target.flip(0)).flip(0), together).all()


@pytest.mark.thin("size")
@pytest.mark.parametrize("size", [2, 5, 50])
@pytest.mark.parametrize("name", ALL)
def test_blocks_of_any_size(name, size, monkeypatch):
    x, target = rows(4)
    expected = ask(name, x, target)
    known = signature(ALL[name][0].attribute).parameters
    limits = {argument: size for argument in LIMITS if argument in known}
    assert_same(name, ask(name, x, target, **limits), expected)
    monkeypatch.setattr(blocks, "rows_a_call", lambda row_bytes, device, forward_only: size)
    assert_same(name, ask(name, x, target), expected)


@pytest.mark.parametrize("name", [name for name in ALL if "auto" in name])
def test_samples_as_alone(name):
    x, target = rows(6)
    explainer, arguments = ALL[name]
    together = explainer.explain(x, target=target, **arguments).samples
    assert len(together.unique()) > 2
    for i in range(len(x)):
        alone = explainer.explain(x[i : i + 1], target=int(target[i]), **arguments)
        assert alone.samples == together[i]


@pytest.mark.parametrize("name", DRAWS)
def test_seeds(name):
    x, target = rows(4)
    assert not torch.equal(ask(name, x, target, seed=4), ask(name, x, target))
    torch.manual_seed(5)
    drawn = ask(name, x, target, seed=None)
    assert not torch.equal(ask(name, x, target, seed=None), drawn)
    torch.manual_seed(5)
    assert torch.equal(ask(name, x, target, seed=None), drawn)


def states():
    return torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())  # noqa: NPY002


@pytest.mark.parametrize("name", ALL)
def test_random_state_is_not_touched_nor_looked_at(name, monkeypatch):
    x, target = rows(3)
    expected = ask(name, x, target)
    for generator in (torch.manual_seed, random.seed, np.random.seed):
        generator(9)
    before = states()
    assert torch.equal(ask(name, x, target), expected)
    assert states() == before
    monkeypatch.setattr(MODEL, "broken", True)
    with pytest.raises(ValueError, match="in the model"):
        ask(name, x, target)
    assert states() == before


@pytest.mark.parametrize("name", ["FeatureAblation", "KernelShap", "Lime", "ShapleyValueSampling"])
def test_a_first_call_of_one_row_is_as_all_others(name):
    """Though it finds out what a row takes, by a record of the graph: that may take other ways."""
    model = lambda x: MODEL(x) * (1 + 1e-3 * torch.is_grad_enabled())  # noqa: E731
    explainer, (x, target) = type(ALL[name][0])(model), rows(1)
    found = [explainer.attribute(x, target=target, **ALL[name][1]) for _ in range(2)]
    assert torch.equal(*found)


class Writes(nn.Module):
    """Notes the batches of ready rows. What it does to a view of others, these do not take."""

    def __init__(self):
        super().__init__()
        self.linear, self.seen = nn.Linear(12, 3).double(), []

    def forward(self, x):
        x.flatten(1)[:, :3].mul_(1)
        if type(x) is torch.Tensor:
            self.seen.append(len(x))
        return torch.tanh(self.linear(x.flatten(1)))


@pytest.mark.parametrize("name", ["IntegratedGradients", "FeatureAblation", "GradientShap"])
def test_a_first_call_is_cut_as_all_others(name, monkeypatch):
    """Though it finds out only then that the rows have to be made beforehand."""
    monkeypatch.setattr(prefix, "WORTH", 1)
    model, (x, target), seen = Writes().eval(), rows(300), []
    explainer, arguments = getattr(attr, name)(model), ALL[name][1]
    for _ in range(3):
        explainer.attribute(x, target=target, **arguments)
        seen.append(model.seen.copy())
        model.seen.clear()
    assert seen[0] == seen[1] == seen[2]
