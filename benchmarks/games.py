"""Games with known Shapley values: predictions of trained models, and functions of coalitions.

Each family is a list of games, one for each row that is explained, with one number of players. What
is absent has the mean of the training rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from fastxai.core.coalition_bits import unpack
from fastxai.core.estimate.designs import shapley_design
from fastxai.core.estimate.shapley_regression import ShapleyRegression
from tests import oracles
from tests.oracles import Game

Predict = Callable[[Tensor], Tensor]  # rows [N, F] -> [N]


def of_row(predict: Predict, row: Tensor, baseline: Tensor, shapley: Tensor) -> Game:
    """The prediction for a row [M] in which what is absent has the baseline's value."""
    return Game(lambda z: predict(torch.where(z, row, baseline)).double(), shapley)


def boosted_trees(dataset: str, count: int) -> list[Game]:
    """Gradient boosting on one of shap's data sets. Truth: interventional TreeSHAP.

    It is for the one reference row that the games have, and exact.
    """
    import shap
    from sklearn.ensemble import GradientBoostingRegressor

    x, y = getattr(shap.datasets, dataset)()
    x = np.asarray(x, dtype=np.float64)
    # The trees compare in float32: with all numbers rounded to it beforehand, TreeSHAP agrees.
    x = x.astype(np.float32).astype(np.float64)
    model = GradientBoostingRegressor(random_state=0, n_estimators=200, max_depth=4).fit(x, y)
    mean = x.mean(0, keepdims=True).astype(np.float32).astype(np.float64)
    explainer = shap.TreeExplainer(model, data=mean, feature_perturbation="interventional")
    rows = x[_some(len(x), count)]
    truth = torch.from_numpy(explainer.shap_values(rows))
    predict = lambda z: torch.from_numpy(model.predict(z.numpy()))  # noqa: E731
    baseline = torch.from_numpy(mean[0])
    return [
        of_row(predict, row, baseline, phi)
        for row, phi in zip(torch.from_numpy(rows), truth, strict=True)
    ]


def digits_kernel_machine(count: int) -> list[Game]:
    """A support vector machine that reads the number off an 8x8 digit. Truth: closed form."""
    from sklearn.datasets import load_digits
    from sklearn.svm import SVR

    x, y = load_digits(return_X_y=True)
    x, gamma = x / 16, 0.02
    model = SVR(gamma=gamma, C=10).fit(x, y)
    centers, weights = map(torch.from_numpy, (model.support_vectors_, model.dual_coef_[0]))
    baseline = torch.from_numpy(x.mean(0))
    rows = torch.from_numpy(x[_some(len(x), count)])
    return [oracles.gaussian_kernel(row, baseline, centers, weights, gamma) for row in rows]


def tumour_mlp(count: int, truth_samples: int = 1 << 19) -> list[Game]:
    """The logit of an MLP on breast cancer's 30 measurements.

    2^30 coalitions cannot be counted. Truth: a regression with half a million samples, whose own
    error, 2e-6, is hundreds of times below anyone's here.
    """
    from sklearn.datasets import load_breast_cancer

    x, y = load_breast_cancer(return_X_y=True)
    x = (x - x.mean(0)) / x.std(0)
    x, y = torch.from_numpy(x).float(), torch.from_numpy(y)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(30, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2)
    )
    _train(model, x, y, steps=200)
    predict = _logit(model)
    games = [of_row(predict, row, x.mean(0), torch.zeros(30)) for row in x[_some(len(x), count)]]

    return [game for game, _ in with_long_regression(games, truth_samples)]


def with_long_regression(games: list[Game], samples: int) -> list[tuple[Game, float]]:
    """The games with truths by a regression on so many samples of the leverage design.

    Beside each the truth's own error, Σ σ² / |φ|², by its standard errors σ.
    """
    # Of a seed that nobody takes whose error is measured: coalitions in common would hide it.
    design = shapley_design(games[0].players, samples, 1 << 40, "leverage")
    fit, z = ShapleyRegression(design), unpack(design.bits, design.players)
    moment_of = (design.weights[:, None] * z).T  # [M, N]

    def solved(game: Game) -> tuple[Game, float]:
        values, difference = game.value(z), game.difference
        phi = fit.solve(moment_of @ values, difference)
        errors = fit.standard_errors(values[:, None], difference[None], phi[:, None])
        return replace(game, shapley=phi), float(errors.square().sum() / phi.square().sum())

    return [solved(game) for game in games]


