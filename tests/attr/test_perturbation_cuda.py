"""The perturbation methods on a GPU: the same numbers as on the CPU."""

import copy

import pytest
import torch

from fastxai import ArgumentError
from fastxai.attr import FeatureAblation, FeaturePermutation, Occlusion

from ..models import Logged, ResidualCNN, TwoInputs, mlp

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
CLOSE = {"rtol": 1e-9, "atol": 1e-11}
METHODS = {
    FeatureAblation: {},
    Occlusion: {"sliding_window_shapes": (2, 3, 2), "strides": (1, 2, 2)},
    FeaturePermutation: {"seed": 4},  # drawn on the CPU: the same permutations everywhere
}


def randn(*shape):
    torch.manual_seed(sum(shape))
    return torch.randn(*shape, dtype=torch.float64)


def on_gpu(value):
    if isinstance(value, torch.nn.Module):
        return copy.deepcopy(value).cuda()
    if isinstance(value, tuple):
        return tuple(map(on_gpu, value))
    return value.cuda() if isinstance(value, torch.Tensor) else value


def assert_equals_cpu(method, model, inputs, tolerance=CLOSE, **arguments):
    expected = method(model).attribute(inputs, **arguments)
    for limit in (None, 2):
        found = method(on_gpu(model)).attribute(
            on_gpu(inputs),
            perturbations_per_eval=limit,
            **{name: on_gpu(value) for name, value in arguments.items()},
        )
        parts = found if isinstance(found, tuple) else (found,)
        assert all(part.is_cuda for part in parts)
        back = tuple(part.cpu() for part in parts)
        torch.testing.assert_close(
            back if isinstance(found, tuple) else back[0], expected, **tolerance
        )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("target", [None, 2, [0, 3, -1], torch.tensor([1, 1, 4])])
def test_equals_the_cpu(method, target):
    model, x = ResidualCNN().double(), randn(3, 2, 6, 5)
    assert_equals_cpu(method, model, x, target=target, **METHODS[method])


@pytest.mark.parametrize("method", [FeatureAblation, FeaturePermutation])
@pytest.mark.parametrize(
    "mask",
    [
        torch.arange(30).reshape(1, 1, 6, 5) // 7 * 9,
        torch.arange(180).reshape(3, 2, 6, 5) * 7 % 11,
        torch.tensor(1),
    ],
)
def test_feature_masks_on_either_device(method, mask):
    model, x = ResidualCNN().double(), randn(3, 2, 6, 5)
    assert_equals_cpu(method, model, x, target=1, feature_mask=mask, **METHODS[method])
    expected = method(model).attribute(x, target=1, feature_mask=mask, **METHODS[method])
    found = method(on_gpu(model)).attribute(
        x.cuda(), target=1, feature_mask=mask, **METHODS[method]
    )
    torch.testing.assert_close(found.cpu(), expected, **CLOSE)


@pytest.mark.parametrize("method", [FeatureAblation, Occlusion])
@pytest.mark.parametrize("baselines", [0.3, randn(3, 2, 6, 5), randn(1, 2, 1, 1)])
def test_baselines(method, baselines):
    model, x = ResidualCNN().double(), randn(3, 2, 6, 5)
    assert_equals_cpu(method, model, x, target=1, baselines=baselines, **METHODS[method])


def test_tuples_and_extra_arguments():
    inputs, shift = (randn(5, 4), randn(5, 2, 3)), randn(5, 6)
    arguments = {"additional_forward_args": (shift, 2.0), "target": [0, 1, 2, 1, 0]}
    masks = (torch.tensor([0, 4, 4, 1]), torch.tensor([[[1, 4, 7]]]))
    model = TwoInputs().double()
    assert_equals_cpu(FeatureAblation, model, inputs, feature_mask=masks, **arguments)
    assert_equals_cpu(FeaturePermutation, model, inputs, feature_mask=masks, seed=2, **arguments)
    windows = ((2,), (1, 2))
    assert_equals_cpu(Occlusion, model, inputs, sliding_window_shapes=windows, **arguments)


@pytest.mark.parametrize("method", METHODS)
def test_a_model_that_answers_for_the_batch(method):
    rest = METHODS[method] | (
        {"sliding_window_shapes": (2,), "strides": 2} if method is Occlusion else {}
    )
    for form in (lambda y: y, lambda y: y[None], float):
        assert_equals_cpu(method, lambda x, f=form: f(x.std(0).prod()), randn(4, 7), **rest)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_floating_point_types(method, dtype):
    model, x = mlp().to(dtype), randn(3, 7).to(dtype)
    rest = METHODS[method] | (
        {"sliding_window_shapes": (2,), "strides": 1} if method is Occlusion else {}
    )
    tolerance = {"rtol": 0.05, "atol": 0.02} if dtype != torch.float32 else {}
    tolerance = tolerance or {"rtol": 1e-4, "atol": 1e-5}
    assert_equals_cpu(method, model, x, tolerance, target=1, **rest)


@pytest.mark.parametrize("baselines", [0, 3, 0.5])
def test_integer_inputs(baselines):
    x = torch.arange(12).reshape(3, 4) * 7 % 5
    assert_equals_cpu(FeatureAblation, lambda x: x.double().sin().prod(1), x, baselines=baselines)


def test_a_perm_func():
    model, x = mlp().double(), randn(4, 7)

    def roll(x, chosen):
        assert x.is_cuda == chosen.is_cuda
        return torch.where(chosen, x.roll(1, 0), x)

    expected = FeaturePermutation(model, roll).attribute(x, target=1)
    found = FeaturePermutation(on_gpu(model), roll).attribute(x.cuda(), target=1)
    torch.testing.assert_close(found.cpu(), expected, **CLOSE)


def test_a_real_out_of_memory_error_halves_the_blocks():
    x = torch.randn(8, 50).cuda()
    free = torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()

    def hungry(rows):  # 1/40 of what is free for each row, for as long as the call takes
        torch.empty(len(rows) * free // 40, dtype=torch.uint8, device="cuda")
        return rows.square().sum(1)

    logged = Logged(hungry)
    found = FeatureAblation(logged).attribute(x)
    torch.testing.assert_close(found, x.square(), rtol=1e-4, atol=1e-4)
    assert sum(logged.rows) == 8 * 51 and max(logged.rows) < 40 and logged.tried > len(logged.rows)


def test_two_devices_are_named():
    with pytest.raises(ArgumentError, match=r"^baselines: expected the input's device, cuda:0"):
        FeatureAblation(mlp().cuda()).attribute(torch.randn(3, 7).cuda(), torch.zeros(1, 7), 0)


def test_a_call_does_not_wait_for_the_device():
    x, model = torch.randn(3, 7).cuda(), mlp().cuda()
    explainer = FeatureAblation(model)
    explainer.attribute(x, target=1)
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        explainer.attribute(x, target=1)
    finally:
        torch.cuda.set_sync_debug_mode(before)
