"""How near Lime comes, with so many samples, to the coefficients for endless samples.

``python benchmarks/bench_lime_accuracy.py`` takes about three minutes, writes
results/lime_accuracy.json and prints the tables. The error is |b̂ − b|² / |b|², its mean over games
and seeds. Games are trained models, as in bench_accuracy.py: the input is the coalition, on which
Lime's kernel works. Nothing here depends on the machine's speed.
"""

from __future__ import annotations

import argparse
import json
import platform
import warnings
from collections.abc import Callable, Iterable
from datetime import date
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import games
import numpy as np
import torch
from captum._utils.models.linear_model import SkLearnLasso, SkLearnLinearRegression
from captum.attr import Lime as CaptumLime
from compare import markdown
from torch import Tensor

import fastxai
from fastxai.attr import Lasso, LeastSquares, Lime
from fastxai.core.coalition_bits import all_coalitions, unpack
from fastxai.core.estimate.hadamard import foldover_hadamard
from fastxai.core.estimate.linear_fits import LinearFit, fit_rows
from fastxai.core.estimate.sampling import bernoulli_pairs
from fastxai.core.estimate.similarity import ExpKernel
from tests.oracles import Game

RESULTS = Path(__file__).parent / "results" / "lime_accuracy.json"
BUDGETS = (2, 5, 10, 20)  # samples for each player
TRUTH = 1 << 17  # samples, where there are more coalitions

FAMILIES: dict[str, Callable[[int], list[Game]]] = {
    "MLP, breast cancer": lambda count: games.tumour_mlp(count, truth_samples=1000),
    "CNN, digits, 16 squares": games.digits_cnn,
    "Gaussian kernel, digits, 64 pixels": games.digits_kernel_machine,
}
FITS = {  # ours, and Captum's
    "lasso of 0.01, the default": (Lasso(0.01), partial(SkLearnLasso, alpha=0.01)),
    "least squares": (LeastSquares(), SkLearnLinearRegression),
}


def fastxai_lime(game: Game, fit: str, samples: int, seed: int) -> Tensor:
    row = torch.ones(1, game.players, dtype=torch.float64)
    lime = Lime(lambda x: game.value(x > 0.5), FITS[fit][0])
    return lime.attribute(row, n_samples=samples, seed=seed)[0]


def captum_lime(game: Game, fit: str, samples: int, seed: int) -> Tensor:
    torch.manual_seed(seed)
    row = torch.ones(1, game.players)
    lime = CaptumLime(lambda x: game.value(x > 0.5), FITS[fit][1]())
    found = lime.attribute(row, n_samples=samples, perturbations_per_eval=samples)
    return found[0].double()


def paired_coins(game: Game, fit: str, samples: int, seed: int) -> Tensor:
    return fitted(game, FITS[fit][0], bernoulli_pairs(game.players, samples, seed))


def coins(game: Game, fit: str, samples: int, seed: int) -> Tensor:
    # Of each pair one: these are independent.
    return fitted(game, FITS[fit][0], bernoulli_pairs(game.players, 2 * samples, seed)[::2])


def endless(game: Game, fit: str) -> Tensor:
    if TRUTH >> game.players:
        return fitted(game, FITS[fit][0], all_coalitions(game.players))
    return fitted(game, FITS[fit][0], foldover_hadamard(game.players, TRUTH, seed=1 << 40))


def fitted(game: Game, fit: LinearFit, bits: Tensor) -> Tensor:  # [M]
    """What Lime finds with these coalitions."""
    z = unpack(bits, game.players)
    distance = 1 - (z.sum(1) / game.players).double().sqrt()  # of the cosine to the full one
    values = torch.cat([game.value(part) for part in z.split(1 << 12)])
    return fit_rows(fit, z, ExpKernel().of_distance(distance), values[:, None])[:, 0]


# Name in the tables -> how to estimate, and how often for each game.
COMPETITORS: dict[str, tuple[Callable[[Game, str, int, int], Tensor], int]] = {
    "fastxai": (fastxai_lime, 10),
    "paired coins": (paired_coins, 10),
    "coins": (coins, 10),
    "Captum": (captum_lime, 1),
}


def measure(family: str, rows: int) -> list[dict[str, Any]]:
    """The errors of all competitors at all budgets, with each fit, on the games of a family."""
    played = FAMILIES[family](rows)
    players = played[0].players
    entries = []
    for fit in FITS:
        truths = [endless(game, fit) for game in played]
        for budget, (name, (estimate, seeds)) in product(BUDGETS, COMPETITORS.items()):
            errors = [
                _error(estimate(game, fit, budget * players, 1000 * seed + i), truth)
                for i, (game, truth) in enumerate(zip(played, truths, strict=True))
                for seed in range(seeds)
            ]
            entries.append(
                {
                    "family": family,
                    "players": players,
                    "fit": fit,
                    "budget": budget,
                    "samples": budget * players,
                    "competitor": name,
                    "rows": rows,
                    "seeds": seeds,
                    "mean": float(np.mean(errors)),
                    "median": float(np.median(errors)),
                }
            )
    return entries


def _error(found: Tensor, truth: Tensor) -> float:
    return float((found - truth).square().sum() / truth.square().sum())


def report(run: dict[str, Any]) -> str:
    """A table for each fit: families and budgets by competitors, and how we compare."""
    parts = ["Mean errors; ratios of these."]
    for fit in FITS:
        parts += [f"**{fit}**", _table([e for e in run["entries"] if e["fit"] == fit])]
    versions = ", ".join(f"{name} {number}" for name, number in run["versions"].items())
    return "\n\n".join([*parts, f"{versions}; {run['date']}\n\n    {run['command']}"])


def _table(entries: list[dict[str, Any]]) -> str:
    names = list(COMPETITORS)
    rows = [["", "samples", *names, *(f"fastxai / {name}" for name in names[1:])]]
    errors: dict[tuple[str, int], dict[str, float]] = {}
    for entry in entries:
        errors.setdefault((entry["family"], entry["samples"]), {})[entry["competitor"]] = entry[
            "mean"
        ]
    for (family, samples), of in errors.items():
        cells = [f"{of[name]:.1e}".replace("e-0", "e-") for name in names]
        ratios = [f"{of[names[0]] / of[name]:.2g}" for name in names[1:]]
        rows.append([family, str(samples), *cells, *ratios])
    return markdown(rows)


def run(families: Iterable[str], rows: int) -> dict[str, Any]:
    from conftest import version_or_none

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    packages = ("torch", "captum", "scikit-learn", "numpy")
    return {
        "entries": [entry for family in families for entry in measure(family, rows)],
        "versions": {
            "Python": platform.python_version(),
            "fastxai": fastxai.__version__,
            **{package: version_or_none(package) for package in packages},
        },
        "date": date.today().isoformat(),
        "command": f"python benchmarks/bench_lime_accuracy.py --rows {rows}",
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10, help="games of each family")
    parser.add_argument("--only", nargs="*", default=list(FAMILIES), help="families; no JSON then")
    options = parser.parse_args()
    result = run(options.only, options.rows)
    if options.only == list(FAMILIES):
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(report(result))
