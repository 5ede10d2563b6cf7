"""The affine prefix of one run of the engine: which blocks take it, and what they share."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sized
from typing import Any

import torch
from torch import Tensor

from ..footprint import is_watched
from ..modules import is_compiled, is_compiled_module, transformation
from ..prefix.affine_rows import AffineRows, PrefixTrace
from ..prefix.deltas import Deltas, Dense, Memo, NotAffine
from ..spans import length
from .model import Model
from .plan import Run
from .rows import Affine, Rows, is_affine

# Calling the model with rows that stay affine costs some 0.3 ms a block. The model does as many
# multiplications in that time.
WORTH = 2e7


# Gathers(deltas, gradients), both [K, b, *F], makes [b, *F].
Gathers = Callable[[Tensor, Tensor], Tensor]


class Shortcut:
    """Calls the model with rows that stay affine where that is possible and pays.

    Used as a context around a call, it ends it: what the rows could not follow is not raised, and
    the caller does without.

    Args:
        model: the bound model.
        rows: what will be asked of it.
        most: about how many rows will be in a block.
        gathers: how the gradients for deltas add up to the result; None if none are wanted.
    """

    def __init__(self, model: Model, rows: Rows, most: int, gathers: Gathers | None = None):
        self.model, self.rows, self.gathers = model, rows, gathers
        self.calls = PrefixTrace()
        self.run = Run(rows.kind, rows.repeats * rows.batch)
        model.runs.append(self.run)
        model.affine_prefix = False
        if is_affine(rows) and _may_have_prefix(model, rows, most):
            model.affine_prefix, self.run.mixed = None, rows.mixed
        self._known = False
        self._count = 0  # rows in the call at hand
        self._examples = slice(0, 0)  # of the bases at hand
        self._bases: list[Memo[Tensor]] = []
        self._deltas: list[Memo[Deltas]] = []
        self._sums: list[Tensor] = []

    def block(self, repeats: slice, examples: slice) -> tuple[AffineRows, ...] | None:
        """Rows for the model; None where they had better be made."""
        model = self.model
        if model.affine_prefix is False or model.whole_batch or model.rows_interact is not False:
            return None
        rows = self.rows
        assert is_affine(rows)
        if not self._pays(rows, repeats, examples):
            return None
        if examples != self._examples:
            self._pull_back()
            self._bases = [Memo(base) for base in rows.bases(examples)]
            self._deltas.clear()
            self._examples = examples
            self.run.slices += 1
        if not (self.gathers and self._deltas):
            self._deltas = rows.deltas(repeats, examples)
            if self.gathers:
                self._deltas = [_leaf(delta, i) for i, delta in enumerate(self._deltas)]
        mixing = rows.mixing(repeats, examples)
        self.calls.begin()
        self._count = length(repeats) * length(examples)
        block = functools.cache(functools.partial(rows.block, repeats, examples))
        return tuple(
            AffineRows.make(
                base,
                delta,
                mixing,
                self.calls,
                origin=None if self.gathers else functools.partial(_nth, block, i),
            )
            for i, (base, delta) in enumerate(zip(self._bases, self._deltas, strict=True))
        )

    @property
    def tensors(self) -> list[Tensor]:
        """What the rows of the block at hand are made of."""
        return [base.value for base in self._bases] + [d.value.values for d in self._deltas]

    def checked(self, output: Tensor) -> Tensor:
        """The model's output as plain rows, if it can be trusted."""
        return self.calls.check(output)

    def gather(self, output: Tensor, weights: Tensor) -> None:  # [r * b] twice
        """Adds the gradients of Σ weights · output to the sums."""
        self.calls.gather(output, weights, len(self._bases))

    def sums(self) -> list[Tensor]:
        """What was gathered for each input [B, *F_i], in float32 at least; or nothing."""
        self._pull_back()
        return self._sums

    def __enter__(self) -> Shortcut:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> bool:
        if kind is None:
            self._note()
        self.calls.end()
        if kind is None or not (kind is NotAffine or _wants_memory(error)):
            return False
        self.model.affine_prefix, self.model.prefix.refused = False, True
        return True

    def _pull_back(self) -> None:
        """From where rows were made to the inputs, once for all blocks of these examples."""
        if not self.calls.reached:
            return
        if not self._sums:
            wide = (torch.promote_types(x.dtype, torch.float32) for x in self.rows.inputs)
            self._sums = [
                torch.zeros((self.rows.batch, *x.shape[1:]), dtype=dtype, device=x.device)
                for x, dtype in zip(self.rows.inputs, wide, strict=True)
            ]
        gradients = self.calls.pull_back([delta.value.dense() for delta in self._deltas])
        assert self.gathers is not None
        for total, delta, gradient in zip(self._sums, self._deltas, gradients, strict=True):
            total[self._examples] += self.gathers(delta.value.values.detach(), gradient)

    def _pays(self, rows: Affine, repeats: slice, examples: slice) -> bool:
        """Whether it pays for these examples, or may, as far as is known.

        What is known is from this run alone: the same call must give the same bits whatever was
        before.
        """
        repeat_multiple = rows.repeat_multiple
        if repeats.start % repeat_multiple or repeats.stop % repeat_multiple:
            return False
        if not self._known:  # clearly more than their anchors
            return rows.repeats > 1.5 * rows.anchors
        b, blocks = length(examples), rows.repeats / length(repeats)
        each = saved(self.run, self.run.anchors, rows.repeats, rows.mixed)
        return each * b * (2 if self.gathers else 1) >= WORTH * blocks

    def _note(self) -> None:
        """What the model did in the call that ends."""
        self._known, self.model.affine_prefix = True, True
        run, calls = self.run, self.calls
        run.followed, run.stopped = list(calls.followed), list(calls.stopped)
        run.spared, run.anchored, run.width = calls.spared, calls.anchored, calls.width
        run.anchors = length(self._examples)
        run.by_prefix += self._count


