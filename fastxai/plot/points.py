"""Contributions of many rows as points."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.checks import check, check_count
from ._look import (
    GREY,
    colour_bar,
    colour_of,
    contribution_label,
    dress,
    ink,
    new_axes,
    sign_legend,
    slant,
    value_map,
)
from ._table import Table, check_index, finite, order_by_size, shortened, shown, table

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_NAMED = 24  # words along an axis
_IN_A_LINE = 64  # letters of all of them
_BLANKS = "\n(grey: a word, or missing)"


def beeswarm(
    explanation: Any,
    *,
    errors: Any = None,
    feature_names: Any = None,
    data: Any = None,
    target_names: Any = None,
    target: int | None = None,
    max_features: int = 20,
    ax: Axes | None = None,
) -> Axes:
    """Draws the contributions of each feature in all rows, a point for each row.

    Args:
        explanation: an explanation, or attributions [B, F].
        errors: standard errors, in the attributions' form; None for the explanation's.
        feature_names: a name for each feature; None for the explanation's.
        data: the inputs, in the attributions' form: they colour the points from low to high, as
            ranks among the rows, and grey where they are no numbers. None for the explanation's;
            without any, points have the colours of what raises the output and what lowers it.
        target_names: the name of the output, or those of all, of which ``target`` chooses; None
            for the explanation's.
        target: the index of the output, where several are explained.
        max_features: how many features at most, those of the largest mean size.
        ax: where to draw; None makes a figure.

    Returns:
        The axes.

    Example:
        >>> explanation = fastxai.ShapleyValues(model).explain(x)
        >>> ax = fastxai.plot.beeswarm(explanation, data=x, feature_names=names)
        >>> ax.figure.savefig("rows.png")
    """
    most = check_count(max_features, "max_features")
    found = table(
        explanation,
        errors=errors,
        feature_names=feature_names,
        data=data,
        target_names=target_names,
        target=target,
    )
    sizes = finite(np.abs(found.values)).mean(axis=0)
    order = order_by_size(sizes)[:most]
    ax = new_axes(ax, 6.8, 1.5 + 0.36 * max(len(order), 4))  # beside it the colours' label fits
    colour, drawn, blanks = ink(ax), None, False
    ax.axvline(0, color=colour, lw=0.8, zorder=0)
    for place, feature in zip(np.arange(len(order))[::-1], order, strict=True):
        values = found.values[:, feature]
        known = np.flatnonzero(np.isfinite(values))
        x, y = values[known], place + _swarm(values[known], found.values)
        if found.errors is not None:
            spread = finite(found.errors[known, feature])
            look: dict[str, Any] = {"ecolor": GREY, "elinewidth": 0.8, "alpha": 0.6, "zorder": 1}
            ax.errorbar(x, y, xerr=spread, fmt="none", **look)
        if found.data is None:
            ax.scatter(x, y, c=[colour_of(v) for v in x], s=14, linewidths=0, zorder=2)
            continue
        ranks = _ranks(found.data[:, feature])[known]
        blank = np.isnan(ranks)
        blanks |= bool(blank.any())
        ax.scatter(x[blank], y[blank], color=GREY, s=14, linewidths=0, zorder=2)
        drawn = ax.scatter(
            x[~blank], y[~blank], c=ranks[~blank], cmap=value_map(), s=14, linewidths=0, zorder=3
        )
        drawn.set_clim(0, 1)
    ax.set_yticks(np.arange(len(order))[::-1], labels=[shortened(found.names[i]) for i in order])
    dress(ax, xlabel=contribution_label(found.target) + "\n← lowers it · raises it →")
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_ylim(-0.6, len(order) - 0.4)
    if drawn is not None:
        label = "the feature's own value" + (_BLANKS if blanks else "")
        colour_bar(ax, drawn, label, [0, 1], ["low", "high"])
    rest = len(found.names) - len(order)
    if rest:
        note = f"\n{rest} features of smaller contributions are not shown"
        ax.set_xlabel(ax.get_xlabel() + note)
    sign_legend(ax, None if found.errors is None else GREY, signs=found.data is None)
    return ax


def _swarm(values: Any, all_values: Any) -> Any:
    """Offsets of points up and down, so that those of one place lie side by side."""
    low = finite(all_values).min()
    span = finite(all_values).max() - low
    bins = np.zeros(len(values), dtype=int)
    if span > 0:
        bins = np.floor((values - low) / span * 90).astype(int)
    offsets = np.zeros(len(values))
    fullest = max(np.bincount(bins - bins.min()).max(initial=1), 1) if len(values) else 1
    step = min(0.1, 0.8 / fullest)
    for place in np.unique(bins):
        there = np.flatnonzero(bins == place)
        turns = (np.arange(len(there)) + 1) // 2 * np.where(np.arange(len(there)) % 2, 1, -1)
        offsets[there] = turns * step
    return offsets


def _numbers(column: Any) -> Any:
    """Numbers as floats; NaN for what is none."""
    if column.dtype.kind in "biuf":
        return column.astype(np.float64)
    numbers = np.full(len(column), np.nan)
    for i, value in enumerate(column):
        if isinstance(value, int | float | np.number | np.bool_):
            numbers[i] = float(value)
    return numbers


def _ranks(column: Any) -> Any:
    """Where each value stands among the others, 0 to 1; a constant in the middle."""
    numbers = _numbers(column)
    kinds, places = np.unique(numbers[np.isfinite(numbers)], return_inverse=True)
    ranks = np.full(len(numbers), np.nan)
    ranks[np.isfinite(numbers)] = places / (len(kinds) - 1) if len(kinds) > 1 else 0.5
    return ranks


def scatter(
    explanation: Any,
    feature: int | str,
    data: Any = None,
    *,
    color_by: int | str | None = None,
    errors: Any = None,
    feature_names: Any = None,
    target_names: Any = None,
    target: int | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draws how a feature's contribution depends on its value, a point for each row.

    Args:
        explanation: an explanation, or attributions [B, F].
        feature: its index or its name.
        data: the inputs, in the attributions' form; None for the explanation's. Rows without the
            value stand at the left, and words side by side.
        color_by: the index or name of another feature whose values colour the points; None for
            the colours of what raises the output and what lowers it.
        errors: standard errors, in the attributions' form; None for the explanation's.
        feature_names: a name for each feature; None for the explanation's.
        target_names: the name of the output, or those of all, of which ``target`` chooses; None
            for the explanation's.
        target: the index of the output, where several are explained.
        ax: where to draw; None makes a figure.

    Returns:
        The axes.

    Example:
        >>> explanation = fastxai.ShapleyValues(model).explain(x)
        >>> ax = fastxai.plot.scatter(explanation, "age", data=x, feature_names=names)
        >>> ax.figure.savefig("age.png")
    """
    found = table(
        explanation,
        errors=errors,
        feature_names=feature_names,
        data=data,
        target_names=target_names,
        target=target,
    )
    check(found.data is not None, "data", "the inputs, for the values of the feature", "None")
    index = _feature(found, feature, "feature")
    other = None if color_by is None else _feature(found, color_by, "color_by")
    ax = new_axes(ax, 6.0, 4.0)
    x = _places(ax, found.data[:, index])
    y = found.values[:, index]
    known = np.isfinite(y)
    ax.axhline(0, color=ink(ax), lw=0.8, zorder=0)
    if found.errors is not None:
        spread = finite(found.errors[known, index])
        look: dict[str, Any] = {"ecolor": GREY, "elinewidth": 0.9, "alpha": 0.7, "zorder": 1}
        ax.errorbar(x[known], y[known], yerr=spread, fmt="none", **look)
    label = f"{contribution_label(found.target)}\n← lowers it · raises it →"
    if other is None:
        colours = [colour_of(v) for v in y[known]]
        ax.scatter(x[known], y[known], c=colours, s=22, linewidths=0, zorder=2)
    else:
        ranks = _ranks(found.data[:, other])
        blank, seen = known & np.isnan(ranks), known & ~np.isnan(ranks)
        ax.scatter(x[blank], y[blank], color=GREY, s=22, linewidths=0, zorder=2)
        drawn = ax.scatter(
            x[seen], y[seen], c=ranks[seen], cmap=value_map(), s=22, linewidths=0, zorder=3
        )
        drawn.set_clim(0, 1)
        name = shortened(found.names[other]) + (_BLANKS if blank.any() else "")
        colour_bar(ax, drawn, name, [0, 1], ["low", "high"])
    dress(ax, xlabel=shortened(found.names[index], 60), ylabel=label)
    sign_legend(ax, None if found.errors is None else GREY, signs=other is None)
    return ax


