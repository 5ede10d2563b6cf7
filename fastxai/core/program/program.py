"""The methods as programs of tensors alone, to be traced: rows, one call of the model, a reduction.

Unlike the engine's blocks, all rows of a batch go through the model in one call, but for its affine
beginning where that is done on few of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...ops import native, reference
from ..checks import check
from ..engine.inputs import Inputs, check_background
from ..engine.noisy_rows import ANOTHER_SEED, NoisyRows
from ..engine.outputs import result_dtype
from ..engine.shortcut import saved
from ..prefix.affine_rows import AffineRows, PrefixTrace
from ..prefix.deltas import Deltas, Dense, Memo, NotAffine, Sparse
from ..prefix.mixing import CoefficientMixing, Mixing, OneDeltaMixing
from .copies import Apart, in_order

ARGMAX = "argmax"  # the target that is the class with the largest output
# Multiplications that must be saved for one row of inputs, as rows that stay affine take kernels of
# their own; where deltas are mixed hardly more of them than making rows takes.
_WORTH: dict[type[Mixing], float] = {CoefficientMixing: 2e4, OneDeltaMixing: 2e5}


@dataclass(frozen=True)
class TracedRequest:
    """A model with its inputs and whatever else comes with a call.

    Rows are arranged as repeats × examples, repeat by repeat.
    """

    module: Callable[..., Tensor]
    inputs: tuple[Tensor, ...]  # each [B, *F_i]
    baselines: tuple[Tensor, ...]  # each [B, *F_i] or [1, *F_i]
    forward_args: tuple[Any, ...]
    of_rows: tuple[bool, ...]  # which of those are tensors with a row for each example
    # None; indices after the batch for all rows; [B] or [B, k] int64, one for each; or ARGMAX
    target: Any
    seed: Tensor | int | None = None  # of what is drawn in the call: a scalar int64 tensor
    # Whether rows may stay affine in the model. Where they cannot, or it does not pay, a program
    # raises NotAffine.
    prefix: bool = False
    # How copies of the batch are kept apart where rows influence one another; None where they do
    # not, and all are rows of one call.
    apart: Apart | None = None
    samples: int = 1  # copies of the batch that the inputs are

    @property
    def batch(self) -> int:
        return self.inputs[0].shape[0]

    def noisy(
        self,
        background: tuple[Tensor, ...] | None,  # each [K, *F_i]
        stdevs: tuple[float, ...],
        samples: int,
    ) -> NoisyRows:
        """As the eager methods draw with this seed."""
        seed: Any = self.seed.item() if isinstance(self.seed, Tensor) else self.seed
        return NoisyRows(self.inputs, background, stdevs, samples, seed)

    def outputs(self, *rows: Tensor) -> Tensor:  # each [r * B, *F_i] -> [r * B, *C]
        """All outputs of the model."""
        return self.called(self.module, rows)

    def called(
        self, function: Callable[..., Tensor], rows: tuple[Tensor, ...]
    ) -> Tensor:  # each [r * B, *F_i] -> [r * B, *C]
        """The outputs of a function of rows and the extra arguments, in one call if it may be."""
        repeats, samples = int(rows[0].shape[0] // self.batch), self.samples
        if self.apart is None or (repeats == 1 and samples == 1):
            return function(*rows, *self.extra(repeats))
        shape = repeats * samples, self.batch // samples
        copies = [in_order(in_order(t).unflatten(0, shape)) for t in rows]
        return self.apart(function, copies, self.extra(1))

    def extra(self, repeats: int) -> tuple[Any, ...]:
        """The arguments after the rows."""
        pairs = zip(self.forward_args, self.of_rows, strict=True)
        return tuple(a.repeat(repeats, *[1] * (a.dim() - 1)) if own else a for a, own in pairs)

    def choice(self, outputs: Tensor) -> Callable[[Tensor], Tensor]:
        """What picks the explained outputs, [r * B, *C'], out of all, [r * B, *C].

        Args:
            outputs: the outputs at the inputs, [B, *C].
        """
        if self.target is None:
            return lambda every: every
        if isinstance(self.target, tuple):
            index = (slice(None), *self.target)
            return lambda every: every[index]
        columns = outputs.argmax(1) if self.target is ARGMAX else self.target
        columns = columns.reshape(columns.shape[0], -1)  # [B, k]
        flat = torch.zeros_like(columns[:, 0])
        for column, size in zip(columns.unbind(1), outputs.shape[1:], strict=True):
            flat = flat * size + torch.where(column < 0, column + size, column)

        def pick(every: Tensor) -> Tensor:
            repeated = flat.repeat(every.shape[0] // self.batch)[:, None]
            return every.flatten(1).gather(1, repeated)[:, 0]

        return pick

    def of_samples(
        self,
        n: int,
        rows: tuple[Tensor, ...],  # each [n * B, *F_i], copy by copy of the batch
        baselines: tuple[Tensor, ...] | None,  # each [n * B, *F_i]; None: each example's own
        outputs: Tensor,  # [B, *C], at the inputs
    ) -> TracedRequest:
        """The request about n samples of each example, with another seed for what is drawn."""

        def each(value: Tensor) -> Tensor:
            return value.repeat(n, *[1] * (value.dim() - 1))

        target = outputs.argmax(1) if self.target is ARGMAX else self.target
        pairs = zip(self.forward_args, self.of_rows, strict=True)
        return replace(
            self,
            inputs=rows,
            baselines=baselines or tuple(b if b.shape[0] == 1 else each(b) for b in self.baselines),
            # Those of a copy of the batch are the same for all of its samples.
            forward_args=tuple(each(a) if own and self.apart is None else a for a, own in pairs),
            target=each(target) if isinstance(target, Tensor) else target,
            seed=None if self.seed is None else self.seed ^ ANOTHER_SEED,
            samples=n,
        )


@dataclass(frozen=True)
class Answer:
    """What a program returns."""

    outputs: Tensor  # [B, *C], all outputs of the model
    attributions: tuple[Tensor, ...]
    convergence_delta: Tensor | None = None  # [B], or [B * n] for n samples of each example
    standard_errors: tuple[Tensor, ...] | None = None  # as the attributions
    # [B]: the largest of the compared outputs of an example, by magnitude; not finite where one of
    # them is not. None for a method that compares none.
    magnitude: Tensor | None = None


Program = Callable[[TracedRequest], Answer]


@dataclass(frozen=True)
class Replaced:
    """N kinds of rows: the inputs with groups of features replaced; in the last none is."""

    kept: Callable[[], tuple[Tensor, ...]]  # which features are left, [N, *F_i] bool
    # The groups of each input, as those of ``Sparse``: positions [1, P], offsets [1, G + 1].
    groups: tuple[tuple[Tensor, Tensor], ...]
    # Of what has all replaced the groups that are left; or one group of the inputs replaced each.
    mixing: Mixing

    def anchors(
        self,
        request: TracedRequest,
        absent: tuple[Tensor, ...],  # what comes instead, each [K or 1, B or 1, *F_i]
        made: Callable[[], tuple[Tensor, ...]],
        calls: PrefixTrace,
    ) -> tuple[AffineRows, ...]:
        """The rows, as ``CoalitionRows`` and ``AblationRows`` have them for the eager methods."""
        made = cache(made)
        few = isinstance(self.mixing, CoefficientMixing)
        found = []
        triples = zip(request.inputs, absent, self.groups, strict=True)
        for i, (x, other, (positions, offsets)) in enumerate(triples):
            start, end = (other, x[None]) if few else (x[None], other)
            apart = (end - start).flatten(0, 1)  # [K * B, *F]
            values = apart.flatten(1)[:, positions[0]]
            deltas = Sparse(
                values,
                positions,
                offsets=offsets,
                shape=x.shape[1:],
                few=few,
                product=_group_linear,
            )
            if start.shape[0] > 1:
                start = start.expand(-1, *x.shape)
            base, origin = Memo(start.flatten(0, 1)), partial(_nth, made, i)
            found.append(AffineRows.make(base, Memo(deltas), self.mixing, calls, origin=origin))
        return tuple(found)


def _nth(made: Callable[[], tuple[Tensor, ...]], i: int) -> Tensor:
    return made()[i]


def _group_linear(
    values: Tensor,  # [b, P]
    positions: Tensor,  # [1, P] int64
    offsets: Tensor,  # [1, K + 1] int64
    weight: Tensor,  # [H, F]
) -> Tensor:  # [K, b, H]
    """``ops.group_linear`` for groups that leave nothing out, in operations of torch alone."""
    b, p = values.shape
    first = torch.arange(b, device=values.device)[:, None] * p
    sums = F.embedding_bag(
        positions.expand(b, p).flatten(),
        weight.t().contiguous(),
        (first + offsets[:, :-1]).flatten(),
        mode="sum",
        per_sample_weights=values.flatten(),
    )
    by_row: Tensor = sums.unflatten(0, (b, -1))
    return by_row.transpose(0, 1)


# Values of groups, [B, *C, M], in the form that they are returned in.
Spread = Callable[[Tensor], tuple[Tensor, ...]]


def by_output(found: Tensor, outputs: Tensor) -> Tensor:  # [B, C, M], [B, *C] -> [B, *C, M]
    """What is found in the shape of the outputs; one number a row is none of its dimensions."""
    shape = outputs.shape[:1] if outputs.shape[1:].numel() == 1 else outputs.shape
    return found.reshape(*shape, found.shape[-1]).to(result_dtype(outputs))


# As the eager fits, which look at the numbers to find a shorter way.


def values_of(
    request: TracedRequest,
    rows: Replaced,
    background: tuple[Tensor, ...] | None = None,  # each [K, *F_i]
) -> tuple[Tensor, Tensor]:
    """All outputs at the inputs, [B, *C], and the chosen ones for N kinds of rows, [N, B, *C'].

    Over a background they are the mean.
    """
    if background is None:
        absent = tuple(baseline[None] for baseline in request.baselines)  # [1, B or 1, *F_i]
    else:
        absent = tuple(other[:, None] for other in background)  # [K, 1, *F_i]

    def made() -> tuple[Tensor, ...]:
        triples = zip(rows.kept(), request.inputs, absent, strict=True)
        return tuple(torch.where(z[:, None, None], x, b).flatten(0, 2) for z, x, b in triples)

    if request.prefix:
        calls = PrefixTrace()
        every = _by_prefix(request, rows.anchors(request, absent, made, calls), 1)
        calls.end()
    else:
        every = request.outputs(*made())
    outputs = every[-request.batch :]
    chosen = request.choice(outputs)(every)
    shape = (rows.mixing.count, absent[0].shape[0], request.batch, *chosen.shape[1:])
    values = chosen.reshape(shape)
    if background is None:
        return outputs, values[:, 0]
    return outputs, values.to(torch.float64).mean(1)


def _by_prefix(request: TracedRequest, rows: tuple[AffineRows, ...], passes: int) -> Tensor:
    """All outputs of rows that stay affine in the model, which comes by them in so many passes.

    Raises:
        NotAffine: the model does what these cannot follow, or it saves too little.
    """
    calls, mixing = rows[0].calls, rows[0].mixing
    outputs = calls.check(request.outputs(*rows))
    mixed = mixing.coefficients.shape[1] if isinstance(mixing, CoefficientMixing) else 1
    each = saved(calls, request.batch, outputs.shape[0] // request.batch, mixed)
    if passes * each < _WORTH[type(mixing)]:
        raise NotAffine
    return outputs


def magnitude_of(values: Tensor) -> Tensor:  # [N, B, *C] -> [B]
    """The largest value of each example; NaN if one is."""
    if not values.is_floating_point() or values.shape[2:].numel() == 0:  # always numbers
        return values.new_zeros(values.shape[1], dtype=torch.float32)
    return values.abs().transpose(0, 1).flatten(1).amax(1)


def gradients_of(
    request: TracedRequest, rows: Sequence[Tensor], at_inputs: slice
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """All outputs of these rows, the chosen ones, and the gradients of those."""
    leaves = tuple(row.detach().requires_grad_() for row in rows)
    with torch.enable_grad():
        outputs = request.outputs(*(leaf.clone() for leaf in leaves))  # it may write to them
        chosen = request.choice(outputs.detach()[at_inputs])(outputs)
    return outputs.detach(), chosen.detach(), for_leaves(chosen, leaves)


def gradient_sums(
    request: TracedRequest,
    along: Tensor,  # [R] float64: how far rows are on the path from the baselines to the inputs
    weights: Tensor,  # [R] float64
    at_inputs: slice,
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """As :func:`gradients_of`, of rows that stay affine: the weighted sums over the R rows."""
    calls, mixing = PrefixTrace(), CoefficientMixing(along[:, None])
    rows, leaves = [], []
    for i, (x, baseline) in enumerate(zip(request.inputs, request.baselines, strict=True)):
        leaves.append((x - baseline)[None].detach().requires_grad_())
        delta: Memo[Deltas] = Memo(Dense(leaves[i]), frozenset((i,)))
        rows.append(AffineRows.make(Memo(baseline), delta, mixing, calls))
    with torch.enable_grad():
        outputs = _by_prefix(request, tuple(rows), 2)
        chosen = request.choice(outputs.detach()[at_inputs])(outputs).flatten()
        each = weights.to(chosen.dtype).repeat_interleave(request.batch)
        calls.gather(chosen, each, len(leaves))
        sums = calls.pull_back(leaves)
    calls.end()
    return outputs.detach(), chosen.detach(), tuple(s[0] for s in sums)


def for_leaves(chosen: Tensor, leaves: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    expected = "outputs that depend on {} and can be differentiated"
    check(chosen.requires_grad, "forward_func", expected, "none that are", "the inputs")
    found = torch.autograd.grad(chosen, leaves, torch.ones_like(chosen), allow_unused=True)
    for i, gradient in enumerate(found):
        check(gradient is not None, "forward_func", expected, "no gradient", f"inputs[{i}]")
    return found


def dtype_of_sums(x: Tensor) -> torch.dtype:
    """What sums are kept in."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def check_one_number(request: TracedRequest, outputs: Tensor) -> None:
    """The target must leave one number a row."""
    chosen = request.choice(outputs)(outputs)
    check(
        chosen.numel() == chosen.shape[0],
        "target",
        "one that leaves one number a row: an int, a tensor with one for each example, or {!r}",
        f"{tuple(chosen.shape[1:])} numbers a row",
        ARGMAX,
    )


def check_rows_built_in(baselines: Any, inputs: Inputs) -> tuple[Tensor, ...]:
    check(not callable(baselines), "baselines", "rows, all of which are built in", "a function")
    return check_background(baselines, inputs, "baselines")


def check_library(what: str) -> None:
    expected = f"a method that needs no compiled library, {what}; there is none here"
    check(native.backend() is not reference, "explainer", expected, "one that does")