def digits_cnn(count: int) -> list[Game]:
    """The logit of a CNN on 8x8 digits; players are 16 squares of 2x2 pixels. Truth: counted."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x, y = torch.from_numpy(x).float().view(-1, 1, 8, 8) / 16, torch.from_numpy(y)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, 10),
    )
    _train(model, x, y, steps=150)
    squares = torch.arange(16).view(4, 4).repeat_interleave(2, 0).repeat_interleave(2, 1)
    mean = x.mean(0)

    def game(row: Tensor) -> Game:
        logit = _logit(model, int(model(row[None]).argmax()))
        value = lambda z: logit(torch.where(z[:, None, squares], row, mean)).double()  # noqa: E731
        everyone = oracles.every_coalition(16)
        return Game(value, oracles.brute_force(value(everyone)))

    return [game(row) for row in x[_some(len(x), count)]]


def interactions(count: int, degree: int = 5, players: int = 30) -> list[Game]:
    """Random teams of up to ``degree`` players. Truth: closed form."""
    return [oracles.of_degree(players, degree, 2 * players, seed) for seed in range(count)]


def noisy(count: int, players: int = 30) -> list[Game]:
    """Interactions of up to three players, and noise that is not in the truth."""
    return [with_noise(game, seed) for seed, game in enumerate(interactions(count, 3, players))]


def with_noise(game: Game, seed: int, part: float = 0.2) -> Game:
    """Adds a normal random number to each coalition, always the same to the same one.

    Its standard deviation is a part of that of the game's values. None for the empty and the full
    coalition, whose difference every method returns as it is.
    """
    rng = np.random.default_rng(seed)
    coalitions = torch.from_numpy(rng.random((1000, game.players)) < 0.5)
    deviation = part * game.value(coalitions).std()
    factors = torch.from_numpy(rng.integers(1, 1 << 62, game.players) | 1)

    def value(z: Tensor) -> Tensor:
        hashed = (z * factors).sum(1)  # wraps around, and so do the products
        for shift in (30, 27, 31):  # after SplitMix64 (Steele, Lea, Flood 2014)
            hashed = (hashed ^ (hashed >> shift)) * -4658895280553007687
        uniform = ((hashed >> 11 & (1 << 53) - 1).double() + 0.5) / (1 << 53)
        size = z.sum(1)
        is_noisy = (size > 0) & (size < game.players)
        return game.value(z) + deviation * torch.where(is_noisy, torch.special.ndtri(uniform), 0)

    return Game(value, game.shapley)


def voting(count: int, players: int = 30) -> list[Game]:
    """Members of random weights vote, and half of the weight decides."""
    draws = [np.random.default_rng(seed).integers(1, 20, players) for seed in range(count)]
    return [majority(weights.tolist()) for weights in draws]


def majority(weights: list[int]) -> Game:
    """1 for more than half of the weight. Truth: coalitions counted by their size and weight.

    φ_i is the chance that i decides: that those before i in a random order fall short by no more
    than its weight.
    """
    players, quota = len(weights), sum(weights) // 2
    phi = []
    for i, weight in enumerate(weights):
        count = np.zeros((players, sum(weights) + 1))  # of the others, by size and weight
        count[0, 0] = 1
        for other in weights[:i] + weights[i + 1 :]:
            count[1:, other:] += count[:-1, :-other]
        decided = count[:, max(0, quota + 1 - weight) : quota + 1].sum(1)
        phi.append(sum(n / math.comb(players - 1, s) for s, n in enumerate(decided)) / players)
    weight_of = torch.tensor(weights)
    return Game(
        lambda z: ((z * weight_of).sum(1) > quota).double(), torch.tensor(phi, dtype=torch.float64)
    )


def parity(count: int, players: int = 30) -> list[Game]:
    """Interactions of up to three, and three large teams of which only the parity counts."""
    return [with_parities(game, seed) for seed, game in enumerate(interactions(count, 3, players))]


def with_parities(game: Game, seed: int, teams: int = 3) -> Game:
    """Adds a (−1)^|z ∩ T| for each of some teams T of at least six.

    Its members share the difference a ((−1)^|T| − 1) alike.
    """
    rng = np.random.default_rng(seed)
    member = torch.zeros(teams, game.players, dtype=torch.float64)
    for row in member:
        row[rng.choice(game.players, rng.integers(6, game.players), replace=False)] = 1
    amplitude = torch.from_numpy(rng.normal(size=teams) / 2)

    def sign(z: Tensor) -> Tensor:  # [N, M] -> [N, T]
        return 1 - 2 * (z.double() @ member.T % 2)

    size = member.sum(1)
    shares = -2 * amplitude * (size % 2) / size
    return Game(lambda z: game.value(z) + sign(z) @ amplitude, game.shapley + shares @ member)


def large_teams(count: int, players: int = 30, teams: int = 40) -> list[Game]:
    """Random teams of 2 to 11 players, each of use only when complete. Truth: closed form."""

    def game(seed: int) -> Game:
        rng = np.random.default_rng(seed)
        chosen = [
            rng.choice(players, int(rng.integers(2, 12)), replace=False).tolist()
            for _ in range(teams)
        ]
        return oracles.unanimity(players, chosen, torch.from_numpy(rng.normal(size=teams)))

    return [game(seed) for seed in range(count)]


def saturated(count: int, players: int = 14) -> list[Game]:
    """Interactions of up to three, through a steep sigmoid. Truth: counted."""
    everyone = oracles.every_coalition(players)
    inner = interactions(count, 3, players)
    return [oracles.table(torch.sigmoid(3 * game.value(everyone))) for game in inner]


def photo_squares(size: int = 56, squares: int = 7) -> Game:
    """A logit of ResNet-18 on a photograph in 49 squares, those that are absent blurred.

    The weights are random, as there are none to download. The truth is not known.
    """
    import models
    from sklearn.datasets import load_sample_image

    resize = nn.functional.interpolate
    pixels = torch.from_numpy(load_sample_image("china.jpg").copy()).float()  # [427, 640, 3]
    square = pixels[:, 106 : 106 + 427].movedim(2, 0)[None] / 255
    image = (resize(square, size=(size, size), mode="area") - 0.45) / 0.225
    blurred = resize(resize(image, size=(4, 4), mode="area"), size=(size, size), mode="bilinear")
    torch.manual_seed(0)
    model = models.ResNet18().eval().requires_grad_(False)
    logit = _logit(model, int(model(image).argmax()))
    tiles = models.tiles(size, size // squares)

    def value(z: Tensor) -> Tensor:
        parts = z.split(128)  # the rows of all coalitions would be large
        return torch.cat(
            [logit(torch.where(part[:, None, tiles], image, blurred)) for part in parts]
        )

    return Game(lambda z: value(z).double(), torch.zeros(squares**2, dtype=torch.float64))


FAMILIES: dict[str, Callable[[int], list[Game]]] = {
    "boosted trees, diabetes": lambda count: boosted_trees("diabetes", count),
    "boosted trees, corrgroups60": lambda count: boosted_trees("corrgroups60", count),
    "boosted trees, independentlinear60": lambda count: boosted_trees("independentlinear60", count),
    "Gaussian kernel, digits": digits_kernel_machine,
    "MLP, breast cancer": tumour_mlp,
    "CNN, digits, 16 squares": digits_cnn,
    "interactions of up to 5": interactions,
    "interactions of up to 3, noise": noisy,
}
# What a surrogate of few interactions could be led astray by, beside the noise above.
HARD: dict[str, Callable[[int], list[Game]]] = {
    "voting": voting,
    "parity": parity,
    "unanimity of up to 11": large_teams,
    "saturated": saturated,
}


def _some(rows: int, count: int) -> np.ndarray:
    return np.random.default_rng(0).choice(rows, count, replace=False)


def _train(model: nn.Module, x: Tensor, y: Tensor, steps: int) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    model.requires_grad_(False)


def _logit(model: nn.Module, output: int = 1) -> Predict:
    """One output, the rows taken in blocks."""
    return lambda x: torch.cat([model(part)[:, output] for part in x.split(1 << 14)])
