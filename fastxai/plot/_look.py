"""Colours, and axes that look alike. Nothing here changes matplotlib's own settings."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ..attr._palette import LOWERS as LOWERS
from ..attr._palette import RAISES as RAISES
from ..core.checks import check

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Inputs' own values go from purple by teal to olive: nothing that raises or lowers.
LOW_TO_HIGH = ("#8A4FBF", "#2A9D8F", "#B8A10B")
STRONG = "#C2339B"  # contributes much, whatever the sign
GREY = "#8C8C8C"  # what has no sign: others, what is missing, what is not attributed


def new_axes(ax: Any, width: float, height: float) -> Axes:
    """The axes given, or those of a new figure, which pyplot does not know."""
    if ax is None:
        from matplotlib.figure import Figure

        return Figure(figsize=(width, height), layout="constrained").add_subplot()
    check(hasattr(ax, "get_figure"), "ax", "matplotlib axes", type(ax).__name__)
    axes: Axes = ax
    return axes


def background(ax: Any) -> tuple[float, float, float]:
    """What is seen behind what is drawn."""
    from matplotlib.colors import to_rgba

    red, green, blue = 1.0, 1.0, 1.0  # paper
    for colour in (ax.get_figure(root=True).get_facecolor(), ax.get_facecolor()):
        r, g, b, alpha = to_rgba(colour)
        red, green, blue = (
            alpha * new + (1 - alpha) * old for new, old in ((r, red), (g, green), (b, blue))
        )
    return red, green, blue


def is_dark(colour: Any) -> bool:
    from matplotlib.colors import to_rgb

    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return luminance < 0.18  # where black and white contrast alike


def ink(ax: Any) -> str:
    """The colour of writing."""
    return ink_on(background(ax))


def ink_on(colour: Any) -> str:
    return "#F2F2F2" if is_dark(colour) else "#262626"


def dress(ax: Any, *, xlabel: str = "", ylabel: str = "", title: str | None = None) -> None:
    """Labels in a colour that can be read, and no frame but the lines along them."""
    colour = ink(ax)
    ax.tick_params(colors=colour, which="both")
    for side, spine in ax.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(colour)
    ax.grid(visible=False)
    ax.set_xlabel(xlabel, color=colour)
    ax.set_ylabel(ylabel, color=colour)
    if title:
        ax.set_title(title, color=colour)


def slant(ax: Any) -> None:
    """Has the words along the x axis end below their places, as they are many or long."""
    ax.tick_params(axis="x", rotation=45)
    for label in ax.get_xticklabels():
        label.set(ha="right", rotation_mode="anchor")


def literal(words: str) -> str:
    """Words for matplotlib, which would read what is between two dollars as a formula."""
    return words.replace("$", r"\$")


def contribution_label(target: str | None, mean: bool = False) -> str:
    to = "the output" if target is None else literal(target)
    return f"mean |contribution| to {to}" if mean else f"contribution to {to}"


def colour_of(value: float) -> str:
    return RAISES if value > 0 else LOWERS if value < 0 else GREY


def signed_map(ax: Any) -> Any:
    """From what lowers to what raises; zero recedes into the background."""
    from matplotlib.colors import LinearSegmentedColormap

    middle = "#303030" if is_dark(background(ax)) else "#F4F4F4"
    ends = ("#7DB8EE", "#F9A66C") if is_dark(background(ax)) else ("#1F5F9E", "#B04A0A")
    stops = [(0.0, ends[0]), (0.2, LOWERS), (0.5, middle), (0.8, RAISES), (1.0, ends[1])]
    return LinearSegmentedColormap.from_list("lowers-raises", stops)


def strength_map(ax: Any) -> Any:
    """From nothing to much, whatever the sign: in neither of the two colours."""
    from matplotlib.colors import LinearSegmentedColormap

    middle = "#303030" if is_dark(background(ax)) else "#F4F4F4"
    return LinearSegmentedColormap.from_list("strength", [middle, STRONG])


def value_map() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("low-high", list(LOW_TO_HIGH))


def sign_legend(ax: Any, error_bars: Any = None, *, signs: bool = True) -> None:
    """Says below the picture what the two colours mean, and lines of the colour of error bars."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = []
    if signs:
        handles.append(Patch(color=RAISES, label="raises the output"))
        handles.append(Patch(color=LOWERS, label="lowers it"))
    if error_bars is not None:
        handles.append(Line2D([], [], color=error_bars, lw=1.2, label="± 1 standard error"))
    if handles:
        outside_legend(ax, handles)


def outside_legend(ax: Any, handles: list[Any]) -> None:
    """Draws a legend below the x axis and its label, where the title of the user's is not.

    A layout that made room for its width would squeeze the axes: the label has an empty line, which
    makes room for its height, and the legend takes no part.
    """
    from matplotlib.transforms import ScaledTranslation

    words, down = ax.get_xlabel(), 4.0  # points
    ticks = ax.xaxis.get_major_ticks()
    if ticks:
        label = ticks[0].label1
        slope = math.radians(label.get_rotation())
        letters = max(len(tick.label1.get_text()) for tick in ticks)
        lines = 1.3 * math.cos(slope) + 0.52 * letters * math.sin(slope)
        down += ticks[0].get_pad() + lines * label.get_size()
    if words:
        down += ax.xaxis.labelpad + 1.2 * ax.xaxis.label.get_size() * (1 + words.count("\n"))
    figure = ax.get_figure(root=True)
    below = ScaledTranslation(0, -down / 72, figure.dpi_scale_trans)
    legend = ax.legend(
        handles=handles,
        loc="upper center",
        bbox_to_anchor=(0.5, 0),
        bbox_transform=ax.transAxes + below,
        ncols=len(handles),
        frameon=False,
        fontsize="small",
        handlelength=1.2,
        columnspacing=1.2,
        borderaxespad=0,
        borderpad=0,
        labelcolor=ink(ax),
    )
    legend.set_in_layout(False)
    ax.set_xlabel(f"{words}\n " if words else " ")


def colour_bar(ax: Any, drawn: Any, label: str, ticks: Any = None, names: Any = None) -> Any:
    colour = ink(ax)
    bar = ax.get_figure(root=True).colorbar(drawn, ax=ax, fraction=0.04, pad=0.02, aspect=30)
    if ticks is not None:
        bar.set_ticks(ticks, labels=names)
    bar.set_label(label, color=colour)
    bar.ax.tick_params(colors=colour)
    bar.outline.set_visible(False)
    return bar
