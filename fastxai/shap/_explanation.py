"""What an explainer found, with its names."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np

from ..core.named_axes import cut, places


class Explanation:
    """Values with what they are about, sliced together.

    ``e[3]`` is about one row, ``e[:, "age"]`` about one feature, ``e[..., 1]`` about one output.

    Args:
        values: [n, *F] or [n, *F, C]; without the first for one row.
        base_values: what the values of a row add up from: a number, [n], [C] or [n, C].
        data: the rows, [n, *F].
        display_data: what to show of them.
        feature_names: one for each of the last dimension of F.
        output_names: one for each of C; None if values have no dimension for outputs.
        compute_time: seconds.
        standard_errors: of the values, as far as chance has a part in them; None if that is not
            known.
        axes: what the dimensions of values are: "row", "feature", "output".
    """

    def __init__(
        self,
        values: Any,
        base_values: Any = None,
        data: Any = None,
        display_data: Any = None,
        feature_names: Sequence[str] | None = None,
        output_names: Sequence[str] | None = None,
        compute_time: float | None = None,
        *,
        standard_errors: Any = None,
        axes: tuple[str, ...] | None = None,
    ):
        self.values = np.asarray(values) if not np.isscalar(values) else values
        self.base_values, self.data, self.display_data = base_values, data, display_data
        self.feature_names = feature_names
        self.output_names = output_names
        self.compute_time = compute_time
        self.standard_errors = standard_errors
        self._axes = _axes_of(self.values, output_names) if axes is None else axes

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(np.shape(self.values))

    def __len__(self) -> int:
        return int(self.shape[0])

    def __repr__(self) -> str:
        parts = [f"values {self.shape}"]
        if self.feature_names is not None and not isinstance(self.feature_names, str):
            names = [str(n) for n in self.feature_names[:4]]
            parts.append(", ".join(names) + (", ..." if len(self.feature_names) > 4 else ""))
        return f"Explanation({'; '.join(parts)})"

    def __getitem__(self, key: Any) -> Explanation:
        given = key if isinstance(key, tuple) else (key,)
        given = tuple(k.values if isinstance(k, Explanation) else k for k in given)
        named_by = {"feature": self.feature_names, "output": self.output_names}
        names = [named_by.get(axis) for axis in self._axes]
        keys = places(given, self._axes, self.shape, names)
        by_axis: dict[str, list[Any]] = {}
        for axis, index in zip(self._axes, keys, strict=True):
            by_axis.setdefault(axis, []).append(index)
        axes = tuple(
            a for a, k in zip(self._axes, keys, strict=True) if not isinstance(k, int | np.integer)
        )

        def part(field: Any, *names: str) -> Any:
            if field is None or np.ndim(field) == 0:
                return field
            index = [k for a in names for k in by_axis.get(a, [])]
            return cut(field, index[: np.ndim(field)])

        outputs = [*by_axis.get("output", [])]
        named = self.output_names
        if outputs and named is not None and not isinstance(named, str):
            named = part(named, "output")
        features = self.feature_names
        last = by_axis.get("feature", [])[-1:]
        if last and features is not None and not isinstance(features, str):
            features = cut(features, last)
        base_names = [a for a in ("row", "output") if a in self._axes]
        if np.ndim(self.base_values) < len(base_names):  # it is one for all rows, or outputs
            base_names = base_names[-np.ndim(self.base_values) :] if self._one_base() else ["row"]
        errors = self.standard_errors
        data_names = [a for a in ("row", "feature") if a in self._axes]
        return Explanation(
            cut(self.values, keys),
            part(self.base_values, *base_names),
            part(self.data, *data_names),
            part(self.display_data, *data_names),
            features,
            named,
            self.compute_time,
            standard_errors=None if errors is None else cut(errors, keys),
            axes=axes,
        )

    def _one_base(self) -> bool:
        """Whether base values in one dimension are those of outputs."""
        outputs = [n for n, a in zip(self.shape, self._axes, strict=True) if a == "output"]
        return bool(outputs) and len(np.atleast_1d(self.base_values)) == outputs[0]

    def to_shap(self) -> Any:
        """The same as a ``shap.Explanation``, for shap's plots. Needs shap."""
        try:
            shap = import_module("shap")
        except ImportError as error:
            raise ImportError("to_shap needs shap: pip install shap") from error
        named = None if isinstance(self.output_names, str) else self.output_names
        return shap.Explanation(
            self.values,
            base_values=self.base_values,
            data=self.data,
            display_data=self.display_data,
            feature_names=self.feature_names,
            output_names=named,
            compute_time=self.compute_time,
        )


def _axes_of(values: Any, output_names: Any) -> tuple[str, ...]:
    dims = np.ndim(values)
    has_outputs = output_names is not None and dims >= 2
    if dims == 1:
        return ("feature",)
    last = ("output",) if has_outputs else ()
    return ("row", *["feature"] * (dims - 1 - len(last)), *last)
