"""An explanation in shap's form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np

from ..core.checks import check


def to_shap(
    explanation: Any,  # with rows
    targets: tuple[int, ...],  # C
    is_row: bool,
    feature_names: Sequence[str] | None,
    output_names: Sequence[str] | None,
) -> Any:
    """The ``shap.Explanation`` of :meth:`Explanation.to_shap`."""
    try:
        shap = import_module("shap")
    except ImportError as error:
        raise ImportError("to_shap needs shap: pip install shap") from error
    is_list = isinstance(explanation.values, list)
    check(not is_list, "values", "those of one layer for to_shap", "a list by layer")
    c, several = len(targets), isinstance(explanation.values, tuple)
    parts = _parts(explanation.values)
    rows = len(parts[0])
    shapes = [p.shape[1 + c :] for p in parts]
    count = sum(math.prod(s) for s in shapes)
    names = _names(feature_names, explanation.feature_names, "feature_names", count)
    keeps = not several and (len(shapes[0]) < 2 or names is None)

    def joined(arrays: list[Any], before: int) -> Any:  # [N, *C, *F_i] each -> [N, *F, C]
        found = arrays[0] if keeps else _flat(arrays, before)
        if before == 2:
            found = np.moveaxis(found, 1, -1)
        return found

    number = math.prod(targets)  # of outputs
    by_output = [p.reshape(rows, number, *s) for p, s in zip(parts, shapes, strict=True)]
    if not c:
        by_output = parts
    values = joined(by_output, 2 if c else 1)
    errors = None
    if explanation.standard_errors is not None:
        spread = _parts(explanation.standard_errors)
        if c:
            spread = [p.reshape(rows, number, *s) for p, s in zip(spread, shapes, strict=True)]
        errors = joined(spread, 2 if c else 1)
    if names is None and values.ndim - bool(c) < 3:
        names = default_names(shapes, several)
    held = explanation.output_names
    # Of one feature the name is a string, as shap has it.
    found = shap.Explanation(
        values,
        base_values=_base(explanation, values, rows, bool(c)),
        data=_data(explanation, shapes, rows, joined),
        feature_names=names[0] if names is not None and keeps and shapes[0] == () else names,
        output_names=_names(output_names, held, "output_names", math.prod(targets)) if c else None,
        compute_time=explanation.seconds,
        error_std=errors,
    )
    return found[0] if is_row else found


def _parts(values: Any) -> list[Any]:
    parts = values if isinstance(values, tuple) else (values,)
    return [as_float64(p) for p in parts]


def as_float64(tensor: Any) -> Any:
    """A tensor as numpy, float64; arrays, which are of words, as they are."""
    return tensor if isinstance(tensor, np.ndarray) else tensor.detach().cpu().double().numpy()


def _flat(arrays: list[Any], before: int) -> Any:
    return np.concatenate([a.reshape(*a.shape[:before], -1) for a in arrays], axis=before)


def _names(given: Any, held: Any, argument: str, count: int) -> list[str] | None:
    if given is None:
        return list(held) if held is not None and len(held) == count else None
    is_text = isinstance(given, str)
    check(not is_text, argument, "a sequence of {} names", "one string", count)
    names = [str(n) for n in given]
    check(len(names) == count, argument, "{} names", len(names), count)
    return names


def default_names(shapes: Sequence[tuple[int, ...]], several: bool) -> list[str]:
    """Names by place: "Feature 0", "Feature [0, 1]", "Input 1, feature 0"."""
    names = []
    for i, shape in enumerate(shapes):
        for place in np.ndindex(tuple(shape)):
            where = str(place[0]) if len(place) == 1 else str(list(place)) if place else "0"
            names.append(f"Input {i}, feature {where}" if several else f"Feature {where}")
    return names


def _base(explanation: Any, values: Any, rows: int, has_outputs: bool) -> Any:
    """Where the values add up from, [N] or [N, C]."""
    base = explanation.baseline_outputs
    if base is not None:
        base = as_float64(base)
        base = base.reshape(len(base), math.prod(base.shape[1:]))
    else:
        outputs = as_float64(explanation.outputs)
        outputs = outputs.reshape(len(outputs), math.prod(outputs.shape[1:]))
        total = values if has_outputs else values[..., None]
        base = outputs - total.sum(axis=tuple(range(1, total.ndim - 1)))
    base = np.array(np.broadcast_to(base, (rows, base.shape[1])))
    return base if has_outputs else base[:, 0]


def _data(explanation: Any, shapes: list[Any], rows: int, joined: Any) -> Any:
    """The inputs, [N, *F], if they have the values' form."""
    if explanation.data is None:
        return None
    data = explanation.data
    parts = [as_float64(d) for d in (data if isinstance(data, tuple) else (data,))]
    fits = [p.shape for p in parts] == [(rows, *s) for s in shapes]
    return joined(parts, 1) if fits else None
