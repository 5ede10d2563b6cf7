"""Checks what the user passed and brings it into one form, before the model is called."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from inspect import Parameter, signature
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from ..checks import (
    ArgumentError,
    TensorOrTuple,
    check,
    check_dense,
    check_not_inference,
    check_number,
    name_of,
    short_list,
    warn,
)

Like = TypeVar("Like", bound=TensorOrTuple)


@dataclass(frozen=True)
class Inputs:
    """The rows to be explained."""

    tensors: tuple[Tensor, ...]  # each [B, *F_i], detached
    in_tuple: bool  # whether the user passed a tuple, and so expects one back

    @property
    def batch(self) -> int:
        return self.tensors[0].shape[0]

    def in_dtypes_of(self, others: tuple[Tensor, ...]) -> Inputs:
        if [x.dtype for x in self.tensors] == [other.dtype for other in others]:
            return self
        pairs = zip(self.tensors, others, strict=True)
        return Inputs(tuple([x.to(other.dtype) for x, other in pairs]), self.in_tuple)

    def pack(self, results: Sequence[Tensor]) -> TensorOrTuple:
        """Tensor in, tensor out; tuple in, tuple out."""
        return tuple(results) if self.in_tuple else results[0]


def packed(results: Sequence[Tensor], like: Like) -> Like:
    """As :meth:`Inputs.pack`, for whoever has the inputs as the user passed them."""
    return cast(Like, tuple(results) if isinstance(like, tuple) else results[0])


_UNSIGNED = frozenset((torch.uint16, torch.uint32, torch.uint64))  # torch only stores them


def check_inputs(
    inputs: TensorOrTuple, differentiable: bool, floating: bool = True, argument: str = "inputs"
) -> Inputs:
    """Checks the inputs: one tensor or a tuple of tensors with one batch size and one device.

    Args:
        inputs: a tensor [B, *F], or a tuple of tensors [B, *F_i].
        differentiable: whether the method takes gradients, which needs tensors that were not made
            in inference mode, and
        floating: whether with respect to them, which needs floating-point tensors.
        argument: what the user calls them.

    Raises:
        ArgumentError: naming the tensor at fault.
    """
    in_tuple = isinstance(inputs, tuple)
    tensors = inputs if isinstance(inputs, tuple) else (inputs,)
    check(len(tensors) > 0, argument, "at least one tensor", "an empty tuple")
    if not _are_fine(tensors, differentiable, floating):
        _check_each(tensors, argument, in_tuple, differentiable, floating)
    detached = tuple([x.detach() for x in tensors])
    for i, x in enumerate(detached):
        _warn_unless_finite(x, differentiable, argument, i, in_tuple)
    return Inputs(detached, in_tuple)


def _are_fine(tensors: tuple[Any, ...], differentiable: bool, floating: bool) -> bool:
    """What :func:`_check_each` checks, at once."""
    for x in tensors:
        if not isinstance(x, Tensor) or not _is_plain(x) or x.dim() == 0:
            return False
        if x.dtype in _UNSIGNED:
            return False
        if x.shape[0] != tensors[0].shape[0] or x.device != tensors[0].device:
            return False
        if differentiable and (x.is_inference() or not (x.is_floating_point() or not floating)):
            return False
    return True


def _check_each(
    tensors: tuple[Any, ...], argument: str, in_tuple: bool, differentiable: bool, floating: bool
) -> None:
    for i, x in enumerate(tensors):
        name = name_of(argument, i, in_tuple)
        if not isinstance(x, Tensor):
            expected = "a torch.Tensor" if in_tuple else "a torch.Tensor or a tuple of them"
            raise ArgumentError(f"{name}: expected {expected}, got a {type(x).__name__}")
        check_dense(x, name)
        check(x.dtype not in _UNSIGNED, name, "a dtype that torch computes with", x.dtype)
        check(x.dim() > 0, name, "a batch dimension first", "a tensor without dimensions")
        check(
            x.shape[0] == tensors[0].shape[0],
            name,
            f"the batch size of {argument}[0], {{}}",
            x.shape,
            tensors[0].shape[0],
        )
        check(
            x.device == tensors[0].device,
            name,
            f"the device of {argument}[0], {{}}",
            x.device,
            tensors[0].device,
        )
        check(not x.is_meta, name, "a tensor with values", "one on the meta device")
        if differentiable:
            check(
                x.is_floating_point() or not floating,
                name,
                "floating-point values to differentiate (pass indices and the like in "
                "additional_forward_args)",
                x.dtype,
            )
            check_not_inference(x, name)


def _is_plain(x: Tensor) -> bool:
    return x.layout == torch.strided and not (x.is_nested or x.is_quantized or x.is_meta)


def check_baselines(
    baselines: Any, inputs: Inputs, argument: str = "baselines", differentiable: bool = True
) -> tuple[Tensor, ...]:
    """Brings the baselines into the form [B, *F_i] or [1, *F_i], in the inputs' dtype and device.

    Integer inputs and fractional baselines come in the dtype that holds both.

    Args:
        baselines: None (zeros), a number, a tensor of the input's shape or that broadcasts to it,
            or a tuple of those, one for each input.
        inputs: the checked inputs.
        argument: what the user calls them.
        differentiable: whether the method takes gradients, for which missing values are no values.

    Raises:
        ArgumentError: naming the baseline at fault.
    """
    if baselines is None:
        return tuple([x.new_zeros(1, *x.shape[1:]) for x in inputs.tensors])
    if not isinstance(baselines, tuple):
        baselines = (baselines,)
    check(
        len(baselines) == len(inputs.tensors),
        argument,
        "one for each of the {} inputs",
        len(baselines),
        len(inputs.tensors),
    )
    pairs = zip(baselines, inputs.tensors, strict=True)
    return tuple(
        _check_baseline(b, x, name_of(argument, i, inputs.in_tuple), differentiable)
        for i, (b, x) in enumerate(pairs)
    )


def _check_baseline(baseline: Any, x: Tensor, name: str, differentiable: bool) -> Tensor:
    one_row = (1, *x.shape[1:])
    if isinstance(baseline, numbers.Number | np.generic):
        return _check_number(baseline, x, name).expand(one_row).clone()
    check(isinstance(baseline, Tensor), name, "a number or a torch.Tensor", type(baseline).__name__)
    check_dense(baseline, name)
    check(baseline.device == x.device, name, "the input's device, {}", baseline.device, x.device)
    check_not_inference(baseline, name)
    lead = x.dim() - baseline.dim()
    shape = (*[1] * lead, *baseline.shape)
    check(
        lead >= 0 and all(b in (1, n) for b, n in zip(shape, x.shape, strict=True)),
        name,
        "the input's shape {}, or one that broadcasts to it, as one row {} does",
        baseline.shape,
        tuple(x.shape),
        one_row,
    )
    _check_real(baseline, x, name)
    baseline = baseline.detach().reshape(shape).expand(shape[0], *x.shape[1:])
    _warn_unless_finite(baseline, differentiable, name)
    converted: Tensor = baseline.to(_dtype_for(baseline, x))
    return converted


def _check_number(number: Any, x: Tensor, name: str) -> Tensor:
    """A number as a tensor without dimensions."""
    if isinstance(number, np.generic):
        number = number.item()
    if isinstance(number, numbers.Integral) and not isinstance(number, bool | int):
        number = int(number)
    try:
        if isinstance(number, int) and not isinstance(number, bool) and x.is_floating_point():
            number = float(number)  # torch takes integers of 64 bits only
        return torch.full((), number, dtype=_dtype_for(number, x), device=x.device)
    except (OverflowError, RuntimeError, TypeError, ValueError) as error:
        dtype = str(x.dtype).removeprefix("torch.")
        raise ArgumentError(
            f"{name}: expected a number that {dtype} can hold, got {number!r}"
        ) from error


def _check_real(values: Tensor, x: Tensor, name: str) -> None:
    """Complex numbers can stand for complex numbers, not for real ones."""
    fits = not (values.is_complex() and x.is_floating_point())
    check(fits, name, "real values, as the input's", values.dtype)


def _dtype_for(baseline: Any, x: Tensor) -> torch.dtype:
    """The input's dtype; if that is of integers and the baseline is not, one that holds both."""
    if x.is_floating_point() or x.is_complex():
        return x.dtype
    value = torch.as_tensor(baseline)
    held = torch.equal(value.to(x.dtype).to(value.dtype), value)
    return x.dtype if held else torch.result_type(x, baseline)


