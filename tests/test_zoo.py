"""Every method meets every kind of model: the right values, or an error that says why."""

import pytest

from .zoo import OPEN, ZOO
from .zoo_table import ALL, KNOWN_WRONG, NONE, REFUSED, RIGHT, committed, outcome

TABLE = committed()


CELLS = {(kind, method) for kind in ZOO for method in ALL}
KNOWN = {(kind, method) for kind, methods in OPEN.items() for method in methods}


@pytest.mark.parametrize(("kind", "method"), sorted(CELLS - KNOWN))
def test_a_method_is_right_or_says_why_not_and_so_does_the_documentation(kind, method):
    assert TABLE.get((kind, method)) == outcome(kind, method), "run python -m tests.zoo_table"


def test_the_table_has_every_cell_and_says_what_is_open():
    assert set(TABLE) == CELLS
    assert {cell for cell, said in TABLE.items() if said == KNOWN_WRONG} == KNOWN
    assert set(TABLE.values()) == {RIGHT, REFUSED, NONE, KNOWN_WRONG}
