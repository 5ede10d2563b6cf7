"""An explanation as a table of HTML, for notebooks.

It is complete in itself, without scripts, and keeps the page's own colour of writing: it can be
read on light and on dark pages.
"""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ..interop.tables import as_array
from ._explanation_to_shap import default_names
from ._palette import LOWERS, RAISES, rgb

_ROWS, _OUTPUTS, _FEATURES, _PICTURES = 10, 5, 12, 4  # shown at most
_SIDE = 160  # pixels of a picture
_STYLE = """
.fastxai-explanation {overflow-x: auto}
.fastxai-explanation small {opacity: 0.75}
.fastxai-explanation .fastxai-sign {padding: 0 0.4em; border-radius: 0.2em}
.fastxai-explanation table {border-collapse: collapse; margin: 0.4em 0}
.fastxai-explanation table td, .fastxai-explanation table th {
 padding: 0.2em 0.55em; text-align: right; white-space: nowrap; vertical-align: middle}
.fastxai-explanation table th {border-bottom: 1px solid rgba(128, 128, 128, 0.4)}
.fastxai-explanation table img {image-rendering: pixelated}
"""


def page(explanation: Any, targets: tuple[int, ...], summary: str) -> str:
    """A ``<div>`` that shows an explanation with rows; ``targets`` is C of its values."""
    values = explanation.values
    by_layer = values if isinstance(values, list) else [values]
    errors = explanation.standard_errors
    errors = errors if isinstance(errors, list) else [errors] * len(by_layer)
    tables = []
    for i, (found, spread) in enumerate(zip(by_layer, errors, strict=True)):
        heading = f"<div>layer {i}</div>" if len(by_layer) > 1 else ""
        tables.append(heading + _part(explanation, targets, found, spread))
    return (
        f'<div class="fastxai-explanation"><style>{_STYLE}</style>'
        f'<div title="{escape(summary)}">{_headline(explanation)}</div>{"".join(tables)}</div>'
    )


def _headline(explanation: Any) -> str:
    parts = [f"<b>{escape(explanation.method)}</b>"]
    target = explanation.target
    if isinstance(target, int | str | tuple):
        parts.append(f"target {escape(_target_name(explanation, target))}")
    for count, unit in ((explanation.samples, "samples"), (explanation.players, "players")):
        if count is not None and count.numel():
            least, most = int(count.min()), int(count.max())
            parts.append(f"{least:,} to {most:,} {unit}" if least < most else f"{most:,} {unit}")
    if explanation.reached is not None and explanation.reached.numel():
        parts.append(f"standard errors up to {float(explanation.reached.max()):.2%}")
    if explanation.tier is not None:
        parts.append(f"{escape(explanation.tier)} tier")
    delta = explanation.convergence_delta
    if delta is not None and delta.numel():
        parts.append(f"convergence delta up to {float(delta.abs().max()):.2g}")
    parts.append(f"{explanation.seconds * 1e3:.3g} ms")
    legend = (
        f'<span class="fastxai-sign" style="background: {_shade(1, 1)}">raises the output</span> '
        f'<span class="fastxai-sign" style="background: {_shade(-1, 1)}">lowers it</span>'
    )
    return f"{' · '.join(parts)} {legend}"


@dataclass(frozen=True)
class _Columns:
    """Features beside one another."""

    values: Tensor  # [B, C, M] float64
    errors: Tensor | None  # [B, C, M] float64
    data: Any  # [B, M] or None
    names: Sequence[str]  # M


def _part(explanation: Any, targets: tuple[int, ...], values: Any, errors: Any) -> str:
    parts = values if isinstance(values, tuple) else (values,)
    c = len(targets)
    shapes = [tuple(p.shape[1 + c :]) for p in parts]
    rows = len(parts[0])
    if any(p.numel() == 0 or len(p) != rows for p in parts) or max(map(len, shapes)) > 3:
        listed = ", ".join(str(tuple(p.shape)) for p in parts)
        return _note(f"Values of shape {listed}.")
    flat = [_by_output(p, c) for p in parts]
    spread = None
    if errors is not None:
        spread = [_by_output(p, c) for p in (errors if isinstance(errors, tuple) else (errors,))]
    data = _data(explanation.data, parts, shapes)
    if len(parts) == 1 and len(shapes[0]) == 3:
        return _pictures(explanation, targets, flat[0], None if data is None else data[0])
    note, names = "", explanation.feature_names
    if any(len(s) > 1 for s in shapes) and not (
        names is not None and len(names) == sum(map(math.prod, shapes))
    ):
        # Of words or moments, each with numbers of its own, as embeddings have them.
        note = "Each is the sum over the dimensions after the first of a row. "
        keep = [min(1, len(s)) for s in shapes]
        flat = [
            p.flatten(2 + k).sum(-1) if len(s) > k else p
            for p, s, k in zip(flat, shapes, keep, strict=True)
        ]
        if spread is not None:
            spread = [
                p.flatten(2 + k).square().sum(-1).sqrt() if len(s) > k else p
                for p, s, k in zip(spread, shapes, keep, strict=True)
            ]
        data = None
        shapes = [s[:1] for s in shapes]
    count = sum(map(math.prod, shapes))
    if names is None or len(names) != count:
        names = default_names(shapes, len(parts) > 1)
    joined = torch.cat([p.flatten(2) if p.dim() > 2 else p[..., None] for p in flat], 2)
    columns = _Columns(
        joined,
        None
        if spread is None
        else torch.cat([p.flatten(2) if p.dim() > 2 else p[..., None] for p in spread], 2),
        None if data is None else np.concatenate([as_array(d).reshape(rows, -1) for d in data], 1),
        names,
    )
    return _features(explanation, targets, columns, note)


