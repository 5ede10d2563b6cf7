"""Sliding windows: where they are, and what a feature gets from those that cover it."""

import itertools
import math
import random

import pytest
import torch

from fastxai.core.engine.inputs import check_inputs
from fastxai.core.engine.windows import Windows, check_windows

CPU = torch.device("cpu")
CASES = [  # feature shape, window, strides
    ((7,), (3,), (2,)),
    ((7,), (3,), (3,)),
    ((7,), (7,), (20,)),
    ((1,), (1,), (1,)),
    ((5, 4), (2, 3), (2, 1)),
    ((5, 4), (5, 1), (9, 1)),
    ((3, 4, 5), (2, 4, 2), (1, 4, 2)),
    ((2, 3, 2, 3), (1, 2, 2, 2), (1, 2, 1, 1)),
    ((), (), ()),
]


def boxes(shape, window, strides):
    """The flat positions of each window, the first dimension fastest."""
    starts = [
        range(0, math.ceil((size - w) / step) * step + 1, step)
        for size, w, step in zip(shape, window, strides, strict=True)
    ]
    flat = torch.arange(math.prod(shape)).reshape(shape)
    for corner in itertools.product(*reversed(starts)):
        place = tuple(slice(c, c + w) for c, w in zip(reversed(corner), window, strict=True))
        yield flat[place].flatten().tolist()


@pytest.mark.parametrize(("shape", "window", "strides"), CASES)
def test_positions_are_those_of_the_boxes(shape, window, strides):
    expected = list(boxes(shape, window, strides))
    windows = Windows(shape, window, strides, 0, CPU)
    assert windows.count == len(expected)
    everyone = slice(0, 3)
    for start, stop in itertools.combinations(range(len(expected) + 1), 2):
        positions, offsets = windows.positions(slice(start, stop), everyone)
        assert positions.shape[0] == offsets.shape[0] == 1
        assert positions.dtype == offsets.dtype == torch.int64
        bounds = offsets[0].tolist()
        found = [positions[0, a:b].tolist() for a, b in itertools.pairwise(bounds)]
        assert [sorted(f) for f in found] == expected[start:stop]


def test_positions_of_groups_of_other_inputs_are_none():
    windows = Windows((5,), (2,), (2,), 4, CPU)  # groups 4, 5 and 6 of ten
    positions, offsets = windows.positions(slice(2, 9), slice(0, 1))
    assert offsets.tolist() == [[0, 0, 0, 2, 4, 5, 5, 5]]
    assert positions.tolist() == [[0, 1, 2, 3, 4]]
    positions, offsets = windows.positions(slice(0, 4), slice(0, 1))
    assert positions.shape == (1, 0) and offsets.tolist() == [[0] * 5]


@pytest.mark.parametrize("lead", [(1,), (3,), (2, 3)])
@pytest.mark.parametrize(("shape", "window", "strides"), CASES)
def test_a_feature_gets_the_mean_over_its_windows(shape, window, strides, lead):
    windows = Windows(shape, window, strides, 0, CPU)
    torch.manual_seed(0)
    values = torch.randn(*lead, windows.count, dtype=torch.float64)
    total = torch.zeros(*lead, math.prod(shape), dtype=torch.float64)
    covered = torch.zeros(math.prod(shape))
    for i, box in enumerate(boxes(shape, window, strides)):
        total[..., box] += values[..., i : i + 1]
        covered[box] += 1
    assert (covered > 0).all()
    found = windows.spread(values)
    torch.testing.assert_close(found, (total / covered).reshape(*lead, *shape))


def test_any_windows_that_are_allowed_cover_every_feature():
    draw = random.Random(0)
    for _ in range(200):
        shape = tuple(draw.randint(1, 6) for _ in range(draw.randint(1, 3)))
        window = tuple(draw.randint(1, size) for size in shape)
        strides = tuple(draw.randint(1, w) for w in window)
        (windows,) = check_windows(window, strides, check_inputs(torch.zeros(2, *shape), False))
        covered = {p for box in boxes(shape, window, strides) for p in box}
        assert covered == set(range(math.prod(shape)))
        ones = torch.ones(windows.count, dtype=torch.float64)
        found = windows.spread(ones[None])
        torch.testing.assert_close(found, torch.ones(1, *shape, dtype=torch.float64))


@pytest.mark.parametrize(
    ("shapes", "strides", "window", "steps"),
    [
        ((2, 3), None, (2, 3), (1, 1)),
        ((2, 3), 2, (2, 3), (2, 2)),
        ((2, 3), (2,), (2, 3), (2, 2)),
        ((2, 3), (1, 3), (2, 3), (1, 3)),
        (((2, 3),), None, (2, 3), (1, 1)),
        (((2, 3),), ((1, 2),), (2, 3), (1, 2)),
        ((4, 1), (7, 1), (4, 1), (7, 1)),
    ],
)
@pytest.mark.parametrize("in_tuple", [False, True])
def test_one_input_takes_every_form(shapes, strides, window, steps, in_tuple):
    x = torch.zeros(3, 4, 5)
    (found,) = check_windows(shapes, strides, check_inputs((x,) if in_tuple else x, False))
    assert (found.shape, found.window, found.strides) == ((4, 5), window, steps)


def test_windows_of_several_inputs_are_numbered_on():
    inputs = check_inputs((torch.zeros(3, 5), torch.zeros(3, 4, 4), torch.zeros(3, 2)), False)
    found = check_windows(((2,), (2, 2), (1,)), (1, (2, 1), None), inputs)
    assert [w.strides for w in found] == [(1,), (2, 1), (1,)]
    assert [w.count for w in found] == [4, 6, 2]
    assert [w.first for w in found] == [0, 4, 10]
    for strides, steps in ((None, 1), (2, 2)):
        found = check_windows(((2,), (2, 2), (2,)), strides, inputs)
        assert [set(w.strides) for w in found] == [{steps}] * 3
