"""Explanations as a page of HTML, with styles inside and no scripts."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Any

_STYLE = """
body { font: 14px/1.4 sans-serif; color: #222; background: #fff; margin: 1em; }
section { display: inline-block; vertical-align: top; margin: 0 2em 1.5em 0; }
h2 { font-size: 15px; margin: 0 0 .4em; }
table { border-collapse: collapse; }
td, th { padding: 1px 8px; text-align: left; white-space: nowrap; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
td.b { width: 200px; padding: 1px 0; }
td.b div { height: 13px; }
.up { background: #ff7f0e; } .down { background: #1f77b4; } .p { background: #888; }
tr.up td, tr.down td { color: #fff; }
tr.down td { background: #1f77b4; } tr.up td { background: #b35400; }
"""
_WIDTH = 100.0  # per cent


def page(
    charts: Iterable[tuple[str, list[tuple[Any, float]]]],
    probabilities: list[tuple[Any, float]] | None,
    value: tuple[float, float, float] | None,
    row: str,
) -> str:
    """A page.

    Args:
        charts: titles, and pairs of name and weight.
        probabilities: pairs of class and probability, to be shown before.
        value: what was predicted, the least and the most of all samples, to be shown before.
        row: HTML of the row that is explained, to be shown after.
    """
    parts = []
    if probabilities is not None:
        parts.append(_section("Prediction probabilities", map(_probability, probabilities)))
    if value is not None:
        parts.append(_section("Predicted value", [_value(*value)]))
    for title, pairs in charts:
        largest = max((abs(w) for _, w in pairs), default=0.0) or 1.0
        rows = [_weight(name, weight, largest) for name, weight in pairs]
        parts.append(_section(title, rows))
    return (
        '<!DOCTYPE html>\n<html><head><meta charset="utf-8"><title>Explanation</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n" + "\n".join([*parts, row]) + "\n</body></html>"
    )


def table(rows: Iterable[tuple[str, str, float]]) -> str:
    """The features of a row with their values, in the colours of their weights.

    Args:
        rows: names, values, and weights.
    """
    lines = ["<tr><th>Feature</th><th>Value</th></tr>"]
    for name, value, weight in rows:
        kind = "up" if weight > 0 else "down" if weight < 0 else ""
        lines.append(
            f'<tr class="{kind}"><td>{escape(str(name))}</td>'
            f'<td class="n">{escape(str(value))}</td></tr>'
        )
    return _section("The row", lines)


def _section(title: str, rows: Iterable[str]) -> str:
    body = "\n".join(rows)
    return f"<section><h2>{escape(title)}</h2>\n<table>\n{body}\n</table></section>"


def _bar(kind: str, start: float, width: float) -> str:
    style = f"margin-left: {start:.1f}%; width: {width:.1f}%"
    return f'<td class="b"><div class="{kind}" style="{style}"></div></td>'


def _probability(pair: tuple[Any, float]) -> str:
    name, share = pair
    width = _WIDTH * min(max(float(share), 0.0), 1.0)
    return f"<tr><td>{escape(str(name))}</td>{_bar('p', 0, width)}{_number(share)}</tr>"


def _value(value: float, least: float, most: float) -> str:
    share = (value - least) / (most - least) if most > least else 1.0
    ends = f"{_number(least)}{_bar('p', 0, _WIDTH * share)}{_number(most)}"
    return f"<tr>{ends}<td><b>{float(value):.4g}</b></td></tr>"


def _weight(name: Any, weight: float, largest: float) -> str:
    half = _WIDTH / 2
    width = half * abs(weight) / largest
    kind, start = ("up", half) if weight > 0 else ("down", half - width)
    return f"<tr><td>{escape(str(name))}</td>{_bar(kind, start, width)}{_number(weight)}</tr>"


def _number(value: float) -> str:
    return f'<td class="n">{float(value):.4g}</td>'
