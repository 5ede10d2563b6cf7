"""Shapley values by weighted least squares over coalitions."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .. import ops
from ..core import designs
from ..core.inputs import (
    ArgumentError,
    TensorOrTuple,
    check,
    check_background,
    check_count,
    check_feature_mask,
    check_limit,
    check_seed,
)
from ..core.surrogate import ShapleyRegression
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

_NUMBERS_KEPT = 1 << 20  # coalitions × groups of a design to keep; their bits are 128 KiB


class KernelShap(PerturbationAttribution):
    """Shapley values from the outputs for a sample of coalitions.

    With v(z) the output for a coalition z, of size s, of the M groups of features, these are the
    φ that minimise Σ_z k(s) (v(z) − v(∅) − Σ_{i ∈ z} φ_i)², k(s) = (M − 1) / (C(M, s) s (M − s)),
    under the constraint Σ φ = v(all) − v(∅), which holds exactly. Where all coalitions fit
    ``n_samples`` they are all taken and the result is exact; which are taken otherwise, and how
    they weigh, is the design's affair (see ``design`` below).

    Every example of the batch and every output share one design and one factorisation.

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
        n_samples: int = 25,
        perturbations_per_eval: int | None = None,
        return_input_shape: bool = True,
        show_progress: bool = False,
        *,
        background: Any = None,
        design: str | None = None,
        seed: int | None = None,
    ) -> Any:
        """Attributes the chosen output to the groups of features.

        Args:
            inputs: as for :class:`FeatureAblation`.
            baselines: what stands for an absent feature, as for :class:`FeatureAblation`.
            target: as for :class:`FeatureAblation`.
            additional_forward_args: as for :class:`FeatureAblation`.
            feature_mask: as for :class:`FeatureAblation`.
            n_samples: coalitions to evaluate for each example, the empty and the full one among
                them. From 2^M on the result is exact. As a rule take at least 5 for each group; a
                number that cannot determine M values is answered as well as it can be (the least
                values that add up), with a warning.
            perturbations_per_eval: at most so many rows in one call of the model; None to choose
                for speed.
            return_input_shape: False for one number for each group rather than for each feature.
            show_progress: whether to show a tqdm bar on stderr.
            background: several rows [K, *F_i], or a tuple of them for a tuple of inputs, in place
                of ``baselines``: v(z) is the mean of the outputs over all K, which takes K model
                rows for each coalition.
            design: which coalitions are taken: "enumeration", all; "hadamard", groups by themselves
                or in couples and balanced halves of them, best for few samples; "leverage", random
                ones of every size, best for many. None for the best for this number.
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
            seed,
        )
        return query.inputs.pack(found.values) if return_input_shape else found.values[0]

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
        n_samples: int,
        perturbations_per_eval: int | None,
        return_input_shape: bool,
        show_progress: bool,
        design: str | None,
        seed: int | None,
    ) -> Found:
        groups = check_feature_mask(feature_mask, query.inputs)
        if not return_input_shape:
            check_ids(groups)
        m = groups.count
        n_samples = check_count(n_samples, "n_samples", at_least=2)
        limit = check_limit(perturbations_per_eval)
        plan, fit = _regression(m, n_samples, check_seed(seed), design)
        if not fit.determined:
            _warn_too_few(m, n_samples)

        nobody = plan.bits.new_zeros(1, plan.bits.shape[1])  # coalition 0; it fits any values
        rows = coalition_rows(query, groups, torch.cat((nobody, plan.bits)))
        k, device = rows.grain, rows.device
        weights = torch.cat((plan.weights.new_zeros(1), plan.weights)).to(device)

        full = self._outputs_at_inputs(query, limit)  # [B, *C]
        check_groups_for_batch(query, groups)
        columns = full.shape[0], full.shape[1:].numel()  # [B, C]
        empty = torch.zeros(columns, dtype=torch.float64, device=device)
        moment = torch.zeros(m, *columns, dtype=torch.float64, device=device)
        kept = torch.zeros(len(weights), *columns, dtype=torch.float64) if detailed else None

        def add(values: Tensor, repeats: slice, examples: slice) -> None:
            y, which = _mean_over_background(values.reshape(*values.shape[:2], -1), repeats, k)
            new = ops.coalition_rhs(rows.bits[which], m, weights[which], y.flatten(1))
            if kept is not None:
                kept[which, examples] += y.cpu()
            if which.start == 0:
                empty[examples] += y[0]
            moment[:, examples] += new.unflatten(1, y.shape[1:])

        self._stream(query, rows, add, limit, self._title(show_progress))
        difference = (full.reshape(columns).to(torch.float64) - empty).cpu()
        phi = fit.solve(moment.cpu(), difference)  # [M, B, C]

        def arrange(values: Tensor) -> tuple[Tensor, ...]:  # [M, B, C]
            return arranged(values.movedim(0, -1), full, groups, return_input_shape)

        if kept is None:
            return Found(arrange(phi))
        errors = fit.standard_errors(kept[1:], difference, phi)
        delta = (phi.sum(0) - difference).reshape(full.shape).to(device)
        return Found(arrange(phi), full, empty.reshape(full.shape), delta, arrange(errors))


def _regression(
    players: int, n_samples: int, seed: int, design: str | None
) -> tuple[designs.Design, ShapleyRegression]:
    # Neither depends on the model, so that a call with the seed of an earlier one takes its own.
    make = _kept_regression if n_samples * players <= _NUMBERS_KEPT else _new_regression
    try:
        return make(players, n_samples, seed, design)
    except ValueError as error:
        raise ArgumentError(f"design: {error}") from error


def _new_regression(
    players: int, n_samples: int, seed: int, design: str | None
) -> tuple[designs.Design, ShapleyRegression]:
    plan = designs.shapley_design(players, n_samples, seed, design)
    return plan, ShapleyRegression(plan)


_kept_regression = lru_cache(maxsize=8)(_new_regression)


def _warn_too_few(players: int, n_samples: int) -> None:
    warnings.warn(
        f"n_samples: {n_samples} coalitions do not determine the values of {players} groups; the "
        f"least values that add up are returned. Take at least {2 * players + 6}, better "
        f"{5 * players}",
        stacklevel=5,
    )


def _mean_over_background(
    values: Tensor,  # [r, b, C], repeat n * K + k is coalition n over background row k
    repeats: slice,
    k: int,
) -> tuple[Tensor, slice]:
    """What these repeats give of the mean over K, [n, b, C], for a slice of the coalitions."""
    if k == 1:
        return values, repeats
    first, last = repeats.start // k, (repeats.stop - 1) // k + 1
    coalition = torch.arange(repeats.start, repeats.stop, device=values.device) // k - first
    sums = torch.zeros(last - first, *values.shape[1:], dtype=torch.float64, device=values.device)
    return sums.index_add_(0, coalition, values.to(torch.float64) / k), slice(first, last)
