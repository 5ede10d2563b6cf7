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

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_map_only

from .. import ops
from .footprint import is_watched

T = TypeVar("T")

_MOST_KEPT = (
    8  # results of operations on one tensor, lest a model with ever new weights fill memory
)


# The innermost one of torch.func's that operations are in, by vmap say; None for none.
transformation = torch._C._functorch.maybe_current_level


class NotAffine(BaseException):
    """The model does something to its rows that these cannot follow.

    Not an ``Exception``, so that no model takes it for its own.
    """


@dataclass
class Prefix:
    """Whether a function may be called with rows that stay affine; of one explanation."""

    wanted: bool = True
    refused: bool = False  # it did what they cannot follow: it is not asked again


class Kept(Generic[T]):
    """A base or deltas, and what operations made of them."""

    def __init__(self, value: T, inputs: frozenset[int] = frozenset()):
        self.value = value
        self.inputs = inputs  # which of the model's inputs they come from
        self.slope: Tensor | None = None  # what gradient has come for it so far
        self._next: dict[Any, Kept[T]] = {}

    def then(
        self, key: Any, function: Callable[[T], T], inputs: frozenset[int] = frozenset()
    ) -> Kept[T]:
        found = None if key is None else self._next.get(key)
        if found is None:
            found = Kept(function(self.value), inputs)
            if len(self._next) >= _MOST_KEPT:
                self._next.clear()
            if key is not None:
                self._next[key] = found
        return found


class Dense:
    """Deltas [K, b, *S] as they are."""

    few = True

    def __init__(self, values: Tensor):
        self.values = values
        self.count, self.batch = values.shape[:2]

    def dense(self) -> Tensor:
        return self.values

    def each(self, function: Callable[[Tensor], Tensor]) -> Dense:
        """A linear function of every row."""
        flat = function(self.values.flatten(0, 1))
        return Dense(flat.reshape(*self.values.shape[:2], *flat.shape[1:]))

    def linear(self, weight: Tensor) -> Dense:
        return Dense(F.linear(self.values, weight))

    def reshaped(self, shape: torch.Size) -> Dense:
        return Dense(self.values.reshape(*self.values.shape[:2], *shape))

    def scaled(self, factor: Callable[[Tensor], Tensor]) -> Dense:
        return Dense(factor(self.values))


# As ``ops.group_linear``: values [b, P], positions, offsets and a weight [H, F] -> [K, b, H].
Product = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Sparse:
    """Deltas that are zero but in the features of their group: K groups of b examples.

    Group g of example e has ``values[e, i]`` in feature ``positions[e, i]``, for i from
    ``offsets[e, g]`` to ``offsets[e, g + 1]``.
    """

    values: Tensor  # [b, P]
    positions: Tensor  # [b, P] or [1, P] int64, into the features as one row
    offsets: Tensor  # [b, K + 1] or [1, K + 1] int64
    shape: torch.Size  # the features'
    few: bool  # whether the groups are few beside the rows, so that it is worth making them dense
    product: Product = ops.group_linear

    @property
    def count(self) -> int:
        return self.offsets.shape[1] - 1

    @property
    def batch(self) -> int:
        return self.values.shape[0]

    def dense(self) -> Tensor:
        b, groups = self.batch, self.count
        made = self.values.new_zeros(groups + 1, b, self.shape.numel())  # the last one for nobody
        example = torch.arange(b, device=self.values.device)[:, None]
        of = group_of_entries(self.offsets, self.values.shape[1])
        made[of, example, self.positions] = self.values
        return made[:groups].unflatten(2, self.shape)

    def each(self, function: Callable[[Tensor], Tensor]) -> Dense:
        return Dense(self.dense()).each(function)

    def linear(self, weight: Tensor) -> Dense:
        if len(self.shape) > 1:
            return Dense(self.dense()).linear(weight)
        return Dense(self.product(self.values, self.positions, self.offsets, weight))

    def reshaped(self, shape: torch.Size) -> Sparse:
        return replace(self, shape=shape)

    def scaled(self, factor: Callable[[Tensor], Tensor]) -> Sparse:
        one = factor(self.values.new_ones(1, *self.shape)).expand(1, *self.shape).flatten()
        return replace(self, values=self.values * one[self.positions])


