"""Turns the JSON of benchmark runs into tables.

``python benchmarks/compare.py benchmarks/results/integrated_gradients.json``; ``make tables``
writes those of all committed runs to docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

PAGE = """\
# Benchmarks

Times are multiples of **bare**: the model's own forward (or forward and backward) passes over the
same number of rows, in its best chunk. "Captum tuned" is Captum with its best chunk. All results
are compared before they are timed; every competitor runs once a round, in random order, and the
tables show medians. Weights are frozen (`requires_grad_(False)`), as in production, except in the
rows that say that they require grad. Models of `bench_unseen.py` are those that nothing was tuned
to. Cases that fastxai loses stay in the tables.

Each table ends with the machine, the versions and the command. `make tables` writes this page from
the JSON in benchmarks/results.
"""


def markdown(rows: Iterable[Iterable[str]]) -> str:
    header, *body = (tuple(row) for row in rows)
    rule = ("---", *["---:"] * (len(header) - 1))
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, rule, *body))


def number(x: float) -> str:
    """Three digits, without an exponent."""
    return f"{x:.0f}" if x >= 100 else f"{x:.3g}"


def time_table(cases: list[dict[str, Any]]) -> str:
    """The reference in milliseconds, everyone else as a multiple of it."""
    reference = cases[0]["reference"]
    names = list(dict.fromkeys(name for case in cases for name in case["ratios"]))
    names.remove(reference)
    rows = [["", f"{reference}, ms", *names]]
    for case in cases:
        found = [case["ratios"].get(name) for name in names]
        rows.append(
            [
                case["case"],
                number(case["milliseconds"][reference]),
                *("" if ratio is None else f"{ratio:.2f}×" for ratio in found),
            ]
        )
    return markdown(rows)


def memory_table(cases: list[dict[str, Any]]) -> str:
    rows = [["", *(f"{name}, MB" for name in cases[0]["megabytes"])]]
    rows += [[case["case"], *(f"{x:.0f}" for x in case["megabytes"].values())] for case in cases]
    return markdown(rows)


def error_table(cases: list[dict[str, Any]]) -> str:
    rows = [["", *cases[0]["errors"]]]
    rows += [[case["case"], *(f"{x:.2g}" for x in case["errors"].values())] for case in cases]
    return markdown(rows)


def latency_table(cases: list[dict[str, Any]]) -> str:
    """Median and 99th percentile of everyone, and the median as a multiple of the first's."""
    rows = [["", "median, µs", "99th percentile, µs", "× model alone"]]
    for case in cases:
        reference, _ = next(iter(case["microseconds"].values()))
        for name, (median, late) in case["microseconds"].items():
            ratio = f"{median / reference:.2f}×"
            rows.append([f"{case['case']}: {name}", number(median), number(late), ratio])
    return markdown(rows)


def footer(machine: dict[str, Any], date: str) -> str:
    versions = {"Python": machine["python_version"], **machine["packages"]}
    listed = ", ".join(f"{name} {number or '(absent)'}" for name, number in versions.items())
    return (
        f"Medians; competitors interleaved in one run. {machine['cpu'].get('brand_raw', 'CPU')}, "
        f"{machine['threads']} threads; {listed}; {date[:10]}.\n\n    {machine['command']}"
    )


def report(run: dict[str, Any]) -> str:
    """Every group of the run as a table, then what it was measured on."""
    parts = []
    for group, benchmarks in groupby(run["benchmarks"], key=lambda entry: entry["group"]):
        cases = [entry["extra_info"] for entry in benchmarks]
        tables = {"megabytes": memory_table, "errors": error_table, "microseconds": latency_table}
        table = next((tables[name] for name in tables if name in cases[0]), time_table)
        parts += [f"**{group}**", table(cases)]
    return "\n\n".join([*parts, footer(run["machine_info"], run["datetime"])])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("json", type=Path, nargs="+", help="what pytest --benchmark-json wrote")
    parser.add_argument("--page", action="store_true", help="as docs/benchmarks.md, with its head")
    options = parser.parse_args()
    runs = [json.loads(path.read_text()) for path in options.json]
    tables = "\n\n".join(report(run) for run in runs if "benchmarks" in run)
    print(f"{PAGE}\n{tables}" if options.page else tables)
