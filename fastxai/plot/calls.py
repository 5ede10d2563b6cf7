"""How contributions settle as the model is called more often."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..attr._explanation import Explanation
from ..core.checks import check, check_count
from ._look import colour_of, contribution_label, dress, ink, new_axes, sign_legend
from ._table import finite, order_by_size, shortened, table, to_array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKERS = "osD^vP*X<>"


def convergence(
    explanations: Any,
    calls: Any = None,
    *,
    row: int | None = None,
    errors: Any = None,
    feature_names: Any = None,
    target_names: Any = None,
    target: int | None = None,
    max_features: int = 5,
    ax: Axes | None = None,
) -> Axes:
    """Draws contributions found with few evaluations and with many, with their standard errors.

    Args:
        explanations: explanations of the same input, or attributions [N, F].
        calls: how many evaluations of the model each took; None for the explanations' ``samples``.
        row: the row to draw, where there are several.
        errors: standard errors [N, F], for attributions.
        feature_names: a name for each feature.
        target_names: the name of the output, or those of all, of which ``target`` chooses.
        target: the index of the output, where several are explained.
        max_features: how many features at most, those that are largest in the end.
        ax: where to draw; None makes a figure.

    Returns:
        The axes.

    Example:
        >>> method = fastxai.KernelShap(model)
        >>> found = [method.explain(x, n_samples=n) for n in (50, 100, 200, 400)]
        >>> ax = fastxai.plot.convergence(found, feature_names=names)
    """
    most = check_count(max_features, "max_features")
    found = _tables(explanations, row, errors, feature_names, target_names, target)
    values = np.stack([t.values[0] for t in found])  # [N, F]
    spread = None
    if any(t.errors is not None for t in found):
        blank = np.full(values.shape[1], np.nan)
        spread = np.stack([blank if t.errors is None else t.errors[0] for t in found])
    x = _calls(explanations, calls, row, len(values))
    along = np.argsort(x, kind="stable")
    x, values, spread = x[along], values[along], None if spread is None else spread[along]

    ax = new_axes(ax, 7.0, 4.2)
    order = order_by_size(values[-1])[:most]
    shift = np.linspace(-1, 1, len(order)) * 0.012 if len(order) > 1 else [0.0]
    wide = x[-1] / x[0] > 4
    for i, feature in enumerate(order):
        colour, y = colour_of(values[-1, feature]), values[:, feature]
        # Beside one another, so that error bars of one place can be told apart.
        at = x * (x[-1] / x[0]) ** shift[i] if wide else x + shift[i] * np.ptp(x)
        ax.errorbar(
            at,
            y,
            yerr=None if spread is None else finite(spread[:, feature]),
            color=colour,
            marker=_MARKERS[i % len(_MARKERS)],
            ms=5,
            lw=1.2,
            capsize=2.5,
        )
    ax.axhline(0, color=ink(ax), lw=0.8, zorder=0)
    if wide:
        ax.set_xscale("log")
        if len(x) <= 12:
            ax.set_xticks(x, labels=[f"{n:,.0f}" for n in x])
            ax.set_xticks([], minor=True)
    _names_at_the_end(ax, x, values[-1, order], [shortened(found[0].names[i], 24) for i in order])
    dress(ax, xlabel="evaluations of the model", ylabel=contribution_label(found[0].target))
    sign_legend(ax, ink(ax) if spread is not None else None)
    return ax


def _tables(
    explanations: Any, row: Any, errors: Any, feature_names: Any, target_names: Any, target: Any
) -> list[Any]:
    shared = {"feature_names": feature_names, "target_names": target_names, "target": target}
    is_one = isinstance(explanations, Explanation)
    check(not is_one, "explanations", "a sequence of explanations", "one explanation")
    if isinstance(explanations, list | tuple) and any(
        isinstance(e, Explanation) for e in explanations
    ):
        check(errors is None, "errors", "None, as explanations have theirs", "errors")
        wrong = next((e for e in explanations if not isinstance(e, Explanation)), None)
        check(wrong is None, "explanations", "only explanations", type(wrong).__name__)
        found = [table(e, **shared).row(row) for e in explanations]
        sizes = {t.values.shape for t in found}
        check(len(sizes) == 1, "explanations", "the same features in all", f"shapes {sizes}")
        return found
    array = to_array(explanations, "explanations")
    check(array.ndim == 2 and array.size > 0, "explanations", "shape [N, F]", array.shape)
    whole = table(array, errors=errors, **shared)
    return [whole.row(i) for i in range(len(array))]


def _calls(explanations: Any, calls: Any, row: int | None, count: int) -> Any:
    if calls is None:
        held = [getattr(e, "samples", None) for e in explanations]
        known = all(samples is not None for samples in held)
        check(known, "calls", "the number of evaluations of each explanation", "None")
        each = [s.flatten() for s in held if s is not None]  # of one row they are a number
        calls = [float(s[(row or 0) if len(s) > 1 else 0]) for s in each]
    x = to_array(calls, "calls")
    check(x.shape == (count,), "calls", "one number for each of {} explanations", x.shape, count)
    check(bool((x > 0).all() and np.isfinite(x).all()), "calls", "numbers above zero", list(x))
    return x


def _names_at_the_end(ax: Any, x: Any, ends: Any, names: list[str]) -> None:
    """Names beside the last points, moved apart where they would overlap."""
    low, high = ax.get_ylim()
    least = 0.055 * (high - low)
    order = np.argsort(finite(ends))
    places = finite(ends)[order]
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + least)
    over = places[-1] - max(high, finite(ends).max())
    places = places - max(over, 0)
    for i, place in zip(order, places, strict=True):
        ax.annotate(
            names[i],
            (1.02, place),
            xycoords=("axes fraction", "data"),
            color=colour_of(ends[i]),
            va="center",
            annotation_clip=False,
        )
    ax.set_ylim(low, high)