Deltas = Dense | Sparse


def group_of_entries(offsets: Tensor, count: int) -> Tensor:  # [b, G + 1] -> [b, count]
    """Of which group entries 0 to count - 1 are; G for those of none."""
    entries = torch.arange(count, device=offsets.device).expand(len(offsets), -1).contiguous()
    found = torch.searchsorted(offsets.contiguous(), entries, right=True) - 1
    return torch.where(found >= 0, found, offsets.shape[1] - 1)


class Mixing:
    """Which rows base and deltas make."""

    count: int  # r

    def rows(self, base: Tensor, deltas: Tensor) -> Tensor:
        """[r, b, *S], of base [b, *S] or [1, *S] and deltas [K, b, *S]."""
        raise NotImplementedError

    def with_leaf(self, base: Tensor, deltas: Tensor) -> tuple[Tensor, Tensor]:
        """The rows [r * b, *S], and a leaf whose gradient is the sum over rows of theirs.

        The leaf is [b, *S], or [K, b, *S] where rows of different deltas are told apart.
        """
        leaf = base.expand(deltas.shape[1:]).detach().requires_grad_()
        return self.rows(leaf, deltas).flatten(0, 1), leaf


class Mixed(Mixing):
    """Row n is the base and deltas by row n of coefficients [r, K]."""

    def __init__(self, coefficients: Tensor):
        self.coefficients, self.count = coefficients, coefficients.shape[0]

    def rows(self, base: Tensor, deltas: Tensor) -> Tensor:
        c = self.coefficients.to(base.dtype)
        r, k = c.shape
        if k == 1:
            return torch.addcmul(base, c.reshape(r, *[1] * base.dim()), deltas)
        start = base.expand(deltas.shape[1:]).reshape(1, -1)
        return torch.addmm(start, c, deltas.reshape(k, -1)).reshape(r, *deltas.shape[1:])


class Each(Mixing):
    """Row n is the base and delta n."""

    def __init__(self, count: int):
        self.count = count

    def rows(self, base: Tensor, deltas: Tensor) -> Tensor:
        return base + deltas


class Running(Mixing):
    """Rows along orders of the deltas: each adds one to the row before, or begins an order."""

    def __init__(self, orders: Tensor, first: int, last: int):  # [n, K]; of n · (K - 1) rows
        self.orders, self.first, self.count = orders, first, last - first

    def rows(self, base: Tensor, deltas: Tensor) -> Tensor:
        made = base.new_empty(self.count, *deltas.shape[1:])
        length = self.orders.shape[1] - 1
        row = 0
        while row < self.count:
            order, at = divmod(self.first + row, length)
            n = min(length - at, self.count - row)
            start = base
            if at:
                start = base + deltas[self.orders[order, :at]].sum(0)
            steps = deltas[self.orders[order, at : at + n]]
            torch.cumsum(steps, 0, out=made[row : row + n]).add_(start)
            row += n
        return made


class Drawn(Mixing):
    """Row n of an example is its base and one of its deltas by a coefficient.

    Args:
        which: [r, b] int64, below K.
        coefficients: [r, b].
        count: K.
    """

    def __init__(self, which: Tensor, coefficients: Tensor, count: int):
        self.which, self.coefficients, self.of = which, coefficients, count
        self.count = len(which)

    def rows(self, base: Tensor, deltas: Tensor) -> Tensor:
        return self.flat(base, deltas).unflatten(0, self.which.shape)

    def flat(self, base: Tensor, deltas: Tensor) -> Tensor:  # -> [r * b, *S]
        b = deltas.shape[1]
        place = self.which * b + torch.arange(b, device=deltas.device)  # [r, b]
        made = deltas.flatten(0, 1).index_select(0, place.flatten())
        chosen = made.unflatten(0, place.shape)
        along = self.coefficients.to(deltas.dtype).reshape(*place.shape, *[1] * (base.dim() - 1))
        torch.addcmul(base, chosen, along, out=chosen)
        return made

    def with_leaf(self, base: Tensor, deltas: Tensor) -> tuple[Tensor, Tensor]:
        leaf = deltas.new_zeros(()).expand(deltas.shape).requires_grad_()
        return _Shifted.apply(leaf, base, deltas, self), leaf


