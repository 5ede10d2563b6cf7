"""Shapley values: over all coalitions, ShapleyValues, or over orders, ShapleyValueSampling."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .. import ops
from ..core import designs
from ..core.inputs import (
    FeatureGroups,
    TensorOrTuple,
    check,
    check_count,
    check_feature_mask,
    check_limit,
    check_seed,
)
from ._base import (
    Found,
    PerturbationAttribution,
    Query,
    captum_compatible,
    check_groups_for_batch,
    coalition_rows,
    result_dtype,
)

_MOST_PLAYERS = 25  # whose coalitions fit in memory, and in anyone's patience


class ShapleyValues(PerturbationAttribution):
    """Exact Shapley values: the mean gain from a feature over all orders of joining in.

    φ_i = Σ_S |S|! (M − |S| − 1)! / M! · (v(S ∪ i) − v(S)), with v(S) the output for the features of
    S taken from the input and the others from the baseline. Every one of the 2^M coalitions is
    evaluated once.

    Source: Shapley, "A value for n-person games" (1953).
    """

    @captum_compatible
    def attribute(
        self,
        inputs: TensorOrTuple,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        feature_mask: Any = None,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
    ) -> Any:
        """Attributes the chosen output to the groups of features.

        Args:
            inputs: as for :class:`FeatureAblation`.
            baselines: as for :class:`FeatureAblation`.
            target: as for :class:`FeatureAblation`.
            additional_forward_args: as for :class:`FeatureAblation`.
            feature_mask: as for :class:`FeatureAblation`; at most 25 groups.
            perturbations_per_eval: at most so many coalitions (times B rows) in one call of the
                model; None to choose for speed.
            show_progress: whether to show a tqdm bar on stderr.

        Returns:
            Attributions in the form of the inputs, float64 for outputs in float64, otherwise
            float32, without a graph: [B, *F_i] for one output a row, [B, *C, *F_i] for several,
            [1, *F_i] for one output for the batch.

        Raises:
            ArgumentError, IndexError: as :class:`FeatureAblation`.
        """
        query = self._query(inputs, baselines, target, additional_forward_args)
        found = self._find(query, False, feature_mask, perturbations_per_eval, show_progress)
        return query.inputs.pack(found.values)

    def _find(  # type: ignore[override]
        self,
        query: Query,
        detailed: bool,
        feature_mask: Any,
        perturbations_per_eval: int | None,
        show_progress: bool,
    ) -> Found:
        groups = check_feature_mask(feature_mask, query.inputs)
        m = groups.count
        check(
            m <= _MOST_PLAYERS,
            "feature_mask",
            "at most {} groups for 2^M model rows (KernelShap takes any number)",
            f"{m} groups",
            _MOST_PLAYERS,
        )
        limit = check_limit(perturbations_per_eval, query.inputs.batch)
        bits = designs.all_coalitions(m)
        rows = coalition_rows(query, groups, bits)
        sizes = designs.subset_sizes(bits)
        # What a coalition of each size counts for a player outside it: it is one of those that a
        # player of M may join, of which all have C(M - 1, size), and each of M sizes weighs alike.
        share = [1 / (m * math.comb(m - 1, s)) for s in range(m)]
        outside = torch.tensor([*share, 0.0], dtype=torch.float64)
        inside = torch.tensor([0.0, *share], dtype=torch.float64)
        device = rows.device
        total = (inside + outside)[sizes].to(device)  # [2^M]
        absent = outside[sizes].to(device)  # [2^M]

        outputs = self._outputs_at_inputs(query, limit)
        check_groups_for_batch(query, groups)
        phi = torch.zeros(m, *_columns(outputs), dtype=torch.float64, device=device)

        def add(values: Tensor, repeats: slice, examples: slice) -> None:
            y = values.reshape(*values.shape[:2], -1)  # [n, b, C]
            joined = ops.coalition_rhs(rows.bits[repeats], m, total[repeats], y.flatten(1))
            left = absent[repeats] @ y.to(torch.float64).flatten(1)
            phi[:, examples] += (joined - left).unflatten(1, y.shape[1:])

        self._stream(query, rows, add, limit, show_progress)
        empty = self._at_baselines(query, limit) if detailed else None
        return _found(groups, phi, outputs, empty)


class ShapleyValueSampling(ShapleyValues):
    """Shapley values by sampling orders: the mean gain from a feature over random orders.

    Orders come in pairs, one the other's reverse, which cancels much of the chance in them. An
    order costs M − 1 model rows.

    Source: Castro, Gómez and Tejada, "Polynomial calculation of the Shapley value based on
    sampling" (2009); Mitchell, Cooper, Frank and Holmes, "Sampling permutations for Shapley value
    estimation" (2022).
    """

    @captum_compatible
    def attribute(  # type: ignore[override]
        self,
        inputs: TensorOrTuple,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        feature_mask: Any = None,
        n_samples: int = 25,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
        *,
        seed: int | None = None,
    ) -> Any:
        """Attributes the chosen output to the groups of features.

        Args:
            inputs: as for :class:`FeatureAblation`.
            baselines: as for :class:`FeatureAblation`.
            target: as for :class:`FeatureAblation`.
            additional_forward_args: as for :class:`FeatureAblation`.
            feature_mask: as for :class:`FeatureAblation`.
            n_samples: how many orders.
            perturbations_per_eval: at most so many coalitions (times B rows) in one call of the
                model; None to choose for speed.
            show_progress: whether to show a tqdm bar on stderr.
            seed: decides the orders; None takes one from torch's default generator.

        Returns:
            As :class:`ShapleyValues`.

        Raises:
            ArgumentError, IndexError: as :class:`FeatureAblation`.
        """
        query = self._query(inputs, baselines, target, additional_forward_args)
        found = self._find(
            query, False, feature_mask, n_samples, perturbations_per_eval, show_progress, seed
        )
        return query.inputs.pack(found.values)

    def _find(  # type: ignore[override]
        self,
        query: Query,
        detailed: bool,
        feature_mask: Any,
        n_samples: int,
        perturbations_per_eval: int | None,
        show_progress: bool,
        seed: int | None,
    ) -> Found:
        groups = check_feature_mask(feature_mask, query.inputs)
        m = groups.count
        n = check_count(n_samples, "n_samples")
        limit = check_limit(perturbations_per_eval, query.inputs.batch)
        orders = designs.permutations(m, n, check_seed(seed))  # [n, M]
        rows = coalition_rows(query, groups, designs.prefixes(orders), orders)
        device = rows.device
        joined = orders[:, :-1].flatten().to(device)  # who came last into each prefix, [n (M - 1)]
        joins = orders[:, 1:].flatten().to(device)  # and who comes next

        full = self._outputs_at_inputs(query, limit)
        check_groups_for_batch(query, groups)
        empty = self._at_baselines(query, limit)
        full_y, empty_y = (v.to(torch.float64).reshape(_columns(full)) for v in (full, empty))
        gains = torch.zeros(m, *full_y.shape, dtype=torch.float64, device=device)
        gains.index_add_(0, orders[:, -1].to(device), full_y.expand(n, *full_y.shape))
        gains.index_add_(0, orders[:, 0].to(device), empty_y.expand(n, *full_y.shape), alpha=-1)

        def add(values: Tensor, repeats: slice, examples: slice) -> None:
            y = values.to(torch.float64).reshape(*values.shape[:2], -1)  # [r, b, C]
            part = gains[:, examples]
            part.index_add_(0, joined[repeats], y)
            part.index_add_(0, joins[repeats], y, alpha=-1)

        self._stream(query, rows, add, limit, show_progress)
        return _found(groups, gains / n, full, empty)


def _columns(outputs: Tensor) -> tuple[int, int]:
    """[B, *C] as [B, C]."""
    return outputs.shape[0], outputs.shape[1:].numel()


def _found(
    groups: FeatureGroups,
    phi: Tensor,  # [M, B, C]
    full: Tensor,  # [B, *C]
    empty: Tensor | None,  # [B, *C]
) -> Found:
    phi = phi.movedim(0, -1).reshape(*full.shape, groups.count)
    delta = None
    if empty is not None:
        delta = phi.sum(-1) - (full.to(phi.dtype) - empty.to(phi.dtype))
    return Found(groups.spread(phi.to(result_dtype(full))), full, empty, delta)
