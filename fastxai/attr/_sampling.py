"""Sampling in rounds: the one loop of the methods whose values come with standard errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..core.budget import Budget, Rounds, relative_errors
from ..core.inputs import warn
from ..core.progress import Bar, bar
from ._base import Query

_ROUNDINGS = 4.0  # of an output: standard errors as small are none


class Sampler(Protocol):
    """Asks the model about samples, and estimates values from the answers."""

    def ask(self, query: Query, taken: slice, problems: Tensor, progress: Bar) -> None:
        """Asks about these samples.

        Args:
            query: about the examples that are still open.
            taken: which samples, numbered from 0 on; those before were asked about earlier.
            problems: which of all problems the query is about, [k] int64.
            progress: the bar, for the rows asked about.
        """
        ...

    def estimate(
        self, query: Query, n: int, problems: Tensor
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


def in_rounds(
    sampler: Sampler,
    query: Query,
    outputs: Tensor,  # [P, *C]
    budget: Budget,
    first: int,
    most_rows: int,
    title: str | None,
    there_are: int | None = None,
) -> Sampled:
    """Takes samples until every problem is within tolerance, or the budget is spent.

    A problem is an example, or what the model answers for the batch as a whole.

    Args:
        sampler: asks and estimates.
        query: about all examples.
        outputs: at the inputs.
        budget: how many samples.
        first: how many of them in the first round.
        most_rows: of the model for one example, if all samples are taken.
        title: of the progress bar; None for no bar.
        there_are: samples that tell everything, if there are as few.
    """
    problems = outputs.shape[0]
    together = query.model.whole_batch or query.model.mixes_rows
    rounds = budget.rounds(problems, first, together, there_are)
    values: Tensor | None = None
    errors: Tensor | None = None
    before = 0
    with bar(title, most_rows * query.inputs.batch) as progress:
        for n, open_ones in rounds:
            part = query if len(open_ones) == problems else query.of(open_ones)
            sampler.ask(part, slice(before, n), open_ones, progress)
            found, off = sampler.estimate(part, n, open_ones)
            before = n
            values, errors = _put(values, found, open_ones), _put(errors, off, open_ones)
            if off is None:
                continue
            rounding = _rounding(outputs[open_ones]).to(off.device)
            rounds.tell(relative_errors(found, off, rounding))
            if budget.is_open:
                progress.tell(f"error {rounds.worst:.2%}, wanted {budget.tolerance:.2%}")
    assert values is not None
    if budget.is_open and len(rounds.missed):
        _warn_of_errors(rounds, budget)
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


def _warn_of_errors(rounds: Rounds, budget: Budget) -> None:
    count, of = len(rounds.missed), len(rounds.samples)
    warn(
        f"max_samples: {budget.most} samples leave standard errors of up to {rounds.worst:.2%} "
        f"rather than {budget.tolerance:.2%} in {count} of {of} rows"
    )
