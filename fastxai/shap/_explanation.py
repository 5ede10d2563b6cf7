"""What an explainer found, with its names."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np

from ..core.named_axes import cut, places
from ..interop.tables import as_array, is_frame, is_series
from ._operators import Chain, Operators

# Fields that go with the values, of the same axes, or without outputs and second features.
_ALONGSIDE = ("lower_bounds", "upper_bounds", "error_std", "main_effects", "standard_errors")


class Explanation(Operators):
    """Values with what they are about, sliced together.

    ``e[3]`` is about one row, ``e[:, "age"]`` about one feature, ``e[..., 1]`` about one output.
    ``e.abs.mean(0)`` is what it would be of an array, and ``Explanation.abs.mean(0)`` is a chain of
    operations, to be used as an index or by shap's plots. Arithmetic is that of values and base
    values; what cannot be known after an operation is None.

    Args:
        values: [n, *F] or [n, *F, C]; without the first for one row.
        base_values: what the values of a row add up from: a number, [n], [C] or [n, C].
        data: the rows, [n, *F].
        display_data: what to show of them.
        instance_names: one for each row.
        feature_names: one for each of the last dimension of F.
        output_names: one for each of C; None if values have no dimension for outputs.
        output_indexes: which outputs these are, if they are not all.
        lower_bounds: of the values.
        upper_bounds: of the values.
        error_std: of the values, as shap has it.
        main_effects: of features by themselves, [n, *F] or [n, *F, C].
        hierarchical_values: of clusters, a row each.
        clustering: a tree of features, as scipy writes it, [M − 1, 4], or one a row.
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
        instance_names: Sequence[str] | None = None,
        feature_names: Sequence[str] | None = None,
        output_names: Sequence[str] | None = None,
        output_indexes: Any = None,
        lower_bounds: Any = None,
        upper_bounds: Any = None,
        error_std: Any = None,
        main_effects: Any = None,
        hierarchical_values: Any = None,
        clustering: Any = None,
        compute_time: float | None = None,
        *,
        standard_errors: Any = None,
        axes: tuple[str, ...] | None = None,
    ):
        self.values = np.asarray(values) if not np.isscalar(values) else values
        self.base_values = base_values
        self.data, self.display_data = _array_of(data), _array_of(display_data)
        self.instance_names, self.feature_names = instance_names, feature_names
        self.output_names, self.output_indexes = output_names, output_indexes
        self.lower_bounds, self.upper_bounds = lower_bounds, upper_bounds
        self.error_std, self.standard_errors = error_std, standard_errors
        self.main_effects, self.hierarchical_values = main_effects, hierarchical_values
        self.clustering, self.compute_time = clustering, compute_time
        self._axes = _axes_of(self.values, output_names) if axes is None else axes

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(np.shape(self.values))

    def __repr__(self) -> str:
        parts = [f"values {self.shape}"]
        if self.feature_names is not None and not isinstance(self.feature_names, str):
            names = [str(n) for n in self.feature_names[:4]]
            parts.append(", ".join(names) + (", ..." if len(self.feature_names) > 4 else ""))
        return f"Explanation({'; '.join(parts)})"

    def __getitem__(self, key: Any) -> Explanation:
        given = key if isinstance(key, tuple) else (key,)
        given = tuple(self._place(k) for k in given)
        named_by = {
            "row": self.instance_names,
            "feature": self.feature_names,
            "output": self.output_names,
        }
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

        def beside(field: Any) -> Any:
            """Of a field of the values' axes, or of one feature where they are of two."""
            if field is None or np.ndim(field) == len(keys):
                return None if field is None else cut(field, keys)
            once = [i for i, a in enumerate(self._axes) if a not in self._axes[:i]]
            return cut(field, [keys[i] for i in once][: np.ndim(field)])

        base_names = [a for a in ("row", "output") if a in self._axes]
        if np.ndim(self.base_values) < len(base_names):  # it is one for all rows, or outputs
            base_names = base_names[-np.ndim(self.base_values) :] if self._one_base() else ["row"]
        data_names = [a for a in ("row", "feature") if a in self._axes]
        features = by_axis.get("feature", [])
        return Explanation(
            cut(self.values, keys),
            part(self.base_values, *base_names),
            part(self.data, *data_names),
            part(self.display_data, *data_names),
            self._named(self.instance_names, by_axis.get("row", [])),
            self._named(self.feature_names, features[-1:]),
            self._named(self.output_names, by_axis.get("output", [])),
            part(self.output_indexes, "output"),
            hierarchical_values=part(self.hierarchical_values, "row"),
            clustering=self._tree(by_axis.get("row", []), features),
            compute_time=self.compute_time,
            axes=axes,
            **{name: beside(getattr(self, name)) for name in _ALONGSIDE},
        )

    def _place(self, key: Any) -> Any:
        """What stands in brackets, with explanations as their values and chains done."""
        if isinstance(key, Chain) or type(key).__name__ == "OpChain":
            key = key.apply(self)
        return key.values if isinstance(key, Explanation) else key

    @staticmethod
    def _named(names: Any, index: list[Any]) -> Any:
        if names is None or isinstance(names, str) or not index:
            return names
        return cut(names, index)

    def _tree(self, rows: list[Any], features: list[Any]) -> Any:
        """The tree of features, as long as all of them are there, each in its place."""
        whole = all(isinstance(k, slice) and k == slice(None) for k in features)
        if self.clustering is None or not whole:
            return None
        return cut(self.clustering, rows) if np.ndim(self.clustering) == 3 else self.clustering

    def _one_base(self) -> bool:
        """Whether base values in one dimension are those of outputs."""
        outputs = [n for n, a in zip(self.shape, self._axes, strict=True) if a == "output"]
        return bool(outputs) and len(np.atleast_1d(self.base_values)) == outputs[0]

    def to_shap(self) -> Any:
        """The same as a ``shap.Explanation``, for shap's plots. Needs shap.

        Standard errors are its ``error_std``.
        """
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
            instance_names=self.instance_names,
            feature_names=self.feature_names,
            output_names=named,
            lower_bounds=self.lower_bounds,
            upper_bounds=self.upper_bounds,
            error_std=self.standard_errors if self.error_std is None else self.error_std,
            main_effects=self.main_effects,
            hierarchical_values=self.hierarchical_values,
            clustering=self.clustering,
            compute_time=self.compute_time,
        )


def _axes_of(values: Any, output_names: Any) -> tuple[str, ...]:
    dims = np.ndim(values)
    has_outputs = output_names is not None and dims >= 2
    if dims == 1:
        return ("feature",)
    last = ("output",) if has_outputs else ()
    return ("row", *["feature"] * (dims - 1 - len(last)), *last)


def _array_of(data: Any) -> Any:
    return as_array(data) if is_frame(data) or is_series(data) else data
