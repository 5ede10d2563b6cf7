import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from fastxai import ops
from fastxai.core.coalition_bits import pack, unpack
from fastxai.core.estimate import shapley_regression as surrogate
from fastxai.core.estimate.designs import Design, shapley_design, simpson_weights
from fastxai.core.estimate.shapley_regression import ShapleyRegression
from tests import oracles
from tests.oracles import Game


def moment(design: Design, values: Tensor) -> Tensor:  # [N, *C] -> [M, *C]
    flat = values.reshape(values.shape[0], values.shape[1:].numel())
    sums = ops.coalition_rhs(design.bits, design.players, design.weights, flat)
    return sums.reshape(design.players, *values.shape[1:])


def fitted(game: Game, design: Design) -> tuple[Tensor, Tensor]:
    """Estimated Shapley values and their standard errors, [M] each."""
    fit = ShapleyRegression(design)
    values = game.value(unpack(design.bits, design.players))
    phi = fit.solve(moment(design, values), game.difference)
    return phi, fit.standard_errors(values, game.difference, phi)


def paired_solve(game: Game, design: Design) -> Tensor:
    """The regression on half the rows, of half the differences within pairs, by the SVD."""
    z, players = unpack(design.bits, design.players), design.players
    values, z = game.value(z), z[::2].double()
    size = z.sum(1)
    x = z - size[:, None] / players
    y = (values[::2] - values[1::2]) / 2 - game.difference * (size / players - 0.5)
    root = design.weights[::2].sqrt()
    b = torch.linalg.pinv(root[:, None] * x, rtol=1e-7) @ (root * y)
    return b - b.mean() + game.difference / players


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def assert_close(found: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(found, expected.to(found.dtype), atol=tolerance, rtol=tolerance)


class TestOracles:
    def test_brute_force_is_the_mean_over_all_orders(self):
        values = normal(2**4, 3, seed=4)
        expected = torch.zeros(4, 3, dtype=torch.float64)
        for order in itertools.permutations(range(4)):
            before = 0
            for i in order:
                expected[i] += (values[before | 1 << i] - values[before]) / 24
                before |= 1 << i
        assert_close(oracles.brute_force(values), expected)

    @pytest.mark.parametrize(
        "game",
        [
            oracles.second_order(normal(7), normal(7, 7) * (1 - torch.eye(7))),
            oracles.of_degree(8, 5, 20, seed=1, offset=3.0),
            oracles.product_kernel(normal(30, 9).abs() + 0.1, normal(30, 9).abs(), normal(30)),
            oracles.gaussian_kernel(normal(6), normal(6, seed=1), normal(20, 6), normal(20), 0.3),
            oracles.symmetric(normal(8)),
            oracles.table(normal(16)),
        ],
        ids=["second order", "teams", "product kernel", "gaussian kernel", "symmetric", "table"],
    )
    def test_closed_forms_equal_brute_force(self, game):
        values = game.value(oracles.every_coalition(game.players))
        assert_close(game.shapley, oracles.brute_force(values), 1e-9)
        assert_close(game.difference, values[-1] - values[0], 1e-9)


class TestEnumerated:
    @pytest.mark.parametrize("players", range(1, 13))
    def test_random_tables_equal_brute_force(self, players):
        values = normal(2**players, 2, 3, seed=players)
        for name in (None, "enumeration", "leverage"):
            design = shapley_design(players, 2**players, 1, name)
            fit = ShapleyRegression(design)
            assert fit.determined
            y, difference = values[design.bits[:, 0]], values[-1] - values[0]
            phi = fit.solve(moment(design, y), difference)
            assert phi.shape == (players, 2, 3)
            assert_close(phi, oracles.brute_force(values))
            errors = fit.standard_errors(y, difference, phi)
            assert_close(errors, torch.zeros_like(phi), 0)

    def test_logic_tables(self):
        def shapley(table: list[int]) -> list[float]:
            game = oracles.table(torch.tensor(table))
            phi, _ = fitted(game, shapley_design(game.players, len(table), 0))
            return phi.tolist()

        assert shapley([0, 1, 1, 0]) == pytest.approx([0, 0])  # XOR
        assert shapley([0, 0, 0, 1]) == pytest.approx([1 / 2, 1 / 2])  # AND
        assert shapley([0, 1, 1, 1]) == pytest.approx([1 / 2, 1 / 2])  # OR
        assert shapley([0, 1, 0, 1]) == pytest.approx([1, 0])  # the first player alone
        majority = [int(n.bit_count() >= 2) for n in range(8)]
        assert shapley(majority) == pytest.approx([1 / 3] * 3)
        parity = [n.bit_count() % 2 for n in range(8)]
        assert shapley(parity) == pytest.approx([1 / 3] * 3)
        # 0 and 1 or 2: the first has 2/3, the others 1/6.
        assert shapley([0, 0, 0, 1, 0, 1, 0, 1]) == pytest.approx([2 / 3, 1 / 6, 1 / 6])

    def test_players_that_are_alike_and_players_that_do_nothing(self):
        game = oracles.unanimity(6, [[0, 1, 2], [3], [0, 3], [1, 3], [2, 3]], normal(5).abs() + 1)
        same = replace(game, value=lambda z: game.value(z[:, [0, 0, 2, 3, 4, 5]]) * z[:, 3])
        phi, _ = fitted(same, shapley_design(6, 64, 0))
        assert phi[1].abs() < 1e-12 and phi[4].abs() < 1e-12 and phi[5].abs() < 1e-12
        alike = oracles.unanimity(
            6, [[0, 1], [2], [0, 2], [1, 2]], torch.tensor([2.0, 1, 3, 3]).double()
        )
        phi, _ = fitted(alike, shapley_design(6, 64, 0))
        assert_close(phi[0], phi[1])
        assert phi[0].abs() > 1

    def test_equals_shap(self):
        shap = pytest.importorskip("shap")
        game = oracles.of_degree(7, 4, 12, seed=8)

        def model(x: np.ndarray) -> np.ndarray:
            return game.value(torch.from_numpy(x) > 0.5).numpy()

        explainer = shap.KernelExplainer(model, np.zeros((1, 7)))
        expected = explainer.shap_values(np.ones(7), nsamples=2**7, l1_reg=False, silent=True)
        phi, _ = fitted(game, shapley_design(7, 2**7, 0))
        assert_close(phi, torch.from_numpy(expected), 1e-6)


SAMPLED = [
    (5, 16, "hadamard"),
    (12, 60, "hadamard"),
    (12, 60, "leverage"),
    (12, 101, None),
    (30, 59, "leverage"),
    (30, 70, "hadamard"),
    (30, 600, "hadamard"),
    (30, 500, "leverage"),
    (65, 400, None),
]


class TestSampled:
    @pytest.mark.parametrize(("players", "n_samples", "name"), SAMPLED)
    def test_linear_games_are_exact(self, players, n_samples, name):
        game = oracles.of_degree(players, 1, 0, seed=2, offset=100.0)
        phi, errors = fitted(game, shapley_design(players, n_samples + 1, 3, name))
        assert_close(phi, game.shapley, 1e-8)
        assert errors.nan_to_num().abs().max() < 1e-8

    @pytest.mark.parametrize(("players", "n_samples", "name"), SAMPLED)
    def test_second_order_games_are_exact(self, players, n_samples, name):
        # What couples add to a coalition and take from its complement is linear.
        pairs = normal(players, players) * (1 - torch.eye(players))
        game = oracles.second_order(normal(players), pairs)
        phi, _ = fitted(game, shapley_design(players, n_samples + 1, 3, name))
        assert_close(phi, game.shapley, 1e-9)

    @pytest.mark.parametrize("players", [5, 6, 7, 8, 9])
    def test_third_order_games_are_exact_with_all_halves(self, players):
        halves = [z for z in oracles.every_coalition(players) if z.sum() == players // 2]
        if players % 2 == 0:
            halves = [z for z in halves if z[0]]
        z = torch.cat([torch.eye(players, dtype=torch.bool), torch.stack(halves)])
        weights = simpson_weights(players, z.sum(1), ends=players)
        both = torch.stack([z, ~z], 1).flatten(0, 1)
        design = Design("hadamard", players, pack(both), weights.repeat_interleave(2), None)
        third = oracles.of_degree(players, 3, 30, seed=players)
        assert_close(fitted(third, design)[0], third.shapley)
        if players > 5:  # of which these are all coalitions
            fifth = oracles.of_degree(players, 5, 30, seed=players)
            assert (fitted(fifth, design)[0] - fifth.shapley).abs().max() > 1e-3

    @pytest.mark.parametrize(("players", "n_samples", "name"), SAMPLED)
    def test_all_rows_give_what_the_paired_solve_gives(self, players, n_samples, name):
        design = shapley_design(players, n_samples + 1, 5, name)
        game = oracles.of_degree(players, 5, 60, seed=1, offset=50.0)
        assert_close(fitted(game, design)[0], paired_solve(game, design), 1e-8)

    @pytest.mark.parametrize("n_samples", [2, 3, 4, 11, 25, 39])
    @pytest.mark.parametrize("name", ["hadamard", "leverage"])
    def test_too_few_samples_give_the_nearest_to_equal_values(self, n_samples, name):
        design = shapley_design(20, n_samples, 5, name)
        assert not ShapleyRegression(design).determined
        game = oracles.of_degree(20, 3, 40, seed=1)
        phi, errors = fitted(game, design)
        assert phi.sum().item() == pytest.approx(game.difference.item(), abs=1e-12)
        assert_close(phi, paired_solve(game, design), 1e-8)
        assert errors.isnan().all()

    @pytest.mark.parametrize(("players", "n_samples"), [(49, 40), (200, 20), (6, 4)])
    def test_fewer_pairs_than_players_give_the_least_solution(self, players, n_samples):
        design = shapley_design(players, n_samples, seed=1)
        generator = torch.Generator().manual_seed(0)
        z = unpack(design.bits, players).double()
        values = torch.randn(len(z), 3, generator=generator, dtype=torch.float64)
        difference = torch.randn(3, generator=generator, dtype=torch.float64)
        moment = z.T @ (design.weights[:, None] * values)

        root = design.weights.sqrt()[:, None]
        share = z.sum(1, keepdim=True) / players
        rest = torch.linalg.lstsq(
            root * (z - share), root * (values - share * difference), driver="gelsd"
        ).solution
        expected = rest - rest.mean(0) + difference / players
        fit = ShapleyRegression(design)
        assert not fit.determined
        found = fit.solve(moment, difference)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)
        assert fit.standard_errors(values, difference, found).isnan().all()

    def test_whether_the_coalitions_determine_the_values(self):
        for players in (5, 20, 49):
            least = shapley_design(players, 2 * players + 6, 1)
            assert least.name == "hadamard" and ShapleyRegression(least).determined
            fewer = shapley_design(players, 2 * players - 2, 1)
            assert not ShapleyRegression(fewer).determined
        # Orthogonal rows: one short of what is needed, and just enough.
        assert not ShapleyRegression(shapley_design(16, 2 * 14 + 2, 1)).determined
        assert ShapleyRegression(shapley_design(16, 2 * 15 + 2, 1)).determined
        # Enough pairs, were they not repeated; rounding alone makes no singular matrix regular.
        for seed in range(30):
            once = shapley_design(49, 2 * 47 + 2, seed, "leverage")
            twice = replace(once, bits=once.bits.repeat(2, 1), weights=once.weights.repeat(2))
            assert not ShapleyRegression(twice).determined

    def test_the_sum_is_exact_beside_a_huge_offset(self):
        game = oracles.of_degree(30, 4, 50, seed=1, offset=1e7)
        phi, _ = fitted(game, shapley_design(30, 150, 1))
        assert phi.sum().item() == pytest.approx(game.difference.item(), abs=1e-12)

    def test_outputs_of_any_shape_share_the_fit(self):
        design = shapley_design(12, 80, 1)
        fit = ShapleyRegression(design)
        values, difference = normal(78, 4, 2, 3), normal(4, 2, 3, seed=1)
        phi = fit.solve(moment(design, values), difference)
        errors = fit.standard_errors(values, difference, phi)
        assert phi.shape == errors.shape == (12, 4, 2, 3)
        for index in itertools.product(range(4), range(2), range(3)):
            one = (slice(None), *index)
            alone = fit.solve(moment(design, values[one]), difference[index])
            assert_close(phi[one], alone)
            assert_close(errors[one], fit.standard_errors(values[one], difference[index], alone))
        none = fit.solve(torch.zeros(12, 0, dtype=torch.float64), torch.zeros(0).double())
        assert none.shape == (12, 0)

    def test_a_common_factor_of_the_weights_does_not_matter(self):
        game = oracles.of_degree(12, 4, 20, seed=1)
        design = shapley_design(12, 80, 1)
        scaled = replace(design, weights=1e-9 * design.weights)
        for a, b in zip(fitted(game, design), fitted(game, scaled), strict=True):
            assert_close(a, b)


class TestStandardErrors:
    @pytest.mark.parametrize("name", ["hadamard", "leverage"])
    def test_is_the_sandwich_with_hc3_residuals(self, name):
        players = 10
        design = shapley_design(players, 70, 2, name)
        game = oracles.of_degree(players, 5, 30, seed=3)
        phi, errors = fitted(game, design)

        z = unpack(design.bits, players)
        values, z = game.value(z), z[::2].double()
        size = z.sum(1, keepdim=True)
        basis = torch.linalg.svd(torch.eye(players).double() - 1 / players).U[:, :-1]
        root = design.weights[::2].sqrt()
        x = root[:, None] * ((z - size / players) @ basis)
        y = (values[::2] - values[1::2]) / 2 - game.difference * (size[:, 0] / players - 0.5)
        e = root * y - x @ basis.T @ phi
        bread = torch.linalg.inv(x.T @ x)
        h = (x @ bread * x).sum(1)
        chance = 0 if design.inclusion is None else design.inclusion[::2]
        meat = x.T @ (x * ((e / (1 - h)) ** 2 * (1 - chance))[:, None])
        covariance = basis @ bread @ meat @ bread @ basis.T
        assert_close(errors, covariance.diagonal().sqrt(), 1e-9)
        assert errors.min() > 0

    def test_blocks_of_rows_add_up(self, monkeypatch):
        game = oracles.of_degree(12, 4, 20, seed=1)
        design = shapley_design(12, 151, 1, "leverage")
        _, expected = fitted(game, design)
        monkeypatch.setattr(surrogate, "_BLOCK", 100)
        assert_close(fitted(game, design)[1], expected)

    def test_values_may_be_of_low_precision(self):
        game = oracles.of_degree(12, 4, 20, seed=1)
        design = shapley_design(12, 100, 1)
        fit = ShapleyRegression(design)
        phi, expected = fitted(game, design)
        values = game.value(unpack(design.bits, 12))
        for dtype, tolerance in [(torch.float32, 1e-5), (torch.bfloat16, 0.1)]:
            found = fit.standard_errors(values.to(dtype), game.difference, phi)
            assert found.dtype == torch.float64
            assert_close(found, expected, tolerance)

    def test_nan_where_the_fit_goes_through_every_value(self):
        # As many pairs as values to find, less one for the sum: nothing is left over.
        design = shapley_design(16, 2 * 15 + 2, 1)
        assert ShapleyRegression(design).determined
        _, errors = fitted(oracles.of_degree(16, 4, 20, seed=1), design)
        assert errors.isnan().all()

    def test_nan_where_repeated_coalitions_do_not_determine_the_values(self):
        z = torch.eye(6, dtype=torch.bool)[[0, 0, 1, 1, 2, 2]]
        bits = pack(torch.stack([z, ~z], 1).flatten(0, 1))
        design = Design("repeated", 6, bits, torch.ones(12, dtype=torch.float64), None)
        _, errors = fitted(oracles.of_degree(6, 4, 20, seed=1), design)
        assert errors.isnan().all()

    @pytest.mark.parametrize("name", ["hadamard", "leverage"])
    @pytest.mark.parametrize("multiple", [5, 10, 20])
    @pytest.mark.parametrize("players", [12, 30])
    def test_intervals_cover(self, players, multiple, name):
        seeds = 60
        covered = 0.0
        for seed in range(seeds):
            if players == 12:
                game = oracles.of_degree(12, 12, 40, seed=seed)
            else:
                row, reference = normal(2, 30, seed=seed)
                centers, c = normal(40, 30, seed=1), normal(40, seed=2)
                game = oracles.gaussian_kernel(row, reference, centers, c, 0.02)
            phi, errors = fitted(game, shapley_design(players, multiple * players, seed, name))
            covered += ((phi - game.shapley).abs() <= 1.96 * errors).double().mean().item()
        # 60 × 12 or 60 × 30 intervals of nominal 95 %.
        assert covered / seeds >= 0.9
        if name == "leverage":
            assert covered / seeds <= 0.99, "far too wide"
