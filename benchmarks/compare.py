"""Turns a benchmark run's JSON into the README's tables.

``python benchmarks/compare.py benchmarks/results/integrated_gradients.json``
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Any


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
    parser.add_argument("json", type=Path, help="what pytest --benchmark-json wrote")
    print(report(json.loads(parser.parse_args().json.read_text())))
