"""Layers of a model: what they take or give, told or replaced in one call, for one thread.

Hooks are no way to do it where threads share a model: they are called for every thread, change the
way that torch runs the layer, and cannot be added while another thread goes through them. Here a
layer's method is covered by an attribute of the layer for as long as a call lasts. It does what the
method does for every thread but those that watch the layer.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.overrides import BaseTorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_unflatten

from ..checks import ArgumentError, check
from ..engine.model import Model
from ..modules import is_compiled_module, transformation
from .checkpoints import without_checkpoints

Watcher = Callable[..., Any]  # watcher(method, *args, **kwargs) calls the method in its own way

_changing = threading.Lock()  # held while a layer is covered or uncovered
_BESIDE = (bool, int, float, str, type(None))  # what a layer may have beside tensors


class _Covered:
    """Stands for a layer's method while some thread watches it."""

    def __init__(self, layer: nn.Module, name: str):
        self.method = getattr(layer, name)
        self.was_own = name in layer.__dict__  # as some libraries make it
        self.watchers: dict[int, list[Watcher]] = {}  # by thread

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        method = self.method
        for watcher in self.watchers.get(threading.get_ident(), ()):
            method = functools.partial(watcher, method)
        return method(*args, **kwargs)

    def __reduce__(self) -> Any:  # a copy of the layer that is made meanwhile has the method
        return _itself, (self.method,)


def _itself(method: Any) -> Any:
    return method


@contextmanager
def _watched(
    layers: Sequence[nn.Module], name: str, watchers: Sequence[Watcher], may_be_left_out: bool
) -> Iterator[None]:
    """Has this thread's calls of the layers' methods go through the watchers."""
    with ExitStack() as stack:
        for layer, watcher in zip(layers, watchers, strict=True):
            stack.callback(_unwatch, layer, name, watcher)  # first: an interrupt may come at once
            _watch(layer, name, watcher)
        if may_be_left_out:
            # torch's transformer layers cannot do so under a mode, which is of this thread alone.
            # It costs each operation some microseconds.
            stack.enter_context(BaseTorchFunctionMode())
        yield


# What calls none of its layers where it can do without, and the layers that it then leaves out.
_FUSED = (nn.TransformerEncoder, nn.TransformerEncoderLayer, nn.MultiheadAttention)
_LEFT_OUT = (*_FUSED, nn.Linear, nn.LayerNorm, nn.Dropout, nn.ReLU, nn.GELU)


def _may_be_left_out(layers: list[nn.Module], known: list[nn.Module]) -> bool:
    """Whether a model of these modules, or of unknown ones, may do without one of the layers."""
    if not known:
        return any(isinstance(layer, _LEFT_OUT) for layer in layers)
    fused = [module for module in known if isinstance(module, _FUSED)]
    inside = {m for module in fused for m in module.modules()}
    return any(layer in inside for layer in layers)


def _watch(layer: nn.Module, name: str, watcher: Watcher) -> None:
    with _changing:
        covered = layer.__dict__.get(name)
        if not isinstance(covered, _Covered):
            covered = layer.__dict__[name] = _Covered(layer, name)
        covered.watchers.setdefault(threading.get_ident(), []).append(watcher)


def _unwatch(layer: nn.Module, name: str, watcher: Watcher) -> None:
    with _changing:
        covered, thread = layer.__dict__.get(name), threading.get_ident()
        if not isinstance(covered, _Covered):
            return
        mine = covered.watchers.get(thread, [])
        if watcher in mine:
            mine.remove(watcher)
        if not mine:
            covered.watchers.pop(thread, None)
        if covered.watchers:
            return
        if covered.was_own:
            layer.__dict__[name] = covered.method
        else:
            del layer.__dict__[name]


