"""What a call of the model must not change: its modules' state and its extra arguments."""

from __future__ import annotations

import contextlib
import copy
import functools
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# Where torch's own layers are: of these is known what they change, and that is little.
LAYERS = "torch.nn.modules."
_MOST_OBJECTS = 1000  # that a callable is searched for modules in; the nearest come first
_MOST_BYTES = 64 << 20  # of a tensor that is no buffer, of which a copy is kept
_PLAIN = (str, bytes, int, float, complex, bool, type(None), torch.dtype, torch.device, torch.Size)
_MAY_HOLD = (Tensor, list, tuple, dict)
_LEAVES = (*_PLAIN, Tensor, type)
_LIBRARIES = frozenset(("torch", "numpy", "builtins", "functools", "fastxai", "captum"))


def modules_behind(function: Callable[..., Any]) -> list[nn.Module]:
    """The modules that a callable may use, as far as Python tells."""
    return behind(function)[0]


def behind(function: Callable[..., Any]) -> tuple[list[nn.Module], list[Any]]:
    """The modules that a callable may use, and other objects that may keep its state.

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
    return list(found), list(seen.values())


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
    """What calls of a function may change: tensors in its modules and objects.

    What a module of torch's own changes is known: buffers, in train mode. Others may change their
    buffers and their attributes at any time: tensors, None where there will be one, and lists,
    tuples and dictionaries with tensors in them. Of other objects it is the tensors that they have.
    """

    def __init__(
        self,
        buffers: list[tuple[nn.Module, str]],
        attributes: list[dict[str, Any]],  # of modules
        others: list[dict[str, Any]],  # attributes of objects, with tensors among them
    ):
        self._names, self._attributes, self._others = buffers, attributes, others
        self._kept: _Kept | None = None

    @staticmethod
    def of(modules: list[nn.Module], objects: Iterable[Any] = ()) -> State | None:
        """That of these; None if they have nothing that might change."""
        own = [m for m in modules if not type(m).__module__.startswith(LAYERS)]
        buffers = [
            (module, name)
            for module in modules
            if module._buffers and (module.training or module in own)
            for name in list(module._buffers)
        ]
        owners = [
            vars(module)
            for module in own
            if not isinstance(module, torch.jit.ScriptModule)
            and vars(module).keys() - _of_every_module()
        ]
        others = [
            vars(o)
            for o in objects
            if type(o).__module__.partition(".")[0] not in _LIBRARIES
            and hasattr(o, "__dict__")
            and any(map(_holds_tensors, vars(o).values()))
        ]
        return State(buffers, owners, others) if buffers or owners or others else None

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Puts everything back at the end as it was at the beginning."""
        before, self._kept = self._kept, _Kept()
        every = _of_every_module()
        for module, name in self._names:
            buffer = module._buffers[name]
            if buffer is None or isinstance(buffer, nn.parameter.UninitializedBuffer):
                continue
            self._kept.tensor(buffer)
            if not isinstance(module, torch.jit.ScriptModule):
                self._kept.places.append((module._buffers, name, buffer))
        for attributes in self._attributes:
            self._kept.names.append((attributes, frozenset(attributes)))
            for name, value in attributes.items():
                if name in every or not (value is None or isinstance(value, _MAY_HOLD)):
                    continue
                if value is None or _holds_tensors(value):
                    self._kept.place(attributes, name, value)
        for attributes in self._others:
            for name, value in attributes.items():
                if isinstance(value, _MAY_HOLD) and _holds_tensors(value):
                    self._kept.place(attributes, name, value)
        try:
            yield
        finally:
            self.restore(thoroughly=True)
            self._kept = before

    def restore(self, thoroughly: bool = False) -> None:
        """Puts everything back, where it is kept.

        Args:
            thoroughly: whether to look at the values of tensors, too: writing by NumPy or to
                ``.data`` leaves no other trace.
        """
        if self._kept is not None:
            self._kept.restore(thoroughly)


class _Kept:
    """Where tensors were, and copies of them."""

    def __init__(self) -> None:
        self.places: list[tuple[dict[str, Any], str, Any]] = []
        self.names: list[tuple[dict[str, Any], frozenset[str]]] = []  # attributes of modules
        self._containers: list[tuple[Any, Any]] = []  # lists and dictionaries, and copies
        self._tensors: list[tuple[Tensor, Tensor]] = []  # and copies
        self._versions: list[int] = []

    def place(self, attributes: dict[str, Any], name: str, value: Any) -> None:
        self.places.append((attributes, name, value))
        self._value(value)

    def tensor(self, tensor: Tensor) -> None:
        self._tensors.append((tensor, _copied(tensor)))
        self._versions.append(_version(tensor))

    def restore(self, thoroughly: bool) -> None:
        for attributes, name, value in self.places:
            if attributes.get(name, self) is not value:
                attributes[name] = value
        for attributes, names in self.names:
            if len(attributes) > len(names):
                for name in attributes.keys() - names:
                    if attributes[name] is None or _holds_tensors(attributes[name]):
                        del attributes[name]
        for held, copied in self._containers:
            if isinstance(held, dict):
                if [*map(id, held.values())] != [*map(id, copied.values())]:
                    held.clear()
                    held.update(copied)
            elif [*map(id, held)] != [*map(id, copied)]:
                held[:] = copied
        for i, (tensor, value) in enumerate(self._tensors):
            moved = _version(tensor) != self._versions[i]
            if moved or (thoroughly and not _same(tensor, value)):
                with torch.no_grad():
                    tensor.copy_(value)
                self._versions[i] = _version(tensor)

    def _value(self, value: Any) -> None:
        if isinstance(value, Tensor):
            if not isinstance(value, nn.Parameter) and value.nbytes <= _MOST_BYTES:
                self.tensor(value)
        elif isinstance(value, list | tuple | dict):
            if type(value) is list or type(value) is dict:
                self._containers.append((value, copy.copy(value)))
            for one in value.values() if isinstance(value, dict) else value:
                self._value(one)


def _holds_tensors(value: Any, depth: int = 3) -> bool:
    """Whether it is a tensor, or has one in its lists, tuples and dictionaries."""
    if isinstance(value, Tensor):
        return True
    if depth == 0 or not isinstance(value, _MAY_HOLD):
        return False
    within = value.values() if isinstance(value, dict) else value
    return any(_holds_tensors(one, depth - 1) for one in islice(within, _MOST_OBJECTS))


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
