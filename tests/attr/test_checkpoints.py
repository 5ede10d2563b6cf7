"""Models with torch.utils.checkpoint have the values of the same models without."""

import threading

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from fastxai import (
    Deconvolution,
    DeepLift,
    DeepLiftShap,
    GuidedBackprop,
    GuidedGradCam,
    LayerActivation,
    LayerDeepLift,
    LayerDeepLiftShap,
    LayerGradCam,
    LayerGradientShap,
    LayerGradientXActivation,
    LayerIntegratedGradients,
)


class Model(nn.Module):
    """[N, 2, 5, 5] -> [N, 3], with a part that is checkpointed."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.inner = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3, padding=1)
        self.last, self.use_reentrant = nn.Linear(4, 3), None
        self.double().eval()

    def block(self, h):
        return h + torch.relu(self.inner(torch.relu(h)))

    def forward(self, x):
        h, mode = self.first(x), self.use_reentrant
        h = self.block(h) if mode is None else checkpoint(self.block, h, use_reentrant=mode)
        return self.last(h.mean((2, 3)))


BACKGROUND = {"baselines": torch.ones(3, 2, 5, 5, dtype=torch.float64)}
METHODS = [
    *((method, {}) for method in (DeepLift, GuidedBackprop, Deconvolution)),
    (DeepLiftShap, BACKGROUND),
    *((method, None) for method in (LayerGradCam, LayerGradientXActivation)),
    (LayerIntegratedGradients, None),
    (LayerActivation, None),
    (LayerDeepLift, {}),
    (LayerDeepLiftShap, BACKGROUND),
    (LayerGradientShap, {**BACKGROUND, "seed": 0}),
    (GuidedGradCam, None),
]


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize(("method", "options"), METHODS)
def test_values_are_those_without_checkpoints(method, options, use_reentrant):
    model, x = Model(), torch.randn(2, 2, 5, 5, dtype=torch.float64)
    of_layer = method.__name__.startswith(("Layer", "GuidedGrad"))
    explainer = method(model, model.inner) if of_layer else method(model)
    arguments = {**(options or {}), **({} if method is LayerActivation else {"target": 1})}
    expected = explainer.attribute(x, **arguments)
    model.use_reentrant = use_reentrant
    found = explainer.attribute(x, **arguments)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpoints_of_other_threads_and_afterwards_are_as_ever(use_reentrant):
    model, x, runs = Model(), torch.randn(2, 2, 5, 5, dtype=torch.float64), []
    model.inner.register_forward_hook(lambda *args: runs.append(threading.get_ident()))
    model.use_reentrant = use_reentrant

    def train():
        model(x).sum().backward()

    class Meanwhile(nn.Module):
        def forward(self, x):
            other = threading.Thread(target=train)
            other.start()
            other.join()
            return torch.relu(model(x))

    GuidedBackprop(Meanwhile()).attribute(x, target=1)
    mine = threading.get_ident()
    assert runs.count(mine) == 1 and len(runs) == 3  # the other thread ran it again
    train()
    assert len(runs) == 5
    for name in ("apply", "__enter__", "__exit__"):
        for kind in (
            torch.utils.checkpoint.CheckpointFunction,
            torch.utils.checkpoint._checkpoint_hook,
        ):
            assert name not in vars(kind)
