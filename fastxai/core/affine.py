"""Rows that stay affine: a tensor that stands for many rows and holds only what they are made of.

Up to its first operation that is not affine a network maps straight paths to straight paths, and
sums to sums: f(base + Σ c δ) = f(base) + Σ c Lδ, with L the linear part of f. So the model may be
called with an :class:`AffineRows`, on which affine operations act on base and deltas, a few rows;
the first other operation makes the rows, and all after it is as without.

It is exactly right or raises :class:`NotAffine`, upon which the rows must be made beforehand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_map_only


class NotAffine(BaseException):
    """The model does something to its rows that these cannot follow.

    Not an ``Exception``, so that no model takes it for its own.
    """


@dataclass
class Prefix:
    """Whether a function may be called with rows that stay affine; of one explainer."""

    wanted: bool = True
    refused: bool = False  # it did what they cannot follow: it is not asked again


class Calls:
    """What one call of the model did to its rows."""

    def __init__(self) -> None:
        self.spared = 0  # multiplications of the model for a row, which anchors took instead
        self.width = 0  # numbers in a row where it was made
        self.made: list[AffineRows] = []

    def __enter__(self) -> Calls:
        return self

    def __exit__(self, *error: object) -> None:
        # They refer to each other: without this their memory would wait for the garbage collector.
        for x in self.made:
            x.aliases.clear()
        self.made.clear()

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

    def gradients(self, output: Tensor, leaves: list[Tensor], weights: Tensor) -> list[Tensor]:
        """The gradients of Σ weights · output for the leaves.

        Raises:
            NotAffine: some of the output depends on rows in a way that torch knows and we do not.
        """
        if not output.requires_grad:
            raise NotAffine  # the plain path tells what is wrong
        wrappers = [x for x in self.made if x.requires_grad]
        with torch._C.DisableTorchFunctionSubclass():
            found = torch.autograd.grad(output, [*leaves, *wrappers], weights, allow_unused=True)
        ours, theirs = found[: len(leaves)], found[len(leaves) :]
        if any(g is None for g in ours) or any(g is not None for g in theirs):
            raise NotAffine
        return [g for g in ours if g is not None]


class AffineRows(Tensor):
    """Rows [r * b, *S]: row (n, e) is base[e] + Σ_k coefficients[n, k] deltas[k, e]."""

    base: Tensor  # [b, *S]
    deltas: Tensor  # [K, b, *S]
    coefficients: Tensor  # [r, K]
    calls: Calls
    aliases: list[AffineRows]  # that would share memory, this one among them
    _rows: Tensor | None
    _version_made: int

    @staticmethod
    def make(
        base: Tensor,
        deltas: Tensor,
        coefficients: Tensor,
        calls: Calls,
        view_of: AffineRows | None = None,
    ) -> AffineRows:
        shape = (coefficients.shape[0] * base.shape[0], *base.shape[1:])
        self: AffineRows = Tensor._make_wrapper_subclass(
            AffineRows,
            shape,
            dtype=base.dtype,
            device=base.device,
            requires_grad=base.requires_grad,
        )
        self.base, self.deltas, self.coefficients = base, deltas, coefficients
        self.calls, self._rows = calls, None
        self.aliases = [] if view_of is None else view_of.aliases
        self.aliases.append(self)
        calls.made.append(self)
        return self

    def rows(self) -> Tensor:
        """The rows themselves; the same tensor every time."""
        if self._rows is None:
            r, k = self.coefficients.shape
            base, deltas, c = self.base, self.deltas, self.coefficients
            if k == 1:
                c = c.reshape(r, *[1] * base.dim())
                made = torch.addcmul(base, c, deltas)
            else:
                made = torch.addmm(base.reshape(1, -1), c, deltas.reshape(k, -1))
            self._rows = made.reshape(r * base.shape[0], *base.shape[1:])
            self.calls.width += base[:1].numel()
            self._version_made = 0 if self._rows.is_inference() else self._rows._version
        return self._rows

    def is_written(self) -> bool:
        """Whether the rows were made and then written to, or may have been."""
        if self._rows is None:
            return False
        return self._rows.is_inference() or self._rows._version != self._version_made

    def like(self, base: Tensor, deltas: Tensor, view: bool = False) -> AffineRows:
        return self.make(base, deltas, self.coefficients, self.calls, self if view else None)

    def of_each(self, function: Callable[[Tensor], Tensor], view: bool = False) -> AffineRows:
        """A linear function of every row."""
        flat = function(self.deltas.flatten(0, 1))
        deltas = flat.reshape(*self.deltas.shape[:2], *flat.shape[1:])
        return self.like(function(self.base), deltas, view)

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _DESCRIBES:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        if func in _REFUSED or "out" in kwargs:
            raise NotAffine
        follow = _FOLLOWS.get(func)
        if follow is not None and not any(_is_written(a) for a in args):
            found = follow(*args, **kwargs)
            if found is not NotImplemented:
                return found
        args, kwargs = tree_map_only(AffineRows, AffineRows.rows, (args, kwargs))
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        raise NotAffine  # something reached for the memory that is not there


def _constant(value: Any, like: AffineRows) -> bool:
    """Whether this is the same for every row, and leaves shape and dtype of rows as they are."""
    if isinstance(value, bool) or not isinstance(value, int | float | Tensor):
        return False
    if not isinstance(value, Tensor):
        return True
    if isinstance(value, AffineRows) or value.requires_grad or value.dim() > like.dim():
        return False
    one = (1, *like.base.shape[1:])
    try:
        fits = torch.broadcast_shapes(value.shape, one) == one
    except RuntimeError:
        return False
    return fits and torch.result_type(value, like.base) == like.dtype


def _weights(*values: Any) -> bool:
    """Whether these are plain tensors or None."""
    return all(
        v is None or (isinstance(v, Tensor) and not isinstance(v, AffineRows)) for v in values
    )


def _count(result: AffineRows, per_output: int) -> None:
    """Notes an operation that multiplies so often for each number that it gives."""
    result.calls.spared += result.base[:1].numel() * per_output


def _linear(x: Any, weight: Any, bias: Any = None) -> Any:
    if not (isinstance(x, AffineRows) and _weights(weight, bias)):
        return NotImplemented
    if x.dim() < 2 or weight.dim() != 2:
        return NotImplemented
    found = x.like(F.linear(x.base, weight, bias), F.linear(x.deltas, weight))
    _count(found, weight.shape[1])
    return found


def _convolution(convolve: Callable[..., Tensor], dims: int) -> Callable[..., Any]:
    def follow(x: Any, weight: Any, bias: Any = None, *args: Any, **kwargs: Any) -> Any:
        batched = isinstance(x, AffineRows) and x.dim() == dims + 2
        if not (batched and _weights(weight, bias)):
            return NotImplemented
        flat = convolve(x.deltas.flatten(0, 1), weight, None, *args, **kwargs)
        deltas = flat.reshape(*x.deltas.shape[:2], *flat.shape[1:])
        found = x.like(convolve(x.base, weight, bias, *args, **kwargs), deltas)
        _count(found, weight[0].numel())
        return found

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
    base = F.batch_norm(x.base, mean, variance, weight, bias, False, momentum, eps)
    zero, flat = torch.zeros_like(mean), x.deltas.flatten(0, 1)
    deltas = F.batch_norm(flat, zero, variance, weight, None, False, momentum, eps)
    return x.like(base, deltas.reshape(x.deltas.shape))


def _pool(pool: Callable[..., Tensor], dims: int) -> Callable[..., Any]:
    def follow(x: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(x, AffineRows) or x.dim() != dims + 2:
            return NotImplemented
        return x.of_each(lambda rows: pool(rows, *args, **kwargs))

    return follow


def _dropout(x: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    return NotImplemented if training else x


def _reshaped(shape_of: Callable[..., Tensor]) -> Callable[..., Any]:
    """Operations that arrange the numbers of every row anew, told by their effect on the shape."""

    def follow(x: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(x, AffineRows):
            return NotImplemented
        shape = shape_of(torch.empty(x.shape, device="meta"), *args, **kwargs).shape
        if len(shape) == 0 or shape[0] != x.shape[0]:
            return NotImplemented
        return x.of_each(lambda rows: rows.reshape(len(rows), *shape[1:]), view=True)

    return follow


def _permute(x: Any, *dims: Any) -> Any:
    order = dims[0] if len(dims) == 1 and not isinstance(dims[0], int) else dims
    if not isinstance(x, AffineRows) or not order or order[0] != 0:
        return NotImplemented
    return x.of_each(lambda rows: rows.permute(order), view=True)


def _transpose(x: Any, first: int, second: int) -> Any:
    if not isinstance(x, AffineRows) or first % x.dim() == 0 or second % x.dim() == 0:
        return NotImplemented
    return x.of_each(lambda rows: rows.transpose(first, second), view=True)


def _sum(x: Any, y: Any, sign: int) -> Any:
    if isinstance(x, AffineRows) and isinstance(y, AffineRows):
        same = x.shape == y.shape and x.coefficients is y.coefficients and x.dtype == y.dtype
        if not same:
            return NotImplemented
        return x.like(x.base + sign * y.base, x.deltas + sign * y.deltas)
    if isinstance(x, AffineRows):
        return x.like(x.base + sign * y, x.deltas) if _constant(y, x) else NotImplemented
    return y.like(x + sign * y.base, sign * y.deltas) if _constant(x, y) else NotImplemented


def _add(x: Any, y: Any) -> Any:
    return _sum(x, y, 1)


def _subtract(x: Any, y: Any) -> Any:
    return _sum(x, y, -1)


def _subtract_from(x: Any, y: Any) -> Any:
    return _sum(y, x, -1)


def _multiply(x: Any, y: Any) -> Any:
    if not isinstance(x, AffineRows):
        x, y = y, x
    return x.like(x.base * y, x.deltas * y) if _constant(y, x) else NotImplemented


def _divide(x: Any, y: Any) -> Any:
    if not (isinstance(x, AffineRows) and _constant(y, x)):
        return NotImplemented
    return x.like(x.base / y, x.deltas / y)


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


def may_follow(forward_func: Callable[..., Any]) -> bool:
    """Whether nothing outside a model's own operations would see its rows."""
    if torch.overrides._len_torch_function_stack():
        return False
    if torch.utils._python_dispatch._len_torch_dispatch_stack():
        return False
    if torch._C._functorch.maybe_current_level() is not None or torch.is_autocast_enabled():
        return False
    if torch.is_autocast_enabled("cpu"):
        return False
    special = any(_is_special(module) for module in modules_of(forward_func))
    return not special and not _is_compiled(forward_func)