def check_background(
    background: Any, inputs: Inputs, argument: str = "background"
) -> tuple[Tensor, ...]:
    """Brings several rows that stand for absent features into the inputs' dtype.

    Args:
        background: a tensor [K, *F], or a tuple of tensors [K, *F_i], one for each input.
        inputs: the checked inputs.
        argument: what the user calls it.

    Raises:
        ArgumentError: naming the tensor at fault.
    """
    in_tuple = isinstance(background, tuple)
    tensors = background if isinstance(background, tuple) else (background,)
    wanted = len(inputs.tensors)
    check(len(tensors) == wanted, argument, "one for each of {} inputs", len(tensors), wanted)
    for i, (rows, x) in enumerate(zip(tensors, inputs.tensors, strict=True)):
        name = name_of(argument, i, in_tuple)
        check(isinstance(rows, Tensor), name, "a torch.Tensor", type(rows).__name__)
        check_dense(rows, name)
        check(rows.device == x.device, name, "the input's device, {}", rows.device, x.device)
        _check_real(rows, x, name)
        k = tensors[0].shape[0] if tensors[0].dim() > 0 else 0
        wide = rows.dim() > 0 and rows.shape[1:] == x.shape[1:] and rows.shape[0] == k and k > 0
        shape = tuple(x.shape[1:])
        check(
            wide, name, "at least one row, as many for each input, of shape {}", rows.shape, shape
        )
    pairs = zip(tensors, inputs.tensors, strict=True)
    return tuple(rows.detach().to(_dtype_for(rows, x)) for rows, x in pairs)


