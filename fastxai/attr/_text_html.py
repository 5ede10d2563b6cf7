"""Texts with coloured words as HTML, as ``captum.attr.visualization`` writes them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib.util import find_spec
from typing import Any

from torch import Tensor

from ..core.checks import check


class VisualizationDataRecord:
    """What :func:`visualize_text` shows of one text."""

    __slots__ = (
        "attr_class",
        "attr_score",
        "convergence_score",
        "pred_class",
        "pred_prob",
        "raw_input_ids",
        "true_class",
        "word_attributions",
    )

    def __init__(
        self,
        word_attributions: Any,
        pred_prob: float,
        pred_class: Any,
        true_class: Any,
        attr_class: Any,
        attr_score: float,
        raw_input_ids: list[str],
        convergence_score: float,
    ) -> None:
        self.word_attributions = word_attributions
        self.pred_prob = pred_prob
        self.pred_class = pred_class
        self.true_class = true_class
        self.attr_class = attr_class
        self.attr_score = attr_score
        self.raw_input_ids = raw_input_ids
        self.convergence_score = convergence_score


class _Markup(str):
    """What stands in for IPython's HTML where that is not installed; notebooks show it."""

    @property
    def data(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return str(self)


def _colour(value: float) -> str:
    """Green above zero, red below, white at zero; NaN is white too."""
    value = max(-1.0, min(1.0, float(value))) if value == value else 0.0
    if value > 0:
        return f"hsl(120, 75%, {100 - int(50 * value)}%)"
    return f"hsl(0, 75%, {100 - int(-40 * value)}%)"


def format_classname(classname: Any) -> str:
    """Makes a cell of a table with the name of a class."""
    text = escape(str(classname), quote=False)
    return f'<td><text style="padding-right:2em"><b>{text}</b></text></td>'


def format_special_tokens(token: str) -> str:
    """Writes ``<pad>`` as ``#pad``; other tokens stay as they are."""
    return "#" + token.strip("<>") if token.startswith("<") and token.endswith(">") else token


def format_tooltip(item: str, text: str) -> str:
    """Makes HTML that shows ``text`` where the mouse is over ``item``, both of them HTML."""
    gap = "\n" + " " * 8
    parts = ['<div class="tooltip">', item, gap]
    return "".join([*parts, f'<span class="tooltiptext">{text}</span>', gap, "</div>"])


def format_word_importances(words: Sequence[str], importances: Any) -> str:
    """Makes a cell of a table with words on the colours of their importances.

    Args:
        words: the tokens of a text; what is special in HTML is escaped.
        importances: a number in [-1, 1] for each word at least: a list, an array or a tensor [T].

    Returns:
        The cell, which is empty where there are no importances.
    """
    if importances is None or len(importances) == 0:
        return "<td></td>"
    shape = tuple(getattr(importances, "shape", (len(importances),)))
    check(len(shape) == 1, "importances", "one number for each word", f"shape {shape}")
    check(len(words) <= shape[0], "importances", "a number for each of {} words", shape, len(words))
    if isinstance(importances, Tensor):
        importances = importances.tolist()
    tags = [
        f'<mark style="background-color: {_colour(importance)}; opacity:1.0; line-height:1.75">'
        f'<font color="black"> {escape(format_special_tokens(word), quote=False)} </font></mark>'
        for word, importance in zip(words, importances, strict=False)
    ]
    return "".join(["<td>", *tags, "</td>"])


def visualize_text(datarecords: Iterable[VisualizationDataRecord], legend: bool = True) -> Any:
    """Shows texts with their words coloured: green raises the score, red lowers it.

    Args:
        datarecords: the texts, and what the model made of them.
        legend: explains the colours above the table.

    Returns:
        IPython's ``HTML``, which is displayed at once; without IPython a string that notebooks
        show as HTML. Both have the markup as ``data``.

    Example:
        >>> scores = attributions.sum(-1)[0] / attributions.norm()
        >>> record = VisualizationDataRecord(scores, 0.9, "pos", "pos", "pos", 1.2, tokens, 0.01)
        >>> page = visualize_text([record]).data
    """
    heads = ["True Label", "Predicted Label", "Attribution Label", "Attribution Score"]
    parts = ['<table style="width: 100%">']
    if legend:
        parts.append(_legend())
    parts.append("<tr>" + "".join(f"<th>{head}</th>" for head in [*heads, "Word Importance"]))
    parts.append("</tr>")
    for record in datarecords:
        cells = [
            format_classname(record.true_class),
            format_classname(f"{record.pred_class} ({record.pred_prob:.2f})"),
            format_classname(record.attr_class),
            format_classname(f"{record.attr_score:.2f}"),
            format_word_importances(record.raw_input_ids, record.word_attributions),
        ]
        parts.append("".join(["<tr>", *cells, "</tr>"]))
    parts.append("</table>")
    markup = "".join(parts)
    if find_spec("IPython") is None:
        return _Markup(markup)
    from IPython.display import HTML, display

    page = HTML(markup)
    display(page)
    return page


def _legend() -> str:
    box = "border-top: 1px solid; margin-top: 5px; padding-top: 5px; display: inline-block"
    swatch = "display: inline-block; width: 10px; height: 10px; border: 1px solid"
    kinds = [(-1, "Negative"), (0, "Neutral"), (1, "Positive")]
    entries = [
        f'<span style="{swatch}; background-color: {_colour(value)}"></span> {label}  '
        for value, label in kinds
    ]
    return "".join([f'<div style="{box}"><b>Legend: </b>', *entries, "</div>"])
