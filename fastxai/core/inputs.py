"""Checks what the user passed and brings it into one form, before the model is called."""

from __future__ import annotations

import math
import numbers
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

TensorOrTuple = Tensor | tuple[Tensor, ...]


class ArgumentError(AssertionError, ValueError):
    """An argument is not what the method takes; the message names it.

    It is a ``ValueError``, and also the ``AssertionError`` that Captum raises in these cases, so
    that code written for either goes on working.
    """


def check(condition: bool, argument: str, expected: str, got: object, *values: object) -> None:
    """Raises an :class:`ArgumentError` that names the argument unless the condition holds.

    ``values`` fill the gaps in ``expected``: nothing is formatted where nothing is wrong.
    """
    if condition:
        return
    got = f"shape {tuple(got)}" if isinstance(got, torch.Size) else got
    raise ArgumentError(f"{argument}: expected {expected.format(*values)}, got {got}")


@dataclass(frozen=True)
class Inputs:
    """The rows to be explained."""

    tensors: tuple[Tensor, ...]  # each [B, *F_i], detached
    in_tuple: bool  # whether the user passed a tuple, and so expects one back

    @property
    def batch(self) -> int:
        return self.tensors[0].shape[0]

    def pack(self, results: Sequence[Tensor]) -> TensorOrTuple:
        """Tensor in, tensor out; tuple in, tuple out."""
        return tuple(results) if self.in_tuple else results[0]


def name_of(argument: str, index: int, in_tuple: bool) -> str:
    return f"{argument}[{index}]" if in_tuple else argument


def check_inputs(inputs: TensorOrTuple, differentiable: bool) -> Inputs:
    """Checks the inputs: one tensor or a tuple of tensors with one batch size and one device.

    Args:
        inputs: a tensor [B, *F], or a tuple of tensors [B, *F_i].
        differentiable: whether the method takes gradients, which needs floating-point tensors that
            were not made in inference mode.

    Raises:
        ArgumentError: naming the tensor at fault.
    """
    in_tuple = isinstance(inputs, tuple)
    tensors = inputs if isinstance(inputs, tuple) else (inputs,)
    check(len(tensors) > 0, "inputs", "at least one tensor", "an empty tuple")
    for i, x in enumerate(tensors):
        name = name_of("inputs", i, in_tuple)
        if not isinstance(x, Tensor):
            expected = "a torch.Tensor" if in_tuple else "a torch.Tensor or a tuple of them"
            raise ArgumentError(f"{name}: expected {expected}, got a {type(x).__name__}")
        check(x.layout == torch.strided, name, "a dense tensor", x.layout)
        check(x.dim() > 0, name, "a batch dimension first", "a tensor without dimensions")
        check(
            x.shape[0] == tensors[0].shape[0],
            name,
            "the batch size of inputs[0], {}",
            x.shape,
            tensors[0].shape[0],
        )
        check(
            x.device == tensors[0].device,
            name,
            "the device of inputs[0], {}",
            x.device,
            tensors[0].device,
        )
        if differentiable:
            check(
                x.is_floating_point(),
                name,
                "floating-point values to differentiate (pass indices and the like in "
                "additional_forward_args)",
                x.dtype,
            )
            check_not_inference(x, name)
        _warn_unless_finite(x, name)
    return Inputs(tuple(x.detach() for x in tensors), in_tuple)


def check_baselines(baselines: Any, inputs: Inputs) -> tuple[Tensor, ...]:
    """Brings the baselines into the form [B, *F_i] or [1, *F_i], in the inputs' dtype and device.

    Args:
        baselines: None (zeros), a number, a tensor of the input's shape or with one row, or a tuple
            of those, one for each input.
        inputs: the checked inputs.

    Raises:
        ArgumentError: naming the baseline at fault.
    """
    if baselines is None:
        baselines = (0,) * len(inputs.tensors)
    if not isinstance(baselines, tuple):
        baselines = (baselines,)
    check(
        len(baselines) == len(inputs.tensors),
        "baselines",
        "one for each of the {} inputs",
        len(baselines),
        len(inputs.tensors),
    )
    pairs = zip(baselines, inputs.tensors, strict=True)
    return tuple(
        _check_baseline(b, x, name_of("baselines", i, inputs.in_tuple))
        for i, (b, x) in enumerate(pairs)
    )


def _check_baseline(baseline: Any, x: Tensor, name: str) -> Tensor:
    one_row = (1, *x.shape[1:])
    if isinstance(baseline, numbers.Number | np.generic):
        number: Any = baseline
        return torch.full(one_row, number, dtype=x.dtype, device=x.device)
    check(isinstance(baseline, Tensor), name, "a number or a torch.Tensor", type(baseline).__name__)
    check(baseline.device == x.device, name, "the input's device, {}", baseline.device, x.device)
    check_not_inference(baseline, name)
    if baseline.dim() == 0:
        baseline = baseline.expand(one_row)
    _warn_unless_finite(baseline, name)
    baseline = baseline.detach().to(x.dtype)
    check(
        baseline.shape in (x.shape, one_row),
        name,
        "the input's shape {}, or one row {}",
        baseline.shape,
        tuple(x.shape),
        one_row,
    )
    return baseline


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


def check_count(value: Any, argument: str, at_least: int = 1) -> int:
    """Checks a number of steps, rows or samples."""
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    fine = is_integer and value >= at_least
    check(fine, argument, "an integer of at least {}", value, at_least)
    return int(value)


def check_not_inference(tensor: Tensor, name: str) -> None:
    check(
        not tensor.is_inference(),
        name,
        "a tensor that autograd can use",
        "one made under torch.inference_mode(), which cannot be differentiated: clone() it outside",
    )


def _warn_unless_finite(tensor: Tensor, name: str) -> None:
    # Only where looking is free: on an accelerator it would make every call wait for the device.
    if tensor.device.type != "cpu" or not tensor.is_floating_point() or tensor.is_inference():
        return
    if math.isfinite(tensor.detach().sum()):  # one cheap pass; one that overflows looks again
        return
    bad = ~torch.isfinite(tensor.reshape(tensor.shape[0], -1))
    rows = bad.any(1).nonzero().flatten().tolist()
    if rows:
        warnings.warn(
            f"{name}: NaN or infinite values in rows {_short(rows)}; their attributions will not be"
            " finite, other rows are not affected",
            stacklevel=4,
        )


def _short(rows: list[int]) -> str:
    return ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")
