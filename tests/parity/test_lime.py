"""LIME beside Captum 0.9.0: on the same samples, the same numbers."""

import inspect
import warnings

import captum.attr
import pytest
import torch
from captum._utils.models.linear_model import (
    SGDLinearRegression,
    SkLearnLasso,
    SkLearnLinearRegression,
    SkLearnRidge,
)
from captum.attr._core import lime as captum_lime
from torch import Tensor

import fastxai
from fastxai.attr import Lasso, LeastSquares, Lime, LimeBase, Ridge
from fastxai.attr import get_exp_kernel_similarity_function as exp_kernel

from ..models import ResidualCNN, Segmenter, TwoInputs, mlp, one_number

pytestmark = [
    pytest.mark.filterwarnings("ignore:You are providing multiple inputs"),  # Captum's
    pytest.mark.filterwarnings("ignore:Minimum element in feature mask"),
    pytest.mark.filterwarnings("ignore:Objective did not converge"),  # in float32, to 1e-12
]
LIBRARIES = (fastxai.attr, captum.attr)
CLOSE = {"rtol": 1e-4, "atol": 2e-6}
PAIR = (torch.randn(3, 4), torch.randn(3, 2, 3))

# Our surrogate, and Captum's name for it with a tolerance that lets it get there.
SURROGATES = {
    "lasso": (Lasso(0.01), lambda: SkLearnLasso(alpha=0.01, tol=1e-12, max_iter=100_000)),
    "ridge": (Ridge(0.5), lambda: SkLearnRidge(alpha=0.5)),
    "least squares": (LeastSquares(), SkLearnLinearRegression),
}

