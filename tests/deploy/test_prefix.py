"""What exported programs do on few rows for all: the affine operations that a model begins with."""

import math
from functools import cache

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import fastxai
from fastxai import FeatureAblation, IntegratedGradients, KernelShap, Lime, NoiseTunnel, Occlusion
from fastxai.attr import Ridge
from fastxai.core.checks import ArgumentError
from fastxai.core.prefix.mixing import CoefficientMixing, OneDeltaMixing
from fastxai.core.program import program as programs

from .test_gradient_methods import CLOSE, needs_library, pairs, randn
from .test_gradient_methods import traced as traced_for
from .test_perturbation_methods import MODELS

COALITIONS = {"n_samples": 40, "seed": 3}
METHODS = {
    "KernelShap": (KernelShap, COALITIONS),
    "over a background": (KernelShap, COALITIONS),
    "Lime": (lambda model: Lime(model, Ridge(0.1)), COALITIONS),
    "FeatureAblation": (FeatureAblation, {}),
    "Occlusion": (Occlusion, {}),
    "IntegratedGradients": (IntegratedGradients, {"n_steps": 7}),
}
STRIDES = {"cnn": (1, 2, 1), "two inputs": ((1,), (1, 1))}


@pytest.fixture
def for_any_gain(monkeypatch):
    for kind in (OneDeltaMixing, CoefficientMixing):
        monkeypatch.setitem(programs._WORTH, kind, -math.inf)


def exported(tmp_path, explainer, inputs, **arguments):
    path = tmp_path / "package.pt2"
    fastxai.export(explainer, inputs, path, **{"format": "torch", "target": 1, **arguments})
    return fastxai.load(path)


def traced(explainer, inputs, **arguments):
    return traced_for(explainer, inputs, **{"target": 1, **arguments})


def multiplications(function, *inputs):
    with FlopCounterMode(display=False) as counter:
        function(*inputs)
    return counter.get_total_flops() // 2


def double(count, shapes):
    inputs = randn(count, shapes)
    return tuple(x.double() for x in inputs) if len(shapes) > 1 else inputs.double()


# Every kind of rows with every kind of beginning.
@pytest.mark.parametrize(
    ("method", "model"),
    [
        ("KernelShap", "mlp"),
        ("KernelShap", "cnn"),
        ("KernelShap", "transformer"),
        ("over a background", "two inputs"),
        ("Lime", "two inputs"),
        ("FeatureAblation", "two inputs"),
        pytest.param("Occlusion", "cnn", marks=pytest.mark.slow),
        ("Occlusion", "two inputs"),
        ("IntegratedGradients", "cnn"),
        pytest.param("IntegratedGradients", "transformer", marks=pytest.mark.slow),
        ("IntegratedGradients", "two inputs"),
    ],
)
def test_equals_the_eager_method(for_any_gain, method, model):
    build, shapes, mask, window = MODELS[model]
    kind, arguments = METHODS[method]
    explainer = kind(build().double())
    if method == "Occlusion":  # windows overlap
        arguments = {"sliding_window_shapes": window, "strides": STRIDES[model]}
    elif method != "IntegratedGradients":
        arguments = arguments | {"feature_mask": mask}
    if method == "over a background":
        arguments = arguments | {"background": double(3, shapes)}
    package = traced(explainer, double(3, shapes), target="argmax", **arguments)
    close = {"rtol": 1e-9, "atol": 1e-11}
    for count in (1, 5):
        inputs = double(count, shapes)
        found = package(inputs)
        tensors = inputs if isinstance(inputs, tuple) else (inputs,)
        outputs = explainer.forward_func(*tensors).detach()
        torch.testing.assert_close(found.outputs, outputs, **close)
        expected = explainer.explain(inputs, target=outputs.argmax(1), **arguments)
        torch.testing.assert_close(found.attributions, expected.values, **close)
        if found.standard_errors is not None:
            torch.testing.assert_close(found.standard_errors, expected.standard_errors, **close)


def wide():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(400, 64), nn.Tanh(), nn.Linear(64, 3)).eval()


MASK = torch.arange(400)[None] // 40
OF_TEN = {"n_samples": 60, "seed": 0, "feature_mask": MASK}
BUILT_IN = {
    KernelShap: OF_TEN,
    Lime: OF_TEN,
    FeatureAblation: {},
    Occlusion: {"sliding_window_shapes": (8,), "strides": (4,)},
    IntegratedGradients: {"n_steps": 16},
}


@pytest.fixture(scope="module")
def wide_package(tmp_path_factory):
    """A package of a method over wide(), exported once for all tests that ask."""

    @cache
    def get(kind, affine_prefix):
        folder = tmp_path_factory.mktemp("wide")
        explainer = kind(wide(), affine_prefix=affine_prefix)
        return exported(folder, explainer, randn(4, [(400,)]), **BUILT_IN[kind])

    return get


