"""Scores of scikit-learn's estimators on permuted tables, with as few calls as there can be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..core.checks import ArgumentError, check
from ..core.engine.permuted_tables import Change, ask_permuted
from ..core.engine.stand_in import StandIn, asking

Scores = dict[Any, Any]  # by the names of scorers; of one scorer by None

# What answers for every row by itself and to the last bit alike, wherever it stands in a table:
# comparisons and sums in an order of their own. In a product of matrices the order of sums depends
# on the place of a row.
_TREES = (
    *("DecisionTreeClassifier", "DecisionTreeRegressor", "ExtraTreeClassifier"),
    *("ExtraTreeRegressor", "RandomForestClassifier", "RandomForestRegressor"),
    *("ExtraTreesClassifier", "ExtraTreesRegressor", "GradientBoostingClassifier"),
    *("GradientBoostingRegressor", "HistGradientBoostingClassifier"),
    *("HistGradientBoostingRegressor", "LGBMClassifier", "LGBMRegressor"),
)
_BY_ENTRY = (
    *("Pipeline", "ColumnTransformer", "StandardScaler", "MinMaxScaler", "RobustScaler"),
    *("MaxAbsScaler", "OneHotEncoder", "OrdinalEncoder", "SimpleImputer"),
)
_ROW_BY_ROW = frozenset((*_TREES, *_BY_ENTRY))


def is_row_by_row(estimator: Any) -> bool:
    """Whether tables may be stacked without the change of a bit."""
    nested = estimator.get_params(deep=True).values() if hasattr(estimator, "get_params") else ()
    parts = [estimator, *(p for p in nested if hasattr(p, "fit") and not isinstance(p, type))]
    return all(
        type(part).__name__ in _ROW_BY_ROW
        and type(part).__module__.startswith(("sklearn.", "lightgbm."))
        for part in parts
    )


class Scorers:
    """One scorer or several, and the one table of answers that those need that ask for answers.

    Args:
        estimator: a fitted one.
        scoring: as scikit-learn takes it.

    Raises:
        ArgumentError: if scikit-learn does not take it, or there are none.
    """

    def __init__(self, estimator: Any, scoring: Any):
        self.estimator = estimator
        if isinstance(scoring, list | tuple | set):
            fine = len(scoring) > 0 and all(isinstance(name, str) for name in scoring)
            check(fine, "scoring", "names of scorers", repr(scoring)[:80])
            check(len({*scoring}) == len(scoring), "scoring", "each scorer once", repr(scoring))
            scoring = {name: name for name in scoring}
        if isinstance(scoring, Mapping):
            check(len(scoring) > 0, "scoring", "at least one scorer", "none")
            self._each = {name: self._scorer(one) for name, one in scoring.items()}
        else:
            self._each = {None: self._scorer(scoring)}
        # Those that see nothing of the estimator but answers.
        self._by_answers = {n for n, s in self._each.items() if _asks_for_answers(s)}
        self.methods: list[str] = []  # that they ask, as far as is known
        self._writes = False  # whether the estimator was seen to write to its table

    def _scorer(self, scoring: Any) -> Any:
        from sklearn.metrics import check_scoring

        try:
            found = check_scoring(self.estimator, scoring=scoring)
        except (TypeError, ValueError) as error:
            raise ArgumentError(f"scoring: {error}") from error
        return found if scoring is not None else _default(self.estimator) or found

    @property
    def calls_estimator(self) -> bool:
        """Whether some scorer calls the estimator by itself."""
        return len(self._by_answers) < len(self._each)

    def at_inputs(self, table: Any, y: Any, weights: Any) -> Scores:
        """The scores on a table of its own, where it is seen which methods are asked."""
        asked, given = StandIn(self.estimator), _copied(table)
        scores = self._scores(asked, given, y, weights, fast=False)
        self.methods = list(asked.answers)
        self._writes = isinstance(table, np.ndarray) and not _are_equal(given, table)
        return scores

    def permuted(
        self, table: Any, changes: Sequence[Change], y: Any, weights: Any
    ) -> list[Scores]:  # for each change
        """The scores after each of many changes of a table."""
        scores: list[Scores] = [{}] * len(changes)

        def visit(place: int, answers: dict[str, Any], changed: Any) -> None:
            asked = StandIn(self.estimator, answers)
            given = _copied(changed) if self._writes and self.calls_estimator else changed
            scores[place] = self._scores(asked, given, y, weights, fast=True)

        ask = asking(self.estimator, self.methods)
        may_stack = not self.calls_estimator and is_row_by_row(self.estimator)
        of_copies = (lambda changed: ask(_copied(changed))) if self._writes else ask
        ask_permuted(of_copies, table, changes, visit, may_stack)
        return scores

    def _scores(self, asked: StandIn, table: Any, y: Any, weights: Any, fast: bool) -> Scores:
        named = {} if weights is None else {"sample_weight": weights}
        scores = {}
        for name, scorer in self._each.items():
            score = _hits(scorer, asked, y) if fast and weights is None else None
            if score is None:
                model = asked if name in self._by_answers else self.estimator
                score = scorer(model, table, y, **named)
            scores[name] = score
        several = scores.get(None)
        return scores if not isinstance(several, dict) else several


def _copied(table: Any) -> Any:
    """A copy of the same layout in memory, on which the order of sums may depend."""
    return table.copy(order="K") if isinstance(table, np.ndarray) else table.copy()


def _are_equal(one: np.ndarray, other: np.ndarray) -> bool:
    return np.array_equal(one, other, equal_nan=one.dtype.kind in "fc") or one.dtype.kind == "O"


class _Default:
    """What ``score`` does that an estimator has from scikit-learn's own mixins."""

    def __init__(self, score: Any, is_accuracy: bool):
        self._score, self.is_accuracy = score, is_accuracy

    def __call__(self, estimator: Any, table: Any, y: Any, **named: Any) -> Any:
        return self._score(estimator, table, y, **named)


def _default(estimator: Any) -> _Default | None:
    from sklearn.base import ClassifierMixin, RegressorMixin
    from sklearn.pipeline import Pipeline

    own = estimator
    while type(own).__name__ == "Pipeline" and type(own).score is Pipeline.score:
        own = own.steps[-1][1]
    for mixin in (ClassifierMixin, RegressorMixin):
        if getattr(type(own), "score", None) is mixin.score:
            return _Default(mixin.score, mixin is ClassifierMixin)
    return None


def _asks_for_answers(scorer: Any) -> bool:
    from sklearn.metrics import get_scorer

    # The class of what make_scorer returns has no public name.
    made = type(get_scorer("accuracy")).__mro__[:-1]
    return isinstance(scorer, (_Default, made[0]))


def _hits(scorer: Any, asked: StandIn, y: Any) -> float | None:
    """The accuracy of labels that are compared as they are; None for anything else."""
    from sklearn.metrics import accuracy_score

    if isinstance(scorer, _Default):
        is_accuracy = scorer.is_accuracy
    else:
        is_accuracy = getattr(scorer, "_score_func", None) is accuracy_score
        is_accuracy = is_accuracy and not scorer._kwargs and scorer._sign == 1
    if not is_accuracy:
        return None
    found, truth = asked.answers.get("predict"), np.asarray(y)
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "iub":
        return None
    if truth.dtype.kind != found.dtype.kind or truth.ndim != 1 or truth.shape != found.shape:
        return None
    return float(np.count_nonzero(truth == found) / len(truth))
