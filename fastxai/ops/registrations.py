"""What torch is told of the native ops beside their kernels.

That is their results' shapes for tracing, the reference for devices without a kernel, and
gradients. path_points and path_reduce are each other's adjoints, so their gradients are themselves,
and so to any order. torch.autograd and torch.vmap go through them; torch.func.grad does not, for
want of support in torch.library.register_autograd. No other op has a gradient.
"""

from importlib import import_module
from types import SimpleNamespace
from typing import Any

import torch

from . import reference

NAMES = tuple(reference.__all__)

# Results that never require a gradient. A Library takes its kernels along when it goes.
_without_gradients = torch.library.Library("fastxai", "IMPL", "Autograd")


def register() -> None:
    """Registers with the loaded library; to be called once."""
    for name in NAMES:
        op: Any = import_module(f"{reference.__name__}.{name}")
        qualified = f"fastxai::{name}"
        torch.library.register_fake(qualified, op.fake)
        # Devices that the library has no kernels for, CUDA among them if it was built without nvcc.
        torch.library.impl(qualified, "default", getattr(reference, name))
        if not hasattr(op, "backward"):
            _without_gradients.impl(name, torch.library.fallthrough_kernel)
            continue
        torch.library.register_autograd(qualified, op.backward, setup_context=op.setup_context)
        torch.library.register_vmap(qualified, op.vmap)


def overloads() -> Any:
    """The ops of the loaded library, as torch calls them."""
    return SimpleNamespace(**{name: getattr(torch.ops.fastxai, name).default for name in NAMES})
