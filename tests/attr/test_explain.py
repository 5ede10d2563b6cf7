import pytest
import torch

from fastxai import InputXGradient, IntegratedGradients, Saliency

from ..models import TwoInputs, mlp


def test_integrated_gradients_tells_the_outputs_and_the_delta():
    model, x = mlp(), torch.randn(3, 7)
    ig = IntegratedGradients(model)
    found = ig.explain(x, 0.2, target=[0, 1, 2], n_steps=9)
    values, delta = ig.attribute(x, 0.2, [0, 1, 2], n_steps=9, return_convergence_delta=True)
    torch.testing.assert_close(found.values, values, rtol=0, atol=0)
    torch.testing.assert_close(found.convergence_delta, delta, rtol=0, atol=0)
    rows = torch.arange(3)
    torch.testing.assert_close(found.outputs, model(x)[rows, rows].detach())
    at_baseline = model(torch.full_like(x, 0.2))[rows, rows].detach()
    torch.testing.assert_close(found.baseline_outputs, at_baseline)
    torch.testing.assert_close(
        found.values.sum(1) - (found.outputs - found.baseline_outputs), delta
    )
    assert found.method == "Integrated Gradients" and 0 < found.seconds < 60
    assert "Integrated Gradients" in repr(found) and "(3, 7)" in repr(found)


@pytest.mark.parametrize("method", [Saliency, InputXGradient])
def test_methods_without_baselines(method):
    model, x = TwoInputs(), (torch.randn(3, 4), torch.randn(3, 2, 3))
    found = method(model).explain(x, target=1, additional_forward_args=(None, 2.0))
    torch.testing.assert_close(
        found.values, method(model).attribute(x, 1, additional_forward_args=(None, 2.0))
    )
    torch.testing.assert_close(found.outputs, model(*x, None, 2.0)[:, 1].detach())
    assert found.baseline_outputs is None and found.convergence_delta is None
    assert not found.outputs.requires_grad


def test_unknown_arguments_are_refused():
    with pytest.raises(TypeError, match="steps"):
        IntegratedGradients(mlp()).explain(torch.randn(1, 7), target=0, steps=3)


def test_empty_batch():
    found = IntegratedGradients(mlp()).explain(torch.empty(0, 7), target=0)
    assert found.values.shape == (0, 7) and found.outputs.shape == (0,)
    assert "(0, 7)" in repr(found)
