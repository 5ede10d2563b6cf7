"""What pictures of attributions have in common: values brought to a scale, colours and figures.

Matplotlib is imported when something is drawn.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

import numpy as np
from torch import Tensor

from ..core.checks import check, check_number, warn


class VisualizeSign(Enum):
    """Which attributions are drawn."""

    positive = 1
    absolute_value = 2
    negative = 3
    all = 4


_SIGNED: dict[str, Any] = {  # what is kept of the attributions, and the colours for it
    "positive": (lambda attr: attr.clip(min=0), "Greens"),
    "absolute_value": (np.abs, "Blues"),
    "negative": (lambda attr: -attr.clip(max=0), "Reds"),
    "all": (lambda attr: attr, None),
}


def array(value: Any, argument: str) -> Any:
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    check(isinstance(value, np.ndarray), argument, "an array or a tensor", type(value).__name__)
    return value


def normalized(attr: Any, sign: str, outlier_perc: float) -> Any:
    """Scales attributions to [-1, 1], or to [0, 1] for one sign; outliers become ±1."""
    check(attr.size > 0, "attr", "at least one value", f"shape {attr.shape}")
    check(bool(np.isfinite(attr).all()), "attr", "finite values", "NaN or infinity")
    share = check_number(outlier_perc, "outlier_perc", "a percentage of 0 to 100")
    check(share <= 100, "outlier_perc", "a percentage of 0 to 100", outlier_perc)
    kept = _SIGNED[sign][0](attr)
    ordered = np.sort(np.abs(kept), axis=None)
    sums = np.cumsum(ordered)
    scale = ordered[np.argmax(sums >= sums[-1] * 0.01 * (100.0 - share))]
    got = "only zeros" if sums[-1] == 0 else f"too few for outlier_perc={outlier_perc}"
    check(scale != 0, "attr", f"values other than zero of sign {sign!r}", got)
    if scale < 1e-5:
        warn(f"attr is scaled up from {scale:.2g}: what is drawn may be no more than rounding")
    return np.clip(kept / scale, -1, 1)


def colour_map(sign: str, cmap: Any) -> Any:
    """The colour map that was asked for, or that of the sign, and the norm for it."""
    from matplotlib import colormaps, colors

    norm = colors.Normalize(-1 if sign == "all" else 0, 1)
    if cmap is None:
        cmap = _SIGNED[sign][1]
    if cmap is None:
        return colors.LinearSegmentedColormap.from_list("RdWhGn", ["red", "white", "green"]), norm
    return colormaps[cmap] if isinstance(cmap, str) else cmap, norm


def figure_for(given: Any, use_pyplot: bool, fig_size: Any, **subplots: Any) -> Any:
    if given is not None:
        return given
    if use_pyplot:
        from matplotlib import pyplot

        return pyplot.subplots(figsize=fig_size, **subplots)
    from matplotlib.figure import Figure

    figure = Figure(figsize=fig_size)
    return figure, figure.subplots(**subplots)


def show(use_pyplot: bool) -> None:
    if use_pyplot:
        from matplotlib import pyplot

        pyplot.show()


def room_below(ax: Any, pad: float) -> Any:
    from mpl_toolkits.axes_grid1 import make_axes_locatable

    return make_axes_locatable(ax).append_axes("bottom", size="5%", pad=pad)
