"""Explainers of tables, as ``lime.lime_tabular`` has them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
import torch

from ..core import engine
from ..core.checks import (
    ArgumentError,
    check,
    check_choice,
    check_count,
    check_limit,
    check_number,
    warn,
)
from ..core.engine.model import Model, Prefix
from ..core.engine.rows import InputRows
from ..interop.models import RowFunction, callable_of
from ..interop.tables import checked_names, is_sparse
from ._draws import checked_state, seed_of
from ._mapping import TableDomainMapper, TrainingTable
from ._neighbours import Neighbours, Scaler
from ._recurrent import flattened, names_in_time, of_series
from ._rows import WeightedRows, checked_most, checked_selection
from .discretize import (
    BaseDiscretizer,
    DecileDiscretizer,
    EntropyDiscretizer,
    QuartileDiscretizer,
    StatsDiscretizer,
)
from .explanation import ByLabel, Explanation, Predictions
from .lime_base import LimeBase, LocalFit

__all__ = ["LimeTabularExplainer", "RecurrentTabularExplainer", "TableDomainMapper"]

_DISCRETIZERS: dict[str, type[BaseDiscretizer]] = {
    "quartile": QuartileDiscretizer,
    "decile": DecileDiscretizer,
    "entropy": EntropyDiscretizer,
}
_STATS = ("means", "mins", "maxs", "stds", "feature_values", "feature_frequencies")
_WIDTH = 0.75  # of the kernel, for each root of a column
_NOT_ONE = 1e-5  # of the sum of probabilities, and as much again of the sum


def exponential_kernel(d: Any, kernel_width: float) -> Any:
    """The root of exp(−d² / width²)."""
    return np.exp(-0.5 * (d / kernel_width) ** 2)


class LimeTabularExplainer:
    """Explains what a model says of a row by a sparse linear model of rows drawn around it.

    Columns of numbers are cut into bins, and a feature is whether a value is in the row's bin;
    categorical columns are features by their values. With ``discretize_continuous=False`` numbers
    are drawn around the row. Without ``sample_around_instance=True`` lime draws them around the
    mean of the training data, where a row that is far away has next to no weight: here it is the
    default.

    Args:
        training_data: rows [K, M] in any form: an array, a tensor, a list, a DataFrame, a sparse
            matrix. The model is given rows of this form. Columns of a DataFrame that hold no
            numbers are categorical. Of a sparse matrix nothing is discretised, and only what is
            not zero in the row is varied.
        mode: "classification" or "regression".
        training_labels: of the rows, for bins that go by them.
        feature_names: one for each column; None for those of a DataFrame, or numbers.
        categorical_features: columns, by number or name, that hold values to be told apart.
        categorical_names: for each categorical column the names of its values, which are integers.
        kernel_width: of the kernel; None for 0.75 √M.
        kernel: takes distances and the width, returns weights; None for exp(−d² / (2 width²)).
        verbose: whether to print what each linear model says of the row itself.
        class_names: one for each class; None for those of an estimator, or numbers.
        feature_selection: "auto", "none", "forward_selection", "highest_weights" or "lasso_path".
        discretize_continuous: whether to cut columns of numbers into bins.
        discretizer: "quartile", "decile", "entropy", which needs training labels, or an object
            such as :class:`BaseDiscretizer`.
        sample_around_instance: whether numbers that are not cut into bins are drawn around the
            row; False for around the mean.
        random_state: an integer, for the same answer to every call; a ``RandomState`` or
            ``Generator``, which moves on; None for numpy's global generator.
        training_data_stats: "means", "mins", "maxs", "stds", "feature_values" and
            "feature_frequencies", and "bins", each by column, instead of those of the data.
        precision: decimals of numbers in names.

    Raises:
        ArgumentError: an argument is not as above; the message names it.

    Example:
        >>> from fastxai.lime import lime_tabular
        >>> explainer = lime_tabular.LimeTabularExplainer(table, random_state=0)
        >>> explainer.explain_instance(table.iloc[0], forest).as_list()
    """

    def __init__(
        self,
        training_data: Any,
        mode: str = "classification",
        training_labels: Any = None,
        feature_names: Any = None,
        categorical_features: Iterable[Any] | None = None,
        categorical_names: Mapping[Any, Any] | None = None,
        kernel_width: float | None = None,
        kernel: Callable[..., Any] | None = None,
        verbose: bool = False,
        class_names: Any = None,
        feature_selection: str = "auto",
        discretize_continuous: bool = True,
        discretizer: Any = "quartile",
        sample_around_instance: bool = True,
        random_state: Any = None,
        training_data_stats: Mapping[str, Any] | None = None,
        *,
        precision: int = 2,
    ):
        self.mode = check_choice(mode, "mode", ("classification", "regression"))
        self.feature_selection = checked_selection(feature_selection)
        self._precision = check_count(precision, "precision", at_least=0)
        self.random_state, self.class_names = checked_state(random_state), class_names
        self.sample_around_instance = sample_around_instance
        self.training_data_stats = training_data_stats
        data = TrainingTable(training_data, categorical_features, categorical_names)
        self._data, self.categorical_names = data, data.categorical_names
        width = data.table.width
        names = checked_names(feature_names, width, "feature_names") or data.names
        self.feature_names = names
        self.categorical_features = data.categorical
        self.discretizer: Any = None
        if discretize_continuous and not is_sparse(data.rows):
            self.discretizer = self._discretizer(discretizer, training_labels)
            self.categorical_features = list(range(width))
        self.scaler = Scaler(data.rows)
        self.feature_values: dict[int, Any] = {}
        self.feature_frequencies: dict[int, np.ndarray] = {}
        self._count_values()
        self._neighbours = Neighbours(
            self.scaler,
            self.feature_values,
            self.feature_frequencies,
            self.discretizer,
            bool(sample_around_instance),
        )
        spread = _WIDTH * np.sqrt(width) if kernel_width is None else kernel_width
        self.kernel_width = check_number(spread, "kernel_width", "a width above 0", positive=True)
        check(kernel is None or callable(kernel), "kernel", "a function", repr(kernel))
        of_distance = partial(kernel or exponential_kernel, kernel_width=self.kernel_width)
        self.base = LimeBase(of_distance, verbose, random_state)

    def explain_instance(
        self,
        data_row: Any,
        predict_fn: Any,
        labels: Iterable[int] = (1,),
        top_labels: int | None = None,
        num_features: int = 10,
        num_samples: int = 5000,
        distance_metric: Any = "euclidean",
        model_regressor: Any = None,
        *,
        batch_size: int | None = None,
    ) -> Explanation:
        """Explains a row.

        Args:
            data_row: [M], in any form.
            predict_fn: a function of rows that returns probabilities [n, C], or values [n] or
                [n, 1] in regression; a torch module; or an estimator with ``predict_proba`` or
                ``predict``.
            labels: the classes to explain; not looked at in regression.
            top_labels: so many of the most probable classes instead.
            num_features: how many features an explanation has at most.
            num_samples: rows to ask the model about, the row itself among them.
            distance_metric: "euclidean", or any that ``sklearn.metrics.pairwise_distances`` takes,
                which needs scikit-learn.
            model_regressor: an estimator with ``fit(x, y, sample_weight=...)``, ``coef_`` and
                ``intercept_``; None for a ridge with penalty 1.
            batch_size: at most so many rows in a call of the model; None to choose for speed.

        Raises:
            ArgumentError: an argument is not as above; the message names it.
            NotImplementedError: a classifier returned one number a row.
        """
        callable_of(predict_fn, "predict_fn")
        limit = check_limit(batch_size, argument="batch_size")
        count = check_count(num_samples, "num_samples", at_least=2)
        checked_most(num_features)
        wanted = _checked_labels(labels)
        if top_labels is not None:
            check_count(top_labels, "top_labels", at_least=0)
        row, table = self._data.take(data_row)
        z, rows = self._draw(row, count)
        weights = self.base.weights(_distances(z, distance_metric), count)
        mapper = self._mapper(row, z[0])
        function = RowFunction(predict_fn, table, limit)
        outputs = self._ask(function, rows)
        found = Explanation(mapper, self.mode, self._classes(function, outputs))
        if self.mode == "classification":
            found.predict_proba = outputs[0].copy()
            if top_labels:
                wanted = list(np.argsort(outputs[0])[::-1][:top_labels])
                found.top_labels = list(wanted)
        else:
            found.predicted_value = outputs[0, 0]
            found.min_value, found.max_value = outputs.min(), outputs.max()
            wanted = [0]
        classes = outputs.shape[1]
        odd = next((label for label in wanted if not -classes <= label < classes), None)
        check(odd is None, "labels", "some of {} classes", odd, classes)
        weighted = WeightedRows(z, outputs, weights)
        fits = {
            label: self.base.fit(
                weighted, int(label), num_features, self.feature_selection, model_regressor
            )
            for label in wanted
        }
        return self._filled(found, fits)

    def _draw(self, row: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        seed = seed_of(self.random_state)
        if not is_sparse(self._data.rows):
            return self._neighbours.draw(row, count, seed)
        # Only what is there is varied, and without a centre zeros stay zeros.
        there = np.flatnonzero(row)
        part = Scaler(np.zeros((1, len(there))))
        part.mean_, part.scale_ = self.scaler.mean_[there], self.scaler.scale_[there]
        some = Neighbours(part, {}, {}, None, bool(self.sample_around_instance))
        z, rows = np.zeros((count, len(row))), np.zeros((count, len(row)))
        rows[:, there] = some.draw(row[there], count, seed)[1]
        z[:, there] = rows[:, there] / part.scale_
        return z, rows

    def _ask(self, function: RowFunction, rows: np.ndarray) -> np.ndarray:  # [n, M] -> [n, C]
        asked = InputRows((torch.from_numpy(rows),), len(rows))
        model = Model(function, len(rows), prefix=Prefix(wanted=False))
        outputs = engine.values(model, asked)[0].numpy()
        if self.mode == "regression":
            fine = outputs.ndim == 1 or outputs.shape[1] == 1
            check(fine, "predict_fn", "values [n] or [n, 1]", f"shape {outputs.shape}")
            return outputs.reshape(-1, 1)
        if outputs.ndim == 1:
            raise NotImplementedError(
                "predict_fn: expected probabilities [n, C], got one number a row; a classifier "
                "has predict_proba, anything else is explained with mode='regression'"
            )
        totals = outputs.sum(1)
        if not np.allclose(totals, 1.0, rtol=0, atol=2 * _NOT_ONE):
            warn(
                "predict_fn: its outputs do not add up to 1, as probabilities do; weights are in "
                "the unit of the outputs"
            )
        return outputs

    def _classes(self, function: RowFunction, outputs: np.ndarray) -> list[str] | None:
        if self.mode == "regression":
            return None
        count = outputs.shape[1]
        if self.class_names is not None:
            return checked_names(self.class_names, count, "class_names")
        names = function.classes
        return names if names and len(names) == count else [str(c) for c in range(count)]

    def _filled(self, found: Explanation, fits: Mapping[Any, LocalFit]) -> Explanation:
        scores = {int(label): float(fit.score) for label, fit in fits.items()}
        said = {int(label): float(np.ravel(fit.local_pred)[0]) for label, fit in fits.items()}
        for label, fit in fits.items():
            found.intercept[label] = fit.intercept
            found.local_exp[label] = fit.weights
            features = [feature for feature, _ in fit.weights]
            errors = list(zip(features, fit.standard_errors, strict=True))
            found.standard_errors[label] = errors
            found.score = ByLabel(fit.score, scores)
            found.local_pred = Predictions.of(fit.local_pred, said)
        if self.mode == "regression":  # lime's labels: 1 for upwards, 0 for downwards
            found.intercept[1] = found.intercept[0]
            found.standard_errors[1] = found.standard_errors[0]
            found.local_exp[1] = found.local_exp[0]
            found.local_exp[0] = [(feature, -weight) for feature, weight in found.local_exp[1]]
            found.score.by_label[1] = found.score.by_label[0]
        return found

    def _discretizer(self, given: Any, labels: Any) -> Any:
        args = (self._data.rows, self.categorical_features, self.feature_names)
        options: dict[str, Any] = {"labels": labels, "random_state": self.random_state}
        stats = self.training_data_stats
        if stats is not None:
            missing = [key for key in _STATS if key not in stats]
            check(not missing, "training_data_stats", "keys {}", f"no {missing}", ", ".join(_STATS))
            return StatsDiscretizer(*args, **options, data_stats=stats, precision=self._precision)
        if isinstance(given, str):
            kind = _DISCRETIZERS[check_choice(given, "discretizer", _DISCRETIZERS)]
            return kind(*args, **options, precision=self._precision)
        needed = ("discretize", "names", "lambdas", "means", "stds", "mins", "maxs")
        fine = not isinstance(given, type) and all(hasattr(given, name) for name in needed)
        check(fine, "discretizer", "one of {}, or a discretizer", repr(given), list(_DISCRETIZERS))
        return given

    def _count_values(self) -> None:
        """What the columns that are told apart hold, and how often."""
        stats = self.training_data_stats
        rows: Any = None
        if self.categorical_features:
            rows = self._data.rows
            rows = rows if self.discretizer is None else self.discretizer.discretize(rows)
        for c in self.categorical_features:
            if stats is None:
                values, counts = np.unique(rows[:, c], return_counts=True)
                self.feature_values[c] = values.tolist()
            else:
                self.feature_values[c] = values = stats["feature_values"][c]
                counts = np.asarray(stats["feature_frequencies"][c], dtype=np.float64)
            self.feature_frequencies[c] = counts / counts.sum()
            self.scaler.mean_[c], self.scaler.scale_[c] = 0, 1

    def _mapper(self, row: np.ndarray, z: np.ndarray) -> TableDomainMapper:
        sparse = is_sparse(self._data.rows)
        there = np.flatnonzero(row) if sparse else None
        shown = row if there is None else row[there]
        values = [f"{v:.{self._precision}f}" for v in shown]
        names = list(self.feature_names)
        bins = getattr(self.discretizer, "lambdas", {})
        for c in self.categorical_features:
            if c not in bins:
                names[c] = f"{names[c]}={self._data.value_name(c, row[c])}"
                values[c] = "True"
        discretised = None
        if self.discretizer is not None:
            own, discretised = self.discretizer.discretize(row), list(names)
            for c, of_bins in self.discretizer.names.items():
                discretised[c] = of_bins[int(own[c])]
        return TableDomainMapper(names, values, z, self.categorical_features, discretised, there)


class RecurrentTabularExplainer(LimeTabularExplainer):
    """The same for series: each feature at each step is a column, named "name_t-0" at the last.

    Args:
        training_data: series [n, T, F], an array or a tensor. Functions are given arrays.
        mode: "classification" or "regression".
        training_labels: of the series, for bins that go by them.
        feature_names: one for each of F.
        categorical_features: columns by number, feature by feature, each in the order of time.
        categorical_names: for each categorical column the names of its values, which are integers.
        kernel_width: of the kernel; None for 0.75 √(T F).
        kernel: takes distances and the width, returns weights.
        verbose: whether to print what each linear model says of the series itself.
        class_names: one for each class.
        feature_selection: how features are chosen.
        discretize_continuous: whether to cut columns of numbers into bins.
        discretizer: "quartile", "decile", "entropy" or a discretizer.
        random_state: an integer, a ``RandomState`` or ``Generator``, or None.
        precision: decimals of numbers in names.
    """

    def __init__(
        self,
        training_data: Any,
        mode: str = "classification",
        training_labels: Any = None,
        feature_names: Any = None,
        categorical_features: Iterable[Any] | None = None,
        categorical_names: Mapping[Any, Any] | None = None,
        kernel_width: float | None = None,
        kernel: Callable[..., Any] | None = None,
        verbose: bool = False,
        class_names: Any = None,
        feature_selection: str = "auto",
        discretize_continuous: bool = True,
        discretizer: Any = "quartile",
        random_state: Any = None,
        *,
        precision: int = 2,
    ):
        rows = flattened(training_data, 3, "training_data")
        _, self.n_timesteps, self.n_features = np.shape(training_data)
        names = checked_names(feature_names, self.n_features, "feature_names")
        super().__init__(
            rows,
            mode,
            training_labels,
            names_in_time(names or range(self.n_features), self.n_timesteps),
            categorical_features,
            categorical_names,
            kernel_width,
            kernel,
            verbose,
            class_names,
            feature_selection,
            discretize_continuous,
            discretizer,
            random_state=random_state,
            precision=precision,
        )

    def explain_instance(  # type: ignore[override]  # lime has another name for the model here
        self, data_row: Any, classifier_fn: Any, *args: Any, **kwargs: Any
    ) -> Explanation:
        """Explains a series.

        Args:
            data_row: [T, F].
            classifier_fn: a function of series [n, T, F], a torch module or an estimator.
            *args: as for tables, in their order: labels, top_labels, num_features, num_samples,
                distance_metric, model_regressor.
            **kwargs: the same by name, and batch_size.
        """
        model = of_series(classifier_fn, self.n_timesteps, self.n_features)
        row = flattened(data_row, 2, "data_row")
        return super().explain_instance(row, model, *args, **kwargs)


def _checked_labels(labels: Any) -> list[Any]:
    try:
        found = list(labels)
    except TypeError:
        found = [None]
    fine = all(isinstance(k, int | np.integer) and not isinstance(k, bool) for k in found)
    check(fine and len(found) > 0, "labels", "integers", repr(labels))
    return found


def _distances(z: np.ndarray, metric: Any) -> np.ndarray:  # [n, M] -> [n]
    if isinstance(metric, str) and metric == "euclidean":
        off = z - z[0]
        return np.asarray(np.sqrt(np.einsum("nm,nm->n", off, off)))
    try:
        measures = import_module("sklearn.metrics")
    except ImportError as error:
        message = "a distance_metric but 'euclidean' needs scikit-learn: pip install scikit-learn"
        raise ImportError(message) from error
    try:
        return np.asarray(measures.pairwise_distances(z, z[:1], metric=metric).ravel())
    except (ValueError, TypeError) as error:
        raise ArgumentError(
            f"distance_metric: expected one that scikit-learn knows, got {metric!r}: {error}"
        ) from error
