"""What a call of the model must not change: its modules' state and its extra arguments."""

from __future__ import annotations

import contextlib
import copy
import functools
import types
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# Where torch's own layers are: of these is known what they change, and that is little.
LAYERS = "torch.nn.modules."
_MOST_OBJECTS = 1000  # that a callable is searched for modules in; the nearest come first
_PLAIN = (str, bytes, int, float, complex, bool, type(None), torch.dtype, torch.device, torch.Size)
_LEAVES = (*_PLAIN, Tensor, type)
_LIBRARIES = frozenset(("torch", "numpy", "builtins", "functools", "fastxai", "captum"))


def modules_behind(function: Callable[..., Any]) -> list[nn.Module]:
    """The modules that a callable may use, as far as Python tells.

    Looks into modules, bound methods, :func:`functools.partial`, closures, defaults, the globals
    that a function names, attributes of objects, lists, tuples, sets and dictionaries.
    """
    found: dict[nn.Module, None] = {}
    seen: dict[int, Any] = {}  # by identity; the values keep it unique
    todo: deque[Any] = deque([function])
    while todo and len(seen) < _MOST_OBJECTS:
        value = todo.popleft()
        if isinstance(value, nn.Module):
            if value in found:
                continue
            found[value] = None
            todo.extendleft([*value._modules.values()][::-1])  # next, and in order
            if not type(value).__module__.startswith(LAYERS):
                attributes, known = vars(value), _of_every_module()
                todo.extend([v for name, v in attributes.items() if name not in known])
                todo.extend(_named(getattr(type(value), "forward", None)))
        elif not isinstance(value, _LEAVES) and id(value) not in seen:
            seen[id(value)] = value
            todo.extend(islice(_referents(value), _MOST_OBJECTS))
    return list(found)


@functools.cache
def _of_every_module() -> frozenset[str]:
    return frozenset(vars(nn.Module()))


def _referents(value: Any) -> Iterator[Any]:
    if isinstance(value, types.FunctionType):
        yield from _named(value)
    elif isinstance(value, types.MethodType):
        yield from (value.__self__, value.__func__)
    elif isinstance(value, functools.partial):
        yield value.func
        yield from value.args
        yield from value.keywords.values()
    elif isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list | tuple | set | frozenset):
        yield from value
    elif not isinstance(value, types.ModuleType | types.BuiltinFunctionType | np.ndarray):
        if type(value).__module__.partition(".")[0] not in _LIBRARIES:
            yield from _named(vars(type(value)).get("__call__"))
        yield from getattr(value, "__dict__", {}).values()
        for kind in type(value).__mro__:
            slots = kind.__dict__.get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                yield getattr(value, name, None)


def _named(function: Any) -> list[Any]:
    """What a function in Python refers to; nothing for those of libraries."""
    if not isinstance(function, types.FunctionType):
        return []
    found: list[Any] = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    found += function.__dict__.values()
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # of one that is not filled yet
            found.append(cell.cell_contents)
    if (function.__module__ or "").partition(".")[0] in _LIBRARIES:
        return found
    codes, names = [function.__code__], function.__globals__
    while codes:
        code = codes.pop()
        codes += [c for c in code.co_consts if isinstance(c, types.CodeType)]
        for name in code.co_names:
            value = names.get(name)
            if isinstance(value, types.ModuleType):
                # module.model, as the code spells it
                within = [vars(value).get(n) for n in code.co_names]
                found += [v for v in within if isinstance(v, nn.Module)]
            else:
                found.append(value)
    return found


