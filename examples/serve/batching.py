"""Joins requests that arrive together into one call of the model, and gives each its own rows."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

Arrays = list[np.ndarray]  # each [rows, ...]
Report = Callable[[int, list[float], float], None]

log = logging.getLogger(__name__)


class Closed(RuntimeError):
    """There is nobody to answer: the batcher was not started, or is being stopped."""


class Failed(RuntimeError):
    """The function raised for a request; from what it raised."""


@dataclass(eq=False)
class _Asked:
    arrays: Arrays
    arrived: float
    answer: asyncio.Future[Arrays]

    @property
    def rows(self) -> int:
        return len(self.arrays[0])


class Batcher:
    """Calls a function of arrays for many requests at a time, on one thread.

    A call takes the requests that wait, in the order of their arrival, up to ``max_rows`` rows; one
    with more rows goes alone. It begins when the previous call has ended and the first of them has
    waited ``window_s`` seconds, or there are rows enough. If it raises, its requests are tried one
    by one, so that only those fail that cannot be answered.

    Args:
        call: takes arrays with the same number of rows, and returns such, or with several for each.
        window_s: how long a request waits for others.
        max_rows: of a joint call; 1 joins none.
        report: told of every joint call its rows, how long each request has waited, and how long
            the call took, in seconds.

    Attributes:
        max_rows: may be changed at any time.
    """

    def __init__(
        self, call: Callable[[Arrays], Arrays], window_s: float, max_rows: int, report: Report
    ):
        self._call, self._window, self.max_rows, self._report = call, window_s, max_rows, report
        self._waiting: deque[_Asked] = deque()
        self._unanswered: set[asyncio.Future[Arrays]] = set()
        self._changed = asyncio.Event()
        self._open = False

    async def __aenter__(self) -> Batcher:
        self._thread = ThreadPoolExecutor(1, "model")
        self._task = asyncio.create_task(self._work())
        self._open = True
        return self

    async def __aexit__(self, *_: object) -> None:
        """Answers what is wanted, and takes no more. A call that nobody waits for is left alone."""
        self._open = False
        self._changed.set()
        if self._unanswered:
            await asyncio.wait(self._unanswered)
        self._task.cancel()
        self._thread.shutdown(wait=False)

    def submit(self, arrays: Arrays) -> asyncio.Future[Arrays]:
        """The answer to come, or :class:`Failed`. Who no longer wants it cancels it; then what has
        not begun never will."""
        if not self._open:
            raise Closed
        loop = asyncio.get_running_loop()
        asked = _Asked(arrays, loop.time(), loop.create_future())
        self._unanswered.add(asked.answer)
        asked.answer.add_done_callback(self._unanswered.discard)
        self._waiting.append(asked)
        self._changed.set()
        return asked.answer

    async def _work(self) -> None:
        now = asyncio.get_running_loop().time
        while True:
            batch = await self._next()
            began = now()
            await self._answer(batch)
            waits = [began - asked.arrived for asked in batch]
            self._report(sum(asked.rows for asked in batch), waits, now() - began)

    async def _next(self) -> list[_Asked]:
        """The requests of the next call."""
        while True:
            self._changed.clear()
            self._waiting = deque(asked for asked in self._waiting if not asked.answer.done())
            if self._waiting:
                left = self._time_left()
                if left <= 0 or not self._open:
                    return self._take()
            else:
                left = None
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), left)

    def _time_left(self) -> float:
        if sum(asked.rows for asked in self._waiting) >= self.max_rows:
            return 0.0
        return self._waiting[0].arrived + self._window - asyncio.get_running_loop().time()

    def _take(self) -> list[_Asked]:
        totals = accumulate(asked.rows for asked in self._waiting)
        fit = sum(total <= self.max_rows for total in totals)
        return [self._waiting.popleft() for _ in range(max(fit, 1))]

    async def _answer(self, batch: list[_Asked]) -> None:
        loop = asyncio.get_running_loop()
        try:
            answers = await loop.run_in_executor(self._thread, self._called, batch)
        except Failed as error:
            await self._answer_without(batch, error)
            return
        for asked, answer in zip(batch, answers, strict=True):
            if not asked.answer.done():
                asked.answer.set_result(answer)

    async def _answer_without(self, batch: list[_Asked], error: Failed) -> None:
        left = [asked for asked in batch if not asked.answer.done()]
        if len(batch) == 1:
            for asked in left:
                asked.answer.set_exception(error)
            return
        log.warning("a joint call failed, its %d requests go alone: %s", len(batch), error)
        for asked in left:
            await self._answer([asked])

    def _called(self, batch: list[_Asked]) -> list[Arrays]:
        """What a call says to each; on the thread."""
        counts = [asked.rows for asked in batch]
        try:
            joined = [_joined(same) for same in zip(*(a.arrays for a in batch), strict=True)]
            split = [_split(result, counts) for result in self._call(joined)]
        except BaseException as error:  # not all of them can go through a future
            raise Failed(repr(error)) from error
        return [list(parts) for parts in zip(*split, strict=True)]


def _joined(arrays: tuple[np.ndarray, ...]) -> np.ndarray:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _split(result: np.ndarray, counts: list[int]) -> list[np.ndarray]:
    each, rest = divmod(len(result), sum(counts))
    if rest or not each:
        raise ValueError(f"expected a result for each of {sum(counts)} rows, got {len(result)}")
    return np.split(result, np.cumsum(counts[:-1]) * each)
