"""Arguments that are True or False: every parameter that is annotated as a bool."""

from __future__ import annotations

import functools
from collections.abc import Callable
from inspect import Parameter, signature
from typing import Any, TypeVar

from .checks import ArgumentError

F = TypeVar("F", bound=Callable[..., Any])


def flags_checked(function: F) -> F:
    """Has flags checked before the function does anything.

    Raises:
        ArgumentError: of the function's: naming the flag that is neither true nor false.
    """
    flags = flags_of(function)
    if not flags:
        return function

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        check_flags(flags, args, kwargs)
        return function(*args, **kwargs)

    return wrapper  # type: ignore[return-value]


def flags_of(function: Callable[..., Any]) -> list[tuple[str, int]]:
    """Their names and places; what can be passed by name alone has a place that no call has."""
    flags = []
    for place, parameter in enumerate(signature(function).parameters.values()):
        if parameter.annotation in (bool, "bool"):
            by_name = parameter.kind is Parameter.KEYWORD_ONLY
            flags.append((parameter.name, 1000 if by_name else place))
    return flags


def check_flags(flags: list[tuple[str, int]], args: Any, kwargs: dict[str, Any]) -> None:
    """Checks those of a call.

    Raises:
        ArgumentError: naming the flag that is neither true nor false.
    """
    for name, place in flags:
        flag = kwargs[name] if name in kwargs else args[place] if place < len(args) else True
        if flag is not True and flag is not False:
            _check_flag(flag, name)


def _check_flag(value: Any, argument: str) -> None:
    """Lets all through that has a truth value, but for words, whose truth is not what they say."""
    if value is True or value is False:
        return
    try:
        bool(value)
        fine = not isinstance(value, str)
    except Exception:  # of several values, and whatever else does not know whether it is true
        fine = False
    if not fine:
        got = repr(value) if isinstance(value, str) else f"a {type(value).__name__}"
        raise ArgumentError(f"{argument}: expected True or False, got {got}")
