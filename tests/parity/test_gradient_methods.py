"""Captum 0.9.0 beside fastxai, argument by argument."""

import copy
import inspect

import captum.attr
import pytest
import torch

import fastxai
from fastxai.core.estimate import quadrature

from ..models import EmbeddingModel, ResidualCNN, Segmenter, TwoInputs, mlp, one_number

torch.manual_seed(10)
PADDING = torch.tensor([[False] * 5 + [True], [False] * 4 + [True] * 2, [False] * 6])

# model, inputs, arguments that every method takes
CASES = {
    "mlp": (mlp(), torch.randn(3, 7), {"target": 2}),
    "mlp, negative target": (mlp(), torch.randn(3, 7), {"target": -1}),
    "mlp, target tuple": (mlp(), torch.randn(3, 7), {"target": (1,)}),
    "mlp, target list": (mlp(), torch.randn(3, 7), {"target": [0, 3, 1]}),
    "mlp, target tensor": (mlp(), torch.randn(3, 7), {"target": torch.tensor([2, 2, 0])}),
    "mlp, target tensor of one": (mlp(), torch.randn(3, 7), {"target": torch.tensor([2])}),
    "mlp, target scalar tensor": (mlp(), torch.randn(3, 7), {"target": torch.tensor(1)}),
    "mlp, target list of tuples": (mlp(), torch.randn(3, 7), {"target": [(0,), (3,), (1,)]}),
    "one row": (mlp(), torch.randn(1, 7), {"target": [3]}),
    "residual cnn": (ResidualCNN(), torch.randn(3, 2, 6, 5), {"target": 4}),
    "embeddings": (EmbeddingModel(), torch.randn(3, 6, 8), {"target": 1}),
    "embeddings, padding": (
        EmbeddingModel(),
        torch.randn(3, 6, 8),
        {"target": 1, "additional_forward_args": PADDING},
    ),
    "segmenter, target tuple": (Segmenter(), torch.randn(3, 2, 6), {"target": (2, 4)}),
    "segmenter, target tuples": (
        Segmenter(),
        torch.randn(3, 2, 6),
        {"target": [(2, 4), (0, 0), (1, 5)]},
    ),
    "two inputs": (TwoInputs(), (torch.randn(3, 4), torch.randn(3, 2, 3)), {"target": 2}),
    "two inputs, extra tensor": (
        TwoInputs(),
        (torch.randn(3, 4), torch.randn(3, 2, 3)),
        {"target": 0, "additional_forward_args": torch.rand(3, 6)},
    ),
    "two inputs, extra tensor and number": (
        TwoInputs(),
        (torch.randn(3, 4), torch.randn(3, 2, 3)),
        {"target": [0, 1, 2], "additional_forward_args": (torch.rand(3, 6), 2.5)},
    ),
    "two inputs, None and a number": (
        TwoInputs(),
        (torch.randn(3, 4), torch.randn(3, 2, 3)),
        {"target": 1, "additional_forward_args": (None, 0.5)},
    ),
    "one number a row": (one_number, torch.randn(3, 4), {}),
    "one number a row, kept dimension": (
        lambda x: one_number(x)[:, None],
        torch.randn(3, 4),
        {},
    ),
    "no features": (lambda x: x**3, torch.randn(5), {}),
    "tuple of one": (mlp(), (torch.randn(3, 7),), {"target": 1}),
    "bound method": (mlp().forward, torch.randn(3, 7), {"target": 1}),
}


@pytest.fixture(params=CASES, ids=lambda name: name.replace(" ", "-").replace(",", ""))
def case(request):
    return CASES[request.param]


def double(value):
    """The same in float64."""
    if isinstance(value, torch.nn.Module):
        return copy.deepcopy(value).double()
    if inspect.ismethod(value):
        return getattr(double(value.__self__), value.__name__)
    if isinstance(value, tuple):
        return tuple(map(double, value))
    is_float = isinstance(value, torch.Tensor) and value.is_floating_point()
    return value.double() if is_float else value


