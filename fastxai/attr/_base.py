"""What every attribution method is: Captum's interface over one template."""

from __future__ import annotations

import copy
import functools
import math
import time
from collections.abc import Callable
from inspect import signature
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ..core import engine
from ..core.checks import TensorOrTuple, check, check_dense, short_list, warn
from ..core.engine.inputs import (
    check_baselines,
    check_forward_args,
    check_inputs,
)
from ..core.engine.model import Model, Prefix
from ..core.engine.outputs import one_output_per_row
from ..core.engine.plan import Plan, merged_runs
from ..core.engine.request import Request, check_no_nan
from ..core.engine.rows import InputRows
from ..core.flags import check_flags, flags_checked, flags_of
from ..core.program.program import Program
from ..interop.calls import select_output
from ..interop.conversion import PLAIN
from ..interop.models import callable_of, class_names
from ._conversion import is_to_convert, with_arrays, with_tensors
from ._explanation import Explanation, Result, convergence_delta, kept, only_one
from ._like_attribute import CompileLikeAttribute, LikeAttribute, show_signatures

if TYPE_CHECKING:
    from ..deploy import Package

F = TypeVar("F", bound=Callable[..., Any])

# What attributions come of: a class that writes one of them has others than the class above it.
_ATTRIBUTING = {
    *("attribute", "_query", "_find", "_values", "of_gradient"),
    *("_outputs_at_inputs", "_values_of", "_stream", "_outputs"),
}
_QUESTION = (
    *("inputs", "baselines", "target", "additional_forward_args"),
    *("background", "background_weights", "link"),
)


def captum_compatible(attribute: F) -> F:
    """Gives ``attribute`` the ``__wrapped__`` that Captum's NoiseTunnel calls.

    Around it, flags are checked, and methods that compare no outputs tell the rows whose
    attributions are no numbers.
    """

    flags = flags_of(attribute)

    @functools.wraps(attribute)
    def wrapper(self: Attribution, *args: Any, **kwargs: Any) -> Any:
        for name, place in flags:  # what check_flags does, as every explanation comes by here
            flag = kwargs.get(name, True)
            if (flag is not True and flag is not False) or place <= len(args):
                check_flags(flags, (self, *args), kwargs)
                break
        conversion = None
        # Most calls have nothing but tensors and numbers, and are not looked at further.
        odd = [value for value in (*args, *kwargs.values()) if type(value) not in PLAIN]
        if (odd or not callable(self.forward_func)) and is_to_convert(self, args, kwargs):
            self, conversion = with_tensors(self, args, kwargs)
            args, kwargs = (), conversion.arguments
        found = attribute(self, *args, **kwargs)
        if self._of_gradients:
            warn_unless_finite(self, found)
        return found if conversion is None else conversion.back(found)

    return wrapper  # type: ignore[return-value]


