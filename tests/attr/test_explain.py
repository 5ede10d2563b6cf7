import pytest
import torch

from fastxai import InputXGradient, IntegratedGradients, Saliency
from fastxai.attr import KernelShap
from fastxai.core.engine import shortcut as prefix

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


def test_a_plan_tells_what_is_done(monkeypatch):
    monkeypatch.setattr(prefix, "WORTH", 1)
    model, x = mlp(), torch.randn(3, 7)  # 7-16-12-4
    whole, first = 7 * 16 + 16 * 12 + 12 * 4, 7 * 16
    plan = IntegratedGradients(model).plan(x, target=1, n_steps=20)
    (run,) = plan.runs
    assert (run.rows, run.count, sum(run.blocks)) == ("points of paths", 60, 60)
    assert (run.followed, run.stopped) == (["linear"], ["relu"])
    assert plan.multiplications == whole and run.spared == first and run.anchored == 4 * first
    assert plan.cost(run) == pytest.approx(1 - (60 - 4) * first / (60 * whole))
    assert "60 rows of the model at 0.7" in str(plan) and "linear" in str(plan)

    plan = IntegratedGradients(model, affine_prefix=False).plan(x, target=1, n_steps=20)
    assert plan.cost(plan.runs[0]) == 1 and "linear" not in str(plan)

    plan = KernelShap(model).plan(x, target=1, n_samples=100, return_input_shape=False)
    assert sum(run.count for run in plan.runs) == 3 * 100
    assert [run.rows for run in plan.runs] == ["inputs", "coalitions"]
    assert plan.cost(plan.runs[-1]) < 1
