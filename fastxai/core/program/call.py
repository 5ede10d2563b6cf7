"""What a package is asked to explain, checked: its model, what a call brings, what is built in."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..checks import ArgumentError, check, check_seed, name_of
from ..engine.inputs import Inputs, check_baselines, check_forward_args, check_inputs
from ..engine.model import Model
from ..engine.shortcut import may_follow, may_stay_affine
from ..engine.targets import Target
from ..flags import check_flags, flags_of
from ..modules import modules_of
from .afresh import Afresh
from .copies import Apart, way_apart
from .program import ARGMAX, Program, TracedRequest

BATCH = 11  # rows to trace with: not 0 or 1, which are special, and not a multiple of much
ASKED = ("inputs", "baselines", "target", "additional_forward_args")
# Arguments that are about how the model is called, and the one value that fits a single call.
_ONLY = {
    "internal_batch_size": None,
    "nt_samples_batch_size": None,
    "perturbations_per_eval": None,
    "show_progress": False,
}
_OF_BUDGET = ("tolerance", "max_samples")  # which have no say over a number of samples


class Method(Protocol):
    """An attribution method, as far as a program of it asks: it answers for itself."""

    forward_func: Callable[..., Any]
    attribute: Callable[..., Any]
    _affine_prefix: bool
    _differentiates: bool
    _draws_baselines: bool
    _chooses_delta: bool
    _draws_per_call: bool
    _gives_one_number: bool
    _has_standard_errors: bool
    _stacks_rows: bool
    _program: Callable[..., Program] | None

    @property
    def _smoothed_method(self) -> Any:
        """The method itself, or the one that a tunnel smooths."""

    def get_name(self) -> str: ...

    def _check_program(self) -> None: ...

    def _program_options(self, options: dict[str, Any], rest: dict[str, Any]) -> dict[str, Any]: ...


def name_of_method(explainer: Method) -> str:
    method = explainer._smoothed_method
    own = "" if method is explainer else f"{explainer.get_name()} over "
    return own + str(method.get_name())


def options_of(explainer: Method, inputs: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments of ``attribute`` by name."""
    try:
        check_flags(flags_of(explainer.attribute), (inputs,), arguments)
        call = signature(explainer.attribute).bind(inputs, **arguments)
    except TypeError as error:
        raise ArgumentError(f"{explainer.get_name()}: {error}") from error
    call.apply_defaults()
    options = dict(call.arguments)
    rest = options.pop("kwargs", {})
    if not explainer._chooses_delta:  # others give it for next to nothing
        options.pop("return_convergence_delta", None)
    for name in _ONLY.keys() & options.keys():
        expected = f"{_ONLY[name]}, as a package asks the model about all rows in one call"
        check(options[name] is _ONLY[name], name, expected, options[name])
        del options[name]
    for name in _OF_BUDGET:
        options.pop(name, None)
    return explainer._program_options(options, rest)


def check_has_errors(explainer: Method, standard_errors: Any) -> None:
    check(isinstance(standard_errors, bool), "standard_errors", "a bool or None", standard_errors)
    has = explainer._has_standard_errors
    expected = "None, as {} has no standard errors"
    check(has, "standard_errors", expected, standard_errors, explainer.get_name())


