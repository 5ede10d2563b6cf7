"""Rows of series for models that take them whole, and as columns for explainers of tables."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor, nn

from ..core.checks import check
from ..interop.models import callable_of
from ..interop.tables import as_array, is_sparse


def flattened(series: Any, dims: int, argument: str) -> np.ndarray:
    """Series [n, T, F], or one [T, F], as rows: feature by feature, each in the order of time."""
    found = as_array(series)
    expected = "series [n, T, F]" if dims == 3 else "one series [T, F]"
    fine = not is_sparse(found) and found.ndim == dims
    check(fine, argument, expected, f"shape {np.shape(found)}")
    return np.asarray(np.swapaxes(found, -1, -2).reshape(*found.shape[:-2], -1))


def names_in_time(names: Any, steps: int) -> list[str]:
    """Names of columns: "name_t-0" is the last step of a feature."""
    return [f"{name}_t-{steps - 1 - step}" for name in names for step in range(steps)]


def of_series(model: Any, steps: int, features: int) -> Any:
    """A model of series as one of rows."""
    if isinstance(model, nn.Module):
        return _Module(model, steps, features)
    return _Function(model, steps, features)


class _Function:
    def __init__(self, model: Any, steps: int, features: int):
        self._call, self._shape = callable_of(model, "classifier_fn"), (features, steps)

    def __call__(self, rows: np.ndarray) -> Any:
        return self._call(np.swapaxes(rows.reshape(len(rows), *self._shape), 1, 2))


class _Module(nn.Module):
    def __init__(self, model: nn.Module, steps: int, features: int):
        super().__init__()
        self.model, self._shape = model, (features, steps)
        self.training = model.training

    def forward(self, rows: Tensor) -> Any:
        return self.model(rows.unflatten(1, self._shape).transpose(1, 2))
