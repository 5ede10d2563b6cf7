"""Models of other libraries as one kind of function: rows in float64 to outputs in float64."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..core.checks import ArgumentError, check
from ..core.engine.independence import RowByRow
from ..core.engine.outputs import of_numbers
from .tables import Table, is_frame, is_series


class RowFunction(RowByRow):
    """The user's model, called with what the user's data are.

    Args:
        model: a function of rows, as :class:`Table` gives them back, that returns outputs [n] or
            [n, C]; a torch module, which gets tensors of its own dtype, on its device; or an
            estimator, whose ``predict_proba`` is asked, or ``predict`` if it has none.
        table: how the user's rows came.
        batch_size: at most so many rows in a call; None for no limit.
    """

    def __init__(self, model: Any, table: Table, batch_size: int | None = None):
        self.model, self._call = model, callable_of(model)
        self.table, self._batch_size = table, batch_size
        self.module = model if isinstance(model, nn.Module) else None
        if self.module is not None:
            dtype, device = place_of(self.module)
            default = table.dtype or torch.get_default_dtype()
            self.table = Table("tensor", table.width, None, dtype or default, device)
        self._returns_tensor = False  # as far as is known
        self.classes = class_names(model)

    def with_table(self, table: Table) -> RowFunction:
        """The same for rows that came with other columns."""
        return RowFunction(self.model, table, self._batch_size)

    @property
    def place(self) -> dict[str, Any]:
        """The dtype and device of rows for a module, as ``Tensor.to`` takes them."""
        return {"dtype": self.table.dtype, "device": self.table.device}

    @property
    def plain_module(self) -> nn.Module | None:
        """The model, if it is a module that was seen to return a tensor and has no limit of rows.

        Nothing then stands between it and what calls it.
        """
        return self.module if self._returns_tensor and self._batch_size is None else None

    def __call__(self, rows: Tensor) -> Tensor:  # [n, M] float64 -> [n, *C] float64
        if self._batch_size is None or len(rows) <= self._batch_size:
            return self._outputs(rows)
        return torch.cat([self._outputs(part) for part in rows.split(self._batch_size)])

    def _outputs(self, rows: Tensor) -> Tensor:
        if self.module is None:
            return as_outputs(self._call(self.table.back(rows)), len(rows))
        with torch.no_grad(), eval_mode(self.module):
            found = self._call(self.table.back(rows))
        self._returns_tensor = isinstance(found, Tensor)
        return as_outputs(found, len(rows))


def callable_of(model: Any, argument: str = "model") -> Callable[..., Any]:
    """What is called of a model."""
    if not callable(model) and _gives_labels(model):
        expected = "a model that gives numbers, as decision_function does"
        got = f"the labels that predict gives of a {type(model).__name__}"
        raise ArgumentError(f"{argument}: expected {expected}, got {got}")
    function: Callable[..., Any]
    for function in (model, *(getattr(model, n, None) for n in ("predict_proba", "predict"))):
        if callable(function):
            return function
    expected = "a module or callable, or an estimator with predict_proba or predict"
    raise ArgumentError(f"{argument}: expected {expected}, got {repr(model)[:80]}")


@dataclass(frozen=True)
class Selection:
    """One of the outputs of a model that returns several."""

    model: Any
    output: str | int

    def class_names(self) -> list[str] | None:
        """Those of this output, if it is one of a classifier's."""
        classes: Any = getattr(self.model, "classes_", None)
        if isinstance(self.output, str):
            return class_names(self.model) if self.output == "logits" else None
        if not isinstance(classes, list) or not -len(classes) <= self.output < len(classes):
            return None
        return [str(c) for c in np.asarray(classes[self.output]).ravel()]


def _gives_labels(estimator: Any) -> bool:
    """Whether an estimator has no more to say than which class, or cluster, a row is of."""
    if callable(getattr(estimator, "predict_proba", None)):
        return False
    labels = (getattr(estimator, name, None) for name in ("classes_", "labels_"))
    return any(found is not None and len(found) > 0 for found in labels)


def class_names(model: Any) -> list[str] | None:
    """What the outputs of a classifier are called: of an estimator, or one of Hugging Face."""
    selected = getattr(model, "selects", None)
    if isinstance(selected, Selection):
        return selected.class_names()
    classes = getattr(model, "classes_", None)
    owner = getattr(model, "__self__", None)
    if owner is not None and getattr(model, "__name__", "") == "predict_proba":
        classes = getattr(owner, "classes_", None)
    if isinstance(classes, list) and any(isinstance(c, np.ndarray) for c in classes):
        return None  # of several outputs
    if classes is not None:
        return [str(c) for c in np.asarray(classes).ravel()]
    labels = getattr(getattr(model, "config", None), "id2label", None)
    if isinstance(labels, Mapping) and set(labels) == set(range(len(labels))):
        return [str(labels[i]) for i in range(len(labels))]
    return None


def as_outputs(found: Any, rows: int) -> Tensor:  # [n, *C] float64, on the CPU
    """What a model returned for so many rows.

    Raises:
        ArgumentError: if it is not one number, or several, for each.
    """
    found = getattr(found, "logits", found)  # as models of Hugging Face return them
    if is_frame(found) or is_series(found):
        found = found.to_numpy()
    expected = f"outputs [n] or [n, C] in an array or a tensor for {rows} rows"
    if isinstance(found, Tensor):
        check(not found.is_complex(), "model", expected, found.dtype)
        outputs = found.detach().to("cpu", torch.float64)
    else:
        check(isinstance(found, np.ndarray), "model", expected, f"a {type(found).__name__}")
        array = of_numbers(found, "model")
        if array is None or array.dtype.kind == "c":
            first = repr(found.flat[0]) if found.size else found.dtype
            raise ArgumentError(
                f"model: expected {expected}, got values such as {first}; explain "
                "predict_proba rather than labels"
            )
        outputs = torch.from_numpy(np.array(array, dtype=np.float64))
    fits = outputs.dim() in (1, 2) and outputs.shape[0] == rows
    check(fits, "model", expected, outputs.shape)
    # Numpy sums in one thread: torch's would go on to wait for more on the cores of the model.
    has_nan = np.isnan(outputs.numpy().sum()) and bool(outputs.isnan().any())
    check(not has_nan, "model", "outputs that are numbers", "NaN")
    return outputs


def place_of(module: nn.Module) -> tuple[torch.dtype | None, torch.device]:
    """The dtype and device of a module's parameters, or of its buffers."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            return tensor.dtype, tensor.device
    return None, torch.device("cpu")


# How many calls hold a module in eval mode that was in train mode, by its id while any does.
_held: dict[int, int] = {}
_changing = threading.Lock()  # held while that changes


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Has a module and all that is in it in eval mode for the time being.

    Threads that share a module, or one and a part of it, leave it so until the last is done.
    """
    mine: list[nn.Module] = []
    try:
        with _changing:
            for m in module.modules():
                if m.training or id(m) in _held:
                    _held[id(m)] = _held.get(id(m), 0) + 1
                    mine.append(m)
                    m.training = False
        yield
    finally:
        with _changing:
            for m in mine:
                _held[id(m)] -= 1
                if _held[id(m)] == 0:
                    del _held[id(m)]
                    m.training = True
