"""Turns what bench_accuracy.py measured into tables, and into docs/accuracy.png.

``python benchmarks/accuracy_report.py [results/accuracy.json]``
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from compare import markdown
from games import FAMILIES, HARD

RESULTS = Path(__file__).parent / "results" / "accuracy.json"
PICTURE = Path(__file__).parents[1] / "docs" / "accuracy.png"
TARGET = 1e-3  # error to come to
OURS, SHARED, FAST, LEVERAGE = (
    f"fastxai {name}" for name in ("accurate", "shared", "fast", "leverage")
)
FRONT, AS_IT_COMES = "fastxai.shap", "shap as it comes"
# Who is compared with whom.
PAIRS = [
    *((OURS, LEVERAGE), (OURS, "shap"), (OURS, "Captum"), (SHARED, LEVERAGE), (FAST, LEVERAGE)),
    *((FRONT, "shap"), (FRONT, AS_IT_COMES)),
]
NOISY = "interactions of up to 3, noise"
COLORS = {
    OURS: "#b2182b",
    FAST: "#ef8a62",
    LEVERAGE: "#92c5de",
    "shap": "#2166ac",
    "Captum": "#777",
}

Of = Callable[[str, int, str, str], Any]  # family, budget, competitor, statistic


def report(run: dict[str, Any]) -> str:
    kept = {(e["family"], e["budget"], e["competitor"]): e for e in run["entries"]}
    of: Of = lambda family, budget, who, what: kept[family, budget, who][what]  # noqa: E731
    versions = ", ".join(f"{name} {number}" for name, number in run["versions"].items())
    truth_error = run["curves"][-1]["truth_error"]
    return "\n\n".join(
        [
            "**Squared error as a share of others'**: geometric means over the first eight "
            "families, of medians · of means, and the worst of the medians in brackets. Wanted of "
            "accurate: 0.2 of leverage at 5 and 10 evaluations for each player, 0.06 of shap, 0.3 "
            "at 20.",
            _shares(of),
            "**Median errors**, 10 evaluations for each player",
            _medians(of, 10),
            "**Games that could lead it astray**: median errors as a share of leverage's. Wanted: "
            "1.3 at most.",
            _hard(of),
            "**Coverage of nominal 95 % intervals**, with 5 · 10 evaluations for each player. "
            "Wanted: 93 % on trees, Gaussian kernel and MLP, 88 % on voting.",
            _coverage(of),
            f"**Evaluations until the median error is {TARGET:g}**, and seconds for so many on the "
            f"photograph, {run['threads']} threads. Its truth is known to {truth_error:.0e}.",
            _needed(run),
            f"{versions}; {run['date']}\n\n    {run['command']}",
        ]
    )


def _shares(of: Of) -> str:
    rows = [["evaluations for each player", *(f"{_short(a)} / {_short(b)}" for a, b in PAIRS)]]
    for budget in (3, 5, 8, 10, 20):
        cells = []
        for pair in PAIRS:
            medians, means = (
                [of(f, budget, pair[0], what) / of(f, budget, pair[1], what) for f in FAMILIES]
                for what in ("median", "mean")
            )
            both = " · ".join(f"{np.exp(np.log(x).mean()):.2g}" for x in (medians, means))
            cells.append(f"{both} ({max(medians):.2g})")
        rows.append([str(budget), *cells])
    return markdown(rows)


def _medians(of: Of, budget: int) -> str:
    who = [OURS, SHARED, FAST, LEVERAGE, FRONT, "shap", AS_IT_COMES, "Captum"]
    rows = [["", "players", *who]]
    for family in [*FAMILIES, *HARD]:
        errors = [f"{of(family, budget, name, 'median'):.1e}".replace("e-0", "e-") for name in who]
        rows.append([family, str(of(family, budget, OURS, "players")), *errors])
    return markdown(rows)


def _hard(of: Of) -> str:
    tiers = (OURS, SHARED, FAST)
    rows = [["", *(f"{tier[8:]}, {budget}" for tier in tiers for budget in (5, 10, 20))]]
    for family in [*HARD, NOISY]:
        shares = [
            of(family, budget, tier, "median") / of(family, budget, LEVERAGE, "median")
            for tier in tiers
            for budget in (5, 10, 20)
        ]
        rows.append([family, *(f"{share:.2g}" for share in shares)])
    return markdown(rows)


def _coverage(of: Of) -> str:
    tiers = (OURS, SHARED, FAST, LEVERAGE)
    rows = [["", *tiers]]
    for family in [*FAMILIES, *HARD]:
        found = [[of(family, budget, tier, "coverage") for budget in (5, 10)] for tier in tiers]
        rows.append([family, *(_joined(x) for x in found)])
    return markdown(rows)


def _joined(shares: Iterable[float | None]) -> str:
    return " · ".join("unknown" if x is None else f"{100 * x:.0f} %" for x in shares)


def _needed(run: dict[str, Any]) -> str:
    curves = {(c["family"], c["competitor"]): c for c in run["curves"]}
    families = dict.fromkeys(c["family"] for c in run["curves"])
    who = list(run["seconds"])
    rows = [["", "players", *who]]
    for family in families:
        found = [curves[family, name] for name in who]
        rows.append([family, str(found[0]["players"]), *(needed(curve) for curve in found)])
    rows.append(["seconds", "", *(f"{seconds:.1f}" for seconds in run["seconds"].values())])
    return markdown(rows)


def needed(curve: dict[str, Any]) -> str:
    """The evaluations until the error is small, "≤" the fewest or ">" the most that were tried."""
    calls, medians = curve["calls"], curve["medians"]
    reached = [n for n, error in zip(calls, medians, strict=True) if error <= TARGET]
    if not reached:
        return f"> {calls[-1]}"
    return f"≤ {calls[0]}" if reached[0] == calls[0] else str(reached[0])


def _short(name: str) -> str:
    return name.removeprefix("fastxai ")


def draw(run: dict[str, Any], path: Path = PICTURE) -> None:
    """Error against evaluations, a panel for each family."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    families = list(dict.fromkeys(curve["family"] for curve in run["curves"]))
    figure, axes = plt.subplots(2, 3, figsize=(12, 7.2), layout="constrained")
    for axis, family in zip(axes.flat, families, strict=True):
        found = [curve for curve in run["curves"] if curve["family"] == family]
        for curve in found:
            name = curve["competitor"]
            axis.plot(
                curve["calls"],
                curve["medians"],
                color=COLORS[name],
                linewidth=2.5 if name == OURS else 1.6,
                marker="o",
                markersize=4 if name == OURS else 3,
                label=name,
                zorder=3 if name == OURS else 2,
            )
        axis.axhline(TARGET, color="black", linewidth=0.8, linestyle=":", zorder=1)
        axis.set(xscale="log", yscale="log", title=f"{family} ({found[0]['players']} players)")
        axis.title.set_fontsize(10.5)
        ticks = [64, 256, 1024, 4096]
        axis.set_xticks(ticks, [f"{n:,}" for n in ticks])
        axis.set_xlim(38, 10_000)
        axis.minorticks_off()
        axis.grid(color="0.9")
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.suptitle("KernelShap: squared error of Shapley values, |φ̂ − φ|² / |φ|²", fontsize=14)
    for axis in axes[1]:
        axis.set_xlabel("evaluations of the model")
    for axis in axes[:, 0]:
        axis.set_ylabel("median error")
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    (path,) = sys.argv[1:] or [RESULTS]
    found = json.loads(Path(path).read_text())
    print(report(found))
    draw(found)
