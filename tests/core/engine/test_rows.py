"""Descriptions of rows: every block is the rectangle of all rows that it was asked for."""

import itertools

import pytest
import torch

from fastxai.core.engine.coalition_rows import AblationRows, CoalitionRows, MaskPieces
from fastxai.core.engine.rows import InputRows, PermutedRows
from fastxai.core.engine.windows import Windows
from fastxai.core.spans import part

CPU = torch.device("cpu")
BATCH, REPEATS = 4, 6
SLICES = [slice(0, 1), slice(0, REPEATS), slice(2, 5), slice(5, 6)]
EXAMPLES = [slice(0, BATCH), slice(0, 1), slice(1, 3), slice(3, 4)]


def numbers(*shape, dtype=torch.float32):
    torch.manual_seed(sum(shape))
    return (100 * torch.rand(*shape)).to(dtype)


def assert_blocks(rows, expected):
    """``expected``: all rows of each input, [R, B, *F]."""
    before = [x.clone() for x in rows.inputs]
    assert rows.repeats == expected[0].shape[0] and rows.batch == expected[0].shape[1]
    for repeats, examples in itertools.product(SLICES, EXAMPLES):
        if rows.together and examples != slice(0, BATCH):
            continue
        for _ in range(2):  # the second time after the model has written to the first
            for block, whole in zip(rows.block(repeats, examples), expected, strict=True):
                assert torch.equal(block, whole[repeats, examples].flatten(0, 1))
                block.zero_()
    assert all(torch.equal(x, b) for x, b in zip(rows.inputs, before, strict=True))


class Listed:
    """Groups given as lists of flat positions, which may overlap."""

    def __init__(self, groups):
        self.groups = groups

    def positions(self, groups, examples):
        chosen = self.groups[groups]
        sizes = torch.tensor([0] + [len(g) for g in chosen])
        flat = torch.tensor([p for g in chosen for p in g], dtype=torch.int64)
        return flat[None], sizes.cumsum(0)[None]


@pytest.mark.parametrize("sources", ["one", "own", "for each group"])
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool, torch.uint8]
)
def test_one_off_replaces_one_group_after_the_other(dtype, sources):
    x, y = numbers(BATCH, 2, 3, dtype=dtype), numbers(BATCH, 4, dtype=dtype)
    groups_x = [[0, 5], [], [1, 2, 3], [5], [0, 1, 2, 3, 4, 5], [4, 2]]
    groups_y = [[], [3], [0, 3], [], [1], [0, 1, 2, 3]]
    if sources == "one":
        source = torch.zeros(1, BATCH, dtype=torch.long)
    elif sources == "own":
        source = torch.arange(BATCH)[None]
    else:
        source = torch.randint(5, (REPEATS, BATCH), generator=torch.Generator().manual_seed(0))
    rows_needed = int(source.max()) + 1
    others = numbers(rows_needed, 2, 3, dtype=dtype), numbers(rows_needed, 4, dtype=dtype)
    expected = []
    for a, other, groups in ((x, others[0], groups_x), (y, others[1], groups_y)):
        whole = a.flatten(1).expand(REPEATS, BATCH, -1).clone()
        for g, b in itertools.product(range(REPEATS), range(BATCH)):
            row = source[g % source.shape[0], b]
            whole[g, b, groups[g]] = other.flatten(1)[row, groups[g]]
        expected.append(whole.view(REPEATS, BATCH, *a.shape[1:]))
    pieces = (Listed(groups_x), Listed(groups_y))
    assert_blocks(AblationRows((x, y), others, (source, source), pieces, REPEATS), expected)


@pytest.mark.parametrize("per_row", [False, True])
def test_one_off_of_a_mask(per_row):
    x, baseline = numbers(BATCH, 3, 2), numbers(1, 3, 2) - 200
    mask = torch.arange(24 if per_row else 6, dtype=torch.int32).view(-1, 3, 2) * 5 % REPEATS
    whole = torch.stack([torch.where(mask == g, baseline, x) for g in range(REPEATS)])
    source = torch.zeros(1, BATCH, dtype=torch.long)
    rows = AblationRows((x,), (baseline,), (source,), (MaskPieces(mask, REPEATS),), REPEATS)
    assert_blocks(rows, [whole])


def test_one_off_of_windows():
    x, baseline = numbers(BATCH, 4, 3), numbers(BATCH, 4, 3) - 200
    windows = Windows((4, 3), (2, 2), (1, 1), 0, CPU)
    assert windows.count == REPEATS
    whole = x.expand(REPEATS, BATCH, 4, 3).clone()
    for g in range(REPEATS):
        i, j = g % 3, g // 3
        whole[g, :, i : i + 2, j : j + 2] = baseline[:, i : i + 2, j : j + 2]
    source = torch.arange(BATCH)[None]
    assert_blocks(AblationRows((x,), (baseline,), (source,), (windows,), REPEATS), [whole])


