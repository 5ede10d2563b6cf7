"""Rows drawn around one, for a model and for a linear fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..core.checks import check
from ..interop.tables import is_sparse
from ._draws import Frequencies, TruncatedNormals, normal_quantiles, uniforms


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


class _Told:
    """Values of a column that are drawn by their frequencies, both [k]."""

    def __init__(self, values: np.ndarray, frequencies: np.ndarray, column: int):
        fine = len(frequencies) == len(values) > 0 and bool((frequencies >= 0).all())
        expected = "one of at least 0 for each value of column {}"
        check(fine, "feature_frequencies", expected, frequencies, column)
        self.values, self.drawn = values, Frequencies(frequencies)


class _Binned(_Told):
    """Bins of a column that are drawn by their frequencies, and values within them."""

    def __init__(self, values: np.ndarray, frequencies: np.ndarray, column: int, discretizer: Any):
        super().__init__(values, frequencies, column)
        last = len(discretizer.names[column]) - 1
        fine = bool(((values >= 0) & (values <= last) & (values % 1 == 0)).all())
        check(fine, "feature_values", "bins of column {} from 0 to {}", values, column, last)
        which = values.astype(np.int64)
        means, stds, lows, highs = (
            np.asarray(of_bins[column], dtype=np.float64)[which]
            for of_bins in (discretizer.means, discretizer.stds, discretizer.mins, discretizer.maxs)
        )
        self.normals = TruncatedNormals(means, stds, lows, highs)
        self._offset, self._slope = self.normals.lines(self.drawn)

    def shares(self, u: np.ndarray, which: np.ndarray) -> np.ndarray:  # [n] each
        """Of the normal distribution of each bin, for the number that the bin was drawn by."""
        found: np.ndarray = self._slope.take(which) * u
        found += self._offset.take(which)
        return found


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
        bins = getattr(discretizer, "lambdas", {})
        self._told: dict[int, _Told] = {}
        for c, of_column in values.items():
            args = (
                np.asarray(of_column, dtype=np.float64),
                np.asarray(frequencies[c], np.float64),
                c,
            )
            self._told[c] = _Binned(*args, discretizer) if c in bins else _Told(*args)

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
        drawn: dict[int, tuple[_Binned, np.ndarray]] = {}
        for c, told in self._told.items():
            which = told.drawn.which(u[c])
            z[c] = (told.values == own[c]).astype(np.float64).take(which)
            if isinstance(told, _Binned):
                drawn[c], u[c] = (told, which), told.shares(u[c], which)
            else:
                rows[c] = told.values.take(which)
        numbers = [c for c in range(len(row)) if c not in self._told]
        among = sorted([*numbers, *drawn])  # one call for all of them
        shares = u if len(among) == len(row) else u[among]
        quantiles = dict(zip(among, normal_quantiles(shares), strict=True))
        for c, (binned, which) in drawn.items():
            rows[c] = binned.normals.values(which, quantiles[c])
        mean, scale = self._scaler.mean_, self._scaler.scale_
        for c in numbers:
            rows[c] = quantiles[c] * scale[c] + (row[c] if self._around else mean[c])
            z[c] = (rows[c] - mean[c]) / scale[c]
        rows[:, 0] = row
        z[:, 0] = (row - mean) / scale
        z[list(self._told), 0] = 1.0
        return np.ascontiguousarray(z.T), np.ascontiguousarray(rows.T)
