import itertools

import pytest
import torch
from torch.testing import assert_close

from fastxai import ops as fastxai_ops
from fastxai.ops import native, reference
from tests.ops.conftest import COPIED_DTYPES, draw_of

# Fewer features than a tile, a few examples a tile, one, several tiles an example, no feature axis.
SHAPES = [(1,), (3,), (40, 30), (1, 30), (7, 5, 6), (2, 784), (3, 1025), (1, 5000), (9, 512)]
# Who the features belong to: pixels' superpixels, one player each, anyone.
MASKS = ["blocks", "cycle", "scattered"]


def draw_mask(kind, shape, players, device):
    generator = torch.Generator().manual_seed(1)
    size = torch.Size(shape).numel()
    ids = torch.arange(size)
    if kind == "blocks":
        ids = ids * players // max(size, 1)
    elif kind == "cycle":
        ids = ids % players
    else:
        ids = torch.randint(players, (size,), generator=generator)
    return ids.view(shape).to(device, torch.int32)


def draw_bits(coalitions, words, device):
    generator = torch.Generator().manual_seed(2)
    low, high = -(2**63), 2**63 - 1
    return torch.randint(low, high, (coalitions, words), generator=generator).to(device)


def draw_case(
    draw,
    shape,
    dtype=torch.float32,
    backgrounds=1,
    coalitions=3,
    players=49,
    mask="blocks",
    one_baseline=True,
    one_mask=True,
):
    input = draw_of(draw, dtype, *shape)
    baseline = draw_of(draw, dtype, 1 if one_baseline else shape[0], backgrounds, *shape[1:])
    bits = draw_bits(coalitions, -(-players // 64), input.device)
    mask_shape = (1 if one_mask else shape[0], *shape[1:])
    return input, baseline, bits, draw_mask(mask, mask_shape, players, input.device)


def assert_equal(actual, expected):
    assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("one_mask", [False, True], ids=["masks", "one_mask"])
@pytest.mark.parametrize("one_baseline", [False, True], ids=["baselines", "one_baseline"])
@pytest.mark.parametrize("backgrounds", [1, 3])
@pytest.mark.parametrize("players", [1, 33, 64, 130])
def test_equals_the_formula(ops, draw, players, backgrounds, one_baseline, one_mask):
    case = draw_case(
        draw,
        (3, 2, 35),
        backgrounds=backgrounds,
        players=players,
        mask="scattered",
        one_baseline=one_baseline,
        one_mask=one_mask,
    )
    input, baseline, bits, mask = case
    rows = ops.perturb(*case, 0, 3 * backgrounds)
    assert rows.shape == (3 * backgrounds, 3, 2, 35)
    words = bits.tolist()
    for n, k, b in itertools.product(range(3), range(backgrounds), range(3)):
        ids = mask[0 if one_mask else b].flatten().tolist()
        present = [bool(words[n][id // 64] >> (id % 64) & 1) for id in ids]
        absent = baseline[0 if one_baseline else b, k].flatten()
        pairs = zip(present, input[b].flatten().tolist(), absent.tolist(), strict=True)
        expected = [x if is_present else y for is_present, x, y in pairs]
        assert rows[n * backgrounds + k, b].flatten().tolist() == expected


@pytest.mark.parametrize("dtype", COPIED_DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernel_equals_reference(native_ops, draw, shape, dtype):
    choices = ([1, 5], [7, 60, 300], MASKS, [False, True], [False, True])
    for backgrounds, players, mask, one_baseline, one_mask in itertools.product(*choices):
        case = draw_case(draw, shape, dtype, backgrounds, 3, players, mask, one_baseline, one_mask)
        rows = native_ops.perturb(*case, 0, 3 * backgrounds)
        assert rows.is_contiguous()
        assert_equal(rows, reference.perturb(*case, 0, 3 * backgrounds))


@pytest.mark.parametrize("shape", [(1, 30), (3, 30), (2, 1500)], ids=str)
def test_any_range_of_rows(ops, draw, shape):
    case = draw_case(draw, shape, backgrounds=4, coalitions=3)
    rows = ops.perturb(*case, 0, 12)
    for first in range(13):
        for last in range(first, 13):
            assert_equal(ops.perturb(*case, first, last), rows[first:last])


def test_every_bit_of_a_value_is_kept(ops, draw):
    generator = torch.Generator().manual_seed(0)
    low, high = -(2**31), 2**31 - 1
    words = torch.randint(low, high, (2, 2000), generator=generator, dtype=torch.int32)
    words[:, :1000] |= 0x7F800000  # NaNs of all kinds
    input, baseline = words.to(draw().device).view(torch.float32)[:, None]
    bits, mask = draw_bits(5, 1, input.device), draw_mask("cycle", (1, 2000), 64, input.device)
    rows = ops.perturb(input, baseline[None], bits, mask, 0, 5).view(torch.int32)
    present = (bits >> mask.long()) & 1 == 1  # [5, 2000]
    expected = torch.where(present, input.view(torch.int32), baseline.view(torch.int32))
    assert torch.equal(rows[:, 0], expected)


def test_all_64_bits_are_players(ops, draw):
    device = draw().device
    input, baseline = torch.ones(1, 64, device=device), torch.zeros(1, 1, 64, device=device)
    mask = torch.arange(64, device=device, dtype=torch.int32)[None]
    bits = torch.tensor([[1 << 62], [-(1 << 63)], [-1], [0]], device=device)
    rows = ops.perturb(input, baseline, bits, mask, 0, 4)[:, 0]
    assert rows.sum(1).tolist() == [1, 1, 64, 0]
    assert rows[0, 62] == rows[1, 63] == 1


@pytest.mark.parametrize("dtype", [torch.int16, torch.float32, torch.complex128], ids=str)
def test_any_strides(ops, draw, dtype):
    input = draw_of(draw, dtype, 6, 5, 4).permute(2, 0, 1)[::2]
    baseline = draw_of(draw, dtype, 1, 1, 1, 5).expand(2, 3, 6, 5)
    bits = draw_bits(8, 6, input.device)[::2, ::3]
    mask = draw_mask("scattered", (5, 6), 128, input.device).t()[None]
    arguments = (input, baseline, bits, mask)
    rows = ops.perturb(*arguments, 1, 11)
    assert rows.is_contiguous()
    contiguous = [argument.contiguous() for argument in arguments]
    assert_equal(rows, reference.perturb(*contiguous, 1, 11))


def test_an_offset_into_a_storage(ops, draw):
    input, baseline = draw(1 + 64)[1:].view(2, 32), draw(3 + 32)[3:].view(1, 1, 32)
    bits = draw_bits(3, 1, input.device)[1:]
    mask = draw_mask("scattered", (33,), 64, input.device)[1:].view(1, 32)
    arguments = (input, baseline, bits, mask)
    clones = [argument.clone() for argument in arguments]
    assert_equal(ops.perturb(*arguments, 0, 2), reference.perturb(*clones, 0, 2))


@pytest.mark.parametrize(
    "shape,backgrounds,coalitions,players",
    [
        ((0, 3), 2, 2, 5),
        ((2, 0), 2, 2, 5),
        ((2, 0), 2, 2, 0),
        ((2, 3), 0, 2, 5),
        ((2, 3), 2, 0, 5),
    ],
    ids=str,
)
def test_nothing_to_write(ops, draw, shape, backgrounds, coalitions, players):
    case = draw_case(draw, shape, torch.float32, backgrounds, coalitions, players)
    last = backgrounds * coalitions
    assert ops.perturb(*case, 0, last).shape == (last, *shape)
    # Then nobody looks at the ids.
    assert ops.perturb(*case[:3], case[3] + 9999, last, last).shape == (0, *shape)


def test_new_memory_and_arguments_untouched(ops, draw):
    case = draw_case(draw, (3, 4), players=4)
    before = [tensor.clone() for tensor in case]
    for coalition in (0, -1):  # nobody, everybody
        ops.perturb(*case[:2], torch.full_like(case[2][:1], coalition), case[3], 0, 1).zero_()
    for tensor, copy in zip(case, before, strict=True):
        assert_equal(tensor, copy)


def test_rows_do_not_depend_on_the_number_of_threads(native_ops, draw):
    threads = torch.get_num_threads()
    cases = [  # one tile's coalitions, many tiles, a share that begins amid the backgrounds
        draw_case(draw, (1, 784), coalitions=600),
        draw_case(draw, (4, 150_528), coalitions=2),
        draw_case(draw, (50, 30), backgrounds=7, coalitions=100, one_mask=False),
    ]
    try:
        for case in cases:
            first, last = 1, case[2].shape[0] * case[1].shape[1] - 1
            expected = reference.perturb(*case, first, last)
            for number in (1, 2, 3, 4):
                torch.set_num_threads(number)
                assert_equal(native_ops.perturb(*case, first, last), expected)
    finally:
        torch.set_num_threads(threads)


def test_no_gradient_is_recorded(ops, draw):
    input, baseline, bits, mask = draw_case(draw, (3, 5), players=5)
    rows = ops.perturb(input.requires_grad_(), baseline.requires_grad_(), bits, mask, 0, 2)
    assert not rows.requires_grad


def test_opcheck(native_ops, draw):
    for one_baseline in (False, True):
        case = draw_case(draw, (3, 2, 5), backgrounds=2, one_baseline=one_baseline)
        case[0].requires_grad_()
        torch.library.opcheck(torch.ops.fastxai.perturb.default, (*case, 1, 5))


def test_compiles_in_one_graph(native_ops, draw):
    def f(input, baseline, bits, mask, first, last):
        return fastxai_ops.perturb(input * 2, baseline, bits, mask, first, last).sin()

    compiled = torch.compile(f, fullgraph=True, backend="aot_eager", dynamic=True)
    for shape, first, last in (((3, 5), 1, 5), ((6, 7), 0, 3)):
        case = draw_case(draw, shape, backgrounds=2)
        assert_equal(compiled(*case, first, last), f(*case, first, last))


def test_public_function_is_the_backend(draw):
    case = draw_case(draw, (3, 5))
    expected = native.backend().perturb(*case, 1, 3)
    assert_equal(fastxai_ops.perturb(*case, 1, 3), expected)


X = torch.zeros(4, 3)
BACKGROUND = torch.zeros(1, 2, 3)
BITS = torch.zeros(5, 1, dtype=torch.int64)
MASK = torch.zeros(1, 3, dtype=torch.int32)
BAD = {
    "input of shape [B, *F], got []": (X[0, 0], BACKGROUND, BITS, MASK),
    "baseline of dtype float32, got float64": (X, BACKGROUND.double(), BITS, MASK),
    "baseline of shape [B, K, *F] or [1, K, *F], got [3]": (X, X[0], BITS, MASK),
    "baseline of shape [4, 3, 3] or [1, 3, 3], got [4, 3]": (X, X, BITS, MASK),
    "baseline of shape [4, 2, 3] or [1, 2, 3], got [1, 2, 1]": (X, BACKGROUND[..., :1], BITS, MASK),
    "baseline of shape [4, 2, 3] or [1, 2, 3], got [2, 2, 3]": (
        X,
        BACKGROUND.expand(2, 2, 3),
        BITS,
        MASK,
    ),
    "bits of dtype int64, got int32": (X, BACKGROUND, BITS.int(), MASK),
    "bits of shape [N, W], got [5]": (X, BACKGROUND, BITS[:, 0], MASK),
    "mask of dtype int32, got int64": (X, BACKGROUND, BITS, MASK.long()),
    "mask of shape [4, 3] or [1, 3], got [3]": (X, BACKGROUND, BITS, MASK[0]),
    "mask of shape [4, 3] or [1, 3], got [2, 3]": (X, BACKGROUND, BITS, MASK.expand(2, 3)),
    "mask of shape [4, 3] or [1, 3], got [4, 1]": (X, BACKGROUND, BITS, MASK[:, :1].expand(4, 1)),
}


@pytest.mark.parametrize("message", BAD, ids=str)
def test_bad_arguments(ops, device, message):
    with pytest.raises(RuntimeError) as caught:
        ops.perturb(*(argument.to(device) for argument in BAD[message]), 0, 1)
    assert str(caught.value) == f"perturb: expected {message}"


@pytest.mark.parametrize("first,last", [(-1, 2), (0, 11), (3, 2), (11, 11)])
def test_bad_range(ops, device, first, last):
    with pytest.raises(RuntimeError) as caught:
        ops.perturb(*(a.to(device) for a in (X, BACKGROUND, BITS, MASK)), first, last)
    expected = f"expected 0 <= first <= last <= 10, got first {first} and last {last}"
    assert str(caught.value) == f"perturb: {expected}"


@pytest.mark.parametrize("id", [-1, 64, 2**31 - 1, -(2**31)])
@pytest.mark.parametrize("features", [3, 2000])
def test_ids_out_of_range(ops, device, features, id):
    input, baseline = torch.ones(2, features), torch.zeros(1, 1, features)
    mask = torch.zeros(2, features, dtype=torch.int32)
    mask[1, -1] = id
    arguments = [argument.to(device) for argument in (input, baseline, ~BITS, mask)]
    if device == "cuda" and ops is not reference:
        rows = ops.perturb(*arguments, 0, 1)[0]
        assert rows[1, -1] == 0
        assert rows.sum() == 2 * features - 1
        return
    with pytest.raises(RuntimeError) as caught:
        ops.perturb(*arguments, 0, 1)
    assert str(caught.value) == f"perturb: expected mask in [0, 64), got {id}"


def test_no_words_leave_no_ids(ops, device):
    if device == "cuda":
        pytest.skip("the kernel looks for no ids out of range")
    with pytest.raises(RuntimeError, match=r"expected mask in \[0, 0\), got 0"):
        ops.perturb(X, BACKGROUND, BITS[:, :0], MASK, 0, 1)


@pytest.mark.cuda
def test_arguments_on_two_devices(ops, device):
    if device == "cpu":
        pytest.skip("takes two devices")
    names, arguments = ("baseline", "bits", "mask"), (X, BACKGROUND, BITS, MASK)
    for i, name in enumerate(names, start=1):
        moved = [argument.cuda() for argument in arguments]
        moved[i] = arguments[i]
        with pytest.raises(RuntimeError) as caught:
            ops.perturb(*moved, 0, 1)
        assert str(caught.value) == f"perturb: expected {name} on cuda:0 like input, got cpu"
