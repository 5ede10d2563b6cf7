"""Feature masks: from the user's ids to players, and back to features."""

import pytest
import torch

from fastxai import ArgumentError
from fastxai.core.engine.groups import check_feature_mask
from fastxai.core.engine.inputs import check_inputs


def groups_of(mask, *shapes):
    inputs = tuple(torch.zeros(shape) for shape in shapes)
    return check_feature_mask(mask, check_inputs(inputs if len(shapes) > 1 else inputs[0], False))


def expected_players(masks, inputs):
    """Every feature's place among the sorted ids, [B, *F] for each input."""
    everywhere = [m.expand(x).long() for m, x in zip(masks, inputs, strict=True)]
    ids = sorted({i for m in everywhere for i in m.flatten().tolist()})
    return [
        torch.tensor([ids.index(i) for i in m.flatten().tolist()]).view(m.shape) for m in everywhere
    ]


def test_without_a_mask_every_feature_is_a_player():
    groups = groups_of(None, (2, 3), (2, 2, 2), (2,), (2, 0))
    assert groups.count == 8 and groups.ids is None and groups.one_for_all
    assert [m.shape for m in groups.masks] == [(1, 3), (1, 2, 2), (1,), (1, 0)]
    assert torch.cat([m.flatten() for m in groups.masks]).tolist() == list(range(8))
    assert all(m.dtype == torch.int32 for m in groups.masks)


@pytest.mark.parametrize(
    "mask",
    [
        torch.tensor([[0, 1, 1, 3]]),
        torch.tensor([9, 2, 2, 9]),
        torch.tensor(5),
        torch.tensor([[1], [0], [1]]),
        torch.tensor([[0, 0, 0, 0], [8, 8, 1, 1], [0, 1, 2, 3]]),
        torch.tensor([[0, 7, 0, 7]], dtype=torch.uint8),
        torch.tensor([[2**31 - 1, 0, 5, 5]]),
    ],
)
def test_ids_become_players_in_order(mask):
    groups = groups_of(mask, (3, 4))
    (expected,) = expected_players([mask], [(3, 4)])
    (found,) = groups.masks
    assert found.dtype == torch.int32 and found.is_contiguous()
    assert found.shape == (3 if mask.dim() == 2 and mask.shape[0] == 3 else 1, 4)
    assert torch.equal(found.expand(3, 4).long(), expected)
    assert groups.count == int(expected.max()) + 1
    assert groups.one_for_all == (found.shape[0] == 1)
    ids = mask.long().unique()
    gaps = not torch.equal(ids, torch.arange(len(ids)))
    assert torch.equal(groups.ids, ids) if gaps else groups.ids is None


def test_ids_are_shared_by_the_tensors_of_a_tuple():
    shapes = [(2, 3), (2, 2, 2), (2,)]
    masks = (torch.tensor([4, 0, 4]), torch.tensor([[[0, 9]], [[4, 9]]]), torch.tensor([7]))
    groups = groups_of(masks, *shapes)
    assert groups.count == 4 and groups.ids.tolist() == [0, 4, 7, 9] and not groups.one_for_all
    for found, expected in zip(groups.masks, expected_players(masks, shapes), strict=True):
        assert torch.equal(found.expand(expected.shape).long(), expected)


def test_the_users_mask_is_left_alone():
    mask = torch.tensor([[3, 1, 3]])
    groups = groups_of(mask, (2, 3))
    groups.masks[0].zero_()
    assert mask.tolist() == [[3, 1, 3]]


@pytest.mark.parametrize("outputs", [(), (2,), (2, 3)])
@pytest.mark.parametrize(
    "masks",
    [
        (torch.tensor([0, 2, 2]), torch.tensor([[[2], [5]]]), torch.tensor([1])),
        (torch.tensor([[0], [2]]), torch.tensor([[[2], [5]], [[0], [0]]]), torch.tensor([1, 5])),
    ],
)
def test_values_spread_to_their_features_and_to_their_ids(masks, outputs):
    shapes = [(2, 3), (2, 2, 1), (2,)]
    groups = groups_of(masks, *shapes)
    assert groups.ids.tolist() == [0, 1, 2, 5]
    torch.manual_seed(0)
    values = torch.randn(2, *outputs, 4)
    for found, players in zip(groups.spread(values), expected_players(masks, shapes), strict=True):
        expected = torch.stack([values[b][..., players[b].flatten()] for b in range(2)])
        torch.testing.assert_close(found, expected.reshape(2, *outputs, *players.shape[1:]))
    by_id = groups.by_id(values)
    assert by_id.shape == (2, *outputs, 6) and (by_id[..., [3, 4]] == 0).all()
    torch.testing.assert_close(by_id[..., [0, 1, 2, 5]], values)


def test_ids_are_counted_from_the_least():
    groups = groups_of((torch.tensor([7, 5]), torch.tensor([8])), (2, 2), (2, 1))
    assert groups.by_id(torch.tensor([[1.0, 2, 3]])).tolist() == [[1, 0, 2, 3]]


def test_values_of_players_without_gaps_are_by_id_already():
    values = torch.randn(2, 3)
    assert groups_of(torch.tensor([2, 0, 1, 1]), (2, 4)).by_id(values) is values
    assert groups_of(None, (2, 3)).by_id(values) is values


def test_no_examples():
    for mask in (None, torch.tensor([0, 0, 4]), torch.empty(0, 3, dtype=torch.long)):
        groups = groups_of(mask, (0, 3))
        (found,) = groups.spread(torch.empty(0, groups.count))
        assert found.shape == (0, 3)
        (found,) = groups.spread(torch.empty(0, 5, groups.count))
        assert found.shape == (0, 5, 3)


def test_no_features():
    for mask in (None, torch.empty(1, 0, dtype=torch.long)):
        with pytest.raises(ArgumentError, match="expected at least one feature"):
            groups_of(mask, (3, 0))
