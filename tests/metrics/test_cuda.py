"""The metrics on a GPU: the same numbers as on the CPU."""

import copy

import pytest
import torch

from fastxai import IntegratedGradients, Saliency
from fastxai.metrics import infidelity, sensitivity_max

from ..models import TwoInputs, mlp

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
CLOSE = {"rtol": 1e-9, "atol": 1e-11}


def bent(inputs, *_):
    changes = tuple(0.3 * x.sin() for x in inputs)
    return changes, tuple(x - c for x, c in zip(inputs, changes, strict=True))


@pytest.mark.parametrize("normalize", [False, True])
def test_infidelity_equals_the_cpu(normalize):
    model = TwoInputs().double()
    inputs = (torch.randn(5, 4).double(), torch.randn(5, 2, 3).double())
    target, shift = [0, 1, 2, 1, 0], torch.rand(5, 6).double()
    values = Saliency(model).attribute(inputs, target, True, shift)
    expected = infidelity(model, bent, inputs, values, 0.1, shift, target, 9, None, normalize)
    found = infidelity(
        copy.deepcopy(model).cuda(),
        bent,
        tuple(x.cuda() for x in inputs),
        tuple(v.cuda() for v in values),
        0.1,
        shift.cuda(),
        target,
        9,
        None,
        normalize,
    )
    torch.testing.assert_close(found.cpu(), expected, **CLOSE)


def test_sensitivity_of_a_seed_equals_the_cpu():
    model, x = mlp().double(), torch.randn(3, 7).double()
    arguments = {"target": [0, 3, 1], "baselines": torch.randn(3, 7).double(), "seed": 4}
    expected = sensitivity_max(IntegratedGradients(model).attribute, x, **arguments)
    arguments["baselines"] = arguments["baselines"].cuda()
    on_gpu = IntegratedGradients(copy.deepcopy(model).cuda())
    found = sensitivity_max(on_gpu.attribute, x.cuda(), **arguments)
    torch.testing.assert_close(found.cpu(), expected, **CLOSE)
