"""Pictures of attributions, with the names and signatures of ``captum.attr.visualization``.

Matplotlib is imported when something is drawn, IPython when a text is shown; neither has to be
installed to import this module. Arrays may be numpy arrays or tensors.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.checks import check, check_choice, check_count
from ._drawing import VisualizeSign, array, colour_map, figure_for, normalized, room_below, show
from ._series_picture import TimeseriesVisualizationMethod, visualize_timeseries_attr
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


def _pixels(values: Any) -> Any:
    return np.clip(values.astype(int), 0, 255)


def _picture(original_image: Any, method: str, shape: Any) -> Any:
    """The image as [H, W, C], in 0 to 255 if it came in 0 to 1; None if there is none."""
    if original_image is None:
        needless = method == "heat_map"
        check(needless, "original_image", f"an image, as method is {method!r}", "None")
        return None
    image = array(original_image, "original_image")
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
        attr = array(attr, "attr")
        check(attr.ndim in (2, 3), "attr", "shape (H, W, C) or (H, W)", attr.shape)
        attr = attr.sum(axis=2) if attr.ndim == 3 else attr
    image = _picture(original_image, method, None if attr is None else attr.shape)
    if method != "original_image":
        norm_attr = normalized(attr, sign, outlier_perc)
    colours, norm = colour_map(sign, cmap)

    figure, ax = figure_for(plt_fig_axis, use_pyplot, fig_size)
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
        bar = room_below(ax, 0.1)
        if heat_map is None:
            bar.axis("off")
        else:
            figure.colorbar(heat_map, orientation="horizontal", cax=bar)
    if title:
        ax.set_title(title)
    show(use_pyplot)
    return figure, ax


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
    figure, axes = figure_for(None, use_pyplot, fig_size, ncols=len(methods), squeeze=False)
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
    show(use_pyplot)
    return figure, axes[0].tolist() if len(methods) > 1 else axes[0, 0]


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

    inside = array(mask, "mask").astype(bool)
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
    inside = array(mask, "mask").astype(bool)
    check(inside.ndim == 2, "mask", "shape (H, W)", inside.shape)
    if not inside.any():
        return
    y, x = (places.mean() for places in np.where(inside))
    box = {"boxstyle": "round,pad=0.2", "facecolor": bbox_facecolor, "alpha": bbox_alpha}
    text = ax.text(x, y, label, color=text_color, fontsize=fontsize, bbox=box)
    text.set(ha="center", va="center")
