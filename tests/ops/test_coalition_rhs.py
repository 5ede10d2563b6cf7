import pytest
import torch
from torch.testing import assert_close

from fastxai import ops as fastxai_ops
from fastxai.ops import native
from tests.ops.conftest import DTYPES, draw_coalitions, fill_beyond

OUTPUTS = [1, 2, 4, 5, 10, 16, 17, 40]


def draw_case(draw, device, players, rows, outputs, dtype=torch.float32):
    bits, z = draw_coalitions(players, rows, device)
    case = bits, players, draw(rows, dtype=torch.float64), draw(rows, outputs, dtype=dtype)
    return case, z


def exact_sum(z, weights, values):
    """The sums in float64, and the scale that rounding errors are measured by."""
    terms = weights.cpu()[:, None] * values.cpu().double()
    return z.T @ terms, z.T @ terms.abs()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("players", [1, 3, 4, 5, 49, 63, 64, 65, 130])
def test_equals_the_formula(ops, draw, device, players, dtype):
    for rows in (0, 1, 5, 1500):
        for outputs in OUTPUTS:
            case, z = draw_case(draw, device, players, rows, outputs, dtype)
            sums = ops.coalition_rhs(*case)
            assert sums.shape == (players, outputs)
            assert sums.dtype == torch.float64
            assert sums.is_contiguous()
            expected, scale = exact_sum(z, *case[2:])
            assert ((sums.cpu() - expected).abs() <= (rows + 2) * 2**-52 * scale).all()


# The most blocks of rows there are, and fewer; a last block that is shorter, or empty.
@pytest.mark.parametrize("outputs", [1, 3, 33])
@pytest.mark.parametrize("rows", [1023, 1025, 65_537, 70_001])
@pytest.mark.parametrize("players", [49, 100])
def test_many_rows(ops, draw, device, players, rows, outputs):
    case, z = draw_case(draw, device, players, rows, outputs)
    expected, scale = exact_sum(z, *case[2:])
    difference = ops.coalition_rhs(*case).cpu() - expected
    assert (difference.abs() <= rows * 2**-52 * scale).all()


def test_many_outputs(ops, draw, device):
    case, z = draw_case(draw, device, 70, 30, 1000)
    expected, scale = exact_sum(z, *case[2:])
    difference = ops.coalition_rhs(*case).cpu() - expected
    assert (difference.abs() <= 32 * 2**-52 * scale).all()


def test_whole_numbers_are_exact(ops, draw, device):
    (bits, _, weights, values), z = draw_case(draw, device, 49, 5000, 3)
    weights, values = (weights * 10).round(), (values * 1000).round()
    sums = ops.coalition_rhs(bits, 49, weights, values)
    assert_close(sums.cpu(), exact_sum(z, weights, values)[0], rtol=0, atol=0)


@pytest.mark.parametrize("outputs", [1, 40])
def test_sums_do_not_depend_on_the_number_of_threads(native_ops, draw, device, outputs):
    case, _ = draw_case(draw, device, 49, 40_000, outputs)
    sums = native_ops.coalition_rhs(*case)
    threads = torch.get_num_threads()
    try:
        for number in (2, 3, 4):
            torch.set_num_threads(number)
            assert_close(native_ops.coalition_rhs(*case), sums, rtol=0, atol=0)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("players", [1, 49, 65])
def test_bits_beyond_the_players_are_ignored(ops, draw, device, players):
    (bits, _, *rest), _ = draw_case(draw, device, players, 300, 3)
    sums = ops.coalition_rhs(fill_beyond(bits, players), players, *rest)
    # One table has other entries: the sums are the same but for rounding.
    expected = ops.coalition_rhs(bits, players, *rest)
    assert_close(sums, expected, rtol=1e-12, atol=1e-12)


def test_nan_stays_in_its_output_and_its_players(ops, draw, device):
    (bits, _, weights, values), z = draw_case(draw, device, 49, 100, 20)
    values[7, 3] = torch.nan
    sums = ops.coalition_rhs(bits, 49, weights, values).cpu()
    assert sums[z[7] == 1, 3].isnan().all()
    assert not sums[:, [c for c in range(20) if c != 3]].isnan().any()


