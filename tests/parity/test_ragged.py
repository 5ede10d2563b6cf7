"""Inputs of different first dimensions: Captum 0.9.0's FeatureAblation and FeaturePermutation.

Captum is asked for one perturbation a call, as it takes no more for these.
"""

import captum.attr
import pytest
import torch
from torch import nn

import fastxai

EXACT = {"rtol": 1e-10, "atol": 1e-12}
torch.manual_seed(0)
DENSE = torch.randn(2, 3, dtype=torch.float64)
SHIFTS = torch.randn(5, 4, dtype=torch.float64)
INDICES = torch.tensor([1, 7, 2, 4, 5, 3, 6])
OFFSETS = torch.tensor([0, 3])


class Bags(nn.Module):
    """Dense features [B, 3] and bags of indices [n], of which the one at each offset begins."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.bag, self.head = nn.EmbeddingBag(10, 4), nn.Linear(7, 3)
        self.double().eval().requires_grad_(False)

    def forward(self, dense, indices, offsets=OFFSETS):  # -> [B, 3]
        return self.head(torch.cat([dense, self.bag(indices, offsets)], 1).tanh())


def mean(x):
    return x.double().mean() if x.numel() else 0


def one_number(dense, *others):
    return dense.sum().reshape(1) * 2 + sum((i + 1) * mean(x) for i, x in enumerate(others))


def row_by_row(dense, *others):
    return (dense * dense).sum(1) + sum((i + 1) * mean(x) for i, x in enumerate(others))


def scalar(dense, *others):
    return one_number(dense, *others).sum()


def python_number(dense, *others):
    return float(one_number(dense, *others))


def assert_like_captum(name, model, inputs, options=(), **arguments):
    theirs = getattr(captum.attr, name)(model, *options).attribute(inputs, **arguments)
    ours = getattr(fastxai.attr, name)(model, *options)
    for limit in (None, 1, 3):
        found = ours.attribute(inputs, **arguments, perturbations_per_eval=limit)
        check_dtype = model is not python_number  # which Captum makes float32
        torch.testing.assert_close(found, theirs, check_dtype=check_dtype, **EXACT)


INPUTS = {
    "indices": (DENSE, INDICES),
    "matrix": (DENSE, SHIFTS),
    "one": (DENSE, INDICES[:1]),
    "empty": (DENSE, torch.tensor([])),
    "empty matrix": (DENSE, torch.zeros(0, 4, dtype=torch.float64)),
    "several": (DENSE, INDICES, SHIFTS, DENSE * 2),
    "one row": (DENSE[:1], INDICES),
    "zero": (DENSE, torch.zeros(4)),
}


@pytest.mark.parametrize("model", [one_number, row_by_row, scalar, python_number])
@pytest.mark.parametrize("name", INPUTS)
def test_forms_of_inputs_and_outputs(name, model):
    assert_like_captum("FeatureAblation", model, INPUTS[name])


@pytest.mark.parametrize("model", [one_number, row_by_row])
@pytest.mark.parametrize("inputs", [(INDICES, DENSE), (torch.tensor([]), DENSE)])
def test_what_comes_first_does_not_matter(inputs, model):
    assert_like_captum("FeatureAblation", lambda i, dense: model(dense, i), inputs)


TARGETS = [None, 1, (2,), torch.tensor(1), torch.tensor([0, 2]), [2, 1], [(0,), (1,)]]


@pytest.mark.parametrize("target", TARGETS)
def test_targets(target):
    assert_like_captum("FeatureAblation", Bags(), (DENSE, INDICES), target=target)
    assert_like_captum(
        "FeatureAblation",
        lambda indices, dense: Bags()(dense, indices),
        (INDICES, DENSE),
        target=target,
    )


BASELINES = {
    "number": (0.5, 2),
    "one row": (DENSE[:1] / 2, torch.tensor([3])),
    "each row": (DENSE / 2, INDICES.flip(0)),
    "mixed": (DENSE[0] / 3, 1),
    "equal": (DENSE.clone(), INDICES.clone()),
}


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("model", [one_number, row_by_row, Bags()])
def test_baselines(name, model):
    inputs, baselines = (DENSE, INDICES), BASELINES[name]
    assert_like_captum("FeatureAblation", model, inputs, baselines=baselines)


MASKS = {
    "own groups": (torch.tensor([[0, 1, 1]]), torch.tensor([2])),
    "shared": (torch.tensor([[0, 1, 1]]), torch.tensor([0])),
    "gaps": (torch.tensor([[9, 4, 4]]), torch.tensor([7])),
}


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("model", [one_number, row_by_row, Bags()])
def test_masks(name, model):
    assert_like_captum("FeatureAblation", model, (DENSE, INDICES), feature_mask=MASKS[name])


@pytest.mark.parametrize("model", [one_number, row_by_row])
@pytest.mark.parametrize("mask", [torch.tensor([2]), torch.tensor([0]), torch.tensor([]).long()])
def test_masks_of_an_empty_tensor(mask, model):
    masks = torch.tensor([[0, 1, 1]]), mask
    assert_like_captum("FeatureAblation", model, (DENSE, torch.tensor([])), feature_mask=masks)


def test_a_mask_for_each_row():
    mask = torch.tensor([[0, 1, 1], [0, 0, 1]]), torch.tensor([2])
    assert_like_captum("FeatureAblation", row_by_row, (DENSE, INDICES), feature_mask=mask)


@pytest.mark.parametrize("extra", [OFFSETS, torch.tensor([0, 6])])
def test_extra_arguments(extra):
    for arguments in (extra, (extra,)):
        assert_like_captum(
            "FeatureAblation",
            Bags(),
            (DENSE, INDICES),
            additional_forward_args=arguments,
            target=torch.tensor([1, 0]),
        )


def roll(x, chosen):
    """A shuffle that both libraries can do: every row gets its neighbour's value."""
    return torch.where(chosen, x.roll(1, 0), x)


def weighted(dense, *others):
    """Which tells rows of the others apart."""
    others = [x.double() * torch.arange(1, len(x) + 1).reshape(-1, *[1] * (x.dim() - 1))
              for x in others]  # fmt: skip
    return row_by_row(dense, *others)


@pytest.mark.parametrize("name", INPUTS)
def test_permutations(name):
    assert_like_captum("FeaturePermutation", weighted, INPUTS[name], options=(roll,))


@pytest.mark.parametrize("name", MASKS)
def test_permutations_of_groups(name):
    inputs = DENSE, INDICES
    for some in (inputs, (DENSE, INDICES[:1]), (DENSE[:1], INDICES)):
        assert_like_captum(
            "FeaturePermutation", weighted, some, options=(roll,), feature_mask=MASKS[name]
        )