class Attribution:
    """An attribution method over a model.

    A subclass writes ``attribute`` with its own arguments, and ``_find``, which turns a
    :class:`Request` and those arguments into attributions. Its ``explain``, ``plan`` and
    ``compile`` have the signatures that follow from that.

    Args:
        forward_func: a module or any callable that takes the inputs (then the extra arguments) and
            returns one tensor with the rows first; or an estimator with ``predict_proba`` or
            ``predict``. A function is given what its user brings: tensors, numpy arrays, or a
            DataFrame. A module is given tensors.
        affine_prefix: whether affine operations at the model's beginning may be done on the few
            tensors that its rows are made of rather than on all rows, where that is less work. The
            results are equal up to rounding.
        output: which output is explained of a model that returns several, in a tuple, a dict or a
            dataclass: a place or a name. None for ``logits``, or the only tensor.

    Raises:
        ArgumentError: if it cannot be called.
    """

    # Where a method extends one that takes other arguments, as in Captum, it may not stand for it:
    # type checkers are told to let that pass.
    attribute: Callable[..., Any]
    _differentiates = False  # whether it takes gradients
    _of_gradients = False  # whether its attributions come from gradients, and are checked as such
    _of_inputs = True  # with respect to the inputs, which must then be floating-point
    _row_by_row = True  # whether each row must have an output of its own
    _draws_baselines = False  # whether baselines are rows for all examples to draw from
    # What a program of the method, for packages, is made by; and what that asks.
    _program: Callable[..., Program] | None = None
    _stacks_rows = False  # whether rows beside the inputs are differentiated in the same call
    _draws_per_call = False  # whether every call draws, by a seed that comes with it
    _draws_design = False  # whether coalitions are drawn beforehand
    _chooses_delta = False  # whether the convergence delta costs calls and must be asked for
    _gives_one_number = False  # whether the target must leave one number a row
    _has_standard_errors = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            cls.__init__ = flags_checked(cls.__init__)  # type: ignore[method-assign]
        show_signatures(cls)

    @flags_checked
    def __init__(
        self,
        forward_func: Callable[..., Any],
        *,
        affine_prefix: bool = True,
        output: str | int | None = None,
    ):
        callable_of(forward_func, "forward_func")
        self.forward_func = forward_func if output is None else select_output(forward_func, output)
        self._affine_prefix = affine_prefix

    @LikeAttribute
    def explain(self, inputs: TensorOrTuple, *args: Any, **kwargs: Any) -> Explanation:
        """Attributes, and tells what the attributions are about.

        Takes the arguments of :meth:`attribute`, except ``return_convergence_delta``.

        Returns:
            An :class:`Explanation` with the attributions, the model's outputs, the convergence
            delta where the method has one, and the time taken.
        """
        self._check_flags((inputs, *args), kwargs)
        if is_to_convert(self, (inputs, *args), kwargs):
            method, conversion = with_tensors(self, (inputs, *args), kwargs)
            return with_arrays(method._explain(**conversion.arguments), conversion)
        return self._explain(inputs, *args, **kwargs)

    def _explain(self, *args: Any, **kwargs: Any) -> Explanation:
        options = self._options(*args, **kwargs)
        has_baselines = "baselines" in options
        by_group = not options.get("return_input_shape", True)
        question = {name: options.pop(name) for name in _QUESTION if name in options}
        request = self._query(**question)

        started = time.perf_counter()
        found = self._find(request, detailed=True, **options)
        seconds = time.perf_counter() - started
        if self._of_gradients:
            warn_unless_finite(self, found.values)

        outputs, at_baselines, delta = (
            found.outputs,
            found.baseline_outputs,
            found.convergence_delta,
        )
        if outputs is None:
            outputs = self._outputs(request, request.inputs.tensors)
        if at_baselines is None and has_baselines:
            at_baselines = self._outputs(request, request.baselines)
        if delta is None and at_baselines is not None and self.has_convergence_delta():
            delta = convergence_delta(found.values, outputs, at_baselines)
        # Numbers by group come as one tensor, whatever the inputs are.
        pack = found.form or (only_one if by_group else request.inputs.pack)
        errors = found.standard_errors
        is_of_features = self._of_inputs and not by_group  # whose values stand beside theirs
        return Explanation(
            values=pack(found.values),
            outputs=outputs,
            baseline_outputs=at_baselines,
            convergence_delta=delta,
            standard_errors=None if errors is None else pack(errors),
            samples=found.samples,
            players=found.players,
            reached=found.reached,
            tier=found.tier,
            method=self.get_name(),
            seconds=seconds,
            data=kept(request.inputs.pack(request.inputs.tensors)) if is_of_features else None,
            target=kept(question.get("target")),
            output_names=class_names(self.forward_func),
        )

    @LikeAttribute
    def plan(self, inputs: TensorOrTuple, *args: Any, **kwargs: Any) -> Plan:
        """Tells what :meth:`attribute` asks of the model, by doing it once.

        Takes the arguments of :meth:`attribute`.

        Returns:
            A :class:`fastxai.Plan`. Printed, it is a table: how many rows of which kind, in how
            many calls; the affine prefix, that is which operations at the model's beginning were
            done on the few tensors that the rows are made of, and at which operation the rows were
            expanded; and the multiplications that remain, as a share of the model's for as many
            rows.
        """
        self._check_flags((inputs, *args), kwargs)
        if is_to_convert(self, (inputs, *args), kwargs):
            method, conversion = with_tensors(self, (inputs, *args), kwargs)
            plan: Plan = method._plan(**conversion.arguments)
            return plan
        return self._plan(inputs, *args, **kwargs)

    def _plan(self, *args: Any, **kwargs: Any) -> Plan:
        options = self._options(*args, **kwargs)
        request = self._query(**{name: options.pop(name) for name in _QUESTION if name in options})
        self._find(request, detailed=False, **options)
        runs = merged_runs(request.model.runs)
        each = engine.multiplications(request.model, request.inputs.tensors)
        return Plan(self.get_name(), runs, each)

    @CompileLikeAttribute
    def compile(
        self,
        example_inputs: TensorOrTuple,
        *,
        standard_errors: bool | None = None,
        **attribute_arguments: Any,
    ) -> Package:
        """Compiles the explanation together with its model for inputs of one shape.

        As :func:`fastxai.export`, without a file and for this process alone: native code on a CPU,
        which takes a C++ compiler and some seconds; a CUDA graph on a GPU. The weights are copied.

        Args:
            example_inputs: a tensor [B, *F], or a tuple of tensors [B, *F_i], of the shapes, B
                among them, dtypes and device of all calls; their values do not matter.
            standard_errors: whether calls return them as well, as for :func:`fastxai.export`.
            **attribute_arguments: those of :meth:`attribute`. ``target`` may also be ``"argmax"``:
                the class with the largest output. A tensor with a row for each example becomes an
                argument of the compiled function, also where there is one example; but for a
                baseline of one row, which is built in as everything else.

        Returns:
            A :class:`fastxai.deploy.Package`: a function from inputs to outputs, attributions and,
            where the method has one, the convergence delta. Threads may share it.

        Raises:
            ArgumentError: an argument is not as above, cannot be built in, or the model cannot be
                traced; the message names it.
            fastxai.deploy.PackageError: there is no C++ compiler here.
        """
        from ..deploy import compiled

        return compiled.compile(self, example_inputs, standard_errors, attribute_arguments)

    def _options(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The arguments of ``attribute`` by name, but for what it returns beside."""
        call = signature(self.attribute).bind(*args, **kwargs)
        call.apply_defaults()
        options = dict(call.arguments)
        options.update(options.pop("kwargs", {}))
        options.pop("return_convergence_delta", None)
        return options

    def _check_flags(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        check_flags(flags_of(self.attribute), args, kwargs)

    def _over(self, forward_func: Callable[..., Any]) -> Attribution:
        """The same method over another function."""
        other = copy.copy(self)
        other.forward_func = forward_func
        return other

    @property
    def _smoothed_method(self) -> Any:
        """The method itself, or the one that a tunnel smooths."""
        return self

    def _check_program(self) -> None:
        """Raises ArgumentError if there is no program of the method."""
        expected = "a method that can be exported, as IntegratedGradients or KernelShap"
        check(self._has_program(), "explainer", expected, type(self).__name__)

    def _has_program(self) -> bool:
        """Whether the program is of this class, and not of one whose attributions it changed."""
        for kind in type(self).__mro__:
            if "_program" in vars(kind):
                return vars(kind)["_program"] is not None
            if _ATTRIBUTING & vars(kind).keys():
                return False
        return False

    def _program_options(self, options: dict[str, Any], rest: dict[str, Any]) -> dict[str, Any]:
        """The arguments of ``attribute`` as the program takes them, beside those of a request."""
        check(not rest, next(iter(rest), ""), "no such argument", "one")
        if self._draws_baselines:
            options["background"] = options.pop("baselines")
        return options

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
        *,
        names: tuple[str, str] = ("inputs", "baselines"),  # what the user calls them
    ) -> Request:
        checked = check_inputs(inputs, self._differentiates, self._of_inputs, names[0])
        checked_baselines = check_baselines(baselines, checked, names[1], self._differentiates)
        checked = checked.in_dtypes_of(checked_baselines)
        forward_args = check_forward_args(additional_forward_args, self._differentiates)
        model = Model(
            self.forward_func,
            checked.batch,
            target,
            forward_args,
            row_by_row=self._row_by_row,
            prefix=Prefix(self._affine_prefix),
            dims=[x.dim() for x in checked.tensors],
        )
        return Request(checked, checked_baselines, model)

    def _all_outputs(self, inputs: TensorOrTuple, additional_forward_args: Any) -> Tensor:
        """The model's outputs for the inputs, [B, *C]."""
        request = Attribution._query(self, inputs, None, None, additional_forward_args)
        rows = InputRows(request.inputs.tensors, request.inputs.batch)
        with torch.no_grad():
            outputs = engine.values(request.model, rows)[0]
        check_no_nan(outputs[None], 0, request)
        return outputs

    def _find(self, request: Request, detailed: bool, *options: Any, **named: Any) -> Result:
        """Answers the request; ``detailed`` asks for what costs more than the attributions.

        A subclass has its own arguments in the place of the last two: those of its ``attribute``.
        """
        raise NotImplementedError

    @staticmethod
    def _outputs(request: Request, tensors: tuple[Tensor, ...]) -> Tensor:
        """The explained output at each row, [B]."""
        return one_output_per_row(
            engine.values(request.model, InputRows(tensors, request.inputs.batch))[0]
        )


class GradientAttribution(Attribution):
    """An attribution method that differentiates the model: it writes ``_values``."""

    _differentiates = True
    _of_gradients = True

    def _find(self, request: Request, detailed: bool, *options: Any, **named: Any) -> Result:
        return Result(self._values(request, *options, **named))

    def _values(self, request: Request, *options: Any, **named: Any) -> tuple[Tensor, ...]:
        raise NotImplementedError

    def compute_convergence_delta(
        self,
        attributions: Any,
        start_point: Any,
        end_point: TensorOrTuple,
        target: Any = None,
        additional_forward_args: Any = None,
    ) -> Tensor:
        """How far attributions are from adding up: Σ attributions − (F(end) − F(start)).

        Args:
            attributions: a tensor [B, *F], or a tuple or list of them, as ``attribute`` returns.
            start_point: the baselines, in any form that ``attribute`` takes.
            end_point: the inputs, a tensor [B, *F] or a tuple of them.
            target: which output, as for ``attribute``.
            additional_forward_args: as for ``attribute``.

        Returns:
            [B], in the attributions' dtype.
        """
        names = "end_point", "start_point"
        request = Attribution._query(
            self, end_point, start_point, target, additional_forward_args, names=names
        )
        values = tuple(tree_leaves(attributions))
        check(len(values) > 0, "attributions", "at least one tensor", attributions)
        for i, value in enumerate(values):
            is_tensor = isinstance(value, Tensor)
            check(is_tensor, f"attributions[{i}]", "a torch.Tensor", type(value).__name__)
            check_dense(value, f"attributions[{i}]")
            check(
                value.dim() > 0 and value.shape[0] == request.inputs.batch,
                f"attributions[{i}]",
                "{} rows, as end_point",
                value.shape,
                request.inputs.batch,
            )
        return self._convergence_delta(request, values)

    def _convergence_delta(self, request: Request, values: tuple[Tensor, ...]) -> Tensor:
        outputs = self._outputs(request, request.inputs.tensors)
        return convergence_delta(values, outputs, self._outputs(request, request.baselines))


def warn_unless_finite(
    method: Attribution, values: Any
) -> None:  # each [B, *F_i], by layer perhaps
    """That the attributions of some rows are NaN or infinite."""
    found = [values] if isinstance(values, Tensor) else tree_leaves(values)
    # As check_no_nan, only where looking is free.
    on_cpu = [v for v in found if v.device.type == "cpu" and v.is_floating_point() and v.dim()]
    if all(math.isfinite(v.sum()) for v in on_cpu):
        return
    # A convergence delta may have a number for each sample.
    of_rows = [v for v in on_cpu if len(v) == len(on_cpu[0])]
    odd = [~v.isfinite().reshape(len(v), -1).all(1) for v in of_rows if v.numel()]
    rows = torch.stack(odd).any(0).nonzero()[:, 0].tolist() if odd else []
    if rows:
        warn(
            f"{method.get_name()}: NaN or infinite attributions in rows {short_list(rows)}, as the "
            "output or its gradient is there; other rows are not affected"
        )
