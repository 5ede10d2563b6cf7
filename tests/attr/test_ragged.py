"""Inputs of which some have a first dimension that is not the batch, against closed forms."""

import pytest
import torch
from torch import nn

from fastxai import ArgumentError
from fastxai.attr import FeatureAblation, FeaturePermutation, Occlusion

from ..models import Logged

DENSE = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
INDICES = torch.tensor([1, 7, 2, 4])
PLACES = torch.arange(4)
ROWS = torch.arange(3)[None]


class Model(nn.Module):
    """Sums of dense rows [2, 3] and of the indices [n] of each bag, the first two and the rest."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()), requires_grad=False)

    def forward(self, dense, indices, factor=1):
        bags = torch.stack([indices[:2].sum(), indices[2:].sum()])
        return self.weight * (dense.sum(1) + factor * bags)


def total(dense, indices):
    return Model()(dense, indices).sum()


def per_class(dense, indices):
    return torch.stack([Model()(dense, indices), dense[:, 0]], 1)


def test_entries_in_groups_of_their_own():
    mask = ROWS, 3 + PLACES
    for model in (total, Model()):
        found = FeatureAblation(model).attribute((DENSE, INDICES), feature_mask=mask)
        # Each entry is in one bag, so the sum of the outputs falls as that bag's does.
        assert found[1].tolist() == INDICES.tolist()
        assert found[0].tolist() == ([[5, 7, 9]] if model is total else DENSE.tolist())


def test_entries_in_groups_shared_with_features():
    mask = torch.tensor([[0, 1, 1]]), torch.tensor([0, 2, 2, 2])
    dense, indices = FeatureAblation(total).attribute((DENSE, INDICES), feature_mask=mask)
    assert dense.tolist() == [[6, 16, 16]]
    assert indices.tolist() == [6, 13, 13, 13]


def test_a_mask_of_several_rows_for_one_answer():
    mask = torch.tensor([[0, 1, 1], [0, 0, 1]]), torch.tensor([2])
    dense, indices = FeatureAblation(total).attribute((DENSE, INDICES), feature_mask=mask)
    assert dense.tolist() == [[10, 11, 11], [10, 10, 11]]
    assert indices.tolist() == [14]


def test_outputs_of_a_row_and_of_several_classes():
    x, mask = (DENSE, INDICES), (torch.tensor([[0, 1, 1], [0, 0, 1]]), torch.tensor([2]))
    found = FeatureAblation(per_class).attribute(x, feature_mask=mask)
    assert found[0].tolist() == [[1, 5, 5], [1, 0, 0], [9, 9, 6], [4, 4, 0]]
    assert found[1].tolist() == [8, 0, 6, 0]
    mask = ROWS, 3 + PLACES
    with pytest.raises(ArgumentError, match=r"^feature_mask\[1\]: expected one row .* 4 rows"):
        FeatureAblation(per_class).attribute(x, feature_mask=mask)
    found = FeatureAblation(per_class).attribute(x, target=0, feature_mask=mask)
    assert found[1].tolist() == INDICES.tolist()


def test_arguments_pass_whole_and_state_is_put_back():
    logged, state = Logged(Model()), []

    def model(dense, indices, factor, other):
        assert other.shape == (1, 2) and indices.dtype == torch.float32
        state.append(factor.clone())
        factor += 1  # what a call writes to it is not the next one's
        return logged(dense, indices, 2)

    factor, other = torch.ones(2, 1), torch.zeros(1, 2)
    found = FeatureAblation(model).attribute(
        (DENSE, INDICES), baselines=(0, 0.5), additional_forward_args=(factor, other)
    )
    assert found[1].tolist() == [14, 10]  # two for each of two indices
    assert all((s == 1).all() for s in state) and (factor == 1).all()
    assert logged.tried == 5  # the inputs', three columns and the indices


def test_what_equals_its_baseline_is_not_asked_about():
    logged = Logged(Model())
    found = FeatureAblation(logged).attribute((DENSE, INDICES), (DENSE, INDICES))
    assert logged.tried == 1
    assert [v.tolist() for v in found] == [[[0] * 3] * 2, [0, 0]]


def test_a_batch_of_no_rows():
    def rows(dense, indices):
        return dense.sum(1) + indices.sum()

    def number(dense, indices):
        return rows(dense, indices).sum() + indices.sum()

    mask = ROWS, torch.tensor([3, 3, 3, 4])
    for method in (FeatureAblation, FeaturePermutation):
        found = method(rows).attribute((DENSE[:0], INDICES))
        assert [v.shape for v in found] == [(0, 3), (0,)]
    found = FeatureAblation(number).attribute((DENSE[:0], INDICES), feature_mask=mask)
    assert [v.tolist() for v in found] == [[[0, 0, 0]], [10, 10, 10, 4]]


def test_inputs_are_left_alone():
    def model(dense, indices):
        dense.mul_(2)
        indices.zero_()
        return dense.sum()

    dense, indices = DENSE.clone(), INDICES.clone()
    found = FeatureAblation(model).attribute((dense, indices))
    assert dense.equal(DENSE) and indices.equal(INDICES)
    assert found[0].tolist() == [[10, 14, 18]]


def test_batch_statistics_of_the_whole_call():
    norm = nn.BatchNorm1d(3)

    def model(dense, indices):
        return norm(dense).sum(1) * indices.sum()

    before = norm.running_mean.clone()
    found = FeatureAblation(model).attribute((DENSE, INDICES.float()))
    expected = model(DENSE, INDICES.float()).detach()
    torch.testing.assert_close(found[1], expected)
    assert before.equal(torch.zeros(3))


def test_explain_and_plan():
    method = FeatureAblation(Model())
    explained = method.explain((DENSE, INDICES), (DENSE, 0))
    assert explained.outputs.tolist() == [14, 21]
    assert explained.baseline_outputs.tolist() == [6, 15]
    assert explained.players.tolist() == [1, 1]
    assert [v.tolist() for v in explained.values] == [[[0] * 3] * 2, [8, 6]]
    assert "Feature Ablation" in str(method.plan((DENSE, INDICES)))


def test_seeded_permutations():
    def model(dense, indices):
        return (dense * torch.tensor([[1.0], [3.0]])).sum() + (indices * PLACES).sum()

    method = FeaturePermutation(model)
    found = [method.attribute((DENSE, INDICES), seed=seed) for seed in (3, 3, *range(20))]
    for a, b in zip(found[0], found[1], strict=True):
        assert a.equal(b)
    # Two rows can only change places; of four entries many orders are there.
    assert all(f[0].tolist() == [[6, 6, 6]] for f in found)
    assert len({f[1].item() for f in found}) > 3
    mask = ROWS, torch.tensor([3, 3, 4, 4])
    single = method.attribute((DENSE, INDICES), seed=3, feature_mask=mask)
    assert single[1].shape == (4,)


def test_permutation_by_the_users_function():
    seen = []

    def swap(x, chosen):
        assert chosen.dtype == torch.bool
        seen.append(tuple(chosen.shape))
        return torch.where(chosen, x.flip(0), x)

    method = FeaturePermutation(lambda dense, i: dense[0].sum() + (i * PLACES).sum(), swap)
    found = method.attribute((DENSE, INDICES))
    assert [v.tolist() for v in found] == [[[-3, -3, -3]], [23 - 19]]
    assert seen == [(1, 3)] * 3 + [(1,)]
    with pytest.raises(ArgumentError, match=r"^seed: expected None"):
        method.attribute((DENSE, INDICES), seed=1)
    cut = FeaturePermutation(Logged(Model()), lambda x, chosen: x[:1])
    with pytest.raises(ArgumentError, match=r"^perm_func: expected it to return"):
        cut.attribute((DENSE, INDICES))
    assert cut.forward_func.tried == 0


def test_a_single_row_cannot_be_shuffled():
    method = FeaturePermutation(lambda dense, i: dense.sum(1) + i.sum())
    mask = torch.tensor([[0, 1, 1]]), torch.tensor([0])
    with pytest.warns(UserWarning, match=r"inputs\[1\]: fewer than two rows"):
        dense, index = method.attribute((DENSE, INDICES[:1]), seed=0, feature_mask=mask)
    assert dense.tolist() == [[0, -6, -6], [0, 6, 6]]
    assert index.tolist() == [0, 0]


BAD = {
    "not a tensor": ({"inputs": (DENSE, INDICES, 3)}, r"inputs\[2\]: expected a torch.Tensor"),
    "number": ({"inputs": (DENSE, INDICES, torch.tensor(1))}, r"inputs\[2\]: .* dimension"),
    "nested": (
        {"inputs": (DENSE, INDICES, torch.nested.nested_tensor([DENSE[0], DENSE[1, :1]]))},
        r"inputs\[2\]: expected a dense tensor, got nested",
    ),
    "sparse": ({"inputs": (DENSE, INDICES.to_sparse())}, r"inputs\[1\]: expected a dense tensor"),
    "device": ({"inputs": (DENSE, INDICES.to("meta"))}, r"inputs\[1\]: expected the device"),
    "target": ({"target": [0, 1, 0]}, "target: expected one for each of 2 rows, got 3"),
    "text target": ({"target": "cat"}, "target: expected an int"),
    "baselines": ({"baselines": (0,)}, "baselines: expected one for each of the 2 inputs, got 1"),
    "baseline": (
        {"baselines": (0, INDICES[:3])},
        r"baselines\[1\]: expected the input's shape \(4,\), .* got shape \(3,\)",
    ),
    "masks": ({"feature_mask": (ROWS,)}, "feature_mask: expected one for each of the 2 inputs"),
    "mask": (
        {"feature_mask": (ROWS, PLACES[:3])},
        r"feature_mask\[1\]: expected a shape that broadcasts to the input's, \(4,\)",
    ),
    "limit": ({"perturbations_per_eval": 0}, "perturbations_per_eval: expected an integer"),
}


@pytest.mark.parametrize("method", [FeatureAblation, FeaturePermutation])
@pytest.mark.parametrize("name", BAD)
def test_refused_before_any_model_call(method, name):
    arguments, message = BAD[name]
    if method is FeaturePermutation and "baselines" in arguments:
        return
    logged = Logged(Model())
    with pytest.raises(ArgumentError, match=f"^{message}"):
        method(logged).attribute(**{"inputs": (DENSE, INDICES), **arguments})
    assert logged.tried == 0


def test_targets_that_do_not_fit_the_output():
    method = FeatureAblation(per_class)
    with pytest.raises(ArgumentError, match=r"^target: expected one for each of the output's 2"):
        method.attribute((DENSE, INDICES), target=[0, 1, 0, 1])
    with pytest.raises(IndexError, match=r"^target: 2 is out of range"):
        method.attribute((DENSE, INDICES), target=2)
    with pytest.raises(ArgumentError, match=r"^target: expected at most 0 indices"):
        FeatureAblation(total).attribute((DENSE, INDICES), target=0)
    with pytest.raises(ArgumentError, match=r"^target: expected at most 0 indices"):
        FeatureAblation(lambda *x: float(total(*x))).attribute((DENSE, INDICES), target=0)


def test_windows_slide_over_examples_of_one_batch():
    with pytest.raises(ArgumentError, match=r"^inputs\[1\]: expected the batch size"):
        Occlusion(Model()).attribute((DENSE, INDICES), ((1,), ()))
