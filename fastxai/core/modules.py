"""What torch tells of modules and of the transformations around a call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

# The innermost one of torch.func's that operations are in, by vmap say; None for none.
transformation = torch._C._functorch.maybe_current_level


def modules_of(forward_func: Callable[..., Any]) -> list[torch.nn.Module]:
    """The modules of a module, or of one whose method this is, in order; of functions none."""
    owner = getattr(forward_func, "__self__", forward_func)  # of a bound method
    found: dict[torch.nn.Module, None] = {}
    todo: list[torch.nn.Module | None] = [owner] if isinstance(owner, torch.nn.Module) else []
    while todo:  # as Module.modules() without the names, which take most of its time
        module = todo.pop()
        if module is not None and module not in found:
            found[module] = None
            todo += [*module._modules.values()][::-1]
    return list(found)


def is_compiled(function: Any) -> bool:
    if isinstance(function, torch.nn.Module):  # looked at as one of the modules
        return False
    scripted = isinstance(function, torch.jit.ScriptFunction)
    return scripted or hasattr(function, "_torchdynamo_orig_callable")


def is_compiled_module(module: torch.nn.Module) -> bool:
    """Whether torch.compile made it, or compiled it in place."""
    # Not by the class, torch._dynamo's: looking it up would import some 100 MB.
    return module._compiled_call_impl is not None or "_orig_mod" in module._modules