class Layers:
    """Some layers of a model, and which side of them is meant.

    Args:
        layer: a module, or a list of modules.
        of_inputs: whether what they take is meant rather than what they give.
        model: the bound model.

    Raises:
        ArgumentError: a layer is not one of the model's, or is called by what is no longer Python.
    """

    def __init__(self, layer: Any, of_inputs: bool, model: Model):
        if layer is None:
            raise ArgumentError("layer: expected a layer of forward_func, as none was given")
        self.in_list = isinstance(layer, list | tuple)
        if not isinstance(layer, nn.Module):
            check_layer(layer)
        self.modules: list[nn.Module] = list(layer) if self.in_list else [layer]
        self.of_inputs, self.side = of_inputs, "input" if of_inputs else "output"
        self._function = model.forward_func
        if is_compiled(self._function):
            raise ArgumentError(f"forward_func: expected {_AS_IT_IS}, got a compiled function")
        for module in (*self.modules, *model.modules):
            self._check_runs_in_python(module)
        for i, module in enumerate(self.modules):
            if model.modules and module not in model.modules:
                raise self._error(i, "a layer of forward_func")
        self._may_be_left_out = _may_be_left_out(self.modules, model.modules)

    def _check_runs_in_python(self, module: nn.Module) -> None:
        if isinstance(module, nn.DataParallel) and len(module.device_ids) > 1:
            found = f"nn.DataParallel over {len(module.device_ids)} devices; pass its .module"
            raise ArgumentError(f"forward_func: expected a model on one device, got {found}")
        if not (isinstance(module, torch.jit.ScriptModule) or is_compiled_module(module)):
            return
        inside = set(module.modules())
        for i, layer in enumerate(self.modules):
            if layer in inside:
                kind = type(module).__name__
                raise self._error(i, _AS_IT_IS, f" inside a compiled or scripted {kind}")

    def call(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        look: Callable[[int, list[Tensor]], list[Tensor]],
    ) -> Any:
        """Calls the function, which calls the layers, each once or more.

        Args:
            function: the model.
            args: its arguments.
            look: is shown the tensors of layer i; what it returns takes their place.
        """
        calls = [0] * len(self.modules)

        def watcher(i: int, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            calls[i] += 1
            if transformation() is not None:  # which hides dimensions of what the layer has
                raise self._error(i, "a layer outside torch.func", ", called inside vmap or grad")
            if self.of_inputs:
                return method(*self._changed(i, args, look), **kwargs)
            return self._changed(i, method(*args, **kwargs), look)

        # Outputs are those after the layer's own hooks, inputs those after the hooks before it.
        name = "forward" if self.of_inputs else "_call_impl"
        watchers = [functools.partial(watcher, i) for i in range(len(calls))]
        with without_checkpoints(), _watched(self.modules, name, watchers, self._may_be_left_out):
            output = function(*args)
        for i, count in enumerate(calls):
            if count == 0:
                raise self._error(i, "a layer that forward_func calls")
        return output

    def _changed(
        self, i: int, value: Any, look: Callable[[int, list[Tensor]], list[Tensor]]
    ) -> Any:
        if isinstance(value, Tensor):
            return look(i, [value])[0]
        leaves, form = tree_flatten(value)
        plain = all(isinstance(v, (Tensor, *_BESIDE)) for v in leaves)
        tensors = [v for v in leaves if isinstance(v, Tensor)] if plain else []
        if not tensors:
            expected = f"a layer whose {self.side} is a tensor or a tuple of them"
            raise self._error(i, expected, f" with {_kinds(value)}")
        new = iter(look(i, tensors))
        return tree_unflatten([next(new) if isinstance(v, Tensor) else v for v in leaves], form)

    def check_floating(self, i: int, tensors: list[Tensor]) -> None:
        for t in tensors:
            if not t.is_floating_point():
                expected = (
                    f"a layer whose {self.side} is of floating-point numbers to differentiate"
                )
                raise self._error(i, expected, f" with {t.dtype}")

    def not_of_rows(self, i: int, tensor: Tensor, count: int) -> ArgumentError:
        rows = f"the {count} rows of forward_func's inputs"
        expected = f"a layer whose {self.side} has {rows} first"
        return self._error(i, expected, f" with shape {tuple(tensor.shape)}")

    def called_otherwise(self, counts: list[int], expected: list[int]) -> ArgumentError:
        pairs = enumerate(zip(counts, expected, strict=True))
        i, count, known = next((i, a, b) for i, (a, b) in pairs if a != b)
        often = f"a layer that forward_func calls as often whatever the rows are, {known} times"
        return self._error(i, f"{often} here", f", called {count} times")

    def check_number(self, i: int, count: int, expected: int) -> None:
        if count != expected:
            known = f"as many tensors for inputs as for baselines, {expected}"
            raise self._error(i, f"a layer whose {self.side} has {known}", f" with {count}")

    def check_shape(self, i: int, shape: torch.Size, expected: torch.Size) -> None:
        if shape != expected:
            known = f"its rows first and one shape, {tuple(expected)} here"
            raise self._error(
                i, f"a layer whose {self.side} has {known}", f" with shape {tuple(shape)}"
            )

    def check_channels(self, i: int, tensor: Tensor) -> None:
        if tensor.dim() < 2:
            expected = f"a layer whose {self.side} has rows and channels first"
            raise self._error(i, expected, f" with shape {tuple(tensor.shape)}")

    def unused(self, i: int) -> RuntimeError:
        """Layer i's tensors make no difference."""
        return RuntimeError(
            f"{self._name(i)}: forward_func's output does not depend on the {self.side} of "
            f"{self._describe(i)}; of layers in a list none may feed another alone"
        )

    def _error(self, i: int, expected: str, found: str = "") -> ArgumentError:
        return ArgumentError(
            f"{self._name(i)}: expected {expected}, got {self._describe(i)}{found}"
        )

    def _name(self, i: int) -> str:
        return f"layer[{i}]" if self.in_list else "layer"

    def _describe(self, i: int) -> str:
        """The layer as users know it."""
        owner = getattr(self._function, "__self__", self._function)
        layer, kind = self.modules[i], type(self.modules[i]).__name__
        named = owner.named_modules() if isinstance(owner, nn.Module) else ()
        names = [name for name, module in named if module is layer and name]
        return f"{names[0]} ({kind})" if names else kind


def check_layer(layer: Any) -> None:
    """Checks the form of the argument: a module, a list of different ones, or None for later."""
    if layer is None or isinstance(layer, nn.Module):
        return
    modules = layer if isinstance(layer, list | tuple) else [layer]
    check(len(modules) > 0, "layer", "at least one module", "an empty list")
    for module in modules:
        fine = isinstance(module, nn.Module)
        check(fine, "layer", "a torch.nn.Module or a list of them", type(module).__name__)
    check(len(set(modules)) == len(modules), "layer", "each module once", "one of them twice")


class Watched:
    """A forward function of which is known what its layers took or gave in the latest call.

    Args:
        function: the model.
        layers: which of its layers. Of one that it calls more than once the last call counts.
    """

    def __init__(self, function: Callable[..., Any], layers: Layers):
        self.function, self.layers = function, layers
        self.found: list[list[Tensor]] = []  # by layer
        self.calls: list[int] = []  # how many, by layer
        self.count = 0  # of rows

    def __call__(self, *args: Any) -> Any:
        self.count = len(args[0])
        self.found = [[] for _ in self.layers.modules]
        self.calls = [0] * len(self.found)
        return self.layers.call(self.function, args, self._look)

    def _look(self, i: int, tensors: list[Tensor]) -> list[Tensor]:
        self.calls[i] += 1
        self.found[i] = [t.detach().clone() for t in tensors]  # the model may write to them
        return tensors

    def has_rows(self, position: int) -> bool:
        """Whether that tensor has a row for each of the model's."""
        return self.flat[position].shape[:1] == (self.count,)

    @property
    def flat(self) -> tuple[Tensor, ...]:
        """What was found, one layer after another."""
        return tuple(t for tensors in self.found for t in tensors)

    def layer_of(self, position: int) -> int:
        """Of which layer that tensor is."""
        return [i for i, tensors in enumerate(self.found) for _ in tensors][position]

    def packed(self, values: Sequence[Any]) -> Any:
        """What was found out about each of them, by layer: a tuple where one has several."""
        rest = iter(values)
        by_layer = [tuple(next(rest) for _ in tensors) for tensors in self.found]
        each = [of_one if len(of_one) > 1 else of_one[0] for of_one in by_layer]
        return each if self.layers.in_list else each[0]


class Recorded(Watched):
    """The same, with points of the graph that the output may be differentiated by.

    The gradient is with respect to a tensor wherever the model uses it, at a later layer too. It is
    zero for a tensor that makes no difference beside others of its layer that do.

    Args:
        function: the model.
        layers: which of its layers.
        unused: whether it is zero too for a layer that makes no difference at all.
    """

    def __init__(self, function: Callable[..., Any], layers: Layers, unused: bool = False):
        super().__init__(function, layers)
        self.unused = unused
        self.points: list[list[GradientEdge]] = []  # by layer

    def __call__(self, *args: Any) -> Any:
        self.points = [[] for _ in self.layers.modules]
        if self.layers.of_inputs:  # so that what the model does with them besides is on the graph
            args = tuple(map(on_graph, args))
        output = super().__call__(*args)
        several = max(map(len, self.points)) > 1
        if not isinstance(output, Tensor) or not (several or self.unused):
            return output
        used = reached([point_of(output)])
        for i, points in enumerate(self.points):
            is_used = [(point.node, point.output_nr) in used for point in points]
            if any(is_used) or self.unused:
                for j in (j for j, is_one in enumerate(is_used) if not is_one):
                    stand_in = self.found[i][j].detach().requires_grad_()
                    output = _Beside.apply(output, stand_in)
                    points[j] = get_gradient_edge(stand_in)
        return output

    def _look(self, i: int, tensors: list[Tensor]) -> list[Tensor]:
        self.layers.check_floating(i, tensors)
        tensors = super()._look(i, tensors)
        if not (self.layers.of_inputs or any(self.points)):  # nothing before matters
            tensors = [t.detach() for t in tensors]
        tensors = [on_graph(t) for t in tensors]
        if not all(t.requires_grad for t in tensors):  # the model has switched gradients off
            raise self.layers.unused(i)
        # Not the tensors themselves, as the model may write to them.
        self.points[i] = [get_gradient_edge(t) for t in tensors]
        return tensors


class Answerless(Watched):
    """The same for a model whose output does not matter, whatever it is."""

    def __call__(self, *args: Any) -> Tensor:
        super().__call__(*args)
        return torch.zeros(len(args[0]), device=args[0].device)


class Replaced:
    """A forward function that takes the tensors of its layers first, then its own arguments.

    A tensor of one row, which the layer has for all rows, is replaced by one with a row for each.
    Of a layer that is called more than once, the last call is meant, the others are as they are.

    Args:
        watched: the forward function, after a call that has shown what its layers have.
        unused: whether layers may make no difference to the output.
    """

    def __init__(self, watched: Watched, unused: bool = False):
        self.function, self.layers, self.unused = watched.function, watched.layers, unused
        self.counts = [len(tensors) for tensors in watched.found]
        self.calls = watched.calls

    def __call__(self, *args: Any) -> Any:
        rest = iter(args)
        given = [[next(rest) for _ in range(count)] for count in self.counts]
        rows = len(given[0][0])
        kept: list[tuple[int, Tensor, GradientEdge]] = []  # what has no row for each: not replaced

        calls = [0] * len(given)

        def look(i: int, tensors: list[Tensor]) -> list[Tensor]:
            calls[i] += 1
            if calls[i] != self.calls[i]:
                return tensors
            new = []
            for before, now in zip(tensors, given[i], strict=True):
                is_one = before.shape[:1] == (1,)
                if len(tensors) > 1 and before.shape != now.shape:
                    # It had better not matter, which the graph tells.
                    as_is = on_graph(before.detach())
                    if as_is.requires_grad:
                        kept.append((i, before, get_gradient_edge(as_is)))
                    new.append(as_is)
                    continue
                shape = torch.Size((rows, *before.shape[1:])) if is_one else before.shape
                self.layers.check_shape(i, shape, now.shape)
                new.append(now)
            return new

        output = self.layers.call(self.function, tuple(rest), look)
        if calls != self.calls:
            raise self.layers.called_otherwise(calls, self.calls)
        several = max(self.counts) > 1
        if not isinstance(output, Tensor) or not (several or self.unused):
            return output
        used = reached([point_of(output)]) if output.requires_grad else set()
        for i, tensor, edge in kept:
            if (edge.node, edge.output_nr) in used:
                raise self.layers.not_of_rows(i, tensor, rows)
        for tensors in given:
            of_graph = [t for t in tensors if t.requires_grad]
            edges = map(get_gradient_edge, of_graph)
            unused = [
                t
                for t, edge in zip(of_graph, edges, strict=True)
                if (edge.node, edge.output_nr) not in used
            ]
            if unused and (self.unused or len(unused) < len(of_graph)):
                output = _Beside.apply(output, *unused)
        return output


class _Beside(torch.autograd.Function):
    """An output, and tensors that make no difference to it: their gradient is zero."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*tensors)
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        return gradient, *map(torch.zeros_like, ctx.saved_tensors)


def reached(
    start: Iterable[tuple[Any, int]], stops: Container[tuple[Any, int]] = ()
) -> set[tuple[Any, int]]:
    """The points of the graph, nodes and numbers, that some of them depend on, themselves too.

    With stops without those that others depend on by way of a stop alone.
    """
    found: set[tuple[Any, int]] = set()
    points, seen = list(start), set()
    while points:
        point = points.pop()
        node, _ = point
        if node is None or point in found:
            continue
        found.add(point)
        if point not in stops and node not in seen:
            seen.add(node)
            points += node.next_functions
    return found


def point_of(output: Tensor) -> tuple[Any, int]:
    """Where the output is on the graph."""
    return output.grad_fn, output.output_nr


_AS_IT_IS = "a layer of a model that is not compiled or scripted"


def on_graph(value: Any) -> Any:
    if not isinstance(value, Tensor) or value.requires_grad or not value.is_floating_point():
        return value
    return value.detach().requires_grad_().clone()  # may be written to, other than a leaf


def is_compiled(function: Any) -> bool:
    scripted = isinstance(function, torch.jit.ScriptFunction)
    compiled = hasattr(function, "_torchdynamo_orig_callable")
    return scripted or (compiled and not isinstance(function, nn.Module))


def _kinds(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {[type(v).__name__ for v in value]}"
    return f"a {type(value).__name__}"
