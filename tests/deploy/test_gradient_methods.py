"""Exported gradient methods say what the eager ones say, for any number of rows."""

from itertools import product

import pytest
import torch

import fastxai
from fastxai import (
    ArgumentError,
    DeepLift,
    DeepLiftShap,
    FeatureAblation,
    GradientShap,
    InputXGradient,
    IntegratedGradients,
    KernelShap,
    NoiseTunnel,
    Saliency,
)
from fastxai.deploy.export import prepared
from fastxai.deploy.package import Package
from fastxai.ops import native, reference

from ..models import Encoder, ResidualCNN, Segmenter, TwoInputs, mlp

MODELS = {
    "mlp": (mlp, [(7,)]),
    "cnn": (ResidualCNN, [(2, 6, 5)]),
    "transformer": (Encoder, [(6, 4)]),
    "two inputs": (TwoInputs, [(4,), (2, 3)]),
}
METHODS = {
    "Saliency": (Saliency, {}),
    "InputXGradient": (InputXGradient, {}),
    "IntegratedGradients": (IntegratedGradients, {"n_steps": 7}),
}
CLOSE = {"rtol": 1e-4, "atol": 1e-6}


def pairs(firsts, seconds, often):
    """All pairs as parameters, of which others than these are for `make test-all`."""
    every = list(product(firsts, seconds))
    assert set(often) <= set(every)
    return [p if p in often else pytest.param(*p, marks=pytest.mark.slow) for p in every]


def randn(count, shapes):
    torch.manual_seed(count)
    found = tuple(torch.randn(count, *shape) for shape in shapes)
    return found if len(found) > 1 else found[0]


def traced(explainer, inputs, standard_errors=None, **arguments):
    """What export writes and load reads, without the file, which takes half as long again."""
    program, manifest = prepared(explainer, inputs, arguments, standard_errors, "torch")
    module = program.module(check_guards=False)
    return Package(manifest, torch.no_grad()(lambda tensors: module(*tensors)))


def exported(tmp_path, explainer, inputs, **arguments):
    path = tmp_path / "package.pt2"
    fastxai.export(explainer, inputs, path, **{"format": "torch", **arguments})
    return fastxai.load(path)


def assert_says_the_same(package, explainer, inputs, target=None, given=None, **arguments):
    """``arguments`` are built in, ``given`` come with the call."""
    given = given or {}
    by_call = {} if target is None else {"target": target}
    found = package(inputs, **by_call, **given)
    options = {"target": target, **arguments, **given}
    expected = explainer.attribute(inputs, **options)
    torch.testing.assert_close(found.attributions, expected, **CLOSE)
    tensors = inputs if isinstance(inputs, tuple) else (inputs,)
    outputs = explainer.forward_func(*tensors, *as_tuple(options.get("additional_forward_args")))
    torch.testing.assert_close(found.outputs, outputs.detach(), **CLOSE)
    if explainer.has_convergence_delta():
        _, delta = explainer.attribute(inputs, return_convergence_delta=True, **options)
        # Of DeepLift it is what rounding leaves.
        torch.testing.assert_close(found.convergence_delta, delta, rtol=1e-4, atol=1e-5)
    else:
        assert found.convergence_delta is None
    return found


def as_tuple(value):
    return () if value is None else value if isinstance(value, tuple) else (value,)


# Saliency and InputXGradient are one gradient.
@pytest.mark.parametrize(
    ("method", "model"),
    pairs(
        METHODS,
        MODELS,
        often=[
            ("Saliency", "mlp"),
            ("Saliency", "two inputs"),
            ("InputXGradient", "cnn"),
            ("InputXGradient", "two inputs"),
            *(("IntegratedGradients", model) for model in MODELS),
        ],
    ),
)
def test_equals_the_eager_method(tmp_path, model, method):
    build, shapes = MODELS[model]
    kind, arguments = METHODS[method]
    explainer = kind(build())
    package = exported(
        tmp_path, explainer, randn(3, shapes), target=torch.tensor([0, 1, 2]), **arguments
    )
    for count in (1, 2, 5):
        target = torch.arange(count) % 3
        assert_says_the_same(package, explainer, randn(count, shapes), target, **arguments)


