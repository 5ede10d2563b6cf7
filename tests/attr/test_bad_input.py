"""Bad input gets a clear error that names the argument, mostly before the model is called."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

import fastxai
from fastxai import ArgumentError, DeepLift, DeepLiftShap, IntegratedGradients, Saliency

from ..methods import METHODS
from ..models import Logged, Segmenter, TwoInputs, mlp

X = torch.randn(3, 7)
OF_GRADIENTS = [n for n, method in METHODS.items() if not (method.compares or method.of_layer)]

with torch.inference_mode():
    INFERENCE = torch.randn(3, 7)

# inputs, arguments, what the message begins with
BEFORE_ANY_CALL = {
    "list": ([X], {}, "inputs: expected a torch.Tensor or a tuple of them, got a list"),
    "words": (np.array(["a", "b"]), {}, "inputs: expected numbers, got values such as"),
    "nothing": ((), {}, "inputs: expected at least one tensor"),
    "not a tensor": ((X, 3), {}, r"inputs\[1\]: expected a torch.Tensor, got a int"),
    "no batch": (torch.tensor(1.0), {}, "inputs: expected a batch dimension"),
    "sparse": (X.to_sparse(), {}, "inputs: expected a dense tensor"),
    "batch sizes": ((X, X[:2]), {}, r"inputs\[1\]: expected the batch size of inputs\[0\], 3"),
    "devices": ((X, X.to("meta")), {}, r"inputs\[1\]: expected the device of inputs\[0\], cpu"),
    "integers": (X.long(), {}, "inputs: expected floating-point values .* got torch.int64"),
    "booleans": ((X, X > 0), {}, r"inputs\[1\]: expected floating-point .* got torch.bool"),
    "complex": (X.to(torch.complex64), {}, "inputs: expected floating-point"),
    "inference": (INFERENCE, {}, r"inputs: .* torch.inference_mode\(\), .* clone\(\)"),
    "float target": (X, {"target": 1.0}, "target: expected an int"),
    "bool target": (X, {"target": True}, "target: expected an int"),
    "text target": (X, {"target": "cat"}, "target: expected an int"),
    "float tensor": (X, {"target": torch.tensor([1.0, 2, 3])}, "target: expected integers"),
    "2-D tensor": (X, {"target": torch.ones(3, 1).long()}, "target: expected one dimension"),
    "short tensor": (X, {"target": torch.tensor([1, 2])}, "target: expected one for each of 3"),
    "long list": (X, {"target": [1, 2, 3, 0]}, "target: expected one for each of 3 rows, got 4"),
    "list of one": (X, {"target": [1]}, "target: expected one for each of 3 rows, got 1"),
    "ragged list": (X, {"target": [(1,), (1, 2), 0]}, "target: expected tuples of one length"),
    "list of floats": (X, {"target": [0.5, 1, 2]}, "target: expected an int"),
}
IG_ONLY = {
    "baseline shape": (X, {"baselines": X[:, :3]}, "baselines: expected the input's shape"),
    "baseline rows": (X, {"baselines": X[:2]}, "baselines: expected the input's shape"),
    "baseline count": (X, {"baselines": (0, 0)}, "baselines: expected one for each of the 1"),
    "baseline kind": (X, {"baselines": "zero"}, "baselines: expected a number or a torch.Tensor"),
    "baseline list": (X, {"baselines": ["a"]}, "baselines: expected numbers, got values such as"),
    "baseline device": (X, {"baselines": X.to("meta")}, "baselines: expected the input's device"),
    "baseline inference": (X, {"baselines": INFERENCE}, "baselines: .*inference_mode"),
    "method": (X, {"method": "simpson"}, "method: expected one of gausslegendre, .* got 'simpson'"),
    "no steps": (X, {"n_steps": 0}, "n_steps: expected an integer of at least 1, got 0"),
    "negative steps": (X, {"n_steps": -5}, "n_steps: expected"),
    "fractional steps": (X, {"n_steps": 2.5}, "n_steps: expected"),
    "trapezoid": (X, {"n_steps": 1, "method": "riemann_trapezoid"}, "n_steps: .*at least 2"),
    "batch size": (X, {"internal_batch_size": 0}, "internal_batch_size: expected an integer of"),
    "batch size kind": (X, {"internal_batch_size": 2.0}, "internal_batch_size: expected"),
}


@pytest.mark.parametrize("method", OF_GRADIENTS)
@pytest.mark.parametrize("name", BEFORE_ANY_CALL)
def test_refused_before_any_model_call(method, name):
    inputs, arguments, message = BEFORE_ANY_CALL[name]
    logged, options = Logged(mlp()), METHODS[method].options(X, **{"target": 0, **arguments})
    with pytest.raises(ArgumentError, match=f"^{message}"):
        METHODS[method].over(logged).attribute(inputs, **options)
    assert logged.rows == []


@pytest.mark.parametrize("name", IG_ONLY)
def test_refused_by_integrated_gradients(name):
    inputs, arguments, message = IG_ONLY[name]
    logged = Logged(mlp())
    with pytest.raises(ArgumentError, match=f"^{message}"):
        IntegratedGradients(logged).attribute(inputs, **{"target": 0, **arguments})
    assert logged.rows == []


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        (X[:2], X, "start_point: expected the input's shape"),
        ("zero", X, "start_point: expected a number or a torch.Tensor, got str"),
        ((0, 0), X, "start_point: expected one for each of the 1 inputs"),
        ((0, X[:2]), (X, X), r"start_point\[1\]: expected the input's shape"),
        (INFERENCE, X, "start_point: .*inference_mode"),
        (0, [X], "end_point: expected a torch.Tensor or a tuple of them, got a list"),
        (0, X.long(), "end_point: expected floating-point values"),
        ((0, 0), (X, X[:2]), r"end_point\[1\]: expected the batch size of end_point\[0\], 3"),
        ((0, 0), (X, X.to("meta")), r"end_point\[1\]: expected the device of end_point\[0\], cpu"),
        (0, (), "end_point: expected at least one tensor"),
        (0, INFERENCE, "end_point: .*inference_mode"),
    ],
)
def test_convergence_deltas_name_their_own_arguments(start, end, message):
    logged = Logged(mlp())
    for method in (IntegratedGradients(logged), DeepLift(logged), DeepLiftShap(logged)):
        with pytest.raises(ArgumentError, match=f"^{message}"):
            method.compute_convergence_delta(X, start, end, 0)
    assert logged.rows == []


def test_convergence_deltas_tell_of_their_own_arguments():
    odd = X.clone()
    odd[1, 2] = torch.inf
    for start, end, name in ((odd, X, "start_point"), (0, odd, "end_point")):
        with pytest.warns(UserWarning, match=f"^{name}: NaN or infinite values in rows 1;"):
            IntegratedGradients(mlp()).compute_convergence_delta(X, start, end, 0)


def test_argument_errors_are_what_captum_and_python_raise():
    with pytest.raises(AssertionError):
        Saliency(mlp()).attribute([X], target=0)
    with pytest.raises(ValueError):
        Saliency(mlp()).attribute([X], target=0)


def test_forward_func_must_be_callable():
    with pytest.raises(
        ArgumentError, match=r"^forward_func: expected a module or callable, .* got 3"
    ):
        Saliency(3)


@pytest.mark.parametrize("method", OF_GRADIENTS)
@pytest.mark.parametrize(
    ("model", "target", "error", "message"),
    [
        (mlp(), None, ArgumentError, r"target: .* one number a row, got \(4,\) numbers"),
        (Segmenter(), 1, ArgumentError, r"target: .* one number a row, got \(7,\) numbers"),
        (mlp(), (1, 2), ArgumentError, r"target: expected at most 1 indices .* \(\d+, 4\), got 2"),
        (lambda x: x.sum(1), 0, ArgumentError, "target: expected at most 0 indices"),
        (mlp(), 4, IndexError, r"target: 4 is out of range for dimension 1 .* \(\d+, 4\)"),
        (mlp(), -5, IndexError, "target: -5 is out of range"),
        (mlp(), [0, 9, 1], IndexError, "target: 9 is out of range"),
        (mlp(), torch.tensor([0, 1, -7]), IndexError, "target: -7 is out of range"),
        (Segmenter(), (1, 7), IndexError, "target: 7 is out of range for dimension 2"),
        (
            lambda x: (x.sum(1), x),
            None,
            ArgumentError,
            "forward_func: .* got a tuple with several; choose one",
        ),
        (
            lambda x: {"a": x, "b": x},
            0,
            ArgumentError,
            "forward_func: .* choose one with output='a' or",
        ),
        (lambda x: None, 0, ArgumentError, "forward_func: .* got a NoneType"),
        (lambda x: x.sum(0), None, ArgumentError, "target: .* a row|forward_func: .* 3 rows"),
        (lambda x: x.detach().sum(1), None, RuntimeError, "forward_func: .*does not depend on inp"),
        (lambda x: x.argmax(1), None, RuntimeError, "forward_func: .*does not depend on inputs"),
        (lambda x: torch.ones(len(x)), None, RuntimeError, "forward_func: .*does not depend"),
    ],
)
def test_what_only_the_model_can_show(method, model, target, error, message):
    x = torch.randn(3, 2, 7) if isinstance(model, Segmenter) else X
    with pytest.raises(error, match=f"^({message})"):
        METHODS[method].ask(model, x, target=target)


def test_an_input_that_is_not_used_is_named():
    with pytest.raises(RuntimeError, match=r"^inputs\[1\]: forward_func's output does not depend"):
        IntegratedGradients(lambda a, b: a.sum(1)).attribute((X, X))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_told_and_stay_in_their_row(bad):
    x = X.clone()
    x[1, 2] = bad
    ig = IntegratedGradients(mlp())
    with pytest.warns(UserWarning, match="^inputs: NaN or infinite values in rows 1;"):
        found = ig.attribute(x, target=0)
    torch.testing.assert_close(found[[0, 2]], ig.attribute(X, target=0)[[0, 2]])
    assert not found[1].isfinite().all()
    with pytest.warns(UserWarning, match="^baselines: NaN or infinite values in rows 1;"):
        ig.attribute(X, x, target=0)


def test_a_baseline_of_one_nan_is_told_too():
    with pytest.warns(UserWarning, match="^baselines: NaN or infinite values in rows 0;"):
        IntegratedGradients(mlp()).attribute(X, torch.tensor(float("nan")), target=0)


def test_large_values_are_not_taken_for_infinite_ones():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Saliency(lambda x: x.mean(1)).attribute(torch.full((2, 5), 3e38))


def test_numpy_integers_are_targets():
    expected = Saliency(mlp()).attribute(X, target=2)
    torch.testing.assert_close(Saliency(mlp()).attribute(X, target=np.int64(2)), expected)
    torch.testing.assert_close(Saliency(mlp()).attribute(X, target=np.array([2, 2, 2])), expected)


def test_tensors_of_one_integer_are_targets():
    model, x, best = Segmenter(), torch.randn(2, 2, 4), torch.tensor(2)
    expected = Saliency(model).attribute(x, target=(1, 2))
    for target in ((1, best), [(1, best), (torch.tensor(1), 2)]):
        assert torch.equal(Saliency(model).attribute(x, target=target), expected)
    for wrong in (torch.tensor(2.0), torch.tensor(True), torch.tensor([1, 2])):
        with pytest.raises(ArgumentError, match=r"^target: expected"):
            Saliency(model).attribute(x, target=(1, wrong))


class Failing(nn.Module):
    """Raises in its n-th call."""

    def __init__(self, error: BaseException, at: int):
        super().__init__()
        self.model, self.error, self.at, self.calls = mlp(), error, at, 0

    def forward(self, x):
        self.calls += 1
        if self.calls == self.at:
            raise self.error
        return self.model(x)


@pytest.mark.parametrize("error", [ValueError("midway"), KeyboardInterrupt()])
@pytest.mark.parametrize("training", [True, False])
def test_everything_is_left_as_found(error, training):
    model = Failing(error, at=5).train(training)  # after the calls that see if rows interact
    x, baseline = X.clone().requires_grad_(), torch.zeros(1, 7, requires_grad=True)
    x.grad = torch.ones_like(x)
    model.model[0].weight.grad = torch.full_like(model.model[0].weight, 2)
    frozen = model.model[2].weight.requires_grad_(False)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    random, was_enabled = torch.get_rng_state(), torch.is_grad_enabled()
    version = x._version

    def as_found():
        assert torch.equal(x.detach(), X) and x.requires_grad and (x.grad == 1).all()
        assert x._version == version and baseline.requires_grad and baseline.grad is None
        assert model.training == training and not frozen.requires_grad
        assert (model.model[0].weight.grad == 2).all() and model.model[4].weight.grad is None
        assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())
        for name, value in model.state_dict().items():
            assert torch.equal(value, state[name])
        assert torch.equal(torch.get_rng_state(), random)
        assert torch.is_grad_enabled() == was_enabled

    ig = IntegratedGradients(model)
    with pytest.raises(type(error)):
        ig.attribute(x, baseline, target=1, internal_batch_size=10)
    assert model.calls == 5
    as_found()
    ig.attribute(x, baseline, target=1, return_convergence_delta=True)
    as_found()


def test_an_extra_argument_made_in_inference_mode_is_named():
    inputs = (torch.randn(3, 4), torch.randn(3, 2, 3))
    with torch.inference_mode():
        shift = torch.rand(3, 6)
    with pytest.raises(ArgumentError, match=r"^additional_forward_args\[0\]: .*inference_mode"):
        Saliency(TwoInputs()).attribute(inputs, target=0, additional_forward_args=(shift, 1.0))


FLAGS = {
    "multiply_by_inputs": lambda flag: fastxai.IntegratedGradients(mlp(), flag),
    "affine_prefix": lambda flag: fastxai.Saliency(mlp(), affine_prefix=flag),
    "return_convergence_delta": lambda flag: fastxai.DeepLift(mlp()).attribute(
        X, target=0, return_convergence_delta=flag
    ),
    "abs": lambda flag: fastxai.Saliency(mlp()).attribute(X, 0, flag),
    "return_input_shape": lambda flag: fastxai.KernelShap(mlp()).explain(
        X, target=0, return_input_shape=flag
    ),
    "show_progress": lambda flag: fastxai.FeatureAblation(mlp()).plan(
        X, target=0, show_progress=flag
    ),
    "normalize": lambda flag: fastxai.metrics.infidelity(
        mlp(), lambda x: (x, x), X, X, target=0, normalize=flag
    ),
}


@pytest.mark.parametrize("name", FLAGS)
def test_flags_are_true_or_false(name):
    for flag, got in ((torch.tensor([1, 0]), "a Tensor"), ("no", "'no'")):
        with pytest.raises(ArgumentError, match=f"^{name}: expected True or False, got {got}$"):
            FLAGS[name](flag)
    FLAGS[name](torch.tensor(True))
