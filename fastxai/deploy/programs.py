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

from .. import ops
from ..attr.ablation import flatten_outputs
from ..attr.deep_lift import Combine
from ..attr.noise_tunnel import _ANOTHER
from ..core.checks import check
from ..core.engine.groups import FeatureGroups
from ..core.engine.noisy_rows import Noisy
from ..core.engine.outputs import result_dtype
from ..core.engine.shortcut import saved
from ..core.engine.windows import Windows
from ..core.estimate.linear_fits import Lasso, LinearFit, NormalEquations, Ridge
from ..core.estimate.local_regression import pair_variance
from ..core.estimate.similarity import ExpKernel, cosine_distance, products, squares
from ..core.estimate.similarity import in_float64 as _float64
from ..core.intercept.deep_lift import Lifted
from ..core.prefix.affine_rows import AffineRows, Calls
from ..core.prefix.deltas import Deltas, Dense, Kept, NotAffine, Sparse
from ..core.prefix.mixing import Each, Mixed, Mixing
from .copies import Apart, in_order

TOP = "argmax"  # the target that is the class with the largest output
# Multiplications that must be saved for one row of inputs, as rows that stay affine take kernels of
# their own; where deltas are mixed hardly more of them than making rows takes.
_WORTH: dict[type[Mixing], float] = {Mixed: 2e4, Each: 2e5}


