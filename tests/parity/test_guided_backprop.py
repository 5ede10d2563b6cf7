"""Captum's GuidedBackprop and Deconvolution beside ours, on models whose ReLUs are modules."""

import captum.attr
import pytest
import torch
from torch import nn

import fastxai

from ..models import TwoInputs, mlp


class CNN(nn.Sequential):
    def __init__(self, inplace: bool):
        torch.manual_seed(0)
        super().__init__(
            nn.Conv2d(2, 6, 3),
            nn.BatchNorm2d(6),
            nn.ReLU(inplace),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 8, 3, padding=1),
            nn.ReLU(inplace),
            nn.Flatten(),
            nn.Linear(48, 5),
        )
        self.eval()


CASES = {
    "mlp": (mlp(), torch.randn(3, 7), {"target": [0, 3, 1]}),
    "cnn": (CNN(False), torch.randn(3, 2, 8, 7), {"target": 2}),
    "cnn in place": (CNN(True), torch.randn(3, 2, 8, 7), {"target": torch.tensor([4, 0, 1])}),
    "two inputs": (
        TwoInputs(),
        (torch.randn(3, 4), torch.randn(3, 2, 3)),
        {"target": 1, "additional_forward_args": torch.rand(3, 6)},
    ),
}


@pytest.mark.filterwarnings("ignore:Setting backward hooks")
@pytest.mark.parametrize("name", ["GuidedBackprop", "Deconvolution"])
@pytest.mark.parametrize("case", CASES)
def test_equals_captum(name, case):
    model, x, arguments = CASES[case]
    ours = getattr(fastxai, name)(model)
    theirs = getattr(captum.attr, name)(model)
    assert ours.get_name() == theirs.get_name()
    leaves = tuple(t.clone().requires_grad_() for t in (x if isinstance(x, tuple) else (x,)))
    expected = theirs.attribute(leaves if isinstance(x, tuple) else leaves[0], **arguments)
    torch.testing.assert_close(ours.attribute(x, **arguments), expected, rtol=1e-5, atol=1e-6)
