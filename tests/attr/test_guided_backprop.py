"""GuidedBackprop and Deconvolution: ReLUs in every spelling, and a model left as it was."""

import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastxai import ArgumentError, Deconvolution, GuidedBackprop, Saliency

from ..models import Logged, ResidualCNN, TwoInputs, mlp

METHODS = [GuidedBackprop, Deconvolution]
SPELLINGS = {
    "module": nn.ReLU(),
    "module in place": nn.ReLU(inplace=True),
    "function": F.relu,
    "positional in place": lambda x: F.relu(x, True),
    "torch": torch.relu,
    "torch in place": torch.relu_,
    "method": lambda x: x.relu(),
    "method in place": lambda x: x.relu_(),
    "result ignored": lambda x: (F.relu_(x), x)[1],
    "in place on a view": lambda x: (x[:, :8].relu_(), x[:, 8:].relu_(), x)[2],
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", SPELLINGS)
def test_closed_form_in_every_spelling(method, name):
    torch.manual_seed(0)
    w, v, x = (torch.randn(*s, dtype=torch.float64) for s in ((8, 16), (16, 3), (4, 8)))
    relu = SPELLINGS[name]
    found = method(lambda x: relu(x @ w) @ v).attribute(x, target=1)
    passed = v[:, 1].relu() * ((x @ w > 0) if method is GuidedBackprop else 1)
    torch.testing.assert_close(found, passed.expand(4, 16) @ w.T, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_a_module_used_twice_is_two_relus(method):
    class Twice(nn.Module):
        def __init__(self, first, second):
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b, self.c = nn.Linear(7, 9), nn.Linear(9, 9), nn.Linear(9, 2)
            self.first, self.second = first, second

        def forward(self, x):
            return self.c(self.second(self.b(self.first(self.a(x)))))

    x, relu = torch.randn(3, 7), nn.ReLU()
    found = method(Twice(relu, relu)).attribute(x, target=0)
    expected = method(Twice(nn.ReLU(), nn.ReLU())).attribute(x, target=0)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert (found - Saliency(Twice(relu, relu)).attribute(x, 0, abs=False)).abs().max() > 1e-3


@pytest.mark.parametrize("method", METHODS)
def test_rows_do_not_depend_on_the_batch_and_an_empty_one_is_fine(method):
    model, x = ResidualCNN().double(), torch.randn(5, 2, 6, 5).double()
    found = method(model).attribute(x, target=[0, 1, 2, 3, 4])
    alone = [method(model).attribute(x[i : i + 1], target=i) for i in range(5)]
    torch.testing.assert_close(found, torch.cat(alone), rtol=1e-12, atol=1e-12)
    assert method(model).attribute(x[:0], target=1).shape == (0, 2, 6, 5)


@pytest.mark.parametrize("method", METHODS)
def test_tuples_and_extra_arguments(method):
    x, shift = (torch.randn(3, 4), torch.randn(3, 2, 3)), torch.rand(3, 6)
    found = method(TwoInputs()).attribute(x, 1, (shift, 2.0))  # no ReLU: the plain gradient
    torch.testing.assert_close(found, Saliency(TwoInputs()).attribute(x, 1, False, (shift, 2.0)))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_everything_is_as_before_after_an_error(method, error):
    model, x = ResidualCNN(), torch.randn(3, 2, 6, 5)
    expected = method(model).attribute(x, target=1)
    with pytest.raises(error):
        method(Logged(model, fail_above=0, error=error())).attribute(x, target=1)
    plain = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(plain)[:, 1].sum(), plain)
    torch.testing.assert_close(gradient, Saliency(model).attribute(x, 1, abs=False))
    assert not x.requires_grad and all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())
    torch.testing.assert_close(method(model).attribute(x, target=1), expected, rtol=0, atol=0)


def test_threads_share_a_model():
    model, x = ResidualCNN(), torch.randn(3, 2, 6, 5)
    explainers = [GuidedBackprop(model), Deconvolution(model), Saliency(model)]
    expected = [explainer.attribute(x, target=1) for explainer in explainers]
    wrong = []

    def work(i):
        for _ in range(10):
            if not torch.equal(explainers[i % 3].attribute(x, target=1), expected[i % 3]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("method", METHODS)
def test_scripted_and_compiled_models_are_refused_before_any_call(method):
    x = torch.randn(3, 7)
    scripted = torch.jit.trace(mlp(), x)
    for model in (scripted, nn.Sequential(scripted), torch.compile(mlp()), torch.compile(F.relu)):
        with pytest.raises(ArgumentError, match=r"^forward_func: .* seen one by one"):
            method(model).attribute(x, target=1)


@pytest.mark.parametrize("method", METHODS)
def test_works_under_no_grad_and_inference_mode(method):
    model, x = mlp(), torch.randn(3, 7)
    expected = method(model).attribute(x, target=1)
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            torch.testing.assert_close(method(model).attribute(x, 1), expected, rtol=0, atol=0)
    assert not expected.requires_grad
