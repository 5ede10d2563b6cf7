import pytest
import torch
from torch.testing import assert_close

from fastxai import ops as fastxai_ops
from fastxai.ops import native
from tests.ops.conftest import draw_coalitions, fill_beyond

WEIGHTS = {
    "equal": lambda rows, random: torch.full((rows,), 0.1),
    "few": lambda rows, random: torch.randint(0, 9, (rows,), generator=random) / 7 - 0.4,
    "all different": lambda rows, random: torch.randperm(rows, generator=random) / 7 + 1,
    "some equal": lambda rows, random: (torch.randperm(rows, generator=random) / 7).clamp(max=9.9),
    "small groups": lambda rows, random: torch.randperm(rows, generator=random) // 8 / 3,
    "scales": lambda rows, random: 10.0 ** torch.randint(-30, 30, (rows,), generator=random),
    "zeros": lambda rows, random: torch.tensor([0.0, -0.0, 2.0]).repeat(rows)[:rows],
}


def draw_weights(kind, rows, device):
    random = torch.Generator().manual_seed(0)
    return WEIGHTS[kind](rows, random).double().to(device)


def exact_gram(z, weights):
    """The matrix, and the scale that rounding errors are measured by."""
    weights = weights.cpu()
    return z.T @ (weights[:, None] * z), z.T @ (weights.abs()[:, None] * z)


@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("players", [1, 7, 8, 9, 49, 63, 64, 65, 130])
def test_equals_the_formula(ops, device, players, kind):
    for rows in (0, 1, 7, 8, 9, 64, 65, 1500):
        bits, z = draw_coalitions(players, rows, device)
        weights = draw_weights(kind, rows, device)
        gram = ops.coalition_gram(bits, players, weights)
        assert gram.shape == (players, players)
        assert gram.dtype == torch.float64
        assert gram.is_contiguous()
        expected, scale = exact_gram(z, weights)
        assert ((gram.cpu() - expected).abs() <= (rows + 2) * 2**-52 * scale).all()


# One chunk of columns, whole and with a row left over, and many; more classes than are hashed.
@pytest.mark.parametrize("rows", [4096, 4097, 70_000])
@pytest.mark.parametrize("kind", ["equal", "few", "some equal"])
def test_many_rows(native_ops, device, rows, kind):
    bits, z = draw_coalitions(49, rows, device)
    weights = draw_weights(kind, rows, device)
    expected, scale = exact_gram(z, weights)
    gram = native_ops.coalition_gram(bits, 49, weights).cpu()
    assert ((gram - expected).abs() <= rows * 2**-52 * scale).all()


def test_rows_of_equal_weight_are_counted(ops, device):
    if device == "cuda":
        pytest.skip("promised on CPU only")
    bits, z = draw_coalitions(49, 70_000, device)
    weights = torch.full((len(bits),), 0.1, dtype=torch.float64)
    weights[:20_000] = 1e-9
    gram = ops.coalition_gram(bits, 49, weights)
    expected = 1e-9 * (z[:20_000].T @ z[:20_000]) + 0.1 * (z[20_000:].T @ z[20_000:])
    assert_close(gram, expected, rtol=0, atol=0)


@pytest.mark.parametrize("kind", WEIGHTS)
def test_order_of_rows_does_not_matter_to_the_last_bit(ops, device, kind):
    if device == "cuda":
        pytest.skip("promised on CPU only")
    for players, rows in ((49, 3000), (100, 500)):
        bits, _ = draw_coalitions(players, rows, device)
        weights = draw_weights(kind, rows, device)
        gram = ops.coalition_gram(bits, players, weights)
        for seed in range(3):
            order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
            shuffled = ops.coalition_gram(bits[order], players, weights[order])
            assert_close(shuffled, gram, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["few", "some equal"])
def test_gram_does_not_depend_on_the_number_of_threads(native_ops, device, kind):
    bits, _ = draw_coalitions(130, 20_000, device)
    weights = draw_weights(kind, len(bits), device)
    gram = native_ops.coalition_gram(bits, 130, weights)
    threads = torch.get_num_threads()
    try:
        for number in (2, 3, 4):
            torch.set_num_threads(number)
            assert_close(native_ops.coalition_gram(bits, 130, weights), gram, rtol=0, atol=0)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("players", [1, 49, 65])
