"""Pictures of the attributions of time series."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.checks import check, check_choice, warn
from ._drawing import VisualizeSign, array, colour_map, figure_for, normalized, room_below, show

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class TimeseriesVisualizationMethod(Enum):
    """How :func:`visualize_timeseries_attr` draws."""

    overlay_individual = 1
    overlay_combined = 2
    colored_graph = 3


def visualize_timeseries_attr(
    attr: Any,
    data: Any,
    x_values: Any = None,
    method: str = "overlay_individual",
    sign: str = "absolute_value",
    channel_labels: list[str] | None = None,
    channels_last: bool = True,
    plt_fig_axis: tuple[Figure, Any] | None = None,
    outlier_perc: float = 2,
    cmap: Any = None,
    alpha_overlay: float = 0.7,
    show_colorbar: bool = False,
    title: str | None = None,
    fig_size: tuple[int, int] = (6, 6),
    use_pyplot: bool = True,
    **pyplot_kwargs: Any,
) -> tuple[Figure, Any]:
    """Draws the attributions of a time series.

    Args:
        attr: (N, C), or (C, N) where channels are not last.
        data: the series, of the same shape.
        x_values: (N,), where the points are, equally far apart; None for 0 to N − 1.
        method: a name of :class:`TimeseriesVisualizationMethod`: ``overlay_individual`` (a panel
            for each channel, coloured behind the line), ``overlay_combined`` (one panel, with the
            sum of the attributions) or ``colored_graph`` (the lines themselves are coloured).
        sign: a name of :class:`VisualizeSign`.
        channel_labels: one for each channel.
        channels_last: whether the shapes are (N, C).
        plt_fig_axis: the figure and its axes to draw on; None makes new ones.
        outlier_perc: as in :func:`visualize_image_attr`, as are ``cmap``, ``fig_size`` and
            ``use_pyplot``.
        cmap: a colour map or its name.
        alpha_overlay: the opacity of the colours behind the lines.
        show_colorbar: draws a colour bar below.
        title: written above.
        fig_size: width and height of a new figure.
        use_pyplot: whether pyplot makes and shows the figure.
        **pyplot_kwargs: for the lines, ``linewidth=3``.

    Returns:
        The figure, and its axes as they were made or given.

    Example:
        >>> attributions = DeepLift(model).attribute(x, target=0)  # [1, N, C]
        >>> figure, axes = visualize_timeseries_attr(attributions[0], x[0], sign="all")
        >>> figure.savefig("series.png")
    """
    from matplotlib import cm

    check_choice(method, "method", TimeseriesVisualizationMethod.__members__)
    check_choice(sign, "sign", VisualizeSign.__members__)
    attr, data = array(attr, "attr"), array(data, "data")
    check(attr.ndim == 2, "attr", "shape (N, C)", attr.shape)
    check(data.shape == attr.shape, "data", "the shape of attr, {}", data.shape, attr.shape)
    if channels_last:
        attr, data = attr.T, data.T
    channels, length = attr.shape
    if channels > length:
        warn(
            f"attr has more channels ({channels}) than times ({length}): is it the right way round?"
        )
    check(length > 1, "data", "at least two points in time", length)
    x = np.arange(length) if x_values is None else array(x_values, "x_values")
    check(x.shape == (length,), "x_values", "shape ({},), as data has", x.shape, length)
    if channel_labels is not None:
        got = len(channel_labels)
        check(got >= channels, "channel_labels", "one for each of {} channels", got, channels)
    combined = method == "overlay_combined"
    norm_attr = normalized(attr.sum(axis=0) if combined else attr, sign, outlier_perc)
    colours, norm = colour_map(sign, cmap)

    panels = 1 if combined else channels
    figure, given = figure_for(plt_fig_axis, use_pyplot, fig_size, nrows=panels, sharex=True)
    axes = np.atleast_1d(np.asarray(given, dtype=object)).ravel()
    check(len(axes) >= panels, "plt_fig_axis", "axes for {} panels", len(axes), panels)
    if combined:
        _draw_combined(axes[0], x, data, channel_labels, pyplot_kwargs)
        _colour_behind(axes[0], x, colours(norm(norm_attr)), alpha_overlay)
    else:
        for ax, values, series in zip(axes, norm_attr, data, strict=False):
            if method == "colored_graph":
                _draw_coloured(
                    ax,
                    x,
                    series=series,
                    values=values,
                    colours=colours,
                    norm=norm,
                    look=pyplot_kwargs,
                )
            else:
                ax.plot(x, series, **pyplot_kwargs)
                _colour_behind(ax, x, colours(norm(values)), alpha_overlay)
        for ax, label in zip(axes, channel_labels or [], strict=False):
            ax.set_ylabel(label)
        figure.subplots_adjust(hspace=0)
    for ax in axes:
        ax.set_xlim(x[0], x[-1])
    if show_colorbar:
        alpha = 1.0 if method == "colored_graph" else alpha_overlay
        scale, bar = cm.ScalarMappable(norm, colours), room_below(axes[-1], 0.4)
        figure.colorbar(scale, orientation="horizontal", cax=bar, alpha=alpha)
    if title:
        axes[0].set_title(title)
    show(use_pyplot)
    return figure, given


def _draw_combined(ax: Any, x: Any, data: Any, labels: Any, look: Any) -> None:
    from matplotlib import colormaps

    ax.set_prop_cycle(color=colormaps["Dark2"](range(8)))
    for i, series in enumerate(data):
        ax.plot(x, series, label=labels[i] if labels else None, **look)
    if labels:
        ax.legend(loc="best")


def _colour_behind(ax: Any, x: Any, colours: Any, alpha: float) -> None:
    half = (x[1] - x[0]) / 2
    for centre, colour in zip(x, colours, strict=True):
        ax.axvspan(centre - half, centre + half, facecolor=colour, edgecolor=None, alpha=alpha)


def _draw_coloured(
    ax: Any, x: Any, series: Any, values: Any, colours: Any, norm: Any, look: Any
) -> None:
    from matplotlib.collections import LineCollection

    points = np.stack([x, series], axis=1)  # [N, 2]
    segments = list(np.stack([points[:-1], points[1:]], axis=1))  # each [2, 2]
    lines = LineCollection(segments, cmap=colours, norm=norm, **look)
    lines.set_array(values)
    ax.add_collection(lines)
    low, high = series.min(), series.max()
    low, high = low - 0.2 * abs(low), high + 0.2 * abs(high)
    ax.set_ylim(*((low, high) if low < high else (-1, 1)))
