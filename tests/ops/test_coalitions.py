import itertools
import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from fastxai import ops as fastxai_ops
from fastxai.ops import native, reference
from fastxai.ops.reference import draws
from tests.native.test_philox import KNOWN_ANSWERS

SEEDS = [0, 1, -1, 2**63 - 1, -(2**63), 123_456_789_012_345]
COUNTABLE = 2**62


def count(players, size):
    """How many ranks there are; those of coins and of subsets beyond counting are any int64."""
    subsets = math.comb(players, size) if size >= 0 else COUNTABLE
    return subsets if subsets < COUNTABLE else 2**63


def draw_case(players, rows, device):
    """Small and large sizes, with their first and last ranks and ranks at random."""
    random = np.random.default_rng(0)
    near = {0, 1, 2, 3, players // 3, players // 2, *range(max(0, players - 3), players + 1)}
    sizes = [-1, *sorted(size for size in near if size <= players)]
    ends = [(s, r) for s in sizes for r in (0, 1, count(players, s) - 1) if r < count(players, s)]
    drawn = random.choice(sizes, rows).tolist()
    drawn = [(s, int(random.integers(0, count(players, s)))) for s in drawn]
    sizes, ranks = torch.tensor(ends + drawn).T
    return players, sizes.to(device), ranks.to(device)


def unpack(bits, players):
    """[N, W] int64 -> [N, M] bool, by way of bytes."""
    octets = bits.cpu().numpy().astype("<i8").view(np.uint8)
    bools = np.unpackbits(octets, axis=1, bitorder="little").astype(bool)
    assert not bools[:, players:].any(), "a bit beyond the last player"
    return torch.from_numpy(bools[:, :players])


def subsets_of(ops, players, size, ranks, seed, device="cpu"):
    ranks = torch.as_tensor(ranks, device=device)
    return ops.coalitions(players, torch.full_like(ranks, size), ranks, seed)


@pytest.mark.parametrize("name", KNOWN_ANSWERS)
def test_philox_of_the_reference(name):
    counter, key, expected = KNOWN_ANSWERS[name]
    assert tuple(int(word) for word in draws._philox(counter, key)) == expected


@pytest.mark.parametrize("players", [*range(1, 18), 49, 63, 64, 65, 66, 67, 127, 128, 129, 500])
def test_kernel_equals_reference_to_the_last_bit(native_ops, device, players):
    case = draw_case(players, 200, device)
    for seed in SEEDS[players % 3 :: 3]:  # the reference takes its time
        bits = native_ops.coalitions(*case, seed)
        assert bits.is_contiguous()
        assert_close(bits, reference.coalitions(*case, seed), rtol=0, atol=0)


@pytest.mark.parametrize("players", [32_767, 32_768, 150_528])
def test_many_players(ops, device, players):
    sizes = [-1, 0, 1, 2, 3, 4, 5, players - 4, players - 3, players - 1, players]
    ranks = [7, 0, players - 1, 5, 6, 9, 2**63 - 1, 3, 4, 1, 0]
    case = players, torch.tensor(sizes, device=device), torch.tensor(ranks, device=device)
    bits = ops.coalitions(*case, 3)
    assert_close(bits, reference.coalitions(*case, 3), rtol=0, atol=0)
    found = unpack(bits, players).sum(1).tolist()
    assert found[1:] == sizes[1:]
    assert abs(found[0] - players / 2) < 5 * players**0.5 / 2


def test_the_same_bits_for_ever(ops, device):
    """Whoever notes down a seed gets the same coalitions from every later version."""
    sizes = torch.tensor([-1, 0, 1, 3, 3, 25, 35, 49, 70], device=device)
    ranks = torch.tensor([5, 0, 2, 7, 8, 4_000_000_000, 1, 9, 0], device=device)
    expected = [
        [-2718667891571475449, 30],
        [0, 0],
        [2048, 0],
        [2594073385366454272, 0],
        [4161, 0],
        [130664491978438704, 32],
        [7583374477155114830, 33],
        [-1198004284546932737, 31],
        [-1, 63],
    ]
    assert ops.coalitions(70, sizes, ranks, 20_260_101).tolist() == expected


@pytest.mark.parametrize("players", range(1, 11))
def test_all_ranks_are_all_subsets(ops, device, players):
    for size in range(players + 1):
        ranks = torch.arange(math.comb(players, size))
        for seed in SEEDS[:2]:
            bits = subsets_of(ops, players, size, ranks, seed, device)[:, 0].tolist()
            every = itertools.combinations(range(players), size)
            assert sorted(bits) == sorted(sum(1 << j for j in subset) for subset in every)


# Numbered and drawn subsets, one word and several, and both sides of where numbering ends.
@pytest.mark.parametrize(
    "players,size",
    [(49, 24), (49, 40), (64, 32), (65, 32), (66, 33), (200, 2), (200, 198), (200, 100), (300, 13)],
)
def test_subsets_have_their_size_and_differ(ops, device, players, size):
    ranks = torch.arange(3000)
    bits = subsets_of(ops, players, size, ranks, 11, device)
    assert (unpack(bits, players).sum(1) == size).all()
    assert len(bits.unique(dim=0)) == len(ranks)


def test_a_row_depends_on_nothing_but_its_size_and_rank(ops, device):
    for players in (49, 130):
        _, sizes, ranks = draw_case(players, 50, device)
        whole = ops.coalitions(players, sizes, ranks, 5)
        order = torch.randperm(len(sizes), generator=torch.Generator().manual_seed(0)).to(device)
        shuffled = ops.coalitions(players, sizes[order], ranks[order], 5)
        assert_close(shuffled, whole[order], rtol=0, atol=0)
        one_by_one = [
            ops.coalitions(players, s, r, 5)
            for s, r in zip(sizes.split(1), ranks.split(1), strict=True)
        ]
        assert_close(torch.cat(one_by_one), whole, rtol=0, atol=0)


def test_bits_do_not_depend_on_the_number_of_threads(native_ops, device):
    case = draw_case(49, 20_000, device)
    whole = native_ops.coalitions(*case, 5)
    threads = torch.get_num_threads()
    try:
        for number in (2, 3, 4):
            torch.set_num_threads(number)
            assert_close(native_ops.coalitions(*case, 5), whole, rtol=0, atol=0)
    finally:
        torch.set_num_threads(threads)


def test_every_bit_of_the_seed_counts(ops, device):
    for players, size in ((49, 20), (49, -1), (200, 100)):
        seeds = [0, -1, *(1 << i for i in range(63))]
        rows = torch.cat([subsets_of(ops, players, size, [3], seed, device) for seed in seeds])
        assert len(rows.unique(dim=0)) == len(seeds)


def test_every_bit_of_the_rank_counts_for_draws(ops, device):
    for players, size in ((49, -1), (200, 100)):
        ranks = [0, 2**63 - 1, *(1 << i for i in range(63))]
        rows = subsets_of(ops, players, size, ranks, 0, device)
        assert len(rows.unique(dim=0)) == len(ranks)


def test_sizes_have_orders_of_their_own(ops, device):
    """Subset 0 of a size says nothing about subset 0 of its complement's, or for more players."""
    rows = torch.cat([subsets_of(ops, m, s, [0], 0, device) for m in (40, 41) for s in (10, 30)])
    assert len(torch.cat([rows[:, 0], (1 << 40) - 1 - rows[:2, 0]]).unique()) == 6


def assert_uniform(counts):
    """Pearson's chi-square; six standard deviations never happen by chance."""
    expected = counts.sum() / counts.size
    assert expected > 5
    statistic = ((counts - expected) ** 2 / expected).sum()
    degrees = counts.size - 1
    assert statistic < degrees + 6 * (2 * degrees) ** 0.5 + 12


# So few subsets are the hard case for a Feistel network: its halves have a bit or two.
@pytest.mark.parametrize(
    "players,size",
    [(2, 1), (3, 1), (4, 1), (5, 1), (4, 2), (7, 1), (9, 8), (5, 3), (15, 1), (6, 3)],
)
def test_orders_of_few_subsets_are_uniform(native_ops, device, players, size):
    subsets = math.comb(players, size)
    ranks = torch.arange(subsets)
    sizes, ranks = torch.full_like(ranks, size).to(device), ranks.to(device)
    rows = [native_ops.coalitions(players, sizes, ranks, seed) for seed in range(20_000)]
    _, order = torch.stack(rows)[..., 0].unique(return_inverse=True)  # [seeds, subsets]
    order = order.cpu().numpy()
    for first, second in ((0, 1), (0, subsets - 1), (subsets - 2, subsets - 1)):
        assert_uniform(np.bincount(order[:, first], minlength=subsets))
        pairs = np.bincount(order[:, first] * subsets + order[:, second], minlength=subsets**2)
        assert (pairs[:: subsets + 1] == 0).all()
        assert_uniform(np.delete(pairs, np.s_[:: subsets + 1]))
    if subsets <= 6:
        _, orders = np.unique(order, axis=0, return_counts=True)
        assert len(orders) == math.factorial(subsets)
        assert_uniform(orders)


@pytest.mark.parametrize("players,size", [(16, 5), (49, 24), (66, 33), (80, 60), (70, -1)])
def test_subsets_at_random_are_uniform(ops, device, players, size):
    rows = 20_000
    numbers = torch.arange(min(rows, count(players, size)))
    z = unpack(subsets_of(ops, players, size, numbers, 1, device), players).double()
    one = 0.5 if size < 0 else size / players
    two = 0.25 if size < 0 else one * (size - 1) / (players - 1)
    together = z.T @ z / len(z)
    expected = torch.full_like(together, two).fill_diagonal_(one)
    error = (expected * (1 - expected) / len(z)).sqrt()
    assert ((together - expected).abs() < 6 * error).all()


def test_any_strides(ops, device):
    _, sizes, ranks = draw_case(49, 100, device)
    pairs = torch.stack([sizes, ranks], 1)
    expected = ops.coalitions(49, sizes[::2].clone(), ranks[::2].clone(), 5)
    assert_close(ops.coalitions(49, pairs[::2, 0], pairs[::2, 1], 5), expected, rtol=0, atol=0)


@pytest.mark.parametrize("players", [1, 64, 65])
def test_no_rows(ops, device, players):
    none = torch.zeros(0, dtype=torch.int64, device=device)
    assert ops.coalitions(players, none, none, 0).shape == (0, -(-players // 64))


def test_arguments_untouched(ops, device):
    _, sizes, ranks = draw_case(49, 10, device)
    before = sizes.clone(), ranks.clone()
    ops.coalitions(49, sizes, ranks, 0).zero_()
    assert_close((sizes, ranks), before, rtol=0, atol=0)


def test_opcheck(native_ops, device):
    for players in (10, 100):
        case = draw_case(players, 5, device)
        torch.library.opcheck(torch.ops.fastxai.coalitions.default, (*case, 3))


def test_compiles_in_one_graph(native_ops, device):
    def f(sizes, ranks):
        return fastxai_ops.coalitions(70, sizes + 1, ranks * 2, 4) & 7

    compiled = torch.compile(f, fullgraph=True, backend="aot_eager", dynamic=True)
    for rows in (5, 9):
        sizes = torch.arange(rows, device=device) + 20
        assert_close(compiled(sizes, sizes), f(sizes, sizes), rtol=0, atol=0)


def test_public_function_is_the_backend(device):
    case = draw_case(49, 20, device)
    expected = native.backend().coalitions(*case, 5)
    assert_close(fastxai_ops.coalitions(*case, 5), expected, rtol=0, atol=0)


S = torch.tensor([1, 2, 3])
R = torch.tensor([0, 1, 2])
BAD = {
    "expected players from 1 to 16777216, got 0": (0, S, R),
    "expected players from 1 to 16777216, got 16777217": (16_777_217, S, R),
    "expected sizes of dtype int64, got int32": (5, S.int(), R),
    "expected sizes of shape [N], got [1, 3]": (5, S[None], R),
    "expected sizes of shape [N], got []": (5, S[0], R[0]),
    "expected ranks of dtype int64, got float32": (5, S, R.float()),
    "expected ranks of shape [3], got [2]": (5, S, R[:2]),
}
BAD_VALUES = {
    "expected sizes from -1 to 5, got 6 in row 1": (5, torch.tensor([1, 6, 7]), R),
    "expected sizes from -1 to 5, got -2 in row 2": (5, torch.tensor([1, 5, -2]), R),
    "expected ranks from 0 to 9 for size 2, got 10 in row 1": (5, S, torch.tensor([0, 10, -1])),
    "expected ranks from 0 to 9 for size 3, got -1 in row 2": (5, S, torch.tensor([0, 1, -1])),
    "expected ranks from 0 to 0 for size 5, got 1 in row 0": (5, torch.tensor([5, 5, 5]), R + 1),
    "expected ranks from 0 to 9223372036854775807 for size -1, got -5 in row 0": (
        5,
        torch.tensor([-1]),
        torch.tensor([-5]),
    ),
    "expected ranks from 0 to 9223372036854775807 for size 33, got -5 in row 0": (
        66,
        torch.tensor([33]),
        torch.tensor([-5]),
    ),
    "expected ranks from 0 to 3609714217008132869 for size 33, got 3609714217008132870 in row 0": (
        65,
        torch.tensor([33]),
        torch.tensor([math.comb(65, 33)]),
    ),
}


@pytest.mark.parametrize("message", BAD, ids=str)
def test_bad_arguments(ops, device, message):
    players, sizes, ranks = BAD[message]
    with pytest.raises(RuntimeError) as caught:
        ops.coalitions(players, sizes.to(device), ranks.to(device), 0)
    assert str(caught.value) == f"coalitions: {message}"


@pytest.mark.parametrize("message", BAD_VALUES, ids=str)
def test_bad_values(ops, device, message):
    if device == "cuda":
        pytest.skip("values are looked at on CPU only")
    with pytest.raises(RuntimeError) as caught:
        ops.coalitions(*BAD_VALUES[message], 0)
    assert str(caught.value) == f"coalitions: {message}"


@pytest.mark.cuda
def test_values_out_of_range_on_cuda(ops, device):
    if device == "cpu":
        pytest.skip("values are looked at on CPU")
    sizes = torch.tensor([-7, 99, 3, 3]).cuda()
    ranks = torch.tensor([5, 2, -1, 1000]).cuda()
    inside = torch.tensor([-1, 10, 3, 3]), torch.tensor([5, 0, 119, 1000 % 120])
    bits = ops.coalitions(10, sizes, ranks, 0)
    assert_close(bits.cpu(), ops.coalitions(10, *inside, 0), rtol=0, atol=0)


@pytest.mark.cuda
def test_arguments_on_two_devices(ops, device):
    if device == "cpu":
        pytest.skip("takes two devices")
    with pytest.raises(RuntimeError) as caught:
        ops.coalitions(5, S.cuda(), R, 0)
    assert str(caught.value) == "coalitions: expected ranks on cuda:0 like sizes, got cpu"