def _by_output(values: Tensor, targets: int) -> Tensor:  # [B, *C, *F] -> [B, C, *F] float64
    values = values.detach().cpu().double()
    return values.flatten(1, targets) if targets else values[:, None]


def _data(data: Any, parts: Sequence[Tensor], shapes: Sequence[Any]) -> list[Tensor] | None:
    """The inputs in the values' form, if they have it."""
    if data is None:
        return None
    given = list(data) if isinstance(data, tuple) else [data]
    wanted = [(len(p), *s) for p, s in zip(parts, shapes, strict=True)]
    on_cpu = [d.detach().cpu().double() if isinstance(d, Tensor) else d for d in given]
    return on_cpu if [tuple(d.shape) for d in given] == wanted else None


def _features(explanation: Any, targets: tuple[int, ...], of: _Columns, note: str) -> str:
    count = of.values.shape[2]
    sizes = of.values.abs().nan_to_num(0.0, posinf=math.inf).mean((0, 1))
    largest = sizes.argsort(descending=True, stable=True)[:_FEATURES].sort().values.tolist()
    shown = of.values[:_ROWS, :_OUTPUTS, largest]
    limit = float(shown[shown.isfinite()].abs().max()) if bool(shown.isfinite().any()) else 0.0
    more = count > len(largest)
    heads = [_head(of.names[i]) for i in largest] + ([_head("...")] if more else [])

    def cells(row: int, output: int) -> str:
        found = []
        for i in largest:
            value = float(of.values[row, output, i])
            error = None if of.errors is None else float(of.errors[row, output, i])
            given = "" if of.data is None else _told(of.data[row, i])
            found.append(_value_cell(value, error, given, limit))
        return "".join(found) + (_cell("...") if more else "")

    if of.data is not None:
        note += "Below each is the feature's own value. "
    if more:
        note += f"{len(largest)} of {count:,} features are shown, those of the largest mean size. "
    return _table(explanation, targets, len(of.values), heads, cells, note, _ROWS)


def _told(value: Any) -> str:
    """A feature's own value: a number, or a word."""
    is_number = isinstance(value, Real) and not isinstance(value, bool | np.bool_)
    return _number(float(value)) if is_number else escape(_short(str(value)))


def _value_cell(value: float, error: float | None, given: str, limit: float) -> str:
    spread = "" if error is None else f" <small>± {error:.2g}</small>"
    below = f"<br><small>{given}</small>" if given else ""
    exact = escape(f"{value!r}" + ("" if error is None else f" ± {error!r}"))
    return (
        f'<td title="{exact}" style="background: {_shade(value, limit)}">'
        f"{_number(value, '+')}{spread}{below}</td>"
    )


def _pictures(
    explanation: Any, targets: tuple[int, ...], values: Tensor, data: Tensor | None
) -> str:
    summed = values.sum(2)  # [B, C, H, W]
    heads = ([_head("input")] if data is not None else []) + [_head("attributions")]

    def cells(row: int, output: int) -> str:
        found = "" if data is None else _picture(_grey(data[row]), "input")
        return found + _picture(_signed(summed[row, output]), "attributions")

    channels = values.shape[2]
    note = f"Summed over {channels} channels. " if channels > 1 else ""
    note += "The strongest colour is the size that one pixel in a hundred exceeds. "
    return _table(explanation, targets, len(values), heads, cells, note, _PICTURES)