@pytest.mark.parametrize("shape", [(3, 2), (6,), (1, 1, 1), (), (0,)])
@pytest.mark.parametrize("rows", [1, BATCH])
def test_pieces_of_a_mask(shape, rows):
    count = 5
    generator = torch.Generator().manual_seed(3)
    mask = torch.randint(count, (rows, *shape), generator=generator).to(torch.int32)
    pieces, flat = MaskPieces(mask, count), mask.reshape(rows, int(mask[:1].numel()))
    spans = itertools.combinations(range(count + 1), 2)
    for (start, stop), examples in itertools.product(spans, EXAMPLES):
        positions, offsets = pieces.positions(slice(start, stop), examples)
        own = flat if rows == 1 else flat[examples]
        assert positions.shape[0] == offsets.shape[0] == own.shape[0]
        assert positions.dtype == offsets.dtype == torch.int64
        for b, g in itertools.product(range(own.shape[0]), range(stop - start)):
            found = positions[b, offsets[b, g] : offsets[b, g + 1]]
            expected = (own[b] == start + g).nonzero().flatten()
            assert sorted(found.tolist()) == expected.tolist()


@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize("baselines_per_row", [False, True])
@pytest.mark.parametrize(("players", "background"), [(3, 1), (3, 2), (70, 3)])
def test_coalitions(per_row, baselines_per_row, players, background):
    count = REPEATS // background
    generator = torch.Generator().manual_seed(players)
    present = torch.rand(count, players, generator=generator) < 0.5
    words = -(-players // 64)
    bits = torch.zeros(count, words, dtype=torch.int64)
    for n, player in present.nonzero().tolist():
        one = 1 << player % 64
        bits[n, player // 64] |= one - 2**64 if one >= 2**63 else one
    inputs = (numbers(BATCH, 5), numbers(BATCH, 2, 40))
    masks = tuple(
        torch.randint(players, (BATCH if per_row else 1, *x.shape[1:]), generator=generator).int()
        for x in inputs
    )
    lead = BATCH if baselines_per_row else 1
    baselines = tuple(numbers(lead, background, *x.shape[1:]) - 200 for x in inputs)
    expected = []
    for x, baseline, mask in zip(inputs, baselines, masks, strict=True):
        whole = torch.empty(REPEATS, *x.shape)
        for n, k, b in itertools.product(range(count), range(background), range(BATCH)):
            chosen = present[n][mask[b % len(mask)].long()]
            whole[n * background + k, b] = torch.where(chosen, x[b], baseline[b % lead, k])
        expected.append(whole)
    assert_blocks(CoalitionRows(inputs, baselines, bits, masks, players), expected)


@pytest.mark.parametrize("per_row", [False, True])
def test_permuted(per_row):
    x, y = numbers(BATCH, 3), numbers(BATCH, 2, 2)
    lead = BATCH if per_row else 1
    masks = tuple(
        torch.randint(
            REPEATS, (lead, *a.shape[1:]), generator=torch.Generator().manual_seed(1)
        ).int()
        for a in (x, y)
    )

    def permute(x, chosen):
        return torch.where(chosen, x.roll(1, 0), x)

    expected = [
        torch.stack([permute(a, mask == g) for g in range(REPEATS)])
        for a, mask in zip((x, y), masks, strict=True)
    ]
    rows = PermutedRows((x, y), masks, REPEATS, permute)
    assert rows.together
    assert_blocks(rows, expected)


def test_given_inputs_and_baselines():
    x, y = numbers(BATCH, 3), numbers(1, 2, 2)
    rows = InputRows((x, y), BATCH)
    for examples in EXAMPLES:
        found = rows.block(slice(0, 1), examples)
        count = examples.stop - examples.start
        assert torch.equal(found[0], x[examples]) and torch.equal(found[1], y.expand(count, 2, 2))
        found[0].zero_(), found[1].zero_()
    assert torch.equal(x, numbers(BATCH, 3)) and torch.equal(y, numbers(1, 2, 2))


def test_row_bytes_count_all_inputs():
    inputs = (torch.zeros(2, 3, 5), torch.zeros(2, 7, dtype=torch.float64), torch.zeros(2).bool())
    assert InputRows(inputs, 2).row_bytes == 3 * 5 * 4 + 7 * 8 + 1


def test_part():
    x, one = torch.arange(5), torch.arange(1)
    assert part(x, slice(0, 5)) is x and part(one, slice(2, 4)) is one
    assert part(x, slice(2, 4)).tolist() == [2, 3]
