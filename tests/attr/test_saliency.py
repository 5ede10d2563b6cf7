import pytest
import torch

from fastxai import InputXGradient, NoiseTunnel, Saliency

from ..models import mlp


def test_closed_form():
    torch.manual_seed(0)
    x, w = torch.randn(4, 6).double(), torch.randn(6).double()

    def f(x):
        return (x**2) @ w

    torch.testing.assert_close(Saliency(f).attribute(x), (2 * x * w).abs())
    torch.testing.assert_close(Saliency(f).attribute(x, abs=False), 2 * x * w)
    torch.testing.assert_close(InputXGradient(f).attribute(x), 2 * x**2 * w)


def test_negative_targets_count_from_the_end():
    model, x = mlp(), torch.randn(3, 7)
    expected = Saliency(model).attribute(x, target=[3, 0, 2])
    torch.testing.assert_close(Saliency(model).attribute(x, target=[-1, 0, -2]), expected)


@pytest.mark.parametrize("method", [Saliency, InputXGradient])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_is_the_inputs(method, dtype):
    x = torch.randn(3, 7).to(dtype)
    assert method(mlp().to(dtype)).attribute(x, target=0).dtype == dtype


@pytest.mark.parametrize("method", [Saliency, InputXGradient])
def test_empty_batch_and_large_batch(method):
    explainer = method(mlp())
    assert explainer.attribute(torch.empty(0, 7), target=0).shape == (0, 7)
    x = torch.randn(3000, 7)  # several blocks
    torch.testing.assert_close(
        explainer.attribute(x, target=0)[2990:], explainer.attribute(x[2990:], target=0)
    )


def test_gradients_that_are_one_tensor_or_expanded():
    a, b = torch.randn(3, 4), torch.randn(3, 4)
    model = lambda x, y: (x + y).sum(1)  # noqa: E731
    first, second = InputXGradient(model).attribute((a, b))
    torch.testing.assert_close(first, a)
    torch.testing.assert_close(second, b)
    first, second = Saliency(model).attribute((a, b), abs=False)
    first.zero_()  # each is of its own memory
    torch.testing.assert_close(second, torch.ones(3, 4))
    for method, expected in ((Saliency, torch.ones(3, 4)), (InputXGradient, a)):
        smooth = NoiseTunnel(method(lambda x: x.sum(1)))
        torch.testing.assert_close(smooth.attribute(a, nt_samples=3, stdevs=0.0), expected)
    smooth = NoiseTunnel(InputXGradient(model))
    for found, x in zip(smooth.attribute((a, b), nt_samples=3, stdevs=0.0), (a, b), strict=True):
        torch.testing.assert_close(found, x)
