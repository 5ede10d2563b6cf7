"""What is drawn, as arrays: from an explanation or from plain attributions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from ..attr._explanation import Explanation, mapped, targets_of, with_rows
from ..core.checks import check, check_count
from ..importance import Importances
from ..interop.tables import names_of
from ._look import literal
from ._shap import is_shaps, parts_of

_LEFT_TO_RIGHT = "\u200e"


@dataclass(frozen=True)
class Table:
    """Attributions of rows to features."""

    values: Any  # [B, F] float64
    errors: Any  # [B, F] float64 or None
    names: list[str]  # F
    data: Any  # [B, F] of any type, or None
    outputs: Any  # [B] or None
    baseline_outputs: Any  # [B] or None
    target: str | None  # the name of the explained output
    method: str | None

    def row(self, row: int | None) -> Table:
        """The table of one row: the only one, or that which was asked for."""
        rows = len(self.values)
        several = row is None and rows > 1
        check(not several, "row", "an index, as there are {} rows", "None", rows)
        index = check_index(row or 0, "row", rows)

        def one(array: Any) -> Any:
            return None if array is None else array[index : index + 1]

        return Table(
            one(self.values),
            one(self.errors),
            self.names,
            one(self.data),
            one(self.outputs),
            one(self.baseline_outputs),
            self.target,
            self.method,
        )


def check_index(value: Any, argument: str, below: int) -> int:
    index = check_count(value, argument, at_least=-below)
    check(index < below, argument, "an index below {}", value, below)
    return index % below


def to_array(value: Any, argument: str) -> Any:
    """Numbers as float64."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().double().numpy()
    try:
        array = np.asarray(value)
    except ValueError:  # rows of different lengths
        check(False, argument, "an array of numbers", type(value).__name__)
    check(array.dtype.kind in "biuf", argument, "an array of numbers", _kind(value, array))
    return array.astype(np.float64)


def _kind(value: Any, array: Any) -> str:
    return type(value).__name__ if array.dtype == object else f"{array.dtype} values"


def table(
    explanation: Any,
    *,
    errors: Any = None,
    feature_names: Any = None,
    data: Any = None,
    target_names: Any = None,
    target: int | None = None,
) -> Table:
    """Reads the arguments that most functions share."""
    if isinstance(explanation, Explanation):
        return _of_explanation(explanation, errors, feature_names, data, target_names, target)
    if is_shaps(explanation):
        return _of_shaps(explanation, errors, feature_names, data, target_names, target)
    if isinstance(explanation, Importances):
        sem = explanation.importances_sem
        return _table(
            explanation.importances_mean,
            sem if errors is None and np.isfinite(sem).all() else errors,
            explanation.feature_names if feature_names is None else feature_names,
            data,
            "the score" if target_names is None else target_names,
            target,
        )
    return _table(explanation, errors, feature_names, data, target_names, target)


def _of_explanation(
    explanation: Explanation,
    errors: Any,
    feature_names: Any,
    data: Any,
    target_names: Any,
    target: Any,
) -> Table:
    """What is not given is the explanation's own, where it has the values' form."""
    whole = with_rows(explanation)
    targets = targets_of(whole)
    if explanation.is_row and errors is not None:
        errors = to_array(errors, "errors")[None]
    leaves = whole.values if isinstance(whole.values, tuple) else (whole.values,)
    if isinstance(whole.values, Tensor) and whole.values.dim() == 1 + len(targets):
        whole = replace(  # of one feature
            whole,
            values=whole.values[..., None],
            standard_errors=mapped(lambda t: t[..., None], whole.standard_errors),
            data=mapped(lambda t: t[..., None], whole.data),
        )
        leaves = (whole.values,)
    is_list = isinstance(whole.values, list | dict)
    check(not is_list, "explanation", "the values of one layer", "those of several")
    shapes = [(len(leaf), *leaf.shape[1 + len(targets) :]) for leaf in leaves]
    if data is None and whole.data is not None:
        held = whole.data if isinstance(whole.data, tuple) else (whole.data,)
        data = whole.data if [tuple(d.shape) for d in held] == shapes else None
    elif data is not None and explanation.is_row:
        data = tuple(map(_as_row, data)) if isinstance(data, tuple) else _as_row(data)
    count = sum(math.prod(shape[1:]) for shape in shapes)
    if feature_names is None and whole.feature_names is not None:
        feature_names = whole.feature_names if len(whole.feature_names) == count else None
    if target_names is None and whole.output_names is not None:
        target_names = _name_of_target(whole, math.prod(targets) if targets else None)
    errors = whole.standard_errors if errors is None else errors
    return _table(
        whole.values,
        errors,
        feature_names,
        data,
        target_names,
        target,
        targets,
        whole.outputs,
        whole.baseline_outputs,
        whole.method,
    )


