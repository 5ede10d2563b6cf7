"""A model that every call finds as the first one found it, in a program as in the engine."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..engine.outputs import tensor_of
from ..engine.state import LAYERS, modules_behind


class Afresh:
    """Calls a module, and puts attributes back that it sets: a cache, a count, a running mean.

    What a call would leave for the next one would be part of the program otherwise, as it was when
    that was traced.

    Args:
        module: in eval mode, in which torch's own layers change nothing.
    """

    def __init__(self, module: nn.Module):
        self.module = module
        self._owners = [
            (m, {**vars(m)}, {**m._buffers})
            for m in modules_behind(module)
            if not type(m).__module__.startswith(LAYERS)
            and not isinstance(m, torch.jit.ScriptModule)
        ]
        self._writes = False  # whether it was seen to write to a tensor among them

    def tried(self, *arguments: Any) -> Any:
        """The outputs, and from here on it is known whether the module writes to its tensors."""
        tensors = [t for _, *kept in self._owners for held in kept for t in _tensors(held)]
        before = [t.detach().clone() for t in tensors]
        outputs = self(*arguments)
        pairs = list(zip(tensors, before, strict=True))
        written = [t for t, was in pairs if not torch.equal(t.detach(), was)]
        self._writes = bool(written)
        with torch.no_grad():
            for t, was in pairs:
                if self._writes:
                    t.copy_(was)
        return outputs

    def __call__(self, *arguments: Any) -> Any:
        if self._writes:
            for m, attributes, buffers in self._owners:
                vars(m).update({name: t.clone() for name, t in _named(attributes)})
                m._buffers.update({name: t.clone() for name, t in _named(buffers)})
        try:
            return tensor_of(self.module(*arguments))
        finally:
            for m, attributes, buffers in self._owners:
                for held, was in ((vars(m), attributes), (m._buffers, buffers)):
                    for name in held.keys() - was.keys():
                        del held[name]
                    held.update(was)


def _named(held: dict[str, Any]) -> list[tuple[str, Tensor]]:
    return [(name, t) for name, t in held.items() if isinstance(t, Tensor)]


def _tensors(held: dict[str, Any]) -> list[Tensor]:
    return [t for _, t in _named(held)]
