"""Exported perturbation methods say what the eager ones say, for any number of rows."""

import pytest
import torch

import fastxai
from fastxai import ArgumentError, FeatureAblation, KernelShap, Lime, Occlusion
from fastxai.attr import Lasso, LeastSquares, Ridge, get_exp_kernel_similarity_function
from fastxai.ops import native, reference

from ..models import Encoder, ResidualCNN, Segmenter, TwoInputs, mlp
from .test_gradient_methods import CLOSE, assert_says_the_same, exported, randn, traced

MODELS = {
    "mlp": (mlp, [(7,)], None, (3,)),
    "cnn": (ResidualCNN, [(2, 6, 5)], torch.arange(6)[None, :, None] // 2, (2, 3, 2)),
    "transformer": (Encoder, [(6, 4)], torch.arange(6)[:, None], (2, 4)),
    "two inputs": (
        TwoInputs,
        [(4,), (2, 3)],
        (torch.tensor([[0, 0, 5, 9]]), torch.tensor([[[9, 2, 3], [7, 7, 2]]])),
        ((2,), (1, 2)),
    ),
}
METHODS = {
    "FeatureAblation": FeatureAblation,
    "KernelShap": KernelShap,
    "Lime": lambda model: Lime(model, Ridge(0.1)),
}


# Every method with every kind of model, but for pairs that have nothing new in them.
@pytest.mark.parametrize(
    ("method", "model"),
    [
        ("FeatureAblation", "cnn"),
        ("FeatureAblation", "two inputs"),
        ("KernelShap", "mlp"),
        ("KernelShap", "transformer"),
        ("KernelShap", "two inputs"),
        ("Lime", "cnn"),
        ("Lime", "two inputs"),
        ("Occlusion", "mlp"),
        ("Occlusion", "cnn"),
        ("Occlusion", "transformer"),
        ("Occlusion", "two inputs"),
    ],
)
def test_equals_the_eager_method(tmp_path, model, method):
    build, shapes, mask, window = MODELS[model]
    if method == "Occlusion":
        explainer, arguments = Occlusion(build()), {"sliding_window_shapes": window}
    else:
        explainer, arguments = METHODS[method](build()), {"feature_mask": mask}
    if method in ("KernelShap", "Lime"):
        arguments |= {"n_samples": 20, "seed": 3}
    target = torch.tensor([0, 1, 2])
    package = exported(tmp_path, explainer, randn(3, shapes), target=target, **arguments)
    for count in (1, 2, 5):
        target, inputs = torch.arange(count) % 3, randn(count, shapes)
        found = assert_says_the_same(package, explainer, inputs, target, **arguments)
        if method == "KernelShap":
            expected = explainer.explain(inputs, target=target, **arguments).standard_errors
            torch.testing.assert_close(found.standard_errors, expected, **CLOSE)
        else:
            assert found.standard_errors is None


@pytest.mark.filterwarnings("ignore:n_samples")  # 6 are too few
@pytest.mark.parametrize("n_samples", [6, 24, 128])
def test_every_design_of_kernel_shap(n_samples):
    explainer, x = KernelShap(mlp().double()), randn(4, [(7,)]).double()
    options = {"target": 2, "n_samples": n_samples, "seed": 5, "baselines": 0.3}
    found = traced(explainer, x, **options)(x)
    expected, close = explainer.explain(x, **options), {"rtol": 1e-9, "atol": 1e-11}
    torch.testing.assert_close(found.attributions, expected.values, **close)
    errors = found.standard_errors  # NaN of 6 samples, of 128, which are all, zero
    torch.testing.assert_close(errors, expected.standard_errors, equal_nan=True, **close)
    assert n_samples != 24 or (errors > 1e-6).all()
    with torch.no_grad():
        gain = explainer.forward_func(x) - explainer.forward_func(torch.full_like(x, 0.3))
    torch.testing.assert_close(found.attributions.sum(1), gain[:, 2], rtol=1e-9, atol=1e-11)


@pytest.mark.filterwarnings("ignore:n_samples")
@pytest.mark.parametrize(("n_samples", "tier"), [(9, "fast"), (50, "shared"), (128, "fast")])
def test_kernel_shap_by_shared_kriging(n_samples, tier):
    explainer, x = KernelShap(mlp().double()), randn(4, [(7,)]).double()
    options = {"target": 2, "n_samples": n_samples, "seed": 5, "tier": "shared"}
    package = traced(explainer, x, **options)
    for rows in (x[:1], torch.cat([x, 2 * x])):
        found, expected = package(rows), explainer.explain(rows, **options)
        assert expected.tier == tier
        close = {"rtol": 1e-9, "atol": 1e-11, "equal_nan": True}
        torch.testing.assert_close(found.attributions, expected.values, **close)
        torch.testing.assert_close(found.standard_errors, expected.standard_errors, **close)


def test_kernel_shap_over_a_background():
    explainer, x = KernelShap(mlp()), randn(3, [(7,)])
    options = {"target": 1, "background": torch.rand(4, 7), "n_samples": 30, "seed": 0}
    found, expected = (
        traced(explainer, x, **options)(x),
        explainer.explain(x, **options),
    )
    torch.testing.assert_close(found.attributions, expected.values, **CLOSE)
    torch.testing.assert_close(found.standard_errors, expected.standard_errors, **CLOSE)


@pytest.mark.parametrize(
    ("fit", "distance_mode", "width"),
    [
        (LeastSquares(), "cosine", 1.0),
        (Ridge(2.0), "euclidean", 3.0),
        (Lasso(0.002), "cosine", 0.5),
        (Lasso(0.0), "euclidean", 2.0),
    ],
)
def test_every_fit_of_lime(fit, distance_mode, width):
    kernel = get_exp_kernel_similarity_function(distance_mode, width)
    explainer, x = Lime(mlp().double(), fit, kernel), randn(3, [(7,)]).double()
    options = {"target": 1, "baselines": torch.rand(1, 7).double(), "n_samples": 33, "seed": 1}
    lasso = isinstance(fit, Lasso) and fit.alpha > 0
    if lasso and native.backend() is reference:
        with pytest.raises(ArgumentError, match="interpretable_model: expected a Ridge"):
            traced(explainer, x, **options)
        return
    package = traced(explainer, x, standard_errors=True, **options)
    assert package.manifest.needs_library == lasso
    rows = x[:2] * 1.5
    found, expected = package(rows), explainer.explain(rows, **options)
    torch.testing.assert_close(found.attributions, expected.values, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(
        found.standard_errors, expected.standard_errors, rtol=1e-7, atol=1e-9
    )
    assert (found.standard_errors > 1e-6).any()
    if lasso:
        assert (found.attributions == 0).any() and (found.attributions != 0).any()


def test_all_outputs_without_a_target():
    x = randn(3, [(2, 4)])
    for explainer, arguments in (
        (FeatureAblation(Segmenter()), {}),
        (Occlusion(Segmenter()), {"sliding_window_shapes": (1, 2), "strides": (1, 2)}),
        (KernelShap(Segmenter()), {"n_samples": 40, "seed": 1}),
        (Lime(Segmenter(), Ridge()), {"n_samples": 40, "seed": 1}),
    ):
        sampled = {"standard_errors": True} if "n_samples" in arguments else {}
        package = traced(explainer, x, **sampled, **arguments)
        for rows in (x[:1], torch.cat([x, x])):
            found, expected = package(rows), explainer.explain(rows, **arguments)
            torch.testing.assert_close(found.attributions, expected.values, **CLOSE)
            torch.testing.assert_close(found.standard_errors, expected.standard_errors, **CLOSE)


def test_one_number_for_each_group():
    shapes, mask = MODELS["two inputs"][1:3]
    inputs = randn(3, shapes)
    for explainer in (KernelShap(TwoInputs()), Lime(TwoInputs(), Ridge())):
        options = {"n_samples": 30, "seed": 2, "feature_mask": mask, "return_input_shape": False}
        package = traced(explainer, inputs, target="argmax", standard_errors=True, **options)
        found = package(inputs)
        expected = explainer.explain(inputs, target=found.outputs.argmax(1), **options)
        torch.testing.assert_close(found.attributions, expected.values, **CLOSE)
        torch.testing.assert_close(found.standard_errors, expected.standard_errors, **CLOSE)


def test_kernel_shap_without_standard_errors():
    explainer, options = KernelShap(mlp()), {"target": 1, "n_samples": 30, "seed": 0}
    package = traced(explainer, randn(3, [(7,)]), standard_errors=False, **options)
    found = package(randn(2, [(7,)]))
    assert found.standard_errors is None and len(package.manifest.results) == 2
    expected = explainer.attribute(randn(2, [(7,)]), **options)
    torch.testing.assert_close(found.attributions, expected, **CLOSE)


def test_baselines_and_extra_arguments_given(tmp_path):
    shapes = MODELS["two inputs"][1]
    for explainer in (FeatureAblation(TwoInputs()), KernelShap(TwoInputs())):
        sampled = {"n_samples": 40, "seed": 2} if isinstance(explainer, KernelShap) else {}
        package = exported(
            tmp_path,
            explainer,
            randn(3, shapes),
            target=1,
            baselines=(torch.rand(3, 4), 0.5),
            additional_forward_args=(torch.rand(3, 6), 2.0),
            **sampled,
        )
        for count in (1, 4):
            rows, given, shift = randn(count, shapes), torch.rand(count, 4), torch.rand(count, 6)
            found = package(rows, baselines=given, additional_forward_args=shift).attributions
            expected = explainer.attribute(rows, (given, 0.5), 1, (shift, 2.0), **sampled)
            torch.testing.assert_close(found, expected, **CLOSE)


def test_integer_inputs(tmp_path):
    model = torch.nn.Sequential(
        torch.nn.Embedding(9, 4), torch.nn.Flatten(), torch.nn.Linear(20, 2)
    )
    explainer, x = FeatureAblation(model.eval()), torch.arange(15).reshape(3, 5) % 9
    package = exported(tmp_path, explainer, x, target=1)
    torch.testing.assert_close(package(x[:2]).attributions, explainer.attribute(x[:2], target=1))


@pytest.mark.parametrize(
    ("explainer", "arguments", "message"),
    [
        (KernelShap(mlp()), {"perturbations_per_eval": 4}, "perturbations_per_eval: expected None"),
        (KernelShap(mlp()), {"show_progress": True}, "show_progress: expected False"),
        (KernelShap(mlp()), {"n_samples": 1}, "n_samples: expected"),
        (KernelShap(mlp()), {"n_samples": "auto"}, "n_samples: expected an integer"),
        (KernelShap(mlp()), {"design": "enumeration", "n_samples": 4}, "design: "),
        (KernelShap(mlp()), {"tier": "accurate"}, "tier: expected None, fast or shared, as a pack"),
        (KernelShap(mlp()), {"tier": "slow"}, "tier: expected None or one of"),
        (KernelShap(mlp()), {"seed": "x"}, "seed: expected"),
        (
            FeatureAblation(mlp()),
            {"feature_mask": torch.zeros(3, 7, dtype=torch.int64)},
            "feature_mask: expected one row for all examples",
        ),
        (
            FeatureAblation(mlp()),
            {"standard_errors": True},
            "standard_errors: expected None, as Feature Ablation has no",
        ),
        (KernelShap(mlp()), {"standard_errors": 1}, "standard_errors: expected a bool or None"),
        (FeatureAblation(mlp()), {"color": 1}, "color: expected no such argument"),
        (Lime(mlp(), similarity_func=len), {}, "similarity_func: expected"),
        (Lime(mlp(), perturb_func=len), {}, "perturb_func: expected"),
        (Occlusion(mlp()), {}, "Occlusion: .*sliding_window_shapes"),
        (Occlusion(mlp()), {"sliding_window_shapes": (9,)}, "sliding_window_shapes: expected"),
        (
            fastxai.FeaturePermutation(mlp()),
            {},
            "explainer: expected a method that can be exported",
        ),
    ],
)
def test_export_is_checked(tmp_path, explainer, arguments, message):
    path = tmp_path / "package.pt2"
    with pytest.raises(ArgumentError, match=message):
        fastxai.export(explainer, randn(3, [(7,)]), path, format="torch", target=1, **arguments)
    assert list(tmp_path.iterdir()) == []


class Logarithm(torch.nn.Module):
    def forward(self, x):
        return x.log().sum(1, keepdim=True)


def test_an_output_that_is_nan():
    x = torch.rand(3, 4) + 0.5
    explainer = FeatureAblation(Logarithm().eval())
    package = traced(explainer, x, baselines=1.0)
    bad = x.clone()
    bad[1, 2] = -1
    for call in (package, lambda x: explainer.attribute(x, 1.0)):
        with pytest.raises(ArgumentError, match=r"forward_func: .*NaN for row 1 of the inputs"):
            call(bad)
    bad[1, 2] = 0  # an infinite output is one
    assert package(bad).outputs[1].isinf()


@pytest.mark.library
def test_native_code_equals_the_eager_method(tmp_path):
    explainer, options = KernelShap(mlp()), {"n_samples": 40, "seed": 4}
    x = randn(2, [(7,)])
    package = exported(tmp_path, explainer, x, target="argmax", format="aoti", **options)
    for count in (1, 2, 5, 0):
        x = randn(count, [(7,)])
        classes = explainer.forward_func(x).argmax(1)
        found = package(x).attributions
        torch.testing.assert_close(
            found, explainer.attribute(x, target=classes, **options), **CLOSE
        )
