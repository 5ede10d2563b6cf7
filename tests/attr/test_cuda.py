"""The methods on a GPU: the same numbers as on the CPU."""

import copy

import pytest
import torch

from fastxai import (
    ArgumentError,
    Deconvolution,
    DeepLift,
    DeepLiftShap,
    GradientShap,
    GuidedBackprop,
    InputXGradient,
    IntegratedGradients,
    LayerActivation,
    LayerGradCam,
    LayerIntegratedGradients,
    NoiseTunnel,
    Saliency,
    TokenReferenceBase,
)

from ..models import EmbeddingModel, Logged, ResidualCNN, TextModel, TwoInputs, mlp

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
CLOSE = {"rtol": 1e-9, "atol": 1e-11}


@pytest.mark.parametrize(
    "method",
    [IntegratedGradients, Saliency, InputXGradient, DeepLift, GuidedBackprop, Deconvolution],
)
@pytest.mark.parametrize("target", [2, [0, 3, -1], torch.tensor([1, 1, 4])])
def test_equals_the_cpu(method, target):
    model, x = ResidualCNN().double(), torch.randn(3, 2, 6, 5).double()
    expected = method(model).attribute(x, target=target)
    on_gpu = copy.deepcopy(model).cuda()
    for where in ("cpu", "cuda"):
        placed = target.to(where) if isinstance(target, torch.Tensor) else target
        found = method(on_gpu).attribute(x.cuda(), target=placed)
        assert found.is_cuda
        torch.testing.assert_close(found.cpu(), expected, **CLOSE)


def test_tuples_extra_arguments_and_delta():
    model = TwoInputs().double()
    inputs = (torch.randn(5, 4).double(), torch.randn(5, 2, 3).double())
    shift = torch.rand(5, 6).double()
    expected = IntegratedGradients(model).explain(inputs, (0.1, 0.2), 1, shift)
    found = IntegratedGradients(copy.deepcopy(model).cuda()).explain(
        tuple(x.cuda() for x in inputs), (0.1, 0.2), 1, shift.cuda()
    )
    torch.testing.assert_close(tuple(v.cpu() for v in found.values), expected.values, **CLOSE)
    delta = found.convergence_delta.cpu()
    torch.testing.assert_close(delta, expected.convergence_delta, **CLOSE)


@pytest.mark.parametrize("name", ["embedding", "encoder"])
def test_layers(name):
    model, ids = TextModel().double(), torch.randint(1, 50, (3, 7))
    on_gpu = copy.deepcopy(model).cuda()
    layer, layer_there = getattr(model, name), getattr(on_gpu, name)
    start = TokenReferenceBase(2).generate_reference(7, torch.device("cuda"))
    expected = LayerIntegratedGradients(model, layer).attribute(ids, start.cpu(), 1)
    found = LayerIntegratedGradients(on_gpu, layer_there).attribute(ids.cuda(), start, 1)
    torch.testing.assert_close(found.cpu(), expected, **CLOSE)
    for method, arguments in [(LayerActivation, {}), (LayerGradCam, {"target": 1})]:
        expected = method(model, layer).attribute(ids, **arguments)
        found = method(on_gpu, layer_there).attribute(ids.cuda(), **arguments)
        torch.testing.assert_close(found.cpu(), expected, **CLOSE)


def test_deep_lift_shap_of_attention_equals_the_cpu():
    model, x = EmbeddingModel().double(), torch.randn(3, 6, 8).double()
    background = torch.randn(4, 6, 8).double()
    expected = DeepLiftShap(model).explain(x, background, 1)
    found = DeepLiftShap(copy.deepcopy(model).cuda()).explain(x.cuda(), background.cuda(), 1)
    torch.testing.assert_close(found.values.cpu(), expected.values, **CLOSE)
    assert found.convergence_delta.abs().max() < 1e-9


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precisions(dtype):
    x = torch.randn(3, 7, dtype=dtype)
    expected = IntegratedGradients(mlp().to(dtype)).attribute(x, target=1)
    found = IntegratedGradients(mlp().to(dtype).cuda()).attribute(x.cuda(), target=1)
    torch.testing.assert_close(found.cpu(), expected, rtol=0.05, atol=0.02)


def test_a_real_out_of_memory_error_halves_the_blocks():
    x = torch.randn(8, 7).cuda()
    free = torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()

    def hungry(rows):  # 1/40 of what is free for each row, for as long as the call takes
        torch.empty(len(rows) * free // 40, dtype=torch.uint8, device="cuda")
        return rows.square().sum(1)

    logged = Logged(hungry)
    found = IntegratedGradients(logged).attribute(x, n_steps=50)
    torch.testing.assert_close(found, x.square(), rtol=1e-5, atol=1e-5)
    assert sum(logged.rows) == 400 and max(logged.rows) < 40 and logged.tried > len(logged.rows)


def test_noise_is_that_of_the_cpu():
    model, x = ResidualCNN().double(), torch.randn(3, 2, 6, 5).double()
    baselines, on_gpu = torch.randn(4, 2, 6, 5).double(), copy.deepcopy(model).cuda()
    options = {"n_samples": 9, "stdevs": 0.1, "target": 1, "seed": 3}
    expected = GradientShap(model).attribute(x, baselines, return_convergence_delta=True, **options)
    found = GradientShap(on_gpu).attribute(
        x.cuda(), baselines.cuda(), return_convergence_delta=True, **options
    )
    for value, other in zip(found, expected, strict=True):
        torch.testing.assert_close(value.cpu(), other, **CLOSE)
    for make in (Saliency, IntegratedGradients):
        options = {"nt_type": "vargrad", "target": [0, 3, -1], "seed": 3}
        expected = NoiseTunnel(make(model)).attribute(x, **options)
        found = NoiseTunnel(make(on_gpu)).attribute(x.cuda(), **options)
        torch.testing.assert_close(found.cpu(), expected, **CLOSE)


def test_two_devices_are_named():
    with pytest.raises(ArgumentError, match=r"^baselines: expected the input's device, cuda:0"):
        IntegratedGradients(mlp().cuda()).attribute(torch.randn(3, 7).cuda(), torch.zeros(1, 7), 0)


def test_a_call_does_not_wait_for_the_device():
    x, model = torch.randn(3, 7).cuda(), mlp().cuda()
    explainer = IntegratedGradients(model)
    explainer.attribute(x, target=1)
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        explainer.attribute(x, target=1)
    finally:
        torch.cuda.set_sync_debug_mode(before)
