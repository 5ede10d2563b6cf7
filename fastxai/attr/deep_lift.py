"""DeepLift."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from inspect import signature
from typing import Any, Literal, cast, overload

import torch
from torch import Tensor

from ..core import engine
from ..core.checks import Form, check
from ..core.engine import interaction
from ..core.engine.inputs import Inputs, packed
from ..core.engine.model import Model
from ..core.engine.request import Request
from ..core.engine.rows import BaselinePairRows, InputAndBaselineRows
from ..core.engine.targets import Target
from ..core.footprint import is_watched
from ..core.intercept.completeness import Told
from ..core.intercept.deep_lift import Lifted
from ..core.intercept.lifted_layers import LayerPairs
from ..core.intercept.relu import check_eager
from ..core.modules import modules_of
from ..core.program.program import Answer, Program, TracedRequest, for_leaves
from ..core.spans import length, part
from ._base import GradientAttribution, captum_compatible, warn_unless_finite

Combine = Callable[..., tuple[Tensor, ...]]


@dataclass(frozen=True)
class Lift:
    """What both passes told of pairs of an example and a baseline."""

    multipliers: list[Tensor]  # each [K, B, *F_i]
    changes: Tensor | None  # [B · K]: F(x) − F(x'), input by input; None if there are no pairs
    told: Told

    def check(self, values: tuple[Tensor, ...]) -> None:  # each [B · K, *F_i]
        """Warns if they do not add up."""
        if self.changes is not None:
            missed = self.told.missed(values, self.changes)
            if missed is not None:
                self.told.warn([missed])


class DeepLift(GradientAttribution):
    """DeepLift: how much of the output's difference from a baseline each feature's difference made.

    Differences are passed back through every operation by a multiplier m with m · Δin = Δout, in
    place of its gradient, so that attributions m_i (x_i − x'_i) of a row add up to F(x) − F(x'),
    with one forward and one backward pass, however saturated the network is. Source: Shrikumar,
    Greenside and Kundaje, "Learning important features through propagating activation differences"
    (2017), with the Rescale rule.

    Operations are seen as the model does them, in the calling thread alone: functional calls,
    methods, in-place forms and modules that are used several times are all right, and nothing is
    hooked to the model. They may be: linear ones; functions of one number, or of several by
    element, also gates and masks made of activations; products of any number of activations,
    spectra; maxima, sorts and quantiles; softmax, norms, losses; attention, LSTM, GRU and RNN,
    fused or written out. For these the attributions add up but for rounding. An operation without a
    rule keeps its gradient. After every call the sum of the attributions is held against F(x) −
    F(x'): where it is missed, a warning names the operations that had no rule.

    Numbers are Captum's but where those do not add up: Captum is off where one non-linear module
    directly follows another, as pooling a ReLU; in softmax, where rows depend on their neighbours
    in the batch; in pooling, where windows overlap; and for what is not one of ten kinds of module.

    Args:
        model: a module or any callable that takes the inputs (then the extra arguments) and returns
            one tensor with the rows first; neither scripted nor compiled, and with batch norms in
            eval mode. What it does must not depend on values: inputs and baselines pass through it
            apart, and must meet the same operations.
        multiply_by_inputs: whether to multiply by x − x'. Without it, the multipliers are returned.
        eps: where input and baseline of a non-linearity are closer than this, or than rounding can
            tell, its gradient is its multiplier.
        output: which of several outputs is explained, as for :class:`Attribution`.
    """

    _gives_one_number = _stacks_rows = True

    def __init__(
        self,
        model: Callable[..., Any],
        multiply_by_inputs: bool = True,
        eps: float = 1e-10,
        *,
        output: str | int | None = None,
    ):
        super().__init__(model, affine_prefix=False, output=output)
        self.model, self.eps = model, eps
        self._multiply_by_inputs = multiply_by_inputs

    @overload
    def attribute(
        self,
        inputs: Form,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        return_convergence_delta: Literal[False] = False,
        custom_attribution_func: Combine | None = None,
    ) -> Form: ...
    @overload
    def attribute(
        self,
        inputs: Form,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        *,
        return_convergence_delta: Literal[True],
        custom_attribution_func: Combine | None = None,
    ) -> tuple[Form, Tensor]: ...
    @captum_compatible
    def attribute(
        self,
        inputs: Form,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        custom_attribution_func: Combine | None = None,
    ) -> Form | tuple[Form, Tensor]:
        """Attributes the chosen output to the inputs.

        Args:
            inputs: a floating-point tensor [B, *F], or a tuple of tensors [B, *F_i].
            baselines: what inputs are compared with, as for :class:`IntegratedGradients`.
            target: which output is explained, as for :class:`IntegratedGradients`.
            additional_forward_args: extra arguments, as for :class:`IntegratedGradients`.
            return_convergence_delta: whether to return the convergence delta as well.
            custom_attribution_func: what to return in place of multipliers · (inputs − baselines):
                a function of the multipliers, or of them and the inputs, or of these and the
                baselines, all tuples of tensors [B, *F_i], that returns such a tuple.

        Returns:
            The attributions, in the form, shapes and dtypes of the inputs, without a graph. With
            ``return_convergence_delta`` a pair: the attributions, and Σ attributions −
            (F(x) − F(x')) of each row, [B].

        Raises:
            ArgumentError: an argument is not as above; the message names it.
            IndexError: the target is out of range.
            RuntimeError: the output does not depend on an input.
        """
        request = self._query(inputs, baselines, target, additional_forward_args)
        values = self._values(request, custom_attribution_func)
        result = packed(values, inputs)
        return (
            (result, self._convergence_delta(request, values))
            if return_convergence_delta
            else result
        )

    def _values(
        self, request: Request, custom_attribution_func: Combine | None
    ) -> tuple[Tensor, ...]:
        combine = self._combination(custom_attribution_func)
        x, baselines = request.inputs.tensors, request.baselines
        if any(b.shape[0] != 1 for b in baselines):  # then all come with their inputs
            baselines = tuple(b.expand(t.shape) for b, t in zip(baselines, x, strict=True))
        lift = self._lift(request, BaselinePairRows(x, baselines, 1))
        pairs = zip(baselines, x, strict=True)
        compared = x, tuple(b.expand(t.shape) for b, t in pairs)
        of_inputs = tuple(m[0] for m in lift.multipliers)
        found = combine(of_inputs, *compared)
        lift.check(found if combine is contributions else contributions(of_inputs, *compared))
        return found

    def _lift(
        self, request: Request, pairs: BaselinePairRows, inside: LayerPairs | None = None
    ) -> Lift:
        """Finds multipliers of the inputs, or of what layers have inside."""
        changes: Tensor | None = None  # F(x) − F(x') of each pair, [K, B], or [B]

        def note(change: Tensor) -> None:
            nonlocal changes
            repeats, examples = pairs.latest
            if len(change) == pairs.batch and pairs.repeats == 1:
                changes = change
                return
            block = change.view(length(repeats), length(examples))
            if changes is None:
                changes = block.new_empty(pairs.repeats, pairs.batch)
            changes[repeats, examples] = block

        model = self._lifted(request, pairs, note, inside)
        multipliers = engine.gradients(model, pairs, None if inside is None else inside.points)
        if changes is not None and changes.dim() > 1:
            changes = changes.T.flatten()
        return Lift(multipliers, changes, cast(Told, model.forward_func))

    def _lifted(
        self,
        request: Request,
        pairs: BaselinePairRows,
        note: Callable[[Tensor], None] | None,
        inside: LayerPairs | None = None,
    ) -> Model:
        """The model, whose gradients at pairs are multipliers; ``note`` is what Told takes."""
        check_eager(self.forward_func, request.model.modules)
        expected = "batch norms in eval mode, as each row is compared with its baseline alone"
        check(not request.model.mixes_rows, "forward_func", expected, "one in train mode")
        if (
            pairs.repeats > 1 and request.model.is_unsettled
        ):  # copies of the inputs are stacked, each with another baseline
            first = tuple(b[:1] for b in pairs.baselines)
            interaction.settle(request.model, InputAndBaselineRows(pairs.inputs, first))
        interact = request.model.rows_interact
        shares = None if interact is None else not interact
        in_place = [m for m in request.model.modules if getattr(m, "inplace", False)]
        writes = bool(in_place) or not request.model.is_chain

        def wrapped(function: Callable[..., Any]) -> Told:
            if inside is not None:
                return Told(inside.lifted(function, self.eps, shares), note)
            lifted = Lifted(function, len(pairs.inputs), self.eps, shares=shares, writes=writes)
            return Told(lifted, note)

        return request.model.through(wrapped)

    def _of_each_output(self, request: Request, targets: Sequence[Any]) -> list[tuple[Tensor, ...]]:
        """Attributions of several outputs; the model passes forward once for all of them."""
        x, baselines = request.inputs.tensors, request.background or request.baselines
        pairs = BaselinePairRows(x, baselines, len(baselines[0]))
        chosen = [Target(target, pairs.batch) for target in targets]
        model = self._lifted(request, pairs, None)
        told, missed = cast(Told, model.forward_func), list[tuple[float, float]]()
        apart: list[Tensor] = []  # x − x' of the block at hand, each [r, b, *F_i]
        of_block: tuple[slice, slice] | None = None

        def add(sums: list[Tensor], found: engine.Gradients) -> list[Tensor]:
            nonlocal of_block
            if of_block != (found.repeats, found.examples):
                ends = zip(x, baselines, strict=True)
                apart[:] = [
                    part(a, found.examples) - part(b, found.repeats)[:, None] for a, b in ends
                ]
                of_block = found.repeats, found.examples
            values = [m * a for m, a in zip(found.each, apart, strict=True)]
            target, count = chosen[found.place], length(found.repeats)
            change = model.choose(target, told.change, count, found.examples).reshape(-1)
            off = told.missed([v.flatten(0, 1) for v in values], change)
            if off is not None:
                missed.append(off)
            wide = (torch.promote_types(v.dtype, torch.float32) for v in values)
            new = [v.sum(0, dtype=dtype) for v, dtype in zip(values, wide, strict=True)]
            return [a.add_(b) for a, b in zip(new, sums, strict=True)] if sums else new

        totals = engine.gradient_sums(model, pairs, add, chosen)
        if missed:
            told.warn(missed)
        each = []
        for total in totals:
            means = zip(total, x, strict=True)
            each.append(tuple([t.div_(pairs.repeats).to(a.dtype) for t, a in means]))
        warn_unless_finite(self, each)
        return each

    def _combination(self, custom: Combine | None) -> Combine:
        """How multipliers, inputs and baselines make attributions."""
        if custom is None:
            return (
                contributions if self._multiply_by_inputs else lambda multipliers, *_: multipliers
            )
        name = "custom_attribution_func"
        check(callable(custom), name, "a function", repr(custom))
        parameters = len(signature(custom).parameters)
        check(1 <= parameters <= 3, name, "one to three parameters", parameters)

        def combined(*arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            found, multipliers = custom(*arguments[:parameters]), arguments[0]
            is_tuple = isinstance(found, tuple)
            got = f"{len(found)} of them" if is_tuple else type(found).__name__
            fits = is_tuple and len(found) == len(multipliers)
            check(fits, name, "one that returns a tuple of {} tensors", got, len(multipliers))
            if is_watched():  # a trace would take the number of rows for the only one
                return found
            for value, m in zip(found, multipliers, strict=True):
                has_rows = isinstance(value, Tensor) and value.shape[:1] == m.shape[:1]
                shape = value.shape if isinstance(value, Tensor) else type(value).__name__
                check(has_rows, name, "one that returns tensors of {} rows", shape, len(m))
            return found

        return combined

    def has_convergence_delta(self) -> bool:
        return True

    @property
    def multiplies_by_inputs(self) -> bool:
        return self._multiply_by_inputs

    def _program(self, inputs: Inputs, custom_attribution_func: Any) -> Program:
        check_eager(self.model, modules_of(self.model))
        combine = self._combination(custom_attribution_func)
        return partial(deep_lift, combine=combine, eps=self.eps)


def contributions(
    multipliers: tuple[Tensor, ...], inputs: tuple[Tensor, ...], baselines: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    triples = zip(multipliers, inputs, baselines, strict=True)
    return tuple(m * (x - baseline) for m, x, baseline in triples)


def deep_lift(request: TracedRequest, combine: Combine, eps: float) -> Answer:
    """Multipliers ∘ (x − x'), and how far their sum is from F(x) − F(x')."""
    x = request.inputs
    baselines = tuple(b.expand_as(a) for b, a in zip(request.baselines, x, strict=True))
    one_for_all = all(b.shape[0] == 1 for b in request.baselines)
    against = request.baselines if one_for_all and request.apart is None else baselines
    outputs, chosen, multipliers = multipliers_of(request, x, against, eps)
    found = combine(multipliers, x, baselines)
    at_baselines = request.choice(outputs)(request.outputs(*(b.clone() for b in baselines)))
    return Answer(outputs, found, sums_of(found) - (chosen - at_baselines).reshape(-1))


def multipliers_of(
    request: TracedRequest,
    rows: tuple[Tensor, ...],  # each [r * B, *F_i]
    baselines: tuple[Tensor, ...],  # as Lifted takes them; one for each row if rows interact
    eps: float,
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """All outputs of these rows, the chosen ones, and DeepLift's multipliers of those."""
    leaves = tuple(row.detach().requires_grad_() for row in rows)
    with torch.enable_grad():
        lifted = Lifted(request.module, len(rows), eps, shares=True)
        outputs = request.called(lifted, leaves + baselines)
        chosen = request.choice(outputs.detach()[-request.batch :])(outputs)
    return outputs.detach(), chosen.detach(), for_leaves(chosen, leaves)


def sums_of(values: tuple[Tensor, ...]) -> Tensor:  # each [N, *F_i] -> [N]
    return torch.stack([v.reshape(v.shape[0], -1).sum(1) for v in values]).sum(0)