@dataclass(frozen=True)
class Question:
    """A model with its inputs and whatever else comes with a call.

    Rows are arranged as repeats × examples, repeat by repeat.
    """

    module: Callable[..., Tensor]
    inputs: tuple[Tensor, ...]  # each [B, *F_i]
    baselines: tuple[Tensor, ...]  # each [B, *F_i] or [1, *F_i]
    forward_args: tuple[Any, ...]
    of_rows: tuple[bool, ...]  # which of those are tensors with a row for each example
    # None; indices after the batch for all rows; [B] or [B, k] int64, one for each; or TOP
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
    ) -> Noisy:
        """As the eager methods draw with this seed."""
        seed: Any = self.seed.item() if isinstance(self.seed, Tensor) else self.seed
        return Noisy(self.inputs, background, stdevs, samples, seed)

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
        columns = outputs.argmax(1) if self.target is TOP else self.target
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
    ) -> Question:
        """The question about n samples of each example, with another seed for what is drawn."""

        def each(value: Tensor) -> Tensor:
            return value.repeat(n, *[1] * (value.dim() - 1))

        target = outputs.argmax(1) if self.target is TOP else self.target
        pairs = zip(self.forward_args, self.of_rows, strict=True)
        return replace(
            self,
            inputs=rows,
            baselines=baselines or tuple(b if b.shape[0] == 1 else each(b) for b in self.baselines),
            # Those of a copy of the batch are the same for all of its samples.
            forward_args=tuple(each(a) if own and self.apart is None else a for a, own in pairs),
            target=each(target) if isinstance(target, Tensor) else target,
            seed=None if self.seed is None else self.seed ^ _ANOTHER,
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


Program = Callable[[Question], Answer]


def saliency(question: Question, abs: bool) -> Answer:
    """∂F/∂x, or its absolute value."""
    outputs, _, gradients = _gradients(question, question.inputs, slice(None))
    return Answer(outputs, tuple(g.abs() for g in gradients) if abs else gradients)


def input_x_gradient(question: Question) -> Answer:
    """x ∘ ∂F/∂x."""
    outputs, _, gradients = _gradients(question, question.inputs, slice(None))
    pairs = zip(gradients, question.inputs, strict=True)
    return Answer(outputs, tuple(g * x for g, x in pairs))


def integrated_gradients(
    question: Question,
    alphas: Tensor,  # [S] float64
    weights: Tensor,  # [S] float64
    multiply_by_inputs: bool,
) -> Answer:
    """(x − x') ∘ Σ_s w_s ∂F/∂x (x' + α_s (x − x')), and how far its sum is from F(x) − F(x')."""
    batch, last = question.batch, -2 * question.batch  # rows: the path's points, then x, then x'
    ends = list(zip(question.inputs, question.baselines, strict=True))
    at_inputs = slice(last, -batch)
    if question.prefix:
        along = torch.cat([alphas, alphas.new_tensor([1, 0])])
        every, chosen, means = _gradient_sums(question, along, F.pad(weights, (0, 2)), at_inputs)
    else:
        rows = [torch.cat([_path(x, b, alphas), x, b.expand_as(x)]) for x, b in ends]
        every, chosen, gradients = _gradients(question, rows, at_inputs)
        wide = (g[:last].to(_wide(g)).unflatten(0, (-1, batch)) for g in gradients)
        means = tuple(torch.tensordot(weights.to(g.dtype), g, 1) for g in wide)
    if multiply_by_inputs:
        found = tuple(
            mean * (x.to(mean.dtype) - b.to(mean.dtype))
            for mean, (x, b) in zip(means, ends, strict=True)
        )
    else:
        found = means
    at_input, at_baseline = chosen[last:].reshape(2, batch).to(found[0].dtype).unbind()
    total = torch.stack([v.reshape(batch, -1).sum(1) for v in found]).sum(0)
    return Answer(every[at_inputs], found, total - (at_input - at_baseline))


def gradient_shap(
    question: Question,
    background: tuple[Tensor, ...],  # each [K, *F_i]
    stdevs: tuple[float, ...],
    samples: int,
    multiply_by_inputs: bool,
    convergence_delta: bool,
) -> Answer:
    """The mean over samples of (x̃ − b) ∘ ∂F/∂x (b + α (x̃ − b))."""
    batch = question.batch
    noisy = question.noisy(background, stdevs, samples)
    block = slice(0, samples), slice(0, batch)
    rows = [torch.cat(pair) for pair in zip(noisy.block(*block), question.inputs, strict=True)]
    outputs, _, gradients = _gradients(question, rows, slice(-batch, None))
    each = [g[:-batch].unflatten(0, (samples, batch)) for g in gradients]
    sums = (
        noisy.add_products([], each, *block)
        if multiply_by_inputs
        else [g.sum(0, dtype=_wide(g)) for g in each]
    )
    outputs = outputs[-batch:]
    found = tuple(total / samples for total in sums)
    if not convergence_delta:
        return Answer(outputs, found)
    if multiply_by_inputs:
        totals = noisy.products(each, *block)  # [N, B]
    else:
        totals = torch.stack([g.flatten(2).sum(2, dtype=torch.float64) for g in each]).sum(0)
    pairs = zip(noisy.ends().block(*block), noisy.starts().block(*block), strict=True)
    ends = question.choice(outputs)(question.outputs(*map(torch.cat, pairs)))
    at_end, at_start = ends.reshape(2, samples, batch).unbind()
    delta = (totals - (at_end - at_start)).T.flatten().to(found[0].dtype)
    return Answer(outputs, found, delta)


def deep_lift(question: Question, combine: Combine, eps: float) -> Answer:
    """Multipliers ∘ (x − x'), and how far their sum is from F(x) − F(x')."""
    x = question.inputs
    baselines = tuple(b.expand_as(a) for b, a in zip(question.baselines, x, strict=True))
    one_for_all = all(b.shape[0] == 1 for b in question.baselines)
    against = question.baselines if one_for_all and question.apart is None else baselines
    outputs, chosen, multipliers = _multipliers(question, x, against, eps)
    found = combine(multipliers, x, baselines)
    at_baselines = question.choice(outputs)(question.outputs(*(b.clone() for b in baselines)))
    return Answer(outputs, found, _sums(found) - (chosen - at_baselines).reshape(-1))


def deep_lift_shap(
    question: Question,
    background: tuple[Tensor, ...],  # each [K, *F_i]
    combine: Combine,
    eps: float,
) -> Answer:
    """The mean over the background, and for each pair how far its sum is from F(x) − F(x')."""
    count, batch = background[0].shape[0], question.batch
    x = tuple(a.repeat(count, *[1] * (a.dim() - 1)) for a in question.inputs)  # [K * B, *F_i]
    against = background
    if question.apart is not None:
        each = (b[:, None].expand(-1, batch, *[-1] * (b.dim() - 1)) for b in background)
        against = tuple(b.flatten(0, 1) for b in each)
    every, chosen, multipliers = _multipliers(question, x, against, eps)
    outputs = every[-batch:]
    i = torch.arange(batch * count, device=outputs.device)
    order = i % count * batch + i // count  # by example, and then by baseline
    baselines = tuple(b[i % count] for b in background)
    found = combine(tuple(m[order] for m in multipliers), tuple(a[order] for a in x), baselines)
    at_baselines = question.choice(outputs)(question.outputs(*(b[i // batch] for b in background)))
    delta = _sums(found) - (chosen - at_baselines).reshape(-1)[order]
    return Answer(outputs, tuple(a.unflatten(0, (batch, count)).mean(1) for a in found), delta)


def _multipliers(
    question: Question,
    rows: tuple[Tensor, ...],  # each [r * B, *F_i]
    baselines: tuple[Tensor, ...],  # as Lifted takes them; one for each row if rows interact
    eps: float,
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """All outputs of these rows, the chosen ones, and DeepLift's multipliers of those."""
    leaves = tuple(row.detach().requires_grad_() for row in rows)
    with torch.enable_grad():
        lifted = Lifted(question.module, len(rows), eps, shares=True)
        outputs = question.called(lifted, leaves + baselines)
        chosen = question.choice(outputs.detach()[-question.batch :])(outputs)
    return outputs.detach(), chosen.detach(), _for_leaves(chosen, leaves)


def _sums(values: tuple[Tensor, ...]) -> Tensor:  # each [N, *F_i] -> [N]
    return torch.stack([v.reshape(v.shape[0], -1).sum(1) for v in values]).sum(0)


def noise_tunnel(
    question: Question,
    method: Program,
    nt_type: str,
    stdevs: tuple[float, ...],
    samples: int,
    background: tuple[Tensor, ...] | None,  # each [K, *F_i], to draw the method's baselines from
) -> Answer:
    """The mean, mean square or variance of a method's attributions at noisy inputs."""
    outputs = question.outputs(*(x.clone() for x in question.inputs))  # it may write to them
    block = slice(0, samples), slice(0, question.batch)

    rows = question.noisy(None, stdevs, samples).block(*block)
    drawn = None
    if background is not None:
        drawn = question.noisy(background, stdevs, samples).starts().block(*block)
    answer = method(question.of_samples(samples, rows, drawn, outputs))
    each = (a.unflatten(0, (samples, question.batch)) for a in answer.attributions)
    smoothed = tuple(_smoothed(nt_type, a) for a in each)
    magnitude, delta = answer.magnitude, answer.convergence_delta
    if magnitude is not None:
        magnitude = magnitude.unflatten(0, (samples, question.batch)).amax(0)
    if delta is not None:  # by example, and then by sample
        own = delta.shape[0] // outputs.shape[0] // samples
        delta = delta.reshape(samples, -1, own).transpose(0, 1).flatten()
    return Answer(outputs, smoothed, delta, magnitude=magnitude)


def _smoothed(nt_type: str, values: Tensor) -> Tensor:  # [N, B, *F] -> [B, *F]
    wide = values.to(_wide(values))
    if nt_type == "smoothgrad":
        found = wide.mean(0)
    elif nt_type == "smoothgrad_sq":
        found = wide.square().mean(0)
    else:  # of numbers around zero
        apart = wide - wide[:1]
        found = (apart.square().mean(0) - apart.mean(0).square()).clamp(min=0)
    return found.to(values.dtype)


@dataclass(frozen=True)
class Replaced:
    """N kinds of rows: the inputs with groups of features replaced; in the last none is."""

    kept: Callable[[], tuple[Tensor, ...]]  # which features are left, [N, *F_i] bool
    # The groups of each input, as those of ``Sparse``: positions [1, P], offsets [1, G + 1].
    groups: tuple[tuple[Tensor, Tensor], ...]
    mixing: Mixing  # of what has all replaced the groups that are left; Each: of the inputs, each

    def anchors(
        self,
        question: Question,
        absent: tuple[Tensor, ...],  # what comes instead, each [K or 1, B or 1, *F_i]
        made: Callable[[], tuple[Tensor, ...]],
        calls: Calls,
    ) -> tuple[AffineRows, ...]:
        """The rows, as ``Coalitions`` and ``OneOff`` have them for the eager methods."""
        made = cache(made)
        few = isinstance(self.mixing, Mixed)
        found = []
        triples = zip(question.inputs, absent, self.groups, strict=True)
        for i, (x, other, (positions, offsets)) in enumerate(triples):
            start, end = (other, x[None]) if few else (x[None], other)
            apart = (end - start).flatten(0, 1)  # [K * B, *F]
            values = apart.flatten(1)[:, positions[0]]
            deltas = Sparse(values, positions, offsets, x.shape[1:], few, _group_linear)
            if start.shape[0] > 1:
                start = start.expand(-1, *x.shape)
            base, origin = Kept(start.flatten(0, 1)), partial(_nth, made, i)
            found.append(AffineRows.make(base, Kept(deltas), self.mixing, calls, origin=origin))
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
    return sums.unflatten(0, (b, -1)).transpose(0, 1)


# Values of groups, [B, *C, M], in the form that they are returned in.
Spread = Callable[[Tensor], tuple[Tensor, ...]]


def feature_ablation(
    question: Question,
    rows: Replaced,  # by one group after the other
    groups: FeatureGroups,
) -> Answer:
    """f(x) − f(x without a group), for every group."""
    outputs, values = _values(question, rows)
    found = flatten_outputs(groups.spread(_drops(values)), values[-1])
    return Answer(outputs, found, magnitude=_magnitude(values))


def occlusion(
    question: Question,
    rows: Replaced,  # by one window after the other
    windows: tuple[Windows, ...],
) -> Answer:
    """For every feature the mean of f(x) − f(x without a window) over the windows that cover it."""
    outputs, values = _values(question, rows)
    drops = _drops(values).to(result_dtype(values)).split([w.count for w in windows], dim=-1)
    spread = tuple(w.spread(drop) for w, drop in zip(windows, drops, strict=True))
    return Answer(outputs, flatten_outputs(spread, values[-1]), magnitude=_magnitude(values))


# From outputs for the empty coalition, those of a design, and the full one, [N + 2, K] float64, to
# values and standard errors [M, K]; errors that are not wanted are empty.
Fit = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Regression:
    """The weighted least squares over a design: linear in the outputs, and so one product."""

    solution: Tensor  # [M, N + 2] float64: what each coalition's output counts for each group
    pairs: tuple[Tensor, Tensor] | None  # of ShapleyRegression: z [P, M]; squared influence [M, P]

    def __call__(self, columns: Tensor) -> tuple[Tensor, Tensor]:
        phi = self.solution @ columns
        if self.pairs is None:
            return phi, phi[:0]
        present, squares = self.pairs
        gain, designed = columns[-1] - columns[0], columns[1:-1]
        residual = (designed[::2] - designed[1::2] + gain) / 2 - present @ phi
        return phi, (squares @ residual.square()).sqrt()


def kernel_shap(
    question: Question,
    rows: Replaced,  # by the features of players that are not in a coalition
    fit: Fit,
    background: tuple[Tensor, ...] | None,  # each [K, *F_i], in place of the baselines
    spread: Spread,
) -> Answer:
    """Shapley values, fitted to the outputs for a design."""
    outputs, values = _values(question, rows, background)
    phi, errors = fit(values.to(torch.float64).flatten(1))  # [M, B * C]
    chosen = question.choice(outputs)(outputs)  # [B, *C]

    def arrange(found: Tensor) -> tuple[Tensor, ...]:  # [M, B * C]
        found = found.reshape(-1, values.shape[1], values.shape[2:].numel())
        return spread(_by_output(found.movedim(0, -1), chosen))

    return Answer(
        outputs,
        arrange(phi),
        standard_errors=arrange(errors) if errors.shape[0] else None,
        magnitude=_magnitude(values),
    )


def lime(
    question: Question,
    rows: Replaced,  # by the features of players that are not in a coalition
    present: Tensor,  # [N, M] bool: the players in each of these coalitions, and at last all
    groups: FeatureGroups,  # one grouping for all examples
    kernel: ExpKernel,
    fit: LinearFit,
    spread: Spread,
    standard_errors: bool,
) -> Answer:
    """The coefficients of a linear fit to the outputs, weighed by how near a coalition's row is."""
    outputs, values = _values(question, rows)
    x = present[:-1].to(torch.float64)  # [N - 1, M]
    w = _similarities(question, kernel, x, groups)  # [B, N - 1]
    y = values[:-1].to(torch.float64) - values[-1].to(torch.float64)
    y = y.reshape(x.shape[0], -1, values.shape[2:].numel()).transpose(0, 1)  # [B, N, C]

    total = w.sum(1)
    share = (w / total[:, None])[..., None]  # [B, N, 1]
    centred = x - (share * x).sum(1, keepdim=True)  # [B, N, M]
    weighed = (w[..., None] * centred).mT
    normal = NormalEquations(total, weighed @ centred, weighed @ y)
    found = _fitted(fit, normal)  # [B, M, C]
    coefficients = spread(_by_output(found.mT, values[-1]))
    magnitude = _magnitude(values)
    if not standard_errors:
        return Answer(outputs, coefficients, magnitude=magnitude)
    residual = y - (share * y).sum(1, keepdim=True) - centred @ found  # [B, N, C]
    pairs = zip(residual.unbind(-1), found.unbind(-1), strict=True)
    variances = [
        pair_variance(centred, w, total, left, _sensitivity(fit, normal, b)) for left, b in pairs
    ]
    errors = _by_output(torch.stack(variances, 1).sqrt(), values[-1])  # [B, *C, M]
    return Answer(outputs, coefficients, standard_errors=spread(errors), magnitude=magnitude)


def _by_output(found: Tensor, outputs: Tensor) -> Tensor:  # [B, C, M], [B, *C] -> [B, *C, M]
    """What is found in the shape of the outputs; one number a row is none of its dimensions."""
    shape = outputs.shape[:1] if outputs.shape[1:].numel() == 1 else outputs.shape
    return found.reshape(*shape, found.shape[-1]).to(result_dtype(outputs))


# As the eager fits, which look at the numbers to find a shorter way.


def _fitted(fit: LinearFit, normal: NormalEquations) -> Tensor:  # [B, M, C]
    if isinstance(fit, Lasso) and fit.alpha > 0:
        total = normal.total[:, None, None]
        return ops.lasso(normal.gram / total, normal.rhs / total, fit.alpha)
    if isinstance(fit, Ridge) and fit.alpha > 0:
        return torch.linalg.solve(fit.penalised(normal.gram), normal.rhs)
    return _pseudo_inverse(normal.gram) @ normal.rhs


def _sensitivity(fit: LinearFit, normal: NormalEquations, coefficients: Tensor) -> Tensor:
    """As :meth:`LinearFit.sensitivity`, [B, M, M]."""
    if isinstance(fit, Ridge) and fit.alpha > 0:
        return torch.linalg.inv(fit.penalised(normal.gram))
    if isinstance(fit, Lasso) and fit.alpha > 0:
        return fit.among_active(normal.gram, coefficients, _pseudo_inverse)
    return _pseudo_inverse(normal.gram)


def _pseudo_inverse(gram: Tensor) -> Tensor:
    return torch.linalg.pinv(gram, rtol=1e-12, hermitian=True)


def _similarities(
    question: Question, kernel: ExpKernel, x: Tensor, groups: FeatureGroups
) -> Tensor:  # [B, N]
    """What the coalitions weigh; distances follow from sums over each group."""

    def sums(product: Callable[[Tensor, Tensor], Tensor]) -> Tensor:  # [B, M]
        total = x.new_zeros(question.batch, groups.count)
        triples = zip(question.inputs, question.baselines, groups.masks, strict=True)
        for given, baseline, mask in triples:
            values = product(_float64(given), _float64(baseline))
            values = values.expand(given.shape).reshape(question.batch, -1)
            total = total.index_add(1, mask.flatten().long(), values)
        return total

    if kernel.distance_mode == "euclidean":
        return kernel.of_distance((sums(lambda a, b: squares(a - b)) @ (1 - x).T).sqrt())
    aa, bb = sums(lambda a, b: squares(a)), sums(lambda a, b: squares(b))
    ab = sums(products)
    product = (aa - ab) @ x.T + ab.sum(1, keepdim=True)
    square = (aa - bb) @ x.T + bb.sum(1, keepdim=True)
    return kernel.of_distance(cosine_distance(product, aa.sum(1, keepdim=True), square))


def _values(
    question: Question,
    rows: Replaced,
    background: tuple[Tensor, ...] | None = None,  # each [K, *F_i]
) -> tuple[Tensor, Tensor]:
    """All outputs at the inputs, [B, *C], and the chosen ones for N kinds of rows, [N, B, *C'].

    Over a background they are the mean.
    """
    if background is None:
        absent = tuple(baseline[None] for baseline in question.baselines)  # [1, B or 1, *F_i]
    else:
        absent = tuple(other[:, None] for other in background)  # [K, 1, *F_i]

    def made() -> tuple[Tensor, ...]:
        triples = zip(rows.kept(), question.inputs, absent, strict=True)
        return tuple(torch.where(z[:, None, None], x, b).flatten(0, 2) for z, x, b in triples)

    if question.prefix:
        calls = Calls()
        every = _by_prefix(question, rows.anchors(question, absent, made, calls), 1)
        calls.end()
    else:
        every = question.outputs(*made())
    outputs = every[-question.batch :]
    chosen = question.choice(outputs)(every)
    shape = (rows.mixing.count, absent[0].shape[0], question.batch, *chosen.shape[1:])
    values = chosen.reshape(shape)
    if background is None:
        return outputs, values[:, 0]
    return outputs, values.to(torch.float64).mean(1)


def _by_prefix(question: Question, rows: tuple[AffineRows, ...], passes: int) -> Tensor:
    """All outputs of rows that stay affine in the model, which comes by them in so many passes.

    Raises:
        NotAffine: the model does what these cannot follow, or it saves too little.
    """
    calls, mixing = rows[0].calls, rows[0].mixing
    outputs = calls.check(question.outputs(*rows))
    mixed = mixing.coefficients.shape[1] if isinstance(mixing, Mixed) else 1
    each = saved(calls, question.batch, outputs.shape[0] // question.batch, mixed)
    if passes * each < _WORTH[type(mixing)]:
        raise NotAffine
    return outputs


def _magnitude(values: Tensor) -> Tensor:  # [N, B, *C] -> [B]
    """The largest value of each example; NaN if one is."""
    if not values.is_floating_point() or values.shape[2:].numel() == 0:  # always numbers
        return values.new_zeros(values.shape[1], dtype=torch.float32)
    return values.abs().transpose(0, 1).flatten(1).amax(1)


def _drops(values: Tensor) -> Tensor:  # [N + 1, B, *C] -> [B, *C, N]
    """How much lower the values are than the last."""
    if not values.dtype.is_signed:  # a truth value or an unsigned number, but they may rise
        values = values.long()
    return (values[-1] - values[:-1]).movedim(0, -1)


def _gradients(
    question: Question, rows: Sequence[Tensor], at_inputs: slice
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """All outputs of these rows, the chosen ones, and the gradients of those."""
    leaves = tuple(row.detach().requires_grad_() for row in rows)
    with torch.enable_grad():
        outputs = question.outputs(*(leaf.clone() for leaf in leaves))  # it may write to them
        chosen = question.choice(outputs.detach()[at_inputs])(outputs)
    return outputs.detach(), chosen.detach(), _for_leaves(chosen, leaves)


def _gradient_sums(
    question: Question,
    along: Tensor,  # [R] float64: how far rows are on the path from the baselines to the inputs
    weights: Tensor,  # [R] float64
    at_inputs: slice,
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """As :func:`_gradients`, of rows that stay affine: the weighted sums over the R rows."""
    calls, mixing = Calls(), Mixed(along[:, None])
    rows, leaves = [], []
    for i, (x, baseline) in enumerate(zip(question.inputs, question.baselines, strict=True)):
        leaves.append((x - baseline)[None].detach().requires_grad_())
        delta: Kept[Deltas] = Kept(Dense(leaves[i]), frozenset((i,)))
        rows.append(AffineRows.make(Kept(baseline), delta, mixing, calls))
    with torch.enable_grad():
        outputs = _by_prefix(question, tuple(rows), 2)
        chosen = question.choice(outputs.detach()[at_inputs])(outputs).flatten()
        each = weights.to(chosen.dtype).repeat_interleave(question.batch)
        calls.gather(chosen, each, len(leaves))
        sums = calls.pull_back(leaves)
    calls.end()
    return outputs.detach(), chosen.detach(), tuple(s[0] for s in sums)


def _for_leaves(chosen: Tensor, leaves: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    expected = "outputs that depend on {} and can be differentiated"
    check(chosen.requires_grad, "forward_func", expected, "none that are", "the inputs")
    found = torch.autograd.grad(chosen, leaves, torch.ones_like(chosen), allow_unused=True)
    for i, gradient in enumerate(found):
        check(gradient is not None, "forward_func", expected, "no gradient", f"inputs[{i}]")
    return found


def _path(x: Tensor, baseline: Tensor, alphas: Tensor) -> Tensor:  # [S * B, *F]
    wide = _wide(x)
    start, end = baseline.to(wide), x.to(wide)
    steps = alphas.to(wide).reshape(-1, *[1] * x.dim())
    return (start + steps * (end - start)).to(x.dtype).flatten(0, 1)


def _wide(x: Tensor) -> torch.dtype:
    """What sums are kept in."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def check_one_number(question: Question, outputs: Tensor) -> None:
    """The target must leave one number a row."""
    chosen = question.choice(outputs)(outputs)
    check(
        chosen.numel() == chosen.shape[0],
        "target",
        "one that leaves one number a row: an int, a tensor with one for each example, or {!r}",
        f"{tuple(chosen.shape[1:])} numbers a row",
        TOP,
    )
