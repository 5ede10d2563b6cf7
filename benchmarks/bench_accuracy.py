"""How near KernelShap comes to the true Shapley values, for so many evaluations of the model.

``python benchmarks/bench_accuracy.py`` takes about ten minutes, writes results/accuracy.json and
prints the tables. The error is |φ̂ − φ|² / |φ|². Nothing here depends on the machine's speed.
"""

from __future__ import annotations

import argparse
import json
import platform
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from compare import markdown
from games import FAMILIES
from torch import Tensor

import fastxai
from tests.oracles import Game

RESULTS = Path(__file__).parent / "results" / "accuracy.json"
BUDGETS = (3, 5, 8, 10, 20)  # evaluations for each player


def fastxai_default(game: Game, samples: int, seed: int) -> Tensor:
    return _kernel_shap(game, samples, seed, None)


def fastxai_leverage(game: Game, samples: int, seed: int) -> Tensor:
    return _kernel_shap(game, samples, seed, "leverage")


def shap(game: Game, samples: int, seed: int) -> Tensor:
    from shap import KernelExplainer

    def model(x: np.ndarray) -> np.ndarray:
        return game.value(torch.from_numpy(x) > 0.5).numpy()

    np.random.seed(seed)  # noqa: NPY002
    explainer = KernelExplainer(model, np.zeros((1, game.players)))
    # It evaluates the empty and the full coalition besides.
    row = np.ones(game.players)
    return torch.from_numpy(
        explainer.shap_values(row, nsamples=samples - 2, l1_reg=False, silent=True)
    )


def captum(game: Game, samples: int, seed: int) -> Tensor:
    from captum.attr import KernelShap

    torch.manual_seed(seed)
    row = torch.ones(1, game.players)
    found = KernelShap(lambda x: game.value(x > 0.5)).attribute(
        row, baselines=0 * row, n_samples=samples, perturbations_per_eval=samples
    )
    return found[0].double()


def _kernel_shap(game: Game, samples: int, seed: int, design: str | None) -> Tensor:
    method = fastxai.attr.KernelShap(lambda x: game.value(x > 0.5))
    row = torch.ones(1, game.players, dtype=torch.float64)
    return method.attribute(row, n_samples=samples, design=design, seed=seed)[0]


# Name in the tables -> how to estimate, and how often for each game.
COMPETITORS: dict[str, tuple[Callable[[Game, int, int], Tensor], int]] = {
    "fastxai": (fastxai_default, 3),
    "fastxai leverage": (fastxai_leverage, 3),
    "shap": (shap, 1),
    "Captum": (captum, 1),
}


def measure(family: str, rows: int) -> list[dict[str, Any]]:
    """The errors of all competitors at all budgets on the games of a family."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    games = FAMILIES[family](rows)
    players = games[0].players
    entries = []
    for budget, (name, (estimate, seeds)) in product(BUDGETS, COMPETITORS.items()):
        samples = budget * players
        errors = [
            _error(game, estimate(game, samples, 1000 * seed + i))
            for i, game in enumerate(games)
            for seed in range(seeds)
        ]
        entries.append(
            {
                "family": family,
                "players": players,
                "budget": budget,
                "samples": samples,
                "competitor": name,
                "rows": rows,
                "seeds": seeds,
                "median": float(np.median(errors)),
                "mean": float(np.mean(errors)),
                "worst_decile": float(np.quantile(errors, 0.9)),
            }
        )
    return entries


def _error(game: Game, phi: Tensor) -> float:
    return float((phi - game.shapley).square().sum() / game.shapley.square().sum())


STATISTICS = ("median", "mean", "worst_decile")


def report(run: dict[str, Any]) -> str:
    """A table for each budget: families by competitors, and how we compare."""
    parts = ["Errors are median · mean · worst decile, comparisons are of medians · of means."]
    for budget in BUDGETS:
        chosen = [entry for entry in run["entries"] if entry["budget"] == budget]
        parts += [f"**{budget} evaluations for each player**", _table(chosen)]
    versions = ", ".join(f"{name} {number}" for name, number in run["versions"].items())
    return "\n\n".join([*parts, f"{versions}; {run['date']}\n\n    {run['command']}"])


def _table(entries: list[dict[str, Any]]) -> str:
    names = list(COMPETITORS)
    errors = {
        (entry["family"], entry["competitor"]): [entry[name] for name in STATISTICS]
        for entry in entries
    }
    players = {entry["family"]: entry["players"] for entry in entries}
    ours = np.array([errors[family, names[0]][:2] for family in players])
    theirs = np.array([[errors[family, name][:2] for name in names[1:]] for family in players])
    ratios = ours[:, None] / theirs  # [families, others, 2]

    rows = [["", "players", *names, *(f"fastxai / {name}" for name in names[1:])]]
    for (family, count), ratio in zip(players.items(), ratios, strict=True):
        cells = [_joined(errors[family, name], ".1e") for name in names]
        rows.append([family, str(count), *cells, *(_joined(r, ".2g") for r in ratio)])
    gap = [""] * (1 + len(names))
    means = np.exp(np.log(ratios).mean(0))
    rows.append(["geometric mean", *gap, *(_joined(r, ".2g") for r in means)])
    rows.append(["worst", *gap, *(_joined(r, ".2g") for r in ratios.max(0))])
    return markdown(rows)


def _joined(numbers: Iterable[float], form: str) -> str:
    return " · ".join(format(x, form).replace("e-0", "e-") for x in numbers)


def run(families: Iterable[str], rows: int, processes: int) -> dict[str, Any]:
    from conftest import version_or_none

    packages = ("torch", "captum", "shap", "scikit-learn", "numpy")
    with ProcessPoolExecutor(processes) as pool:
        futures = [pool.submit(measure, family, rows) for family in families]
        entries = [entry for future in futures for entry in future.result()]
    return {
        "entries": entries,
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
    parser.add_argument("--rows", type=int, default=50, help="games of each family")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=list(FAMILIES), help="families; no JSON then")
    options = parser.parse_args()
    result = run(options.only, options.rows, options.processes)
    if options.only == list(FAMILIES):
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(report(result))