class State:
    """The buffers of some modules, and the tensors among their attributes.

    What a module of torch's own changes is known: buffers, in train mode. Others may change their
    buffers and their attributes at any time.
    """

    def __init__(self, buffers: list[tuple[nn.Module, str]], attributes: list[nn.Module]):
        self._names, self._owners = buffers, attributes
        self._buffers: list[tuple[nn.Module, str, Tensor, Tensor]] = []  # the last is a copy
        self._versions: list[int] = []
        self._attributes: list[tuple[dict[str, Any], str, Any]] = []

    @staticmethod
    def of(modules: list[nn.Module]) -> State | None:
        """That of these modules; None if it has nothing that might change."""
        own = [m for m in modules if not type(m).__module__.startswith(LAYERS)]
        buffers = [
            (module, name)
            for module in modules
            if module._buffers and (module.training or module in own)
            for name in list(module._buffers)
        ]
        owners = [
            module
            for module in own
            if not isinstance(module, torch.jit.ScriptModule)
            and vars(module).keys() - _of_every_module()
        ]
        return State(buffers, owners) if buffers or owners else None

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Puts everything back at the end as it was at the beginning."""
        before = self._buffers, self._versions, self._attributes
        found = [(module, name, module._buffers[name]) for module, name in self._names]
        self._buffers = [
            (module, name, buffer, _copied(buffer))
            for module, name, buffer in found
            if buffer is not None and not isinstance(buffer, nn.parameter.UninitializedBuffer)
        ]
        self._versions = [_version(buffer) for _, _, buffer, _ in self._buffers]
        every = _of_every_module()
        self._attributes = [
            (attributes, name, value)
            for attributes in map(vars, self._owners)
            for name, value in attributes.items()
            if (value is None or isinstance(value, Tensor)) and name not in every
        ]
        try:
            yield
        finally:
            self.restore(thoroughly=True)
            self._buffers, self._versions, self._attributes = before

    def restore(self, thoroughly: bool = False) -> None:
        """Puts everything back, where it is kept.

        Args:
            thoroughly: whether to look at the values of buffers, too: writing by NumPy or to
                ``.data`` leaves no other trace.
        """
        for attributes, name, value in self._attributes:
            if attributes.get(name, self) is not value:
                attributes[name] = value
        for i, (module, name, buffer, value) in enumerate(self._buffers):
            scripted = isinstance(module, torch.jit.ScriptModule)
            if not scripted and module._buffers.get(name) is not buffer:
                module._buffers[name] = buffer
            moved = _version(buffer) != self._versions[i]
            if moved or (thoroughly and not _same(buffer, value)):
                with torch.no_grad():
                    buffer.copy_(value)
                self._versions[i] = _version(buffer)


class Loans:
    """Copies of the caller's arguments for the model, which may write to them.

    Every call is given what the caller gave. A tensor is copied once, and again after it was
    written to: that is told by its version, and after its first use by its values, as writing
    through NumPy or ``.data`` leaves the version as it is.
    """

    def __init__(self) -> None:
        # By the identity of the caller's tensor, which the caller keeps: the copy, its version at
        # that time, and whether it was seen not to be written to in a call.
        self._copies: dict[int, tuple[Tensor, int, bool]] = {}
        self._written: set[int] = set()

    def of(self, value: Any) -> Any:
        """The argument for the next call: its tensors and arrays, and what holds them, are new."""
        if isinstance(value, Tensor):
            return self._tensor(value)
        if isinstance(value, _PLAIN) or callable(value):
            return value
        if isinstance(value, np.ndarray):
            return value.copy()
        if isinstance(value, torch.Generator):
            return value.clone_state()
        if isinstance(value, list | tuple) and type(value) in (list, tuple):
            return type(value)(map(self.of, value))
        if type(value) is dict:
            return {k: self.of(v) for k, v in value.items()}
        return self._object(value)

    def _tensor(self, tensor: Tensor) -> Tensor:
        key = id(tensor)
        held = self._copies.get(key)
        if held is not None and key not in self._written:
            lent, version, is_trusted = held
            if _version(lent) == version and (is_trusted or _same(lent, tensor)):
                self._copies[key] = lent, version, True
                return lent
            self._written.add(key)
        lent = _copied(tensor)
        self._copies[key] = lent, _version(lent), False
        return lent

    def _object(self, value: Any) -> Any:
        """Copied deeply if it holds tensors or arrays, as a cache of keys and values does."""
        memo: dict[int, Any] = {}
        holds = False
        todo, seen = deque([value]), 0
        while todo and seen < _MOST_OBJECTS:
            one = todo.popleft()
            seen += 1
            if isinstance(one, (*_PLAIN, type)) or id(one) in memo:
                continue
            if isinstance(one, Tensor | np.ndarray):
                holds = True
                memo[id(one)] = self.of(one)
            elif callable(one):  # modules among them
                memo[id(one)] = one
            else:
                memo[id(one)] = None
                todo.extend(islice(_referents(one), _MOST_OBJECTS))
        if not holds:
            return value
        try:
            return copy.deepcopy(value, {k: v for k, v in memo.items() if v is not None})
        except Exception:  # of what cannot be copied
            return value


def _copied(tensor: Tensor) -> Tensor:
    if tensor.grad_fn is not None:
        with torch.enable_grad():
            return tensor.clone()
    copied = tensor.detach().clone()
    return copied.requires_grad_() if tensor.requires_grad else copied


def _version(tensor: Tensor) -> int:
    # Tensors made in inference mode have none; -1 is never what was seen before.
    return -1 if tensor.is_inference() else tensor._version


def _same(one: Tensor, other: Tensor) -> bool:
    try:
        return torch.equal(one, other)
    except (RuntimeError, NotImplementedError):  # not for every layout
        return False
