"""Threads between the calls of functions that do not use torch."""

import threading

import numpy as np
import pytest
import torch

from fastxai import KernelShap
from fastxai.core.engine import threads as module
from fastxai.core.engine.threads import threads


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def in_another_thread(function):
    found = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


def test_they_are_those_of_the_calling_thread(two_threads):
    with threads(1):
        assert torch.get_num_threads() == 1
        assert in_another_thread(torch.get_num_threads) == 2
    assert torch.get_num_threads() == 2
    with pytest.raises(KeyError), threads(1):
        raise KeyError
    assert torch.get_num_threads() == 2


def test_without_openmp_nothing_changes(two_threads, monkeypatch):
    monkeypatch.setattr(module, "_set_threads", lambda: None)
    with threads(1):
        assert torch.get_num_threads() == 2


@pytest.mark.parametrize("fails_at", [None, 4])
def test_torch_has_one_between_calls_of_a_function_outside_it(two_threads, monkeypatch, fails_at):
    in_calls, between = [], []

    def function(rows):
        in_calls.append(torch.get_num_threads())
        if len(in_calls) == fails_at:
            raise KeyError
        return rows.sum(1)

    perturb = torch.Tensor.reshape

    def watched(self, *shape):
        between.append(torch.get_num_threads())
        return perturb(self, *shape)

    monkeypatch.setattr(torch.Tensor, "reshape", watched)
    rows = np.random.default_rng(0).normal(size=(2, 30))
    options = {"background": rows.repeat(25, 0), "n_samples": 2000}
    explainer = KernelShap(function)
    if fails_at is None:
        explainer.attribute(rows, **options)
        assert 1 in between
    else:
        with pytest.raises(KeyError):
            explainer.attribute(rows, **options)
    assert len(in_calls) > 3 and {*in_calls} == {2}  # as the user has it
    assert torch.get_num_threads() == 2


def test_models_in_torch_keep_theirs(two_threads):
    seen = []

    def function(rows):
        seen.append(torch.get_num_threads())
        return rows.sum(1)

    KernelShap(function).attribute(torch.randn(2, 12), n_samples=200, perturbations_per_eval=50)
    assert {*seen} == {2}
