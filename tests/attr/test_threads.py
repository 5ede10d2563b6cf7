"""Calls that break off leave everything as found, and other threads alone. See test_stress.py."""

import threading

import pytest
import torch
from torch import nn

from fastxai import attr

from ..methods import METHODS
from ..models import ResidualCNN


class Net(nn.Module):
    """Convolution, normalisation, a module used twice, a functional activation, attention."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.relu = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU()
        self.mix, self.head = nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x):  # [B, 1, 6, 6]
        h = self.relu(self.norm(self.conv(x))).flatten(2)  # [B, 4, 16]
        h = h + torch.softmax(h @ h.transpose(1, 2), -1) @ h
        return self.head(self.relu(torch.tanh(self.mix(h))).mean(1))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Net().eval()


def callables(model):
    """Name -> a call of input and target, each on an explainer that all calls share."""

    def ask(method, explainer):
        return lambda x, t: explainer.attribute(x, **method.options(x, target=t))

    return {
        name: ask(method, method.over(model, model.conv))
        for name, method in METHODS.items()
        if name != "LimeBase"  # which takes one number for the batch
    }


class Broken(nn.Module):
    """Raises in the middle of the model, when told to."""

    def __init__(self, error):
        super().__init__()
        self.error = None
        self.kind = error

    def forward(self, x):
        if self.error is not None:
            raise self.error
        return x


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError("in the model")])
def test_a_call_that_breaks_off_leaves_everything_as_found(model, error):
    model.mix = nn.Sequential(model.mix, Broken(error))
    calls = callables(model)
    x = torch.randn(2, 1, 6, 6, requires_grad=True)
    expected = {name: call(x, 1) for name, call in calls.items()}
    training = [module.training for module in model.modules()]
    before = {name: dict(module.__dict__) for name, module in model.named_modules()}
    state, grad_mode = torch.get_rng_state(), torch.is_grad_enabled()
    for name, call in calls.items():
        model.mix[1].error = error
        with pytest.raises(error if isinstance(error, type) else type(error)):
            call(x, 1)
        model.mix[1].error = None
        torch.testing.assert_close(call(x, 1), expected[name], rtol=0, atol=0)
    assert [module.training for module in model.modules()] == training
    for name, module in model.named_modules():
        assert module.__dict__.keys() == before[name].keys()
        assert not module._forward_hooks and not module._forward_pre_hooks
    assert torch.equal(torch.get_rng_state(), state) and torch.is_grad_enabled() == grad_mode
    assert x.grad is None and x.requires_grad and all(p.requires_grad for p in model.parameters())
    assert torch.overrides._len_torch_function_stack() == 0


def left(model):
    """All that is on the model, to be compared."""
    return [
        (dict(m.__dict__), [dict(h) for h in (m._forward_hooks, m._forward_pre_hooks)])
        for m in model.modules()
    ]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_errors_in_the_middle_leave_nothing_and_disturb_no_one(error):
    """Half of the threads ask a model that fails after its layers were called."""

    class Fails(nn.Module):
        def forward(self, x):
            if getattr(fail, "now", False):
                raise error("here")
            return x

    fail = threading.local()
    model = nn.Sequential(ResidualCNN(), Fails())
    stem, body, x = model[0].stem, model[0].body, torch.randn(2, 2, 6, 5)
    methods = [
        attr.LayerIntegratedGradients(model, [stem, body], affine_prefix=False),
        attr.LayerGradCam(model, body),
        attr.LayerActivation(model, stem),
    ]
    # The stem feeds the body, but not alone: both are explained.
    ask = [
        lambda: methods[0].attribute(x, target=1, n_steps=3)[1],
        lambda: methods[1].attribute(x, 1),
        lambda: methods[2].attribute(x),
    ]
    before, expected = left(model), [question() for question in ask]
    wrong = []

    def work(failing):
        fail.now = failing
        for n in range(20):
            try:
                fine = torch.equal(ask[n % 3](), expected[n % 3]) and not failing
            except error:
                fine = failing
            if not fine:
                wrong.append(failing)

    threads = [threading.Thread(target=work, args=(i % 2 == 1,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert left(model) == before
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any(m.training for m in model[0].modules())