def assert_same(ours, theirs, **tolerance):
    """Same form, shapes, dtypes and numbers."""
    assert type(ours) is type(theirs)
    torch.testing.assert_close(ours, theirs, **tolerance)


F32 = {"rtol": 1e-4, "atol": 1e-6}


@pytest.mark.filterwarnings("ignore:Input Tensor")  # Captum's
@pytest.mark.parametrize("absolute", [True, False])
def test_saliency(case, absolute):
    model, inputs, arguments = case
    ours = fastxai.Saliency(model).attribute(inputs, abs=absolute, **arguments)
    theirs = captum.attr.Saliency(model).attribute(inputs, abs=absolute, **arguments)
    assert_same(ours, theirs, **F32)


@pytest.mark.filterwarnings("ignore:Input Tensor")
def test_input_x_gradient(case):
    model, inputs, arguments = case
    ours = fastxai.InputXGradient(model).attribute(inputs, **arguments)
    theirs = captum.attr.InputXGradient(model).attribute(inputs, **arguments)
    detached = tuple(t.detach() for t in theirs) if isinstance(theirs, tuple) else theirs.detach()
    assert_same(ours, detached, **F32)


@pytest.mark.parametrize("method", quadrature.METHODS)
def test_integrated_gradients(case, method):
    model, inputs, arguments = case
    arguments = {**arguments, "method": method, "n_steps": 23, "return_convergence_delta": True}
    ours = fastxai.IntegratedGradients(model).attribute(inputs, **arguments)
    theirs = captum.attr.IntegratedGradients(model).attribute(inputs, **arguments)
    assert_same(ours[0], theirs[0], **F32)
    torch.testing.assert_close(ours[1], theirs[1].reshape(-1), rtol=1e-4, atol=2e-6)


def test_integrated_gradients_in_float64(case):
    model, inputs, arguments = (
        double(part) if not isinstance(part, dict) else part for part in case
    )
    arguments = {name: double(value) for name, value in arguments.items()}
    ours = fastxai.IntegratedGradients(model).attribute(inputs, **arguments)
    theirs = captum.attr.IntegratedGradients(model).attribute(inputs, **arguments)
    assert_same(ours, theirs, rtol=1e-6, atol=1e-8)  # Captum rounds its weights to float32


@pytest.mark.parametrize("multiply", [True, False])
@pytest.mark.parametrize(
    ("steps", "rows"),
    [(1, None), (1, 3), (2, 7), (50, 3), (50, 7), (50, 40), (50, 10_000), (301, None), (301, 40)],
)
def test_steps_multiplication_and_internal_batch_size(multiply, steps, rows):
    model, x = ResidualCNN(), torch.randn(3, 2, 6, 5)
    arguments = {"target": [0, 1, 2], "n_steps": steps, "internal_batch_size": rows}
    ours = fastxai.IntegratedGradients(model, multiply_by_inputs=multiply)
    theirs = captum.attr.IntegratedGradients(model, multiply_by_inputs=multiply)
    assert ours.multiplies_by_inputs == theirs.multiplies_by_inputs
    assert_same(ours.attribute(x, **arguments), theirs.attribute(x, **arguments), **F32)


