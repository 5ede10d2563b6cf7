"""Contributions of the pixels of an image."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from ..attr._explanation import Explanation
from ..core.checks import check, check_choice
from ._look import colour_bar, dress, ink, literal, new_axes, signed_map, strength_map
from ._table import check_index, check_names, finite, to_array

if TYPE_CHECKING:
    pass

_LINE = 28  # letters of a title in a line, as wide as the picture


def image(
    explanation: Any,
    picture: Any = None,
    *,
    row: int | None = None,
    mode: str = "signed",
    errors: Any = None,
    titles: Any = None,
    ax: Any = None,
) -> Any:
    """Draws the contributions of pixels over their image, for one method or for several.

    Channels are summed before anything else. The strongest colour stands for the size that one
    pixel in a hundred exceeds, in each picture for itself, as methods differ in their units.

    Args:
        explanation: an explanation, or attributions [B, C, H, W], [C, H, W] or [H, W]; a dict of
            them by the names of methods, or a list, for pictures side by side.
        picture: the image, [C, H, W], [H, W] or with a batch dimension, shown in grey behind.
            Attributions of fewer places, as those of a layer, are stretched over it.
        row: the row to draw, where there are several.
        mode: ``signed``, in the colours of what raises the output and lowers it; ``absolute``,
            how much a pixel contributes, whatever the sign.
        errors: standard errors, in the form of the attributions, of one method; None for the
            explanation's. A line goes around what is more than two of them from zero; those of
            summed channels are taken as independent.
        titles: one for each picture; None for the methods' names.
        ax: where to draw, for several methods a sequence of axes; None makes a figure.

    Returns:
        The axes, or an array of them for a dict or a list.

    Example:
        >>> found = {"IG": ig.attribute(x, target=3), "Saliency": saliency.attribute(x, target=3)}
        >>> axes = fastxai.plot.image(found, x)
        >>> axes[0].figure.savefig("methods.png")
    """
    check_choice(mode, "mode", ["signed", "absolute"])
    several = isinstance(explanation, dict | list)
    parts = explanation if several else [explanation]
    parts = list(parts.values()) if isinstance(parts, dict) else parts
    check(len(parts) > 0, "explanation", "at least one method", "none")
    check(errors is None or not several, "errors", "None, as there are several methods", "errors")
    found = [_pixels(part, errors, row) for part in parts]
    behind = None if picture is None else _grey(picture, row)
    if behind is not None:
        found = [_over(values, spread, behind.shape) for values, spread in found]
    if titles is None and isinstance(explanation, dict):
        titles = list(explanation)
    if titles is None:
        titles = [p.method if isinstance(p, Explanation) else "" for p in parts]
    titles = [titles] if isinstance(titles, str) else titles
    titles = check_names(titles, "titles", len(parts))

    axes = _axes(ax, several, len(parts))
    for one, (values, spread), title in zip(axes, found, titles, strict=True):
        _draw(one, values, spread, behind, mode, title)
    return np.array(axes, dtype=object) if several else axes[0]


def _axes(ax: Any, several: bool, count: int) -> list[Any]:
    if not several:
        return [new_axes(ax, 4.6, 3.8)]
    if ax is None:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(0.4 + 3.6 * count, 3.8), layout="constrained")
        return list(figure.subplots(1, count, squeeze=False)[0])
    given = list(np.ravel(np.asarray(ax, dtype=object)))
    check(len(given) == count, "ax", "{} axes, one for each method", len(given), count)
    return [new_axes(one, 0, 0) for one in given]


def _pixels(explanation: Any, errors: Any, row: int | None) -> tuple[Any, Any]:
    """Sums over channels [H, W], with their standard errors."""
    values = explanation
    if isinstance(explanation, Explanation):
        values = explanation.values
        errors = explanation.standard_errors if errors is None else errors
    check(not isinstance(values, tuple), "explanation", "the values of one input", "a tuple")
    array = _one(to_array(values, "explanation"), "explanation", row)
    if errors is None:
        return array.sum(axis=0), None
    check(not isinstance(errors, tuple), "errors", "those of one input", "a tuple")
    spread = _one(to_array(errors, "errors"), "errors", row)
    check(spread.shape == array.shape, "errors", "shape {}", spread.shape, array.shape)
    return array.sum(axis=0), np.sqrt((spread**2).sum(axis=0))


def _one(array: Any, argument: str, row: int | None) -> Any:
    """[C, H, W] of one row."""
    fine = array.ndim in (2, 3, 4) and array.size > 0
    check(fine, argument, "shape [B, C, H, W], [C, H, W] or [H, W]", array.shape)
    if array.ndim == 4:
        alone = row is not None or len(array) == 1
        check(alone, "row", "an index, as there are {} rows", "None", len(array))
        return array[check_index(row or 0, "row", len(array))]
    return array if array.ndim == 3 else array[None]


def _grey(picture: Any, row: int | None) -> Any:
    array = to_array(picture, "picture")
    array = _one(array, "picture", row if array.ndim == 4 and len(array) > 1 else None)
    return array.mean(axis=0)


def _over(values: Any, spread: Any, shape: tuple[int, int]) -> tuple[Any, Any]:
    """Both in the picture's shape, each place as the rectangle of pixels that it is about."""
    (high, wide), (height, width) = values.shape, shape
    is_coarser = high <= height and wide <= width and abs(high * width - wide * height) < max(shape)
    expected = "the height and width of the attributions, {}, or a multiple of them"
    check(is_coarser, "picture", expected, shape, values.shape)
    rows, columns = np.arange(height) * high // height, np.arange(width) * wide // width
    place = rows[:, None], columns[None]
    return values[place], None if spread is None else spread[place]


