"""examples/serve/batching.py: every request gets its own rows, whatever happens to the others."""

import asyncio
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "serve"))

from batching import Batcher, Closed, Failed

SOON = 20  # seconds that nothing here takes


class Doubling:
    """Twice the rows and their sums. Notes what it is called with; waits while it is held."""

    def __init__(self, held=False):
        self.calls = []
        self.begun, self.free = threading.Semaphore(0), threading.Event()
        if not held:
            self.free.set()

    def __call__(self, arrays):
        (rows,) = arrays
        self.calls.append(rows[:, 0].tolist())
        self.begun.release()
        assert self.free.wait(SOON)
        if (rows == 13).any():
            raise ValueError("unlucky")
        if (rows == 14).any():
            raise StopIteration  # which no future takes
        return [2 * rows, rows.sum(1)]

    async def has_begun(self):
        assert await asyncio.to_thread(self.begun.acquire, timeout=SOON)


def rows_of(*numbers):
    return [np.array([[n, n] for n in numbers], np.float32)]


def check(answer, *numbers):
    twice, sums = answer
    np.testing.assert_array_equal(twice, 2 * rows_of(*numbers)[0])
    np.testing.assert_array_equal(sums, [2 * n for n in numbers])


def run(test, call, window_s=0.0, max_rows=8):
    """Runs a test with a batcher; gives back what was reported."""
    reports = []

    async def within():
        batcher = Batcher(call, window_s, max_rows, lambda *report: reports.append(report))
        async with batcher:
            await test(batcher)

    asyncio.run(asyncio.wait_for(within(), SOON))
    return reports


def test_what_waits_is_joined_in_its_order_and_split_again():
    call = Doubling(held=True)

    async def test(batcher):
        first = batcher.submit(rows_of(1))
        await call.has_begun()
        others = [batcher.submit(rows_of(*n)) for n in ([2, 3], [4], [5, 6, 7], [8, 9, 10])]
        call.free.set()
        check(await first, 1)
        for answer, numbers in zip(others, ([2, 3], [4], [5, 6, 7], [8, 9, 10]), strict=True):
            check(await answer, *numbers)

    reports = run(test, call)
    assert call.calls == [[1], [2, 3, 4, 5, 6, 7], [8, 9, 10]]  # 9 rows are more than 8
    assert [(rows, len(waits)) for rows, waits, _ in reports] == [(1, 1), (6, 3), (3, 1)]
    assert all(wait >= 0 for _, waits, _ in reports for wait in waits)
    assert all(seconds > 0 for _, _, seconds in reports)


def test_requests_within_the_window_are_joined_while_nothing_runs():
    call = Doubling()

    async def test(batcher):
        answers = []
        for number in (1, 2, 3):
            answers.append(batcher.submit(rows_of(number)))
            await asyncio.sleep(0)
        for number, answer in enumerate(answers, 1):
            check(await answer, number)

    run(test, call, window_s=0.3)
    assert call.calls == [[1, 2, 3]]


def test_a_full_call_does_not_wait_for_the_window():
    call = Doubling()

    async def test(batcher):
        answers = [batcher.submit(rows_of(n, n)) for n in range(4)]
        for number, answer in enumerate(answers):
            check(await answer, number, number)

    run(test, call, window_s=10 * SOON, max_rows=8)
    assert call.calls == [[0, 0, 1, 1, 2, 2, 3, 3]]


def test_the_window_counts_from_the_arrival():
    call = Doubling(held=True)

    async def test(batcher):
        batcher.submit(rows_of(0))
        await call.has_begun()
        late = batcher.submit(rows_of(1))
        await asyncio.sleep(0.2)
        call.free.set()
        check(await late, 1)

    reports = run(test, call, window_s=0.1)
    assert call.calls == [[0], [1]]
    assert reports[1][1][0] >= 0.15


def test_a_big_request_goes_alone():
    call = Doubling(held=True)

    async def test(batcher):
        answers = [batcher.submit(rows_of(0))]
        await call.has_begun()
        answers += [batcher.submit(rows_of(*n)) for n in ([1], range(20, 40), [2])]
        call.free.set()
        check(await answers[1], 1)
        check(await answers[2], *range(20, 40))
        check(await answers[3], 2)

    run(test, call)
    assert call.calls == [[0], [1], list(range(20, 40)), [2]]


def test_nothing_is_joined_for_one_row_a_call():
    call = Doubling()

    async def test(batcher):
        for number, answer in [(n, batcher.submit(rows_of(n))) for n in range(5)]:
            check(await answer, number)

    run(test, call, max_rows=1)
    assert call.calls == [[0], [1], [2], [3], [4]]


