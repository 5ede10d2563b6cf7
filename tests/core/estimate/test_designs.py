import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor

from fastxai.core import coalition_bits
from fastxai.core.estimate import designs, hadamard, sampling
from fastxai.core.estimate.designs import Design, shapley_design

PLAYERS = [1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 17, 33, 49, 63, 64, 65, 130]
SEEDS = [0, -5, 2**63 + 7]


def budgets(players: int) -> list[int]:
    m = players
    around = [2, 3, 4, 5, 6, 7, 8, 2 * m, 2 * m + 3, 2 * m + 5, 2 * m + 6, 2 * m + 7]
    return sorted({n for n in [*around, 3 * m, 5 * m, 8 * m + 1, 12 * m, 30 * m, 31 * m] if n > 1})


# Without the library mixed designs take long.
MIXED = pytest.param("mixed", marks=pytest.mark.library)
NAMES = [None, "enumeration", "hadamard", "leverage", MIXED]


def made(players: int, name: str | None, n_samples: list[int]) -> list[tuple[int, Design]]:
    """The designs that can be built."""
    found = []
    for n, seed in zip(n_samples, itertools.cycle(SEEDS)):
        try:
            found.append((n, shapley_design(players, n, seed, name)))
        except ValueError:
            assert name in ("enumeration", "hadamard")
    return found


