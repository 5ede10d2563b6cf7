"""Captum's DeepLift and DeepLiftShap beside ours, on models whose non-linearities it knows."""

import captum.attr
import pytest
import torch
from torch import nn

import fastxai

from ..models import mlp

pytestmark = pytest.mark.filterwarnings("ignore:Setting forward, backward hooks")
CLOSE = {"rtol": 1e-6, "atol": 1e-8}


def dense(activation: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 16), activation, nn.Linear(16, 4)).double().eval()


def cnn(dims: int, kernel: int, stride: int) -> nn.Module:
    torch.manual_seed(1)
    conv, pool = getattr(nn, f"Conv{dims}d"), getattr(nn, f"MaxPool{dims}d")
    layers = (conv(2, 5, 3), pool(kernel, stride), conv(5, 4, 1), nn.ReLU(), nn.Flatten())
    return nn.Sequential(*layers, nn.LazyLinear(3)).double().eval()


class TwoBranches(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.relu, self.tanh = nn.ReLU(), nn.Tanh()
        self.double().eval()

    def forward(self, a, b, shift=0.0, scale=1.0):
        return self.c(self.relu(self.a(a)) + self.tanh(self.b(b)) + shift) * scale


def randn(*shape):
    torch.manual_seed(sum(shape))
    return torch.randn(*shape, dtype=torch.float64)


ACTIVATIONS = [nn.ReLU(), nn.ReLU(True), nn.ELU(), nn.LeakyReLU(0.1), nn.Sigmoid(), nn.Tanh()]
CASES = {
    **{repr(a): (dense(a), randn(3, 7), {"target": 2}) for a in [*ACTIVATIONS, nn.Softplus()]},
    "mlp, targets": (mlp().double(), randn(3, 7), {"target": [0, 3, 1]}),
    "cnn 1d": (cnn(1, 2, 2), randn(3, 2, 10), {"target": 1}),
    "cnn 2d": (cnn(2, 2, 2), randn(3, 2, 8, 7), {"target": 1}),
    "cnn 2d, gaps": (cnn(2, 2, 3), randn(3, 2, 9, 9), {"target": torch.tensor([0, 1, 2])}),
    "cnn 3d": (cnn(3, 2, 2), randn(2, 2, 6, 6, 5), {"target": 1}),
    "two inputs": (TwoBranches(), (randn(3, 4), randn(3, 6)), {"target": 1}),
    "two inputs, extra": (
        TwoBranches(),
        (randn(3, 4), randn(3, 6)),
        {"target": 1, "additional_forward_args": (randn(3, 1), 2.0)},
    ),
}


def clones(x):  # Captum's hooks want inputs that do not require grad yet, and changes them
    return tuple(t.clone() for t in x) if isinstance(x, tuple) else x.clone()


def detached(x):
    return tuple(t.detach() for t in x) if isinstance(x, tuple) else x.detach()


@pytest.mark.parametrize("multiply", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_deep_lift(case, multiply):
    model, x, arguments = CASES[case]
    shifted = tuple(t.flip(0) + 0.1 for t in x) if isinstance(x, tuple) else x.flip(0) + 0.1
    for baselines in (None, shifted):
        results = [
            method(model, multiply).attribute(
                clones(x), baselines, **arguments, return_convergence_delta=True
            )
            for method in (fastxai.DeepLift, captum.attr.DeepLift)
        ]
        torch.testing.assert_close(results[0][0], detached(results[1][0]), **CLOSE)
        torch.testing.assert_close(
            results[0][1], results[1][1].detach(), rtol=0, atol=1e-6 if not multiply else 1e-9
        )


@pytest.mark.parametrize("case", CASES)
def test_deep_lift_shap(case):
    model, x, arguments = CASES[case]
    several = [randn(4, *t.shape[1:]) for t in (x if isinstance(x, tuple) else (x,))]
    background = tuple(several) if isinstance(x, tuple) else several[0]
    for baselines in (background, lambda: background, lambda x: background):
        results = [
            method(model).attribute(
                clones(x), baselines, **arguments, return_convergence_delta=True
            )
            for method in (fastxai.DeepLiftShap, captum.attr.DeepLiftShap)
        ]
        torch.testing.assert_close(results[0][0], detached(results[1][0]), **CLOSE)
        torch.testing.assert_close(results[0][1], results[1][1].detach(), rtol=0, atol=1e-9)


def test_eps_decides_where_the_gradient_is_used():
    x, baseline = randn(3, 7), randn(3, 7) + 0.3 * randn(3, 1)
    plain = fastxai.DeepLift(mlp().double()).attribute(x, baseline, 1)
    for eps in (0.1, 0.5, 100.0):
        ours = fastxai.DeepLift(mlp().double(), eps=eps).attribute(x, baseline, 1)
        theirs = captum.attr.DeepLift(mlp().double(), eps=eps).attribute(x, baseline, 1)
        torch.testing.assert_close(ours, theirs.detach(), **CLOSE)
    assert (ours - plain).abs().max() > 1e-3


@pytest.mark.parametrize(
    "function", [lambda m, x, b: tuple(a * c for a, c in zip(m, b, strict=True)), lambda m: m]
)
def test_custom_attribution_function(function):
    x, background = randn(3, 7), randn(4, 7)
    for name, baselines in (("DeepLift", randn(1, 7)), ("DeepLiftShap", background)):
        ours, theirs = (
            getattr(library, name)(mlp().double()).attribute(
                x.clone(), baselines, 1, custom_attribution_func=function
            )
            for library in (fastxai, captum.attr)
        )
        torch.testing.assert_close(ours, theirs.detach(), **CLOSE)


@pytest.mark.parametrize("name", ["DeepLift", "DeepLiftShap"])
def test_what_captum_code_asks_of_a_method(name):
    ours, theirs = getattr(fastxai, name)(mlp()), getattr(captum.attr, name)(mlp())
    assert ours.get_name() == theirs.get_name()
    assert ours.has_convergence_delta() == theirs.has_convergence_delta()
    assert ours.multiplies_by_inputs == theirs.multiplies_by_inputs
    with pytest.raises(NotImplementedError):
        ours.attribute_future()
    values, start, end = torch.randn(3, 7), torch.randn(3, 7), torch.randn(3, 7)
    torch.testing.assert_close(
        ours.compute_convergence_delta(values, start, end, 1),
        theirs.compute_convergence_delta(values, start, end, 1).detach(),
    )


def test_captum_mixes_rows_in_softmax_where_ours_adds_up():
    model = nn.Sequential(dense(nn.Tanh()), nn.Softmax(1))
    x = randn(3, 7)
    for method, right in ((captum.attr.DeepLift, False), (fastxai.DeepLift, True)):
        values, delta = method(model).attribute(x.clone(), target=1, return_convergence_delta=True)
        alone = method(model).attribute(x[:1].clone(), target=1)
        assert (delta.abs().max() < 1e-9) == right
        assert torch.allclose(values[:1], alone, rtol=1e-6, atol=1e-9) == right


def test_captum_does_not_add_up_where_a_relu_stands_before_pooling():
    torch.manual_seed(3)
    layers = (nn.Conv1d(2, 4, 3), nn.ReLU(), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(16, 3))
    model, x = nn.Sequential(*layers).double(), randn(3, 2, 10)
    for method, right in ((captum.attr.DeepLift, False), (fastxai.DeepLift, True)):
        _, delta = method(model).attribute(
            x.clone(), 0.3 * x.flip(0), target=1, return_convergence_delta=True
        )
        assert (delta.abs().max() < 1e-9) == right