@pytest.mark.parametrize(("bad", "error"), [(13, "unlucky"), (14, "StopIteration")])
def test_one_that_fails_does_not_fail_the_others(bad, error):
    call = Doubling(held=True)

    async def test(batcher):
        batcher.submit(rows_of(0))
        await call.has_begun()
        before, failing, after = (batcher.submit(rows_of(n)) for n in (1, bad, 2))
        call.free.set()
        check(await before, 1)
        check(await after, 2)
        with pytest.raises(Failed, match=error):
            await failing
        check(await batcher.submit(rows_of(3)), 3)  # and it goes on

    run(test, call)
    assert call.calls == [[0], [1, bad, 2], [1], [bad], [2], [3]]


def test_whatever_the_function_raises_is_an_answer():
    def call(arrays):
        raise SystemExit(3)

    async def test(batcher):
        for _ in range(2):
            with pytest.raises(Failed, match="SystemExit") as caught:
                await batcher.submit(rows_of(1))
            assert isinstance(caught.value.__cause__, SystemExit)

    run(test, call)


def test_results_with_another_number_of_rows_are_no_answers():
    async def test(batcher):
        answers = [batcher.submit(rows_of(n)) for n in (1, 2)]
        for answer in answers:
            with pytest.raises(Failed, match="expected a result for each of 1 rows, got 0"):
                await answer

    run(test, lambda arrays: [arrays[0][1:], arrays[0]])


def test_several_results_for_each_row():
    async def test(batcher):
        answers = [batcher.submit(rows_of(*numbers)) for numbers in ([1], [2, 3], [4])]
        for answer, expected in zip(answers, ([1, 1], [2, 2, 3, 3], [4, 4]), strict=True):
            assert (await answer)[0].tolist() == expected

    run(test, lambda arrays: [arrays[0].flatten()])


def test_who_left_before_the_call_is_left_out():
    call = Doubling(held=True)

    async def test(batcher):
        first = batcher.submit(rows_of(0))
        await call.has_begun()
        stays, leaves, late = (batcher.submit(rows_of(n)) for n in (1, 2, 3))
        leaves.cancel()
        with pytest.raises(asyncio.TimeoutError):  # a deadline
            await asyncio.wait_for(late, 0.01)
        call.free.set()
        check(await first, 0)
        check(await stays, 1)

    run(test, call)
    assert call.calls == [[0], [1]]


def test_who_leaves_during_the_call_disturbs_nobody():
    call = Doubling(held=True)

    async def test(batcher):
        batcher.submit(rows_of(0))
        await call.has_begun()
        leaves, stays = batcher.submit(rows_of(13)), batcher.submit(rows_of(1))
        call.free.set()
        await call.has_begun()  # both together
        leaves.cancel()
        check(await stays, 1)

    run(test, call)
    assert call.calls[:2] == [[0], [13, 1]] and call.calls[-1] == [1]


def test_the_end_does_not_wait_for_a_call_that_nobody_wants():
    call = Doubling(held=True)

    async def test(batcher):
        answer = batcher.submit(rows_of(0))
        await call.has_begun()
        answer.cancel()

    try:
        run(test, call)
    finally:
        call.free.set()


def test_what_waits_at_the_end_is_answered_and_nothing_after():
    call = Doubling()
    kept = []

    async def test(batcher):
        kept.append(batcher)
        kept.extend(batcher.submit(rows_of(n)) for n in (1, 2))

    run(test, call, window_s=10 * SOON)  # the end does not wait for the window
    batcher, *answers = kept
    for number, answer in enumerate(answers, 1):
        check(answer.result(), number)
    with pytest.raises(Closed):
        batcher.submit(rows_of(1))
    with pytest.raises(Closed):
        Batcher(call, 0, 1, print).submit(rows_of(1))


def test_many_requests_of_all_kinds():
    generator = np.random.default_rng(0)
    kinds = generator.choice(["good", "bad", "leaves"], size=200, p=[0.8, 0.1, 0.1])

    async def test(batcher):
        async def client(number):
            numbers = 100 + number + np.arange(generator.integers(1, 6)) / 8
            if kinds[number] == "bad":
                numbers[-1] = 13
            await asyncio.sleep(generator.uniform(0, 0.05))
            answer = batcher.submit(rows_of(*numbers))
            if kinds[number] == "leaves":
                await asyncio.sleep(generator.uniform(0, 0.003))
                answer.cancel()
            elif kinds[number] == "bad":
                with pytest.raises(Failed):
                    await answer
            else:
                check(await answer, *numbers)

        await asyncio.gather(*map(client, range(len(kinds))))

    reports = run(test, Doubling(), window_s=0.001, max_rows=16)
    assert 200 - (kinds == "leaves").sum() <= sum(len(waits) for _, waits, _ in reports) <= 200
    assert max(rows for rows, _, _ in reports) <= 16 and len(reports) < 150