def _feature(found: Table, feature: Any, argument: str) -> int:
    if not isinstance(feature, str):
        return check_index(feature, argument, len(found.names))
    some = ", ".join(found.names[:5]) + (", …" if len(found.names) > 5 else "")
    check(feature in found.names, argument, "one of {}", repr(feature), some)
    return found.names.index(feature)


def _places(ax: Any, column: Any) -> Any:
    """Where rows stand on the x axis: by number, or by kind where there are words."""
    numbers = _numbers(column)
    words = column.dtype.kind not in "biuf" and not np.isfinite(numbers).any()
    if words:
        labels = [shown(value) for value in column]
        kinds = sorted(set(labels))
        names = [shortened(kind, 14) for kind in kinds]
        step = -(-len(kinds) // _NAMED)
        ax.set_xticks(range(0, len(kinds), step), labels=names[::step])
        if len("  ".join(names)) > _IN_A_LINE:
            slant(ax)
        ax.set_xlim(-0.6, len(kinds) - 0.4)
        steps = np.arange(len(labels)) * 0.618 % 1 - 0.5  # so that equals do not hide one another
        return np.array([kinds.index(label) for label in labels]) + 0.3 * steps
    known = numbers[np.isfinite(numbers)]
    low, high = (known.min(), known.max()) if known.size else (0.0, 0.0)
    span = (high - low) or max(abs(low), 1.0)
    blank = ~np.isfinite(numbers)
    ax.set_xlim(low - (0.2 if blank.any() else 0.06) * span, high + 0.06 * span)
    if low == high and not blank.any():
        ax.set_xlim(low - 0.5 * span, low + 0.5 * span)
    if blank.any():
        at = low - 0.12 * span
        ax.axvline(low - 0.06 * span, color=GREY, lw=0.7, ls=":")
        ax.annotate(
            "missing",
            (at, 0.99),
            xycoords=("data", "axes fraction"),
            ha="center",
            va="top",
            fontsize="small",
            color=ink(ax),
        )
        # No number belongs there.
        ax.set_xticks([tick for tick in ax.get_xticks() if low - 0.06 * span < tick])
        ax.set_xlim(low - 0.2 * span, high + 0.06 * span)
        numbers = np.where(blank, at, numbers)
    return numbers
