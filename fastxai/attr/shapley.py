"""Shapley values: over all coalitions, ShapleyValues, or over orders, ShapleyValueSampling."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .. import ops
from ..core import coalition_bits
from ..core.checks import Form, TensorOrTuple, check, check_limit, check_seed
from ..core.engine.groups import FeatureGroups, check_feature_mask
from ..core.engine.inputs import packed
from ..core.engine.outputs import result_dtype
from ..core.engine.progress import Bar
from ..core.engine.request import Request
from ..core.estimate import sampling
from ..core.estimate.budget import check_budget
from ._base import captum_compatible
from ._coalitions import check_groups_for_batch, coalition_rows
from ._explanation import Result
from ._perturbation import PerturbationAttribution
from ._players import counted, groups_that_vary, most_players
from ._rounds import Sampled, by_players, in_rounds
from ._worth import stream_worths, with_background, worth_of

_MOST_PLAYERS = 25  # whose coalitions fit in memory, and in anyone's patience
_FIRST_ORDERS = 50  # 25 pairs: standard errors of fewer are too rough to stop by
_MOST_ORDERS = 1000
_NUMBERS = 1 << 21  # of what players add in a few orders, at a time


class ShapleyValues(PerturbationAttribution):
    """Exact Shapley values: the mean gain from a feature over all orders of joining in.

    φ_i = Σ_S |S|! (M − |S| − 1)! / M! · (v(S ∪ i) − v(S)), with v(S) the output for the features of
    S taken from the input and the others from the baseline. Every one of the 2^M coalitions is
    evaluated once. A group whose features equal the baseline has exactly zero, and M counts the
    others.

    Source: Shapley, "A value for n-person games" (1953).
    """

    @captum_compatible
    def attribute(
        self,
        inputs: Form,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        feature_mask: Any = None,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
        *,
        background: Any = None,
        background_weights: Any = None,
        link: Any = "identity",
    ) -> Form:
        """Attributes the chosen output to the groups of features.

        Args:
            inputs: a tensor [B, *F] of any dtype, or a tuple of tensors [B, *F_i].
            baselines: what stands for an absent feature, as for :class:`FeatureAblation`.
            target: which output is explained, as for :class:`FeatureAblation`.
            additional_forward_args: extra arguments, as for :class:`FeatureAblation`.
            feature_mask: ids that group features, as for :class:`FeatureAblation`; at most 25
                groups of an example may differ from the baseline.
            perturbations_per_eval: at most so many coalitions (times B rows) in one call of the
                model; None to choose for speed.
            show_progress: whether to show a tqdm bar on stderr.
            background: several rows that stand for absent features, in place of ``baselines``, as
                for :class:`KernelShap`.
            background_weights: how much each of them counts, as for :class:`KernelShap`.
            link: in which unit the values add up, as for :class:`KernelShap`.

        Returns:
            Attributions in the form of the inputs, float64 for outputs in float64, otherwise
            float32, without a graph: [B, *F_i] for one output a row, [B, *C, *F_i] for several,
            [1, *F_i] for one output for the batch.

        Raises:
            ArgumentError: an argument is not as above, or an output is NaN.
            IndexError: the target is out of range.
        """
        question = baselines, target, additional_forward_args, background, background_weights, link
        request = self._query(inputs, *question)
        found = self._of_all_coalitions(
            request,
            detailed=False,
            feature_mask=feature_mask,
            perturbations_per_eval=perturbations_per_eval,
            show_progress=show_progress,
        )
        return packed(found.values, inputs)

    def _query(
        self,
        inputs: TensorOrTuple,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        background: Any = None,
        background_weights: Any = None,
        link: Any = "identity",
        **named: Any,
    ) -> Request:
        request = super()._query(inputs, baselines, target, additional_forward_args, **named)
        return with_background(request, baselines, background, background_weights, link)

    def _find(self, request: Request, detailed: bool, *options: Any, **named: Any) -> Result:
        return self._of_all_coalitions(request, detailed, *options, **named)

    def _of_all_coalitions(
        self,
        request: Request,
        detailed: bool,
        feature_mask: Any,
        perturbations_per_eval: int | None,
        show_progress: bool,
    ) -> Result:
        groups = check_feature_mask(feature_mask, request.inputs)
        varies = groups_that_vary(request, groups)
        most = most_players(request, varies, groups.count)
        _check_few_enough(most)
        limit = check_limit(perturbations_per_eval, request.inputs.batch)

        worth = worth_of(request)
        to_come = worth.rows << most
        outputs = self._outputs_at_inputs(request, limit, to_come, varies is not None)
        outputs = worth.linked(outputs)
        check_groups_for_batch(request, groups)
        sampled = by_players(
            request,
            groups,
            varies=varies,
            outputs=outputs,
            sample=partial(self._enumerate, limit),
            rows=lambda m: worth.rows << m,
            title=self._title(show_progress),
        )
        players = counted(request, varies, len(outputs), groups.count) if detailed else None
        return _found(groups, sampled, outputs, players)

    def _enumerate(
        self,
        limit: int | None,
        request: Request,
        groups: FeatureGroups,
        outputs: Tensor,  # [P, *C]
        progress: Bar,
    ) -> Sampled:
        m = groups.count
        _check_few_enough(m)  # for what cannot be divided these are the players of all examples
        bits = coalition_bits.all_coalitions(m)
        rows = coalition_rows(request, groups, bits)
        sizes = coalition_bits.subset_sizes(bits)
        # What a coalition of each size counts for a player outside it: it is one of those that a
        # player of M may join, of which all have C(M - 1, size), and each of M sizes weighs alike.
        share = [1 / (m * math.comb(m - 1, s)) for s in range(m)]
        outside = torch.tensor([*share, 0.0], dtype=torch.float64)
        inside = torch.tensor([0.0, *share], dtype=torch.float64)
        device = rows.device
        total = (inside + outside)[sizes].to(device)  # [2^M]
        absent = outside[sizes].to(device)  # [2^M]
        phi = torch.zeros(m, *_columns(outputs), dtype=torch.float64, device=device)
        empty = phi.new_zeros(_columns(outputs))

        worth = worth_of(request)

        def add(y: Tensor, which: slice, examples: slice) -> None:  # [n, b, C]
            joined = ops.coalition_rhs(rows.bits[which], m, total[which], y.flatten(1))
            left = absent[which] @ y.to(torch.float64).flatten(1)
            phi[:, examples] += (joined - left).unflatten(1, y.shape[1:])
            if which.start == 0:  # the first coalition is the empty one
                empty[examples] += y[0].to(torch.float64)

        stream_worths(
            self, request, rows=rows, worth=worth, add=add, limit=limit, progress=progress
        )
        return Sampled(phi, torch.full((len(outputs),), 1 << m), empty=empty)


class ShapleyValueSampling(ShapleyValues):
    """Shapley values by sampling orders: the mean gain from a feature over random orders.

    Orders come in pairs, one the other's reverse, which cancels much of the chance in them. An
    order costs M − 1 model rows, M counting the groups that differ from the baseline: the others
    have exactly zero. :meth:`explain` has standard errors, from how the pairs differ.

    Source: Castro, Gómez and Tejada, "Polynomial calculation of the Shapley value based on
    sampling" (2009); Mitchell, Cooper, Frank and Holmes, "Sampling permutations for Shapley value
    estimation" (2022).
    """

    @captum_compatible
    def attribute(  # type: ignore[override]
        self,
        inputs: Form,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        feature_mask: Any = None,
        n_samples: int | str = 25,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
        *,
        background: Any = None,
        background_weights: Any = None,
        link: Any = "identity",
        tolerance: float = 0.01,
        max_samples: int | None = None,
        seed: int | None = None,
    ) -> Form:
        """Attributes the chosen output to the groups of features.

        Args:
            inputs: a tensor [B, *F] of any dtype, or a tuple of tensors [B, *F_i].
            baselines: what stands for an absent feature, as for :class:`FeatureAblation`.
            target: which output is explained, as for :class:`FeatureAblation`.
            additional_forward_args: extra arguments, as for :class:`FeatureAblation`.
            feature_mask: ids that group features, as for :class:`FeatureAblation`.
            n_samples: how many orders; or "auto": for each example as many as ``tolerance`` takes,
                50 at least.
            perturbations_per_eval: at most so many coalitions (times B rows) in one call of the
                model; None to choose for speed.
            show_progress: whether to show a tqdm bar on stderr.
            background: several rows that stand for absent features, in place of ``baselines``, as
                for :class:`KernelShap`.
            background_weights: how much each of them counts, as for :class:`KernelShap`.
            link: in which unit the values add up, as for :class:`KernelShap`.
            tolerance: with "auto", the largest standard error to end with, as a share of the range
                of the example's values and zero.
            max_samples: with "auto", how many orders to take at most; None for 1000. If they are
                not enough, a warning tells.
            seed: decides the orders; None takes one from torch's default generator.

        Returns:
            Estimates of the values, in the form and dtype of those of :class:`ShapleyValues`.

        Raises:
            ArgumentError: an argument is not as above, or an output is NaN.
            IndexError: the target is out of range.
        """
        question = baselines, target, additional_forward_args, background, background_weights, link
        request = self._query(inputs, *question)
        found = self._find(
            request,
            detailed=False,
            feature_mask=feature_mask,
            n_samples=n_samples,
            perturbations_per_eval=perturbations_per_eval,
            show_progress=show_progress,
            tolerance=tolerance,
            max_samples=max_samples,
            seed=seed,
        )
        return packed(found.values, inputs)

    def _find(
        self,
        request: Request,
        detailed: bool,
        feature_mask: Any,
        n_samples: int | str,
        perturbations_per_eval: int | None,
        show_progress: bool,
        tolerance: float,
        max_samples: int | None,
        seed: int | None,
    ) -> Result:
        groups = check_feature_mask(feature_mask, request.inputs)
        budget = check_budget(n_samples, tolerance, max_samples, _MOST_ORDERS)
        limit = check_limit(perturbations_per_eval, request.inputs.batch)
        seed = check_seed(seed)

        varies = groups_that_vary(request, groups)

        worth = worth_of(request)
        rows = lambda m: budget.most * (m - 1) * worth.rows  # noqa: E731
        to_come = budget.most * groups.count * worth.rows
        divided = varies is not None or budget.is_adaptive
        full = worth.linked(self._outputs_at_inputs(request, limit, to_come, divided))
        check_groups_for_batch(request, groups)

        def sample(request: Request, groups: FeatureGroups, full: Tensor, progress: Bar) -> Sampled:
            empty = self._of_nobody(request, groups, full, limit)
            orders = _Orders(
                self,
                groups,
                full=full,
                empty=empty,
                limit=limit,
                seed=seed,
                wants_errors=detailed or budget.is_adaptive,
            )
            sampled = in_rounds(
                orders, request, outputs=full, budget=budget, first=_FIRST_ORDERS, progress=progress
            )
            return replace(sampled, empty=empty.to(torch.float64).reshape(_columns(empty)))

        title = self._title(show_progress)
        sampled = by_players(
            request,
            groups,
            varies=varies,
            outputs=full,
            sample=sample,
            rows=rows,
            title=title,
            tolerance=budget.tolerance,
        )
        players = counted(request, varies, len(full), groups.count) if detailed else None
        return _found(groups, sampled, full, players)

    def _of_nobody(
        self, request: Request, groups: FeatureGroups, full: Tensor, limit: int | None
    ) -> Tensor:  # like full
        """v(∅)."""
        if request.background is None:
            return worth_of(request).linked(self._at_baselines(request, limit))
        rows = coalition_rows(request, groups, torch.zeros(1, -(-groups.count // 64)).long())
        empty = torch.zeros(_columns(full), dtype=torch.float64, device=rows.device)

        def add(y: Tensor, which: slice, examples: slice) -> None:
            empty[examples] += y[0]

        stream_worths(self, request, rows=rows, worth=worth_of(request), add=add, limit=limit)
        return empty.reshape(full.shape)


class _Orders:
    """Random orders of the players, and what each adds when it joins."""

    def __init__(
        self,
        method: ShapleyValueSampling,
        groups: FeatureGroups,
        full: Tensor,  # [P, *C]
        empty: Tensor,  # [P, *C]
        limit: int | None,
        seed: int,
        wants_errors: bool,
    ):
        self._method, self._groups, self._limit, self._seed = method, groups, limit, seed
        self._full, self._empty = (v.to(torch.float64).reshape(_columns(v)) for v in (full, empty))
        self._gains = self._full.new_zeros(groups.count, *self._full.shape)  # Σ, [M, P, C]
        self._spread = _Spread(self._gains) if wants_errors else None

    def ask(self, request: Request, taken: slice, problems: Tensor, progress: Bar) -> None:
        m, groups = self._groups.count, self._groups.of(problems)
        orders = sampling.permutations(m, taken.stop, self._seed)[taken]  # [n, M]
        rows = coalition_rows(request, groups, sampling.prefixes(orders), orders)
        orders = orders.to(rows.device)
        joined, joins = (
            orders[:, :-1].flatten(),
            orders[:, 1:].flatten(),
        )  # last into a prefix, next
        full, empty = self._full[problems], self._empty[problems]  # [k, C]
        every = full.expand(len(orders), *full.shape)
        gains = full.new_zeros(m, *full.shape)
        gains.index_add_(0, orders[:, -1], every)
        gains.index_add_(0, orders[:, 0], empty.expand_as(every), alpha=-1)
        kept = full.new_zeros(len(rows.bits) if self._spread else 0, *full.shape)

        def add(y: Tensor, which: slice, examples: slice) -> None:  # [n, b, C]
            y = y.to(torch.float64)
            part = gains[:, examples]
            part.index_add_(0, joined[which], y)
            part.index_add_(0, joins[which], y, alpha=-1)
            if self._spread:
                kept[which, examples] += y

        worth = worth_of(request)
        stream_worths(
            self._method,
            request,
            rows=rows,
            worth=worth,
            add=add,
            limit=self._limit,
            progress=progress,
        )
        self._gains[:, problems] += gains
        if self._spread:
            self._spread.add(_by_pair(orders, empty, kept, full), problems)

    def estimate(
        self, request: Request, n: int, problems: Tensor
    ) -> tuple[Tensor, Tensor | None]:  # [M, k, C]
        errors = self._spread.standard_errors(problems) if self._spread else None
        return self._gains[:, problems] / n, errors


def _by_pair(
    orders: Tensor,  # [n, M]
    empty: Tensor,  # [k, C]
    between: Tensor,  # [n (M - 1), k, C]
    full: Tensor,  # [k, C]
) -> Iterator[Tensor]:  # each [p, M, k, C]
    """What every player adds in an order and its reverse, on average, for all pairs of them."""
    m = orders.shape[1]
    values = between.unflatten(0, (len(orders), m - 1))
    step = 2 * max(1, _NUMBERS // max(1, 2 * m * full.numel()))
    for first in range(0, len(orders) // 2 * 2, step):
        some = slice(first, min(first + step, len(orders) // 2 * 2))
        ends = (v.expand(some.stop - first, 1, *v.shape) for v in (empty, full))
        one, other = ends
        path = torch.cat([one, values[some], other], 1)  # [n, M + 1, k, C]
        place = orders[some].argsort(1)[..., None, None].expand(-1, -1, *full.shape)
        gains = path.diff(dim=1).gather(1, place)
        yield (gains[::2] + gains[1::2]) / 2


class _Spread:
    """How far observations spread around their mean, added up part by part.

    Source: Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing
    sample variances" (1982).
    """

    def __init__(self, like: Tensor):  # [M, P, C]
        self._count = like.new_zeros(like.shape[1], 1)  # [P, 1]
        self._mean = torch.zeros_like(like)
        self._squares = torch.zeros_like(like)  # Σ (observation − mean)²

    def add(self, parts: Iterator[Tensor], problems: Tensor) -> None:  # each [p, M, k, C]
        count, mean, squares = (
            self._count[problems],
            self._mean[:, problems],
            self._squares[:, problems],
        )
        for part in parts:
            new, of_part = len(part), part.mean(0)
            apart, total = of_part - mean, count + new
            squares += (part - of_part).square().sum(0) + apart.square() * (count * new / total)
            mean += apart * (new / total)
            count = total
        self._count[problems], self._mean[:, problems], self._squares[:, problems] = (
            count,
            mean,
            squares,
        )

    def standard_errors(self, problems: Tensor) -> Tensor:  # [M, k, C]
        """Of the means; NaN for fewer than two observations."""
        count = self._count[problems]
        freedom = torch.where(count > 1, count - 1, torch.nan)
        return (self._squares[:, problems] / (count * freedom)).sqrt()


def _columns(outputs: Tensor) -> tuple[int, int]:
    """[B, *C] as [B, C]."""
    return outputs.shape[0], outputs.shape[1:].numel()


def _found(
    groups: FeatureGroups,
    sampled: Sampled,
    full: Tensor,  # [P, *C]
    players: Tensor | None,  # [P] int64, where details are wanted
) -> Result:
    values = _at_features(groups, sampled.values, full)
    if players is None or sampled.empty is None:
        return Result(values)
    empty = sampled.empty.reshape(full.shape)
    difference = full.to(torch.float64) - empty
    errors = sampled.errors
    return Result(
        values,
        full,
        baseline_outputs=empty.to(full.dtype),
        convergence_delta=sampled.values.sum(0).reshape(full.shape) - difference,
        standard_errors=None if errors is None else _at_features(groups, errors, full),
        samples=None if errors is None else sampled.samples,
        players=players,
        reached=sampled.reached,
    )


def _check_few_enough(players: int) -> None:
    check(
        players <= _MOST_PLAYERS,
        "feature_mask",
        "at most {} groups that differ from the baseline, for 2^M model rows (KernelShap takes "
        "any number)",
        f"{players} groups",
        _MOST_PLAYERS,
    )


def _at_features(groups: FeatureGroups, values: Tensor, outputs: Tensor) -> tuple[Tensor, ...]:
    """Values of groups, [M, B, C], at each of their features, for outputs [B, *C]."""
    values = values.movedim(0, -1).reshape(*outputs.shape, groups.count)
    return groups.spread(values.to(result_dtype(outputs)))
