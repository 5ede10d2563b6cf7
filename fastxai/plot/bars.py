"""Contributions as bars."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.checks import check, check_count
from ._look import GREY, colour_of, contribution_label, dress, ink, literal, new_axes, sign_legend
from ._table import Table, finite, named, order_by_size, shown, table, to_array, written

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def bar(
    explanation: Any,
    *,
    row: int | None = None,
    errors: Any = None,
    feature_names: Any = None,
    data: Any = None,
    target_names: Any = None,
    target: int | None = None,
    max_features: int = 20,
    ax: Axes | None = None,
) -> Axes:
    """Draws what each feature contributes to one output, or how much it does to many.

    One row is drawn as signed contributions; of several rows the mean of their sizes is drawn.
    Below the largest, the others are one bar: their sum. Errors of sums are those of independent
    values; the error of a mean over rows is the mean error, which it cannot exceed.

    Args:
        explanation: an explanation, attributions [B, F] or [F], or what
            :func:`fastxai.permutation_importance` found, whose means are drawn.
        row: the row to draw; None for all.
        errors: standard errors, in the attributions' form; None for the explanation's.
        feature_names: a name for each feature; None for the explanation's.
        data: the inputs, in the attributions' form; None for the explanation's. For one row the
            values stand beside the names.
        target_names: the name of the output, or those of all, of which ``target`` chooses; None
            for the explanation's.
        target: the index of the output, where several are explained.
        max_features: how many bars at most, with the one of the others.
        ax: where to draw; None makes a figure.

    Returns:
        The axes.

    Example:
        >>> explanation = fastxai.KernelShap(model).explain(x, n_samples=100)
        >>> ax = fastxai.plot.bar(explanation, row=0, feature_names=names)
        >>> ax.figure.savefig("contributions.png")
    """
    most = check_count(max_features, "max_features", at_least=1)
    found = table(
        explanation,
        errors=errors,
        feature_names=feature_names,
        data=data,
        target_names=target_names,
        target=target,
    )
    found = found if row is None else found.row(row)
    one = len(found.values) == 1
    values, spread = found.values[0], None if found.errors is None else found.errors[0]
    if not one:
        values = _mean(np.abs(found.values))
        spread = None if found.errors is None else _mean(found.errors)
    inputs = found.data[0] if one and found.data is not None else None
    labels, values, spread = _largest(found, values, spread, inputs, most)

    ax = new_axes(ax, 6.4, 1.3 + 0.3 * len(values))
    places = np.arange(len(values))[::-1]
    others = labels[-1].endswith("others") and len(found.names) > most
    # A mean of sizes has no sign, and neither of the two colours.
    colours = [colour_of(v) if one else GREY for v in values]
    bars = ax.barh(places, finite(values), height=0.7, color=colours)
    if others:
        bars[-1].set_alpha(0.6)
    _error_bars(ax, values, places, spread)
    _numbers(ax, values, places, spread, signed=one)
    _reach(ax, np.zeros(len(values)), finite(values), spread)
    if not one:  # a size is not below zero, wherever its error bar ends
        ax.set_xlim(left=0)
    ax.set_yticks(places, labels=labels)
    ax.axvline(0, color=ink(ax), lw=0.8)
    dress(ax, xlabel=contribution_label(found.target, mean=not one))
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    sign_legend(ax, ink(ax) if spread is not None else None, signs=one)
    ax.set_ylim(-0.6, len(values) - 0.4)
    return ax


def _mean(values: Any) -> Any:
    """The mean over rows without NaN; NaN where there is nothing else."""
    known = ~np.isnan(values)
    count = known.sum(axis=0)
    return np.where(
        count > 0, np.where(known, values, 0).sum(axis=0) / np.maximum(count, 1), np.nan
    )


def _largest(
    found: Table, values: Any, errors: Any, inputs: Any, most: int
) -> tuple[list[str], Any, Any]:
    """The largest values, the others' sum behind them, with labels and errors."""
    order = order_by_size(values)
    if len(order) <= most:
        kept, rest = order, order[:0]
    else:
        kept, rest = order[: most - 1], order[most - 1 :]
    labels = [named(found.names, inputs, i) for i in kept]
    shown_values, shown_errors = values[kept], None if errors is None else errors[kept]
    if len(rest):
        labels.append(f"sum of {len(rest)} others")
        shown_values = np.append(shown_values, finite(values[rest]).sum())
        if shown_errors is not None:
            shown_errors = np.append(shown_errors, np.sqrt(finite(errors[rest] ** 2).sum()))
    return labels, shown_values, shown_errors


def _error_bars(ax: Any, values: Any, places: Any, errors: Any) -> None:
    if errors is None:
        return
    # A bar of NaN would warn.
    known = np.isfinite(values) & np.isfinite(errors)
    colour = ink(ax)
    ax.errorbar(
        values[known],
        places[known],
        xerr=errors[known],
        fmt="none",
        ecolor=colour,
        elinewidth=1.2,
        capsize=2.5,
    )