torch.manual_seed(20)
# model, inputs, arguments
CASES = {
    "mlp": (mlp(), torch.randn(1, 7), {"target": 2}),
    "rows": (mlp(), torch.randn(3, 7), {"target": 1}),
    "target list": (mlp(), torch.randn(3, 7), {"target": [0, 3, 1]}),
    "target tuples": (Segmenter(), torch.randn(3, 2, 6), {"target": [(2, 4), (0, 0), (1, 5)]}),
    "one number a row": (one_number, torch.randn(3, 5), {}),
    "one number a row, kept dimension": (lambda x: one_number(x)[:, None], torch.randn(3, 5), {}),
    "one number for the batch": (lambda x: one_number(x).sum(), torch.randn(3, 5), {}),
    "baseline number": (mlp(), torch.randn(2, 7), {"target": 1, "baselines": 0.4}),
    "baseline row": (mlp(), torch.randn(2, 7), {"target": 1, "baselines": torch.randn(1, 7)}),
    "baseline rows": (mlp(), torch.randn(2, 7), {"target": 1, "baselines": torch.randn(2, 7)}),
    "mask": (
        ResidualCNN(),
        torch.randn(2, 2, 6, 5),
        {"target": 4, "feature_mask": torch.arange(6).reshape(1, 1, 6, 1).expand(1, 2, 6, 5) // 2},
    ),
    "mask for each row": (
        mlp(),
        torch.randn(2, 7),
        {"target": 1, "feature_mask": torch.tensor([[0, 0, 1, 1, 2, 2, 3], [3, 2, 1, 0, 0, 0, 0]])},
    ),
    "mask from 2": (
        mlp(),
        torch.randn(2, 7),
        {"target": 1, "feature_mask": torch.tensor([[2, 2, 3, 3, 4, 4, 5]])},
    ),
    "two inputs": (TwoInputs(), PAIR, {"target": 2}),
    "two inputs, masks that share ids": (
        TwoInputs(),
        PAIR,
        {
            "target": 2,
            "baselines": (0.5, torch.randn(1, 2, 3)),
            "feature_mask": (torch.tensor([[0, 0, 1, 2]]), torch.tensor([[[0, 3, 3], [1, 4, 4]]])),
        },
    ),
    "extra arguments": (
        TwoInputs(),
        PAIR,
        {"target": [0, 1, 2], "additional_forward_args": (torch.rand(3, 6), 2.5)},
    ),
    "tuple of one": (mlp(), (torch.randn(2, 7),), {"target": 1}),
}


@pytest.fixture(params=CASES, ids=lambda name: name.replace(" ", "-").replace(",", ""))
def case(request):
    return CASES[request.param]


@pytest.fixture(params=SURROGATES)
def surrogates(request):
    return SURROGATES[request.param]


def fixed_coalitions(inputs, **kwargs):
    """The same coalitions whenever it is asked."""
    generator = torch.Generator().manual_seed(3)
    while True:
        yield torch.randint(2, (1, kwargs["num_interp_features"]), generator=generator)


def assert_same(ours, theirs, **tolerance):
    assert type(ours) is type(theirs)
    torch.testing.assert_close(ours, theirs, **tolerance)


def test_same_coalitions_give_the_same_coefficients(case, surrogates):
    model, inputs, arguments = case
    arguments, (ours, theirs) = {**arguments, "n_samples": 40}, surrogates
    found = Lime(model, ours, perturb_func=fixed_coalitions).attribute(inputs, **arguments)
    lime = captum.attr.Lime(model, theirs(), perturb_func=fixed_coalitions)
    assert_same(found, lime.attribute(inputs, **arguments), **CLOSE)


def test_one_number_for_each_group(case):
    model, inputs, arguments = case
    arguments = {**arguments, "n_samples": 40, "return_input_shape": False}
    found = Lime(model, Ridge(), perturb_func=fixed_coalitions).attribute(inputs, **arguments)
    lime = captum.attr.Lime(model, SkLearnRidge(), perturb_func=fixed_coalitions)
    assert_same(found, lime.attribute(inputs, **arguments), **CLOSE)


def test_captums_surrogates_with_ours_of_everything_else(case):
    model, inputs, arguments = case
    theirs = SkLearnLasso(alpha=0.01, tol=1e-12, max_iter=100_000)
    arguments = {**arguments, "n_samples": 60, "seed": 4}
    found = Lime(model, theirs).attribute(inputs, **arguments)
    torch.testing.assert_close(found, Lime(model).attribute(inputs, **arguments), **CLOSE)


def test_the_defaults_are_captums(case):
    model, inputs, arguments = case
    arguments = {**arguments, "n_samples": 60}
    found = Lime(model, perturb_func=fixed_coalitions).attribute(inputs, **arguments)
    expected = captum.attr.Lime(model, perturb_func=fixed_coalitions).attribute(inputs, **arguments)
    # Captum leaves scikit-learn's Lasso at its tolerance, 1e-4 of the variance.
    assert_same(found, expected, rtol=0.02, atol=2e-3)


@pytest.mark.parametrize("mode", ["cosine", "euclidean"])
@pytest.mark.parametrize("width", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("inputs", [torch.randn(2, 7), PAIR], ids=["tensor", "tuple"])
def test_kernels(mode, width, inputs):
    ours = exp_kernel(mode, width)
    theirs = captum_lime.get_exp_kernel_similarity_function(mode, width)
    shift = tuple(x + 0.3 * torch.randn_like(x) for x in PAIR)
    perturbed = shift if isinstance(inputs, tuple) else inputs + 0.3 * torch.randn(2, 7)
    nothing = tuple(map(torch.zeros_like, PAIR)) if isinstance(inputs, tuple) else 0 * inputs
    for p in (inputs, perturbed, nothing):
        expected = theirs(inputs, p, None, baselines=0)
        assert ours(inputs, p, None, baselines=0) == pytest.approx(expected, rel=1e-5)
    assert inspect.signature(exp_kernel).parameters.keys() == (
        inspect.signature(captum_lime.get_exp_kernel_similarity_function).parameters.keys()
    )


@pytest.mark.parametrize("mode", ["cosine", "euclidean"])
def test_a_kernel_with_captums_name_for_it(mode):
    x, arguments = torch.randn(2, 7), {"target": 1, "n_samples": 60}
    found, called = [], []
    for library, kernel in ((fastxai.attr, exp_kernel), (captum.attr, exp_kernel)):
        lime = library.Lime(mlp(), SkLearnRidge(), kernel(mode, 2.0), fixed_coalitions)
        found.append(lime.attribute(x, **arguments))
    torch.testing.assert_close(*found, **CLOSE)

    def similarity(inputs, perturbed, coalition, **kwargs):
        called.append(kwargs.keys())
        return captum_lime.get_exp_kernel_similarity_function(mode, 2.0)(inputs, perturbed, None)

    lime = Lime(mlp(), Ridge(), similarity, fixed_coalitions)
    torch.testing.assert_close(lime.attribute(x, **arguments), found[0], **CLOSE)
    assert called == [{"baselines", "feature_mask", "num_interp_features"}] * 120


class Recorded:
    """A surrogate that keeps what it was given, and answers with the mean of x weighted by w y."""

    def __init__(self):
        self.seen = []

    def fit(self, loader):
        (batch,) = list(loader)
        self.seen.append([part.clone() for part in batch])

    def representation(self) -> Tensor:
        x, y, weights = self.seen[-1]
        return (x * (weights * y)[:, None]).mean(0)


def log_calls(log, function):
    def logged(*args, **kwargs):
        log.append((args, kwargs))
        return function(*args, **kwargs)

    return logged


def assert_same_calls(ours, theirs):
    """The same arguments, in form, shape and numbers."""
    assert len(ours) == len(theirs) > 0
    for (args, kwargs), (their_args, their_kwargs) in zip(ours, theirs, strict=True):
        assert kwargs.keys() == their_kwargs.keys()
        assert [type(a) for a in args] == [type(a) for a in their_args]
        torch.testing.assert_close(args, their_args)
        for name in kwargs:
            mine, other = kwargs[name], their_kwargs[name]
            if name == "baselines":  # we give tensors where Captum may give numbers
                assert isinstance(mine, tuple) == isinstance(other, tuple)
            else:
                torch.testing.assert_close(mine, other)


@pytest.mark.parametrize(
    "name", ["mlp", "rows", "one number for the batch", "mask from 2", "two inputs", "tuple of one"]
)
def test_functions_of_the_users_get_what_captums_get(name):
    model, inputs, arguments = CASES[name]
    if name.startswith("two"):
        arguments = CASES["two inputs, masks that share ids"][2]
    results, calls, models = [], [], []
    for library in LIBRARIES:
        log, surrogate = ([], []), Recorded()
        generator = torch.Generator().manual_seed(7)  # Captum's loader draws from the global one

        def similarity(inputs, perturbed, coalition, **kwargs):
            first = perturbed[0] if isinstance(perturbed, tuple) else perturbed
            return 1 / (1 + first.square().sum())

        def perturb(inputs, num_interp_features, generator=generator, **kwargs):
            return torch.randint(2, (1, num_interp_features), generator=generator)

        lime = library.Lime(
            model, surrogate, log_calls(log[0], similarity), log_calls(log[1], perturb)
        )
        results.append(lime.attribute(inputs, **arguments, n_samples=9, perturbations_per_eval=1))
        calls.append(log)
        models.append(surrogate)
    assert_same(*results, **CLOSE)
    for ours, theirs in zip(*calls, strict=True):
        assert_same_calls(ours, theirs)
    for ours, theirs in zip(models[0].seen, models[1].seen, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert models[0].seen[0][0].shape[0] == 9


def base(library, surrogate, model=None, inputs_space=True, generator=False):
    """A LimeBase of functions that use their keyword ``scale``."""

    def noisy(original, scale):
        if isinstance(original, tuple):
            return tuple(x + scale * torch.randn_like(x) for x in original)
        return original + scale * torch.randn_like(original)

    def sample(original, scale):
        return noisy(original, scale) if inputs_space else torch.randn(1, 5)

    def forever(original, scale):
        while True:
            yield sample(original, scale)

    def to_interpretable(perturbed, original, scale):
        pairs = ((perturbed, original),)
        if isinstance(original, tuple):
            pairs = tuple(zip(perturbed, original, strict=True))
        return torch.stack([(p - x).sum() / scale for p, x in pairs])[None]

    def from_interpretable(z, original, scale):
        if isinstance(original, tuple):
            return tuple(x + scale * z.mean() for x in original)
        return original + scale * z.sum()

    def similarity(original, perturbed, z, scale):
        return float(scale + z.abs().mean())

    return library.LimeBase(
        model or mlp(),
        surrogate,
        similarity,
        forever if generator else sample,
        not inputs_space,
        None if inputs_space else from_interpretable,
        to_interpretable if inputs_space else None,
    )


@pytest.mark.parametrize("inputs_space", [False, True])
@pytest.mark.parametrize("generator", [False, True])
@pytest.mark.parametrize("in_tuple", [False, True])
@pytest.mark.parametrize("rows", [1, 4, 7, 100])
def test_lime_base(inputs_space, generator, in_tuple, rows):
    inputs = tuple(x[:1] for x in PAIR) if in_tuple else torch.randn(1, 7)
    results, seen = [], []
    for library in LIBRARIES:
        surrogate = Recorded()
        model = TwoInputs() if in_tuple else mlp()
        lime = base(library, surrogate, model, inputs_space, generator)
        torch.manual_seed(5)
        results.append(
            lime.attribute(inputs, target=1, n_samples=11, perturbations_per_eval=rows, scale=0.3)
        )
        seen.append(surrogate.seen[0])
    torch.testing.assert_close(*results)
    torch.testing.assert_close(*seen, rtol=1e-5, atol=1e-6)


def test_lime_base_with_each_surrogate(surrogates):
    x, (ours, theirs) = torch.randn(1, 7), surrogates
    results = []
    for library, surrogate in ((fastxai.attr, ours), (captum.attr, theirs())):
        torch.manual_seed(5)
        lime = base(library, surrogate)
        results.append(lime.attribute(x, 1, n_samples=30, scale=0.5))
    assert results[0].shape == results[1].shape == (1, 1)
    torch.testing.assert_close(*results, **CLOSE)


def test_lime_base_for_a_batch_with_one_answer():
    x, model, results = torch.randn(4, 7), mlp(), []
    for library in LIBRARIES:
        lime = base(library, Recorded(), lambda x: model(x)[:, 2].square().mean())
        torch.manual_seed(5)
        results.append(lime.attribute(x, n_samples=10, scale=0.5))
    torch.testing.assert_close(*results)


def test_surrogates_that_learn_by_gradients():
    """Captum trains them under no_grad, which they undo for themselves."""
    x, results = torch.randn(1, 7), []
    for library in LIBRARIES:
        torch.manual_seed(5)
        lime = library.Lime(mlp(), SGDLinearRegression(), perturb_func=fixed_coalitions)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Captum's, of its optimiser
            results.append(lime.attribute(x, target=1, n_samples=64))
    assert results[0].isfinite().all() and results[0].shape == (1, 7)
    # They start from random weights and stop early.
    torch.testing.assert_close(*results, rtol=0, atol=0.1)


def test_a_generator_that_ends():
    x = torch.randn(1, 7)

    def few(inputs, **kwargs):
        generator = torch.Generator().manual_seed(3)
        for _ in range(17):
            yield torch.randint(2, (1, 7), generator=generator)

    with pytest.warns(UserWarning, match="ended after 17 of 40 samples"):
        found = Lime(mlp(), Ridge(), perturb_func=few).attribute(x, target=1, n_samples=40)
    with pytest.warns(UserWarning, match="Generator completed"):
        theirs = captum.attr.Lime(mlp(), SkLearnRidge(), perturb_func=few)
        expected = theirs.attribute(x, target=1, n_samples=40)
    torch.testing.assert_close(found, expected, **CLOSE)


@pytest.mark.parametrize("name", ["Lime", "LimeBase"])
def test_what_captum_code_asks_of_a_method(name):
    own = ("tolerance", "max_samples", "seed", "affine_prefix", "output")
    ours, theirs = getattr(fastxai.attr, name), getattr(captum.attr, name)
    if name == "Lime":
        ours_made, theirs_made = ours(mlp()), theirs(mlp())
    else:
        ours_made, theirs_made = (base(library, Recorded()) for library in LIBRARIES)
    assert ours.get_name() == theirs.get_name()
    assert ours_made.has_convergence_delta() == theirs_made.has_convergence_delta() is False
    assert ours_made.multiplies_by_inputs == theirs_made.multiplies_by_inputs is False
    with pytest.raises(NotImplementedError):
        ours_made.attribute_future()
    for function in ("__init__", "attribute"):
        mine = inspect.signature(getattr(ours, function)).parameters
        other = inspect.signature(getattr(theirs, function)).parameters
        assert [p for p in mine if p not in own] == list(other)
        for parameter in mine:
            if parameter not in (*own, "perturbations_per_eval"):
                assert mine[parameter].default == other[parameter].default
    for attribute in ("interpretable_model", "similarity_func", "perturb_func"):
        assert hasattr(ours_made, attribute) and hasattr(theirs_made, attribute)
    assert issubclass(Lime, LimeBase)


def test_positional_arguments_stand_in_captums_order():
    x, shift = PAIR, torch.rand(3, 6)
    mask = (torch.tensor([[0, 0, 1, 2]]), torch.tensor([[[0, 3, 3], [1, 4, 4]]]))
    arguments = (x, (0.1, 0.2), 1, (shift, 2.0), mask, 40, 7, False, False)
    found = Lime(TwoInputs(), Ridge(), exp_kernel(), fixed_coalitions).attribute(*arguments)
    theirs = captum.attr.Lime(TwoInputs(), SkLearnRidge(), None, fixed_coalitions)
    torch.testing.assert_close(found, theirs.attribute(*arguments), **CLOSE)


def test_inside_captums_noise_tunnel():
    x = torch.randn(2, 7)
    tunnel = captum.attr.NoiseTunnel(Lime(mlp(), LeastSquares()))
    found = tunnel.attribute(x, nt_samples=3, stdevs=0.0, target=1, n_samples=500, seed=1)
    expected = Lime(mlp(), LeastSquares()).attribute(x, target=1, n_samples=500, seed=1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_both_estimate_the_same():
    """With many samples of its own each, at the accuracy of that number."""
    x, arguments = torch.randn(1, 7), {"baselines": 0.5, "target": 2, "n_samples": 6000}
    torch.manual_seed(0)
    theirs = captum.attr.Lime(mlp(), SkLearnLinearRegression())
    expected = theirs.attribute(x, **arguments, perturbations_per_eval=500)
    found = Lime(mlp(), LeastSquares()).attribute(x, **arguments, seed=0)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.006)
    assert found.abs().max() > 0.1
