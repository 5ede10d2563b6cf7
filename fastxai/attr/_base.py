"""What every attribution method is: Captum's interface over one template."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..core import engine
from ..core.inputs import (
    Inputs,
    TensorOrTuple,
    check,
    check_baselines,
    check_forward_args,
    check_inputs,
)
from ..core.model import Model, scalars
from ..core.rows import Given

F = TypeVar("F", bound=Callable[..., Any])

_QUESTION = ("inputs", "baselines", "target", "additional_forward_args")


def captum_compatible(attribute: F) -> F:
    """Gives ``attribute`` the ``__wrapped__`` that Captum's NoiseTunnel calls."""

    @functools.wraps(attribute)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return attribute(*args, **kwargs)

    return wrapper  # type: ignore[return-value]


@dataclass(frozen=True)
class Query:
    """One question to a method, checked: these inputs, against these baselines, for this output."""

    inputs: Inputs  # each [B, *F_i]
    baselines: tuple[Tensor, ...]  # each [B, *F_i] or [1, *F_i]
    model: Model


@dataclass(frozen=True)
class Explanation:
    """What :meth:`Attribution.explain` found.

    Attributes:
        values: the attributions, as :meth:`Attribution.attribute` returns them: a tensor [B, *F],
            or a tuple of them for a tuple of inputs.
        outputs: the explained output for each input, [B].
        baseline_outputs: the same at the baselines, [B]; None for a method without baselines.
        convergence_delta: Σ attributions − (output − baseline output) of each row, [B]: how far the
            attributions are from adding up. None for a method that does not promise to.
        method: the method's name, "Integrated Gradients".
        seconds: wall time of the attribution alone, without the outputs.
    """

    values: TensorOrTuple
    outputs: Tensor
    baseline_outputs: Tensor | None
    convergence_delta: Tensor | None
    method: str
    seconds: float

    def __repr__(self) -> str:
        values = self.values if isinstance(self.values, tuple) else (self.values,)
        shapes = ", ".join(str(tuple(v.shape)) for v in values)
        delta = self.convergence_delta
        worst = (
            f", convergence_delta up to {delta.abs().max():.2g}"
            if delta is not None and delta.numel()
            else ""
        )
        return f"Explanation({self.method}: values {shapes}{worst}, {self.seconds * 1e3:.3g} ms)"


class Attribution:
    """An attribution method over a model.

    A subclass writes ``attribute`` with its own arguments, and ``_values``, which turns a
    :class:`Query` and those arguments into attributions.

    Args:
        forward_func: a module or any callable that takes the inputs (then the extra arguments) and
            returns one tensor with the rows first.

    Raises:
        ArgumentError: if it cannot be called.
    """

    attribute: Callable[..., Any]
    _differentiates = False  # whether the inputs must be floating-point

    def __init__(self, forward_func: Callable[..., Any]):
        check(callable(forward_func), "forward_func", "a module or callable", repr(forward_func))
        self.forward_func = forward_func

    def explain(self, *args: Any, **kwargs: Any) -> Explanation:
        """Attributes, and tells what the attributions are about.

        Takes the arguments of :meth:`attribute`, except ``return_convergence_delta``.

        Returns:
            An :class:`Explanation` with the attributions, the model's outputs, the convergence
            delta where the method has one, and the time taken.
        """
        call = signature(self.attribute).bind(*args, **kwargs)
        call.apply_defaults()
        options = dict(call.arguments)
        options.pop("return_convergence_delta", None)
        has_baselines = "baselines" in options
        query = self._query(**{name: options.pop(name) for name in _QUESTION if name in options})

        started = time.perf_counter()
        values = self._values(query, **options)
        seconds = time.perf_counter() - started

        outputs = self._outputs(query, query.inputs.tensors)
        at_baselines = self._outputs(query, query.baselines) if has_baselines else None
        delta = None
        if at_baselines is not None and self.has_convergence_delta():
            delta = _delta(values, outputs, at_baselines)
        return Explanation(
            query.inputs.pack(values), outputs, at_baselines, delta, self.get_name(), seconds
        )

    def has_convergence_delta(self) -> bool:
        """Whether the attributions promise to add up to the difference of the outputs."""
        return False

    @property
    def multiplies_by_inputs(self) -> bool:
        """Whether attributions are in units of the output rather than output per unit of input."""
        return False

    def attribute_future(self, *args: Any, **kwargs: Any) -> None:
        """Not implemented, as in Captum."""
        raise NotImplementedError(f"attribute_future is not implemented for {self.get_name()}")

    @classmethod
    def get_name(cls) -> str:
        """The method's name in words."""
        return "".join(" " + c if c.isupper() and i else c for i, c in enumerate(cls.__name__))

    def _query(
        self,
        inputs: TensorOrTuple,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
    ) -> Query:
        checked = check_inputs(inputs, self._differentiates)
        checked_baselines = check_baselines(baselines, checked)
        forward_args = check_forward_args(additional_forward_args, self._differentiates)
        model = Model(self.forward_func, checked.batch, target, forward_args)
        return Query(checked, checked_baselines, model)

    def _values(self, query: Query, **options: Any) -> tuple[Tensor, ...]:
        raise NotImplementedError

    @staticmethod
    def _outputs(query: Query, tensors: tuple[Tensor, ...]) -> Tensor:
        """The explained output at each row, [B]."""
        return scalars(engine.values(query.model, Given(tensors, query.inputs.batch))[0])


class GradientAttribution(Attribution):
    """An attribution method that differentiates the model."""

    _differentiates = True

    def compute_convergence_delta(
        self,
        attributions: TensorOrTuple,
        start_point: Any,
        end_point: TensorOrTuple,
        target: Any = None,
        additional_forward_args: Any = None,
    ) -> Tensor:
        """How far attributions are from adding up: Σ attributions − (F(end) − F(start)).

        Args:
            attributions: a tensor [B, *F], or a tuple of them.
            start_point: the baselines, in any form that ``attribute`` takes.
            end_point: the inputs, a tensor [B, *F] or a tuple of them.
            target: which output, as for ``attribute``.
            additional_forward_args: as for ``attribute``.

        Returns:
            [B], in the attributions' dtype.
        """
        query = self._query(end_point, start_point, target, additional_forward_args)
        values = attributions if isinstance(attributions, tuple) else (attributions,)
        for i, value in enumerate(values):
            check(
                value.dim() > 0 and value.shape[0] == query.inputs.batch,
                f"attributions[{i}]",
                "{} rows, as end_point",
                value.shape,
                query.inputs.batch,
            )
        return self._convergence_delta(query, values)

    def _convergence_delta(self, query: Query, values: tuple[Tensor, ...]) -> Tensor:
        outputs = self._outputs(query, query.inputs.tensors)
        return _delta(values, outputs, self._outputs(query, query.baselines))


def _delta(values: tuple[Tensor, ...], outputs: Tensor, baseline_outputs: Tensor) -> Tensor:
    total = torch.stack([v.detach().flatten(1).sum(1) if v.dim() > 1 else v for v in values]).sum(0)
    return total - (outputs.to(total.dtype) - baseline_outputs.to(total.dtype))
