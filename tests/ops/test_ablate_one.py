import itertools

import pytest
import torch
from torch.testing import assert_close

from fastxai import ops as fastxai_ops
from fastxai.ops import native, reference
from tests.ops.conftest import COPIED_DTYPES, draw_of

# Many small examples that are copied together, and large ones; no feature axis.
SHAPES = [(1,), (3,), (40, 30), (1, 30), (7, 5, 6), (2, 784), (3, 20_000)]


def draw_ids(high, *shape):
    generator = torch.Generator().manual_seed(high + sum(shape))
    return torch.randint(max(high, 1), shape, generator=generator)


def draw_case(
    draw, shape, dtype=torch.float32, groups=5, size=20, one_source=False, one_mask=False
):
    """Overlapping groups with repeated positions, some of them empty; three baselines."""
    batch, features = shape[0], torch.Size(shape[1:]).numel()
    input, baseline = draw_of(draw, dtype, *shape), draw_of(draw, dtype, 3, *shape[1:])
    each = 1 if one_mask else batch
    source = draw_ids(3, 1 if one_source else groups, batch)
    positions = draw_ids(features, each, size)
    offsets = draw_ids(size + 1, each, groups + 1)
    offsets[: each // 2 + 1] = offsets[: each // 2 + 1].sort(1)[0]
    return input, baseline, *(x.to(input.device) for x in (source, positions, offsets))


def assert_equal(actual, expected):
    assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("one_mask", [False, True], ids=["masks", "one_mask"])
@pytest.mark.parametrize("one_source", [False, True], ids=["sources", "one_source"])
def test_equals_the_formula(ops, draw, one_source, one_mask):
    case = draw_case(draw, (4, 3, 7), one_source=one_source, one_mask=one_mask)
    rows = ops.ablate_one(*case, 0, 5)
    input, baseline, source, positions, offsets = case
    assert rows.shape == (5, 4, 3, 7)
    replaced = 0
    for g, b in itertools.product(range(5), range(4)):
        m = 0 if one_mask else b
        values = baseline[source[0 if one_source else g, b]].flatten()
        expected = input[b].flatten().clone()
        for position in positions[m, offsets[m, g] : offsets[m, g + 1]].tolist():
            expected[position] = values[position]
            replaced += 1
        assert_equal(rows[g, b].flatten(), expected)
    assert replaced > 20


@pytest.mark.parametrize("dtype", COPIED_DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernel_equals_reference(native_ops, draw, shape, dtype):
    for size, one_source, one_mask in itertools.product([0, 1, 500], [False, True], [False, True]):
        case = draw_case(draw, shape, dtype, 5, size, one_source, one_mask)
        rows = native_ops.ablate_one(*case, 0, 5)
        assert rows.is_contiguous()
        assert_equal(rows, reference.ablate_one(*case, 0, 5))


@pytest.mark.parametrize("shape", [(1, 30), (3, 30), (2, 20_000)], ids=str)
def test_any_range_of_groups(ops, draw, shape):
    case = draw_case(draw, shape, groups=6)
    rows = ops.ablate_one(*case, 0, 6)
    for first in range(7):
        for last in range(first, 7):
            assert_equal(ops.ablate_one(*case, first, last), rows[first:last])


def test_every_bit_of_a_value_is_kept(ops, draw):
    generator = torch.Generator().manual_seed(0)
    low, high = -(2**31), 2**31 - 1
    words = torch.randint(low, high, (2, 2000), generator=generator, dtype=torch.int32)
    words[:, :1000] |= 0x7F800000  # NaNs of all kinds
    words = words.to(draw().device)
    input, baseline = words.view(torch.float32)[:, None]
    source = torch.zeros(1, 1, dtype=torch.int64, device=words.device)
    positions = torch.arange(500, 1500, device=words.device)[None]
    offsets = torch.tensor([[0, 1000]], device=words.device)
    row = ops.ablate_one(input, baseline, source, positions, offsets, 0, 1)[0, 0]
    expected = words[0].clone()
    expected[500:1500] = words[1, 500:1500]
    assert torch.equal(row.view(torch.int32), expected)


@pytest.mark.parametrize("dtype", [torch.int16, torch.float32, torch.complex128], ids=str)
def test_any_strides(ops, draw, dtype):
    input = draw_of(draw, dtype, 6, 5, 4).permute(2, 0, 1)[::2]
    baseline = draw_of(draw, dtype, 30, 1, 5).expand(30, 6, 5)
    source = draw_ids(30, 2, 10).t()[::2]
    positions = draw_ids(30, 20, 2).t()
    offsets = draw_ids(21, 1, 12).sort(1)[0][:, ::2]
    arguments = (input, baseline, *(x.to(input.device) for x in (source, positions, offsets)))
    rows = ops.ablate_one(*arguments, 1, 5)
    assert rows.is_contiguous()
    contiguous = [argument.contiguous() for argument in arguments]
    assert_equal(rows, reference.ablate_one(*contiguous, 1, 5))


def test_an_offset_into_a_storage(ops, draw):
    input, baseline, source, positions, offsets = draw_case(draw, (2, 32), one_mask=True)
    shifted = draw(1 + 64)[1:].view(2, 32).copy_(input)
    tables = (source[1:4] % 2, positions[:, 1:], offsets[:, 2:].clamp(max=19))
    arguments = (shifted, baseline[1:], *tables)
    clones = [argument.clone() for argument in arguments]
    assert_equal(ops.ablate_one(*arguments, 1, 3), reference.ablate_one(*clones, 1, 3))


@pytest.mark.parametrize(
    "shape,groups", [((0, 3), 2), ((2, 0), 2), ((2, 3), 0)], ids=["batch", "features", "groups"]
)
def test_nothing_to_write(ops, draw, shape, groups):
    case = draw_case(draw, shape, groups=groups)
    assert ops.ablate_one(*case, 0, groups).shape == (groups, *shape)
    assert ops.ablate_one(*case, groups, groups).shape == (0, *shape)


def test_new_memory_and_arguments_untouched(ops, draw):
    case = draw_case(draw, (3, 4))
    before = [tensor.clone() for tensor in case]
    ops.ablate_one(*case, 0, 5).zero_()
    for tensor, copy in zip(case, before, strict=True):
        assert_equal(tensor, copy)


def test_rows_do_not_depend_on_the_number_of_threads(native_ops, draw):
    threads = torch.get_num_threads()
    cases = [draw_case(draw, (2, 150_528), groups=7), draw_case(draw, (400, 30), groups=50)]
    try:
        for case in cases:
            groups = case[2].shape[0]
            expected = reference.ablate_one(*case, 1, groups)
            for number in (1, 2, 3, 4):
                torch.set_num_threads(number)
                assert_equal(native_ops.ablate_one(*case, 1, groups), expected)
    finally:
        torch.set_num_threads(threads)


def test_no_gradient_is_recorded(ops, draw):
    input, baseline, *tables = draw_case(draw, (3, 5))
    rows = ops.ablate_one(input.requires_grad_(), baseline.requires_grad_(), *tables, 0, 2)
    assert not rows.requires_grad


def test_opcheck(native_ops, draw):
    for one_mask in (False, True):
        case = draw_case(draw, (3, 2, 5), one_mask=one_mask)
        case[0].requires_grad_()
        torch.library.opcheck(torch.ops.fastxai.ablate_one.default, (*case, 1, 4))


def test_compiles_in_one_graph(native_ops, draw):
    def f(input, baseline, source, positions, offsets, first, last):
        rows = fastxai_ops.ablate_one(input * 2, baseline, source, positions, offsets, first, last)
        return rows.sin()

    compiled = torch.compile(f, fullgraph=True, backend="aot_eager", dynamic=True)
    for shape, first, last in (((3, 5), 1, 5), ((6, 7), 0, 3)):
        case = draw_case(draw, shape)
        assert_equal(compiled(*case, first, last), f(*case, first, last))


def test_public_function_is_the_backend(draw):
    case = draw_case(draw, (3, 5))
    expected = native.backend().ablate_one(*case, 1, 3)
    assert_equal(fastxai_ops.ablate_one(*case, 1, 3), expected)


X = torch.zeros(4, 3)
SOURCE = torch.zeros(1, 4, dtype=torch.int64)
POSITIONS = torch.tensor([[0] * 9 + [0, 1, 2]])[:, 9:]  # what lies before them would do as well
OFFSETS = torch.tensor([[0, 1, 3]])
BAD = {
    "input of shape [B, *F], got []": (X[0, 0], X, SOURCE, POSITIONS, OFFSETS),
    "baseline of dtype float32, got float64": (X, X.double(), SOURCE, POSITIONS, OFFSETS),
    "baseline of shape [R, *F], got []": (X, X[0, 0], SOURCE, POSITIONS, OFFSETS),
    "baseline of shape [4, 3], got [4, 1]": (X, X[:, :1], SOURCE, POSITIONS, OFFSETS),
    "baseline of shape [3, 3], got [3]": (X, X[0], SOURCE, POSITIONS, OFFSETS),
    "source of dtype int64, got int32": (X, X, SOURCE.int(), POSITIONS, OFFSETS),
    "source of shape [G, B] or [1, B], got [4]": (X, X, SOURCE[0], POSITIONS, OFFSETS),
    "source of shape [2, 4] or [1, 4], got [1, 3]": (X, X, SOURCE[:, :3], POSITIONS, OFFSETS),
    "source of shape [2, 4] or [1, 4], got [3, 4]": (
        X,
        X,
        SOURCE.expand(3, 4),
        POSITIONS,
        OFFSETS,
    ),
    "positions of dtype int64, got int32": (X, X, SOURCE, POSITIONS.int(), OFFSETS),
    "positions of shape [B, P] or [1, P], got [3]": (X, X, SOURCE, POSITIONS[0], OFFSETS),
    "positions of shape [4, 3] or [1, 3], got [2, 3]": (
        X,
        X,
        SOURCE,
        POSITIONS.expand(2, 3),
        OFFSETS,
    ),
    "offsets of dtype int64, got float32": (X, X, SOURCE, POSITIONS, OFFSETS.float()),
    "offsets of shape [B, G + 1] or [1, G + 1], got [3]": (X, X, SOURCE, POSITIONS, OFFSETS[0]),
    "offsets of shape [4, 3] or [1, 3], got [2, 3]": (
        X,
        X,
        SOURCE,
        POSITIONS,
        OFFSETS.expand(2, 3),
    ),
    "offsets of shape [4, 1] or [1, 1], got [1, 0]": (X, X, SOURCE, POSITIONS, OFFSETS[:, :0]),
}


@pytest.mark.parametrize("message", BAD, ids=str)
def test_bad_arguments(ops, device, message):
    with pytest.raises(RuntimeError) as caught:
        ops.ablate_one(*(argument.to(device) for argument in BAD[message]), 0, 1)
    assert str(caught.value) == f"ablate_one: expected {message}"


@pytest.mark.parametrize("first,last", [(-1, 2), (0, 3), (2, 1), (3, 3)])
def test_bad_range(ops, device, first, last):
    arguments = (argument.to(device) for argument in (X, X, SOURCE, POSITIONS, OFFSETS))
    with pytest.raises(RuntimeError) as caught:
        ops.ablate_one(*arguments, first, last)
    expected = f"expected 0 <= first <= last <= 2, got first {first} and last {last}"
    assert str(caught.value) == f"ablate_one: {expected}"


OUT_OF_RANGE = {
    "source in [0, 4), got -1": (SOURCE - 1, POSITIONS, OFFSETS),
    "source in [0, 4), got 4": (SOURCE + 4, POSITIONS, OFFSETS),
    "positions in [0, 3), got -1": (SOURCE, POSITIONS - 1, OFFSETS),
    "positions in [0, 3), got 3": (SOURCE, POSITIONS + 1, OFFSETS),
    "offsets in [0, 4), got -9": (SOURCE, POSITIONS, OFFSETS - torch.tensor([9, 0, 0])),
    "offsets in [0, 4), got 4": (SOURCE, POSITIONS, OFFSETS + torch.tensor([0, 0, 1])),
}


@pytest.mark.parametrize("message", OUT_OF_RANGE, ids=str)
def test_ids_out_of_range(ops, device, message):
    tables = [table.to(device) for table in OUT_OF_RANGE[message]]
    input, baseline = torch.zeros(4, 3, device=device), torch.ones(4, 3, device=device)
    if device == "cuda" and ops is not reference:
        rows = ops.ablate_one(input, baseline, *tables, 0, 2)
        replaced = {"source": 0, "positions": 2, "offsets": 2 if "-9" in message else 1}
        assert rows.sum() == 4 * replaced[message.split()[0]]
        return
    with pytest.raises(RuntimeError) as caught:
        ops.ablate_one(input, baseline, *tables, 0, 2)
    assert str(caught.value) == f"ablate_one: expected {message}"


def test_ids_that_are_not_used_may_be_anything(ops, device):
    source = torch.tensor([[0, 0, 0, 0], [9, 9, 9, 9]])
    positions, offsets = torch.tensor([[0, 9, 9]]), torch.tensor([[0, 1, 77]])
    tables = [table.to(device) for table in (source, positions, offsets)]
    rows = ops.ablate_one(X.to(device), X.to(device) + 1, *tables, 0, 1)
    assert rows.sum(dim=(0, 1)).tolist() == [4, 0, 0]


@pytest.mark.cuda
def test_arguments_on_two_devices(ops, device):
    if device == "cpu":
        pytest.skip("takes two devices")
    names = ("baseline", "source", "positions", "offsets")
    arguments = (X, X, SOURCE, POSITIONS, OFFSETS)
    for i, name in enumerate(names, start=1):
        moved = [argument.cuda() for argument in arguments]
        moved[i] = arguments[i]
        with pytest.raises(RuntimeError) as caught:
            ops.ablate_one(*moved, 0, 1)
        assert str(caught.value) == f"ablate_one: expected {name} on cuda:0 like input, got cpu"