def test_every_rule_and_numbers_as_baselines():
    shapes = MODELS["two inputs"][1]
    explainer = IntegratedGradients(TwoInputs())
    for method in ("riemann_trapezoid", "riemann_left"):
        options = {"method": method, "n_steps": 3, "baselines": (0.25, -0.5)}
        package = traced(explainer, randn(2, shapes), target=2, **options)
        found, rows = package(randn(4, shapes)), randn(4, shapes)
        expected = explainer.attribute(rows, target=2, **options)
        torch.testing.assert_close(found.attributions, expected, **CLOSE)


def test_targets():
    explainer, x = IntegratedGradients(mlp()), randn(5, [(7,)])
    top = traced(explainer, x, target="argmax")
    classes = explainer.forward_func(x).argmax(1)
    torch.testing.assert_close(top(x).attributions, explainer.attribute(x, target=classes), **CLOSE)
    for fixed in (2, -1, torch.tensor([1])):
        package = traced(explainer, x, target=fixed)
        torch.testing.assert_close(
            package(x).attributions, explainer.attribute(x, target=fixed), **CLOSE
        )
    each = traced(explainer, x, target=[0, 1, 2, 3, 0])
    assert_says_the_same(each, explainer, x[:3], torch.tensor([-1, 0, -4]))


def test_one_output_needs_no_target():
    model = torch.nn.Sequential(mlp(), torch.nn.Linear(4, 1)).eval()
    for explainer in (Saliency(model), IntegratedGradients(model)):
        package = traced(explainer, randn(2, [(7,)]))
        assert_says_the_same(package, explainer, randn(3, [(7,)]))


def test_targets_in_several_dimensions():
    explainer, x = IntegratedGradients(Segmenter()), randn(3, [(2, 4)])
    each = traced(explainer, x, target=[(0, 1), (2, -1), (1, 0)])
    found = each(x[:2], target=torch.tensor([[1, 2], [-1, 3]]))
    expected = explainer.attribute(x[:2], target=[(1, 2), (-1, 3)])
    torch.testing.assert_close(found.attributions, expected, **CLOSE)
    fixed = traced(explainer, x, target=(1, -2))
    torch.testing.assert_close(
        fixed(x).attributions, explainer.attribute(x, target=(1, -2)), **CLOSE
    )


def test_baselines_built_in_and_given(tmp_path):
    explainer, x = IntegratedGradients(mlp()), randn(3, [(7,)])
    row = torch.rand(1, 7)
    package = exported(tmp_path, explainer, x, target=1, baselines=row)
    torch.testing.assert_close(package(x).attributions, explainer.attribute(x, row, 1), **CLOSE)
    package = exported(tmp_path, explainer, x, target=1, baselines=torch.rand(3, 7))
    for count in (1, 4):
        rows, baselines = randn(count, [(7,)]), torch.rand(count, 7)
        torch.testing.assert_close(
            package(rows, baselines=baselines).attributions,
            explainer.attribute(rows, baselines, 1),
            **CLOSE,
        )


def test_extra_arguments_built_in_and_given(tmp_path):
    shapes = MODELS["two inputs"][1]
    explainer, inputs = IntegratedGradients(TwoInputs()), randn(3, shapes)
    package = exported(
        tmp_path, explainer, inputs, target=1, additional_forward_args=(torch.rand(3, 6), 0.5)
    )
    assert [a.name for a in package.manifest.arguments] == [
        "inputs[0]",
        "inputs[1]",
        "additional_forward_args[0]",
    ]
    for count in (1, 4):
        rows, shift = randn(count, shapes), torch.rand(count, 6)
        found = package(rows, additional_forward_args=shift)
        expected = explainer.attribute(rows, target=1, additional_forward_args=(shift, 0.5))
        torch.testing.assert_close(found.attributions, expected, **CLOSE)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtypes(tmp_path, dtype):
    explainer, x = IntegratedGradients(mlp().to(dtype)), randn(3, [(7,)]).to(dtype)
    found = exported(tmp_path, explainer, x, target=1, n_steps=5)(x)
    expected, delta = explainer.attribute(x, target=1, n_steps=5, return_convergence_delta=True)
    close = {"rtol": 1e-12, "atol": 1e-13} if dtype == torch.float64 else {"rtol": 0.1, "atol": 0.1}
    torch.testing.assert_close(found.attributions, expected, **close)
    torch.testing.assert_close(found.convergence_delta, delta, **close)
    assert found.outputs.dtype == dtype


