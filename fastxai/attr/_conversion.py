"""Calls of methods with what people bring: arrays, DataFrames, dicts, estimators, class names."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

from torch import Tensor

from ..core.checks import ArgumentError, check
from ..core.program.program import ARGMAX
from ..interop.conversion import PLAIN, Asks, Conversion, convert, is_plain
from ..interop.models import class_names
from ._explanation import Explanation, as_arrays

# What comes in several forms.
_EXTRA = "additional_forward_args"
_FORMS = (
    *("inputs", "baselines", "background", "background_weights"),
    *("feature_mask", _EXTRA),
)
_BROUGHT = {*_FORMS, "target"}


def is_to_convert(method: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a call has other than tensors and numbers, so that it must be looked at closely."""
    if not callable(method.forward_func):
        return True
    for value in args:
        if type(value) not in PLAIN and not is_plain(value):
            return True
    for name, value in kwargs.items():
        if type(value) not in PLAIN and name in _BROUGHT and not is_plain(value):
            return True
    return False


def with_arrays(explanation: Explanation, conversion: Conversion) -> Explanation:
    """The explanation of what was brought: as arrays where that was, with its columns' names."""
    found = as_arrays(explanation) if conversion.to_numpy else explanation
    if found.data is not None:  # it is about features
        data = conversion.data if conversion.to_numpy else found.data
        found = replace(found, data=data, feature_names=conversion.feature_names)
    return replace(found, output_names=conversion.output_names)


def with_tensors(
    method: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, Conversion]:
    """The method over a model that takes tensors, and its arguments."""
    call = inspect.signature(method.attribute).bind(*args, **kwargs)
    call.apply_defaults()
    arguments = dict(call.arguments)
    for name, parameter in call.signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            arguments.update(arguments.pop(name, {}))
    smoothed = getattr(method._smoothed_method, "_differentiates", True)
    asks = Asks(method._differentiates, method._of_inputs, smoothed)
    if all(is_plain(arguments.get(name)) for name in _FORMS) and callable(method.forward_func):
        found = Conversion(method.forward_func, arguments)
    else:
        found = convert(method.forward_func, arguments, asks)
    found.output_names = class_names(method.forward_func)
    plain = method._over(found.function)
    target = found.arguments.get("target")
    if target is not None:
        found.arguments["target"] = _target(plain, method.forward_func, target, found)
    return plain, found


def _target(plain: Any, model: Any, target: Any, conversion: Conversion) -> Any:
    """A target with numbers for names: of classes, or that of the largest output."""
    arguments, names = conversion.arguments, conversion.output_names
    if isinstance(target, str) and target == ARGMAX:
        return _largest(plain, arguments)
    if hasattr(target, "to_numpy") and not isinstance(target, Tensor):
        target = target.to_numpy()
    if hasattr(target, "dtype") and not isinstance(target, Tensor) and target.dtype.kind in "OUS":
        target = target.tolist()
    each = [*target] if isinstance(target, list | tuple) else [target]
    if not any(isinstance(t, str) for t in each):
        return target
    if names is None:
        raise ArgumentError(
            f"target: expected an int or {ARGMAX!r}, as the model has no names of classes, "
            f"got {next(t for t in each if isinstance(t, str))!r}"
        )
    known = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    for name in each:
        fits = not isinstance(name, str) or name in names
        check(fits, "target", "one of the classes {}", repr(name), known)
    if callable(model):  # one that has names may still return something else, as for tokens
        before = len(each) - 1 if isinstance(target, tuple) else 0
        shape = plain._all_outputs(arguments["inputs"], arguments.get(_EXTRA)).shape
        expected = "an integer or a tuple, as outputs are not those of the {} classes alone"
        fits = len(shape) == before + 2 and shape[-1] == len(names)
        check(fits, "target", expected, f"{target!r} for outputs {tuple(shape)}", len(names))
    found = [names.index(t) if isinstance(t, str) else t for t in each]
    return type(target)(found) if isinstance(target, list | tuple) else found[0]


def _largest(plain: Any, arguments: dict[str, Any]) -> Tensor:  # [B] int64
    """Which of the model's outputs, [B, C], is the largest for each of the inputs."""
    outputs: Tensor = plain._all_outputs(arguments["inputs"], arguments.get(_EXTRA))
    check(outputs.dim() == 2, "target", "outputs [B, C] to find the largest of", outputs.shape)
    return outputs.argmax(1)
