"""Sparse linear models of weighted rows, as ``lime.lime_base`` has them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.checks import check, warn
from ._rows import WeightedRows, checked_most, checked_selection, dense, solve

_PENALTY = 1.0
_ALONE = 2.0  # rows that all the weight amounts to: fewer say nothing of a slope


@dataclass(frozen=True)
class LocalFit:
    """A linear model near a row.

    Args:
        intercept: where all columns are 0.
        weights: columns and their coefficients, the largest first.
        score: the weighted share of variance that the model explains.
        local_pred: what it says of the row itself, [1].
        standard_errors: of the coefficients, in their order; NaN for a regressor of the user's.
    """

    intercept: float
    weights: list[tuple[Any, Any]]
    score: float
    local_pred: np.ndarray
    standard_errors: np.ndarray


class LimeBase:
    """Fits linear models with few features to weighted rows.

    Everything is solved in float64 by normal equations: forward selection from products with the
    chosen columns alone, and no fit for each candidate.

    Args:
        kernel_fn: takes distances [N], returns weights [N] of at least 0.
        verbose: whether to print what each model says of the row itself.
        random_state: kept for lime's sake: nothing here is random.
    """

    def __init__(
        self, kernel_fn: Callable[[Any], Any], verbose: bool = False, random_state: Any = None
    ):
        check(callable(kernel_fn), "kernel_fn", "a function of distances", repr(kernel_fn))
        self.kernel_fn, self.verbose, self.random_state = kernel_fn, verbose, random_state

    def explain_instance_with_data(
        self,
        neighborhood_data: Any,
        neighborhood_labels: Any,
        distances: Any,
        label: int,
        num_features: int,
        feature_selection: str = "auto",
        model_regressor: Any = None,
    ) -> tuple[float, list[tuple[Any, Any]], float, np.ndarray]:
        """Explains one output of a model around the first of some rows.

        Args:
            neighborhood_data: interpretable rows [N, M], dense or sparse, the explained one first.
            neighborhood_labels: outputs [N, C].
            distances: from the first row, [N].
            label: which of the outputs.
            num_features: how many features the explanation has at most.
            feature_selection: "none" for all; "highest_weights" for the largest products of a
                ridge's coefficients and the row's own values; "forward_selection" for one after
                the other by the variance explained; "lasso_path" for the last point on the path
                of the lasso with as few; "auto" for forward selection up to six features, else
                the highest weights.
            model_regressor: an estimator with ``fit(x, y, sample_weight=...)``, ``coef_``,
                ``intercept_``, ``score`` and ``predict``; None for a ridge with penalty 1.

        Returns:
            The intercept, pairs of feature and weight, the largest first, the weighted R², and the
            prediction for the first row, [1].
        """
        rows = dense(neighborhood_data, "neighborhood_data")
        outputs = dense(neighborhood_labels, "neighborhood_labels")
        count = len(outputs)
        check(count == len(rows), "neighborhood_labels", "{} rows", count, len(rows))
        weighted = WeightedRows(rows, outputs, self.weights(distances, count))
        classes = outputs.shape[1]
        fine = isinstance(label, int | np.integer) and -classes <= label < classes
        check(fine, "label", "one of {} outputs", label, classes)
        found = self.fit(weighted, int(label), num_features, feature_selection, model_regressor)
        return found.intercept, found.weights, found.score, found.local_pred

    def weights(self, distances: Any, count: int) -> np.ndarray:  # [N]
        """What the kernel says of distances, checked.

        Args:
            distances: from the explained row, [N].
            count: of the rows, N.
        """
        weights = np.asarray(self.kernel_fn(distances), dtype=np.float64)
        fine = weights.shape == (count,)
        check(fine, "kernel", "{} weights", f"shape {weights.shape}", count)
        fine = bool(np.isfinite(weights).all()) and bool((weights >= 0).all())
        check(fine, "kernel", "finite weights of at least 0", "others")
        total = weights.sum()
        check(bool(total > 0), "kernel", "a weight above 0", "none")
        if count > 1 and total**2 < _ALONE * (weights**2).sum():
            warn(
                "kernel_width: nearly all of the weight is that of one row, so the others say next "
                "to nothing; take a wider kernel"
            )
        return weights

    def fit(
        self,
        weighted: WeightedRows,
        label: int,
        num_features: int,
        feature_selection: str = "auto",
        model_regressor: Any = None,
    ) -> LocalFit:
        """The model of one output, with more to say than lime's; see above for the arguments.

        Args:
            weighted: rows, outputs and weights.
            label: which of the outputs.
            num_features: how many features at most.
            feature_selection: how they are chosen.
            model_regressor: an estimator; None for a ridge.
        """
        method = checked_selection(feature_selection)
        chosen = weighted.select(label, checked_most(num_features), method)
        if model_regressor is None:
            found = _ridge(weighted, label, chosen)
        else:
            found = _by_regressor(weighted, label, chosen, model_regressor)
        if self.verbose:
            print("Intercept", found.intercept)
            print("Prediction_local", found.local_pred)
            print("Right:", weighted.outputs[0, label])
        return found


def _ridge(weighted: WeightedRows, label: int, chosen: np.ndarray) -> LocalFit:
    x, y = weighted.x[:, chosen], weighted.y[:, label]
    b, inverse = solve(x, y, _PENALTY)
    residuals = y - x @ b
    total = y @ y
    score = 1 - residuals @ residuals / total if total > 0 else 1.0
    intercept = weighted.output_mean[label] - weighted.mean[chosen] @ b
    # Whatever the variance of a row's residual: the sandwich of White (1980).
    spread = (x * residuals[:, None]) @ inverse
    errors = np.sqrt((spread**2).sum(0))
    local_pred = np.array([intercept + weighted.rows[0, chosen] @ b])
    return _sorted(intercept, chosen, b, float(score), local_pred, errors)


def _by_regressor(
    weighted: WeightedRows, label: int, chosen: np.ndarray, regressor: Any
) -> LocalFit:
    x, y, weights = weighted.rows[:, chosen], weighted.outputs[:, label], weighted.weights
    regressor.fit(x, y, sample_weight=weights)
    score = regressor.score(x, y, sample_weight=weights)
    b = np.asarray(regressor.coef_)
    count = len(chosen)
    check(b.shape == (count,), "model_regressor", "{} coefficients", f"shape {b.shape}", count)
    local_pred = regressor.predict(x[:1])
    errors = np.full(len(chosen), np.nan)
    return _sorted(regressor.intercept_, chosen, b, score, local_pred, errors)


def _sorted(
    intercept: Any,
    chosen: np.ndarray,
    b: np.ndarray,
    score: float,
    local_pred: np.ndarray,
    errors: np.ndarray,
) -> LocalFit:
    order = np.argsort(-np.abs(b), kind="stable")
    pairs = list(zip(chosen[order], b[order], strict=True))
    return LocalFit(intercept, pairs, score, local_pred, errors[order])