class _Shifted(torch.autograd.Function):
    """Drawn rows, of which each moves as the leaf [K, b, *S] does for its delta and example."""

    @staticmethod
    def forward(ctx: Any, leaf: Tensor, base: Tensor, deltas: Tensor, mixing: Drawn) -> Tensor:
        ctx.mixing = mixing
        return mixing.flat(base, deltas)  # no view: the model may write to it

    @staticmethod
    def backward(ctx: Any, gradients: Tensor) -> tuple[Tensor, None, None, None]:  # [r * b, *S]
        which, count = ctx.mixing.which, ctx.mixing.of
        gradients = gradients.unflatten(0, which.shape)
        chosen = F.one_hot(which.T, count).transpose(1, 2).to(gradients.dtype)  # [b, K, r]
        sums = torch.bmm(chosen, gradients.flatten(2).transpose(0, 1))  # [b, K, S]
        return sums.transpose(0, 1).unflatten(2, gradients.shape[2:]), None, None, None


class Calls:
    """What the model does to its rows in calls with the same bases and deltas."""

    def __init__(self) -> None:
        self.reached: dict[Kept[Deltas], None] = {}  # what has a slope
        self.made: list[AffineRows] = []
        self.leaves: list[tuple[Kept[Deltas], Tensor]] = []  # whose gradients are to be gathered
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
        slopes: dict[Kept[Deltas], Tensor] = {}
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

    base: Kept[Tensor]  # [b, *S] or [1, *S]
    deltas: Kept[Deltas]  # [K, b, *S]
    mixing: Mixing
    calls: Calls
    origin: Callable[[], Tensor] | None  # makes the rows otherwise
    aliases: list[AffineRows]  # that would share memory, this one among them
    _rows: Tensor | None
    _version_made: int

    @staticmethod
    def make(
        base: Kept[Tensor],
        deltas: Kept[Deltas],
        mixing: Mixing,
        calls: Calls,
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

    def follow(self, step: Step, name: str, key: Any) -> AffineRows:
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
        found = self.make(base, deltas, self.mixing, self.calls, view_of, origin)
        self.calls.followed.append(name)
        work = base.value[:1].numel() * step.per_output
        in_groups = isinstance(self.deltas.value, Sparse) and not step.spreads
        self.calls.spared += work
        self.calls.anchored += work * base.value.shape[0]
        self.calls.anchored += work * (1 if in_groups else deltas.value.count) * deltas.value.batch
        return found

    def _view_of_origin(self, step: Step) -> Callable[[], Tensor] | None:
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
        follow = _FOLLOWS.get(func)
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
class Step:
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


def _constant(value: Any, like: AffineRows) -> bool:
    """Whether this is the same for every row, and leaves shape and dtype of rows as they are."""
    if isinstance(value, bool) or not isinstance(value, int | float | Tensor):
        return False
    if not isinstance(value, Tensor):
        return True
    if isinstance(value, AffineRows) or value.requires_grad or value.dim() > like.dim():
        return False
    one = (1, *like.base.value.shape[1:])
    try:
        fits = torch.broadcast_shapes(value.shape, one) == one
    except RuntimeError:
        return False
    return fits and torch.result_type(value, like.base.value) == like.dtype


def _weights(*values: Any) -> bool:
    """Whether these are plain tensors or None."""
    return all(
        v is None or (isinstance(v, Tensor) and not isinstance(v, AffineRows)) for v in values
    )


def _linear(x: Any, weight: Any, bias: Any = None) -> Any:
    if not (isinstance(x, AffineRows) and _weights(weight, bias)):
        return NotImplemented
    if x.dim() < 2 or weight.dim() != 2:
        return NotImplemented

    def of_base(base: Tensor) -> Tensor:
        if base.shape[0] > 1 or is_watched() or base.any():
            return F.linear(base, weight, bias)
        zeros = base.new_zeros(*base.shape[:-1], len(weight))  # as the default baseline is
        return zeros if bias is None else zeros + bias

    return Step(
        x,
        of_base,
        lambda deltas: deltas.linear(weight),
        weight.shape[1],
        spreads=x.dim() > 2,
    )


def _convolution(convolve: Callable[..., Tensor], dims: int) -> Callable[..., Any]:
    def follow(x: Any, weight: Any, bias: Any = None, *args: Any, **kwargs: Any) -> Any:
        batched = isinstance(x, AffineRows) and x.dim() == dims + 2
        if not (batched and _weights(weight, bias)):
            return NotImplemented
        return Step(
            x,
            lambda base: convolve(base, weight, bias, *args, **kwargs),
            lambda deltas: deltas.each(lambda d: convolve(d, weight, None, *args, **kwargs)),
            weight[0].numel(),
            spreads=True,
        )

    return follow


def _batch_norm(
    x: Any,
    mean: Any,
    variance: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    known = not training and mean is not None and variance is not None
    if not (isinstance(x, AffineRows) and known and _weights(mean, variance, weight, bias)):
        return NotImplemented

    def norm(rows: Tensor, mean: Tensor, bias: Tensor | None) -> Tensor:
        return F.batch_norm(rows, mean, variance, weight, bias, False, momentum, eps)

    return Step(
        x,
        lambda base: norm(base, mean, bias),
        lambda deltas: deltas.each(lambda d: norm(d, torch.zeros_like(mean), None)),
        spreads=True,
    )


def _pool(pool: Callable[..., Tensor], dims: int) -> Callable[..., Any]:
    def follow(x: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(x, AffineRows) or x.dim() != dims + 2:
            return NotImplemented
        return _of_each(x, lambda rows: pool(rows, *args, **kwargs))

    return follow


def _of_each(x: AffineRows, function: Callable[[Tensor], Tensor], view: bool = False) -> Step:
    """A linear function of every row."""
    return Step(x, function, lambda deltas: deltas.each(function), spreads=True, view=view)


def _dropout(x: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    return NotImplemented if training or not isinstance(x, AffineRows) else Step(x, None)


def _reshaped(shape_of: Callable[..., Tensor]) -> Callable[..., Any]:
    """Operations that arrange the numbers of every row anew, told by their effect on the shape."""

    def follow(x: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(x, AffineRows):
            return NotImplemented
        shape = shape_of(torch.empty(x.shape, device="meta"), *args, **kwargs).shape
        if len(shape) == 0 or shape[0] != x.shape[0]:
            return NotImplemented
        return Step(
            x,
            lambda base: base.reshape(base.shape[0], *shape[1:]),
            lambda deltas: deltas.reshaped(shape[1:]),
            view=True,
        )

    return follow


def _permute(x: Any, *dims: Any) -> Any:
    order = dims[0] if len(dims) == 1 and not isinstance(dims[0], int) else dims
    if not isinstance(x, AffineRows) or not order or order[0] != 0:
        return NotImplemented
    return _of_each(x, lambda rows: rows.permute(order), view=True)


def _transpose(x: Any, first: int, second: int) -> Any:
    if not isinstance(x, AffineRows) or first % x.dim() == 0 or second % x.dim() == 0:
        return NotImplemented
    return _of_each(x, lambda rows: rows.transpose(first, second), view=True)


def _sum(x: Any, y: Any, sign: int) -> Any:
    if isinstance(x, AffineRows) and isinstance(y, AffineRows):
        same = x.shape == y.shape and x.mixing is y.mixing and x.dtype == y.dtype
        if not same:
            return NotImplemented
        other = y.base.value, y.deltas.value
        return Step(
            x,
            lambda base: base + sign * other[0],
            lambda deltas: Dense(deltas.dense() + sign * other[1].dense()),
            spreads=True,
            other=y,
        )
    if isinstance(x, AffineRows):
        return Step(x, lambda base: base + sign * y) if _constant(y, x) else NotImplemented
    if not _constant(x, y):
        return NotImplemented
    return Step(y, lambda base: x + sign * base, lambda deltas: deltas.scaled(lambda d: sign * d))


def _add(x: Any, y: Any) -> Any:
    return _sum(x, y, 1)


def _subtract(x: Any, y: Any) -> Any:
    return _sum(x, y, -1)


def _subtract_from(x: Any, y: Any) -> Any:
    return _sum(y, x, -1)


def _multiply(x: Any, y: Any) -> Any:
    if not isinstance(x, AffineRows):
        x, y = y, x
    return _scaled(x, lambda value: value * y) if _constant(y, x) else NotImplemented


def _divide(x: Any, y: Any) -> Any:
    if not (isinstance(x, AffineRows) and _constant(y, x)):
        return NotImplemented
    return _scaled(x, lambda value: value / y)


def _scaled(x: AffineRows, factor: Callable[[Tensor], Tensor]) -> Step:
    return Step(x, factor, lambda deltas: deltas.scaled(factor))


_FOLLOWS: dict[Any, Callable[..., Any]] = {
    F.linear: _linear,
    F.conv1d: _convolution(F.conv1d, 1),
    F.conv2d: _convolution(F.conv2d, 2),
    F.conv3d: _convolution(F.conv3d, 3),
    F.batch_norm: _batch_norm,
    F.avg_pool1d: _pool(F.avg_pool1d, 1),
    F.avg_pool2d: _pool(F.avg_pool2d, 2),
    F.avg_pool3d: _pool(F.avg_pool3d, 3),
    F.dropout: _dropout,
    torch.flatten: _reshaped(torch.flatten),
    Tensor.flatten: _reshaped(Tensor.flatten),
    torch.reshape: _reshaped(torch.reshape),
    Tensor.reshape: _reshaped(Tensor.reshape),
    Tensor.view: _reshaped(Tensor.reshape),
    Tensor.unflatten: _reshaped(Tensor.unflatten),
    torch.unsqueeze: _reshaped(torch.unsqueeze),
    Tensor.unsqueeze: _reshaped(Tensor.unsqueeze),
    torch.permute: _permute,
    Tensor.permute: _permute,
    torch.transpose: _transpose,
    Tensor.transpose: _transpose,
    torch.add: _add,
    Tensor.add: _add,
    Tensor.__add__: _add,
    Tensor.__radd__: _add,
    torch.sub: _subtract,
    Tensor.sub: _subtract,
    Tensor.__sub__: _subtract,
    Tensor.__rsub__: _subtract_from,
    torch.mul: _multiply,
    Tensor.mul: _multiply,
    Tensor.__mul__: _multiply,
    Tensor.__rmul__: _multiply,
    torch.div: _divide,
    Tensor.div: _divide,
    Tensor.__truediv__: _divide,
}


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


# Modules with weights that no operation in _FOLLOWS takes, and some after which no row is affine.
_NOT_FOLLOWED = (
    torch.nn.RNNBase,
    torch.nn.RNNCellBase,
    torch.nn.MultiheadAttention,
    torch.nn.Embedding,
    torch.nn.EmbeddingBag,
    torch.nn.LayerNorm,
    torch.nn.Bilinear,
)
_BENDS = (
    *_NOT_FOLLOWED,
    *(torch.nn.ReLU, torch.nn.ReLU6, torch.nn.LeakyReLU, torch.nn.PReLU, torch.nn.ELU),
    *(torch.nn.CELU, torch.nn.SELU, torch.nn.GELU, torch.nn.SiLU, torch.nn.Mish),
    *(torch.nn.Sigmoid, torch.nn.Tanh, torch.nn.Softplus, torch.nn.Hardswish),
    *(torch.nn.Hardtanh, torch.nn.GroupNorm, torch.nn.MaxPool1d, torch.nn.MaxPool2d),
)


def may_follow(forward_func: Callable[..., Any], modules: list[torch.nn.Module]) -> bool:
    """Whether nothing outside a model's own operations would see its rows.

    Args:
        forward_func: the model.
        modules: its modules.
    """
    if torch.overrides._len_torch_function_stack() or is_watched():
        return False
    if transformation() is not None or torch.is_autocast_enabled():
        return False
    if torch.is_autocast_enabled("cpu"):
        return False
    return not any(map(_is_special, modules)) and not _is_compiled(forward_func)


def most_multiplications(modules: list[torch.nn.Module], inputs: tuple[Tensor, ...]) -> float:
    """An upper bound of what layers multiply for a row; infinite where there are none to look at.

    Args:
        modules: the model's, with the layers among them.
        inputs: each [B, *F_i].
    """
    if not modules:
        return math.inf
    weights = [w for module in modules for w in module._parameters.values() if w is not None]
    return _places(inputs) * sum([w.numel() for w in weights if w.dim() > 1])


def most_spared(modules: list[torch.nn.Module], inputs: tuple[Tensor, ...], mixed: int) -> float:
    """About what a row that stays affine may spare a model, in multiplications.

    An upper bound for modules that are used in order, as they mostly are.

    Args:
        modules: the model's in order; none if they are not known.
        inputs: each [B, *F_i].
        mixed: how many deltas are added for one row.
    """
    if not modules:
        return math.inf
    weights: list[Tensor] = []
    for module in modules:
        if weights and isinstance(module, _BENDS):  # here rows are made
            break
        if not isinstance(module, _NOT_FOLLOWED):
            weights += [w for w in module._parameters.values() if w is not None and w.dim() > 1]
    each = sum([w.numel() for w in weights])
    if len(weights) == 1:  # as many numbers as it gives are then added up for a row
        each -= (mixed - 1) * weights[0].shape[0]
    return _places(inputs) * each


def _places(inputs: tuple[Tensor, ...]) -> int:
    """At how many places of a row a weight may be used."""
    sizes = [x.shape[1:] for x in inputs if x.dim() > 1]
    return max((s.numel() // max(1, min(s[0], s[-1])) for s in sizes), default=1)


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


def _is_compiled(function: Any) -> bool:
    if isinstance(function, torch.nn.Module):  # looked at as one of the modules
        return False
    scripted = isinstance(function, torch.jit.ScriptFunction)
    return scripted or hasattr(function, "_torchdynamo_orig_callable")


def _is_special(module: torch.nn.Module) -> bool:
    hooks = (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )
    special = (torch.jit.ScriptModule, torch.nn.DataParallel)
    return any(hooks) or is_compiled_module(module) or isinstance(module, special)


def is_compiled_module(module: torch.nn.Module) -> bool:
    """Whether torch.compile made it, or compiled it in place."""
    # Not by the class, torch._dynamo's: looking it up would import some 100 MB.
    return module._compiled_call_impl is not None or "_orig_mod" in module._modules


def _is_written(value: Any) -> bool:
    return isinstance(value, AffineRows) and value.is_written()


def _with_rows_made(func: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The arguments with the rows that the operation needs, which is noted."""

    def made(x: AffineRows) -> Tensor:
        x.calls.stopped.append(func.__name__)
        return x.rows()

    if any(isinstance(a, list | tuple | dict) for a in (*args, *kwargs.values())):
        return tree_map_only(AffineRows, made, (args, kwargs))
    plain = {k: made(a) if isinstance(a, AffineRows) else a for k, a in kwargs.items()}
    return tuple(made(a) if isinstance(a, AffineRows) else a for a in args), plain
