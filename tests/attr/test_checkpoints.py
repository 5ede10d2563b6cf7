"""Models with torch.utils.checkpoint have the values of the same models without."""

import threading

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from fastxai import ArgumentError, GuidedBackprop

from ..methods import METHODS


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


# There are gradients for parameters alone through the other kind.
ONE_KIND = ("Saliency", "InputXGradient", "IntegratedGradients", "GradientShap", "NoiseTunnel")


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("name", [name for name in METHODS if name != "LimeBase"])
def test_values_are_those_without_checkpoints(name, use_reentrant):
    model, x, method = Model(), torch.randn(2, 2, 5, 5, dtype=torch.float64), METHODS[name]
    expected = method.ask(model, x, model.inner, target=1)
    model.use_reentrant = use_reentrant
    if use_reentrant and name in ONE_KIND:
        with pytest.raises(ArgumentError, match=r"^forward_func: .* use_reentrant=False"):
            method.ask(model, x, model.inner, target=1)
        return
    found = method.ask(model, x, model.inner, target=1)
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
