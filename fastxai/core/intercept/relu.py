"""Other backward passes for single operations, while a model runs and in its thread alone.

A rule replaces an operation, not a module: whether a model calls ``F.relu``, ``x.relu_()`` or the
same ``nn.ReLU`` three times makes no difference, and nothing is left on the model.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..checks import ArgumentError
from ..modules import is_compiled_module, transformation
from .checkpoints import without_checkpoints

Function = Callable[..., Any]


def spellings(*names: str) -> set[Function]:
    """All functions and methods of these names, in place or not."""
    homes = (torch, F, Tensor, torch.special, torch._C._nn)
    every = [name + end for name in names for end in ("", "_")]
    found = {getattr(home, name, None) for home in homes for name in every}
    return {function for function in found if callable(function)}


def check_eager(forward_func: Function, modules: list[torch.nn.Module]) -> None:
    """Scripted and compiled code does not tell what operations it does; nor in these modules."""
    expected = "operations that can be seen one by one: the plain module"
    for module in modules:
        compiled = is_compiled_module(module)
        parallel = isinstance(module, torch.nn.DataParallel) and len(module.device_ids) > 1
        if compiled or parallel or isinstance(module, torch.jit.ScriptModule):
            got = "one that torch.compile compiled" if compiled else type(module).__name__
            raise ArgumentError(f"forward_func: expected {expected}, got {got}")
    scripted = isinstance(forward_func, torch.jit.ScriptFunction)
    compiled = hasattr(forward_func, "_torchdynamo_orig_callable")
    if scripted or compiled:
        kind = "scripted" if scripted else "compiled"
        raise ArgumentError(f"forward_func: expected {expected}, got a {kind} function")


class RectifiedBackward:
    """Calls a function with another backward pass for its ReLUs.

    Args:
        forward_func: what to call.
        gate: whether the gradient is stopped where the ReLU's input is not positive, as it is in
            plain backpropagation. It is always stopped where it is not positive itself.
    """

    def __init__(self, forward_func: Function, gate: bool):
        self.forward_func, self.gate = forward_func, gate

    def __call__(self, *args: Any) -> Any:
        with without_checkpoints(), _Rectified(self.gate):
            return self.forward_func(*args)


class _Rectified(TorchFunctionMode):
    def __init__(self, gate: bool):
        super().__init__()
        self.gate = gate

    def __torch_function__(
        self, func: Function, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in _RELUS:
            return func(*args, **kwargs)
        x = args[0] if args else kwargs["input"]
        rectify: Any = _Rectify if transformation() is None else _RectifyInside
        y = rectify.apply(x, self.gate)
        return x.copy_(y) if in_place(func, args, kwargs) else y


class _Rectify(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: bool) -> Tensor:
        y = x.relu()
        ctx.save_for_backward(*([y > 0] if gate else []))
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        positive = gradient.relu()
        return positive.mul_(*ctx.saved_tensors) if ctx.saved_tensors else positive, None


class _RectifyInside(torch.autograd.Function):
    """The same inside torch.func.vmap, a little slower."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, gate: bool) -> Tensor:
        return x.relu()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, bool], output: Tensor) -> None:
        ctx.save_for_backward(*([output > 0] if inputs[1] else []))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        positive = gradient.relu()
        return positive * ctx.saved_tensors[0] if ctx.saved_tensors else positive, None


class Substituted(torch.autograd.Function):
    """A value with the gradient of something else, also inside torch.func.vmap."""

    generate_vmap_rule = True

    @staticmethod
    def forward(surrogate: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


_RELUS = spellings("relu")


def in_place(func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether the operation writes its result to its first argument."""
    name = func.__name__
    if name.endswith("_") and not name.endswith("__"):
        return True
    place = _place_of_inplace(func)
    return bool(kwargs.get("inplace", len(args) > place >= 0 and args[place]))


@cache
def _place_of_inplace(func: Function) -> int:
    """Which argument tells; -1 for none."""
    try:
        names = list(inspect.signature(func).parameters)
    except ValueError:  # of a builtin
        return -1
    return names.index("inplace") if "inplace" in names else -1
