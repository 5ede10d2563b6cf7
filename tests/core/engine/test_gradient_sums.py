"""Several outputs' gradients from one call of the model."""

import pytest
import torch
from torch import nn

from fastxai.core import engine
from fastxai.core.engine.model import Model
from fastxai.core.engine.rows import PathRows
from fastxai.core.engine.targets import Target


class Counted(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.net, self.calls = nn.Sequential(*layers), []

    def forward(self, x):
        self.calls.append(len(x))
        return self.net(x)


def question(features, width, outputs, batch=3, steps=40):
    torch.manual_seed(0)
    module = Counted(nn.Linear(features, width), nn.Tanh(), nn.Linear(width, outputs))
    x = torch.randn(batch, features)
    alphas = torch.linspace(0, 1, steps, dtype=torch.float64)
    return module, PathRows((x,), (torch.zeros(1, features),), alphas)


@pytest.mark.parametrize(
    "targets", [[0, 2], [1], [torch.tensor([0, 1, 2]), torch.tensor([2, 2, 1])]]
)
@pytest.mark.parametrize(("features", "width"), [(5, 8), (4000, 300)])
def test_sums_are_those_of_each_output(features, width, targets):
    module, rows = question(features, width, 3)
    add = engine.Weighted(torch.linspace(1, 2, rows.repeats, dtype=torch.float64))
    chosen = [Target(target, rows.batch) for target in targets]
    model = Model(module, rows.batch, dims=[2])
    found = engine.gradient_sums(model, rows, add, chosen)
    assert len(found) == len(targets)
    for target, (value,) in zip(targets, found, strict=True):
        one = Model(module, rows.batch, target, dims=[2])
        (expected,) = engine.gradient_sum(one, rows, add)
        torch.testing.assert_close(value, expected)
    by_prefix = sum(run.by_prefix for run in model.runs)
    assert by_prefix == (len(targets) * 120 if features == 4000 else 0)


def test_the_model_is_asked_once_for_all_outputs():
    module, rows = question(5, 8, 3)
    add = engine.Weighted(torch.ones(rows.repeats, dtype=torch.float64))
    model = Model(module, rows.batch, dims=[2])
    model.rows_interact = False
    engine.gradient_sums(model, rows, add, [Target(c, rows.batch) for c in range(3)])
    assert module.calls == [120]


def test_many_outputs_prefer_one_pass_forward_to_a_short_prefix():
    torch.manual_seed(0)
    layers = [nn.Linear(500, 300), nn.Tanh(), nn.Linear(300, 1000), nn.Tanh(), nn.Linear(1000, 3)]
    module = Counted(*layers)
    rows = PathRows(
        (torch.randn(3, 500),), (torch.zeros(1, 500),), torch.rand(200, dtype=torch.float64)
    )
    model = Model(module, 3, dims=[2])
    add = engine.Weighted(torch.ones(200, dtype=torch.float64))
    engine.gradient_sums(model, rows, add, [Target(c, 3) for c in range(3)])
    assert sum(run.by_prefix for run in model.runs) == 0
