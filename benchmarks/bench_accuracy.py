"""How near KernelShap comes to the true Shapley values, for so many evaluations of the model.

``python benchmarks/bench_accuracy.py`` takes about a quarter of an hour, writes
results/accuracy.json, prints the tables and draws docs/accuracy.png. The error is |φ̂ − φ|² / |φ|².
Nothing but the times for one game, measured last, depends on the machine's speed.
"""

from __future__ import annotations

import argparse
import json
import platform
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from functools import partial
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import accuracy_report
import numpy as np
import torch
from games import FAMILIES, HARD, photo_squares, with_long_regression
from interleave import Competitor, interleave
from torch import Tensor

import fastxai.shap
from tests.oracles import Game

BUDGETS = (3, 5, 8, 10, 20)  # evaluations for each player
# How many evaluations it takes to come to TARGET is looked up in steps of √2, or 2 where slow.
CALLS = [round(2 ** (k / 2)) for k in range(10, 27)]  # 32 ... 8192
MOST_ACCURATE = 2048  # its work grows with the cube
TARGET = accuracy_report.TARGET
LEAST_ERROR = 1e-5  # where curves may end
CURVES = (
    "boosted trees, corrgroups60",
    "Gaussian kernel, digits",
    "MLP, breast cancer",
    "CNN, digits, 16 squares",
    "interactions of up to 5",
)
PHOTO = "ResNet-18, photograph"
PHOTO_TRUTH = 1 << 15  # evaluations
PHOTO_SEEDS = 3
PHOTO_CALLS = CALLS[:15:2]  # 32, 64, ..., 4096

# Shapley values, and their standard errors from who tells them.
Estimate = tuple[Tensor, Tensor | None]


def ours(game: Game, samples: int, seed: int, tier: str, design: str | None = None) -> Estimate:
    method = fastxai.attr.KernelShap(lambda x: game.value(x > 0.5))
    row = torch.ones(1, game.players, dtype=torch.float64)
    found = method.explain(row, n_samples=samples, design=design, tier=tier, seed=seed)
    return found.values[0], found.standard_errors[0]


def shap(game: Game, samples: int, seed: int, explainers: Any = None, **arguments: Any) -> Estimate:
    """A KernelExplainer: shap's, if explainers are not told, or that of :mod:`fastxai.shap`."""
    from shap import KernelExplainer

    def model(x: np.ndarray) -> np.ndarray:
        return game.value(torch.from_numpy(x) > 0.5).numpy()

    np.random.seed(seed)  # noqa: NPY002
    kind = explainers.KernelExplainer if explainers else KernelExplainer
    explainer = kind(model, np.zeros((1, game.players)))
    # It evaluates the empty and the full coalition besides.
    row = np.ones(game.players)
    phi = explainer.shap_values(row, nsamples=samples - 2, silent=True, **arguments)
    return torch.from_numpy(phi), None


def captum(game: Game, samples: int, seed: int) -> Estimate:
    from captum.attr import KernelShap

    torch.manual_seed(seed)
    row = torch.ones(1, game.players)
    found = KernelShap(lambda x: game.value(x > 0.5)).attribute(
        row, baselines=0 * row, n_samples=samples, perturbations_per_eval=samples
    )
    return found[0].double(), None


# Name in the tables -> how to estimate, and how often for each game.
COMPETITORS: dict[str, tuple[Callable[[Game, int, int], Estimate], int]] = {
    "fastxai accurate": (partial(ours, tier="accurate"), 3),
    "fastxai shared": (partial(ours, tier="shared"), 3),
    "fastxai fast": (partial(ours, tier="fast"), 3),
    "fastxai leverage": (partial(ours, tier="fast", design="leverage"), 3),
    "fastxai.shap": (partial(shap, explainers=fastxai.shap), 1),
    "shap": (partial(shap, l1_reg=False), 1),
    "shap as it comes": (shap, 1),  # which keeps ten features
    "Captum": (captum, 1),
}
NOT_IN_CURVES = {"fastxai shared", "fastxai.shap", "shap as it comes"}
IN_CURVES = [name for name in COMPETITORS if name not in NOT_IN_CURVES]


