"""Rows that stay affine: a tensor that stands for many rows and holds only what they are made of.

Up to its first operation that is not affine a network maps straight paths to straight paths, and
sums to sums: f(base + Σ c δ) = f(base) + Σ c Lδ, with L the linear part of f. So the model may be
called with an :class:`AffineRows`, on which affine operations act on base and deltas, a few rows;
the first other operation makes the rows, and all after it is as without.

What an operation gave is kept, so that in the next block of rows with the same base and deltas it
is not done again. It is exactly right or raises :class:`NotAffine`, upon which the rows must be
made beforehand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from ..modules import transformation
from .deltas import Deltas, Memo, NotAffine, Sparse
from .mixing import Mixing

# What operations do to such rows: func(*args) -> AffineStep, or NotImplemented. In ``operations``.
FOLLOWS: dict[Any, Callable[..., Any]] = {}


class PrefixTrace:
    """What the model does to its rows in calls with the same bases and deltas."""

    def __init__(self) -> None:
        self.reached: dict[Memo[Deltas], None] = {}  # what has a slope
        self.made: list[AffineRows] = []
        self.leaves: list[tuple[Memo[Deltas], Tensor]] = []  # whose gradients are to be gathered
        self.begin()

    def begin(self) -> None:
        """A call, of which then is known:"""
        self.spared = 0  # multiplications of the model for a row, which anchors took instead
        self.anchored = 0  # and how many those took, the first time
        self.width = 0  # numbers in a row where it was made
        self.followed: list[str] = []  # the operations on anchors
        self.stopped: list[str] = []  # those that had the rows made

    def end(self) -> None:
        """Of a call, also of one that failed."""
        # They refer to each other: without this their memory would wait for the garbage collector.
        for x in self.made:
            x.aliases.clear()
        self.made.clear()
        self.leaves.clear()

    def check(self, output: Tensor) -> Tensor:
        """The model's output, as plain rows.

        Raises:
            NotAffine: something was written to rows whose other views did not see it.
        """
        if isinstance(output, AffineRows):
            output = output.rows()
        if any(len(x.aliases) > 1 and x.is_written() for x in self.made):
            raise NotAffine
        return output

    def gather(self, output: Tensor, weights: Tensor, inputs: int) -> None:  # [r * b] twice
        """Adds the gradients of Σ weights · output where its rows were made.

        Raises:
            NotAffine: some of the output depends on rows in a way that torch knows and we do not,
                or it does not depend on all of the inputs.
        """
        if not output.requires_grad:
            raise NotAffine  # the plain path tells what is wrong
        wrappers = [x for x in self.made if x.requires_grad]
        leaves = [leaf for _, leaf in self.leaves]
        with torch._C.DisableTorchFunctionSubclass():
            found = torch.autograd.grad(output, [*leaves, *wrappers], weights, allow_unused=True)
        slopes: dict[Memo[Deltas], Tensor] = {}
        for (at, _), g in zip(self.leaves, found, strict=False):
            if g is None:
                continue
            g = g if g.dtype == torch.float64 else g.float()
            before = slopes.get(at, at.slope)
            slopes[at] = g if before is None else before + g
        reached = frozenset[int]().union(*(at.inputs for at in slopes))
        if len(reached) < inputs or any(g is not None for g in found[len(leaves) :]):
            raise NotAffine
        for at, slope in slopes.items():  # takes no memory: a block counts as a whole or not at all
            at.slope, self.reached[at] = slope, None

    def pull_back(self, leaves: list[Tensor]) -> list[Tensor]:
        """What was gathered, as gradients for the leaves, of deltas: a row changes as they do."""
        ends = [x.value.dense() for x in self.reached]
        slopes = (x.slope for x in self.reached if x.slope is not None)
        along = [
            slope.to(end.dtype).expand_as(end) for slope, end in zip(slopes, ends, strict=True)
        ]
        self.reached.clear()
        return list(torch.autograd.grad(ends, leaves, along))


class AffineRows(Tensor):
    """Rows [r * b, *S]: row (n, e) is base[e] with deltas[:, e] mixed in by n."""

    base: Memo[Tensor]  # [b, *S] or [1, *S]
    deltas: Memo[Deltas]  # [K, b, *S]
    mixing: Mixing
    calls: PrefixTrace
    origin: Callable[[], Tensor] | None  # makes the rows otherwise
    aliases: list[AffineRows]  # that would share memory, this one among them
    _rows: Tensor | None
    _version_made: int

    @staticmethod
    def make(
        base: Memo[Tensor],
        deltas: Memo[Deltas],
        mixing: Mixing,
        calls: PrefixTrace,
        view_of: AffineRows | None = None,
        origin: Callable[[], Tensor] | None = None,
    ) -> AffineRows:
        value = base.value
        self: AffineRows = Tensor._make_wrapper_subclass(
            AffineRows,
            (mixing.count * deltas.value.batch, *value.shape[1:]),
            dtype=value.dtype,
            device=value.device,
            requires_grad=deltas.value.values.requires_grad,
        )
        self.base, self.deltas, self.mixing = base, deltas, mixing
        self.calls, self.origin, self._rows = calls, origin, None
        self.aliases = [] if view_of is None else view_of.aliases
        self.aliases.append(self)
        calls.made.append(self)
        return self

    def rows(self) -> Tensor:
        """The rows themselves; the same tensor every time."""
        if self._rows is None:
            self._rows = self._new_rows() if self.origin is None else self.origin()
            self.calls.width += self._rows[:1].numel()
            self._version_made = 0 if self._rows.is_inference() else self._rows._version
        return self._rows

    def _new_rows(self) -> Tensor:
        base, deltas = self.base.value, self.deltas.value.dense()
        if not (deltas.requires_grad and torch.is_grad_enabled()):
            return self.mixing.rows(base, deltas.detach()).reshape(self.shape)
        rows, leaf = self.mixing.with_leaf(base, deltas.detach())
        self.calls.leaves.append((self.deltas, leaf))
        return rows

    def is_written(self) -> bool:
        """Whether the rows were made and then written to, or may have been."""
        if self._rows is None:
            return False
        return self._rows.is_inference() or self._rows._version != self._version_made

    def follow(self, step: AffineStep, name: str, key: Any) -> AffineRows:
        """What an operation makes of the rows."""
        base, deltas = self.base, self.deltas
        if step.base is None:
            return self
        inputs = deltas.inputs if step.other is None else deltas.inputs | step.other.deltas.inputs
        with torch.no_grad():
            base = base.then(key, step.base)
        if step.deltas is not None:
            deltas = deltas.then(key, step.deltas, inputs)
        view_of, origin = (self, self._view_of_origin(step)) if step.view else (None, None)
        found = self.make(
            base, deltas, mixing=self.mixing, calls=self.calls, view_of=view_of, origin=origin
        )
        self.calls.followed.append(name)
        work = base.value[:1].numel() * step.per_output
        in_groups = isinstance(self.deltas.value, Sparse) and not step.spreads
        self.calls.spared += work
        self.calls.anchored += work * base.value.shape[0]
        self.calls.anchored += work * (1 if in_groups else deltas.value.count) * deltas.value.batch
        return found

    def _view_of_origin(self, step: AffineStep) -> Callable[[], Tensor] | None:
        view = step.base
        if self.origin is None or view is None:
            return None
        return lambda: view(self.rows())

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _DESCRIBES:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        # What is kept for later calls must not be of a transformation that has ended.
        if func in _REFUSED or "out" in kwargs or transformation() is not None:
            raise NotAffine
        follow = FOLLOWS.get(func)
        if follow is not None and not any(_is_written(a) for a in args):
            step = follow(*args, **kwargs)
            if step is not NotImplemented and (step.of.deltas.value.few or not step.spreads):
                return step.of.follow(step, func.__name__, _key(step.of, func, args, kwargs))
        args, kwargs = _with_rows_made(func, args, kwargs)
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        raise NotAffine  # something reached for the memory that is not there


@dataclass(frozen=True)
class AffineStep:
    """What an affine operation does to the base of some rows and to their deltas."""

    of: AffineRows
    base: Callable[[Tensor], Tensor] | None  # None: nothing
    deltas: Callable[[Deltas], Deltas] | None = None  # None: nothing
    per_output: int = 0  # multiplications for each number that it gives
    spreads: bool = False  # whether what is zero in the deltas does not stay so
    view: bool = False  # whether the result would share memory with the rows
    other: AffineRows | None = None  # that comes in as well


@dataclass(frozen=True, eq=False)
class _Same:
    """A tensor as it is now, to be recognised."""

    tensor: Any
    version: int

    def __hash__(self) -> int:
        return hash((id(self.tensor), self.version))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Same):
            return False
        return self.tensor is other.tensor and self.version == other.version


def _key(rows: AffineRows, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What an operation's result depends on beside the rows; None if that cannot be told."""
    try:
        parts = [_part_of_key(rows, value) for value in (*args, *kwargs.items())]
        modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        key = (func, *parts, *modes, torch.is_autocast_enabled("cpu"))
        hash(key)
        return key
    except (RuntimeError, TypeError):  # inference tensors have no version; what has no hash
        return None


