"""Contributions of rows as a grid of colours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.checks import check_count
from ._look import (
    GREY,
    colour_bar,
    contribution_label,
    dress,
    ink,
    ink_on,
    new_axes,
    signed_map,
    slant,
)
from ._table import check_names, finite, order_by_size, shortened, table, uncertain

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_LEGIBLE = 60  # rows that can be told apart


def heatmap(
    explanation: Any,
    *,
    row_names: Any = None,
    errors: Any = None,
    feature_names: Any = None,
    target_names: Any = None,
    target: int | None = None,
    max_features: int = 30,
    ax: Axes | None = None,
) -> Axes:
    """Draws the contributions of all features in all rows, a cell for each.

    Args:
        explanation: an explanation, or attributions [B, F].
        row_names: a name for each row; None for their numbers.
        errors: standard errors, in the attributions' form; None for the explanation's. A dot marks
            the cells that are within two of them of zero; of many rows they are pale.
        feature_names: a name for each feature; None for the explanation's.
        target_names: the name of the output, or those of all, of which ``target`` chooses; None
            for the explanation's.
        target: the index of the output, where several are explained.
        max_features: how many features at most, those of the largest mean size.
        ax: where to draw; None makes a figure.

    Returns:
        The axes.

    Example:
        >>> explanation = fastxai.KernelShap(model).explain(x, n_samples=100)
        >>> ax = fastxai.plot.heatmap(explanation, feature_names=names)
        >>> ax.figure.savefig("grid.png")
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.ticker import MaxNLocator

    most = check_count(max_features, "max_features")
    found = table(
        explanation,
        errors=errors,
        feature_names=feature_names,
        target_names=target_names,
        target=target,
    )
    order = order_by_size(finite(np.abs(found.values)).mean(axis=0))[:most]
    values = found.values[:, order]
    rows = len(values)
    names = None if row_names is None else check_names(row_names, "row_names", rows)
    limit = float(np.abs(finite(values)).max()) or 1.0

    ax = new_axes(ax, 2.6 + 0.34 * len(order), 1.6 + min(0.26 * rows + 0.6, 7))
    colours = signed_map(ax).with_extremes(bad=GREY)
    drawn = ax.imshow(
        np.ma.masked_invalid(values),
        cmap=colours,
        vmin=-limit,
        vmax=limit,
        aspect="auto",
        interpolation="nearest",
    )
    doubtful = uncertain(values, None if found.errors is None else found.errors[:, order])
    mark = "dot" if rows <= _LEGIBLE else "pale"  # dots on small cells would hide them
    if doubtful.any() and mark == "dot":
        y, x = np.nonzero(doubtful)
        shades = [ink_on(colours(0.5 + 0.5 * v / limit)) for v in values[y, x]]
        ax.scatter(x, y, c=shades, s=min(9.0, 240 / rows), linewidths=0)
    elif doubtful.any():
        drawn.set_alpha(np.where(doubtful, 0.35, 1.0))
    ax.set_xticks(range(len(order)), labels=[shortened(found.names[i], 24) for i in order])
    slant(ax)
    legible = names is not None and rows <= _LEGIBLE
    dress(ax, ylabel="" if legible else "row")
    if names is not None and legible:
        ax.set_yticks(range(rows), labels=[shortened(name, 24) for name in names])
    else:
        ax.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    for spine in ax.spines.values():
        spine.set_visible(False)
    meaning = f"{contribution_label(found.target)}\n← lowers it · raises it →"
    colour_bar(ax, ScalarMappable(drawn.norm, colours), meaning)
    notes = []
    if doubtful.any():
        notes.append(f"{mark}: within two standard errors of zero")
    if not np.isfinite(values).all():
        notes.append("grey: not a number")
    if len(found.names) > len(order):
        notes.append(f"{len(found.names) - len(order)} smaller features not shown")
    if notes:
        ax.set_title(" · ".join(notes), fontsize="small", color=ink(ax), loc="left")
    return ax
