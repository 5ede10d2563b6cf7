"""What an explainer found, as ``lime.explanation`` has it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from ..core.checks import check_choice
from ._page import page


class DomainMapper:
    """Names the features of one kind of data; explanations work without."""

    def map_exp_ids(self, exp: Iterable[tuple[Any, Any]], **kwargs: Any) -> list[tuple[Any, Any]]:
        """Pairs of name and weight for pairs of feature and weight.

        Args:
            exp: the pairs.
            **kwargs: what ``as_list`` was given beside a label.
        """
        return list(exp)

    def visualize_instance_html(self, exp: list[tuple[Any, Any]], **kwargs: Any) -> str:
        """The row itself in HTML, to stand below the weights; nothing by default.

        Args:
            exp: pairs of feature and weight of the first label.
            **kwargs: what ``as_html`` was given beside its own.
        """
        return ""


class ByLabel(float):
    """A number for the label explained last, as lime has it, which has others by ``[label]``.

    Args:
        value: the number.
        by_label: for each label, its own.
    """

    by_label: dict[int, float]

    def __new__(cls, value: float, by_label: Mapping[int, float] | None = None) -> ByLabel:
        made = super().__new__(cls, value)
        made.by_label = dict(by_label or {})
        return made

    def __getitem__(self, label: int) -> float:
        return self.by_label[label]


class Predictions(np.ndarray):
    """An array [1] for the label explained last, as lime has it; ``[label]`` is that label's.

    Any other index is one of the array.
    """

    by_label: dict[int, float]

    @staticmethod
    def of(value: Any, by_label: Mapping[int, float]) -> Predictions:
        """The array with what it has by label.

        Args:
            value: an array [1].
            by_label: for each label, its own number.
        """
        made = np.array(value, dtype=np.float64).view(Predictions)
        made.by_label = dict(by_label)
        return made

    def __array_finalize__(self, other: Any) -> None:
        self.by_label = {}  # what is computed from it is an array like any other

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, int | np.integer) and int(key) in self.by_label:
            return np.float64(self.by_label[int(key)])
        return super().__getitem__(key)

    def __copy__(self) -> Predictions:
        return Predictions.of(self, self.by_label)

    def __deepcopy__(self, memo: Any) -> Predictions:
        return self.__copy__()

    def __reduce__(self) -> Any:
        return Predictions.of, (np.asarray(self), self.by_label)


class Explanation:
    """Weights of features for some labels, with what they are about.

    Args:
        domain_mapper: names the features.
        mode: "classification" or "regression".
        class_names: one for each class.
        random_state: kept for lime's sake: nothing here is random.

    Attributes:
        local_exp: for each label pairs of feature and weight, the largest weight first.
        intercept: for each label, of the linear model.
        standard_errors: for each label pairs of feature and the standard error of its weight, in
            the order of the weights. They tell how far another draw of samples would lead.
        score: the weighted R²: of the last label as a number, of each as ``score[label]``.
        local_pred: what the linear model says of the row: likewise, in an array [1].
        top_labels: the most probable classes, if they were asked for.
        predict_proba: what the model says of the row, [C], in classification.
        predicted_value: what the model says of the row, in regression.
        min_value: the least that it says of any sample, in regression.
        max_value: the most.
    """

    def __init__(
        self,
        domain_mapper: Any,
        mode: str = "classification",
        class_names: Any = None,
        random_state: Any = None,
    ):
        self.mode = check_choice(mode, "mode", ("classification", "regression"))
        self.domain_mapper, self.random_state = domain_mapper, random_state
        self.local_exp: dict[int, list[tuple[Any, Any]]] = {}
        self.intercept: dict[int, float] = {}
        self.standard_errors: dict[int, list[tuple[Any, Any]]] = {}
        self.score: Any = None
        self.local_pred: Any = None
        if self.mode == "classification":
            self.class_names = class_names
            self.top_labels: list[Any] | None = None
            self.predict_proba: Any = None
        else:
            self.class_names = ["negative", "positive"]
            self.predicted_value: Any = None
            self.min_value, self.max_value, self.dummy_label = 0.0, 1.0, 1

    def __repr__(self) -> str:
        labels = ", ".join(str(label) for label in self.local_exp)
        return f"Explanation({self.mode}; labels {labels})"

    def available_labels(self) -> list[Any]:
        """The labels that are explained, the most probable first if those were asked for.

        Raises:
            NotImplementedError: in regression, where there are no labels.
        """
        if self.mode != "classification":
            raise NotImplementedError("available_labels: a regression has no labels")
        return list(self.top_labels or self.local_exp)

    def as_list(self, label: int = 1, **kwargs: Any) -> list[tuple[Any, float]]:
        """Pairs of name and weight, the largest first.

        Args:
            label: the class; not looked at in regression.
            **kwargs: for the domain mapper.

        Raises:
            KeyError: the label was not explained.
        """
        pairs = self.domain_mapper.map_exp_ids(self._pairs(label), **kwargs)
        return [(name, float(weight)) for name, weight in pairs]

    def as_map(self) -> dict[int, list[tuple[Any, Any]]]:
        """For each label pairs of feature and weight."""
        return self.local_exp

    def as_pyplot_figure(
        self, label: int = 1, figsize: tuple[float, float] = (4, 4), **kwargs: Any
    ) -> Any:
        """A figure of pyplot with a bar for each weight, and its standard error. Needs matplotlib.

        Args:
            label: the class; not looked at in regression.
            figsize: in inches.
            **kwargs: for the domain mapper.

        Raises:
            KeyError: the label was not explained.
        """
        pairs = self.as_list(label, **kwargs)[::-1]
        try:
            pyplot = import_module("matplotlib.pyplot")
        except ImportError as error:
            message = "as_pyplot_figure needs matplotlib: pip install matplotlib"
            raise ImportError(message) from error
        figure = pyplot.figure(figsize=figsize)
        axes = figure.add_subplot()
        places, weights = np.arange(len(pairs)) + 0.5, [weight for _, weight in pairs]
        colours = ["green" if weight > 0 else "red" for weight in weights]
        errors = [error for _, error in self.standard_errors.get(self._label(label), [])][::-1]
        known = len(errors) == len(pairs) and bool(np.isfinite(errors).all())
        axes.barh(places, weights, align="center", color=colours, xerr=errors if known else None)
        axes.set_yticks(places, labels=[str(name) for name, _ in pairs], parse_math=False)
        axes.set_title(self._title(label))
        return figure

    def as_html(
        self,
        labels: Iterable[int] | None = None,
        predict_proba: bool = True,
        show_predicted_value: bool = True,
        **kwargs: Any,
    ) -> str:
        """A page of HTML that needs nothing else, and no scripts.

        Args:
            labels: the classes; None for all that are explained. Not looked at in regression.
            predict_proba: whether to show the classes' probabilities.
            show_predicted_value: whether to show the value of a regression.
            **kwargs: for the domain mapper: of tables ``show_table`` and ``show_all``.

        Raises:
            KeyError: a label was not explained.
        """
        if self.mode == "classification":
            shown = self.available_labels() if labels is None else list(labels)
        else:
            shown = [self.dummy_label]
        charts = [(self._title(label), self.as_list(label)) for label in shown]
        probabilities = value = None
        if self.mode == "classification" and predict_proba and self.predict_proba is not None:
            names = self.class_names or [str(c) for c in range(len(self.predict_proba))]
            probabilities = list(zip(names, self.predict_proba, strict=False))
        if self.mode == "regression" and show_predicted_value and self.predicted_value is not None:
            value = (self.predicted_value, self.min_value, self.max_value)
        row = ""
        if shown:
            pairs = self._pairs(shown[0])
            row = self.domain_mapper.visualize_instance_html(pairs, **kwargs)
        return page(charts, probabilities, value, row)

    def save_to_file(
        self,
        file_path: Any,
        labels: Iterable[int] | None = None,
        predict_proba: bool = True,
        show_predicted_value: bool = True,
        **kwargs: Any,
    ) -> None:
        """Writes the page of HTML to a file.

        Args:
            file_path: where to.
            labels: the classes; None for all that are explained.
            predict_proba: whether to show the classes' probabilities.
            show_predicted_value: whether to show the value of a regression.
            **kwargs: for the domain mapper.
        """
        text = self.as_html(labels, predict_proba, show_predicted_value, **kwargs)
        Path(file_path).write_text(text, encoding="utf8")

    def show_in_notebook(
        self,
        labels: Iterable[int] | None = None,
        predict_proba: bool = True,
        show_predicted_value: bool = True,
        **kwargs: Any,
    ) -> None:
        """Shows the page of HTML in a notebook. Needs IPython.

        Args:
            labels: the classes; None for all that are explained.
            predict_proba: whether to show the classes' probabilities.
            show_predicted_value: whether to show the value of a regression.
            **kwargs: for the domain mapper.
        """
        try:
            shown = import_module("IPython.display")
        except ImportError as error:
            raise ImportError("show_in_notebook needs IPython: pip install ipython") from error
        text = self.as_html(labels, predict_proba, show_predicted_value, **kwargs)
        shown.display(shown.HTML(text))

    def _label(self, label: int) -> int:
        return label if self.mode == "classification" else self.dummy_label

    def _pairs(self, label: int) -> list[tuple[Any, Any]]:
        key = self._label(label)
        if key not in self.local_exp:
            known = ", ".join(str(k) for k in self.local_exp)
            raise KeyError(f"label: expected one that was explained, {known}, got {label}")
        return self.local_exp[key]

    def _title(self, label: int) -> str:
        if self.mode != "classification":
            return "Local explanation"
        name = label if self.class_names is None else self.class_names[label]
        return f"Local explanation for class {name}"