@pytest.mark.parametrize(
    "kind", [k if k is not Lime else pytest.param(k, marks=needs_library) for k in BUILT_IN]
)
def test_the_first_layer_is_done_on_few_rows(wide_package, kind):
    x = randn(4, [(400,)])
    package, plain = wide_package(kind, True), wide_package(kind, False)
    for rows in (x[:1], torch.cat([x, x])):
        few, many = multiplications(package, rows), multiplications(plain, rows)
        # The layer takes 400 multiplications of 403, and little is left of them.
        assert few < many / 5
        found, expected = package(rows), plain(rows)
        torch.testing.assert_close(found.outputs, expected.outputs, **CLOSE)
        torch.testing.assert_close(found.attributions, expected.attributions, **CLOSE)
    assert package.manifest.needs_library == plain.manifest.needs_library  # for Lime's lasso


@needs_library
def test_noise_tunnel_over_a_method_with_few_rows(tmp_path):
    x, arguments = randn(4, [(400,)]), {"nt_samples": 2, "stdevs": 0.1, "seed": 1, "n_steps": 12}
    found, counts = [], []
    for prefix in (True, False):
        tunnel = NoiseTunnel(IntegratedGradients(wide(), affine_prefix=prefix))
        package = exported(tmp_path, tunnel, x, **arguments)
        found.append(package(x[:3]).attributions)
        counts.append(multiplications(package, x[:3]))
    torch.testing.assert_close(*found, **CLOSE)
    assert counts[0] < counts[1] / 2


class Views(nn.Module):
    """Writes to rows that it looks at in two shapes."""

    def __init__(self):
        super().__init__()
        self.layer = wide()

    def forward(self, x):
        other = x.view(-1, 20, 20)
        x += 1
        return self.layer(x) + other.sum((1, 2))[:, None] / 400


class Detached(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = wide()

    def forward(self, x):
        return self.layer(x) * self.layer[0](x).detach().mean(1, keepdim=True)


def hooked():
    model = wide()
    model[0].register_forward_hook(lambda module, args, output: output * 2)
    return model


@pytest.mark.parametrize(
    ("kind", "build"),
    pairs(
        [KernelShap, IntegratedGradients],
        [Views, Detached, hooked],
        often=[(KernelShap, Views), (KernelShap, hooked), (IntegratedGradients, Detached)],
    ),
)
def test_a_model_that_sees_its_rows(kind, build):
    arguments = OF_TEN if kind is KernelShap else {}
    x, model = randn(3, [(400,)]), build().eval()
    package = traced(kind(model), x, **arguments)
    plain = traced(kind(model, affine_prefix=False), x, **arguments)
    assert multiplications(package, x) == multiplications(plain, x)
    assert torch.equal(package(x).attributions, plain(x).attributions)
    expected = kind(model).attribute(x, target=1, **arguments)
    torch.testing.assert_close(package(x).attributions, expected, **CLOSE)


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [(KernelShap, {"n_samples": 60, "seed": 0}), (FeatureAblation, {"feature_mask": MASK[:, :9]})],
)
def test_what_does_not_pay_is_left(kind, arguments):
    x = randn(3, [(9,)])
    model = nn.Sequential(nn.Linear(9, 64), nn.ReLU(), nn.Linear(64, 3)).eval()
    package = traced(kind(model), x, **arguments)
    plain = traced(kind(model, affine_prefix=False), x, **arguments)
    assert multiplications(package, x) == multiplications(plain, x)


@pytest.mark.slow
def test_native_code(tmp_path):
    x = randn(4, [(400,)])
    shap, arguments = KernelShap(wide()), {"n_samples": 60, "seed": 0, "feature_mask": MASK}
    package = exported(tmp_path, shap, x, format="aoti", **arguments)
    for rows in (x[:1], x):
        expected = shap.attribute(rows, target=1, **arguments)
        torch.testing.assert_close(package(rows).attributions, expected, **CLOSE)
    explainer = IntegratedGradients(wide())
    for_one_row = explainer.compile(x[:1], target=1)
    expected = explainer.attribute(x[1:2], target=1)
    torch.testing.assert_close(for_one_row(x[1:2]).attributions, expected, **CLOSE)


@pytest.mark.parametrize("kind", [KernelShap, FeatureAblation, IntegratedGradients])
def test_an_infinite_input_is_in_no_other_row(wide_package, kind):
    model, package, x = wide(), wide_package(kind, True), randn(3, [(400,)])
    before = package(x)
    x[1, 7] = math.inf
    if kind is not IntegratedGradients:  # which refuses nothing
        with pytest.raises(ArgumentError, match=r"inputs: .*others in rows 1"):
            package(x)
        return
    found = package(x)
    torch.testing.assert_close(found.outputs, model(x).detach(), **CLOSE)
    for others in (slice(0, 1), slice(2, 3)):
        expected = before.attributions[others]
        torch.testing.assert_close(found.attributions[others], expected, **CLOSE)
