"""Shapley-Taylor interactions from random orders."""

from itertools import permutations

import numpy as np
import pytest
import torch

import fastxai.shap
from fastxai.core.checks import ArgumentError
from fastxai.core.coalition_bits import all_coalitions, unpack
from fastxai.shap._coalitions import pairs, pairs_from_orders


def game(players, rows=2, outputs=3):
    """Random worths of all coalitions, [2^m, n, C], and a function that looks them up."""
    v = torch.randn(1 << players, rows, outputs, dtype=torch.float64)
    return v, lambda bits: v[bits[:, 0]]


@pytest.mark.parametrize("players", [1, 2, 3, 5])
def test_all_orders_give_the_index(players):
    v, worths = game(players)
    every = [order for order in permutations(range(players)) if order[0] <= order[-1]]
    both = [torch.tensor([order, order[::-1]]) for order in every]  # each beside its reverse
    found, errors = pairs_from_orders(worths, torch.cat(both))
    torch.testing.assert_close(found, pairs(v, players))
    assert errors is None if len(both) == 1 else errors.shape == found.shape


def test_what_one_order_gives_adds_up_and_asks_about_each_coalition_once():
    v, worths = game(7)
    asked = []

    def counted(bits):
        asked.append(len(bits))
        return worths(bits)

    found, errors = pairs_from_orders(counted, torch.randperm(7)[None])
    assert asked == [7 * 8 // 2 + 1] and errors is None
    torch.testing.assert_close(found.sum((1, 2)), v[-1] - v[0])
    assert torch.equal(found, found.transpose(1, 2))


def test_more_players_than_bits_of_a_word():
    weights = torch.randn(70, 70, dtype=torch.float64)

    def worths(bits):
        z = unpack(bits, 70).double()
        return ((z @ weights) * z).sum(1)[:, None, None]

    found, _ = pairs_from_orders(worths, torch.randperm(70)[None])
    expected = (weights + weights.T) / 2
    torch.testing.assert_close(found[0, ..., 0], expected)


rng = np.random.default_rng(0)


def curved(x):
    return np.stack([np.tanh(x @ np.linspace(-1, 1, x.shape[1])), np.prod(x[:, :4], axis=1)], 1)


def test_the_front_comes_near_the_exact_ones_and_tells_how_near():
    x, background = rng.normal(size=(2, 8)), rng.normal(size=(6, 8))
    background[:, 5] = x[0, 5] = 1.5  # the first row's feature makes no difference
    exact = fastxai.shap.ExactExplainer(curved, background)(x, interactions=2)
    found = fastxai.shap.PermutationExplainer(curved, background, seed=0)(
        x, max_evals=4000, interactions=2
    )
    assert found.values.shape == (2, 8, 8, 2) == found.standard_errors.shape
    off = np.abs(found.values - exact.values)
    known = found.standard_errors > 1e-12
    assert (off[~known] < 1e-9).all()
    assert (
        0.5 < np.sqrt((off[known] ** 2).mean() / (found.standard_errors[known] ** 2).mean()) < 1.7
    )
    assert (found.values[0, 5] == 0).all() and (found.values[0, :, 5] == 0).all()
    total = curved(x) - curved(background).mean(0)
    np.testing.assert_allclose(found.values.sum((1, 2)), total, atol=1e-12)
    again = fastxai.shap.PermutationExplainer(curved, background, seed=0)(
        x, max_evals=4000, interactions=True
    )
    np.testing.assert_array_equal(again.values, found.values)


def test_products_of_two_features_are_exact_from_one_order():
    weights = rng.normal(size=(20, 20))
    x, background = rng.normal(size=(3, 20)), rng.normal(size=(1, 20))

    def function(rows):
        return np.einsum("ni,ij,nj->n", rows, weights, rows)

    found = fastxai.shap.PermutationExplainer(function, background)(
        x, max_evals=211, interactions=2
    )
    change = x - background
    expected = (weights + weights.T) / 2 * change[:, :, None] * change[:, None]
    alone = function(np.where(np.eye(20)[:, None] > 0, x, background).reshape(-1, 20)).reshape(
        20, 3
    )
    expected[:, range(20), range(20)] = alone.T - function(background)
    np.testing.assert_allclose(found.values, expected, atol=1e-9)
    assert found.standard_errors is None


def test_functions_as_maskers():
    background = rng.normal(size=(5, 6))

    def masker(mask, x):
        return np.where(mask, x, background)

    masker.shape = (5, 6)
    x = rng.normal(size=(2, 6))
    by_function = fastxai.shap.PermutationExplainer(curved, masker, seed=3)(x, interactions=2)
    by_rows = fastxai.shap.PermutationExplainer(curved, background, seed=3)(x, interactions=2)
    np.testing.assert_allclose(by_function.values, by_rows.values, atol=1e-12)
    np.testing.assert_allclose(by_function.standard_errors, by_rows.standard_errors, atol=1e-12)


def test_refused():
    x, background = rng.normal(size=(1, 20)), rng.normal(size=(2, 20))
    calls = []

    def function(rows):
        calls.append(len(rows))
        return rows.sum(1)

    explainer = fastxai.shap.PermutationExplainer(function, background)
    calls.clear()
    with pytest.raises(ArgumentError, match="max_evals: expected at least 211"):
        explainer(x, max_evals=210, interactions=2)
    for wrong in (0, 3, "2", 2.5):
        with pytest.raises(ArgumentError, match="interactions: expected 1 or 2"):
            explainer(x, interactions=wrong)
    assert calls == []
    with pytest.raises(ArgumentError, match="PermutationExplainer samples"):
        fastxai.shap.ExactExplainer(function, background)(x, interactions=2)


def test_the_exact_ones_are_those_of_all_coalitions():
    v, worths = game(4)
    torch.testing.assert_close(pairs(worths(all_coalitions(4)), 4), pairs(v, 4))