def check_forward_args(additional_forward_args: Any, differentiable: bool) -> tuple[Any, ...]:
    """The extra arguments as a tuple: None is none, anything but a tuple is one argument."""
    if additional_forward_args is None:
        return ()
    in_tuple = isinstance(additional_forward_args, tuple)
    arguments = additional_forward_args if in_tuple else (additional_forward_args,)
    for i, argument in enumerate(arguments):
        if differentiable and isinstance(argument, Tensor):
            check_not_inference(argument, name_of("additional_forward_args", i, in_tuple))
    return tuple(arguments)


def check_stdevs(stdevs: Any, inputs: Inputs) -> tuple[float, ...]:
    """The standard deviation of the noise for each input, from one number or a tuple of them.

    Raises:
        ArgumentError: if one is negative, not finite or not a number, or there are too few or many.
    """
    in_tuple = isinstance(stdevs, tuple)
    each = stdevs if in_tuple else (stdevs,) * len(inputs.tensors)
    wanted = len(inputs.tensors)
    check(len(each) == wanted, "stdevs", "one for each of the {} inputs", len(each), wanted)
    for i, stdev in enumerate(each):
        check_number(stdev, name_of("stdevs", i, in_tuple), "a finite number of at least 0")
    return tuple(map(float, each))


def _warn_unless_finite(
    tensor: Tensor, differentiable: bool, name: str, index: int = 0, in_tuple: bool = False
) -> None:
    # Only where looking is free: on an accelerator it would make every call wait for the device.
    if tensor.device.type != "cpu" or not tensor.is_floating_point() or tensor.is_inference():
        return
    if math.isfinite(tensor.sum()):  # one cheap pass; one that overflows looks again
        return
    flat = tensor.reshape(tensor.shape[0], -1)
    # Where outputs are only compared NaN is a value like others, as it is to trees; a model that
    # gives NaN for it is told the row.
    bad = ~torch.isfinite(flat) if differentiable else torch.isinf(flat)
    rows = bad.any(1).nonzero().flatten().tolist()
    if rows:
        name = name_of(name, index, in_tuple)
        warn(
            f"{name}: NaN or infinite values in rows {short_list(rows)}; their attributions may not"
            " be finite, other rows are not affected"
        )


def baselines_of(function: Any, inputs: TensorOrTuple) -> Any:
    """What a function of the inputs, or of nothing, returns; all else as it is."""
    if not callable(function):
        return function
    expected = "a function of the inputs, or of nothing"
    try:
        parameters = [*signature(function).parameters.values()]
    except ValueError:  # as of some that are written in C
        got = f"{function!r}, whose parameters Python does not tell: wrap it in a lambda"
        check(False, "baselines", expected, got)
    needed = [p for p in parameters if p.default is p.empty and p.kind not in _MAY_BE_NONE]
    by_name = any(p.kind is p.KEYWORD_ONLY for p in needed)
    check(
        len(needed) <= 1 and not by_name,
        "baselines",
        expected,
        f"one that needs {[p.name for p in needed]}",
    )
    return function(inputs) if parameters else function()


_MAY_BE_NONE = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
