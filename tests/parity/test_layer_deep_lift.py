"""Captum beside us: DeepLift, DeepLiftShap and GradientShap of layers."""

import captum.attr
import numpy as np
import pytest
import torch
from torch import nn

import fastxai

from .test_deep_lift import CASES, CLOSE, TwoBranches, clones, detached, randn

pytestmark = pytest.mark.filterwarnings("ignore:Setting forward, backward hooks")

LINEAR = nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Flatten


def layers_of(model):
    return [module for module in model.modules() if not list(module.children())]


@pytest.mark.parametrize("multiply", [True, False])
@pytest.mark.parametrize("to_input", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_layer_deep_lift(case, to_input, multiply):
    model, x, arguments = CASES[case]
    shifted = tuple(t.flip(0) + 0.1 for t in x) if isinstance(x, tuple) else x.flip(0) + 0.1
    for layer in layers_of(model):
        if to_input and not isinstance(layer, LINEAR):
            continue  # Captum takes the gradient of that layer for its multiplier
        if isinstance(layer, nn.ReLU) and layer.inplace:
            continue  # upon which Captum fails
        for baselines in (None, shifted):
            results = [
                library.LayerDeepLift(model, layer, multiply).attribute(
                    clones(x), baselines, **arguments,
                    return_convergence_delta=True, attribute_to_layer_input=to_input,
                )
                for library in (fastxai, captum.attr)
            ]  # fmt: skip
            (ours, our_delta), (theirs, their_delta) = results
            torch.testing.assert_close(ours, detached(theirs), **CLOSE)
            torch.testing.assert_close(our_delta, their_delta.detach(), **CLOSE)


@pytest.mark.parametrize("multiply", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_layer_deep_lift_shap(case, multiply):
    model, x, arguments = CASES[case]
    draw = lambda t: torch.cat([t.flip(0) + 0.1, 0 * t[:1], t[:1] - 0.3])  # noqa: E731
    baselines = tuple(map(draw, x)) if isinstance(x, tuple) else draw(x)
    layer = next(m for m in layers_of(model) if isinstance(m, LINEAR))
    for given in (baselines, lambda: baselines, lambda x: baselines):
        results = [
            library.LayerDeepLiftShap(model, layer, multiply).attribute(
                clones(x), given, **arguments, return_convergence_delta=True
            )
            for library in (fastxai, captum.attr)
        ]
        (ours, our_delta), (theirs, their_delta) = results
        torch.testing.assert_close(ours, detached(theirs), **CLOSE)
        torch.testing.assert_close(our_delta, their_delta.detach(), **CLOSE)


@pytest.mark.parametrize(
    "combine",
    [
        lambda m: tuple(2 * t for t in m),
        lambda m, x: tuple(a * b for a, b in zip(m, x, strict=True)),
        lambda m, x, b: tuple(a * (c + d) for a, c, d in zip(m, x, b, strict=True)),
    ],
)
def test_custom_attribution_functions(combine):
    model, x = TwoBranches(), (randn(3, 4), randn(3, 6))
    rows = tuple(torch.cat([t.flip(0), t + 0.1]) for t in x)
    for name, baselines in (("LayerDeepLift", (0.1, x[1].flip(0))), ("LayerDeepLiftShap", rows)):
        ours, theirs = (
            getattr(library, name)(model, model.relu).attribute(
                clones(x), baselines, 2, (0.5,), custom_attribution_func=combine
            )
            for library in (fastxai, captum.attr)
        )
        torch.testing.assert_close(ours, theirs.detach(), **CLOSE)


class Halves(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(4)
        self.first, self.split, self.tanh = nn.Linear(5, 6), self.Split(), nn.Tanh()
        self.out = nn.Linear(3, 2)
        self.double().eval()

    class Split(nn.Module):
        def forward(self, x):
            return x[:, :3], x[:, 3:]

    def forward(self, x):
        left, right = self.split(self.first(x))
        return self.out(self.tanh(left + 2 * right))


def test_layers_of_several_tensors():
    model, x = Halves(), randn(4, 5)
    for name, baselines in (("LayerDeepLift", x[:1] + 0.2), ("LayerDeepLiftShap", x.flip(0))):
        ours, theirs = (
            getattr(library, name)(model, model.split).attribute(
                x.clone(), baselines, 1, return_convergence_delta=True
            )
            for library in (fastxai, captum.attr)
        )
        assert isinstance(ours[0], tuple)
        torch.testing.assert_close(ours[0], detached(theirs[0]), **CLOSE)
        torch.testing.assert_close(ours[1], theirs[1].detach(), **CLOSE)


def test_positional_arguments_stand_in_captums_order():
    model, x = TwoBranches(), (randn(3, 4), randn(3, 6))
    rows = tuple(torch.cat([t.flip(0), t + 0.1]) for t in x)
    both = fastxai, captum.attr
    for name, more in (("LayerDeepLift", (None, {})), ("LayerDeepLiftShap", (None,))):
        results = [
            getattr(library, name)(model, model.c, False).attribute(
                clones(x), x if name == "LayerDeepLift" else rows, 1, (0.5, 2.0), True, True, *more
            )
            for library in both
        ]
        (ours, our_delta), (theirs, their_delta) = results
        theirs = theirs[0] if isinstance(theirs, tuple) else theirs
        torch.testing.assert_close(ours, theirs.detach(), **CLOSE)
        torch.testing.assert_close(our_delta, their_delta.detach(), **CLOSE)


@pytest.mark.parametrize("multiply", [True, False])
@pytest.mark.parametrize("stdevs", [0.0, (0.2, 0.4)])
def test_layer_gradient_shap_of_many_samples(stdevs, multiply):
    """Behind what is linear; elsewhere Captum's paths are others."""
    model, x = TwoBranches(), (randn(2, 4), randn(2, 6))
    rows = tuple(torch.cat([t.flip(0), t + 0.1]) for t in x)
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - which Captum draws positions from
    ours, theirs = (
        library.LayerGradientShap(model, model.a, None, multiply).attribute(
            x, rows, 4000, stdevs, 1, (0.5, 2.0), True, False
        )
        for library in (fastxai, captum.attr)
    )
    assert ours[0].shape == theirs[0].shape and ours[1].shape == theirs[1].shape == (8000,)
    largest = theirs[0].abs().max()
    torch.testing.assert_close(ours[0], theirs[0].detach(), rtol=0, atol=0.06 * largest.item())
    spread = [delta.reshape(2, -1).std(1) for delta in (ours[1], theirs[1])]
    if multiply:
        torch.testing.assert_close(spread[0], spread[1], rtol=0.2, atol=0.02)


@pytest.mark.parametrize("name", ["LayerDeepLift", "LayerDeepLiftShap", "LayerGradientShap"])
def test_what_captum_code_asks_of_a_method(name):
    model = TwoBranches()
    ours, theirs = (getattr(library, name)(model, model.a) for library in (fastxai, captum.attr))
    assert ours.get_name() == theirs.get_name()
    assert ours.has_convergence_delta() == theirs.has_convergence_delta()
    assert ours.layer is theirs.layer and ours.device_ids == theirs.device_ids
    assert ours.multiplies_by_inputs == theirs.multiplies_by_inputs
    assert isinstance(ours, fastxai.LayerAttribution)
    with pytest.raises(NotImplementedError):
        ours.attribute_future()