def _table(
    explanation: Any,
    targets: tuple[int, ...],
    rows: int,
    heads: Sequence[str],
    cells: Any,
    note: str,
    most: int,
) -> str:
    """A line for each row and output, with the outputs first and the cells behind."""
    count = math.prod(targets)
    names = explanation.output_names
    named = names is not None and len(names) == count
    outputs = _outputs(explanation.outputs, rows)
    baselines = _outputs(explanation.baseline_outputs, rows)
    per_row = _targets_of_rows(explanation, rows)
    first = [_head("row")] + ([_head("of")] if targets or per_row else []) + [_head("output")]
    first += [_head("at baseline")] if baselines is not None else []
    lines = []
    for row in range(min(rows, most)):
        for output in range(min(count, _OUTPUTS)):
            line = [_cell(f"{row}" if output == 0 else "")]
            if targets:
                line.append(_cell(escape(_short(names[output] if named else str(output)))))
            elif per_row:
                line.append(_cell(escape(_short(per_row[row]))))
            for numbers in (outputs, baselines):
                if numbers is not None:
                    line.append(_cell(_number(float(numbers[row, output % numbers.shape[1]]))))
            lines.append(f"<tr>{''.join(line)}{cells(row, output)}</tr>")
        if count > _OUTPUTS:
            lines.append(
                f"<tr>{_cell('')}{_cell('...')}{_cell('') * (len(first) + len(heads) - 2)}</tr>"
            )
    if rows > most:
        lines.append(f"<tr>{_cell('...') * (len(first) + len(heads))}</tr>")
        note += f"{most} of {rows:,} rows are shown. "
    if count > _OUTPUTS:
        note += f"{_OUTPUTS} of {count:,} outputs are shown. "
    return (
        f"<table><thead><tr>{''.join(first)}{''.join(heads)}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table>{_note(note)}"
    )


def _outputs(outputs: Tensor | None, rows: int) -> Tensor | None:  # [B, C] float64
    if outputs is None or not outputs.numel():
        return None
    found = outputs.detach().cpu().double().reshape(len(outputs), -1)
    return found.expand(rows, -1) if len(found) in (1, rows) else None


def _targets_of_rows(explanation: Any, rows: int) -> list[str]:
    target = explanation.target
    found = target.tolist() if isinstance(target, Tensor) and target.dim() else target
    if not isinstance(found, list) or len(found) != rows:
        return []
    return [_target_name(explanation, one) for one in found]


def _target_name(explanation: Any, target: Any) -> str:
    names = explanation.output_names
    if isinstance(target, list) and len(target) == 1:
        target = target[0]
    if isinstance(target, int) and names is not None and -len(names) <= target < len(names):
        return str(names[target])
    return str(target)


def _head(name: str) -> str:
    return f'<th title="{escape(name)}">{escape(_short(name))}</th>'


def _cell(content: str) -> str:
    return f"<td>{content}</td>"


def _note(words: str) -> str:
    return f"<div><small>{escape(words.strip())}</small></div>" if words else ""


def _short(name: str, limit: int = 28) -> str:
    name = " ".join(name.split())
    return name if len(name) <= limit else f"{name[: limit - 10]}…{name[-9:]}"


def _number(value: float, sign: str = "") -> str:
    return f"{value:{sign}.4g}".replace("-", "−")


def _shade(value: float, limit: float) -> str:
    """The sign's colour, as opaque as the value is large; writing stays legible on it."""
    size = min(abs(value) / limit, 1.0) if limit and math.isfinite(value) else 0.0
    red, green, blue = rgb(RAISES if value > 0 else LOWERS)
    return f"rgba({red}, {green}, {blue}, {0.75 * size:.2f})"


def _grey(picture: Tensor) -> Tensor:  # [C, H, W] -> [H, W, 4] uint8
    found = _smaller(picture.double().mean(0).nan_to_num(0.0, 0.0, 0.0))
    low, high = found.min(), found.max()
    levels = ((found - low) / (high - low).clamp_min(1e-300) * 255).round()
    return torch.stack([levels, levels, levels, torch.full_like(levels, 255)], 2).byte()


def _signed(values: Tensor) -> Tensor:  # [H, W] -> [H, W, 4] uint8
    """Colours as opaque as the values are large: the page shows through where nothing matters."""
    found = _smaller(values.nan_to_num(0.0, 0.0, 0.0))
    sizes = found.abs()
    limit = float(sizes.flatten().quantile(0.99)) or float(sizes.max()) or 1.0
    raises, lowers = (found.new_tensor(rgb(colour)) for colour in (RAISES, LOWERS))
    colours = torch.where(found[..., None] > 0, raises, lowers)
    opacity = (sizes / limit).clamp(0, 1) * 255
    return torch.cat([colours, opacity[..., None]], 2).round().byte()


def _smaller(picture: Tensor) -> Tensor:  # [H, W]
    """Means over blocks of pixels, so that no side is too long."""
    height, width = (min(n, _SIDE) for n in picture.shape)
    if (height, width) == tuple(picture.shape):
        return picture
    return adaptive_avg_pool2d(picture[None], (height, width))[0]


def _picture(pixels: Tensor, what: str) -> str:
    height, width = pixels.shape[:2]
    scale = 120 / max(height, width)
    sides = f"width: {max(1, round(width * scale))}px; height: {max(1, round(height * scale))}px"
    code = base64.b64encode(_png(pixels)).decode()
    return _cell(f'<img alt="{what}" style="{sides}" src="data:image/png;base64,{code}">')


def _png(pixels: Tensor) -> bytes:  # [H, W, 4] uint8
    """A PNG file of red, green, blue and opacity."""
    height, width = pixels.shape[:2]
    lines = torch.cat([pixels.new_zeros(height, 1), pixels.reshape(height, -1)], 1)  # no filter

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    head = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    body = zlib.compress(lines.contiguous().numpy().tobytes(), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
