"""Noisy rows, and sums of gradients that a method adds up in its own way."""

import pytest
import torch

from fastxai.core import engine
from fastxai.core.engine.model import Model
from fastxai.core.engine.noisy_rows import NoisyRows

from ...models import Logged

pytestmark = pytest.mark.usefixtures("independent_rows")  # these count calls

EXACT = {"rtol": 1e-12, "atol": 1e-12}


def randn(*shape):
    torch.manual_seed(sum(shape))
    return torch.randn(*shape, dtype=torch.float64)


def noisy(background=True, samples=9):
    inputs = randn(4, 3), randn(4, 2, 2)
    rows = (randn(3, 3), randn(3, 2, 2)) if background else None
    return NoisyRows(inputs, rows, (0.5, 0.0), samples, 7)


@pytest.mark.parametrize("background", [True, False])
def test_any_block_is_part_of_the_whole(background):
    rows = noisy(background)
    whole = [row.unflatten(0, (9, 4)) for row in rows.block(slice(0, 9), slice(0, 4))]
    for repeats, examples in (
        (slice(2, 5), slice(1, 3)),
        (slice(0, 1), slice(3, 4)),
        (slice(8, 9), slice(0, 4)),
    ):
        block = rows.block(repeats, examples)
        for row, all_rows in zip(block, whole, strict=True):
            expected = all_rows[repeats, examples].flatten(0, 1)
            torch.testing.assert_close(row, expected, rtol=0, atol=0)


def test_ends_and_starts():
    rows = noisy()
    everyone = slice(0, 9), slice(0, 4)
    ends, starts = rows.ends().block(*everyone), rows.starts().block(*everyone)
    assert torch.equal(ends[1], rows.inputs[1].repeat(9, 1, 1))
    assert not torch.isclose(ends[0], rows.inputs[0].repeat(9, 1)).any()
    assert rows.starts().repeats == 3 and noisy(samples=2).starts().repeats == 2
    numbers = []
    for start, background in zip(starts, rows.background, strict=True):
        same = (start.flatten(1)[:, None] == background.flatten(1)).all(2)
        assert (same.sum(1) == 1).all()
        numbers.append(same.int().argmax(1).reshape(9, 4))
    assert torch.equal(*numbers)  # the same row of both
    assert torch.equal(numbers[0][3:], numbers[0][:-3])
    assert torch.equal(numbers[0][:3].sort(0).values, torch.arange(3)[:, None].expand(3, 4))


def test_products():
    rows = noisy()
    gradients = [randn(3, 2, 3), randn(3, 2, 2, 2)]
    block = slice(4, 7), slice(1, 3)
    ends, starts = rows.ends().block(*block), rows.starts().block(*block)
    pairs = [
        (end - start).reshape(g.shape) * g
        for end, start, g in zip(ends, starts, gradients, strict=True)
    ]
    expected = sum(p.flatten(2).sum(2) for p in pairs)
    torch.testing.assert_close(rows.products(gradients, *block), expected, **EXACT)
    sums = rows.add_products([], gradients, *block)
    again = rows.add_products(sums, gradients, *block)
    for total, twice, p in zip(sums, again, pairs, strict=True):
        torch.testing.assert_close(total, p.sum(0), **EXACT)
        torch.testing.assert_close(twice, 2 * p.sum(0), **EXACT)


@pytest.mark.parametrize("limit", [None, 1, 5, 8])
def test_sums_of_any_number_and_shape(limit):
    """Here the squared gradients and their number, for any cut into blocks."""
    rows = NoisyRows((randn(4, 3),), None, (0.5,), 9, 7)
    logged = Logged(lambda x: x.sin().sum(1))
    seen = []

    def add(sums, found):
        assert torch.equal(found.rows[0].cos(), found.each[0])
        seen.append((found.repeats, found.examples))
        new = [
            found.each[0].square().sum(0),
            torch.ones(found.each[0].shape[1]) * len(found.each[0]),
        ]
        return [a + b for a, b in zip(sums, new, strict=True)] if sums else new

    squares, count = engine.gradient_sum(Model(logged, 4), rows, add, limit)
    (all_rows,) = rows.block(slice(0, 9), slice(0, 4))
    expected = all_rows.cos().square().unflatten(0, (9, 4)).sum(0)
    torch.testing.assert_close(squares, expected, **EXACT)
    assert torch.equal(count, torch.full((4,), 9.0))
    assert sum(logged.rows) == 36 and (limit is None or max(logged.rows) <= limit)


def test_inputs_have_noise_of_their_own():
    x = randn(4, 3)
    one, other = NoisyRows((x, x), None, (0.5, 0.5), 9, 7).block(slice(0, 9), slice(0, 4))
    assert not torch.isclose(one, other).any()