@pytest.mark.parametrize("kind", ["few", "all different"])
def test_bits_beyond_the_players_are_ignored(ops, device, players, kind):
    bits, _ = draw_coalitions(players, 300, device)
    weights = draw_weights(kind, 300, device)
    gram = ops.coalition_gram(fill_beyond(bits, players), players, weights)
    assert_close(gram, ops.coalition_gram(bits, players, weights), rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["few", "all different", "scales"])
def test_symmetric_to_the_last_bit(ops, device, kind):
    bits, _ = draw_coalitions(70, 500, device)
    gram = ops.coalition_gram(bits, 70, draw_weights(kind, 500, device))
    assert_close(gram, gram.T, rtol=0, atol=0)


def test_any_strides(ops, device):
    bits, _ = draw_coalitions(100, 60, device)
    weights = draw_weights("few", 60, device)
    gram = ops.coalition_gram(bits.T.contiguous().T[::2], 100, weights[::2])
    expected = ops.coalition_gram(bits[::2].clone(), 100, weights[::2].clone())
    assert_close(gram, expected, rtol=0, atol=0)


def test_arguments_untouched(ops, device):
    bits, _ = draw_coalitions(9, 30, device)
    weights = draw_weights("few", 30, device)
    before = bits.clone(), weights.clone()
    ops.coalition_gram(bits, 9, weights).zero_()
    assert_close((bits, weights), before, rtol=0, atol=0)


def test_no_gradient_is_recorded(ops, device):
    bits, _ = draw_coalitions(9, 30, device)
    weights = draw_weights("few", 30, device).requires_grad_()
    assert not ops.coalition_gram(bits, 9, weights).requires_grad


def test_opcheck(native_ops, device):
    bits, _ = draw_coalitions(70, 20, device)
    case = bits, 70, draw_weights("few", 20, device)
    torch.library.opcheck(torch.ops.fastxai.coalition_gram.default, case)


def test_compiles_in_one_graph(native_ops, device):
    def f(bits, weights):
        return fastxai_ops.coalition_gram(bits, 70, weights * 2).sin()

    compiled = torch.compile(f, fullgraph=True, backend="aot_eager", dynamic=True)
    for rows in (5, 9):
        case = draw_coalitions(70, rows, device)[0], draw_weights("few", rows, device)
        assert_close(compiled(*case), f(*case), rtol=0, atol=0)


def test_public_function_is_the_backend(device):
    bits, _ = draw_coalitions(70, 20, device)
    case = bits, 70, draw_weights("few", 20, device)
    expected = native.backend().coalition_gram(*case)
    assert_close(fastxai_ops.coalition_gram(*case), expected, rtol=0, atol=0)


Z = torch.zeros(4, 1, dtype=torch.int64)
W = torch.zeros(4, dtype=torch.float64)
BAD = {
    "expected players from 1 to 16777216, got 0": (Z, 0, W),
    "expected players from 1 to 16777216, got 16777217": (Z, 16_777_217, W),
    "expected bits of dtype int64, got int32": (Z.int(), 5, W),
    "expected bits of shape [N, 1], got [4]": (Z[:, 0], 5, W),
    "expected bits of shape [N, 2], got [4, 1]": (Z, 65, W),
    "expected weights of dtype float64, got float32": (Z, 64, W.float()),
    "expected weights of shape [4], got [3]": (Z, 5, W[:3]),
    "expected weights of shape [4], got [4, 1]": (Z, 5, W[:, None]),
}


@pytest.mark.parametrize("message", BAD, ids=str)
def test_bad_arguments(ops, device, message):
    bits, players, weights = BAD[message]
    with pytest.raises(RuntimeError) as caught:
        ops.coalition_gram(bits.to(device), players, weights.to(device))
    assert str(caught.value) == f"coalition_gram: {message}"


@pytest.mark.cuda
def test_arguments_on_two_devices(ops, device):
    if device == "cpu":
        pytest.skip("takes two devices")
    with pytest.raises(RuntimeError) as caught:
        ops.coalition_gram(Z.cuda(), 5, W)
    assert str(caught.value) == "coalition_gram: expected weights on cuda:0 like bits, got cpu"