def test_gradients_with_their_signs():
    explainer, x = Saliency(mlp()), randn(3, [(7,)])
    found = traced(explainer, x, target=1, abs=False)(x).attributions
    torch.testing.assert_close(found, explainer.attribute(x, target=1, abs=False), **CLOSE)
    assert (found < 0).any()


def test_mean_gradient_without_multiplication():
    explainer, x = IntegratedGradients(mlp(), multiply_by_inputs=False), randn(3, [(7,)])
    found = traced(explainer, x, target=1)(x)
    torch.testing.assert_close(found.attributions, explainer.attribute(x, target=1), **CLOSE)


def test_one_example_row_and_a_tuple_of_one():
    explainer = IntegratedGradients(mlp())
    package = traced(explainer, (randn(1, [(7,)]),), target=1)
    x = randn(4, [(7,)])
    found = package((x,)).attributions
    torch.testing.assert_close(found, explainer.attribute((x,), target=1), **CLOSE)


# DeepLiftShap is DeepLift of more rows.
@pytest.mark.parametrize(
    ("method", "model"),
    pairs(
        [DeepLift, DeepLiftShap],
        MODELS,
        often=[(DeepLiftShap, "mlp"), *((DeepLift, model) for model in MODELS)],
    ),
)
def test_deep_lift(tmp_path, method, model):
    build, shapes = MODELS[model]
    explainer = method(build())
    options = {"baselines": randn(3, shapes)} if method is DeepLiftShap else {}
    package = exported(
        tmp_path, explainer, randn(3, shapes), target=torch.tensor([0, 1, 2]), **options
    )
    for count in (1, 2, 5):
        target = torch.arange(count) % 3
        assert_says_the_same(package, explainer, randn(count, shapes), target, **options)


