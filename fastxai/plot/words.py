"""Contributions of the words of a text."""

from __future__ import annotations

import unicodedata
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.checks import check
from ._look import LOWERS, RAISES, dress, ink, literal, new_axes, outside_legend
from ._table import table, uncertain, written

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def text(
    explanation: Any,
    tokens: Any,
    *,
    row: int | None = None,
    errors: Any = None,
    target_names: Any = None,
    target: int | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draws a text with its tokens on the colours of their contributions.

    Args:
        explanation: an explanation, or attributions [B, T] or [T], one for each token.
        tokens: T strings, as the reader is to see them; texts that run from right to left do so.
        row: the row to draw, where there are several.
        errors: standard errors, in the attributions' form; None for the explanation's. A dotted
            line is under tokens that are within two of them of zero; :func:`text_html` has the
            numbers.
        target_names: the name of the output, or those of all, of which ``target`` chooses.
        target: the index of the output, where several are explained.
        ax: where to draw, with the width that it is to keep: lines are broken for it; None makes
            a figure.

    Returns:
        The axes.

    Example:
        >>> explanation = fastxai.KernelShap(model).explain(tokens_ids, n_samples=200)
        >>> ax = fastxai.plot.text(explanation, tokens)
        >>> ax.figure.savefig("text.png")
    """
    found, words = _read(explanation, tokens, row, errors, target_names, target)
    values, limit = found.values[0], _limit(found.values[0])
    doubtful = uncertain(values, None if found.errors is None else found.errors[0])
    lines = 1 + sum(len(word) + 2 for word in words) // 70 + sum("\n" in word for word in words)
    ax = new_axes(ax, 7.0, 0.75 + 0.29 * lines)
    dress(ax)
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set_xlim(0, 1)
    artists = [
        ax.text(
            0,
            0,
            _visible(word),
            color=ink(ax),
            va="baseline",
            ha="left",
            parse_math=False,  # a dollar is a dollar
            in_layout=False,
            bbox={
                "boxstyle": "square,pad=0.2",
                "facecolor": _shade(value, limit),
                "edgecolor": "none",
            },
        )
        for word, value in zip(words, values, strict=True)
    ]
    _explain(ax, limit, bool(doubtful.any()), found.target)
    _flow(ax, artists, words, doubtful, _runs_left(words))
    return ax


def _read(
    explanation: Any, tokens: Any, row: Any, errors: Any, target_names: Any, target: Any
) -> tuple[Any, list[str]]:
    found = table(explanation, errors=errors, target_names=target_names, target=target).row(row)
    check(not isinstance(tokens, str), "tokens", "a sequence of strings", "one string")
    words = list(tokens)
    wrong = next((w for w in words if not isinstance(w, str)), None)
    check(wrong is None, "tokens", "strings", type(wrong).__name__)
    count = found.values.shape[1]
    check(len(words) == count, "tokens", "{}, one for each attribution", len(words), count)
    return found, words


def _limit(values: Any) -> float:
    return float(np.abs(values[np.isfinite(values)]).max(initial=0)) or 1.0


def _shade(value: float, limit: float) -> tuple[float, float, float, float]:
    """The sign's colour, as opaque as the value is large; writing stays legible on it."""
    from matplotlib.colors import to_rgb

    red, green, blue = to_rgb(RAISES if value > 0 else LOWERS)
    size = min(abs(value) / limit, 1.0) if np.isfinite(value) else 0.0
    return red, green, blue, 0.75 * size


def _visible(word: str) -> str:
    """A token without line breaks and without what no font has."""
    stripped = "".join(c for c in word if unicodedata.category(c)[0] != "C").strip()
    return stripped or "␣"


def _runs_left(words: list[str]) -> bool:
    """Whether more letters run from right to left than from left to right."""
    kinds = [unicodedata.bidirectional(c) for word in words for c in word]
    return sum(kind in ("R", "AL") for kind in kinds) > kinds.count("L")


def _flow(ax: Any, artists: Any, words: Any, doubtful: Any, leftwards: bool) -> None:
    """Sets the words one after the other in lines as wide as the axes, and smaller if need be."""
    figure = ax.get_figure(root=True)
    figure.draw_without_rendering()  # which lays out the axes
    box = ax.get_window_extent()
    while True:
        size = artists[0].get_fontsize() * figure.dpi / 72  # pixels
        places, height = _lines(artists, words, box.width, size)
        if height <= box.height or artists[0].get_fontsize() < 5:
            break
        for artist in artists:
            artist.set_fontsize(0.92 * artist.get_fontsize())
    ax.set_ylim(box.height, 0)  # pixels from the top
    for artist, (left, line, wide), doubt in zip(artists, places, doubtful, strict=True):
        left = box.width - left - wide if leftwards else left
        artist.set_position((left / box.width, line))
        if doubt:
            ends, under = [left / box.width, (left + wide) / box.width], line + 0.42 * size
            look: dict[str, Any] = {"lw": 1.2, "ls": ":", "clip_on": False, "in_layout": False}
            ax.plot(ends, [under, under], color=ink(ax), **look)


def _lines(artists: Any, words: Any, width: float, size: float) -> tuple[list[Any], float]:
    """Where each word begins, on which line it stands and how wide it is; the height of all."""
    x, line, places = 0.0, 1.5 * size, []
    for artist, word in zip(artists, words, strict=True):
        wide = artist.get_window_extent().width
        if "\n" in word or (x > 0 and x + wide + 0.4 * size > width):
            x, line = 0.0, line + 1.9 * size
        places.append((x + 0.2 * size, line, wide))
        x += wide + 0.75 * size
    return places, line + 0.6 * size


def _explain(ax: Any, limit: float, doubts: bool, target: str | None) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    to = "the output" if target is None else literal(target)
    handles: list[Any] = [
        Patch(color=_shade(limit, limit), label=f"raises {to} ({written(limit)})"),
        Patch(color=_shade(-limit, limit), label=f"lowers it ({written(-limit)})"),
    ]
    if doubts:
        dotted = Line2D([], [], color=ink(ax), lw=1.0, ls=":")
        dotted.set_label("within two standard errors of zero")
        handles.append(dotted)
    outside_legend(ax, handles)


def text_html(
    explanation: Any,
    tokens: Any,
    *,
    row: int | None = None,
    errors: Any = None,
    target_names: Any = None,
    target: int | None = None,
) -> str:
    """Writes a text as HTML, with its tokens on the colours of their contributions.

    The numbers show where the mouse is over a token. The page's own colour of writing is kept, so
    that it can be read on light and on dark pages.

    Args:
        explanation: an explanation, or attributions [B, T] or [T], one for each token.
        tokens: T strings; they are escaped.
        row: the row to draw, where there are several.
        errors: standard errors, in the attributions' form; None for the explanation's.
        target_names: the name of the output, or those of all, of which ``target`` chooses.
        target: the index of the output, where several are explained.

    Returns:
        A ``<div>``.

    Example:
        >>> explanation = fastxai.KernelShap(model).explain(tokens_ids, n_samples=200)
        >>> page = fastxai.plot.text_html(explanation, tokens)
        >>> pathlib.Path("text.html").write_text(page)
    """
    found, words = _read(explanation, tokens, row, errors, target_names, target)
    values, limit = found.values[0], _limit(found.values[0])
    spread = [None] * len(values) if found.errors is None else found.errors[0]
    doubtful = uncertain(values, None if found.errors is None else found.errors[0])
    spans = []
    for word, value, error, doubt in zip(words, values, spread, doubtful, strict=True):
        under = "; text-decoration: underline dotted" if doubt else ""
        breaks = "<br>" * word.count("\n")
        spans.append(
            f'{breaks}<span style="background: {_css(value, limit)}; padding: 0.15em 0.25em; '
            f'border-radius: 0.2em{under}" title="{escape(written(value, error))}">'
            f"{escape(_visible(word))}</span>"
        )
    direction = "rtl" if _runs_left(words) else "ltr"
    to = escape("the output" if found.target is None else found.target)
    note = ", dotted: within two standard errors of zero" if doubtful.any() else ""
    swatch = "padding: 0.1em 0.4em; border-radius: 0.2em; background:"
    legend = (
        f'<div style="font-size: 0.85em; margin-bottom: 0.4em">'
        f'<span style="{swatch} {_css(limit, limit)}">raises {to}</span> '
        f'<span style="{swatch} {_css(-limit, limit)}">lowers it</span>{note}</div>'
    )
    body = f'<div dir="{direction}" style="line-height: 1.9">{" ".join(spans)}</div>'
    return f'<div class="fastxai-text">{legend}{body}</div>'


def _css(value: float, limit: float) -> str:
    red, green, blue, alpha = _shade(value, limit)
    return f"rgba({red * 255:.0f}, {green * 255:.0f}, {blue * 255:.0f}, {alpha:.2f})"
