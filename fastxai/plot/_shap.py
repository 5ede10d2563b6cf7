"""Explanations as shap has them, of :mod:`fastxai.shap` or of shap itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.checks import check


def is_shaps(explanation: Any) -> bool:
    """Whether it has values beside what they add up from, as no array or tensor has."""
    return hasattr(explanation, "values") and hasattr(explanation, "base_values")


@dataclass(frozen=True)
class Parts:
    """What an explanation tells, with a dimension for rows, and outputs before features.

    Args:
        values: [B, *F] or [B, C, *F].
        errors: in the same form, or None.
        names: of the features, or None.
        data: [B, *F], or None.
        targets: (C,) where there are several outputs, or ().
        target_names: one for each of C, or that of the only one, or None.
        outputs: [B] or [B, C], or None.
        base: the same.
    """

    values: Any
    errors: Any
    names: list[str] | None
    data: Any
    targets: tuple[int, ...]
    target_names: Any
    outputs: Any
    base: Any


def parts_of(explanation: Any) -> Parts:
    """Reads the fields that both libraries have."""
    values = _numbers(explanation.values)
    base, data = explanation.base_values, explanation.data
    base = None if base is None else _numbers(base)
    data = None if data is None else np.asarray(data)
    names, outputs = explanation.feature_names, explanation.output_names
    of_outputs = _has_outputs(values, base, data, outputs)
    is_column = isinstance(names, str)  # of one feature, as e[:, "age"]
    features = values.ndim - of_outputs
    is_row = features == 1 and not is_column

    def whole(array: Any) -> Any:
        """With all dimensions, and outputs before features."""
        array = array[None] if is_row else array
        array = array[:, None] if is_column else array
        return np.moveaxis(array, -1, 1) if of_outputs else array

    errors = getattr(explanation, "standard_errors", None)
    errors = None if errors is None else whole(_numbers(errors))
    found = whole(values)  # [B, C, *F] or [B, *F]
    if data is not None:
        fits = data.shape == values.shape[: values.ndim - of_outputs]
        data = data.reshape(found.shape[:1] + found.shape[1 + of_outputs :]) if fits else None
    lead = found.shape[: 1 + of_outputs]
    if base is not None:
        is_full = base.size == np.prod(lead)  # shap keeps a dimension for one output, or drops it
        base = base.reshape(lead) if is_full else np.broadcast_to(base, lead)
    sums = found.reshape(*lead, -1).sum(-1)
    named = [names] if is_column else None if names is None else [str(n) for n in names]
    count = int(np.prod(found.shape[1 + of_outputs :]))
    target_names: Any = outputs if isinstance(outputs, str) else None
    if of_outputs and outputs is not None:
        target_names = [str(n) for n in outputs]
    return Parts(
        found,
        errors,
        named if named is not None and len(named) == count else None,
        data,
        lead[1:],
        target_names,
        None if base is None or is_column else base + sums,
        base,
    )


def _numbers(value: Any) -> Any:
    array = np.asarray(value)
    fine = array.dtype.kind in "biuf"
    check(fine, "explanation", "an array of numbers", f"values of dtype {array.dtype}")
    check(array.ndim > 0 or array.size == 1, "explanation", "numbers", "none")
    return array.astype(np.float64)


def _has_outputs(values: Any, base: Any, data: Any, names: Any) -> bool:
    """Whether the last dimension is one of outputs."""
    if data is not None and values.ndim != data.ndim + 1:
        return False
    if names is not None and not isinstance(names, str):
        return bool(values.ndim > 1 and len(names) == values.shape[-1])
    # Values of pairs of features have one dimension more than the data, too, but no more bases.
    return data is not None and base is not None and bool(base.ndim == values.ndim - 1)