def _of_shaps(
    explanation: Any, errors: Any, feature_names: Any, data: Any, target_names: Any, target: Any
) -> Table:
    """What is not given is the explanation's own."""
    own = parts_of(explanation)
    is_alone = own.targets == (1,) and target is None
    names = own.target_names if target_names is None else target_names
    return _table(
        own.values,
        own.errors if errors is None else errors,
        own.names if feature_names is None else feature_names,
        own.data if data is None else data,
        names,
        0 if is_alone else target,
        own.targets,
        own.outputs,
        own.base,
    )


def _as_row(data: Any) -> Any:
    return data[None] if isinstance(data, Tensor) else np.asarray(data)[None]


def _name_of_target(whole: Explanation, count: int | None) -> Any:
    """The names of the explained outputs, or that of the only one, if it is known."""
    names: Any = whole.output_names
    if count is not None:
        return names if len(names) == count else None
    if isinstance(whole.target, int) and -len(names) <= whole.target < len(names):
        return names[whole.target]
    return names[0] if len(names) == 1 else None


def _table(
    values: Any,
    errors: Any,
    feature_names: Any,
    data: Any,
    target_names: Any,
    target: Any,
    targets: tuple[int, ...] = (),
    outputs: Any = None,
    baselines: Any = None,
    method: str | None = None,
) -> Table:
    values, names = _flat(values, "explanation", targets, target)
    if errors is not None:
        errors, _ = _flat(errors, "errors", targets, target)
        expected = "one for each value, shape {}"
        check(errors.shape == values.shape, "errors", expected, errors.shape, values.shape)
        check(not bool((errors < 0).any()), "errors", "no negative values", f"{errors.min():.3g}")
    if feature_names is not None:
        names = check_names(feature_names, "feature_names", values.shape[1])
    else:
        own = names_of(data)  # of a DataFrame's columns
        names = list(own) if own is not None and len(own) == len(names) else names
    return Table(
        values,
        errors,
        names,
        None if data is None else _data(data, values.shape),
        _of_target(outputs, targets, target, len(values)),
        _of_target(baselines, targets, target, len(values)),
        _target_name(target_names, target),
        method,
    )


def check_names(names: Any, argument: str, count: int) -> list[str]:
    is_text = isinstance(names, str)
    check(not is_text, argument, "a sequence of {} names", "one string", count)
    found = [str(name) for name in names]
    check(len(found) == count, argument, "{} names", len(found), count)
    return found


def _flat(
    values: Any, argument: str, targets: tuple[int, ...], target: int | None
) -> tuple[Any, list[str]]:
    """Values [B, F] of one target, with names of the features by their places."""
    parts = values if isinstance(values, tuple) else (values,)
    is_dict = isinstance(values, dict)
    check(not is_dict, argument, "the values of one layer", "a dict of them")
    arrays, names = [], []
    for i, part in enumerate(parts):
        array = to_array(part, argument)  # [B, *C, *F]
        check(array.ndim > 0, argument, "shape [B, F] or [F]", "a single number")
        check(array.size > 0, argument, "at least one row and one feature", f"shape {array.shape}")
        array = array[None] if array.ndim == 1 else array
        if targets:
            array = array.reshape(len(array), -1, *array.shape[1 + len(targets) :])
            several = f"an index, as {array.shape[1]} outputs are explained"
            check(target is not None, "target", several, "None")
            array = array[:, check_index(target, "target", array.shape[1])]
        prefix = f"input {i}, " if len(parts) > 1 else ""
        for place in np.ndindex(array.shape[1:]):
            where = str(place[0]) if len(place) == 1 else str(list(place))
            names.append(f"{prefix}feature {where}")
        arrays.append(array.reshape(len(array), -1))
    return np.concatenate(arrays, axis=1), names


