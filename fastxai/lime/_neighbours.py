"""Rows drawn around one, for a model and for a linear fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..core.checks import check
from ..interop.tables import is_sparse
from ._draws import TruncatedNormals, normal_quantiles, split, uniforms


class Scaler:
    """The mean and the deviation of each column; a column without any has deviation 1.

    Args:
        rows: [K, M], dense or sparse.
    """

    def __init__(self, rows: Any):
        if is_sparse(rows):
            rows = rows.tocsc()
            count, width = rows.shape
            column = np.repeat(np.arange(width), np.diff(rows.indptr))
            total = np.bincount(column, rows.data, width)
            self.mean_ = total / count
            off = (rows.data - self.mean_[column]) ** 2
            zeros = count - np.diff(rows.indptr)
            self.var_ = (np.bincount(column, off, width) + zeros * self.mean_**2) / count
            constant = (zeros == 0) & (self.var_ <= 1e-28 * self.mean_**2) | (zeros == count)
        else:
            self.mean_, self.var_ = rows.mean(0), rows.var(0)
            constant = (rows == rows[0]).all(0)
        self.scale_ = np.where(constant, 1.0, np.sqrt(self.var_))
        self.scale_[self.scale_ == 0] = 1.0


class Neighbours:
    """Draws rows.

    Args:
        scaler: of the training data, with mean 0 and deviation 1 for columns that are told apart
            by value, or by bin.
        values: for those columns, what is drawn: values, or numbers of bins.
        frequencies: how often each is.
        discretizer: makes bins, and draws values within them; None for columns of numbers.
        around: whether numbers are drawn around the row, or else around the mean.
    """

    def __init__(
        self,
        scaler: Scaler,
        values: Mapping[int, Any],
        frequencies: Mapping[int, np.ndarray],
        discretizer: Any,
        around: bool,
    ):
        self._scaler, self._around, self._discretizer = scaler, around, discretizer
        self._values = {c: np.asarray(v, dtype=np.float64) for c, v in values.items()}
        self._frequencies = {c: np.asarray(f, dtype=np.float64) for c, f in frequencies.items()}
        self._normals: dict[int, TruncatedNormals] = {}
        for c in getattr(discretizer, "lambdas", ()):
            self._normals[c] = TruncatedNormals(
                discretizer.means[c], discretizer.stds[c], discretizer.mins[c], discretizer.maxs[c]
            )
        for c, shares in self._frequencies.items():
            fine = len(shares) == len(self._values[c]) > 0 and bool((shares >= 0).all())
            check(fine, "feature_frequencies", "one of at least 0 a value of column {}", shares, c)
            if c in self._normals:
                last = len(discretizer.names[c]) - 1
                bins = self._values[c]
                fine = bool(((bins >= 0) & (bins <= last) & (bins % 1 == 0)).all())
                check(fine, "feature_values", "bins of column {} from 0 to {}", bins, c, last)

    def draw(self, row: np.ndarray, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Interpretable rows and rows for the model, [n, M] each, the given one first.

        Args:
            row: [M].
            n: how many rows.
            seed: decides them.
        """
        u = uniforms(len(row), n, seed)  # by column: all below is [M, n]
        z, rows = np.empty_like(u), np.empty_like(u)
        own = row if self._discretizer is None else self._discretizer.discretize(row)
        drawn: dict[int, np.ndarray] = {}
        for c, values in self._values.items():
            which, inside = split(u[c], self._frequencies[c])
            chosen = values[which]
            z[c] = chosen == own[c]
            rows[c] = chosen
            if c in self._normals:
                drawn[c] = chosen.astype(np.int64)
                u[c] = self._normals[c].shares(drawn[c], inside)
        numbers = [c for c in range(len(row)) if c not in self._values]
        among = sorted([*numbers, *drawn])  # one call for all of them
        shares = u if len(among) == len(row) else u[among]
        quantiles = dict(zip(among, normal_quantiles(shares), strict=True))
        for c, bins in drawn.items():
            rows[c] = self._normals[c].values(bins, quantiles[c])
        mean, scale = self._scaler.mean_, self._scaler.scale_
        for c in numbers:
            rows[c] = quantiles[c] * scale[c] + (row[c] if self._around else mean[c])
            z[c] = (rows[c] - mean[c]) / scale[c]
        rows[:, 0] = row
        z[:, 0] = (row - mean) / scale
        z[list(self._values), 0] = 1.0
        return np.ascontiguousarray(z.T), np.ascontiguousarray(rows.T)
