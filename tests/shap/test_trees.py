"""Explainers over trees of features beside shap's: Owen values."""

import numpy as np
import pandas as pd
import pytest
import scipy.cluster.hierarchy
import scipy.sparse
import shap
import torch

import fastxai
import fastxai.shap
from fastxai.shap._trees import FeatureTree

ours, Partition = fastxai.shap, fastxai.shap.maskers.Partition


def game(z):
    z = np.asarray(z)
    width = z.shape[1]
    pairs = sum((i + 1) * z[:, i] * z[:, (i + 2) % width] for i in range(width))
    return np.tanh(pairs / width) + z[:, 0] ** 2 + np.sin(z.sum(1))


def three(z):
    return np.stack([game(z), -np.asarray(z)[:, 0], np.tanh(np.asarray(z)).prod(1)], 1)


def data_of(players, seed, rows=12):
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(rows, players)) @ (np.eye(players) + rng.normal(size=(players,) * 2))
    return mixed, rng.normal(size=(3, players))


def clusters(tree):
    """What is together in a tree, in whichever order it was written."""
    members = [frozenset([i]) for i in range(len(tree) + 1)]
    for one, other in np.asarray(tree)[:, :2].astype(int):
        members.append(members[one] | members[other])
    return set(members)


def even_tree(players):
    return scipy.cluster.hierarchy.average(np.arange(float(players))[:, None] % 4)


def chain(players):
    parts = [[0, 1]] + [[players + i, i + 2] for i in range(players - 2)]
    return np.array([[*p, i + 1.0, i + 2.0] for i, p in enumerate(parts)])


@pytest.mark.parametrize("players,seed", [(2, 0), (5, 0), (5, 1), (5, 2), (8, 0), (8, 1), (12, 0)])
def test_the_default_tree_and_its_owen_values_are_shaps(players, seed):
    background, x = data_of(players, seed)
    theirs, masker = shap.maskers.Partition(background), Partition(background)
    assert clusters(masker.clustering) == clusters(theirs.clustering)
    for f in (game, three):
        expected = shap.ExactExplainer(f, theirs)(x, silent=True)
        found = ours.ExactExplainer(f, masker)(x, silent=True)
        np.testing.assert_allclose(found.values, expected.values, rtol=0, atol=1e-8)
        np.testing.assert_allclose(found.base_values, expected.base_values, atol=1e-12)
        np.testing.assert_allclose(found.values.sum(1) + found.base_values, f(x), atol=1e-9)


@pytest.mark.parametrize("metric", ["correlation", "cosine", "euclidean", "cityblock"])
def test_the_rows_that_are_taken_decide_the_tree(metric):
    background, _ = data_of(6, 3, rows=150)
    background[40:, :3] += 5 * background[40:, 3:]  # the rows left out say otherwise
    with pytest.warns(UserWarning, match="masker: of its 150 rows 30"):
        masker = Partition(background, max_samples=30, clustering=metric)
    theirs = shap.maskers.Partition(background, max_samples=30, clustering=metric)
    np.testing.assert_array_equal(masker.data, theirs.data)
    assert clusters(masker.clustering) == clusters(theirs.clustering)


@pytest.mark.parametrize("players", [5, 8])
def test_a_tree_that_is_given(players):
    background, x = data_of(players, 4)
    tree = even_tree(players)
    theirs = shap.maskers.Partition(background, clustering=tree)
    expected = shap.ExactExplainer(game, theirs)(x, silent=True).values
    for masker in (Partition(background, clustering=tree), theirs):
        found = ours.ExactExplainer(game, masker)(x, silent=True).values
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("constant", [123.456, 0.0, 3.0])  # the mean of the first is another
def test_constant_columns_join_last(constant):
    rng = np.random.default_rng(5)
    background = rng.normal(size=(400, 1)) + 0.5 * rng.normal(size=(400, 5))
    background[:, 2] = constant
    masker = Partition(background, max_samples=400)
    theirs = shap.maskers.Partition(background, max_samples=400)  # its noise has no part in it
    assert clusters(masker.clustering) == clusters(theirs.clustering)
    assert frozenset([0, 1, 3, 4]) in clusters(masker.clustering)
    background[:, 4] = background[:, 3] = constant
    again = Partition(background, max_samples=400).clustering
    np.testing.assert_array_equal(Partition(background, max_samples=400).clustering, again)
    np.testing.assert_array_equal(again[1:, 2], 1)  # they are like nothing else


def test_one_column_and_one_row():
    background, x = data_of(1, 0)
    found = ours.Explainer(game, Partition(background))(x, silent=True)
    np.testing.assert_allclose(found.values.sum(1) + found.base_values, game(x), atol=1e-12)
    background, x = data_of(4, 0, rows=1)
    masker = Partition(background)
    found = ours.ExactExplainer(game, masker)(x, silent=True).values
    np.testing.assert_allclose(found.sum(1), game(x) - game(background), atol=1e-12)


def test_rows_of_other_kinds_have_the_same_tree():
    background, _ = data_of(5, 1)
    expected = Partition(background).clustering
    with_holes = background.copy()
    with_holes[3, 2] = np.nan
    theirs = shap.maskers.Partition(with_holes).clustering
    assert clusters(Partition(with_holes).clustering) == clusters(theirs)
    for rows in (
        pd.DataFrame(background),
        scipy.sparse.csr_matrix(background),
        background.tolist(),
    ):
        np.testing.assert_array_equal(Partition(rows).clustering, expected)
    frame = pd.DataFrame(background).assign(pet="cat")
    with pytest.raises(fastxai.ArgumentError, match=r"data: .*column 'pet'"):
        Partition(frame)