def most_multiplications(forward_func: Callable[..., Any], inputs: tuple[Tensor, ...]) -> float:
    """An upper bound of what a module's layers multiply for a row; infinite where it is unknown."""
    owner = getattr(forward_func, "__self__", forward_func)
    if not isinstance(owner, torch.nn.Module):
        return math.inf
    weights = (p for module in modules_of(owner) for p in module._parameters.values())
    places = max(x.shape[1:].numel() // max(1, min(x.shape[1], x.shape[-1])) for x in inputs)
    return places * sum(p.numel() for p in weights if p is not None and p.dim() > 1)


def modules_of(forward_func: Callable[..., Any]) -> Iterator[torch.nn.Module]:
    """The modules of a module, or of one whose method this is; of other functions none."""
    owner = getattr(forward_func, "__self__", forward_func)  # of a bound method
    todo: list[torch.nn.Module | None] = [owner] if isinstance(owner, torch.nn.Module) else []
    seen = set()
    while todo:  # as Module.modules() without the names, which take most of its time
        module = todo.pop()
        if module is not None and module not in seen:
            seen.add(module)
            yield module
            todo.extend(module._modules.values())


def _is_compiled(function: Any) -> bool:
    compiled = (torch.jit.ScriptFunction, torch._dynamo.OptimizedModule)
    return isinstance(function, compiled) or hasattr(function, "_torchdynamo_orig_callable")


def _is_special(module: torch.nn.Module) -> bool:
    hooks = (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )
    special = (torch.jit.ScriptModule, torch.nn.DataParallel)
    return any(hooks) or isinstance(module, special) or _is_compiled(module)


def _is_written(value: Any) -> bool:
    return isinstance(value, AffineRows) and value.is_written()
