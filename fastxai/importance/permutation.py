"""Permutation importance: how far a score falls when a column's values are shuffled."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..core.checks import check, check_count
from ..core.engine.permuted_tables import Change
from ..interop.tables import is_frame, is_series, is_sparse
from . import _functions
from ._columns import Groups, groups_of, orders_of, state_of
from ._estimators import Scorers


class Importances(dict[str, Any]):
    """The importances of columns: a dict whose values are attributes as well.

    Attributes:
        importances: [G, R] how far the score fell, for each column or group and repeat.
        importances_mean: [G] the mean over repeats.
        importances_std: [G] the standard deviation of the repeats.
        importances_sem: [G] the standard error of the mean; NaN for a single repeat.
        feature_names: of the columns or groups; None if they have none.
    """

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self]


def permutation_importance(
    estimator: Any,
    X: Any,
    y: Any,
    *,
    scoring: Any = None,
    n_repeats: int = 5,
    n_jobs: int | None = None,
    random_state: Any = None,
    sample_weight: Any = None,
    max_samples: int | float = 1.0,
    feature_mask: Any = None,
) -> Any:
    """How far a model's score falls when the values of a column are shuffled among the rows.

    The arguments are those of ``sklearn.inspection.permutation_importance``, and so are the
    numbers, to the last bit, for the same ``random_state``. Only the columns at hand are changed
    from one question to the next, trees are asked about many shuffled tables in one call, and
    scorers that scikit-learn made (all that have names) get answers that several of them share;
    a scorer of another kind calls the estimator by itself.

    Sources: Breiman, "Random forests" (2001); Fisher, Rudin and Dominici, "All models are wrong,
    but many are useful" (2019).

    Args:
        estimator: a fitted estimator of scikit-learn's kind; or a torch module, which is asked in
            eval mode, or a function of what ``X`` is, with a metric as ``scoring``.
        X: the rows: an array [B, M], a DataFrame or a sparse matrix; for a module or a function
            also a tensor [B, *F].
        y: what the outputs are to be compared with, for B rows; None if the scorer needs nothing.
        scoring: for estimators as in scikit-learn: None for the estimator's own ``score``, a
            scorer's name, a function of the estimator, ``X`` and ``y``, or several as a list of
            names or a dict. For modules and functions a function of the outputs, a tensor, and of
            ``y``, as a tensor if it is of numbers, or a dict of such functions. More is better.
        n_repeats: how often each column is shuffled.
        n_jobs: among how many processes of joblib the columns of an estimator are divided; None
            for one, unless joblib was told otherwise; -1 for as many as there are cores.
        random_state: decides the shuffles: an integer, a numpy RandomState, or None for numpy's
            global one.
        sample_weight: [B] weights of the rows, which are handed to scorers as ``sample_weight``.
        max_samples: how many rows are drawn to be shuffled, or which share of them, from one draw
            for all columns. The score to compare with is that of all rows, as in scikit-learn.
        feature_mask: which columns are shuffled together: ids of groups [M], as for
            :class:`~fastxai.FeaturePermutation` (of a tensor's features [*F]); a list of lists of
            names or places of columns; or a dict of such lists by the groups' names. None: each by
            itself.

    Returns:
        :class:`~fastxai.importance.Importances` with ``importances`` [G, R], ``importances_mean``,
        ``importances_std``, and beyond scikit-learn's ``importances_sem`` and ``feature_names``;
        for several scorers a dict of those by the scorers' names.

    Raises:
        ArgumentError: an argument is not as above; the model has not been called.

    Example:
        >>> found = fastxai.permutation_importance(model, X_test, y_test, random_state=0)
        >>> found.importances_mean
        >>> fastxai.plot.bar(found)
    """
    is_estimator = hasattr(estimator, "fit") and not isinstance(estimator, nn.Module)
    expected = "a fitted estimator, a module or a function"
    check(is_estimator or callable(estimator), "estimator", expected, repr(estimator)[:80])
    check(not isinstance(estimator, type), "estimator", "a fitted estimator", repr(estimator))
    repeats = check_count(n_repeats, "n_repeats")
    is_number = isinstance(n_jobs, numbers.Integral) and not isinstance(n_jobs, bool)
    fine = n_jobs is None or (is_number and n_jobs != 0)
    check(fine, "n_jobs", "None or an integer other than 0", repr(n_jobs))
    table = _table(X) if is_estimator else X
    count, width = _shape(table)
    _check_rows(y, "y", count, may_miss=True)
    if is_estimator and isinstance(y, Tensor):
        y = y.detach().cpu().numpy()
    weights = _weights(sample_weight, count)
    drawn = _drawn(max_samples, count)
    if isinstance(table, Tensor) and isinstance(feature_mask, Tensor | np.ndarray):
        feature_mask = feature_mask.reshape(-1)
    groups = groups_of(feature_mask, X, width)
    state = state_of(random_state)
    if is_estimator:
        scorers = Scorers(estimator, scoring)
        draws = np.random.RandomState(state.randint(2**31))
        before = scorers.at_inputs(table, y, weights)
        rows = None if drawn == count else _sample(draws, count, drawn)
        orders = orders_of(draws, drawn, repeats)
        changes = [Change(columns, order) for columns in groups.columns for order in orders]
        some = [_taken(data, rows) for data in (table, y, weights)]
        flat = _in_jobs(scorers, n_jobs, changes, repeats, some)
        after = [flat[i : i + repeats] for i in range(0, len(flat), repeats)]
        return _results(before, after, groups)
    metrics = _functions.Metrics(scoring)
    function, inputs = _functions.as_rows(estimator, X)
    draws = np.random.RandomState(state.randint(2**31))
    rows = None if drawn == count else draws.permutation(count)[:drawn]
    orders = orders_of(draws, drawn, repeats)
    targets = _targets(y)
    wide = None if weights is None else torch.as_tensor(np.asarray(weights))
    with _functions.evaluating(estimator):
        before = _functions.at_inputs(function, inputs, targets, wide, metrics)
        inputs, targets, wide = (_taken(data, rows) for data in (inputs, targets, wide))
        after = _functions.permuted(
            function, inputs, groups.columns, orders, targets, wide, metrics
        )
    return _results(before, after, groups)


def _in_jobs(
    scorers: Scorers, n_jobs: int | None, changes: list[Change], repeats: int, data: Sequence[Any]
) -> list[dict[Any, Any]]:
    """The scores after each change, from several processes if that is wanted."""
    from joblib import effective_n_jobs
    from sklearn.utils.parallel import Parallel, delayed

    table, y, weights = data
    jobs = min(effective_n_jobs(n_jobs), len(changes) // repeats)
    if jobs == 1:
        return scorers.permuted(table, changes, y, weights)
    parts = np.array_split(np.arange(len(changes)), jobs)
    found = Parallel(n_jobs=n_jobs)(
        delayed(scorers.permuted)(table, [changes[i] for i in part], y, weights) for part in parts
    )
    return [scores for part in found for scores in part]


def _results(
    before: dict[Any, Any], after: list[list[dict[Any, Any]]], groups: Groups
) -> Importances | dict[Any, Importances]:
    found = {}
    for name, score in before.items():
        fallen = score - np.array([[scores[name] for scores in each] for each in after])
        std, repeats = np.std(fallen, axis=1), fallen.shape[1]
        found[name] = Importances(
            importances_mean=np.mean(fallen, axis=1),
            importances_std=std,
            importances=fallen,
            importances_sem=std / np.sqrt(repeats - 1)
            if repeats > 1
            else np.full_like(std, np.nan),
            feature_names=groups.names,
        )
    return found[None] if [*found] == [None] else found


def _table(data: Any) -> Any:
    """Rows as estimators take them."""
    if isinstance(data, Tensor):
        data = data.detach().cpu().numpy()
    if is_frame(data) or is_sparse(data):
        return data
    from sklearn.utils import check_array

    fits = np.ndim(data) == 2 if isinstance(data, np.ndarray) else not isinstance(data, str)
    check(fits, "X", "rows of features, [B, M]", f"shape {np.shape(data)}" if fits else repr(data))
    try:
        return check_array(data, ensure_all_finite="allow-nan", dtype=None)
    except (TypeError, ValueError) as error:
        check(False, "X", "rows of features, [B, M]", str(error))


def _shape(table: Any) -> tuple[int, int]:
    """How many rows there are, and how many features in each."""
    shape = tuple(table.shape) if hasattr(table, "shape") else np.shape(table)
    check(len(shape) >= 2, "X", "rows of features, [B, M]", f"shape {shape}")
    count, width = int(shape[0]), int(np.prod(shape[1:]))
    check(count > 0 and width > 0, "X", "at least one row and one feature", f"shape {shape}")
    return count, width


def _check_rows(data: Any, argument: str, count: int, may_miss: bool) -> None:
    if data is None and may_miss:
        return
    has_rows = hasattr(data, "__len__") and not isinstance(data, str | dict)
    has_rows = has_rows and getattr(data, "shape", (1,)) != ()
    check(has_rows, argument, "{} values, as X has rows", repr(data)[:80], count)
    found = data.shape[0] if hasattr(data, "shape") else len(data)
    check(found == count, argument, "{} values, as X has rows", found, count)


def _weights(weights: Any, count: int) -> Any:
    if weights is None:
        return None
    _check_rows(weights, "sample_weight", count, may_miss=False)
    if isinstance(weights, Tensor):
        weights = weights.detach().cpu().numpy()
    kind = np.asarray(weights).dtype.kind
    check(kind in "biuf", "sample_weight", "numbers", f"{np.asarray(weights).dtype} values")
    return weights


def _drawn(max_samples: Any, count: int) -> int:
    """How many rows are shuffled."""
    if isinstance(max_samples, numbers.Integral) and not isinstance(max_samples, bool):
        whole = int(max_samples)
        check(1 <= whole <= count, "max_samples", "1 to {} rows", whole, count)
        return whole
    is_share = isinstance(max_samples, numbers.Real) and not isinstance(max_samples, bool)
    fine = is_share and 0 < max_samples <= 1
    check(fine, "max_samples", "an integer, or a share above 0 and up to 1", repr(max_samples))
    drawn = int(max_samples * count)
    check(drawn > 0, "max_samples", "at least one of {} rows", f"{max_samples} of them", count)
    return drawn


def _sample(draws: np.random.RandomState, count: int, drawn: int) -> np.ndarray:  # [drawn]
    from sklearn.utils.random import sample_without_replacement

    return np.asarray(sample_without_replacement(count, drawn, random_state=draws))


def _taken(data: Any, rows: np.ndarray | None) -> Any:
    """Some rows of anything, or all."""
    if data is None or rows is None:
        return data
    if is_frame(data) or is_series(data):
        return data.iloc[rows]
    if isinstance(data, Tensor):
        return data[torch.from_numpy(rows).to(data.device)]
    if is_sparse(data):
        return data.tocsr()[rows].asformat(data.format)
    return np.asarray(data)[rows] if not isinstance(data, list) else [data[i] for i in rows]


def _targets(y: Any) -> Any:
    """Targets as a metric takes them: a tensor if they are numbers."""
    if y is None or isinstance(y, Tensor):
        return y
    array = np.asarray(y)
    return torch.from_numpy(array.copy()) if array.dtype.kind in "biuf" else array
