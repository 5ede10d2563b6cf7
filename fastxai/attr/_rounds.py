"""The two loops of methods that sample: over examples by their players, and over rounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..core.checks import warn
from ..core.engine.groups import FeatureGroups
from ..core.engine.progress import Bar, bar
from ..core.engine.request import Request
from ..core.estimate.budget import Budget, relative_errors
from ..core.estimate.tiers import TIERS
from ._players import Part, by_group, by_problem, is_whole, parts, total_rows

_ROUNDINGS = 4.0  # of an output: standard errors as small are none


class Sampler(Protocol):
    """Asks the model about samples, and estimates values from the answers."""

    def ask(self, request: Request, taken: slice, problems: Tensor, progress: Bar) -> None:
        """Asks about these samples.

        Args:
            request: about the examples that are still open.
            taken: which samples, numbered from 0 on; those before were asked about earlier.
            problems: which of all problems the request is about, [k] int64.
            progress: the bar, for the rows asked about.
        """
        ...

    def estimate(
        self, request: Request, n: int, problems: Tensor
    ) -> tuple[Tensor, Tensor | None]:  # each [M, k, C] float64
        """The values from the first n samples, and their standard errors if they are wanted."""
        ...


@dataclass(frozen=True)
class Sampled:
    """What was found for P problems of C outputs."""

    values: Tensor  # [M, P, C] float64
    samples: Tensor  # [P] int64: how many each took
    errors: Tensor | None = None  # [M, P, C] float64
    reached: Tensor | None = None  # [P] float64: the largest as a share of the range of the values
    empty: Tensor | None = None  # [P, C] float64: the outputs at the baselines, where that is told
    tier: str | None = None


# Samples for some players: sample(request, players, outputs at the inputs [P, *C], progress).
Sample = Callable[[Request, FeatureGroups, Tensor, Bar], Sampled]


def by_players(
    request: Request,
    groups: FeatureGroups,
    varies: Tensor | None,  # [B, M] bool
    outputs: Tensor,  # [P, *C]
    sample: Sample,
    rows: Callable[[int], int],
    title: str | None,
    tolerance: float | None = None,
) -> Sampled:
    """What is found for the groups that differ from the baseline; the others have exactly zero.

    Args:
        request: about all examples.
        groups: all groups.
        varies: which of them differ from the baseline; None for all.
        outputs: at the inputs.
        sample: finds the values of groups, all of which are players, for a part of the problems.
        rows: how many of the model there will be, at most, for an example with so many players.
        title: of the progress bar; None for no bar.
        tolerance: what the samples were to reach; None where their number was given.
    """
    games = parts(request, varies)
    total = 0 if title is None else total_rows(games, groups.count, rows)
    with bar(title, total) as moves:
        found = [sample(g.request, g.players(groups), g.of(outputs), moves) for g in games]
    sampled = found[0] if is_whole(games) else _together(games, found, groups, outputs)
    if tolerance is not None and sampled.reached is not None:
        _warn_of_errors(sampled.samples, sampled.reached, tolerance)
    return sampled


def _together(
    games: list[Part],
    found: list[Sampled],
    groups: FeatureGroups,
    outputs: Tensor,  # [P, *C]
) -> Sampled:
    """What was found for the parts, in its place; nothing at all for those without players."""
    problems, columns = len(outputs), outputs.shape[1:].numel()
    start = outputs.to(torch.float64, copy=True).reshape(problems, columns)
    where = found[0].values.device if found else groups.masks[0].device
    none = torch.zeros(groups.count, problems, columns, dtype=torch.float64, device=where)
    zero, nan = (torch.tensor(x, dtype=torch.float64, device="cpu") for x in (0, torch.nan))

    def put(place: Callable[..., Tensor], each: list[Tensor | None], out: Tensor) -> Tensor | None:
        if found and all(value is None for value in each):
            return None
        return place(games, [nan if value is None else value for value in each], out)

    values = by_group(games, [f.values for f in found], none.clone())
    samples = by_problem(games, [f.samples for f in found], zero.long().repeat(problems))
    return Sampled(
        values,
        samples,
        errors=put(by_group, [f.errors for f in found], none),
        reached=put(by_problem, [f.reached for f in found], zero.repeat(problems)),
        empty=put(by_problem, [f.empty for f in found], start),
        tier=max((f.tier or TIERS[0] for f in found), key=TIERS.index, default=TIERS[0]),
    )


def in_rounds(
    sampler: Sampler,
    request: Request,
    outputs: Tensor,  # [P, *C]
    budget: Budget,
    first: int,
    progress: Bar,
    population_size: int | None = None,
) -> Sampled:
    """Takes samples until every problem is within tolerance, or the budget is spent.

    A problem is an example, or what the model answers for the batch as a whole.

    Args:
        sampler: asks and estimates.
        request: about all examples.
        outputs: at the inputs.
        budget: how many samples.
        first: how many of them in the first round.
        progress: the bar.
        population_size: samples that tell everything, if there are as few.
    """
    problems = outputs.shape[0]
    rounds = budget.rounds(problems, first, request.is_indivisible, population_size)
    values: Tensor | None = None
    errors: Tensor | None = None
    before = 0
    for n, open_ones in rounds:
        part = request if len(open_ones) == problems else request.of(open_ones)
        sampler.ask(part, slice(before, n), open_ones, progress)
        found, off = sampler.estimate(part, n, open_ones)
        before = n
        values, errors = _put(values, found, open_ones), _put(errors, off, open_ones)
        if off is None:
            continue
        rounding = _rounding(outputs[open_ones]).to(off.device)
        rounds.tell(relative_errors(found, off, rounding))
        if budget.is_adaptive:
            progress.tell(f"error {rounds.worst:.2%}, wanted {budget.tolerance:.2%}")
    assert values is not None
    return Sampled(values, rounds.samples, errors, None if errors is None else rounds.reached)


def _put(all_found: Tensor | None, found: Tensor | None, problems: Tensor) -> Tensor | None:
    if all_found is None or found is None:
        return found
    all_found[:, problems] = found
    return all_found


def _rounding(outputs: Tensor) -> Tensor:  # [P, *C] -> [P, C]
    eps = torch.finfo(outputs.dtype).eps if outputs.is_floating_point() else 0.0
    size = outputs.to(torch.float64).abs().reshape(len(outputs), outputs.shape[1:].numel())
    return _ROUNDINGS * eps * size


def _warn_of_errors(samples: Tensor, reached: Tensor, tolerance: float) -> None:  # [P] each
    missed = ~(reached <= tolerance)  # NaN, for what is not known, is not within
    if missed.any():
        warn(
            f"max_samples: {samples[missed].max()} samples leave standard errors of up to "
            f"{reached[missed].max():.2%} rather than {tolerance:.2%} in {missed.sum()} of "
            f"{len(missed)} rows"
        )
