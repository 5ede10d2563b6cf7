"""Kriging against a Gaussian process written out over all interactions of three players."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from fastxai import ops
from fastxai.core.coalition_bits import pack, unpack
from fastxai.core.estimate import kriging
from fastxai.core.estimate.designs import Design, kriging_design, shapley_design
from fastxai.core.estimate.kriging import Kriging
from fastxai.core.estimate.shapley_regression import ShapleyRegression
from tests import oracles
from tests.oracles import Game

BOTH = pytest.mark.parametrize("own_scales", [False, True], ids=["shared", "accurate"])


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def solved(games: list[Game], design: Design, own_scales: bool) -> tuple[Tensor, Tensor]:
    """Shapley values and standard errors, [K, M] each."""
    z = unpack(design.bits, design.players)
    everyone = torch.ones(1, design.players, dtype=torch.bool)
    values, empty, full = (
        torch.stack([game.value(x) for game in games], 1) for x in (z, ~everyone, everyone)
    )
    phi, errors = Kriging(design).solve(values, empty[0], full[0], own_scales, True)
    assert errors is not None
    return phi.T, errors.T


def pairwise(players: int, seed: int) -> Game:
    pairs = normal(players, players, seed=seed + 1000) * (1 - torch.eye(players))
    return oracles.second_order(normal(players, seed=seed), pairs)


class WrittenOut:
    """f(x) = xᵀβ + Σ_S c_S Π_{i ∈ S} x_i over all S of three players, c_S ~ N(0, λ Π ρ_i / unit).

    Values have noise of variance 1 / w, all of it times an unknown factor; β is free but for
    f(1) = Δ / 2.
    """

    def __init__(self, design: Design, weights: Tensor, scales: Tensor, strength: float):
        players = design.players
        x = 2 * unpack(design.bits[::2], players).double() - 1
        self.mean = x.mean(1)
        self.teams = list(itertools.combinations(range(players), 3))
        of_teams = torch.stack([x[:, list(team)].prod(1) for team in self.teams], 1)
        self.prior = torch.stack([scales[list(team)].prod() for team in self.teams])
        self.z = of_teams - self.mean[:, None]
        self.contrasts = kriging._contrasts(players, x.device)
        self.x = (x - self.mean[:, None]) @ self.contrasts
        alone = (self.z * self.prior) @ self.z.T
        self.prior = self.prior * strength / (weights * alone.diagonal()).mean()
        self.precision = torch.linalg.inv((self.z * self.prior) @ self.z.T + (1 / weights).diag())

    def solve(self, odd: Tensor, difference: Tensor) -> tuple[Tensor, Tensor]:
        """The posterior mean of the Shapley values, and the restricted log likelihood."""
        y = odd - self.mean * difference / 2
        normal = self.x.T @ self.precision @ self.x
        gamma = torch.linalg.solve(normal, self.x.T @ self.precision @ y)
        left = self.precision @ (y - self.x @ gamma)
        c = self.prior * (self.z.T @ left)
        players = len(self.contrasts)
        beta = self.contrasts @ gamma + (difference / 2 - c.sum()) / players
        phi = 2 * beta
        for team, worth in zip(self.teams, c, strict=True):
            phi[list(team)] += 2 / 3 * worth
        free = len(y) - players + 1
        logs = normal.logdet() - self.precision.logdet() + free * (y @ left / free).log()
        return phi, -logs / 2


@pytest.mark.parametrize("name", ["hadamard", "mixed", "leverage"])
def test_equals_the_process_written_out(name, monkeypatch):
    strengths = (0.0, 3.0, 200.0)
    monkeypatch.setattr(kriging, "_STRENGTHS", strengths)
    game, design = oracles.of_degree(9, 5, 20, seed=4), shapley_design(9, 60, 2, name)
    values = game.value(unpack(design.bits, 9))
    odd = (values[::2] - values[1::2]) / 2
    weights = design.weights[::2]
    noises = [weights] if name == "leverage" else [weights, torch.ones_like(weights)]
    scales = torch.full((9,), 1 / 3, dtype=torch.float64)
    candidates = [
        WrittenOut(design, w, scales, strength).solve(odd, game.difference)
        for w in noises
        for strength in strengths
    ]
    phi, logs = (torch.stack(found) for found in zip(*candidates, strict=True))
    torch.testing.assert_close(solved([game], design, False)[0][0], logs.softmax(0) @ phi)


def test_own_scales_are_those_of_the_process_written_out(monkeypatch):
    """The players of a game with few interactions, told from it."""
    strengths = (0.0, 3.0, 200.0)
    monkeypatch.setattr(kriging, "_STRENGTHS", strengths)
    scales = torch.linspace(1, 3, 9, dtype=torch.float64)
    scales = scales / scales.norm()
    monkeypatch.setattr(Kriging, "_own_scales", lambda *_: scales[None])
    game, design = oracles.of_degree(9, 5, 20, seed=4), shapley_design(9, 60, 2, "hadamard")
    values = game.value(unpack(design.bits, 9))
    odd = (values[::2] - values[1::2]) / 2
    weights = design.weights[::2]
    candidates = [
        WrittenOut(design, w, rho, strength).solve(odd, game.difference)
        for rho in (torch.full_like(scales, 1 / 3), scales)
        for w in (weights, torch.ones_like(weights))
        for strength in strengths
    ]
    phi, logs = (torch.stack(found) for found in zip(*candidates, strict=True))
    torch.testing.assert_close(solved([game], design, True)[0][0], logs.softmax(0) @ phi)


@pytest.mark.parametrize("noise", ["by weight", "alike"])
def test_errors_are_the_sandwich_with_residuals_without_the_pair(noise, monkeypatch):
    """With one process of one strength φ is linear in the values."""
    monkeypatch.setattr(kriging, "_STRENGTHS", (20.0,))
    design = shapley_design(9, 60, 2, "leverage" if noise == "by weight" else "hadamard")
    fit, weights = Kriging(design), design.weights[::2]
    if noise == "alike":
        weights = torch.ones_like(weights)
        fit._regressions, fit._common = fit._regressions[1:], fit._common[1:]
    values, zero = normal(len(design.bits), 1), torch.zeros(1, dtype=torch.float64)
    _, errors = fit.solve(values, zero, zero, False, True)
    pairs = len(values) // 2
    one_each = torch.eye(pairs, dtype=torch.float64).repeat_interleave(2, 0)
    one_each[1::2] *= -1
    moves, _ = fit.solve(one_each, zero.expand(pairs), zero.expand(pairs), False, False)  # [M, p]

    written = WrittenOut(design, weights, torch.full((9,), 1 / 3, dtype=torch.float64), 20.0)
    precise_x = written.precision @ written.x
    normal_equations = written.x.T @ precise_x
    hat = written.precision - precise_x @ torch.linalg.solve(normal_equations, precise_x.T)
    y = (values[::2, 0] - values[1::2, 0]) / 2
    left_out = hat @ y / hat.diagonal()
    assert errors is not None
    torch.testing.assert_close(errors[:, 0], (moves * left_out).square().sum(1).sqrt())


class TestScales:
    def test_sizes_of_interactions_of_two_are_found_in_the_even_part(self):
        sizes = torch.linspace(0.05, 2, 20, dtype=torch.float64)[normal(20, seed=5).argsort()]
        pairs = normal(20, 20).sign() * sizes[:, None] * sizes * (1 - torch.eye(20))
        of_pairs, design = oracles.second_order(normal(20), pairs), kriging_design(20, 300, 1)
        game = Game(lambda z: of_pairs.value(z) + 7, of_pairs.shapley)
        values = game.value(unpack(design.bits, 20))
        ends = game.value(torch.ones(2, 20, dtype=torch.bool) & torch.tensor([[True], [False]]))
        even = ((values[::2] + values[1::2]) / 2 - ends.mean())[None]
        alike = torch.full((1, 20), 20**-0.5, dtype=torch.float64)
        found = Kriging(design)._pair_sizes(alike, even)[0]
        true = (pairs + pairs.T).square().sum(1).sqrt()
        # f = Σ B z z' is Σ (B + Bᵀ) x x' / 4 over both orders of each pair.
        torch.testing.assert_close(found, true / 4, rtol=0.25, atol=0.2 * float(true.max() / 4))
        assert torch.corrcoef(torch.stack([found, true]))[0, 1] > 0.95

    def test_they_are_of_values_and_of_interactions(self, monkeypatch):
        design = kriging_design(5, 24, 1)
        sizes = torch.tensor([[1.0, 0, 4, 2, 2]]).double()
        monkeypatch.setattr(Kriging, "_pair_sizes", lambda *_: sizes)
        phi = torch.tensor([[3.0, -3, 0, 1, -2]]).double()
        fit, even = Kriging(design), torch.zeros(1, len(design.bits) // 2).double()
        own = phi.abs() / 3 + 1e-3
        for none, expected in [(False, own * (sizes / 4 + 1e-3)), (True, own)]:
            found = fit._own_scales(phi, even, torch.tensor([none]))
            torch.testing.assert_close(found, expected.sqrt() / expected.sqrt().norm())


class TestExact:
    @BOTH
    @pytest.mark.parametrize("players", [5, 12, 31, 32, 33, 64])
    @pytest.mark.parametrize("per_player", [3, 5, 10])
    def test_linear_and_pairwise_games(self, players, per_player, own_scales):
        design = kriging_design(players, max(2 * players + 6, per_player * players), 1)
        if design.name == "enumeration":
            return
        weights = normal(players)
        games = [Game(lambda z: z.double() @ weights + 5, weights), pairwise(players, 1)]
        phi, errors = solved(games, design, own_scales)
        for found, error, game in zip(phi, errors, games, strict=True):
            torch.testing.assert_close(found, game.shapley, atol=1e-12 * players, rtol=1e-12)
            assert error.max() < 1e-10 * players

    @BOTH
    @pytest.mark.parametrize("players", [4, 7, 10])
    def test_any_game_of_all_coalitions(self, players, own_scales):
        games = [oracles.table(normal(2**players, seed=seed)) for seed in range(3)]
        phi, _ = solved(games, shapley_design(players, 2**players, 0), own_scales)
        torch.testing.assert_close(phi, torch.stack([game.shapley for game in games]))

    @BOTH
    @pytest.mark.parametrize("players", [6, 7, 8])
    def test_interactions_of_three_with_all_players_alone_and_all_halves(self, players, own_scales):
        coalitions = oracles.every_coalition(players)
        sizes = coalitions.sum(1)
        chosen = coalitions[(sizes == 1) | (sizes == players // 2)]
        if players % 2 == 0:
            chosen = chosen[(chosen.sum(1) == 1) | chosen[:, 0]]
        both = torch.stack([chosen, ~chosen], 1).flatten(0, 1)
        size = both.sum(1).double()
        # Simpson's rule: the mean square distance from half the players as over all sizes.
        far, near = (players / 2 - 1) ** 2, (players / 2 - players // 2) ** 2
        middle = (far - players * (players - 2) / 12) / (far - near)
        ends = ((size == 1) | (size == players - 1)).double()
        share = ends * (1 - middle) / ends.sum() + (1 - ends) * middle / (1 - ends).sum()
        weights = share / (size * (players - size))
        design = Design("all", players, pack(both), weights / weights.mean(), torch.ones_like(size))
        games = [oracles.of_degree(players, 3, 10, seed) for seed in range(3)]
        phi, _ = solved(games, design, own_scales)
        torch.testing.assert_close(phi, torch.stack([game.shapley for game in games]))

    @BOTH
    @pytest.mark.parametrize("players", [11, 30, 63, 150])
    def test_values_add_up(self, players, own_scales):
        games = [oracles.of_degree(players, 6, 2 * players, seed, offset=9.0) for seed in range(2)]
        for name in ("hadamard", "mixed", "leverage"):
            phi, errors = solved(games, shapley_design(players, 3 * players, 3, name), own_scales)
            assert (phi - torch.stack([g.shapley for g in games])).abs().max() > 1e-3
            differences = torch.stack([game.difference for game in games])
            torch.testing.assert_close(phi.sum(1), differences)
            assert errors.isfinite().all() and errors.min() > 0


class TestOddGames:
    @BOTH
    @pytest.mark.parametrize("offset", [0.0, 1e6])
    def test_nothing_and_games_of_one_parity_are_finite(self, own_scales, offset):
        x = lambda z: 2 * z.double() - 1  # noqa: E731
        even = Game(lambda z: (x(z)[:, :4].prod(1) + x(z)[:, 4] ** 2) + offset, torch.zeros(14))
        odd = Game(lambda z: x(z)[:, :3].prod(1) + offset, torch.zeros(14))
        nothing = Game(lambda z: torch.full((len(z),), offset).double(), torch.zeros(14))
        for name in ("hadamard", "mixed", "leverage"):
            design = shapley_design(14, 90, 3, name)
            phi, errors = solved([even, odd, nothing], design, own_scales)
            assert phi.isfinite().all() and errors.isfinite().all()
            assert phi[[0, 2]].abs().max() < 1e-9 * max(1, offset)

    @BOTH
    def test_scale_does_not_matter(self, own_scales):
        game, design = oracles.of_degree(14, 4, 30, seed=2), shapley_design(14, 90, 3, "mixed")
        phi, errors = solved([game], design, own_scales)
        for factor in (1e-30, 1e-8, 1e12):
            scaled = Game(lambda z, c=factor: c * game.value(z), game.shapley)
            again, those = solved([scaled], design, own_scales)
            torch.testing.assert_close(again, factor * phi, rtol=1e-9, atol=0)
            torch.testing.assert_close(those, factor * errors, rtol=1e-9, atol=0)

    @BOTH
    def test_what_all_values_have_in_common_does_not_matter(self, own_scales):
        game, design = oracles.of_degree(14, 4, 30, seed=2), shapley_design(14, 90, 3, "mixed")
        moved = Game(lambda z: game.value(z) + 50, game.shapley)
        one, other = (solved([g], design, own_scales) for g in (game, moved))
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)

    @BOTH
    def test_infinite_values_leave_other_games_alone(self, own_scales):
        game, design = oracles.of_degree(14, 4, 30, seed=2), shapley_design(14, 90, 3, "mixed")
        infinite = Game(lambda z: torch.where(z[:, 0], math.inf, game.value(z)), game.shapley)
        alone = solved([game], design, own_scales)
        phi, errors = solved([infinite, game], design, own_scales)
        assert not phi[0].isfinite().any()
        torch.testing.assert_close((phi[1:], errors[1:]), alone)

    @BOTH
    def test_single_precision(self, own_scales):
        games = [oracles.of_degree(20, 4, 40, seed, offset=1.0) for seed in range(6)]
        rounded = [Game(lambda z, g=g: g.value(z).float().double(), g.shapley) for g in games]
        design = kriging_design(20, 160, 1)
        exact, rough = (solved(some, design, own_scales)[0] for some in (games, rounded))
        assert (exact - rough).abs().max() < 1e-4 * exact.abs().max()


@BOTH
def test_games_in_blocks(own_scales, monkeypatch):
    games = [oracles.of_degree(12, 4, 30, seed) for seed in range(7)]
    design = kriging_design(12, 90, 1)
    together = solved(games, design, own_scales)
    for size in (1, 3 * 44 * 44):
        monkeypatch.setattr(kriging, "_BLOCK", size)
        torch.testing.assert_close(solved(games, design, own_scales), together)


def smooth(players: int, seed: int) -> Game:
    centers, c = normal(60, players, seed=1), normal(60, seed=2)
    rows = normal(players, seed=10 + seed), normal(players, seed=9)
    return oracles.gaussian_kernel(*rows, centers, c, 0.02)


def of_a_third(players: int, seed: int) -> Game:
    """Interactions of three, in which only every third player takes part."""
    game = oracles.of_degree(players // 3, 3, 4 * players // 3, seed)
    phi = torch.zeros(players, dtype=torch.float64)
    phi[::3] = game.shapley
    return Game(lambda z: game.value(z[:, ::3]), phi)


def saturated(players: int, seed: int) -> Game:
    logits = oracles.of_degree(12, 3, 24, seed)
    return oracles.table(torch.sigmoid(3 * logits.value(oracles.every_coalition(12))))


def large_teams(players: int, seed: int) -> Game:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, 12, size=40)
    teams = [rng.choice(players, size, replace=False).tolist() for size in sizes]
    return oracles.unanimity(players, teams, normal(40, seed=seed))


@pytest.mark.thin("per_player")
@pytest.mark.library
@pytest.mark.parametrize(
    ("family", "shared", "accurate"),
    [(smooth, 0.5, 0.4), (of_a_third, 0.8, 0.35), (saturated, 1.0, 0.9), (large_teams, 0.6, 0.6)],
)
@pytest.mark.parametrize("per_player", [5, 10, 20])
def test_squared_errors_beside_those_of_leverage(family, per_player, shared, accurate):
    players = 12 if family is saturated else 30
    n, errors = per_player * players, []
    for seed in range(16):
        game, leverage = family(players, seed), shapley_design(players, n, seed, "leverage")
        fit = ShapleyRegression(leverage)
        y = game.value(unpack(leverage.bits, players))[:, None]
        moment = ops.coalition_rhs(leverage.bits, players, leverage.weights, y)
        design = kriging_design(players, n, seed)
        found = [solved([game], design, own_scales)[0][0] for own_scales in (False, True)]
        found.append(fit.solve(moment[:, 0], game.difference))
        errors.append([(phi - game.shapley).square().sum() for phi in found])
    median = np.median(np.array(errors), 0)
    assert median[0] <= shared * median[2] and median[1] <= accurate * median[2]


@pytest.mark.library
@BOTH
@pytest.mark.parametrize("per_player", [5, 10])
def test_intervals_cover(per_player, own_scales):
    centers, c = normal(60, 20, seed=1), normal(60, seed=2)
    games = {
        "smooth": [
            oracles.gaussian_kernel(normal(20, seed=seed), normal(20, seed=99), centers, c, 0.05)
            for seed in range(10, 40)
        ],
        "interactions of up to 6": [oracles.of_degree(20, 6, 60, seed) for seed in range(30)],
    }
    for name, family in games.items():
        inside = []
        for seed, game in enumerate(family):
            phi, errors = solved([game], kriging_design(20, per_player * 20, seed), own_scales)
            inside.append((phi[0] - game.shapley).abs() <= 1.96 * errors[0])
        assert torch.cat(inside).double().mean() >= 0.93, name


@pytest.mark.cuda
def test_on_cuda_as_on_the_cpu():
    game, design = oracles.of_degree(20, 4, 40, seed=0), kriging_design(20, 160, 1)
    values = game.value(unpack(design.bits, 20))[:, None]
    ends = torch.zeros(1, dtype=torch.float64), game.difference[None]
    device = torch.device("cuda")
    expected = Kriging(design).solve(values, *ends, True, True)
    moved = (part.to(device) for part in (values, *ends))
    found = Kriging(design, device).solve(*moved, True, True)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.cpu(), other)