@pytest.mark.parametrize("layout", ["expanded", "permuted", "sliced", "offset"])
def test_any_strides(ops, draw, device, layout):
    (bits, _, weights, _), _ = draw_case(draw, device, 100, 60, 1)
    values = {
        "expanded": lambda: draw(1, 5).expand(30, 5),
        "permuted": lambda: draw(5, 30).T,
        "sliced": lambda: draw(60, 10)[::2, ::2],
        "offset": lambda: draw(3 + 30 * 5)[3:].view(30, 5),
    }[layout]()
    sums = ops.coalition_rhs(bits.T.contiguous().T[::2], 100, weights[::2], values)
    contiguous = bits[::2].clone(), 100, weights[::2].clone(), values.contiguous()
    assert_close(sums, ops.coalition_rhs(*contiguous), rtol=1e-14, atol=1e-14)


def test_arguments_untouched(ops, draw, device):
    (bits, players, *rest), _ = draw_case(draw, device, 9, 30, 2)
    before = [tensor.clone() for tensor in (bits, *rest)]
    ops.coalition_rhs(bits, players, *rest).zero_()
    assert_close([bits, *rest], before, rtol=0, atol=0)


def test_no_outputs(ops, draw, device):
    case, _ = draw_case(draw, device, 9, 30, 0)
    assert ops.coalition_rhs(*case).shape == (9, 0)


def test_no_gradient_is_recorded(ops, draw, device):
    case, _ = draw_case(draw, device, 9, 30, 2)
    case[2].requires_grad_()
    case[3].requires_grad_()
    assert not ops.coalition_rhs(*case).requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64], ids=str)
def test_opcheck(native_ops, draw, device, dtype):
    case, _ = draw_case(draw, device, 70, 20, 3, dtype)
    torch.library.opcheck(torch.ops.fastxai.coalition_rhs.default, case)


def test_compiles_in_one_graph(native_ops, draw, device):
    def f(bits, weights, values):
        return fastxai_ops.coalition_rhs(bits, 70, weights, values * 2).sin()

    compiled = torch.compile(f, fullgraph=True, backend="aot_eager", dynamic=True)
    for rows, outputs in ((5, 3), (9, 4)):
        (bits, _, *rest), _ = draw_case(draw, device, 70, rows, outputs)
        assert_close(compiled(bits, *rest), f(bits, *rest), rtol=0, atol=0)


def test_public_function_is_the_backend(draw, device):
    case, _ = draw_case(draw, device, 70, 20, 3)
    expected = native.backend().coalition_rhs(*case)
    assert_close(fastxai_ops.coalition_rhs(*case), expected, rtol=0, atol=0)


Z = torch.zeros(4, 1, dtype=torch.int64)
W = torch.zeros(4, dtype=torch.float64)
Y = torch.zeros(4, 2)
BAD = {
    "expected players from 1 to 16777216, got 0": (Z, 0, W, Y),
    "expected bits of dtype int64, got uint8": (Z.byte(), 5, W, Y),
    "expected bits of shape [N, 2], got [4, 1]": (Z, 65, W, Y),
    "expected weights of dtype float64, got float32": (Z, 64, W.float(), Y),
    "expected weights of shape [4], got [3]": (Z, 5, W[:3], Y),
    "expected values of dtype float16, bfloat16, float32 or float64, got int64": (
        Z,
        5,
        W,
        Y.long(),
    ),
    "expected values of shape [4, C], got [4]": (Z, 5, W, Y[:, 0]),
    "expected values of shape [4, C], got [3, 2]": (Z, 5, W, Y[:3]),
}


@pytest.mark.parametrize("message", BAD, ids=str)
def test_bad_arguments(ops, device, message):
    bits, players, *rest = BAD[message]
    with pytest.raises(RuntimeError) as caught:
        ops.coalition_rhs(bits.to(device), players, *(tensor.to(device) for tensor in rest))
    assert str(caught.value) == f"coalition_rhs: {message}"


@pytest.mark.cuda
def test_arguments_on_two_devices(ops, device):
    if device == "cpu":
        pytest.skip("takes two devices")
    for case, name in [
        ((Z.cuda(), 5, W, Y.cuda()), "weights"),
        ((Z.cuda(), 5, W.cuda(), Y), "values"),
    ]:
        with pytest.raises(RuntimeError) as caught:
            ops.coalition_rhs(*case)
        assert str(caught.value) == f"coalition_rhs: expected {name} on cuda:0 like bits, got cpu"
