"""Every method meets every kind of model: the right values, or an error that says why."""

import pytest

from .zoo_table import KINDS, METHODS, NONE, REFUSED, RIGHT, committed, outcome

TABLE = committed()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_method_is_right_or_says_why_not_and_so_does_the_documentation(kind, method):
    assert TABLE.get((kind, method)) == outcome(kind, method), "run python -m tests.zoo_table"


def test_the_table_has_all_kinds_and_nothing_else():
    assert set(TABLE) == {(kind, method) for kind in KINDS for method in METHODS}
    assert set(TABLE.values()) == {RIGHT, REFUSED, NONE}
