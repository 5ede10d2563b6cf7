"""Competitors timed in turn, so that a machine's noise and drift fall on all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from random import Random
from statistics import median
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture


@dataclass(frozen=True)
class Competitor:
    """One way of doing the work.

    ``call`` returns what must be equal among competitors, or None if it is only a yardstick.
    ``context`` is entered around each call and is not timed.
    """

    name: str
    call: Callable[[], Tensor | None]
    context: Callable[[], AbstractContextManager[object]] = nullcontext

    def result(self) -> Tensor | None:
        with self.context():
            return self.call()

    def seconds(self) -> float:
        with self.context():
            wait_for_gpu()
            start = time.perf_counter()
            self.call()
            wait_for_gpu()
            return time.perf_counter() - start


def wait_for_gpu() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def interleave(
    competitors: Sequence[Competitor], rounds: int, random: Random
) -> dict[str, list[float]]:
    """Seconds of every call by name; each round runs in a new random order.

    What ran before leaves its mark on caches and sleeping threads.
    """
    seconds: dict[str, list[float]] = {competitor.name: [] for competitor in competitors}
    for _ in range(rounds):
        for competitor in random.sample(competitors, len(competitors)):
            seconds[competitor.name].append(competitor.seconds())
    return seconds


def ratios(seconds: dict[str, list[float]], reference: str) -> dict[str, float]:
    """Median over the rounds of each competitor's time over the reference's in that round."""
    return {
        name: median(a / b for a, b in zip(times, seconds[reference], strict=True))
        for name, times in seconds.items()
    }


def record(
    benchmark: BenchmarkFixture,
    competitors: Sequence[Competitor],
    *,
    case: str,
    target: str,
    reference: str,
    tolerance: float,
    seconds_to_spend: float = 6,
    fewest: int = 5,
) -> None:
    """Checks that all results are equal, then times all competitors in 5 to 300 rounds.

    Where a call takes many seconds, ``fewest`` may be less than 5.

    Medians and ratios to ``reference`` go to ``extra_info``, for compare.py; pytest-benchmark's own
    columns show ``target``, timed once more a round.
    """
    start = time.perf_counter()
    assert_equal(competitors, tolerance)
    rounds = int(min(max(fewest, seconds_to_spend / (time.perf_counter() - start)), 300))
    (timed,) = (competitor for competitor in competitors if competitor.name == target)
    random = Random(0)
    seconds: dict[str, list[float]] = {competitor.name: [] for competitor in competitors}

    def time_all() -> None:
        for name, times in interleave(competitors, 1, random).items():
            seconds[name] += times

    benchmark.pedantic(timed.seconds, setup=time_all, rounds=rounds)
    if benchmark.disabled:
        return
    benchmark.extra_info.update(
        case=case,
        reference=reference,
        milliseconds={name: 1e3 * median(times) for name, times in seconds.items()},
        ratios=ratios(seconds, reference),
    )


def fastest_chunk(
    with_chunk: Callable[[int], Callable[[], Tensor | None]],
    chunks: Iterable[int],
    seconds_to_spend: float = 2,
) -> int:
    """The chunk whose call is fastest: the least of at least three interleaved rounds.

    After two rounds, what takes half as long again as the best drops out.
    """
    competitors = [Competitor(str(chunk), with_chunk(chunk)) for chunk in chunks]
    best = {competitor.name: float("inf") for competitor in competitors}
    random = Random(0)
    start, rounds = time.perf_counter(), 0
    while rounds < 3 or time.perf_counter() - start < seconds_to_spend:
        for name, times in interleave(competitors, 1, random).items():
            best[name] = min(best[name], *times)
        rounds += 1
        if rounds >= 2:
            limit = 1.5 * min(best.values())
            competitors = [c for c in competitors if best[c.name] <= limit]
    return int(min(best, key=best.__getitem__))


def differences(competitors: Sequence[Competitor]) -> dict[str, float]:
    """Largest difference of each result from the first, as a share of its largest magnitude."""
    results = {c.name: result for c in competitors if (result := c.result()) is not None}
    expected = next(iter(results.values()))
    scale = expected.abs().max()
    return {name: ((x - expected).abs().max() / scale).item() for name, x in results.items()}


def assert_equal(competitors: Sequence[Competitor], tolerance: float) -> None:
    """Every result equals the first, to ``tolerance`` times the first's largest magnitude."""
    for name, difference in differences(competitors).items():
        # NaN fails too.
        assert difference <= tolerance, f"{name} is off by {difference:.1e}, not {tolerance:.0e}"