def measure(family: str, rows: int) -> list[dict[str, Any]]:
    """The errors of all competitors at all budgets on the games of a family."""
    _quiet()
    games = (FAMILIES | HARD)[family](rows)
    players = games[0].players
    entries = []
    for budget in BUDGETS:
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in COMPETITORS}
        # Tiers go one after the other: they share what depends on the seed alone.
        for (i, game), seed in product(enumerate(games), range(3)):
            for name, (estimate, seeds) in COMPETITORS.items():
                if seed < seeds:
                    estimated = estimate(game, budget * players, 1000 * seed + i)
                    found[name].append((_error(game, estimated), _covered(game, estimated)))
        for name, numbers in found.items():
            errors, covered = np.array(numbers).T
            entries.append(
                {
                    "family": family,
                    "players": players,
                    "budget": budget,
                    "samples": budget * players,
                    "competitor": name,
                    "rows": rows,
                    "seeds": COMPETITORS[name][1],
                    "median": float(np.median(errors)),
                    "mean": float(np.mean(errors)),
                    "worst_decile": float(np.quantile(errors, 0.9)),
                    "coverage": None if np.isnan(covered).all() else float(np.nanmean(covered)),
                    "errors_known": float(np.isfinite(covered).mean()),
                }
            )
    return entries


def _error(game: Game, estimated: Estimate) -> float:
    return float((estimated[0] - game.shapley).square().sum() / game.shapley.square().sum())


def _covered(game: Game, estimated: Estimate) -> float:
    """The share of players whose values are within the nominal 95 % interval; NaN for no errors."""
    phi, errors = estimated
    if errors is None or not errors.isfinite().all():
        return np.nan
    # What is exact is so but for rounding.
    return float(((phi - game.shapley).abs() <= 1.96 * errors + 1e-12).double().mean())


def curves(family: str, rows: int) -> list[dict[str, Any]]:
    """The median error of everyone for ever more evaluations."""
    _quiet()
    games = FAMILIES[family](rows)
    return [_curve(family, name, games, CALLS, 1, LEAST_ERROR) for name in IN_CURVES]


def photo_curves() -> list[dict[str, Any]]:
    """The same on one photograph, up to the target; the truth is estimated too."""
    _quiet()
    ((game, truth_error),) = with_long_regression([photo_squares()], PHOTO_TRUTH)
    found = [_curve(PHOTO, name, [game], PHOTO_CALLS, PHOTO_SEEDS, TARGET) for name in IN_CURVES]
    return [{**curve, "truth_error": truth_error} for curve in found]


def _curve(
    family: str, name: str, games: list[Game], grid: list[int], seeds: int, least: float
) -> dict[str, Any]:
    estimate, players = COMPETITORS[name][0], games[0].players
    most = MOST_ACCURATE if name == "fastxai accurate" else grid[-1]
    calls: list[int] = []
    medians: list[float] = []
    for n in grid:
        if n < 2 * players + 6 or n > most or (medians and medians[-1] <= least):
            continue
        errors = [
            _error(game, estimate(game, n, 1000 * seed + i))
            for (i, game), seed in product(enumerate(games), range(seeds))
        ]
        calls.append(n)
        medians.append(float(np.median(errors)))
    return {
        "family": family,
        "players": players,
        "competitor": name,
        "rows": len(games),
        "seeds": seeds,
        "calls": calls,
        "medians": medians,
    }


def photo_seconds(found: list[dict[str, Any]], rounds: int = 3) -> dict[str, float]:
    """The time everyone takes for the evaluations they need on the photograph, or for the most."""
    game = photo_squares()

    def competitor(curve: dict[str, Any]) -> Competitor:
        name = curve["competitor"]
        estimate = COMPETITORS[name][0]
        return Competitor(name, lambda: estimate(game, curve["calls"][-1], 0)[0])

    seconds = interleave([competitor(curve) for curve in found], rounds, Random(0))
    return {name: float(np.median(times)) for name, times in seconds.items()}


def _quiet() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")


def run(rows: int, processes: int) -> dict[str, Any]:
    from conftest import version_or_none

    packages = ("torch", "captum", "shap", "scikit-learn", "numpy")
    few = min(rows, 6)
    with ProcessPoolExecutor(processes) as pool:  # the longest first
        photo = pool.submit(photo_curves)
        errors = [pool.submit(measure, family, rows) for family in reversed(FAMILIES | HARD)]
        lines = [pool.submit(curves, family, few) for family in CURVES]
        entries = [entry for future in reversed(errors) for entry in future.result()]
        found = [curve for future in [*lines, photo] for curve in future.result()]
    warnings.simplefilter("ignore")
    return {
        "entries": entries,
        "curves": found,
        "seconds": photo_seconds(photo.result()),
        "threads": torch.get_num_threads(),
        "versions": {
            "Python": platform.python_version(),
            "fastxai": fastxai.__version__,
            **{package: version_or_none(package) for package in packages},
        },
        "date": date.today().isoformat(),
        "command": f"python benchmarks/bench_accuracy.py --rows {rows}",
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=30, help="games of each family")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path, default=accuracy_report.RESULTS)
    options = parser.parse_args()
    result = run(options.rows, options.processes)
    options.json.write_text(json.dumps(result, indent=1) + "\n")
    print(accuracy_report.report(result))
    accuracy_report.draw(result)
