"""Models that are called otherwise: with arrays, with keywords, for one of several outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..core.checks import ArgumentError
from ..core.engine.outputs import entry
from .models import Selection, callable_of
from .tables import Table

Function = Callable[..., Any]


class _Wrapper(nn.Module):
    """A module around the user's, so that whoever looks for its layers finds them."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.training = model.training


def select_output(model: Any, output: str | int) -> Function:
    """The model with one of its outputs as the only one.

    Args:
        model: a module, a function or an estimator that returns several: a tuple, a list, a dict
            or a dataclass.
        output: a key, the name of an attribute, or a place.

    Raises:
        ArgumentError: ``output`` is neither a string nor an int; when called: there is none such.
    """
    if not isinstance(output, str | int) or isinstance(output, bool):
        raise ArgumentError(f"output: expected a name or a place, got {output!r}")
    selection = Selection(model, output)
    if isinstance(model, nn.Module):
        return _SelectedModule(model, selection)
    return _SelectedFunction(selection)


class _SelectedModule(_Wrapper):
    def __init__(self, model: nn.Module, selects: Selection):
        super().__init__(model)
        self._output = selects.output

    @property
    def selects(self) -> Selection:
        return Selection(self.model, self._output)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return entry(self.model(*args, **kwargs), self._output)


class _SelectedFunction:
    def __init__(self, selects: Selection):
        self.selects = selects
        self._function = callable_of(selects.model, "forward_func")

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        return entry(self._function(*args, **kwargs), self.selects.output)


def by_keyword(model: Function, names: Sequence[str]) -> Function:
    """The model with arguments in order instead of by these names."""
    if isinstance(model, nn.Module):
        return _ByKeyword(model, names)
    return lambda *args: model(**dict(zip(names, args, strict=True)))


class _ByKeyword(_Wrapper):
    def __init__(self, model: nn.Module, names: Sequence[str]):
        super().__init__(model)
        self._names = tuple(names)

    def forward(self, *args: Any) -> Any:
        return self.model(**dict(zip(self._names, args, strict=True)))


def on_arrays(model: Any, extra: Sequence[bool] = ()) -> Function:
    """The model, which takes numpy arrays, as a function of tensors.

    Args:
        model: a function of arrays, or an estimator.
        extra: which of the last arguments are arrays as well; the others are handed on.
    """
    function = callable_of(model)

    def call(*args: Any) -> Any:
        first = len(args) - len(extra)
        rows = [a.detach().cpu().numpy() for a in args[:first]]
        others = zip(args[first:], extra, strict=True)
        return function(*rows, *(a.detach().cpu().numpy() if own else a for a, own in others))

    return call


def on_table(model: Any, table: Table) -> Function:
    """The model, which takes rows of a table, as a function of tensors [n, M] in float64."""
    function = callable_of(model)

    def call(rows: Tensor, *extra: Any) -> Any:
        return function(table.back(rows.detach().cpu().to(torch.float64)), *extra)

    return call
