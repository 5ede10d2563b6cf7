"""The table that the tests of all methods draw from has all methods."""

import inspect

from fastxai import attr

from .attr.test_perturbation import METHODS as COMPARED
from .methods import METHODS


def test_every_public_method_is_in_the_table():
    """Base classes have no ``attribute`` of their own."""
    public = {name: getattr(attr, name) for name in attr.__all__}
    kinds = {
        n for n, kind in public.items() if inspect.isclass(kind) and hasattr(kind, "attribute")
    }
    assert set(METHODS) == kinds
    assert all(method.kind is public[name] for name, method in METHODS.items())


def test_those_that_compare_outputs_meet_what_is_asked_of_all_such():
    """But for LimeBase, which takes one number for the batch and functions for all else."""
    compare = {method.kind for method in METHODS.values() if method.compares}
    assert set(COMPARED) == compare - {attr.LimeBase}
