"""Shapley values by weighted least squares over coalitions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from .. import ops
from ..core import designs
from ..core.affine import most_multiplications
from ..core.budget import Budget, check_budget
from ..core.inputs import (
    ArgumentError,
    FeatureGroups,
    TensorOrTuple,
    check,
    check_background,
    check_feature_mask,
    check_limit,
    check_seed,
    warn,
)
from ..core.kriging import Kriging, leaves_residuals
from ..core.progress import Bar
from ..core.surrogate import ShapleyRegression
from ..core.tiers import best_tier, check_tier
from ._base import (
    Found,
    PerturbationAttribution,
    Query,
    arranged,
    captum_compatible,
    check_groups_for_batch,
    check_ids,
    coalition_rows,
)
from ._players import counted, groups_that_vary
from ._sampling import Sampled, by_players, in_rounds

_NUMBERS_KEPT = 1 << 20  # coalitions × groups of a design to keep; their bits are 128 KiB
_FIRST_SAMPLES, _MOST_SAMPLES = 5, 100  # for each group, if the errors decide how many
# Further names of designs: of those that grow with the samples, and of those for kriging.
_GROWING, _GROWING_MIXED, _FOR_KRIGING = "growing", "growing mixed", "for kriging"


class KernelShap(PerturbationAttribution):
    """Shapley values from the outputs for a sample of coalitions.

    With v(z) the output for a coalition z, of size s, of the M groups of features, these are the
    φ that minimise Σ_z k(s) (v(z) − v(∅) − Σ_{i ∈ z} φ_i)², k(s) = (M − 1) / (C(M, s) s (M − s)),
    under the constraint Σ φ = v(all) − v(∅), which holds exactly. Where all coalitions fit
    ``n_samples`` they are all taken and the result is exact; which are taken otherwise, and how
    they weigh, is the design's affair (see ``design`` below).

    A group whose features equal the baseline, or every background row, has exactly zero: M counts
    the other groups, and each example has its own number of these. Examples with as many, and all
    outputs, share one design and one factorisation.

    Source: Lundberg and Lee, "A unified approach to interpreting model predictions" (2017); Covert
    and Lee, "Improving KernelSHAP" (2021); Musco and Witter, "Provably accurate Shapley value
    estimation via leverage score sampling" (2024).
    """

    @captum_compatible
    def attribute(
        self,
        inputs: TensorOrTuple,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        feature_mask: Any = None,
        n_samples: int | str = 25,
        perturbations_per_eval: int | None = None,
        return_input_shape: bool = True,
        show_progress: bool = False,
        *,
        background: Any = None,
        design: str | None = None,
        tier: str | None = None,
        tolerance: float = 0.01,
        max_samples: int | None = None,
        seed: int | None = None,
    ) -> Any:
        """Attributes the chosen output to the groups of features.

        Args:
            inputs: a tensor [B, *F] of any dtype, or a tuple of tensors [B, *F_i].
            baselines: what stands for an absent feature, as for :class:`FeatureAblation`.
            target: as for :class:`FeatureAblation`.
            additional_forward_args: as for :class:`FeatureAblation`.
            feature_mask: as for :class:`FeatureAblation`.
            n_samples: coalitions to evaluate for each example, the empty and the full one among
                them. From 2^M on the result is exact. As a rule take at least 5 for each group; a
                number that cannot determine M values is answered as well as it can be (the least
                values that add up), with a warning. "auto" takes for each example as many as
                ``tolerance`` asks for, 5 for each group at least.
            perturbations_per_eval: at most so many rows in one call of the model; None to choose
                for speed.
            return_input_shape: False for one number for each group rather than for each feature.
            show_progress: whether to show a tqdm bar on stderr.
            background: several rows [K, *F_i], or a tuple of them for a tuple of inputs, in place
                of ``baselines``: v(z) is the mean of the outputs over all K, which takes K model
                rows for each coalition.
            design: which coalitions are taken: "enumeration", all; "hadamard", groups by themselves
                or in couples and balanced halves of them, best for few samples; "leverage", random
                ones of every size, best for many; "mixed", of both, best for kriging. None for the
                best for this number and tier; so too for an example with so few players that there
                is no such design, though there is one for all groups.
            tier: how the values are found from the outputs: "fast", by the regression; "shared",
                corrected by kriging (:class:`~fastxai.core.kriging.Kriging`) with one process for
                all examples and outputs; "accurate", with one for each of them too, whose work
                grows with the cube of the samples. None for the most accurate that takes at most
                a tenth of the model's work ("accurate" for at most 800 samples). Where all
                coalitions are taken, or too few for the regression, it is "fast". With samples by
                tolerance it must be worth that also for ``max_samples``.
            tolerance: with "auto", the largest standard error to end with, as a share of the range
                of the example's values and zero.
            max_samples: with "auto", how many coalitions to take at most; None for 100 for each
                group that differs from the baseline. If they are not enough, a warning tells.
            seed: decides the sample; None takes one from torch's default generator.

        Returns:
            Attributions in the form of the inputs, float64 for outputs in float64, otherwise
            float32, without a graph: [B, *F_i] for one output a row, [B, *C, *F_i] for several,
            [1, *F_i] for one output for the batch. With ``return_input_shape=False`` one tensor
            [B, *C, greatest id − least id + 1].

        Raises:
            ArgumentError, IndexError: as :class:`FeatureAblation`; or the design does not exist for
                this number of groups and samples.
        """
        query = self._query(inputs, baselines, target, additional_forward_args, background)
        found = self._find(
            query,
            False,
            feature_mask,
            n_samples,
            perturbations_per_eval,
            return_input_shape,
            show_progress,
            design,
            tier,
            tolerance,
            max_samples,
            seed,
        )
        return query.inputs.pack(found.values) if return_input_shape else found.values[0]

    @property
    def multiplies_by_inputs(self) -> bool:
        return False  # as in Captum, whose KernelShap is a Lime

    def _query(  # type: ignore[override]
        self,
        inputs: TensorOrTuple,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        background: Any = None,
    ) -> Query:
        query = super()._query(inputs, baselines, target, additional_forward_args)
        if background is None:
            return query
        check(baselines is None, "background", "no baselines beside it", "both")
        background = check_background(background, query.inputs)
        return replace(query, inputs=query.inputs.in_dtypes_of(background), background=background)

    def _find(  # type: ignore[override]
        self,
        query: Query,
        detailed: bool,
        feature_mask: Any,
        n_samples: int | str,
        perturbations_per_eval: int | None,
        return_input_shape: bool,
        show_progress: bool,
        design: str | None,
        tier: str | None,
        tolerance: float,
        max_samples: int | None,
        seed: int | None,
    ) -> Found:
        groups = check_feature_mask(feature_mask, query.inputs)
        if not return_input_shape:
            check_ids(groups)
        seed = check_seed(seed)
        # A large one is asked for several times, and kept nowhere else.
        regression = lru_cache(maxsize=1)(partial(_regression, seed))
        limit, tier = check_limit(perturbations_per_eval), check_tier(tier)
        amount = (n_samples, tolerance, max_samples)
        asked = _Asked(regression, seed, amount, limit, design, tier, detailed)
        budget = asked.budget(groups.count)
        if budget.is_open:
            check(design is None, "design", "None with samples by tolerance", repr(design))
        if design is not None:
            check(isinstance(design, str), "design", "the name of a design", type(design).__name__)
            regression(groups.count, design, budget.most)  # that it exists
        varies = groups_that_vary(query, groups)

        rows = lambda m: asked.rows(m) * _background_rows(query)  # noqa: E731
        to_come = budget.most * _background_rows(query)
        divided = varies is not None or budget.is_open
        full = self._outputs_at_inputs(query, limit, to_come, divided)  # [P, *C]
        check_groups_for_batch(query, groups)
        title = self._title(show_progress)
        sample = partial(self._sample, asked)
        sampled = by_players(query, groups, varies, full, sample, rows, title, budget.tolerance)
        if asked.too_few:
            _warn_too_few(max(asked.too_few), budget.most)

        def arrange(values: Tensor) -> tuple[Tensor, ...]:  # [M, P, C]
            return arranged(values.movedim(0, -1), full, groups, return_input_shape)

        if sampled.errors is None or sampled.empty is None:
            return Found(arrange(sampled.values))
        difference = full.reshape(_columns(full)).to(torch.float64) - sampled.empty
        delta = sampled.values.sum(0) - difference.to(sampled.values.device)
        return Found(
            arrange(sampled.values),
            full,
            sampled.empty.reshape(full.shape),
            delta.reshape(full.shape).to(full.device),
            arrange(sampled.errors),
            sampled.samples,
            counted(query, varies, len(full), groups.count),
            sampled.reached,
            sampled.tier,
        )

    def _sample(
        self,
        asked: _Asked,
        query: Query,
        groups: FeatureGroups,
        full: Tensor,  # [P, *C]
        progress: Bar,
    ) -> Sampled:
        m, budget, there_are = groups.count, asked.budget(groups.count), _coalitions(groups.count)
        if there_are is not None and there_are < budget.most:
            budget = replace(budget, most=there_are)
        first = budget.most
        if budget.is_open:
            first = min(first, max(2 * m + 6, _FIRST_SAMPLES * m + m % 2))
        tier_of = self._tier_of(query, m, full, asked.tier)
        # A design that grows is for one tier: one that is worth its work also for most samples.
        most = budget.most if there_are is None else min(budget.most, there_are - budget.is_open)
        krigs = tier_of(most) != "fast"
        if not krigs:
            tier_of = _fast
        design = asked.design_for(m, first)
        if budget.is_open:
            design = _GROWING_MIXED if krigs else _GROWING
        elif design is None and krigs:
            design = _FOR_KRIGING
        regression = partial(asked.regression, m, design)
        if not regression(first)[1].determined:
            asked.too_few.append(m)
        with_errors = asked.detailed or budget.is_open
        fits = _Fits(regression, partial(_kriging, asked.seed, m, design), tier_of)
        keeps = with_errors or krigs
        game = _Game(self, groups, full, asked.limit, fits, keeps, with_errors)
        found = in_rounds(game, query, full, budget, first, progress, there_are)
        return Sampled(
            found.values, found.samples, found.errors, found.reached, game.empty, game.tier
        )

    def _tier_of(
        self, query: Query, players: int, full: Tensor, tier: str | None
    ) -> Callable[[int], str]:
        """The tier for so many samples."""
        if tier is not None:
            return lambda n: tier
        outputs, backgrounds = full.shape[1:].numel(), _background_rows(query)

        def best(n: int, work: float) -> str:
            return best_tier(players, n, outputs, n * backgrounds, work, full.device)

        def tier_of(n: int) -> str:
            # At most so much work is quickly known, and all there is to know of a small module.
            most = most_multiplications(query.model.modules, query.inputs.tensors)
            if math.isfinite(most) and best(n, most) == "fast":
                return "fast"
            return best(n, self._multiplications(query))

        return tier_of


@dataclass(frozen=True)
class _Asked:
    """What was asked for, whoever plays."""

    regression: Callable[[int, str | None, int], tuple[designs.Design, ShapleyRegression]]
    seed: int
    amount: tuple[Any, Any, Any]  # n_samples, tolerance, max_samples
    limit: int | None
    design: str | None
    tier: str | None
    detailed: bool
    too_few: list[int] = field(default_factory=list)  # players whose values are not determined

    def budget(self, players: int) -> Budget:
        return check_budget(*self.amount, _MOST_SAMPLES * players, at_least=2)

    def rows(self, players: int) -> int:
        """Coalitions for the model at most: they are pairs, and the full one is the input."""
        budget, there_are = self.budget(players), _coalitions(players)
        most = budget.most if there_are is None else min(budget.most, there_are)
        return most - 1 if budget.is_open else most // 2 * 2 - 1

    def design_for(self, players: int, n_samples: int) -> str | None:
        """The design, which all groups have but some alone need not have; None for the best."""
        if self.design is None:
            return None
        try:
            self.regression(players, self.design, n_samples)
        except ArgumentError:
            return None
        return self.design


@dataclass(frozen=True)
class _Fits:
    """What is fitted to the outputs for so many samples."""

    regression: Callable[[int], tuple[designs.Design, ShapleyRegression]]
    kriging: Callable[[int], Kriging]
    tier: Callable[[int], str]


class _Game:
    """A model's outputs for the coalitions of a design, and the regression on them.

    The outputs are added up as they come, unless ``keeps``: then all are there for kriging, the
    standard errors and for a design that grows.
    """

    def __init__(
        self,
        method: KernelShap,
        groups: FeatureGroups,
        full: Tensor,  # [P, *C]
        limit: int | None,
        fits: _Fits,
        keeps: bool,
        with_errors: bool,
    ):
        self._method, self._groups, self._limit = method, groups, limit
        self._fits, self._with_errors = fits, with_errors
        self.tier = "fast"  # of the last estimate
        self._full = full.reshape(_columns(full)).to(torch.float64)  # [P, C]
        self._empty = torch.zeros_like(self._full)
        self._moment = self._full.new_zeros(groups.count, *self._full.shape)  # [M, P, C]
        self._known = _Known(groups.count, self._full) if keeps else None

    @property
    def empty(self) -> Tensor:
        """v(∅), [P, C] float64, where the model is."""
        return self._empty

    def ask(self, query: Query, taken: slice, problems: Tensor, progress: Bar) -> None:
        m, is_first = self._groups.count, taken.start == 0
        plan, _ = self._fits.regression(taken.stop)
        bits, weights = plan.bits, plan.weights
        if is_first:  # coalition 0 has nobody; it fits any values, and so weighs nothing
            bits = torch.cat((bits.new_zeros(1, bits.shape[1]), bits))
            weights = torch.cat((weights.new_zeros(1), weights))
        elif self._known is not None:
            bits = self._known.others(bits)
        rows = coalition_rows(query, self._groups.of(problems), bits)
        k, weights = rows.grain, weights.to(rows.device)
        new = torch.zeros(len(bits) if self._known else 0, *self._full[problems].shape).double()

        def add(values: Tensor, repeats: slice, examples: slice) -> None:
            y, which = _mean_over_background(values.reshape(*values.shape[:2], -1), repeats, k)
            if self._known is not None:
                new[which, examples] += y.cpu()
            else:
                part = ops.coalition_rhs(rows.bits[which], m, weights[which], y.flatten(1))
                self._moment[:, examples] += part.unflatten(1, y.shape[1:])
            if is_first and which.start == 0:
                self._empty[examples] += y[0]

        self._method._stream(query, rows, add, self._limit, progress)
        if self._known is not None:
            self._known.add(bits, new, problems)

    def estimate(
        self, query: Query, n: int, problems: Tensor
    ) -> tuple[Tensor, Tensor | None]:  # [M, k, C]
        plan, fit = self._fits.regression(n)
        difference = (self._full - self._empty)[problems].cpu()  # v(all) − v(∅)
        if self._known is None:
            return fit.solve(self._moment.cpu(), difference), None
        values = self._known.of(plan.bits, problems)  # [N, k, C]
        self.tier = self._fits.tier(n) if leaves_residuals(plan, fit) else "fast"
        if self.tier != "fast":
            try:
                return self._by_kriging(n, values, problems)
            except torch.linalg.LinAlgError as error:
                warn(f"tier: a factorisation failed, the values are of the fast tier ({error})")
                self.tier = "fast"
        moment = ops.coalition_rhs(plan.bits, plan.players, plan.weights, values.flatten(1))
        phi = fit.solve(moment.unflatten(1, difference.shape), difference)
        if not self._with_errors:
            return phi, None
        return phi, fit.standard_errors(values, difference, phi)

    def _by_kriging(
        self, n: int, values: Tensor, problems: Tensor
    ) -> tuple[Tensor, Tensor | None]:  # [N, k, C] -> [M, k, C]
        kriging = self._fits.kriging(n)
        empty, full = (x[problems].cpu().flatten() for x in (self._empty, self._full))
        accurate = self.tier == "accurate"
        phi, errors = kriging.solve(values.flatten(1), empty, full, accurate, self._with_errors)
        shape = phi.shape[:1] + values.shape[1:]
        return phi.view(shape), None if errors is None else errors.view(shape)


class _Known:
    """The values v(z) of coalitions so far."""

    def __init__(self, players: int, full: Tensor):  # [P, C]
        self._bits = torch.zeros(0, -(-players // 64), dtype=torch.int64)  # [n, W]
        self._values = torch.zeros(0, *full.shape, dtype=torch.float64)  # [n, P, C]

    def others(self, bits: Tensor) -> Tensor:  # [N, W]
        """Those coalitions of which there are no values."""
        return bits[designs.positions(bits, self._bits) < 0]

    def add(self, bits: Tensor, values: Tensor, problems: Tensor) -> None:  # [n, W], [n, k, C]
        every = values.new_zeros(len(bits), *self._values.shape[1:])
        every[:, problems] = values
        self._bits = torch.cat([self._bits, bits])
        self._values = torch.cat([self._values, every])

    def of(self, bits: Tensor, problems: Tensor) -> Tensor:  # [N, W] -> [N, k, C]
        return self._values[designs.positions(bits, self._bits)[:, None], problems]


def _regression(
    seed: int, players: int, design: str | None, n_samples: int
) -> tuple[designs.Design, ShapleyRegression]:
    # Neither depends on the model, so that a call with the seed of an earlier one takes its own.
    make = _kept_regression if n_samples * players <= _NUMBERS_KEPT else _new_regression
    try:
        return make(seed, players, design, n_samples)
    except ValueError as error:
        raise ArgumentError(f"design: {error}") from error


def _new_regression(
    seed: int, players: int, design: str | None, n_samples: int
) -> tuple[designs.Design, ShapleyRegression]:
    if design == _GROWING:
        plan = designs.growing_design(players, n_samples, seed)
    elif design == _GROWING_MIXED:
        plan = designs.growing_design(players, n_samples, seed, "mixed")
    elif design == _FOR_KRIGING:
        plan = designs.kriging_design(players, n_samples, seed)
    else:
        plan = designs.shapley_design(players, n_samples, seed, design)
    return plan, ShapleyRegression(plan)


_kept_regression = lru_cache(maxsize=8)(_new_regression)


def _kriging(seed: int, players: int, design: str | None, n_samples: int) -> Kriging:
    make = _kept_kriging if n_samples**2 <= _NUMBERS_KEPT else _new_kriging
    return make(seed, players, design, n_samples)


def _new_kriging(seed: int, players: int, design: str | None, n_samples: int) -> Kriging:
    return Kriging(_regression(seed, players, design, n_samples)[0])


_kept_kriging = lru_cache(maxsize=4)(_new_kriging)


def _warn_too_few(players: int, n_samples: int) -> None:
    warn(
        f"n_samples: {n_samples} coalitions do not determine the values of {players} groups; the "
        f"least values that add up are returned. Take at least {2 * players + 6}, better "
        f"{5 * players}"
    )


def _coalitions(players: int) -> int | None:
    """How many there are, if they are few enough to count."""
    return 1 << players if players < 63 else None


def _fast(n_samples: int) -> str:
    return "fast"


def _background_rows(query: Query) -> int:
    return 1 if query.background is None else query.background[0].shape[0]


def _columns(outputs: Tensor) -> tuple[int, int]:
    """[P, *C] as [P, C]."""
    return outputs.shape[0], outputs.shape[1:].numel()


def _mean_over_background(
    values: Tensor,  # [r, b, C], repeat n * K + k is coalition n over background row k
    repeats: slice,
    k: int,
) -> tuple[Tensor, slice]:
    """What these repeats give of the mean over K, [n, b, C], for a slice of the coalitions."""
    if k == 1:
        return values, repeats
    if repeats.start % k == 0 and repeats.stop % k == 0:
        sums = values.unflatten(0, (-1, k)).sum(1, dtype=torch.float64)
        return sums.div_(k), slice(repeats.start // k, repeats.stop // k)
    first, last = repeats.start // k, (repeats.stop - 1) // k + 1
    coalition = torch.arange(repeats.start, repeats.stop, device=values.device) // k - first
    sums = torch.zeros(last - first, *values.shape[1:], dtype=torch.float64, device=values.device)
    return sums.index_add_(0, coalition, values.to(torch.float64) / k), slice(first, last)