class Pooled(torch.nn.Module):
    """What DeepLift has rules for, and writes to its input."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(7)
        self.conv = torch.nn.Conv2d(2, 4, 3, padding=1)
        self.head = torch.nn.Linear(4 * 9, 3)
        self.eval()

    def forward(self, x):  # [N, 2, 6, 6] -> [N, 3]
        x = torch.nn.functional.gelu(self.conv(x.mul_(2)))
        x = torch.nn.functional.max_pool2d(x, 2)
        return self.head(x.flatten(1)).log_softmax(1)


def test_deep_lift_through_pools_and_softmax():
    x = randn(3, [(2, 6, 6)])
    for explainer, options in (
        (DeepLift(Pooled()), {"baselines": randn(1, [(2, 6, 6)])}),
        (DeepLift(Pooled(), multiply_by_inputs=False), {}),
        (DeepLiftShap(Pooled()), {"baselines": randn(4, [(2, 6, 6)])}),
    ):
        options |= {"target": 2, "return_convergence_delta": True}
        found = traced(explainer, x.clone(), **options)(x[:2].clone())
        expected, delta = explainer.attribute(x[:2].clone(), **options)
        torch.testing.assert_close(found.attributions, expected, **CLOSE)
        torch.testing.assert_close(found.convergence_delta, delta, rtol=1e-4, atol=1e-5)


def test_deep_lift_of_what_comes_with_the_call():
    shapes = MODELS["two inputs"][1]

    def squares(multipliers, inputs, baselines):
        triples = zip(multipliers, inputs, baselines, strict=True)
        return tuple((m * (x - b)).square() for m, x, b in triples)

    explainer = DeepLift(TwoInputs())
    for custom in (None, squares):
        options = {"target": 1, "custom_attribution_func": custom}
        package = traced(
            explainer,
            randn(3, shapes),
            baselines=(torch.rand(3, 4), 0.5),
            additional_forward_args=(torch.rand(3, 6), 2.0),
            **options,
        )
        for count in (1, 4):
            x, given, shift = randn(count, shapes), torch.rand(count, 4), torch.rand(count, 6)
            found = package(x, baselines=given, additional_forward_args=shift).attributions
            expected = explainer.attribute(
                x, (given, 0.5), additional_forward_args=(shift, 2.0), **options
            )
            torch.testing.assert_close(found, expected, **CLOSE)


class OneOfTwo(torch.nn.Module):
    def forward(self, a, b):
        return a.sum(1)


def test_inputs_that_do_not_matter(tmp_path):
    inputs = randn(3, [(4,), (3,)])
    for method in (Saliency, DeepLift):
        with pytest.raises(ArgumentError, match=r"outputs that depend on inputs\[1\]"):
            exported(tmp_path, method(OneOfTwo().eval()), inputs)


needs_library = pytest.mark.skipif(
    native.backend() is reference, reason="noise is drawn by the compiled library"
)


@needs_library
@pytest.mark.parametrize(
    ("stdevs", "model"),
    pairs(
        [0.0, 0.3],
        MODELS,
        often=[(0.0, "mlp"), (0.0, "two inputs"), (0.3, "cnn"), (0.3, "two inputs")],
    ),
)
def test_gradient_shap(tmp_path, model, stdevs):
    build, shapes = MODELS[model]
    explainer = GradientShap(build())
    options = {"n_samples": 6, "stdevs": stdevs, "baselines": randn(4, shapes)}
    if model == "mlp":
        options["return_convergence_delta"] = True
    package = exported(
        tmp_path, explainer, randn(3, shapes), target=torch.tensor([0, 1, 2]), **options
    )
    assert package.manifest.arguments[-1].name == "seed" and package.manifest.needs_library
    for count, seed in ((1, 0), (2, 2**63 - 1), (5, 7)):
        x, target = randn(count, shapes), torch.arange(count) % 3
        found = package(x, target, seed=seed)
        expected = explainer.attribute(x, target=target, seed=seed, **options)
        if model == "mlp":
            expected, delta = expected
            assert delta.shape == (6 * count,)
            torch.testing.assert_close(found.convergence_delta, delta, **CLOSE)
        else:
            assert found.convergence_delta is None
        torch.testing.assert_close(found.attributions, expected, **CLOSE)
        tensors = x if isinstance(x, tuple) else (x,)
        torch.testing.assert_close(found.outputs, explainer.forward_func(*tensors), **CLOSE)


@needs_library
def test_mean_gradient_of_gradient_shap():
    explainer, x = GradientShap(mlp().double(), multiply_by_inputs=False), randn(3, [(7,)]).double()
    options = {
        "n_samples": 5,
        "stdevs": 0.2,
        "baselines": randn(2, [(7,)]).double(),
        "target": 1,
        "return_convergence_delta": True,
    }
    found = traced(explainer, x, **options)(x[:2], seed=4)
    expected, delta = explainer.attribute(x[:2], seed=4, **options)
    close = {"rtol": 1e-12, "atol": 1e-13}
    torch.testing.assert_close(found.attributions, expected, **close)
    torch.testing.assert_close(found.convergence_delta, delta, **close)


SMOOTHED = {
    "Saliency": (Saliency, {"abs": False}),
    "InputXGradient": (InputXGradient, {}),
    "IntegratedGradients": (IntegratedGradients, {"n_steps": 4}),
    "DeepLift": (DeepLift, {}),
    "FeatureAblation": (FeatureAblation, {}),
}


@needs_library
@pytest.mark.parametrize(
    ("method", "model", "nt_type"),
    [
        ("Saliency", "mlp", "smoothgrad"),
        ("Saliency", "cnn", "smoothgrad_sq"),
        ("Saliency", "two inputs", "vargrad"),
        ("InputXGradient", "transformer", "smoothgrad"),
        ("IntegratedGradients", "mlp", "vargrad"),
        ("IntegratedGradients", "two inputs", "smoothgrad_sq"),
        ("DeepLift", "mlp", "smoothgrad"),
        ("FeatureAblation", "mlp", "smoothgrad_sq"),
    ],
)
def test_noise_tunnel(tmp_path, method, model, nt_type):
    build, shapes = MODELS[model]
    kind, arguments = SMOOTHED[method]
    explainer = NoiseTunnel(kind(build()))
    options = {"nt_type": nt_type, "nt_samples": 5, "stdevs": 0.2, **arguments}
    package = exported(
        tmp_path, explainer, randn(3, shapes), target=torch.tensor([0, 1, 2]), **options
    )
    for count, seed in ((1, 3), (4, 9)):
        x, target = randn(count, shapes), torch.arange(count) % 3
        found = package(x, target, seed=seed)
        delta = method in ("IntegratedGradients", "DeepLift")
        asked = {"return_convergence_delta": True} if delta else {}
        expected = explainer.attribute(x, target=target, seed=seed, **options, **asked)
        if delta:
            expected, of_samples = expected
            torch.testing.assert_close(found.convergence_delta, of_samples, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.attributions, expected, **CLOSE)
        tensors = x if isinstance(x, tuple) else (x,)
        torch.testing.assert_close(found.outputs, explainer.forward_func(*tensors), **CLOSE)


@needs_library
def test_noise_tunnel_over_what_comes_with_the_call():
    shapes = MODELS["two inputs"][1]
    explainer = NoiseTunnel(IntegratedGradients(TwoInputs()))
    options = {"nt_samples": 3, "stdevs": (0.1, 0.4), "n_steps": 4, "target": 1}
    package = traced(
        explainer,
        randn(3, shapes),
        baselines=(torch.rand(3, 4), 0.5),
        additional_forward_args=(torch.rand(3, 6), 2.0),
        **options,
    )
    assert [a.name for a in package.manifest.arguments[2:]] == [
        "baselines[0]",
        "additional_forward_args[0]",
        "seed",
    ]
    for count in (1, 4):
        x, given, shift = randn(count, shapes), torch.rand(count, 4), torch.rand(count, 6)
        found = package(x, baselines=given, additional_forward_args=shift, seed=5).attributions
        expected = explainer.attribute(
            x, baselines=(given, 0.5), additional_forward_args=(shift, 2.0), seed=5, **options
        )
        torch.testing.assert_close(found, expected, **CLOSE)


@needs_library
def test_noise_tunnel_over_what_draws():
    baselines, x = torch.rand(4, 7), randn(3, [(7,)])
    for method, options in (
        (IntegratedGradients, {"draw_baseline_from_distrib": True, "n_steps": 4}),
        (GradientShap, {"n_samples": 3}),
    ):
        explainer = NoiseTunnel(method(mlp()))
        options |= {"nt_samples": 6, "stdevs": 0.2, "baselines": baselines}
        package = traced(explainer, x, target="argmax", **options)
        found = package(x[:2], seed=8)
        target = explainer.forward_func(x[:2]).argmax(1)
        expected = explainer.attribute(x[:2], target=target, seed=8, **options)
        torch.testing.assert_close(found.attributions, expected, **CLOSE)


@needs_library
def test_seeds():
    explainer, x = NoiseTunnel(Saliency(mlp())), randn(3, [(7,)])
    package = traced(explainer, x, target=1)
    assert package.manifest.method == "Noise Tunnel over Saliency" and "seed" in repr(package)
    torch.manual_seed(6)
    found = package(x).attributions
    assert not torch.equal(package(x).attributions, found)
    torch.manual_seed(6)
    assert torch.equal(package(x).attributions, found)
    assert package(x[:0]).attributions.shape == (0, 7)
    with pytest.raises(ArgumentError, match="seed: expected an integer or None"):
        package(x, seed=0.5)
    fixed = traced(explainer, x, target=1, seed=3)
    expected = explainer.attribute(x, target=1, seed=3)
    torch.testing.assert_close(fixed(x).attributions, expected, **CLOSE)
    with pytest.raises(ArgumentError, match="seed: expected none: it was built in, or"):
        fixed(x, seed=3)


@pytest.mark.parametrize(
    ("explainer", "arguments", "message"),
    [
        (NoiseTunnel(Saliency(mlp())), {"nt_type": "x"}, "nt_type: expected one of smoothgrad"),
        (NoiseTunnel(Saliency(mlp())), {"nt_samples": 0}, "nt_samples: expected an integer"),
        (NoiseTunnel(Saliency(mlp())), {"stdevs": -1.0}, "stdevs: expected a finite number"),
        (NoiseTunnel(Saliency(mlp())), {"nt_samples_batch_size": 2}, "nt_samples_batch_size: "),
        (NoiseTunnel(Saliency(mlp())), {"n_steps": 2}, "Saliency: .*n_steps"),
        (NoiseTunnel(KernelShap(mlp())), {}, "explainer: expected a NoiseTunnel over a method"),
        (NoiseTunnel(NoiseTunnel(Saliency(mlp()))), {}, "explainer: expected a NoiseTunnel over"),
        (DeepLiftShap(mlp()), {"baselines": torch.rand(1, 7)}, "baselines: expected two rows or"),
        (DeepLiftShap(mlp()), {"baselines": torch.rand}, "baselines: expected rows, all of which"),
        (GradientShap(mlp()), {}, "Gradient Shap: .*baselines"),
        (GradientShap(mlp()), {"baselines": torch.rand}, "baselines: expected rows, all of which"),
        (GradientShap(mlp()), {"baselines": torch.rand(4, 6)}, "baselines: expected at least one"),
        (GradientShap(mlp()), {"baselines": torch.rand(4, 7), "seed": "a"}, "seed: expected"),
    ],
)
@needs_library
def test_export_of_what_draws_is_checked(tmp_path, explainer, arguments, message):
    with pytest.raises(ArgumentError, match=message):
        exported(tmp_path, explainer, randn(3, [(7,)]), target=1, **arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(native.backend() is not reference, reason="there is a compiled library")
def test_what_draws_needs_the_library(tmp_path):
    with pytest.raises(ArgumentError, match="explainer: expected a method that needs no compiled"):
        exported(tmp_path, NoiseTunnel(Saliency(mlp())), randn(3, [(7,)]), target=1)


@needs_library
@pytest.mark.slow
def test_native_code_draws_by_the_seed_of_the_call(tmp_path):
    explainer, x = GradientShap(mlp()), randn(3, [(7,)])
    options = {"n_samples": 6, "stdevs": 0.1, "baselines": torch.rand(4, 7)}
    package = exported(tmp_path, explainer, x, target="argmax", format="aoti", **options)
    for count, seed in ((1, 0), (2, 2**63 - 1), (5, 7)):
        x = randn(count, [(7,)])
        target = explainer.forward_func(x).argmax(1)
        expected = explainer.attribute(x, target=target, seed=seed, **options)
        torch.testing.assert_close(package(x, seed=seed).attributions, expected, **CLOSE)


def test_native_code_equals_the_eager_method(native_package):
    explainer, package = IntegratedGradients(mlp()), fastxai.load(native_package)
    strided = torch.randn(7, 4).T
    for x in (*(randn(count, MODELS["mlp"][1]) for count in (1, 2, 5, 0)), strided):
        found, outputs = package(x), explainer.forward_func(x).detach()
        torch.testing.assert_close(found.outputs, outputs, **CLOSE)
        expected = explainer.explain(x, target=outputs.argmax(1), n_steps=8)
        torch.testing.assert_close(found.attributions, expected.values, **CLOSE)
        torch.testing.assert_close(found.convergence_delta, expected.convergence_delta, **CLOSE)


# In every run, test_compiled.py gives native code its targets.
@pytest.mark.slow
@pytest.mark.library
def test_native_code_takes_targets(tmp_path):
    explainer, shapes = IntegratedGradients(mlp()), MODELS["mlp"][1]
    options = {"target": torch.tensor([0, 1]), "n_steps": 8}
    package = exported(tmp_path, explainer, randn(2, shapes), format="aoti", **options)
    for count in (1, 5, 0):
        x, target = randn(count, shapes), torch.arange(count) % 3
        assert_says_the_same(package, explainer, x, target, n_steps=8)
    x, target = randn(4, shapes), torch.tensor([3, -4, 0, 1])
    assert_says_the_same(package, explainer, x, target, n_steps=8)