def _draw(ax: Any, values: Any, spread: Any, behind: Any, mode: str, title: str) -> None:
    sizes = np.abs(finite(values))
    limit = float(np.quantile(sizes, 0.99)) or float(sizes.max()) or 1.0
    signed = mode == "signed"
    shown = values if signed else np.abs(values)
    look = {"vmin": -limit if signed else 0, "vmax": limit, "interpolation": "nearest"}
    colours = signed_map(ax) if signed else strength_map(ax)
    if behind is not None:
        # Pale, so that colours tell contributions and nothing else; strong ones cover it.
        ax.imshow(behind, cmap="gray", alpha=0.45, interpolation="nearest")
        look["alpha"] = 0.9 * np.clip(sizes / limit, 0, 1) ** 0.6
    drawn = ax.imshow(np.ma.masked_invalid(shown), cmap=colours, **look)
    sure = None
    if spread is not None:
        sure = sizes > 2 * spread
        _outline(ax, sure)
    dress(ax)
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
    if title:
        ax.set_title(literal(textwrap.fill(title, _LINE)), color=ink(ax))
    label = "← lowers it · raises it →" if signed else "|contribution|"
    drawn = _scale(drawn) if behind is not None else drawn
    colour_bar(ax, drawn, label)
    if sure is not None:
        note = "outlined: more than two\nstandard errors from zero"
        ax.set_xlabel(note, fontsize="small", color=ink(ax))


def _scale(drawn: Any) -> Any:
    """The colours without the opacities of pixels, for the colour bar."""
    from matplotlib.cm import ScalarMappable

    return ScalarMappable(drawn.norm, drawn.cmap)


def _outline(ax: Any, inside: Any) -> None:
    """Lines along the pixels' edges, around those that are inside."""
    from matplotlib.collections import LineCollection

    wide = np.pad(inside, 1)
    y, x = np.nonzero(wide[1:, :] != wide[:-1, :])
    lines = [[(i - 1.5, j - 0.5), (i - 0.5, j - 0.5)] for j, i in zip(y, x, strict=True)]
    y, x = np.nonzero(wide[:, 1:] != wide[:, :-1])
    lines += [[(i - 0.5, j - 1.5), (i - 0.5, j - 0.5)] for j, i in zip(y, x, strict=True)]
    ax.add_collection(LineCollection(lines, colors=ink(ax), linewidths=1.0))