class Call:
    """The tensors that a call of the program takes, and how a request comes of them.

    ``fixed`` is for as many rows as the inputs have, and no other number.
    """

    def __init__(
        self,
        explainer: Method,
        module: nn.Module,
        inputs: Any,
        options: dict[str, Any],
        fixed: bool = False,
    ):
        self.module = _frozen_copy(module)
        self.function = Afresh(self.module)
        self.fixed = fixed
        differentiates = explainer._differentiates
        self.inputs = check_inputs(inputs, differentiates)
        batch = self.inputs.batch
        check(batch > 0, "example_inputs", "at least one row", self.inputs.tensors[0].shape)
        self.baselines = check_baselines(options.get("baselines"), self.inputs)
        self.inputs = self.inputs.in_dtypes_of(self.baselines)
        extra = options.get("additional_forward_args")
        self.forward_args = check_forward_args(extra, differentiates)
        self.target = _check_target(options.get("target"), batch, fixed)
        self.seed = _check_seed(explainer, options.get("seed"))
        self.prefix = _may_have_prefix(explainer, self.module, self.inputs, self.baselines)
        self._stacks_rows = explainer._stacks_rows
        in_tuple = self.inputs.in_tuple
        named = [
            *self._named("inputs", self.inputs.tensors, in_tuple),
            *self._named("target", (self.target,), False),
            *self._named("baselines", self.baselines, in_tuple),
            *self._named("additional_forward_args", self.forward_args, True),
            *([("seed", self.seed)] if isinstance(self.seed, Tensor) else []),
        ]
        self.rows = batch if fixed else BATCH
        self.examples = [_some_rows(tensor, self.rows) for _, tensor in named]
        self.arguments = tuple(described(name, tensor, batch) for name, tensor in named)
        self.apart: Apart | None = None

    def _named(self, name: str, values: Sequence[Any], in_tuple: bool) -> list[tuple[str, Tensor]]:
        """Those that a call brings, and what they are called."""
        of_rows = name == "inputs"
        return [
            (name_of(name, i, in_tuple), value)
            for i, value in enumerate(values)
            if of_rows or self._is_of_rows(value)
        ]

    def _is_of_rows(self, value: Any) -> bool:
        batch = self.inputs.batch
        # One row says nothing of others; a baseline of one row is for all.
        told = batch > 1 or (self.fixed and all(value is not b for b in self.baselines))
        return told and isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == batch

    def some_rows(self, count: int) -> list[Tensor]:
        """The first of the examples, or all if no other number is called for."""
        if self.fixed:
            return self.examples
        return [e[:count].contiguous() if e.dim() else e for e in self.examples]

    def request(self, tensors: Sequence[Tensor]) -> TracedRequest:
        """The request that a call with these tensors asks; what is built in comes with it."""
        given = iter(tensors)

        def filled(values: Sequence[Any]) -> tuple[Any, ...]:
            return tuple(next(given) if self._is_of_rows(v) else v for v in values)

        inputs = tuple(next(given) for _ in self.inputs.tensors)
        (target,) = filled((self.target,))
        baselines, forward_args = filled(self.baselines), filled(self.forward_args)
        of_rows = tuple(map(self._is_of_rows, self.forward_args))
        seed = next(given) if isinstance(self.seed, Tensor) else self.seed
        return TracedRequest(
            self.function,
            inputs,
            baselines=baselines,
            forward_args=forward_args,
            of_rows=of_rows,
            target=target,
            seed=seed,
            prefix=self.prefix,
            apart=self.apart,
        )

    def check_outputs(self) -> Tensor:
        """The outputs at the examples, [B, *C]; one for each row, that the target is among."""
        request = self.request(self.examples)
        outputs: Tensor = self._outputs(request)
        got = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        of_rows = isinstance(outputs, Tensor) and outputs.shape[:1] == (request.batch,)
        check(
            of_rows, "forward_func", "a tensor with one entry for each of {} rows", got, self.rows
        )
        target = self.target
        if target is ARGMAX:
            check(outputs.dim() == 2, "target", "outputs [B, C] to find the largest of", got)
        elif target is not None:
            # Raises if it is out of range.
            Target(target if isinstance(target, tuple) else (0,) * _width(target), 1).select(
                outputs, 1, slice(0, self.rows)
            )
        return outputs

    def _outputs(self, request: TracedRequest) -> Any:
        rows = (x.clone() for x in request.inputs)
        try:
            with torch.no_grad():
                return self.function.tried(*rows, *request.extra(1))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            if self.fixed:
                raise
            raise ArgumentError(
                "forward_func: expected a model that takes any number of rows, as a package does "
                f"(the explainer's compile is for one number), got for {self.rows} rows "
                f"{type(error).__name__}: {error}"
            ) from error

    def keep_apart(self) -> None:
        """Finds out whether rows influence one another; if so, each copy is a call by itself.

        Raises:
            ArgumentError: the eager method has rows of several copies share statistics, as Captum.
        """
        if self._stacks_rows and Model(self.module, self.rows).mixes_rows:
            raise ArgumentError(
                "forward_func: expected batch norms with running statistics, as the rows that a "
                "method takes gradients at would share those of a call otherwise, got one without; "
                "track_running_stats=True keeps some in training"
            )
        request = self.request(self.examples)
        with torch.no_grad():
            found = way_apart(self.function, request.inputs, request.baselines, request.extra)
        self.apart = found
        self.prefix = self.prefix and found is None


