"""The benchmarks' games have the Shapley values they say: counted, with few players."""

from collections.abc import Callable

import pytest
import torch

from benchmarks import games
from tests.oracles import Game, brute_force, every_coalition

PLAYERS = 9
CASES: dict[str, Callable[[], list[Game]]] = {
    "interactions": lambda: games.interactions(2, players=PLAYERS),
    "voting": lambda: games.voting(2, PLAYERS),
    "one who decides": lambda: [games.majority([50, *[1] * (PLAYERS - 1)])],
    "an even number of votes": lambda: [games.majority([2] * PLAYERS + [1, 1])],
    "parity": lambda: games.parity(3, PLAYERS),
    "large teams": lambda: games.large_teams(2, 12),
    "saturated": lambda: games.saturated(1, PLAYERS),
}


@pytest.mark.parametrize("make", CASES.values(), ids=CASES)
def test_shapley_values(make: Callable[[], list[Game]]) -> None:
    for game in make():
        counted = brute_force(game.value(every_coalition(game.players)))
        torch.testing.assert_close(game.shapley, counted)


def test_long_regression_knows_its_error() -> None:
    truths = games.interactions(4, degree=4, players=12)
    for truth, (game, error) in zip(
        truths, games.with_long_regression(truths, samples=400), strict=True
    ):
        off = (game.shapley - truth.shapley).square().sum() / truth.shapley.square().sum()
        assert error / 4 < off < 4 * error
