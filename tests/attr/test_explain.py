import pickle
from inspect import Parameter, isclass, signature

import pytest
import torch

import fastxai
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


METHODS = [
    getattr(fastxai, name)
    for name in fastxai.__all__
    if isclass(getattr(fastxai, name)) and hasattr(getattr(fastxai, name), "attribute")
]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["explain", "plan"])
def test_a_method_shows_the_arguments_of_attribute(method, name):
    shown, meant = (signature(getattr(method, n)).parameters for n in (name, "attribute"))
    assert [*shown.values()] == [p for n, p in meant.items() if n != "return_convergence_delta"]
    assert signature(getattr(method, name)).return_annotation in ("Explanation", "Plan")
    assert "Takes the arguments of :meth:`attribute`" in getattr(method, name).__doc__
    assert getattr(method, name).__qualname__ == f"{method.__qualname__}.{name}"


@pytest.mark.parametrize("method", METHODS)
def test_compile_shows_the_arguments_of_attribute_by_name(method):
    self, example_inputs, *named = signature(method.compile).parameters.values()
    assert (self.name, example_inputs.name) == ("self", "example_inputs")
    meant = dict(signature(method.attribute).parameters)
    assert meant.keys() - {"self", "inputs"} == {p.name for p in named} - {"standard_errors"}
    by_name = Parameter.KEYWORD_ONLY, Parameter.VAR_KEYWORD
    assert all(p.kind in by_name for p in named)
    assert all(p.default == meant[p.name].default for p in named if p.name in meant)
    assert "standard_errors" in {p.name for p in named}


class Doubled(Saliency):
    def attribute(self, inputs, target=None, *, twice=True):
        request = self._query(inputs, None, target)
        return self._find(request, detailed=False, twice=twice).values[0]

    def of_gradient(self, gradient, x, twice):
        return gradient * (1 + twice)


class Reporting(Saliency):
    def explain(self, inputs, note):
        return note, super().explain(inputs, target=1)


class Absolute(Reporting):
    def attribute(self, inputs, target=None):
        return super().attribute(inputs, target)


def test_a_subclass_shows_what_its_own_attribute_takes():
    model, x = mlp(), torch.randn(3, 7)
    doubled = Doubled(model)
    for name in ("explain", "plan"):
        assert [*signature(getattr(doubled, name)).parameters] == ["inputs", "target", "twice"]
    assert "twice" in signature(doubled.compile).parameters
    assert "twice" not in signature(Saliency.explain).parameters
    whole = Saliency(model).attribute(x, 1, abs=False)
    torch.testing.assert_close(doubled.explain(x, 1).values, 2 * whole)
    torch.testing.assert_close(doubled.explain(inputs=x, target=1, twice=False).values, whole)
    assert pickle.loads(pickle.dumps(doubled.explain))(x, 1).values.equal(doubled.attribute(x, 1))


def test_a_subclass_keeps_an_explain_of_its_own():
    for method in Reporting, Absolute:
        assert [*signature(method.explain).parameters] == ["self", "inputs", "note"]
        assert [*signature(method.plan).parameters][:3] == ["self", "inputs", "target"]
    note, found = Reporting(mlp()).explain(torch.randn(3, 7), "mine")
    assert note == "mine" and found.values.shape == (3, 7)