def saved(did: Run | PrefixTrace, examples: int, repeats: int, mixed: int) -> float:
    """How many multiplications for each example the model is spared.

    Args:
        did: what became of rows that stayed affine,
        examples: of so many examples.
        repeats: rows of each example.
        mixed: how many deltas are added for one row.
    """
    each = repeats * (did.spared - (mixed - 1) * did.width)
    return each - did.anchored / max(1, examples)


def prefix_is_better(model: Model, rows: Rows, targets: Sized) -> bool:
    """Whether passes with rows that stay affine, one for each output, may be the less work.

    The other way is one pass forward for all outputs, and one backward for each. How much the
    prefix spares is seen from layers' weights, and is an upper bound.

    Args:
        model: the bound model.
        rows: what will be asked of it.
        targets: the outputs.
    """
    if not is_affine(rows) or not _may_have_prefix(model, rows, rows.repeats * rows.batch):
        return False
    every = most_multiplications(model.modules, rows.inputs)
    left = 1 - min(1.0, rows.anchors / rows.repeats)
    spared = left * most_spared(model.modules, rows.inputs, rows.mixed)
    return 2 * len(targets) * (every - spared) < (1 + len(targets)) * every


def may_stay_affine(tensors: tuple[Tensor, ...]) -> bool:
    """Whether rows made of these, [*, *F_i] each, may stay affine in some model."""
    wide = (torch.float32, torch.float64)
    return all(x.device.type == "cpu" and x.dim() > 1 and x.dtype in wide for x in tensors)


def _may_have_prefix(model: Model, rows: Affine, most: int) -> bool:
    if model.prefix.refused or not model.prefix.wanted:
        return False
    if model.mixes_rows or model.whole_batch or model.rows_interact:
        return False
    if not may_stay_affine((*rows.inputs, *rows.others)):
        return False
    each = most_spared(model.modules, rows.inputs, rows.mixed)
    if each * min(rows.repeats * rows.batch, most) < WORTH:
        return False
    if not may_follow(model.forward_func, model.modules):
        return False
    # An infinite number in a group that is absent must leave no trace: 0 · ∞ would.
    return all(math.isfinite(x.sum()) for x in (*rows.inputs, *rows.others))


def _leaf(delta: Memo[Deltas], i: int) -> Memo[Deltas]:
    """With a gradient: that of the rows."""
    return Memo(Dense(delta.value.dense().detach().requires_grad_()), frozenset((i,)))


def _nth(block: Callable[[], tuple[Tensor, ...]], i: int) -> Tensor:
    return block()[i]


def _wants_memory(error: object) -> bool:
    """Whether compiled code was handed rows that have no memory."""
    said = ("doesn't have storage", "data is not allocated")
    return isinstance(error, RuntimeError) and any(words in str(error) for words in said)


# Modules with weights that no operation in FOLLOWS takes, and some after which no row is affine.
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
    if torch._C._len_torch_function_stack() or is_watched():
        return False
    if transformation() is not None or torch.is_autocast_enabled():
        return False
    if torch.is_autocast_enabled("cpu"):
        return False
    return not any(map(_is_special, modules)) and not is_compiled(forward_func)


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


def _is_special(module: torch.nn.Module) -> bool:
    hooks = (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )
    special = (torch.jit.ScriptModule, torch.nn.DataParallel)
    return any(hooks) or is_compiled_module(module) or isinstance(module, special)
