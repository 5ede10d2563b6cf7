"""How many samples rounds take."""

import itertools
import math

import pytest
import torch

from fastxai.core.checks import ArgumentError
from fastxai.core.estimate.budget import Budget, check_budget, relative_errors


def run(rounds, errors_at):
    """The rounds that there are if problem p is off by errors_at(n)[p]."""
    seen = []
    for n, problems in rounds:
        seen.append((n, problems.tolist()))
        rounds.tell(torch.tensor(errors_at(n), dtype=torch.float64)[problems])
    return seen


def falling(*spreads):
    return lambda n: [spread / math.sqrt(n) for spread in spreads]


def test_a_number_is_one_round():
    rounds = Budget(25).rounds(3, first=7)
    assert run(rounds, falling(1, 1, 1)) == [(25, [0, 1, 2])]
    assert rounds.samples.tolist() == [25, 25, 25]


def test_problems_leave_when_they_are_within():
    rounds = Budget(10_000, 0.1).rounds(3, first=10)
    seen = run(rounds, falling(0.3, 1.0, 3.0))  # 9, 100 and 900 samples
    assert seen[0] == (10, [0, 1, 2]) and seen[1][1] == [1, 2] and seen[-1][1] == [2]
    for taken, needed in zip(rounds.samples.tolist(), (10, 100, 900), strict=True):
        assert needed <= taken <= 1.3 * needed
    assert (rounds.reached <= 0.1).all() and len(rounds.missed) == 0
    numbers = [n for n, _ in seen]
    assert all(n % 2 == 0 for n in numbers)
    assert all(a < b <= 2 * a + 1 for a, b in itertools.pairwise(numbers))


def test_samples_do_not_depend_on_the_others():
    """Though errors may be small by chance in a round that is for others."""

    def errors(*spreads):
        return lambda n: [s / math.sqrt(n) * (1 + math.sin(n * s) / 2) for s in spreads]

    spreads = [0.3, 0.9, 1.0, 1.1, 1.6, 2.0, 3.0, 7.0]
    rounds = Budget(10_000, 0.1).rounds(len(spreads), first=10)
    run(rounds, errors(*spreads))
    for spread, taken in zip(spreads, rounds.samples.tolist(), strict=True):
        alone = Budget(10_000, 0.1).rounds(1, first=10)
        run(alone, errors(spread))
        assert alone.samples.tolist() == [taken]


def test_all_together():
    rounds = Budget(10_000, 0.1).rounds(2, first=10, together=True)
    seen = run(rounds, falling(0.3, 1.0))
    assert all(problems == [0, 1] for _, problems in seen)
    assert rounds.samples[0] == rounds.samples[1] >= 100


def test_the_most_there_may_be():
    rounds = Budget(64, 0.1).rounds(2, first=10)
    seen = run(rounds, falling(0.3, 100.0))
    assert seen[-1] == (64, [1]) and rounds.missed.tolist() == [1]
    assert rounds.worst == pytest.approx(12.5)
    assert run(Budget(5, 0.1).rounds(1, first=10), falling(9)) == [(5, [0])]


def test_errors_that_are_not_known_are_not_within():
    rounds = Budget(40, 0.1).rounds(2, first=10)
    seen = run(rounds, lambda n: [math.nan, math.inf] if n < 40 else [0.01, 0.01])
    assert [n for n, _ in seen] == [10, 20, 40] and len(rounds.missed) == 0


def test_rather_all_than_more_than_half():
    rounds = Budget(1000, 0.1).rounds(1, first=20, population_size=64)
    assert [n for n, _ in run(rounds, falling(9))] == [20, 64]
    rounds = Budget(50, 0.1).rounds(1, first=20, population_size=64)
    assert [n for n, _ in run(rounds, falling(9))] == [20, 50]
    assert [n for n, _ in run(Budget(1000, 0.1).rounds(1, 40, population_size=64), falling(9))] == [
        64
    ]


@pytest.mark.parametrize("together", [False, True])
def test_no_problems(together):
    rounds = Budget(100, 0.1).rounds(0, 10, together)
    assert run(rounds, falling()) == [(10, [])] and rounds.worst == 0


def test_relative_errors():
    values = torch.tensor([[[1.0, 10.0], [0.0, -3.0]], [[3.0, 2.0], [0.0, -1.0]]])  # [M, P, C]
    errors = torch.tensor([[[0.3, 0.1], [0.0, 0.3]], [[0.1, 0.2], [0.0, 0.1]]])
    none = torch.zeros(2, 2)
    # ranges with zero: 3, 10; 0, 3
    torch.testing.assert_close(relative_errors(values, errors, none), torch.tensor([0.1, 0.1]))
    none[1, 1] = 0.3
    torch.testing.assert_close(relative_errors(values, errors, none), torch.tensor([0.1, 0.0]))
    errors[0, 0, 0] = math.nan
    assert relative_errors(values, errors, none)[0].isnan()
    errors[0, 1, 0] = 0.1
    assert relative_errors(values, errors, none)[1] == math.inf  # nothing to be a share of


def test_arguments():
    assert check_budget(7, 0.01, None, 100) == Budget(7)
    assert check_budget("auto", 0.02, None, 100) == Budget(100, 0.02)
    assert check_budget("auto", 1, 50, 100) == Budget(50, 1.0)


BAD = {
    "words": (("all", 0.01, None), r"n_samples: expected an integer of at least 2 or 'auto', got"),
    "none": ((0, 0.01, None), "n_samples: expected an integer of at least 2, got 0"),
    "no tolerance": (("auto", None, None), "tolerance: expected a finite number above 0, got None"),
    "zero": (("auto", 0, None), "tolerance: .* got 0"),
    "negative": (("auto", -0.1, None), "tolerance: .* got -0.1"),
    "NaN": (("auto", math.nan, None), "tolerance: .* got nan"),
    "a truth value": (("auto", True, None), "tolerance: .* got True"),
    "too few": (("auto", 0.1, 1), "max_samples: expected an integer of at least 2, got 1"),
    "a fraction": (("auto", 0.1, 10.5), "max_samples: .* got 10.5"),
    "both": ((20, 0.1, 30), "max_samples: expected none beside a number of n_samples, got 30"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments(case):
    arguments, message = BAD[case]
    with pytest.raises(ArgumentError, match=message):
        check_budget(*arguments, default=100, at_least=2)
