"""Pictures of attributions, with the names and signatures of ``captum.attr.visualization``.

Matplotlib is imported when something is drawn, IPython when a text is shown; neither has to be
installed to import this module. Arrays may be numpy arrays or tensors.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from ..core.checks import check, check_choice, check_count, check_number, warn
from ._text_html import (
    VisualizationDataRecord,
    format_classname,
    format_special_tokens,
    format_tooltip,
    format_word_importances,
    visualize_text,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "ImageVisualizationMethod",
    "TimeseriesVisualizationMethod",
    "VisualizationDataRecord",
    "VisualizeSign",
    "draw_mask_border",
    "draw_mask_legend",
    "format_classname",
    "format_special_tokens",
    "format_tooltip",
    "format_word_importances",
    "visualize_image_attr",
    "visualize_image_attr_multiple",
    "visualize_text",
    "visualize_timeseries_attr",
]


class ImageVisualizationMethod(Enum):
    """How :func:`visualize_image_attr` draws."""

    heat_map = 1
    blended_heat_map = 2
    original_image = 3
    masked_image = 4
    alpha_scaling = 5


class TimeseriesVisualizationMethod(Enum):
    """How :func:`visualize_timeseries_attr` draws."""

    overlay_individual = 1
    overlay_combined = 2
    colored_graph = 3


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


def _array(value: Any, argument: str) -> Any:
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    check(isinstance(value, np.ndarray), argument, "an array or a tensor", type(value).__name__)
    return value


def _normalized(attr: Any, sign: str, outlier_perc: float) -> Any:
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


def _colours(sign: str, cmap: Any) -> Any:
    """The colour map that was asked for, or that of the sign, and the norm for it."""
    from matplotlib import colormaps, colors

    norm = colors.Normalize(-1 if sign == "all" else 0, 1)
    if cmap is None:
        cmap = _SIGNED[sign][1]
    if cmap is None:
        return colors.LinearSegmentedColormap.from_list("RdWhGn", ["red", "white", "green"]), norm
    return colormaps[cmap] if isinstance(cmap, str) else cmap, norm


def _figure(given: Any, use_pyplot: bool, fig_size: Any, **subplots: Any) -> Any:
    if given is not None:
        return given
    if use_pyplot:
        from matplotlib import pyplot

        return pyplot.subplots(figsize=fig_size, **subplots)
    from matplotlib.figure import Figure

    figure = Figure(figsize=fig_size)
    return figure, figure.subplots(**subplots)


def _show(use_pyplot: bool) -> None:
    if use_pyplot:
        from matplotlib import pyplot

        pyplot.show()


def _pixels(values: Any) -> Any:
    return np.clip(values.astype(int), 0, 255)


def _picture(original_image: Any, method: str, shape: Any) -> Any:
    """The image as [H, W, C], in 0 to 255 if it came in 0 to 1; None if there is none."""
    if original_image is None:
        needless = method == "heat_map"
        check(needless, "original_image", f"an image, as method is {method!r}", "None")
        return None
    image = _array(original_image, "original_image")
    fine = image.ndim in (2, 3) and image.size > 0
    check(fine, "original_image", "shape (H, W, C) or (H, W)", image.shape)
    image = image[:, :, None] if image.ndim == 2 else image
    channels = image.shape[2]
    check(
        channels in (1, 3, 4), "original_image", "1, 3 or 4 channels, as last dimension", channels
    )
    fits = shape is None or image.shape[:2] == shape[:2]
    check(
        fits, "original_image", f"the height and width of attr, {shape and shape[:2]}", image.shape
    )
    return _pixels(image * 255) if np.max(image) <= 1.0 else image


def _draw_image(ax: Any, image: Any, norm_attr: Any, method: str, alpha: float, look: Any) -> Any:
    """Draws by one method, and returns what a colour bar would describe, or None."""
    if method == "heat_map":
        return ax.imshow(norm_attr, **look)
    if method == "blended_heat_map":
        ax.imshow(np.mean(image, axis=2), cmap="gray")
        return ax.imshow(norm_attr, alpha=alpha, **look)
    if method == "masked_image":
        ax.imshow(_pixels(image * norm_attr[:, :, None]))
    elif method == "alpha_scaling":
        colours = image.repeat(3, axis=2) if image.shape[2] == 1 else image[:, :, :3]
        ax.imshow(np.concatenate([colours, _pixels(norm_attr[:, :, None] * 255)], axis=2))
    else:
        ax.imshow(image[:, :, 0] if image.shape[2] == 1 else image)
    return None


def visualize_image_attr(
    attr: Any,
    original_image: Any = None,
    method: str = "heat_map",
    sign: str = "absolute_value",
    plt_fig_axis: tuple[Figure, Axes] | None = None,
    outlier_perc: float = 2,
    cmap: Any = None,
    alpha_overlay: float = 0.5,
    show_colorbar: bool = False,
    title: str | None = None,
    fig_size: tuple[int, int] = (6, 6),
    use_pyplot: bool = True,
) -> tuple[Figure, Axes]:
    """Draws the attributions of an image.

    Args:
        attr: (H, W, C) or (H, W); channels are summed. None will do for ``original_image``.
        original_image: (H, W, C) or (H, W), in 0 to 1 or in 0 to 255.
        method: a name of :class:`ImageVisualizationMethod`: ``heat_map``, ``blended_heat_map``
            (over the image in grey), ``original_image``, ``masked_image`` (the image times the
            scaled attributions) or ``alpha_scaling`` (which are its opacity).
        sign: a name of :class:`VisualizeSign`; ``all`` is not for the last two methods.
        plt_fig_axis: the figure and the axes to draw on; None makes new ones.
        outlier_perc: the largest attributions that make up this percentage of their sum get the
            strongest colour.
        cmap: a colour map or its name; None for that of the sign.
        alpha_overlay: the opacity of a blended heat map.
        show_colorbar: draws a colour bar below; for methods without one its room is left free.
        title: written above.
        fig_size: width and height of a new figure, in inches.
        use_pyplot: makes the figure with pyplot, and calls its ``show``.

    Returns:
        The figure and the axes.

    Example:
        >>> attributions = IntegratedGradients(model).attribute(x, target=3)  # [1, 3, H, W]
        >>> image, attr = (t[0].permute(1, 2, 0) for t in (x, attributions))
        >>> figure, axes = visualize_image_attr(attr, image, "blended_heat_map", "all")
    """
    check_choice(method, "method", ImageVisualizationMethod.__members__)
    check_choice(sign, "sign", VisualizeSign.__members__)
    unsigned = method not in ("masked_image", "alpha_scaling") or sign != "all"
    check(unsigned, "sign", f"another than 'all', as method is {method!r}", "'all'")
    norm_attr = None
    if attr is not None or method != "original_image":
        attr = _array(attr, "attr")
        check(attr.ndim in (2, 3), "attr", "shape (H, W, C) or (H, W)", attr.shape)
        attr = attr.sum(axis=2) if attr.ndim == 3 else attr
    image = _picture(original_image, method, None if attr is None else attr.shape)
    if method != "original_image":
        norm_attr = _normalized(attr, sign, outlier_perc)
    colours, norm = _colours(sign, cmap)

    figure, ax = _figure(plt_fig_axis, use_pyplot, fig_size)
    ax = ax[0] if isinstance(ax, list) else ax
    ax.xaxis.set_ticks_position("none")
    ax.yaxis.set_ticks_position("none")
    ax.set_xticklabels([])
    ax.set_yticklabels([])
    ax.grid(visible=False)
    look = {"cmap": colours, "vmin": norm.vmin, "vmax": norm.vmax}
    heat_map = _draw_image(
        ax, image, norm_attr=norm_attr, method=method, alpha=alpha_overlay, look=look
    )
    if show_colorbar:
        bar = _room_below(ax, 0.1)
        if heat_map is None:
            bar.axis("off")
        else:
            figure.colorbar(heat_map, orientation="horizontal", cax=bar)
    if title:
        ax.set_title(title)
    _show(use_pyplot)
    return figure, ax


def _room_below(ax: Any, pad: float) -> Any:
    from mpl_toolkits.axes_grid1 import make_axes_locatable

    return make_axes_locatable(ax).append_axes("bottom", size="5%", pad=pad)


def visualize_image_attr_multiple(
    attr: Any,
    original_image: Any,
    methods: list[str],
    signs: list[str],
    titles: list[str] | None = None,
    fig_size: tuple[int, int] = (8, 6),
    use_pyplot: bool = True,
    **kwargs: Any,
) -> tuple[Figure, Any]:
    """Draws the attributions of an image in several ways, side by side.

    Args:
        attr: as in :func:`visualize_image_attr`, as are the other arguments.
        original_image: the image; None if all methods are ``heat_map``.
        methods: one for each picture.
        signs: one for each picture.
        titles: one for each picture, or None.
        fig_size: width and height of the figure, in inches.
        use_pyplot: makes the figure with pyplot, and calls its ``show``.
        **kwargs: for each call of :func:`visualize_image_attr`.

    Returns:
        The figure, and its axes: a list of them, or the only one.

    Example:
        >>> methods, signs = ["original_image", "heat_map"], ["all", "positive"]
        >>> figure, axes = visualize_image_attr_multiple(attr, image, methods, signs)
        >>> figure.savefig("attributions.png")
    """
    check(len(methods) > 0, "methods", "at least one method", "none")
    check(len(methods) == len(signs), "signs", "as many as methods, {}", len(signs), len(methods))
    if titles is not None:
        fine = len(methods) == len(titles)
        check(fine, "titles", "as many as methods, {}", len(titles), len(methods))
    figure, axes = _figure(None, use_pyplot, fig_size, ncols=len(methods), squeeze=False)
    for i, ax in enumerate(axes[0]):
        visualize_image_attr(
            attr,
            original_image,
            methods[i],
            signs[i],
            plt_fig_axis=(figure, ax),
            title=titles[i] if titles else None,
            use_pyplot=False,
            **kwargs,
        )
    figure.tight_layout()
    _show(use_pyplot)
    return figure, axes[0].tolist() if len(methods) > 1 else axes[0, 0]


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
    attr, data = _array(attr, "attr"), _array(data, "data")
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
    x = np.arange(length) if x_values is None else _array(x_values, "x_values")
    check(x.shape == (length,), "x_values", "shape ({},), as data has", x.shape, length)
    if channel_labels is not None:
        got = len(channel_labels)
        check(got >= channels, "channel_labels", "one for each of {} channels", got, channels)
    combined = method == "overlay_combined"
    norm_attr = _normalized(attr.sum(axis=0) if combined else attr, sign, outlier_perc)
    colours, norm = _colours(sign, cmap)

    panels = 1 if combined else channels
    figure, given = _figure(plt_fig_axis, use_pyplot, fig_size, nrows=panels, sharex=True)
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
        scale, bar = cm.ScalarMappable(norm, colours), _room_below(axes[-1], 0.4)
        figure.colorbar(scale, orientation="horizontal", cax=bar, alpha=alpha)
    if title:
        axes[0].set_title(title)
    _show(use_pyplot)
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


def draw_mask_border(
    ax: Axes, mask: Any, border_width: int = 1, border_color: Any = "black"
) -> None:
    """Draws the pixels of a region that are near its border.

    Args:
        ax: where to draw.
        mask: (H, W) bool, the region; an empty one draws nothing.
        border_width: how many pixels, counted along rows and columns.
        border_color: a colour's name, or RGBA.
    """
    from matplotlib import colors

    inside = _array(mask, "mask").astype(bool)
    check(inside.ndim == 2, "mask", "shape (H, W)", inside.shape)
    if not inside.any():
        return
    kept = inside
    for _ in range(check_count(border_width, "border_width")):
        wide = np.pad(kept, 1)
        kept = kept & wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:]
    colour = colors.to_rgba(border_color) if isinstance(border_color, str) else border_color
    ax.imshow((inside & ~kept)[:, :, None] * np.asarray(colour))


def draw_mask_legend(
    ax: Axes,
    mask: Any,
    label: str,
    fontsize: int = 10,
    text_color: str = "white",
    bbox_facecolor: str = "black",
    bbox_alpha: float = 0.6,
) -> None:
    """Writes a label at the centre of mass of a region.

    Args:
        ax: where to write.
        mask: (H, W) bool, the region; an empty one gets no label.
        label: what to write.
        fontsize: of the label.
        text_color: of the label.
        bbox_facecolor: the colour of the box around it.
        bbox_alpha: the opacity of that box.
    """
    inside = _array(mask, "mask").astype(bool)
    check(inside.ndim == 2, "mask", "shape (H, W)", inside.shape)
    if not inside.any():
        return
    y, x = (places.mean() for places in np.where(inside))
    box = {"boxstyle": "round,pad=0.2", "facecolor": bbox_facecolor, "alpha": bbox_alpha}
    text = ax.text(x, y, label, color=text_color, fontsize=fontsize, bbox=box)
    text.set(ha="center", va="center")