def _data(data: Any, shape: tuple[int, ...]) -> Any:
    """The inputs' own values, [B, F]: numbers, words, or both."""
    parts = data if isinstance(data, tuple) else (data,)
    arrays = []
    for part in parts:
        part = part.detach().cpu().numpy() if isinstance(part, Tensor) else np.asarray(part)
        part = part[None] if part.ndim == 1 else part
        arrays.append(part.reshape(len(part), -1) if part.size else part)
    array = np.concatenate(arrays, axis=1)
    check(array.shape == shape, "data", "the shape of the values, {}", array.shape, shape)
    return array


def _of_target(outputs: Any, targets: Any, target: int | None, rows: int) -> Any:
    """[B], of what may be one number for the whole batch."""
    if outputs is None:
        return None
    array = to_array(outputs, "explanation").reshape(len(outputs), -1)
    column = array[:, target if targets and target is not None else 0]
    return np.broadcast_to(column, rows) if len(column) == 1 else column


def _target_name(names: Any, target: int | None) -> str | None:
    if names is None or isinstance(names, str):
        return names
    known = check_names(names, "target_names", len(names))
    if target is None:
        check(len(known) == 1, "target", f"an index into {len(known)} target_names", "None")
        return known[0]
    return known[check_index(target, "target", len(known))]


def finite(values: Any) -> Any:
    """The values, with 0 for NaN and infinity."""
    return np.where(np.isfinite(values), values, 0.0)


def order_by_size(sizes: Any) -> Any:
    """Indices from large to small, NaN last; equals stay in their order."""
    return np.argsort(-np.nan_to_num(np.abs(sizes), nan=-1.0, posinf=np.inf), kind="stable")


def uncertain(values: Any, errors: Any) -> Any:
    """Which values lie within two standard errors of zero."""
    if errors is None:
        return np.zeros(values.shape, dtype=bool)
    return np.abs(values) < 2 * errors


def written(value: float, error: float | None = None) -> str:
    """A number, with its standard error if it has one."""
    if not np.isfinite(value):
        return {"nan": "NaN", "inf": "∞", "-inf": "−∞"}[str(float(value))]
    text = f"{value:+.3g}".replace("-", "−") if value else "0"
    return text if error is None or not np.isfinite(error) else f"{text} ± {error:.2g}"


def shown(value: Any) -> str:
    """A value of an input."""
    if isinstance(value, bool | np.bool_ | str):
        return str(value)
    try:
        number = float(value)
    except (TypeError, ValueError):
        return str(value)
    return "missing" if number != number else f"{number:.4g}".replace("-", "−")


def shortened(name: str, limit: int = 32) -> str:
    """A name for matplotlib, in one line and without its middle if it is long."""
    name = " ".join(name.split())
    if len(name) <= limit:
        return literal(name)
    head = (limit - 1) * 2 // 3
    return literal(f"{name[:head]}…{name[-(limit - 1 - head) :]}")


def named(names: Sequence[str], data: Any, index: int) -> str:
    """A feature's name with its value, if that is known."""
    name = shortened(names[index])
    if data is None:
        return name
    # The marks keep the value at the right of a name that itself runs from right to left.
    return f"{_LEFT_TO_RIGHT}{name}{_LEFT_TO_RIGHT} = {shortened(shown(data[index]), 16)}"