def _may_have_prefix(
    explainer: Method, module: nn.Module, inputs: Inputs, baselines: tuple[Tensor, ...]
) -> bool:
    # An infinite number in a group that is absent must leave no trace: 0 · ∞ would.
    if not all(math.isfinite(b.sum()) for b in baselines):
        return False
    wanted = explainer._smoothed_method._affine_prefix and may_stay_affine(
        (*inputs.tensors, *baselines)
    )
    return wanted and may_follow(module, modules_of(module))


def _check_target(target: Any, batch: int, fixed: bool) -> Any:
    """As :class:`TracedRequest` has it."""
    if isinstance(target, str):
        check(target == ARGMAX, "target", "an int, a tuple, a tensor or {!r}", repr(target), ARGMAX)
        return ARGMAX
    if fixed and isinstance(target, Tensor) and target.dim() == 1:
        target = target.tolist()  # one for each row, also where there is one row
    checked = Target(target, batch)
    if checked.each is None:
        return checked.everywhere or None
    if batch == 1 and not fixed:  # one row says nothing of others
        return tuple(checked.each[0].tolist())
    return checked.each[:, 0] if checked.each.shape[1] == 1 else checked.each


def _check_seed(explainer: Method, seed: Any) -> Tensor | int | None:
    """A tensor if every call brings another; None if there is nothing to draw in it."""
    if not explainer._draws_per_call:
        return None
    return torch.zeros((), dtype=torch.int64) if seed is None else check_seed(seed)


def _width(target: Tensor) -> int:
    return 1 if target.dim() == 1 else target.shape[1]


def _frozen_copy(module: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(module).requires_grad_(False)
    except Exception as error:
        raise ArgumentError(f"explainer: its model cannot be copied: {error}") from error


def _some_rows(tensor: Tensor, count: int) -> Tensor:
    """The rows again and again, as many as a program is traced with; a number as it is."""
    if tensor.dim() == 0:
        return tensor
    rows = torch.arange(count, device=tensor.device) % tensor.shape[0]
    return tensor.detach()[rows].contiguous()


def described(name: str, tensor: Tensor, batch: int) -> Argument:
    rows = tensor.shape[0] // batch if tensor.dim() else 0
    return Argument(name, tuple(tensor.shape[1:]), str(tensor.dtype).removeprefix("torch."), rows)


def in_words(value: Any) -> str:
    tensors = value if isinstance(value, tuple) else (value,)
    if not any(isinstance(t, Tensor) for t in tensors):
        return repr(value)
    words = (f"tensor {tuple(t.shape)}" if isinstance(t, Tensor) else repr(t) for t in tensors)
    return ", ".join(words)


@dataclass(frozen=True)
class Argument:
    """A tensor that goes into the program, or comes out of it."""

    name: str  # "inputs[0]", "target", ...
    shape: tuple[int, ...]  # after the rows
    dtype: str  # "float32"
    rows: int = 1  # rows for each example; 0 for a number on the CPU that all have in common