@pytest.mark.parametrize("f", [game, three])
def test_orders_along_a_tree_come_near_owen_values(f):
    background, x = data_of(12, 1)
    masker = Partition(background, clustering=chain(12))
    exact = ours.ExactExplainer(f, masker)(x, silent=True)
    explainer = ours.PermutationExplainer(f, masker, seed=0)
    found = explainer(x, max_evals=25 * 40, silent=True)
    np.testing.assert_allclose(found.values.sum(1) + found.base_values, f(x), atol=1e-9)
    np.testing.assert_array_equal(explainer.shap_values(x, 40, silent=True), found.values)
    off = np.abs(found.values - exact.values) / np.maximum(found.standard_errors, 1e-9)
    assert 0.3 < np.sqrt((off**2).mean()) < 1.6  # in standard errors
    plain = ours.ExactExplainer(f, background)(x, silent=True).values
    assert np.abs(plain - exact.values).max() > 5 * found.standard_errors.max()
    one = explainer(x[0], max_evals=25, silent=True)
    assert one.values.shape == found.values.shape[1:] and one.standard_errors is None


def test_orders_along_a_tree_are_those_of_the_tree():
    tree = FeatureTree(even_tree(6))
    together = [c for c in clusters(even_tree(6)) if len(c) > 1]
    orders = tree.orders(200, 0, torch.arange(6))
    assert (orders.sort(1).values == np.arange(6)).all()
    assert (orders[1::2] == orders[::2].flip(1)).all()
    for cluster in together:
        places = orders.argsort(1)[:, sorted(cluster)]
        assert (places.max(1).values - places.min(1).values == len(cluster) - 1).all()
    firsts = np.bincount(orders[:, 0], minlength=6) / len(orders)
    assert (firsts > 0).all()
    assert len(orders.unique(dim=0)) == 2**5


def test_orders_that_cost_no_less_give_way_to_all_coalitions():
    background, x = data_of(8, 2)
    masker = Partition(background, clustering=even_tree(8))
    count = FeatureTree(masker.clustering).coalitions
    found = ours.PermutationExplainer(game, masker, seed=0)(x, max_evals=17 * (count // 17 + 1))
    exact = ours.ExactExplainer(game, masker)(x, max_evals=count, silent=True)
    np.testing.assert_array_equal(found.values, exact.values)
    with pytest.raises(fastxai.ArgumentError, match="max_evals: expected at least"):
        ours.ExactExplainer(game, masker)(x, max_evals=count - 1)


def test_columns_that_never_differ_take_no_part():
    background, x = data_of(7, 6)
    background[:, 3] = x[:, 3] = 2.0
    background[:, 5] = x[0, 5]
    masker = Partition(background)
    exact = ours.ExactExplainer(game, masker)(x, silent=True).values
    found = ours.PermutationExplainer(game, masker, seed=1)(x, max_evals=13, silent=True).values
    assert (found[:, 3] == 0).all() and found[0, 5] == 0 and (found[1:, 5] != 0).all()
    noise = np.random.default_rng(0)
    noisy = lambda z: game(z) + 1e-9 * noise.normal(size=len(z))  # noqa: E731
    for explainer in (ours.PermutationExplainer, ours.ExactExplainer):
        off = explainer(noisy, masker)(x, silent=True).values
        assert (off[:, 3] == 0).all() and off[0, 5] == 0
    chained = Partition(background, clustering=chain(7))
    off = ours.PermutationExplainer(noisy, chained)(x, max_evals=13, silent=True).values
    assert (off[:, 3] == 0).all() and off[0, 5] == 0
    np.testing.assert_allclose(found.sum(1), exact.sum(1), atol=1e-9)
    same = ours.PermutationExplainer(game, masker)(masker.data[:0], silent=True)
    assert same.values.shape == (0, 7)
    alone = Partition(x[:1])
    assert (ours.PermutationExplainer(game, alone)(x[:1], silent=True).values == 0).all()


def test_a_coalition_count_is_that_of_shap():
    from shap.explainers._exact import partition_masks

    for players, seed in ((2, 0), (5, 0), (9, 1)):
        tree = Partition(data_of(players, seed)[0]).clustering
        masks = np.unique(partition_masks(tree)[0], axis=0)
        assert FeatureTree(tree).coalitions == len(masks)


def test_the_explainer_that_shap_would_choose_for_a_tree():
    kind = lambda tree: type(  # noqa: E731
        ours.Explainer(game, Partition(np.zeros((2, len(tree) + 1)), clustering=tree))
    )
    assert kind(even_tree(12)) is ours.ExactExplainer
    assert kind(even_tree(33)) is ours.PermutationExplainer
    assert kind(chain(12)) is ours.ExactExplainer
    assert kind(chain(32)) is ours.PermutationExplainer  # 2^32 coalitions
    masker = Partition(np.zeros((2, 40)), clustering=chain(40))
    with pytest.raises(fastxai.ArgumentError, match=r"max_evals: expected at least .*got 33554432"):
        ours.ExactExplainer(game, masker)(np.ones((1, 40)), max_evals="auto")


@pytest.mark.parametrize("algorithm", ["tree", "linear", "additive", "partition"])
def test_what_shap_alone_has_is_told(algorithm):
    with pytest.raises(fastxai.ArgumentError, match=f"algorithm: .*'{algorithm}', which shap has"):
        ours.Explainer(game, np.zeros((2, 3)), algorithm=algorithm)
    with pytest.raises(fastxai.ArgumentError, match="algorithm: expected one of auto, exact"):
        ours.Explainer(game, np.zeros((2, 3)), algorithm="guess")
