"""An estimator's answers to one table, and a stand-in that has them ready for scorers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

_RESPONSES = ("predict", "predict_proba", "predict_log_proba", "decision_function")


class StandIn:
    """An estimator that is asked each thing only once, whatever table it is shown.

    Scorers can be made to believe that it is the estimator, as everything else is the estimator's.

    Args:
        estimator: whom it stands for.
        answers: what the estimator said, by the names of methods; for what is not there, the
            estimator is asked, and its answer kept.
    """

    def __init__(self, estimator: Any, answers: dict[str, Any] | None = None):
        self._estimator = estimator
        self.answers = {} if answers is None else answers

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._estimator, name)  # or the error that scorers know the meaning of
        if name not in _RESPONSES:
            return found

        def respond(table: Any, *args: Any, **kwargs: Any) -> Any:
            if name not in self.answers:
                self.answers[name] = found(table, *args, **kwargs)
            return self.answers[name]

        respond.__name__ = name  # by which scorers know what they got
        return respond


def asking(estimator: Any, methods: Iterable[str]) -> Callable[[Any], dict[str, Any]]:
    """A function that asks these methods of an estimator about a table."""
    names = list(methods)
    return lambda table: {name: getattr(estimator, name)(table) for name in names}
