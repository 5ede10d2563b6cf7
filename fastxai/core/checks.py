"""The form of every error and warning, and checks of plain arguments."""

from __future__ import annotations

import numbers
import sys
import warnings
from collections.abc import Iterable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

TensorOrTuple = Tensor | tuple[Tensor, ...]
# The one or the other, where a result is of the same form; or either, where that is not known.
Form = TypeVar("Form", Tensor, tuple[Tensor, ...], Tensor | tuple[Tensor, ...])


_NO_LIMIT = 1 << 62  # rows of a call: so many never are


_OURS = ("fastxai.", "contextlib")  # modules between the user and a warning


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


def warn(message: str) -> None:
    """Warns at the line of the user's that called into fastxai."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals["__name__"].startswith(_OURS):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


def name_of(argument: str, index: int, in_tuple: bool) -> str:
    return f"{argument}[{index}]" if in_tuple else argument


def check_dense(x: Tensor, name: str) -> None:
    kind = "nested" if x.is_nested else "quantised" if x.is_quantized else x.layout
    check(kind == torch.strided, name, "a dense tensor", kind)


def check_count(value: Any, argument: str, at_least: int = 1, below: int | None = 2**31) -> int:
    """Checks a number of steps, rows or samples; one that is but a limit may be of any size."""
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    fine = is_integer and value >= at_least
    check(fine, argument, "an integer of at least {}", _in_words(value), at_least)
    check(below is None or value < below, argument, "an integer below {:,}", value, below)
    return int(value)


def check_number(value: Any, argument: str, expected: str, *, positive: bool = False) -> float:
    """Checks a finite number of at least 0, or above 0 if it is to be positive."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    fine = is_number and 0 <= value <= sys.float_info.max and not (positive and value == 0)
    check(fine, argument, expected, _in_words(value))
    return float(value)


def check_choice(value: Any, argument: str, choices: Iterable[str]) -> str:
    """Checks one of some words."""
    known = list(choices)
    fine = isinstance(value, str) and value in known
    check(fine, argument, "one of {}", _in_words(value), ", ".join(known))
    return str(value)


def _in_words(value: Any) -> Any:
    """What a message says was got: of a tensor not its numbers."""
    if isinstance(value, Tensor | np.ndarray):
        return f"a {type(value).__name__}"
    return repr(value) if isinstance(value, str) else value


def check_limit(value: Any, batch: int = 1, argument: str = "perturbations_per_eval") -> int | None:
    """Rows a call at most, if what is counted is of so many rows; None for None."""
    if value is None:
        return None
    return min(check_count(value, argument, below=None), _NO_LIMIT) * max(1, batch)


def check_seed(seed: Any) -> int:
    """The seed as an integer in [0, 2**63); None draws one from torch's default CPU generator."""
    if seed is None:
        return int(torch.randint(2**63 - 1, (), device="cpu"))
    fine = isinstance(seed, numbers.Integral) and not isinstance(seed, bool)
    check(fine, "seed", "an integer or None", seed)
    return int(seed) % 2**63


def check_not_inference(tensor: Tensor, name: str) -> None:
    check(
        not tensor.is_inference(),
        name,
        "a tensor that autograd can use",
        "one made under torch.inference_mode(), which cannot be differentiated: clone() it outside",
    )


def short_list(rows: list[int]) -> str:
    return ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")
