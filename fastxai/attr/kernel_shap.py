"""Shapley values by weighted least squares over coalitions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, Literal, overload

import torch
from torch import Tensor

from ..core.checks import (
    ArgumentError,
    Form,
    TensorOrTuple,
    check,
    check_count,
    check_limit,
    check_seed,
    warn,
)
from ..core.engine.groups import FeatureGroups, check_feature_mask, check_id_range
from ..core.engine.inputs import Inputs, check_background, packed
from ..core.engine.progress import Bar
from ..core.engine.request import Request
from ..core.engine.shortcut import most_multiplications
from ..core.estimate import designs
from ..core.estimate.kriging import Kriging, leaves_residuals
from ..core.estimate.shapley_regression import ShapleyRegression
from ..core.estimate.tiers import best_tier, check_tier
from ..core.program.program import (
    Program,
)
from ._base import captum_compatible
from ._coalition_program import (
    by_id,
    coalitions_replaced,
    device_of,
    groups_for_all,
    players_present,
)
from ._coalitions import arranged, check_groups_for_batch
from ._explanation import Result
from ._kernel_shap_options import Options, count_coalitions
from ._kernel_shap_program import Fit, Regression, kernel_shap, pairs_of, solution_of
from ._perturbation import PerturbationAttribution
from ._players import counted, groups_that_vary
from ._rounds import Sampled, by_players, in_rounds
from ._shapley_game import (
    FOR_KRIGING,
    GROWING,
    GROWING_MIXED,
    Fits,
    Game,
    columns_of,
    kriging_of,
    regression_of,
)
from ._worth import with_background, worth_of

_FIRST_SAMPLES = 5  # for each group, if the errors decide how many


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

    _has_standard_errors = _draws_design = True

    @overload
    def attribute(
        self,
        inputs: Form,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        feature_mask: Any = None,
        n_samples: int | str = 25,
        perturbations_per_eval: int | None = None,
        return_input_shape: Literal[True] = True,
        show_progress: bool = False,
        *,
        background: Any = None,
        background_weights: Any = None,
        link: Any = "identity",
        design: str | None = None,
        tier: str | None = None,
        tolerance: float = 0.01,
        max_samples: int | None = None,
        seed: int | None = None,
    ) -> Form: ...
    @overload
    def attribute(
        self,
        inputs: TensorOrTuple,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        feature_mask: Any = None,
        n_samples: int | str = 25,
        perturbations_per_eval: int | None = None,
        *,
        return_input_shape: Literal[False],
        show_progress: bool = False,
        background: Any = None,
        background_weights: Any = None,
        link: Any = "identity",
        design: str | None = None,
        tier: str | None = None,
        tolerance: float = 0.01,
        max_samples: int | None = None,
        seed: int | None = None,
    ) -> Tensor: ...
    @captum_compatible
    def attribute(
        self,
        inputs: Form,
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
        background_weights: Any = None,
        link: Any = "identity",
        design: str | None = None,
        tier: str | None = None,
        tolerance: float = 0.01,
        max_samples: int | None = None,
        seed: int | None = None,
    ) -> Form | Tensor:
        """Attributes the chosen output to the groups of features.

        Args:
            inputs: a tensor [B, *F] of any dtype, or a tuple of tensors [B, *F_i].
            baselines: what stands for an absent feature, as for :class:`FeatureAblation`.
            target: which output is explained, as for :class:`FeatureAblation`.
            additional_forward_args: extra arguments, as for :class:`FeatureAblation`.
            feature_mask: ids that group features, as for :class:`FeatureAblation`.
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
            background_weights: how much each row of the background counts in that mean, numbers of
                at least 0, [K], or [K, C] for each of C outputs; None for all alike.
            link: in which unit the values add up: "identity", that of the outputs; "logit", for
                probabilities, of log-odds; or a function of arrays. It is taken of the mean over
                the background: v(z) = link(Σ_k w_k f(row_k)). The result is then in float64.
            design: which coalitions are taken: "enumeration", all; "hadamard", groups by themselves
                or in couples and balanced halves of them, best for few samples; "leverage", random
                ones of every size, best for many; "mixed", of both, best for kriging. None for the
                best for this number and tier; so too for an example with so few players that there
                is no such design, though there is one for all groups.
            tier: how the values are found from the outputs: "fast", by the regression; "shared",
                corrected by kriging with one process for all examples and outputs; "accurate",
                with one for each of them too, whose work grows with the cube of the samples. None
                for the most accurate that takes at most a tenth of the model's work ("accurate" for
                at most 800 samples). Where all
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
            ArgumentError: an argument is not as above, an output is NaN, or the design does not
                exist for this number of groups and samples.
            IndexError: the target is out of range.
        """
        request = self._query(
            inputs,
            baselines,
            target=target,
            additional_forward_args=additional_forward_args,
            background=background,
            background_weights=background_weights,
            link=link,
        )
        found = self._find(
            request,
            detailed=False,
            feature_mask=feature_mask,
            n_samples=n_samples,
            perturbations_per_eval=perturbations_per_eval,
            return_input_shape=return_input_shape,
            show_progress=show_progress,
            design=design,
            tier=tier,
            tolerance=tolerance,
            max_samples=max_samples,
            seed=seed,
        )
        return packed(found.values, inputs) if return_input_shape else found.values[0]

    @property
    def multiplies_by_inputs(self) -> bool:
        return False  # as in Captum, whose KernelShap is a Lime

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

    def _find(
        self,
        request: Request,
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
    ) -> Result:
        groups = check_feature_mask(feature_mask, request.inputs)
        if not return_input_shape:
            check_id_range(groups)
        seed = check_seed(seed)
        # A large one is asked for several times, and kept nowhere else.
        regression = lru_cache(maxsize=1)(partial(regression_of, seed))
        limit, tier = check_limit(perturbations_per_eval), check_tier(tier)
        amount = (n_samples, tolerance, max_samples)
        asked = Options(
            regression,
            seed,
            amount=amount,
            limit=limit,
            design=design,
            tier=tier,
            detailed=detailed,
        )
        budget = asked.budget(groups.count)
        if budget.is_adaptive:
            check(design is None, "design", "None with samples by tolerance", repr(design))
        if design is not None:
            check(isinstance(design, str), "design", "the name of a design", type(design).__name__)
            regression(groups.count, design, budget.most)  # that it exists
        varies = groups_that_vary(request, groups)

        rows = lambda m: asked.rows(m) * _background_rows(request)  # noqa: E731
        to_come = budget.most * _background_rows(request)
        divided = varies is not None or budget.is_adaptive
        full = self._outputs_at_inputs(request, limit, to_come, divided)  # [P, *C]
        full = worth_of(request).linked(full)
        check_groups_for_batch(request, groups)
        title = self._title(show_progress)
        sample = partial(self._sample, asked)
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
        if asked.too_few:
            _warn_too_few(max(asked.too_few), budget.most)

        def arrange(values: Tensor) -> tuple[Tensor, ...]:  # [M, P, C]
            return arranged(values.movedim(0, -1), full, groups, return_input_shape)

        if sampled.errors is None or sampled.empty is None:
            return Result(arrange(sampled.values))
        difference = full.reshape(columns_of(full)).to(torch.float64) - sampled.empty
        delta = sampled.values.sum(0) - difference.to(sampled.values.device)
        return Result(
            arrange(sampled.values),
            full,
            baseline_outputs=sampled.empty.reshape(full.shape),
            convergence_delta=delta.reshape(full.shape).to(full.device),
            standard_errors=arrange(sampled.errors),
            samples=sampled.samples,
            players=counted(request, varies, len(full), groups.count),
            reached=sampled.reached,
            tier=sampled.tier,
        )

    def _sample(
        self,
        asked: Options,
        request: Request,
        groups: FeatureGroups,
        full: Tensor,  # [P, *C]
        progress: Bar,
    ) -> Sampled:
        m, budget, population_size = (
            groups.count,
            asked.budget(groups.count),
            count_coalitions(groups.count),
        )
        if population_size is not None and population_size < budget.most:
            budget = replace(budget, most=population_size)
        first = budget.most
        if budget.is_adaptive:
            first = min(first, max(2 * m + 6, _FIRST_SAMPLES * m + m % 2))
        tier_of = self._tier_of(request, m, full, asked.tier)
        # A design that grows is for one tier: one that is worth its work also for most samples.
        most = (
            budget.most
            if population_size is None
            else min(budget.most, population_size - budget.is_adaptive)
        )
        krigs = tier_of(most) != "fast"
        if not krigs:
            tier_of = _fast
        design = asked.design_for(m, first)
        if budget.is_adaptive:
            design = GROWING_MIXED if krigs else GROWING
        elif design is None and krigs:
            design = FOR_KRIGING
        regression = partial(asked.regression, m, design)
        if not regression(first)[1].determined:
            asked.too_few.append(m)
        with_errors = asked.detailed or budget.is_adaptive
        fits = Fits(regression, partial(kriging_of, asked.seed, m, design), tier_of)
        keeps = with_errors or krigs
        game = Game(
            self,
            groups,
            full=full,
            worth=worth_of(request),
            limit=asked.limit,
            fits=fits,
            keeps=keeps,
            with_errors=with_errors,
        )
        found = in_rounds(
            game,
            request,
            outputs=full,
            budget=budget,
            first=first,
            progress=progress,
            population_size=population_size,
        )
        return Sampled(
            found.values,
            found.samples,
            errors=found.errors,
            reached=found.reached,
            empty=game.empty,
            tier=game.tier,
        )

    def _tier_of(
        self, request: Request, players: int, full: Tensor, tier: str | None
    ) -> Callable[[int], str]:
        """The tier for so many samples."""
        if tier is not None:
            return lambda n: tier
        outputs, backgrounds = full.shape[1:].numel(), _background_rows(request)

        def best(n: int, work: float) -> str:
            return best_tier(
                players,
                n,
                outputs=outputs,
                rows=n * backgrounds,
                work_a_row=work,
                device=full.device,
            )

        def tier_of(n: int) -> str:
            # At most so much work is quickly known, and all there is to know of a small module.
            most = most_multiplications(request.model.modules, request.inputs.tensors)
            if math.isfinite(most) and best(n, most) == "fast":
                return "fast"
            return best(n, self._multiplications(request))

        return tier_of

    def _program(
        self,
        inputs: Inputs,
        feature_mask: Any,
        n_samples: int,
        return_input_shape: bool,
        background: Any,
        design: str | None,
        tier: str | None,
        seed: int | None,
        standard_errors: bool = True,
        background_weights: Any = None,
        link: Any = "identity",
    ) -> Program:
        check(background_weights is None, "background_weights", "None in a package", "some")
        check(link == "identity", "link", "'identity' in a package", link)
        groups = groups_for_all(feature_mask, inputs, return_input_shape)
        n_samples = check_count(n_samples, "n_samples", at_least=2)
        expected = "None, fast or shared, as a package factorises nothing"
        check(check_tier(tier) != "accurate", "tier", expected, tier)
        seed, device = check_seed(seed), device_of(inputs)
        try:
            if tier == "shared" and design is None:
                plan = designs.kriging_design(groups.count, n_samples, seed)
            else:
                plan = designs.shapley_design(groups.count, n_samples, seed, design)
        except ValueError as error:
            raise ArgumentError(f"design: {error}") from error
        regression = ShapleyRegression(plan)
        fit: Fit
        if tier == "shared" and leaves_residuals(plan, regression):
            kriging = Kriging(plan, device)
            fit = partial(kriging.of_block, own_scales=False, with_errors=standard_errors)
        else:
            fit = Regression(
                solution_of(plan, regression).to(device),
                pairs_of(regression, device) if standard_errors else None,
            )
        present = players_present(plan.bits, groups, inputs, with_nobody=True)
        return partial(
            kernel_shap,
            rows=coalitions_replaced(present, groups, inputs),
            fit=fit,
            background=None if background is None else check_background(background, inputs),
            spread=groups.spread if return_input_shape else by_id(groups),
        )


def _warn_too_few(players: int, n_samples: int) -> None:
    warn(
        f"n_samples: {n_samples} coalitions do not determine the values of {players} groups; the "
        f"least values that add up are returned. Take at least {2 * players + 6}, better "
        f"{5 * players}"
    )


def _fast(n_samples: int) -> str:
    return "fast"


def _background_rows(request: Request) -> int:
    return 1 if request.background is None else request.background[0].shape[0]