BASELINES = {
    "none": None,
    "zero": 0,
    "number": 0.3,
    "tensor": torch.randn(3, 7),
    "one row": torch.randn(1, 7),
}


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("in_tuple", [False, True])
def test_baselines(name, in_tuple):
    x, baselines = torch.randn(3, 7), BASELINES[name]
    if in_tuple:
        x, baselines = (x,), None if baselines is None else (baselines,)
    arguments = {"baselines": baselines, "target": 1, "return_convergence_delta": True}
    ours = fastxai.IntegratedGradients(mlp()).attribute(x, **arguments)
    theirs = captum.attr.IntegratedGradients(mlp()).attribute(x, **arguments)
    assert_same(ours[0], theirs[0], **F32)
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize(
    "baselines",
    [
        (0.5, torch.randn(3, 2, 3)),
        (torch.randn(1, 4), -1),
        (torch.randn(3, 4), torch.randn(1, 2, 3)),
    ],
)
def test_baselines_of_a_tuple(baselines):
    inputs = (torch.randn(3, 4), torch.randn(3, 2, 3))
    ours = fastxai.IntegratedGradients(TwoInputs()).attribute(inputs, baselines, 1)
    theirs = captum.attr.IntegratedGradients(TwoInputs()).attribute(inputs, baselines, 1)
    assert_same(ours, theirs, **F32)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precisions(dtype):
    model, x, baseline = mlp().to(dtype), torch.randn(3, 7).to(dtype), torch.randn(1, 7).to(dtype)
    # Captum rounds the points and their differences to the half type on the way; we round once.
    tolerance = {"rtol": 0.05, "atol": 0.02 if dtype == torch.bfloat16 else 4e-3}
    ours = fastxai.IntegratedGradients(model).attribute(x, baseline, 1)
    theirs = captum.attr.IntegratedGradients(model).attribute(x, baseline, 1)
    assert_same(ours, theirs, **tolerance)
    assert_same(
        fastxai.Saliency(model).attribute(x, 1),
        captum.attr.Saliency(model).attribute(x.clone().requires_grad_(), 1),
        **tolerance,
    )
    theirs = captum.attr.InputXGradient(model).attribute(x.clone().requires_grad_(), 1).detach()
    assert_same(fastxai.InputXGradient(model).attribute(x, 1), theirs, **tolerance)


def test_compute_convergence_delta():
    x, baseline, values = torch.randn(3, 7), torch.randn(1, 7), torch.randn(3, 7)
    arguments = (values, baseline, x, torch.tensor([0, 1, 2]))
    ours = fastxai.IntegratedGradients(mlp()).compute_convergence_delta(*arguments)
    theirs = captum.attr.IntegratedGradients(mlp()).compute_convergence_delta(*arguments)
    torch.testing.assert_close(ours, theirs)


def test_positional_arguments_stand_in_captums_order():
    x, shift = (torch.randn(3, 4), torch.randn(3, 2, 3)), torch.rand(3, 6)
    model = TwoInputs()
    arguments = (x, (0.1, 0.2), 1, (shift, 2.0), 12, "riemann_left", 9, True)
    ours = fastxai.IntegratedGradients(model, True).attribute(*arguments)
    theirs = captum.attr.IntegratedGradients(model, True).attribute(*arguments)
    assert_same(ours[0], theirs[0], **F32)
    assert_same(
        fastxai.Saliency(model).attribute(x, 1, False, (shift, 2.0)),
        captum.attr.Saliency(model).attribute(
            tuple(t.clone().requires_grad_() for t in x), 1, False, (shift, 2.0)
        ),
        **F32,
    )


@pytest.mark.parametrize("name", ["IntegratedGradients", "Saliency", "InputXGradient"])
def test_what_captum_code_asks_of_a_method(name):
    ours, theirs = getattr(fastxai.attr, name)(mlp()), getattr(captum.attr, name)(mlp())
    assert ours.get_name() == theirs.get_name()
    assert ours.has_convergence_delta() == theirs.has_convergence_delta()
    assert ours.multiplies_by_inputs == theirs.multiplies_by_inputs
    with pytest.raises(NotImplementedError):
        ours.attribute_future()


@pytest.mark.parametrize("name", ["IntegratedGradients", "Saliency", "InputXGradient"])
def test_inside_captums_noise_tunnel(name):
    x, results = torch.randn(3, 7), []
    for library in (fastxai.attr, captum.attr):
        tunnel = captum.attr.NoiseTunnel(getattr(library, name)(mlp()))
        torch.manual_seed(5)
        results.append(
            tunnel.attribute(x.clone().requires_grad_(), nt_samples=4, target=1).detach()
        )
    torch.testing.assert_close(*results, **F32)