def _numbers(ax: Any, values: Any, places: Any, errors: Any, signed: bool) -> None:
    """Writes the numbers in a column beside the bars, where they hide nothing."""
    for i, (value, place) in enumerate(zip(values, places, strict=True)):
        number = written(value, None if errors is None else errors[i])
        ax.annotate(
            number if signed else number.lstrip("+"),
            (1.02, place),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize="small",
            color=ink(ax),
            annotation_clip=False,
        )


def _reach(ax: Any, starts: Any, ends: Any, errors: Any) -> None:
    """Makes the x axis as long as the bars and their error bars."""
    spread = np.zeros(len(ends)) if errors is None else finite(errors)
    low = np.minimum(starts, ends - spread).min()
    high = np.maximum(starts, ends + spread).max()
    spare = 0.04 * ((high - low) or 1.0)
    ax.set_xlim(low - spare, high + spare)


def waterfall(
    explanation: Any,
    *,
    row: int | None = None,
    base: float | None = None,
    errors: Any = None,
    feature_names: Any = None,
    data: Any = None,
    target_names: Any = None,
    target: int | None = None,
    max_features: int = 10,
    ax: Axes | None = None,
) -> Axes:
    """Draws how contributions lead from the baseline's output to the output.

    The steps go from the smallest at the bottom to the largest at the top. What the contributions
    leave over of the output's distance to the baseline's is a grey step of its own.

    Args:
        explanation: an explanation, or attributions [1, F] or [F].
        row: the row to draw, where there are several.
        base: where the steps start; None for the explanation's baseline output, or what is left
            of its output, and 0 for an array.
        errors: standard errors, in the attributions' form; None for the explanation's.
        feature_names: a name for each feature; None for the explanation's.
        data: the inputs, in the attributions' form, for values beside the names; None for the
            explanation's.
        target_names: the name of the output, or those of all, of which ``target`` chooses; None
            for the explanation's.
        target: the index of the output, where several are explained.
        max_features: how many steps at most, with the one of the others.
        ax: where to draw; None makes a figure.

    Returns:
        The axes.

    Example:
        >>> explanation = fastxai.IntegratedGradients(model).explain(x, target=1)
        >>> ax = fastxai.plot.waterfall(explanation, row=0, feature_names=names)
        >>> ax.figure.savefig("steps.png")
    """
    most = check_count(max_features, "max_features", at_least=1)
    found = table(
        explanation,
        errors=errors,
        feature_names=feature_names,
        data=data,
        target_names=target_names,
        target=target,
    ).row(row)
    inputs = None if found.data is None else found.data[0]
    spread = None if found.errors is None else found.errors[0]
    labels, values, spread = _largest(found, found.values[0], spread, inputs, most)
    start, end = _start_and_end(found, base)
    total = float(finite(found.values[0]).sum())
    left_over = end - start - total
    if abs(left_over) > 0.005 * max(np.abs(finite(values)).max(), abs(end - start), 1e-12):
        labels, values = [*labels, "not attributed"], np.append(values, left_over)
        spread = None if spread is None else np.append(spread, np.nan)

    ax = new_axes(ax, 6.4, 1.6 + 0.34 * len(values))
    colour, steps = ink(ax), finite(values)
    places = np.arange(len(values))[::-1]
    ends = start + np.cumsum(steps[::-1])[::-1]  # after the step, from the bottom up
    starts = ends - steps
    for i, place in enumerate(places):
        fill = GREY if labels[i] == "not attributed" else colour_of(values[i])
        alpha = 0.6 if labels[i].startswith("sum of ") and i >= most - 1 else 1.0
        ax.barh(place, steps[i], left=starts[i], height=0.66, color=fill, alpha=alpha)
        if i:
            ax.plot([ends[i]] * 2, [place - 0.33, place + 1.33], color=colour, lw=0.7, ls=":")
    _error_bars(ax, np.where(np.isfinite(values), ends, np.nan), places, spread)
    _numbers(ax, values, places, spread, signed=True)
    _reach(ax, starts, ends, spread)
    ax.set_yticks(places, labels=labels)
    name = literal(found.target or "output")
    ax.axvline(start, color=GREY, lw=0.9, ls="--", zorder=0)
    ax.axvline(end, color=colour, lw=0.9, ls="--", zorder=0)
    dress(ax, xlabel=name)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    for x, words, shade, left in (
        (start, "start", GREY, start < end),
        (end, "output", colour, start >= end),
    ):
        ax.annotate(
            f"{words} {shown(x)}",
            (x, -0.55),
            xytext=(-3 if left else 3, 0),
            textcoords="offset points",
            ha="right" if left else "left",
            va="top",
            fontsize="small",
            color=shade,
            annotation_clip=False,
        )
    sign_legend(ax, colour if spread is not None else None)
    ax.set_ylim(-1.0, len(values) - 0.4)
    return ax


def _start_and_end(found: Table, base: float | None) -> tuple[float, float]:
    total = float(finite(found.values[0]).sum())
    end = None if found.outputs is None else float(found.outputs[0])
    if base is not None:
        start = to_array(base, "base")
        fine = start.ndim == 0 and bool(np.isfinite(start))
        check(fine, "base", "a finite number", base)
        start = float(start)
    elif found.baseline_outputs is not None:
        start = float(found.baseline_outputs[0])
    else:
        start = 0.0 if end is None else end - total
    return start, start + total if end is None else end
