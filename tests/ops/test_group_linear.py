import itertools

import pytest
import torch
from torch.testing import assert_close

from fastxai import ops as fastxai_ops
from fastxai.core.engine.coalition_rows import MaskPieces
from fastxai.ops import native, reference
from tests.ops.conftest import DTYPES

# Examples, groups, outputs and features: less than a tile of outputs, a tile, more; few and many
# examples; a tail of features, and none.
SHAPES = [
    (1, 3, 1, 1),
    (1, 5, 10, 7),
    (2, 4, 16, 32),
    (3, 1, 17, 33),
    (4, 7, 33, 50),
    (5, 3, 64, 15),
    (18, 2, 5, 40),
    (37, 6, 20, 70),
]
ONE_FOR_ALL = [(False, False), (True, False), (False, True), (True, True)]


def draw_ids(high, *shape):
    generator = torch.Generator().manual_seed(high + sum(shape))
    return torch.randint(max(high, 1), shape, generator=generator)


def draw_case(
    draw,
    shape,
    dtype=torch.float32,
    size=60,
    one_positions=False,
    one_offsets=False,
    whole=False,
):
    """Overlapping groups with repeated positions, some of them empty; the first ones in order."""
    batch, groups, outputs, features = shape
    values, weight = draw(batch, size, dtype=dtype), draw(outputs, features, dtype=dtype)
    if whole:
        values, weight = (values * 3).round(), (weight * 3).round()
    positions = draw_ids(features, 1 if one_positions else batch, size)
    offsets = draw_ids(size + 1, 1 if one_offsets else batch, groups + 1)
    offsets[: len(offsets) // 2 + 1] = offsets[: len(offsets) // 2 + 1].sort(1)[0]
    return values, positions.to(values.device), offsets.to(values.device), weight


def formula(values, positions, offsets, weight):
    """The rows, the linear layer of them and of their magnitudes, in float64 on CPU."""
    values, positions, offsets, weight = (x.cpu() for x in (values, positions, offsets, weight))
    values, weight = values.double(), weight.double()
    batch, groups = len(values), offsets.shape[1] - 1
    rows = torch.zeros(groups, batch, weight.shape[1], dtype=torch.float64)
    sizes = torch.zeros_like(rows)
    for g, b in itertools.product(range(groups), range(batch)):
        begin, end = offsets[b % len(offsets), g : g + 2].tolist()
        for i in range(begin, end):
            position = positions[b % len(positions), i]
            rows[g, b, position] += values[b, i]
            sizes[g, b, position] += values[b, i].abs()
    return rows @ weight.T, sizes @ weight.abs().T


def assert_equal(actual, expected):
    assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_formula(ops, draw, shape, dtype):
    sum_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    for one_positions, one_offsets in ONE_FOR_ALL:
        case = draw_case(draw, shape, dtype, 60, one_positions, one_offsets)
        out = ops.group_linear(*case)
        batch, groups, outputs, _ = shape
        assert out.shape == (groups, batch, outputs)
        assert out.dtype == dtype
        assert out.is_contiguous()
        expected, scale = formula(*case)
        # At most 60 terms, and one rounding to the result's dtype.
        allowed = 62 * torch.finfo(sum_dtype).eps * scale
        allowed += torch.finfo(dtype).eps * expected.abs() + torch.finfo(dtype).tiny
        assert ((out.cpu().double() - expected).abs() <= allowed).all()


# Sums of whole numbers are exact, in whatever order they are added.
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernel_equals_reference(native_ops, draw, shape, dtype):
    sizes = [0, 1, 17, 300]  # more than a part of a sum; float16 still holds it
    for size, (one_positions, one_offsets) in itertools.product(sizes, ONE_FOR_ALL):
        case = draw_case(draw, shape, dtype, size, one_positions, one_offsets, whole=True)
        assert_equal(native_ops.group_linear(*case), reference.group_linear(*case))


@pytest.mark.parametrize("batch", [1, 6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_groups_of_a_feature_mask(ops, draw, batch, dtype):
    input, weight = draw(batch, 3, 20, 20, dtype=dtype), draw(40, 1200, dtype=dtype)
    mask = draw_ids(9, 1, 1, 20, 20).expand(1, 3, 20, 20).to(input.device, torch.int32)
    positions, offsets = MaskPieces(mask, 10).positions(slice(2, 10), slice(0, batch))
    values = input.flatten(1)[:, positions[0]]
    out = ops.group_linear(values, positions, offsets, weight)
    of_group = mask == torch.arange(2, 10, device=input.device).view(8, 1, 1, 1)
    rows = torch.where(of_group[:, None], input, 0).flatten(2)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-12
    assert_close(out, rows @ weight.T, rtol=tolerance, atol=tolerance)
    assert not out[7].any()  # an id that no feature has


def test_one_feature_a_group(ops, draw):
    values, weight = draw(5, 100), draw(70, 100)
    features = torch.arange(101, device=values.device)[None]
    out = ops.group_linear(values, features[:, :-1], features, weight)
    assert_equal(out, values.T[..., None] * weight.T[:, None])


def test_no_rows_are_made(ops, draw):
    values, weight = draw(2, 50_000), draw(3, 50_000)  # the rows would take 20 GB
    features = torch.arange(50_001, device=values.device)[None]
    out = ops.group_linear(values, features[:, :-1], features, weight)
    assert_equal(out, values.T[..., None] * weight.T[:, None])


def test_weights_of_more_than_one_block(ops, draw):
    values, weight = draw(1, 50, dtype=torch.float64), draw(5, 1_500_000, dtype=torch.float64)
    positions = draw_ids(1_500_000, 1, 50).to(values.device)
    offsets = torch.tensor([[0, 20, 50]], device=values.device)
    out = ops.group_linear(values, positions, offsets, weight)
    terms = values * weight[:, positions[0]]
    expected = torch.stack([terms[:, :20].sum(1), terms[:, 20:].sum(1)])
    assert_close(out[:, 0], expected, rtol=1e-13, atol=1e-13)


def test_rounding_errors_of_long_sums_stay_small(native_ops, draw):
    values = torch.full((1, 1_000_000), 0.1, device=draw().device)
    positions = torch.zeros(1, 1_000_000, dtype=torch.int64, device=values.device)
    offsets = torch.tensor([[0, 1_000_000]], device=values.device)
    weight = torch.ones(3, 1, device=values.device)
    out = native_ops.group_linear(values, positions, offsets, weight)
    assert_close(out, torch.full_like(out, 100_000), rtol=1e-3, atol=0)  # one by one: 1e-2


def test_any_slice_of_groups(ops, draw):
    for one_for_all in (False, True):
        case = draw_case(draw, (5, 6, 20, 40), one_positions=one_for_all, one_offsets=one_for_all)
        values, positions, offsets, weight = case
        out = ops.group_linear(*case)
        for first, last in itertools.combinations(range(7), 2):
            some = ops.group_linear(values, positions, offsets[:, first : last + 1], weight)
            assert_equal(some, out[first:last])


@pytest.mark.parametrize("batch", [1, 3, 4, 5, 16, 17, 35])
def test_an_example_does_not_depend_on_the_others(ops, draw, batch):
    case = draw_case(draw, (batch, 4, 20, 40), one_positions=True, one_offsets=True)
    values, positions, offsets, weight = case
    out = ops.group_linear(*case)
    each = positions.expand(batch, -1), offsets.expand(batch, -1)
    assert_equal(ops.group_linear(values, *each, weight), out)
    for b in range(batch):
        alone = ops.group_linear(values[b : b + 1], positions, offsets, weight)
        assert_equal(alone[:, 0], out[:, b])


def test_columns_that_are_not_named_may_hold_anything(ops, draw):
    values, positions, offsets, weight = draw_case(draw, (3, 4, 20, 40))
    positions = positions // 2 * 2
    expected = ops.group_linear(values, positions, offsets, weight)
    weight[:, 1::2] = torch.nan
    assert_equal(ops.group_linear(values, positions, offsets, weight), expected)


def test_nan_stays_in_its_groups_and_its_example(ops, draw):
    case = draw_case(draw, (6, 5, 20, 40), one_positions=True, one_offsets=True)
    values, positions, _, weight = case
    offsets = torch.tensor([[0, 10, 20, 30, 40, 50]], device=values.device)
    values[2, 35] = torch.nan
    is_nan = ops.group_linear(values, positions, offsets, weight).isnan()
    assert is_nan[3, 2].all()
    assert is_nan.sum() == 20


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_any_strides(ops, draw, dtype):
    values = draw(20, 8, dtype=dtype).t()[::2]
    weight = draw(30, 2 * 18, dtype=dtype).t()[::2]
    positions = draw_ids(30, 20, 4).t().to(values.device)
    offsets = draw_ids(21, 1, 12).sort(1)[0][:, ::2].to(values.device)
    arguments = (values, positions, offsets, weight)
    out = ops.group_linear(*arguments)
    assert out.is_contiguous()
    assert_equal(out, ops.group_linear(*(argument.contiguous() for argument in arguments)))
    expanded = values[:1].expand(4, -1)
    assert_equal(
        ops.group_linear(expanded, *arguments[1:]),
        ops.group_linear(expanded.contiguous(), *arguments[1:]),
    )


def test_an_offset_into_a_storage(ops, draw):
    values, positions, offsets, weight = draw_case(draw, (4, 4, 20, 40))
    shifted = draw(1 + 800)[1:].view(20, 40).copy_(weight)
    arguments = (values[1:], positions[1:], offsets[1:, 1:], shifted[1:])
    clones = [argument.clone() for argument in arguments]
    assert_equal(ops.group_linear(*arguments), ops.group_linear(*clones))


@pytest.mark.parametrize(
    "shape", [(0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5)], ids=["batch", "groups", "outputs"]
)
def test_nothing_to_write(ops, draw, shape):
    batch, groups, outputs, _ = shape
    for one_positions, one_offsets in ONE_FOR_ALL:
        case = draw_case(draw, shape, torch.float32, 10, one_positions, one_offsets)
        assert ops.group_linear(*case).shape == (groups, batch, outputs)


@pytest.mark.parametrize("size,features", [(0, 5), (10, 5), (0, 0)])
def test_empty_groups_are_zeros(ops, draw, size, features):
    values, positions, _, weight = draw_case(draw, (2, 3, 20, features), size=size)
    offsets = torch.full((1, 4), size // 2, device=values.device)
    for bounds in (offsets, offsets - torch.arange(4, device=values.device).clamp(max=size)):
        out = ops.group_linear(values, positions, bounds, weight)
        assert_equal(out, torch.zeros(3, 2, 20, device=values.device))


def test_arguments_untouched(ops, draw):
    case = draw_case(draw, (3, 4, 20, 40))
    before = [tensor.clone() for tensor in case]
    ops.group_linear(*case).zero_()
    for tensor, copy in zip(case, before, strict=True):
        assert_equal(tensor, copy)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
def test_sums_do_not_depend_on_the_number_of_threads(native_ops, draw, dtype):
    threads = torch.get_num_threads()
    cases = [
        draw_case(draw, (1, 50, 200, 3000), dtype, 3000),
        draw_case(draw, (35, 9, 50, 700), dtype, 700, True, True),
    ]
    try:
        for case in cases:
            torch.set_num_threads(1)
            expected = native_ops.group_linear(*case)
            for number in (2, 3, 4):
                torch.set_num_threads(number)
                assert_equal(native_ops.group_linear(*case), expected)
    finally:
        torch.set_num_threads(threads)


def test_no_gradient_is_recorded(ops, draw):
    values, positions, offsets, weight = draw_case(draw, (3, 4, 20, 40))
    out = ops.group_linear(values.requires_grad_(), positions, offsets, weight.requires_grad_())
    assert not out.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64], ids=str)
def test_opcheck(native_ops, draw, dtype):
    for one_positions, one_offsets in ONE_FOR_ALL:
        case = draw_case(draw, (3, 4, 20, 40), dtype, 30, one_positions, one_offsets)
        case[0].requires_grad_()
        torch.library.opcheck(torch.ops.fastxai.group_linear.default, case)


def test_compiles_in_one_graph(native_ops, draw):
    def f(values, positions, offsets, weight):
        return fastxai_ops.group_linear(values * 2, positions, offsets, weight).sin()

    compiled = torch.compile(f, fullgraph=True, backend="aot_eager", dynamic=True)
    for shape in ((3, 5, 20, 40), (6, 4, 7, 30)):
        case = draw_case(draw, shape)
        assert_equal(compiled(*case), f(*case))


def test_public_function_is_the_backend(draw):
    case = draw_case(draw, (3, 5, 20, 40))
    expected = native.backend().group_linear(*case)
    assert_equal(fastxai_ops.group_linear(*case), expected)


V = torch.ones(4, 3)
POSITIONS = torch.tensor([[0] * 9 + [0, 1, 2]])[:, 9:]  # what lies before them would do as well
OFFSETS = torch.tensor([[0, 1, 3]])
W = torch.ones(2, 3)
BAD = {
    "values of dtype float16, bfloat16, float32 or float64, got int64": (
        V.long(),
        POSITIONS,
        OFFSETS,
        W,
    ),
    "values of shape [B, P], got [3]": (V[0], POSITIONS, OFFSETS, W),
    "positions of dtype int64, got int32": (V, POSITIONS.int(), OFFSETS, W),
    "positions of shape [B, P] or [1, P], got [3]": (V, POSITIONS[0], OFFSETS, W),
    "positions of shape [4, 3] or [1, 3], got [2, 3]": (V, POSITIONS.expand(2, 3), OFFSETS, W),
    "positions of shape [4, 3] or [1, 3], got [1, 2]": (V, POSITIONS[:, 1:], OFFSETS, W),
    "offsets of dtype int64, got float32": (V, POSITIONS, OFFSETS.float(), W),
    "offsets of shape [B, G + 1] or [1, G + 1], got [3]": (V, POSITIONS, OFFSETS[0], W),
    "offsets of shape [4, 3] or [1, 3], got [2, 3]": (V, POSITIONS, OFFSETS.expand(2, 3), W),
    "offsets of shape [4, 1] or [1, 1], got [1, 0]": (V, POSITIONS, OFFSETS[:, :0], W),
    "weight of dtype float32, got float64": (V, POSITIONS, OFFSETS, W.double()),
    "weight of shape [H, F], got [3]": (V, POSITIONS, OFFSETS, W[0]),
}


@pytest.mark.parametrize("message", BAD, ids=str)
def test_bad_arguments(ops, device, message):
    with pytest.raises(RuntimeError) as caught:
        ops.group_linear(*(argument.to(device) for argument in BAD[message]))
    assert str(caught.value) == f"group_linear: expected {message}"


OUT_OF_RANGE = {
    "positions in [0, 3), got -1": (POSITIONS - 1, OFFSETS),
    "positions in [0, 3), got 3": (POSITIONS + 1, OFFSETS),
    "positions in [0, 3), got 9223372036854775807": (POSITIONS | 2**63 - 1, OFFSETS),
    "offsets in [0, 4), got -9": (POSITIONS, OFFSETS - torch.tensor([9, 0, 0])),
    "offsets in [0, 4), got 4": (POSITIONS, OFFSETS + torch.tensor([0, 0, 1])),
}


@pytest.mark.parametrize("message", OUT_OF_RANGE, ids=str)
def test_ids_out_of_range(ops, device, message):
    tables = [table.to(device) for table in OUT_OF_RANGE[message]]
    values, weight = V.to(device), W.to(device)
    if device == "cuda" and ops is not reference:
        named = {"positions": 2, "offsets": 2 if "-9" in message else 1}[message.split()[0]]
        if "807" in message:
            named = 0
        assert ops.group_linear(values, *tables, weight).sum() == 4 * 2 * named
        return
    for each in (1, 4):
        with pytest.raises(RuntimeError) as caught:
            ops.group_linear(values, *(table.expand(each, -1) for table in tables), weight)
        assert str(caught.value) == f"group_linear: expected {message}"


def test_ids_that_are_not_used_may_be_anything(ops, device):
    positions, offsets = torch.tensor([[9, 0, -1]]), torch.tensor([[1, 2, 1]])
    out = ops.group_linear(V.to(device), positions.to(device), offsets.to(device), W.to(device))
    assert out.sum(dim=(1, 2)).tolist() == [8, 0]


@pytest.mark.cuda
def test_arguments_on_two_devices(ops, device):
    if device == "cpu":
        pytest.skip("takes two devices")
    arguments = (V, POSITIONS, OFFSETS, W)
    for i, name in enumerate(("positions", "offsets", "weight"), start=1):
        moved = [argument.cuda() for argument in arguments]
        moved[i] = arguments[i]
        with pytest.raises(RuntimeError) as caught:
            ops.group_linear(*moved)
        assert str(caught.value) == f"group_linear: expected {name} on cuda:0 like values, got cpu"
