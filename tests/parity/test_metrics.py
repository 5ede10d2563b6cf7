"""Captum's metrics beside fastxai's, on the same perturbations."""

import inspect

import captum.attr
import captum.metrics
import pytest
import torch

import fastxai
from fastxai import metrics

from ..models import TwoInputs, mlp
from .test_gradient_methods import CASES, F32, double

EXACT = {"rtol": 1e-9, "atol": 1e-12}


def shifted(inputs):
    """Perturbations that depend on the input alone, and the perturbed inputs."""
    if isinstance(inputs, tuple):
        return tuple(zip(*map(shifted, inputs), strict=True))
    change = (
        0.3
        * torch.sin(5 * inputs)
        * torch.linspace(0.2, 1, inputs[0].numel()).reshape(inputs[0].shape)
    )
    return change, inputs - change


def random(inputs, *_):
    """Draws from the global generator, as most users' functions do."""
    if isinstance(inputs, tuple):
        return tuple(zip(*map(random, inputs), strict=True))
    change = 0.1 * torch.randn_like(inputs)
    return change, inputs - change


def rows_only(function):
    return lambda inputs, *_: function(inputs)[1]


@pytest.fixture(params=CASES, ids=lambda name: name.replace(" ", "-").replace(",", ""))
def case(request):
    model, inputs, arguments = CASES[request.param]
    return double(model), double(inputs), {k: double(v) for k, v in arguments.items()}


def rows_of(inputs):
    return len(inputs[0] if isinstance(inputs, tuple) else inputs)


def both(name, *args, **kwargs):
    """Ours and Captum's result, the global generator starting at the same place."""
    found = []
    for library in (metrics, captum.metrics):
        torch.manual_seed(1)
        found.append(getattr(library, name)(*args, **kwargs))
    return found


@pytest.mark.parametrize("name", metrics.__all__)
def test_signatures(name):
    ours = inspect.signature(getattr(metrics, name)).parameters
    theirs = inspect.signature(getattr(captum.metrics, name)).parameters
    assert [n for n in ours if n != "seed"] == list(theirs)
    for parameter, expected in theirs.items():
        assert ours[parameter].kind == expected.kind
        if parameter != "perturb_func":  # Captum's default is a function of its own
            assert ours[parameter].default == expected.default


@pytest.mark.parametrize("perturb", [shifted, random])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("at_once", [6, 2])
def test_infidelity(case, perturb, normalize, at_once):
    model, inputs, arguments = case
    values = fastxai.InputXGradient(model).attribute(inputs, **arguments)
    ours, theirs = both(
        "infidelity",
        model,
        perturb,
        inputs,
        values,
        n_perturb_samples=6,
        max_examples_per_batch=at_once * rows_of(inputs),
        normalize=normalize,
        **arguments,
    )
    torch.testing.assert_close(ours, theirs, **EXACT)


@pytest.mark.parametrize("multiply", [True, False])
@pytest.mark.parametrize("baselines", [None, 0.5, (0.5, 0.0), "rows", "one row"])
def test_decorator_and_baselines(multiply, baselines):
    model = TwoInputs().double()
    inputs = (torch.randn(3, 4).double(), torch.randn(3, 2, 3).double())
    inputs[0][1, 2] = 0.5  # where the baseline is the input
    if baselines == "rows":
        baselines = tuple(x.flip(0) for x in inputs)
    elif baselines == "one row":
        baselines = tuple(x[:1] for x in inputs)
    elif baselines == 0.5:  # one input: no tuple comes to the function
        model, inputs = mlp().double(), inputs[0].repeat(1, 2)[:, :7]
    seen = []

    def perturb(inputs, *given):
        seen.append(given)
        return random(inputs)[1]

    values = fastxai.InputXGradient(model).attribute(inputs, 1)
    for library in (metrics, captum.metrics):
        torch.manual_seed(1)
        decorated = library.infidelity_perturb_func_decorator(multiply)(perturb)
        found = library.infidelity(
            model, decorated, inputs, values, baselines, None, 1, max_examples_per_batch=30
        )
        seen.append(found)
    torch.testing.assert_close(seen[1], seen[3], **EXACT)
    torch.testing.assert_close(seen[0], seen[2], rtol=0, atol=0)


METHODS = {
    "Saliency": captum.attr.Saliency,
    "IntegratedGradients": captum.attr.IntegratedGradients,
    "ours": fastxai.IntegratedGradients,
}


@pytest.mark.filterwarnings("ignore:Input Tensor")  # Captum's
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("at_once", [4, 2])
def test_sensitivity(case, method, at_once):
    model, inputs, arguments = case
    ours, theirs = both(
        "sensitivity_max",
        METHODS[method](model).attribute,
        inputs,
        rows_only(random),
        n_perturb_samples=4,
        max_examples_per_batch=at_once * rows_of(inputs),
        **arguments,
    )
    torch.testing.assert_close(ours, theirs, **EXACT)


@pytest.mark.parametrize("norm_ord", ["fro", 2, 1, 0.5, 3, 0, float("inf"), float("-inf")])
def test_norms(norm_ord):
    ours, theirs = both(
        "sensitivity_max",
        captum.attr.IntegratedGradients(mlp()).attribute,
        torch.randn(3, 7),
        lambda x, radius: x + radius * torch.randn_like(x),
        0.3,
        norm_ord=norm_ord,
        target=2,
    )
    torch.testing.assert_close(ours, theirs, **F32)


@pytest.mark.parametrize("rows", [1, 3])
def test_baselines_of_the_explanation(rows):
    ours, theirs = both(
        "sensitivity_max",
        captum.attr.IntegratedGradients(TwoInputs()).attribute,
        (torch.randn(3, 4), torch.randn(3, 2, 3)),
        rows_only(random),
        baselines=(torch.randn(rows, 4), torch.randn(rows, 2, 3)),
        target=[0, 2, 1],
        additional_forward_args=(torch.rand(3, 6), 2.0),
    )
    torch.testing.assert_close(ours, theirs, **F32)


def test_default_perturbations_are_of_the_same_kind():
    # The largest change of sin over [-r, r] from 0 tells how far the perturbations reach.
    x = torch.zeros(4, 1)
    explain = captum.attr.Saliency(lambda x: 1 - x.cos()[:, 0]).attribute
    ours, theirs = both("sensitivity_max", explain, x, n_perturb_samples=2000, perturb_radius=0.5)
    limit = torch.tensor(0.5).sin().expand(4)
    torch.testing.assert_close(ours, limit, rtol=1e-2, atol=0)
    torch.testing.assert_close(theirs, limit, rtol=1e-2, atol=0)
    assert (ours <= limit).all()