def sets(bits: Tensor, players: int) -> list[frozenset[int]]:
    """The coalitions, bit by bit."""
    words = bits.tolist()
    return [frozenset(j for j in range(players) if row[j // 64] >> (j % 64) & 1) for row in words]


@pytest.mark.parametrize("players", PLAYERS)
@pytest.mark.parametrize("name", NAMES)
def test_coalitions_are_proper_distinct_and_paired(players, name):
    for n, design in made(players, name, budgets(players)):
        bits = design.bits
        assert design.players == players and bits.dtype == torch.int64
        assert bits.shape == (bits.shape[0], -(-players // 64))
        assert bits.shape[0] == 2 * min((n - 2) // 2, 2 ** (players - 1) - 1)
        found = sets(bits, players)
        everyone = frozenset(range(players))
        assert all(0 < len(z) < players for z in found)
        assert len(set(found)) == len(found)
        assert all(everyone - z == other for z, other in zip(found[::2], found[1::2], strict=True))
        # Bits beyond the players are zero: no word has more ones than its coalition.
        assert [len(z) for z in found] == [
            sum((word % 2**64).bit_count() for word in row) for row in bits.tolist()
        ]


@pytest.mark.parametrize("players", PLAYERS)
@pytest.mark.parametrize("name", NAMES)
def test_weights_are_positive_with_mean_one_and_equal_in_pairs(players, name):
    for _, design in made(players, name, budgets(players)):
        weights = design.weights
        assert weights.dtype == torch.float64 and weights.shape == design.bits.shape[:1]
        if len(weights):
            assert weights.min() > 0
            torch.testing.assert_close(weights.mean().item(), 1.0)
            torch.testing.assert_close(weights[::2], weights[1::2])
        if design.inclusion is not None:
            assert design.inclusion.shape == weights.shape
            assert ((design.inclusion > 0) & (design.inclusion <= 1)).all()


@pytest.mark.library
def test_thousands_of_players():
    for n, name in [(500, "hadamard"), (20_000, "hadamard"), (3000, "leverage")]:
        design = shapley_design(3001, n, 1, name)
        z = coalition_bits.unpack(design.bits, 3001)
        assert z.shape == (n - 2, 3001)
        assert torch.equal(z[::2], ~z[1::2])
        assert torch.unique(design.bits, dim=0).shape[0] == n - 2
    assert design.inclusion is not None and design.inclusion.max() < 1


def test_a_million_samples():
    design = shapley_design(49, 1_000_000, 3)
    assert design.name == "leverage" and design.bits.shape == (999_998, 1)
    assert torch.unique(design.bits).numel() == 999_998


@pytest.mark.parametrize(
    ("players", "n_samples", "name"),
    [
        (1, 2, "enumeration"),
        (3, 8, "enumeration"),
        (3, 7, "leverage"),
        (4, 15, "leverage"),
        (5, 31, "leverage"),
        (5, 16, "hadamard"),
        (10, 1024, "enumeration"),
        (10, 1023, "leverage"),
        (10, 50, "hadamard"),
        (49, 25, "hadamard"),
        (49, 1000, "hadamard"),
        (49, 30 * 49, "hadamard"),
        (49, 30 * 49 + 1, "leverage"),
    ],
)
def test_the_best_design_is_chosen(players, n_samples, name):
    assert shapley_design(players, n_samples, 0).name == name


@pytest.mark.parametrize(
    ("players", "n_samples", "name"),
    [
        (3, 8, "enumeration"),
        (4, 15, "leverage"),
        (10, 1024, "enumeration"),
        (10, 600, "leverage"),
        (10, 50, "hadamard"),
        (10, 200, "hadamard and leverage"),
        (49, 5 * 49, "hadamard"),
        (49, 6 * 49, "hadamard and leverage"),
        (49, 40 * 49, "hadamard and leverage"),
        pytest.param(20_000, 60_000, "leverage", marks=pytest.mark.library),
    ],
)
def test_the_best_design_for_kriging(players, n_samples, name):
    assert designs.kriging_design(players, n_samples, 0).name == name


def test_a_mixed_design_has_few_halves_beside_many_others():
    for per_player, of_hadamard in [(5, 5), (7.5, 6), (10, 7), (20, 7), (40, 7)]:
        design = shapley_design(40, int(40 * per_player), 1, "mixed")
        hadamard = shapley_design(40, int(40 * of_hadamard), 1, "hadamard")
        assert (coalition_bits.positions(hadamard.bits, design.bits) >= 0).all()
        more = shapley_design(40, int(40 * (of_hadamard + 0.5)), 1, "hadamard")
        assert (coalition_bits.positions(more.bits, design.bits) < 0).sum() >= 16


@pytest.mark.parametrize(
    ("players", "n_samples", "name", "message"),
    [
        (10, 1023, "enumeration", "2^10 samples for 10 players, got 1023"),
        (4, 14, "hadamard", "5 to 16384 players .* got 4 players and 14 samples"),
        (6, 34, "hadamard", "not too many .* got 6 players and 34 samples"),
        (7, 104, "hadamard", "not too many .* got 7 players and 104 samples"),
        (6, 50, "sobol", "one of enumeration, hadamard, leverage, mixed, got 'sobol'"),
        (0, 50, None, "at least 1 player and 2 samples, got 0 players"),
        (5, 1, None, "at least 1 player and 2 samples, got 5 players and 1 sample"),
    ],
)
def test_what_cannot_be_built_is_told(players, n_samples, name, message):
    with pytest.raises(ValueError, match=message.replace("^", r"\^")):
        shapley_design(players, n_samples, 0, name)


@pytest.mark.parametrize("name", ["hadamard", "leverage"])
def test_the_seed_decides_and_counts_modulo_two_to_the_64(name):
    def bits(seed: int) -> Tensor:
        return shapley_design(20, 150, seed, name).bits

    for seed in (0, -1, 2**63, 12345):
        assert torch.equal(bits(seed), bits(seed))
        assert torch.equal(bits(seed), bits(seed + 2**64))
    different = {tuple(bits(seed).flatten().tolist()) for seed in (0, 1, -1, 2**32, 2**63, 12345)}
    assert len(different) == 6


def test_global_random_state_and_default_device_do_not_matter():
    def everything() -> list[Tensor]:
        made = [shapley_design(20, n, 7).bits for n in (30, 150, 500, 5000)]
        orders = sampling.permutations(20, 5, 7)
        made += [orders, sampling.prefixes(orders), sampling.bernoulli_pairs(20, 5, 7)]
        made += [hadamard.foldover_hadamard(players, 40, 7) for players in (8, 20)]
        return [*made, coalition_bits.all_coalitions(4)]

    expected = everything()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    torch.set_default_device("meta")
    try:
        found = everything()
    finally:
        torch.set_default_device(None)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_enumeration_has_every_coalition_with_the_shapley_kernel():
    players = 7
    design = shapley_design(players, 2**players + 5, 0)
    assert design.name == "enumeration" and (design.inclusion == 1).all()
    assert sorted(design.bits.flatten().tolist()) == list(range(1, 2**players - 1))
    kernel = [
        (players - 1) / (math.comb(players, len(z)) * len(z) * (players - len(z)))
        for z in sets(design.bits, players)
    ]
    expected = torch.tensor(kernel, dtype=torch.float64)
    torch.testing.assert_close(design.weights, expected / expected.mean())


class TestLeverage:
    @staticmethod
    def sizes(players: int, n_samples: int) -> dict[int, int]:
        design = shapley_design(players, n_samples, 3, "leverage")
        return dict(sorted(Counter(len(z) for z in sets(design.bits, players)).items()))

    def test_sizes_are_equally_frequent(self):
        # 10 is a middle size of one, so it gets as many coalitions as each of the others.
        assert self.sizes(20, 2 + 19 * 12) == dict.fromkeys(range(1, 20), 12)

    def test_small_sizes_are_taken_whole_and_the_others_share(self):
        # 7 single players, and as many sixes; 2 to 5 share 50 - 14 = 36.
        assert self.sizes(7, 52) == {1: 7, 2: 9, 3: 9, 4: 9, 5: 9, 6: 7}
        # Sizes 1 and 2 whole; the rest for 3 and 4.
        assert self.sizes(7, 2 + 2 * (7 + 21 + 25)) == {1: 7, 2: 21, 3: 25, 4: 25, 5: 21, 6: 7}

    def test_the_rest_goes_to_the_largest_remainder(self):
        # 31 pairs: 8 of size 1, and 23 over 2, 3 and, with half a share, 4: 9.2, 9.2, 4.6.
        assert self.sizes(8, 2 + 2 * 31) == {1: 8, 2: 9, 3: 9, 4: 10, 5: 9, 6: 9, 7: 8}

    def test_all_coalitions_if_there_are_no_more(self):
        design = shapley_design(6, 64, 9, "leverage")
        assert sorted(design.bits.flatten().tolist()) == list(range(1, 63))
        enumeration = shapley_design(6, 64, 9)
        order, other = design.bits.flatten().argsort(), enumeration.bits.flatten().argsort()
        torch.testing.assert_close(design.weights[order], enumeration.weights[other])
        assert (design.inclusion == 1).all()

    def test_weights_are_the_kernel_over_the_chance(self):
        players = 12
        design = shapley_design(players, 100, 5, "leverage")
        size = torch.tensor([len(z) for z in sets(design.bits, players)])
        population_size = torch.tensor([math.comb(players, s) for s in range(players + 1)])[size]
        kernel = 1 / (population_size * size * (players - size)).double()
        expected = kernel / design.inclusion
        torch.testing.assert_close(design.weights, expected / expected.mean())

    @pytest.mark.library
    @pytest.mark.parametrize(("players", "n_samples"), [(6, 40), (5, 22)])
    def test_coalitions_are_drawn_with_the_chance_told(self, players, n_samples):
        seeds = 3000
        drawn = np.zeros(2**players)
        chance = np.zeros(2**players)
        for seed in range(seeds):
            design = shapley_design(players, n_samples, seed, "leverage")
            index = design.bits.flatten().numpy()
            drawn[index] += 1
            chance[index] = design.inclusion
        chance = chance[1:-1]
        assert (chance > 0).all(), "some coalition never came"
        error = drawn[1:-1] / seeds - chance
        deviation = np.sqrt(chance * (1 - chance) / seeds)
        assert (np.abs(error) <= 4.5 * deviation + 1e-12).all()
        assert (chance == 1).any() and (chance < 1).any()


class TestHadamard:
    @pytest.mark.parametrize("players", [32, 64, 63])
    def test_a_whole_block_of_halves_is_orthogonal(self, players):
        # Rows 1, ..., H - 1 of H: columns would be orthogonal with row 0, which is all ones.
        order = 1 << (players - 1).bit_length()
        design = shapley_design(players, 2 * (order - 1) + 2, 11, "hadamard")
        x = 2 * coalition_bits.unpack(design.bits[::2], players).double() - 1
        assert x.shape == (order - 1, players)
        expected = order * torch.eye(players).double() - 1
        torch.testing.assert_close(x.T @ x, expected, atol=0, rtol=0)

    def test_blocks_differ(self):
        design = shapley_design(64, 2 * 63 * 3 + 2, 11, "hadamard")
        singles = 64
        x = 2 * coalition_bits.unpack(design.bits[2 * singles :: 2], 64).double() - 1
        assert (x.sum(1) == 0).all()
        within = x[:63] @ x[:63].T - 64 * torch.eye(63)
        across = x[:63] @ x[63:].T
        assert within.abs().max() == 0
        assert 0 < across.abs().max() < 64

    @pytest.mark.parametrize("players", [5, 8, 20, 49])
    def test_parts(self, players):
        def sizes(n_samples: int) -> tuple[int, int, int]:
            design = shapley_design(players, n_samples, 2, "hadamard")
            found = [min(len(z), players - len(z)) for z in sets(design.bits[::2], players)]
            alone = found.count(1)
            couples = next((i for i, s in enumerate(found[alone:]) if s != 2), 0)
            return alone, couples, len(found) - alone - couples

        assert sizes(2 * players + 5)[0] == 0
        alone, _, _ = sizes(2 * players + 6)
        assert alone == players
        if players >= 20:  # halves are larger than couples there
            assert sizes(8 * players + 2) == (players, 0, 3 * players)
            assert sizes(12 * players + 2) == (players, players, 4 * players)

    def test_players_are_paired_off(self):
        design = shapley_design(20, 12 * 20 + 2, 2, "hadamard")
        couples = sets(design.bits[40:80:2], 20)
        for block in (couples[:10], couples[10:]):
            assert {len(couple) for couple in block} == {2}
        assert frozenset().union(*couples[:10]) == frozenset(range(20))

    def test_every_player_and_every_couple_comes_alike(self):
        counts = torch.zeros(9, 9)
        seeds = 400
        for seed in range(seeds):
            design = shapley_design(9, 2 * (9 + 10) + 2, seed, "hadamard")
            halves = coalition_bits.unpack(design.bits[18:], 9).float()
            counts += halves.T @ halves
        alone, together = counts.diagonal(), counts[~torch.eye(9, dtype=torch.bool)]
        assert (alone == 10 * seeds).all()  # of each pair of complements one
        assert together.std() < 0.02 * together.mean()

    def test_the_rule_fits_the_mean_square_distance_of_all_sizes(self):
        for players, n in [(20, 150), (21, 161), (49, 1400), (64, 600)]:
            design = shapley_design(players, n, 4, "hadamard")
            size = coalition_bits.subset_sizes(design.bits).double()
            share = design.weights * size * (players - size)
            found = (share * (size - players / 2) ** 2).sum() / share.sum()
            assert found.item() == pytest.approx(players * (players - 2) / 12)

    def test_a_small_middle_weighs_as_its_rows(self):
        players, halves = 20, 6
        design = shapley_design(players, 2 * (players + halves) + 2, 4, "hadamard")
        size = coalition_bits.subset_sizes(design.bits).double()
        share = design.weights * size * (players - size)
        torch.testing.assert_close(share, share[:1].expand_as(share))


@pytest.mark.parametrize("players", [1, 3, 63, 64, 65, 200])
def test_pack_and_unpack(players):
    z = torch.from_numpy(np.random.default_rng(players).random((37, players)) < 0.5)
    z[0], z[1] = True, False
    bits = coalition_bits.pack(z)
    assert bits.shape == (37, -(-players // 64)) and bits.dtype == torch.int64
    assert sets(bits, players) == [frozenset(row.nonzero().flatten().tolist()) for row in z]
    assert torch.equal(coalition_bits.unpack(bits, players), z)
    assert torch.equal(coalition_bits.unpack(bits[::2], players), z[::2])
    assert torch.equal(coalition_bits.subset_sizes(bits), z.sum(1))
    assert coalition_bits.unpack(bits[:0], players).shape == (0, players)
    assert torch.equal(coalition_bits.pack(z.view(1, 37, players)), bits[None])


def test_all_coalitions():
    assert coalition_bits.all_coalitions(3).tolist() == [[n] for n in range(8)]


@pytest.mark.parametrize("n", [0, 1, 2, 7])
@pytest.mark.parametrize("players", [1, 2, 5, 70])
def test_permutations(players, n):
    orders = sampling.permutations(players, n, -3)
    assert orders.shape == (n, players) and orders.dtype == torch.int64
    assert torch.equal(orders.sort(1).values, torch.arange(players).expand(n, -1))
    pairs = n // 2
    assert torch.equal(orders[: 2 * pairs : 2], orders[1 : 2 * pairs : 2].flip(1))
    assert torch.equal(sampling.permutations(players, n + 3, -3)[: 2 * pairs], orders[: 2 * pairs])

    expected = [frozenset(order[:size]) for order in orders.tolist() for size in range(1, players)]
    bits = sampling.prefixes(orders)
    assert bits.shape == (n * (players - 1), -(-players // 64))
    assert sets(bits, players) == expected


def test_permutations_are_all_equally_likely():
    n = 24_000
    counts = Counter(tuple(order) for order in sampling.permutations(4, 2 * n, 1)[::2].tolist())
    assert len(counts) == 24
    assert max(abs(count - n / 24) for count in counts.values()) < 4.5 * math.sqrt(n / 24)


@pytest.mark.parametrize("players", [1, 2, 64, 65])
def test_bernoulli_pairs(players):
    bits = sampling.bernoulli_pairs(players, 4001, 5)
    z = coalition_bits.unpack(bits, players)
    assert z.shape == (4001, players)
    assert torch.equal(z[:-1:2], ~z[1::2])
    assert (z[::2].double().mean(0) - 0.5).abs().max() < 4.5 * 0.5 / math.sqrt(2001)
    if players > 1:
        together = (z[::2, 0] == z[::2, -1]).double().mean()
        assert (together - 0.5).abs() < 4.5 * 0.5 / math.sqrt(2001)
    assert sampling.bernoulli_pairs(players, 0, 5).shape == (0, -(-players // 64))


@pytest.mark.thin("name")
@pytest.mark.library
@pytest.mark.parametrize("players", [5, 6, 7, 8, 12, 17, 31, 32, 33, 64, 65, 130])
@pytest.mark.parametrize("name", ["hadamard", "mixed"])
def test_growing_designs_hold_those_of_fewer_samples(players, name):
    n, before, names = max(2 * players + 6, 5 * players), set(), []
    while n <= 100 * players and 2 * n <= 1 << players:
        design = designs.growing_design(players, n, 7, name)
        found = set(map(tuple, design.bits.tolist()))
        assert before <= found and len(found) == len(design.bits) == 2 * ((n - 2) // 2)
        complements = sets(design.bits, players)
        everyone = frozenset(range(players))
        pairs = zip(complements[::2], complements[1::2], strict=True)
        assert all(everyone - one == other for one, other in pairs)
        assert (design.weights > 0).all() and design.weights.mean() == pytest.approx(1)
        assert torch.equal(design.weights[::2], design.weights[1::2])
        before, names = found, [*names, design.name]
        n = math.ceil(n * 1.3 / 2) * 2
    assert names == sorted(names)  # "hadamard", then "hadamard and leverage"
    if players > 12:
        assert len(set(names)) == 2


def test_growing_designs_begin_as_hadamard_and_end_as_enumeration():
    first = designs.growing_design(12, 80, seed=3)
    same = shapley_design(12, 80, 3, "hadamard")
    assert torch.equal(first.bits, same.bits) and torch.equal(first.weights, same.weights)
    assert designs.growing_design(12, 5000, seed=3).name == "enumeration"
    assert designs.growing_design(1, 2, seed=3).name == "enumeration"
    assert designs.growing_design(20_000, 300, seed=3).name == "leverage"


def test_either_part_of_a_growing_design_weighs_by_its_coalitions():
    """Σ w s (M − s) over the coalitions of a design is what makes it one."""
    players, n = 20, 1000
    joined = designs.growing_design(players, n, seed=5)
    one = shapley_design(players, 30 * players, 5, "hadamard")
    there = set(map(tuple, one.bits.tolist()))
    for drawn in range(n - 30 * players + 2, n, 2):  # until there are n - 2, each once
        other = shapley_design(players, drawn, 5, "leverage")
        if len(there | set(map(tuple, other.bits.tolist()))) == n - 2:
            break
    expected = {}
    for design in (one, other):
        size = coalition_bits.subset_sizes(design.bits)
        share = design.weights * size * (players - size)
        for z, w in zip(design.bits.tolist(), design.weights / share.sum(), strict=True):
            key = tuple(z)
            expected[key] = expected.get(key, 0) + len(size) * float(w)
    total = sum(expected.values()) / len(expected)
    for z, w in zip(joined.bits.tolist(), joined.weights.tolist(), strict=True):
        assert w == pytest.approx(expected[tuple(z)] / total)


@pytest.mark.parametrize("words", [1, 2, 3])
def test_positions(words):
    torch.manual_seed(words)
    among = torch.randint(-9, 9, (200, words)).unique(dim=0)[torch.randperm(18)]
    bits = torch.cat([among[[3, 0, 17]], torch.full((1, words), 99), among[5:6]])
    assert coalition_bits.positions(bits, among).tolist() == [3, 0, 17, -1, 5]
    assert coalition_bits.positions(bits[:0], among).tolist() == []


class TestFoldoverHadamard:
    PLAYERS = (*range(1, 19), 31, 32, 33, 63, 64, 65, 127, 130, 200)

    @staticmethod
    def block(players: int) -> int:
        """Rows with their complements."""
        return 2 << (players - 1).bit_length()

    @staticmethod
    def signs(players: int, n: int, seed: int) -> Tensor:
        return (
            2
            * coalition_bits.unpack(hadamard.foldover_hadamard(players, n, seed), players).double()
            - 1
        )

    @pytest.mark.parametrize("players", PLAYERS)
    def test_rows_are_paired_and_a_larger_design_begins_with_them(self, players):
        block = self.block(players)
        bits = hadamard.foldover_hadamard(players, 3 * block + 6, 5)
        assert bits.shape == (3 * block + 6, -(-players // 64)) and bits.dtype == torch.int64
        z = coalition_bits.unpack(bits, players)
        assert torch.equal(z[::2], ~z[1::2])
        assert torch.equal(coalition_bits.pack(z), bits)  # no bits beyond the players
        for n in {0, 1, 2, 3, 25, block - 1, block, block + 1, 2 * block, 3 * block + 1}:
            if n <= len(bits):
                assert torch.equal(hadamard.foldover_hadamard(players, n, 5), bits[:n])

    @pytest.mark.parametrize("players", PLAYERS)
    def test_whole_blocks_are_orthogonal_and_of_different_rows(self, players):
        block = self.block(players)
        x = self.signs(players, 3 * block, 11)
        for part in x.split(block):
            assert (part.sum(0) == 0).all()
            expected = block * torch.eye(players).double()
            torch.testing.assert_close(part.T @ part, expected, atol=0, rtol=0)
            assert len(part.unique(dim=0)) == min(block, 1 << players)

    @pytest.mark.parametrize("players", range(1, 13))
    def test_of_few_players_all_coalitions_come_once_before_any_comes_again(self, players):
        bits = hadamard.foldover_hadamard(players, 3 << players, 4)[:, 0].view(3, -1)
        for cycle in bits:
            assert torch.equal(cycle.sort().values, torch.arange(1 << players))
        if players > 2:
            assert not torch.equal(bits[0], bits[1]) and not torch.equal(bits[1], bits[2])

    @pytest.mark.parametrize("players", [10, 16, 32, 33, 64])
    def test_no_parity_is_the_same_in_all_blocks(self, players):
        """Of four players it is in a block; so main effects and threes would be confused."""
        block = self.block(players)
        x = self.signs(players, 12 * block, 3)
        i, j = torch.triu_indices(players, players, 1)
        other = (i[:, None] != i) & (j[:, None] != j) & (i[:, None] != j) & (j[:, None] != i)
        total, tied = 0, 0
        for part in x.split(block):
            products = part[:, i] * part[:, j]
            mean = (products.T @ products / block)[other]
            assert ((mean == 0) | (mean.abs() == 1)).all()
            tied = tied + (mean != 0).double()
            total = total + mean / 12
        assert (tied > 0).any() and total.abs().max() < 0.75
        if players > 12:
            assert tied.max() < 8

    @pytest.mark.parametrize("players", [2, 3, 6, 12, 13, 20])
    def test_products_of_players_signs_are_zero_on_average(self, players):
        seeds = 1500
        x = torch.stack([self.signs(players, 10, seed) for seed in range(seeds)])
        some = range(min(players, 6))
        for size in (1, 2, 3):
            for players_of_product in itertools.combinations(some, size):
                means = x[..., players_of_product].prod(2).mean(0)  # in each place
                assert means.abs().max() < 4.5 / math.sqrt(seeds)

    def test_every_coalition_is_as_likely_in_every_place(self):
        seeds = 2000
        drawn = torch.cat([hadamard.foldover_hadamard(3, 9, seed).T for seed in range(seeds)])
        for place in drawn.T.tolist():
            counts = Counter(place)
            assert len(counts) == 8
            assert max(abs(c - seeds / 8) for c in counts.values()) < 4.5 * math.sqrt(seeds / 8)

    @pytest.mark.parametrize("players", [9, 20])
    def test_the_seed_decides_and_counts_modulo_two_to_the_64(self, players):
        def bits(seed: int) -> Tensor:
            return hadamard.foldover_hadamard(players, 150, seed)

        for seed in (0, -1, 2**63, 12345):
            assert torch.equal(bits(seed), bits(seed + 2**64))
        seeds = (0, 1, -1, 2**32, 2**63, 12345)
        assert len({tuple(bits(seed).flatten().tolist()) for seed in seeds}) == 6

    def test_coins_where_a_block_is_dear(self):
        found = hadamard.foldover_hadamard(16_385, 25, 3)
        assert torch.equal(found, sampling.bernoulli_pairs(16_385, 25, 3))
        assert not torch.equal(
            hadamard.foldover_hadamard(16_384, 25, 3), sampling.bernoulli_pairs(16_384, 25, 3)
        )