def _part_of_key(rows: AffineRows, value: Any) -> Any:
    if value is rows:
        return None
    if isinstance(value, AffineRows):
        return value.base, value.deltas
    if isinstance(value, Tensor):
        return _Same(value, value._version)
    if isinstance(value, list | tuple):
        return tuple(_part_of_key(rows, v) for v in value)
    return type(value), value


def _getters(*names: str) -> set[Any]:
    return {getattr(Tensor, name).__get__ for name in names}


_DESCRIBES: set[Any] = {
    *_getters("shape", "dtype", "device", "ndim", "layout", "is_cuda", "requires_grad"),
    Tensor.size,
    Tensor.dim,
    Tensor.ndimension,
    Tensor.numel,
    Tensor.nelement,
    Tensor.__len__,
    Tensor.is_floating_point,
    torch.is_floating_point,
    Tensor.is_complex,
    torch.is_complex,
    torch.numel,
    Tensor.element_size,
    Tensor.get_device,
}
# What gives memory, or a graph, whose changes could not be seen.
_REFUSED: set[Any] = {
    *_getters("data", "grad", "grad_fn", "is_leaf", "_version"),
    Tensor.detach,
    Tensor.detach_,
    torch.detach,
    Tensor.numpy,
    Tensor.__array__,
    Tensor.data_ptr,
    Tensor.untyped_storage,
    Tensor.requires_grad_,
    Tensor.register_hook,
    Tensor.retain_grad,
}


def _is_written(value: Any) -> bool:
    return isinstance(value, AffineRows) and value.is_written()


def _with_rows_made(func: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The arguments with the rows that the operation needs, which is noted."""

    def made(x: AffineRows) -> Tensor:
        x.calls.stopped.append(func.__name__)
        return x.rows()

    if any(isinstance(a, list | tuple | dict) for a in (*args, *kwargs.values())):
        of_any_depth: tuple[Any, dict[str, Any]] = tree_map_only(AffineRows, made, (args, kwargs))
        return of_any_depth
    plain = {k: made(a) if isinstance(a, AffineRows) else a for k, a in kwargs.items()}
    return tuple(made(a) if isinstance(a, AffineRows) else a for a in args), plain
