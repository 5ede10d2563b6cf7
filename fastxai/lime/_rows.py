"""Weighted rows around the one that is explained, and which of their columns count."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch

from ..core.checks import check, check_choice, check_count
from ..core.engine.threads import threads
from ..core.estimate.linear_fits import NormalEquations, Ridge, fit_rows, is_wide
from ..interop.tables import is_sparse

SELECTIONS = ("auto", "none", "forward_selection", "highest_weights", "lasso_path")
_FEW = 6  # features, up to which "auto" takes them one after the other
_COLLINEAR = 1e-10  # of a column's square: what is left of it when it is known from others
_LIGHT = 0.01  # the penalty of the fit whose highest weights are chosen


class WeightedRows:
    """Interpretable rows, their outputs and weights, centred for linear fits with an intercept.

    Args:
        rows: [N, M], the explained one first.
        outputs: [N, C].
        weights: [N].
    """

    def __init__(self, rows: np.ndarray, outputs: np.ndarray, weights: np.ndarray):
        self.rows, self.outputs, self.weights = rows, outputs, weights
        total = weights.sum()
        self.mean, self.output_mean = weights @ rows / total, weights @ outputs / total
        root = np.sqrt(weights)[:, None]
        self.x = root * (rows - self.mean)  # [N, M]
        self.y = root * (outputs - self.output_mean)  # [N, C]
        # Where nothing varies among the rows that count, what is left is rounding.
        for values, centred in ((rows, self.x), (outputs, self.y)):
            counted = values[weights > 0]
            centred[:, (counted == counted[0]).all(0)] = 0
        self.squares = np.einsum("nm,nm->m", self.x, self.x)
        self._columns: dict[int, np.ndarray] = {}

    def products(self, column: int) -> np.ndarray:  # [M]
        """The products of all columns with one."""
        if column not in self._columns:
            self._columns[column] = self.x.T @ self.x[:, column]
        return self._columns[column]

    @cached_property
    def pulls(self) -> np.ndarray:  # [M, C]
        """The products of all columns with the outputs."""
        return np.asarray(self.x.T @ self.y)

    @cached_property
    def light(self) -> np.ndarray:  # [M, C]
        """The coefficients of a ridge of all columns with a light penalty."""
        rows = torch.from_numpy(self.x)
        with threads(1):
            if is_wide(*rows.shape):
                rows, outputs = torch.from_numpy(self.rows), torch.from_numpy(self.outputs)
                weights = torch.from_numpy(self.weights)
                return np.asarray(fit_rows(Ridge(_LIGHT), rows, weights, outputs).numpy())
            pulls = torch.from_numpy(self.pulls)[None]
            normal = NormalEquations(rows.new_ones(1), (rows.T @ rows)[None], pulls)
            return np.asarray(Ridge(_LIGHT).solve(normal)[0].numpy())

    def select(self, label: int, most: int, method: str) -> np.ndarray:  # [r] int64
        """The columns that an explanation of one output is to have.

        Args:
            label: the output.
            most: how many columns.
            method: one of ``SELECTIONS``.
        """
        if method == "auto":
            method = "forward_selection" if most <= _FEW else "highest_weights"
        if method == "forward_selection":
            return self._forward(label, most)
        if method == "highest_weights":
            sizes = np.abs(self.light[:, label] * self.rows[0])
            return np.argsort(-sizes, kind="stable")[:most]
        if method == "lasso_path":
            return self._lasso_path(label, most)
        return np.arange(self.rows.shape[1])

    def _forward(self, label: int, most: int) -> np.ndarray:
        """One column after the other, each the one that explains most of what is left.

        What the chosen columns explain is swept out of the others' squares and pulls.
        """
        left, pull = self.squares.copy(), self.pulls[:, label].copy()
        columns = len(left)
        count = min(most, columns)
        swept, chosen = np.zeros((columns, count)), []
        open_ones = np.ones(columns, dtype=bool)
        for step in range(count):
            usable = open_ones & (left > _COLLINEAR * self.squares)
            gain = np.divide(pull**2, left, out=np.zeros(columns), where=usable)
            best = int(np.where(open_ones, gain, -1.0).argmax())
            chosen.append(best)
            open_ones[best] = False
            if not usable[best]:
                continue
            column = self.products(best) - swept[:, :step] @ swept[best, :step]
            swept[:, step] = column / np.sqrt(left[best])
            pull -= swept[:, step] * (pull[best] / np.sqrt(left[best]))
            left -= swept[:, step] ** 2
        return np.array(chosen, dtype=np.int64)

    def _lasso_path(self, label: int, most: int) -> np.ndarray:
        """The columns at the last point of the lasso's path that has no more than so many.

        If every point has more, those of the first.
        """
        found = np.zeros(0, dtype=np.int64)
        for i, coefficients in enumerate(self._path(label)):
            active = np.flatnonzero(coefficients)
            if i == 0 or len(active) <= most:
                found = active
        return found

    def _path(self, label: int) -> list[np.ndarray]:
        """The coefficients wherever a column enters or leaves the lasso as its penalty falls.

        Source: Efron, Hastie, Johnstone and Tibshirani, "Least angle regression" (2004).
        """
        pulls, columns = self.pulls[:, label], len(self.squares)
        b, points = np.zeros(columns), []
        usable = self.squares > 0
        active: list[int] = []
        penalty = float(np.abs(pulls[usable]).max(initial=0.0))
        end = 1e-12 * penalty
        joins, slope = int(np.where(usable, np.abs(pulls), -1.0).argmax()), pulls.copy()
        signs = np.zeros(columns)
        for _ in range(8 * columns):
            if penalty <= end:
                break
            if joins >= 0:
                active.append(joins)
                signs[joins] = np.sign(slope[joins])
            gram = np.stack([self.products(j) for j in active], 1)  # [M, a]
            among = gram[active]
            if joins >= 0 and _is_known(among):  # from the others
                usable[active.pop()] = False
                gram, among = gram[:, :-1], among[:-1, :-1]
            way = np.linalg.solve(among, signs[active])
            falls = gram @ way
            outside = usable.copy()
            outside[active] = False
            # Until another's slope is as steep, or one inside has come back to zero.
            step, joins = penalty, -1
            for side in (1.0, -1.0):
                down = 1 - side * falls
                room = penalty - side * slope
                can = outside & (down > 1e-12)
                until = np.divide(room, down, out=np.full(columns, np.inf), where=can)
                until = np.where(until < 0, 0.0, until)
                first = int(until.argmin())
                if until[first] < step:
                    step, joins = float(until[first]), first
            turns = np.full(len(active), np.inf)
            np.divide(-b[active], way, out=turns, where=b[active] * way < 0)
            leaves = int(turns.argmin())
            if turns[leaves] <= step:
                step, joins = float(turns[leaves]), -1
            else:
                leaves = -1
            b[active] += step * way
            slope -= step * falls
            penalty -= step
            if leaves >= 0:
                gone = active.pop(leaves)
                b[gone] = signs[gone] = 0
            points.append(b.copy())
            if not active:
                break
        return points


def _is_known(gram: np.ndarray) -> bool:
    """Whether the last column follows from those before it."""
    if len(gram) == 1:
        return False
    known = gram[:-1, -1] @ np.linalg.solve(gram[:-1, :-1], gram[:-1, -1])
    return bool(gram[-1, -1] - known <= _COLLINEAR * gram[-1, -1])


def solve(x: np.ndarray, y: np.ndarray, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """A ridge of centred rows, by the normal equations.

    Args:
        x: [N, r], rows times roots of weights.
        y: [N], likewise.
        alpha: the penalty.

    Returns:
        The coefficients [r], and the inverse of the penalised Gram matrix [r, r].
    """
    gram = x.T @ x + alpha * np.eye(x.shape[1])
    factor = np.linalg.cholesky(gram)
    inner = np.linalg.solve(factor, np.eye(len(gram)))
    inverse = inner.T @ inner
    return inverse @ (x.T @ y), inverse


def checked_selection(method: Any) -> str:
    return check_choice(method, "feature_selection", SELECTIONS)


def checked_most(count: Any) -> int:
    return check_count(count, "num_features", below=None)


def dense(rows: Any, argument: str) -> np.ndarray:  # [N, M] float64
    """Rows in any form, as numbers that are all finite."""
    rows = rows.toarray() if is_sparse(rows) else rows
    found = np.asarray(rows.detach().cpu() if isinstance(rows, torch.Tensor) else rows)
    check(found.ndim == 2 and len(found) > 0, argument, "rows [N, M]", f"shape {found.shape}")
    found = found.astype(np.float64)
    check(bool(np.isfinite(found).all()), argument, "finite numbers", "others")
    return found
