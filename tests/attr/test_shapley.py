"""ShapleyValues, ShapleyValueSampling and KernelShap against games whose values are known."""

import copy
import warnings

import pytest
import torch

from fastxai.attr import KernelShap, ShapleyValues, ShapleyValueSampling, _shapley_game
from fastxai.core.checks import ArgumentError

from .. import oracles
from ..models import Logged, ResidualCNN, TwoInputs, mlp, one_number

EXACT = {"rtol": 1e-10, "atol": 1e-10}
METHODS = [ShapleyValues, ShapleyValueSampling, KernelShap]
LIMITS = [None, 1, 2, 7, 1000]


def randn(*shape):
    torch.manual_seed(sum(shape))
    return torch.randn(*shape, dtype=torch.float64)


def of_game(game):
    """A model of rows [N, M]: a player is present where the feature is 1."""
    return lambda x: game.value(x > 0.5)


def brute_force(model, inputs, baselines, masks, players):
    """Shapley values [B, M, *C], example by example and coalition by coalition."""
    found = []
    for b in range(inputs[0].shape[0]):
        values = []
        for present in oracles.every_coalition(players):
            rows = []
            for x, baseline, mask in zip(inputs, baselines, masks, strict=True):
                own = mask[b % mask.shape[0]].expand(x.shape[1:])
                other = baseline[b % baseline.shape[0]]
                rows.append(torch.where(present[own], x[b], other)[None])
            values.append(model(*rows)[0])
        found.append(oracles.brute_force(torch.stack(values).detach()))
    return torch.stack(found)


def at_features(values, masks):
    """Values [B, M] of groups at their features, [B, *F] for each mask."""
    rows = values.shape[0]
    expanded = [mask.expand(rows, *mask.shape[1:]) for mask in masks]
    return tuple(
        torch.stack([v[own] for v, own in zip(values, mask, strict=True)]) for mask in expanded
    )


def enumerating(players):
    return {"n_samples": 2**players}


TABLES = {  # the worth of {}, {1}, {2}, {1, 2}, ..., and the players' values
    "and": ([0, 0, 0, 1], [0.5, 0.5]),
    "or": ([0, 1, 1, 1], [0.5, 0.5]),
    "xor": ([0, 1, 1, 0], [0, 0]),
    "second only": ([3, 3, 5, 5], [0, 2]),
    "glove": ([0, 0, 0, 1, 0, 1, 0, 1], [4 / 6, 1 / 6, 1 / 6]),  # one left, two right ones
    "one": ([2, 5], [3]),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables(name):
    worth, expected = TABLES[name]
    players = len(expected)
    game = oracles.table(torch.tensor(worth))
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(game.shapley, expected)
    x, expected = torch.ones(2, players), expected.expand(2, players)
    found = ShapleyValues(of_game(game)).attribute(x)
    torch.testing.assert_close(found, expected, **EXACT)
    found = KernelShap(of_game(game)).attribute(x, **enumerating(players))
    torch.testing.assert_close(found, expected, **EXACT)
    if players < 3:  # all orders are one and its reverse
        found = ShapleyValueSampling(of_game(game)).attribute(x, n_samples=2)
        torch.testing.assert_close(found, expected, **EXACT)


GAMES = {
    "any, 3": oracles.table(randn(8)),
    "any, 6": oracles.table(randn(64)),
    "any, 12": oracles.table(randn(4096)),
    "majority of 9": oracles.table((oracles.every_coalition(9).sum(1) > 4).double()),
    "parity of 7": oracles.table((oracles.every_coalition(7).sum(1) % 2).double()),
    "degree 4 of 11": oracles.of_degree(11, 4, 30, seed=1, offset=2.0),
    "pairs of 12": oracles.second_order(randn(12), randn(12, 12).fill_diagonal_(0)),
    "kernel of 10": oracles.gaussian_kernel(randn(10), randn(10) / 2, randn(5, 10), randn(5), 0.05),
}


@pytest.mark.parametrize("name", GAMES)
def test_games(name):
    game = GAMES[name]
    x = torch.ones(1, game.players, dtype=torch.float64)
    for limit in (None, 100):
        found = ShapleyValues(of_game(game)).attribute(x, perturbations_per_eval=limit)
        torch.testing.assert_close(found[0], game.shapley, **EXACT)
        found = KernelShap(of_game(game)).attribute(
            x, perturbations_per_eval=limit, **enumerating(game.players)
        )
        torch.testing.assert_close(found[0], game.shapley, **EXACT)
    found = ShapleyValueSampling(of_game(game)).attribute(x, n_samples=4000, seed=0)
    spread = game.value(oracles.every_coalition(game.players)).std()
    torch.testing.assert_close(found[0], game.shapley, rtol=0, atol=0.12 * spread)


@pytest.mark.parametrize("n_samples", [2, 10, 25, 26])
def test_what_only_pairs_make_is_exact_with_reversed_orders(n_samples):
    game = GAMES["pairs of 12"]
    x = torch.ones(1, 12, dtype=torch.float64)
    found = ShapleyValueSampling(of_game(game)).attribute(x, n_samples=n_samples, seed=1)
    if n_samples % 2 == 0:
        torch.testing.assert_close(found[0], game.shapley, **EXACT)
    else:  # one order has no reverse
        assert (found[0] - game.shapley).abs().max() > 1e-3


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("masks_per_row", [False, True])
@pytest.mark.parametrize("baselines_per_row", [False, True])
def test_tuples_masks_and_baselines_of_each_row(limit, masks_per_row, baselines_per_row):
    rows, players, gap = 4, 5, 3
    generator = torch.Generator().manual_seed(4)
    m, k = (rows if masks_per_row else 1), (rows if baselines_per_row else 1)
    inputs = (randn(rows, 4), randn(rows, 2, 3))
    masks = tuple(torch.randint(players, (m, *x.shape[1:]), generator=generator) for x in inputs)
    masks[0].view(m, -1)[0, :4] = torch.arange(4)
    masks[1].view(m, -1)[0, 0] = 4  # all players are there
    baselines = tuple(randn(k, *x.shape[1:]) for x in inputs)
    model = TwoInputs().double()

    def chosen(*inputs):
        return model(*inputs)[:, 1]

    expected = at_features(brute_force(chosen, inputs, baselines, masks, players), masks)
    arguments = {"baselines": baselines, "target": 1, "perturbations_per_eval": limit}
    arguments["feature_mask"] = tuple(gap * mask + 2 for mask in masks)
    found = ShapleyValues(model).attribute(inputs, **arguments)
    torch.testing.assert_close(found, expected, **EXACT)
    found = KernelShap(model).attribute(inputs, **arguments, **enumerating(players))
    torch.testing.assert_close(found, expected, **EXACT)
    found = KernelShap(model).attribute(
        inputs, **arguments, **enumerating(players), return_input_shape=False
    )
    assert found.shape == (rows, gap * (players - 1) + 1)
    of_groups = brute_force(chosen, inputs, baselines, masks, players)
    torch.testing.assert_close(found[:, ::gap], of_groups, **EXACT)
    assert (found[:, 1::gap] == 0).all() and (found[:, 2::gap] == 0).all()


@pytest.mark.parametrize("batch", [1, 3])
def test_an_mlp_of_twelve_features(batch):
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(12, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2)
    ).double()
    x, baseline = randn(batch, 12), randn(1, 12)
    mask = torch.arange(12)[None]
    expected = brute_force(model, (x,), (baseline,), (mask,), 12)  # [B, M, C]
    found = ShapleyValues(model).attribute(x, baseline)
    torch.testing.assert_close(found, expected.mT, **EXACT)
    found = KernelShap(model).attribute(x, baseline, **enumerating(12))
    torch.testing.assert_close(found, expected.mT, **EXACT)
    found = ShapleyValues(model).attribute(x, baseline, target=[1, 0, 1][:batch])
    torch.testing.assert_close(found[0], expected[0, :, 1], **EXACT)


@pytest.mark.parametrize("n_samples", [3, 10, 25, 60])
@pytest.mark.parametrize("method", METHODS)
def test_linear_models_are_exact_with_any_sample_that_determines_them(method, n_samples):
    w, x, baseline = randn(7), randn(4, 7), randn(4, 7)
    rest = {} if method is ShapleyValues else {"n_samples": max(n_samples, 20), "seed": 3}
    found = method(lambda x: x @ w + 3).attribute(x, baseline, **rest)
    torch.testing.assert_close(found, w * (x - baseline), **EXACT)
    if method is ShapleyValueSampling:
        found = method(lambda x: x @ w + 3).attribute(x, baseline, n_samples=1)
        torch.testing.assert_close(found, w * (x - baseline), **EXACT)


SAMPLED = [
    (ShapleyValues, {}),
    (ShapleyValueSampling, {"n_samples": 1}),
    (ShapleyValueSampling, {"n_samples": 7}),
    (KernelShap, {"n_samples": 2}),
    (KernelShap, {"n_samples": 11}),
    (KernelShap, {"n_samples": 40}),
    (KernelShap, {"n_samples": 60, "design": "hadamard"}),
    (KernelShap, {"n_samples": 500, "design": "leverage"}),
    (KernelShap, {"n_samples": 5000}),
]


@pytest.mark.filterwarnings("ignore:n_samples")
@pytest.mark.parametrize(("method", "rest"), SAMPLED)
def test_values_add_up_in_float32(method, rest):
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(9, 30), torch.nn.Tanh(), torch.nn.Linear(30, 3))
    x, baseline = torch.randn(5, 9), torch.randn(1, 9)
    found = method(model).attribute(x, baseline, **rest)
    assert found.dtype == torch.float32 and found.shape == (5, 3, 9)
    with torch.no_grad():
        difference = model(x) - model(baseline)
    torch.testing.assert_close(found.sum(-1), difference, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("method", "rest"), SAMPLED)
@pytest.mark.filterwarnings("ignore:n_samples")
def test_explanations_tell_the_outputs_and_what_is_missing(method, rest):
    model, x = mlp().double(), randn(3, 7)
    found = method(model).explain(x, 0.2, target=[0, 1, 2], **rest, **seed_of(method))
    again = method(model).attribute(x, 0.2, [0, 1, 2], **rest, **seed_of(method))
    torch.testing.assert_close(found.values, again, **EXACT)
    rows = torch.arange(3)
    torch.testing.assert_close(found.outputs, model(x)[rows, rows].detach())
    at_baseline = model(torch.full_like(x, 0.2))[rows, rows].detach()
    torch.testing.assert_close(found.baseline_outputs, at_baseline)
    torch.testing.assert_close(found.convergence_delta, torch.zeros(3).double(), rtol=0, atol=1e-12)
    assert found.method == method.get_name() and found.seconds > 0
    if method is KernelShap:
        assert found.standard_errors.shape == (3, 7)


def seed_of(method):
    return {} if method is ShapleyValues else {"seed": 3}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("model", "shape"),
    [(mlp().double(), (3, 4)), (lambda x: x.std(0).sum(), (1,)), (lambda x: x.T @ x, (7, 7))],
)
def test_explanations_of_many_outputs_and_of_the_batch(method, model, shape):
    x = randn(3, 7)
    found = method(model).explain(x, 0.2)
    expected = model(x).detach().reshape(shape)
    torch.testing.assert_close(found.outputs, expected, **EXACT)
    at_baseline = model(torch.full_like(x, 0.2)).detach().reshape(shape)
    torch.testing.assert_close(found.baseline_outputs, at_baseline, **EXACT)
    assert found.values.shape == (*shape, 7)
    torch.testing.assert_close(found.values.sum(-1), expected - at_baseline, **EXACT)
    assert found.convergence_delta.shape == shape and found.convergence_delta.abs().max() < 1e-10


def test_each_group_counts_once_towards_the_sum():
    x, mask = randn(3, 4), torch.tensor([0, 0, 0, 1])
    for method in METHODS:
        found = method(one_number).explain(x, feature_mask=mask)
        assert found.convergence_delta.abs().max() < 1e-10


def test_players_that_do_the_same_get_the_same():
    x = torch.ones(1, 6, dtype=torch.float64)

    def model(x):  # features 0 and 1 are alike, 4 does nothing
        return (x[:, 0] + x[:, 1]).exp() * x[:, 2] - x[:, 3] * x[:, 0] * x[:, 1] + x[:, 5] ** 2

    for found in (
        ShapleyValues(model).attribute(x, 0.5),
        KernelShap(model).attribute(x, 0.5, n_samples=64),
    ):
        torch.testing.assert_close(found[0, 0], found[0, 1], **EXACT)
        torch.testing.assert_close(found[0, 4], torch.tensor(0.0).double(), **EXACT)
        torch.testing.assert_close(found[0, 5], torch.tensor(0.75).double(), **EXACT)
    sampled = ShapleyValueSampling(model).attribute(x, 0.5, n_samples=3)
    torch.testing.assert_close(sampled[0, 4], torch.tensor(0.0).double(), **EXACT)
    torch.testing.assert_close(sampled[0, 5], torch.tensor(0.75).double(), **EXACT)


@pytest.mark.parametrize("players", [1, 2, 3])
@pytest.mark.parametrize("n_samples", [2, 3, 5, 25])
def test_few_players(players, n_samples):
    x, mask = randn(2, 6), torch.arange(6) % players
    expected = ShapleyValues(one_number).attribute(x, feature_mask=mask)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if n_samples < 2**players else "error")
        found = KernelShap(one_number).attribute(x, feature_mask=mask, n_samples=n_samples)
    if n_samples >= 2**players:
        torch.testing.assert_close(found, expected, **EXACT)
    sampled = ShapleyValueSampling(one_number).attribute(x, feature_mask=mask, n_samples=n_samples)
    if players == 1 or (players == 2 and n_samples == 2):
        torch.testing.assert_close(sampled, expected, **EXACT)
    whole = one_number(x) - one_number(torch.zeros_like(x))
    for values in (found, sampled, expected):
        of_groups = torch.stack([values[:, g] for g in range(players)], 1)
        torch.testing.assert_close(of_groups.sum(1), whole, **EXACT)


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_for_any_limit_and_number_of_threads(method):
    model, x, rest = ResidualCNN(), torch.randn(3, 2, 6, 5), {}
    mask = torch.arange(30).view(1, 1, 6, 5) // 3
    if method is not ShapleyValues:
        rest = {"n_samples": 21 if method is ShapleyValueSampling else 80, "seed": 4}
    expected = method(model).attribute(x, target=1, feature_mask=mask, **rest)
    for limit in LIMITS[1:]:
        found = method(model).attribute(
            x, target=1, feature_mask=mask, perturbations_per_eval=limit, **rest
        )
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.set_num_threads(2)
    found = method(model).attribute(x, target=1, feature_mask=mask, **rest)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_rows_share_one_design():
    x = randn(4, 12)
    together = KernelShap(one_number).attribute(x, n_samples=50, seed=2)
    for i in range(4):
        alone = KernelShap(one_number).attribute(x[i : i + 1], n_samples=50, seed=2)
        torch.testing.assert_close(alone[0], together[i], **EXACT)


@pytest.mark.parametrize("n_samples", [2, 3, 6, 8])
def test_too_few_samples_are_told_and_still_add_up(n_samples):
    x = randn(3, 12)
    with pytest.warns(
        UserWarning, match=f"^n_samples: {n_samples} coalitions do not determine"
    ) as w:
        found = KernelShap(one_number).attribute(x, n_samples=n_samples, seed=1)
    assert w[0].filename == __file__
    difference = one_number(x) - one_number(torch.zeros_like(x))
    torch.testing.assert_close(found.sum(1), difference, **EXACT)
    if n_samples == 2:  # nothing but the ends: all alike
        torch.testing.assert_close(found, (difference / 12)[:, None].expand(3, 12), **EXACT)
    with pytest.warns(UserWarning, match="better 60"):
        explanation = KernelShap(one_number).explain(x, n_samples=n_samples, seed=1)
    assert explanation.standard_errors.isnan().all()


def test_the_number_of_samples_that_the_warning_names_will_do():
    for players in (5, 12, 30, 70):
        x = randn(1, players)
        with pytest.warns(UserWarning, match="^n_samples") as caught:
            KernelShap(one_number).attribute(x, n_samples=4)
        enough = int(str(caught[0].message).split("Take at least ")[1].split(",")[0])
        assert enough == 2 * players + 6
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for seed in range(5):
                KernelShap(one_number).attribute(x, n_samples=enough, seed=seed)


def test_standard_errors_are_there_and_shrink():
    game = GAMES["degree 4 of 11"]
    x, model = torch.ones(1, 11, dtype=torch.float64), of_game(game)
    typical = []
    for n_samples in (60, 200, 1000):
        found = [
            KernelShap(model).explain(
                x, n_samples=n_samples, seed=seed, design="leverage", tier="fast"
            )
            for seed in range(40)
        ]
        errors = torch.stack([f.standard_errors[0] for f in found])
        misses = torch.stack([f.values[0] - game.shapley for f in found])
        assert (errors >= 0).all()
        ratio = misses.square().mean().sqrt() / errors.square().mean().sqrt()
        assert 0.6 < ratio < 1.6, (n_samples, ratio)
        typical.append(errors.mean())
    assert typical[0] > 1.5 * typical[1] > 2 * typical[2]
    exact = KernelShap(model).explain(x, **enumerating(11))
    assert (exact.standard_errors == 0).all()


def test_standard_errors_come_in_the_form_of_the_values():
    model, inputs = TwoInputs().double(), (randn(3, 4), randn(3, 2, 3))
    found = KernelShap(model).explain(inputs, n_samples=60, seed=0)
    for values, errors in zip(found.values, found.standard_errors, strict=True):
        assert values.shape == errors.shape and (errors > 0).all()
    mask = torch.arange(4) // 2, torch.tensor([3, 4, 5])
    found = KernelShap(model).explain(inputs, feature_mask=mask, n_samples=20, seed=0)
    assert (found.standard_errors[0][..., 0] == found.standard_errors[0][..., 1]).all()


def test_a_background_is_the_mean_over_its_rows():
    model, x, background = mlp().double(), randn(3, 7), randn(5, 7)
    exact = {"n_samples": 128, "target": 1}
    single = [KernelShap(model).attribute(x, row[None], **exact) for row in background]
    expected = torch.stack(single).mean(0)
    for limit in LIMITS:
        found = KernelShap(model).attribute(
            x, background=background, perturbations_per_eval=limit, **exact
        )
        torch.testing.assert_close(found, expected, **EXACT)
    sampled = {"n_samples": 40, "target": 1, "seed": 6}
    single = [KernelShap(model).attribute(x, row[None], **sampled) for row in background]
    found = KernelShap(model).explain(x, background=background, **sampled)
    torch.testing.assert_close(found.values, torch.stack(single).mean(0), **EXACT)
    torch.testing.assert_close(
        found.baseline_outputs, model(background)[:, 1].mean().detach().expand(3), **EXACT
    )
    assert found.convergence_delta.abs().max() < 1e-12
    for limit in LIMITS:  # a coalition's rows may come in several blocks
        cut = KernelShap(model).explain(
            x, background=background, perturbations_per_eval=limit, **sampled
        )
        torch.testing.assert_close(cut.standard_errors, found.standard_errors, **EXACT)
    assert (found.standard_errors > 0).all()
    one = KernelShap(model).attribute(x, background=background[:1], **sampled)
    torch.testing.assert_close(one, single[0], **EXACT)


@pytest.mark.parametrize("limit", [None, 1, 4])
def test_a_background_of_a_tuple_with_a_mask_for_each_row(limit):
    model, inputs = TwoInputs().double(), (randn(3, 4), randn(3, 2, 3))
    background = (randn(6, 4), randn(6, 2, 3))
    masks = (torch.arange(12).view(3, 4) % 5, torch.arange(18).view(3, 2, 3) % 5)
    rest = {"feature_mask": masks, "n_samples": 32, "target": [0, 1, 2]}
    single = [
        KernelShap(model).attribute(inputs, (a[None], b[None]), **rest)
        for a, b in zip(*background, strict=True)
    ]
    found = KernelShap(model).attribute(
        inputs, background=background, perturbations_per_eval=limit, **rest
    )
    expected = tuple(torch.stack(parts).mean(0) for parts in zip(*single, strict=True))
    torch.testing.assert_close(found, expected, **EXACT)


def test_a_fractional_background_of_integers():
    x, background = torch.arange(12).reshape(3, 4) % 5, randn(6, 4)
    found = KernelShap(lambda x: one_number(x.double())).attribute(x, background=background)
    expected = KernelShap(one_number).attribute(x.double(), background=background)
    torch.testing.assert_close(found, expected, **EXACT)


def test_a_background_and_a_model_that_answers_for_the_batch():
    x, background = randn(3, 4), randn(5, 4)

    def model(x):
        return one_number(x).square().mean()

    found = KernelShap(model).attribute(x, background=background)
    single = [KernelShap(model).attribute(x, row[None]) for row in background]
    torch.testing.assert_close(found, torch.stack(single).mean(0), **EXACT)


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("background", [1, 12])
def test_equals_shap_where_both_take_all_coalitions(outputs, background):
    shap = pytest.importorskip("shap")
    torch.manual_seed(2)
    model = torch.nn.Sequential(
        torch.nn.Linear(6, 10), torch.nn.Tanh(), torch.nn.Linear(10, outputs)
    ).double()
    x, rows = randn(4, 6), randn(background, 6)

    def predict(values):
        with torch.no_grad():
            return model(torch.from_numpy(values)).numpy()

    explainer = shap.KernelExplainer(predict, rows.numpy())
    theirs = explainer.shap_values(x.numpy(), nsamples=64, l1_reg=False, silent=True)
    theirs = torch.from_numpy(theirs).reshape(4, 6, outputs).mT  # [B, C, M]
    found = KernelShap(model).explain(x, background=rows, n_samples=64)
    torch.testing.assert_close(found.values.reshape(theirs.shape), theirs, rtol=1e-6, atol=1e-8)
    expected = torch.from_numpy(explainer.expected_value.reshape(1, outputs)).expand(4, outputs)
    torch.testing.assert_close(found.baseline_outputs.reshape(4, outputs), expected)


@pytest.mark.parametrize("method", METHODS)
def test_groups_of_one_feature_or_of_many(method):
    """A group's value does not depend on how many features it has, nor on its id."""
    x, model = randn(3, 4), mlp().double()
    rest = {} if method is ShapleyValues else {"n_samples": 16, "seed": 0}
    wide = x.repeat_interleave(torch.tensor([1, 3, 2, 1]), 1)
    mask = torch.tensor([0, 1, 1, 1, 2, 2, 3])

    def of_wide(x):
        return model(torch.nn.functional.pad(x[:, [0, 1, 4, 6]], (0, 3)))

    def of_narrow(x):
        return model(torch.nn.functional.pad(x, (0, 3)))

    expected = method(of_narrow).attribute(x, target=0, **rest)
    found = method(of_wide).attribute(wide, target=0, feature_mask=mask, **rest)
    torch.testing.assert_close(found, expected[:, mask], **EXACT)
    found = method(of_wide).attribute(wide, target=0, feature_mask=mask * 100 + 7, **rest)
    torch.testing.assert_close(found, expected[:, mask], **EXACT)


def test_more_players_than_a_word_has_bits():
    w, x = randn(130), randn(2, 130)
    x[0] = w.sign()  # so that something is large
    for method, rest in (
        (ShapleyValueSampling, {"n_samples": 2}),
        (KernelShap, {"n_samples": 700}),
    ):
        found = method(lambda x: x @ w + x[:, 0] * x[:, 100]).attribute(x, seed=1, **rest)
        expected = w * x
        expected[:, [0, 100]] += (x[:, 0] * x[:, 100] / 2)[:, None]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.usefixtures("independent_rows")
def test_the_number_of_model_rows():
    x = randn(3, 6)
    for n_samples, most in ((10, 10), (11, 11), (30, 30), (64, 64), (1000, 64)):
        logged = Logged(one_number)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            KernelShap(logged).attribute(x, n_samples=n_samples, seed=0)
        assert sum(logged.rows) <= 3 * most + 1  # a row whose multiplications are counted
        assert sum(logged.rows) >= 3 * (most - 1 if n_samples != 10 else 9)
    logged = Logged(one_number)
    KernelShap(logged).attribute(x, n_samples=20, background=randn(5, 6))
    assert sum(logged.rows) <= 3 * (1 + 5 * 19) + 1


def test_designs_by_name():
    game = oracles.of_degree(14, 3, 30, seed=0)
    x = torch.ones(1, 14, dtype=torch.float64)
    found = {
        name: KernelShap(of_game(game)).attribute(x, n_samples=n, design=name, seed=0)[0]
        for name, n in (("hadamard", 70), ("leverage", 200), ("enumeration", 2**14))
    }
    torch.testing.assert_close(found["enumeration"], game.shapley, **EXACT)
    for values in found.values():
        assert (values - game.shapley).square().sum() < 0.05 * game.shapley.square().sum()
    assert not torch.allclose(found["hadamard"], found["leverage"])


@pytest.mark.usefixtures("independent_rows")
@pytest.mark.parametrize("fits", [1, 2, 5])
@pytest.mark.parametrize("method", METHODS)
def test_out_of_memory_halves_and_loses_nothing(method, fits):
    x, rest = randn(3, 6), {} if method is ShapleyValues else {"n_samples": 30, "seed": 0}
    expected = method(one_number).attribute(x, **rest)
    logged = Logged(one_number, fail_above=fits, error=torch.OutOfMemoryError("out of memory"))
    found = method(logged).attribute(x, **rest)
    torch.testing.assert_close(found, expected, **EXACT)
    assert logged.tried > len(logged.rows) and max(logged.rows) <= fits


def test_the_model_may_be_a_module_in_any_mode():
    model, x = ResidualCNN().double(), randn(3, 2, 6, 5)
    mask = torch.arange(30).view(1, 1, 6, 5) // 10
    expected = ShapleyValues(copy.deepcopy(model)).attribute(x, target=1, feature_mask=mask)
    trained = ShapleyValues(model.train()).attribute(x, target=1, feature_mask=mask)
    assert (trained - expected).abs().max() > 1e-3
    found = KernelShap(model).attribute(x, target=1, feature_mask=mask, n_samples=8)
    torch.testing.assert_close(found, trained, **EXACT)


def test_kernel_shap_takes_more_features_than_a_matrix_of_their_pairs_has_room_for():
    x = torch.randn(1, 40_000, generator=torch.Generator().manual_seed(0))
    explainer = KernelShap(lambda rows: rows.tanh().sum(1))
    with pytest.warns(UserWarning, match="do not determine"):
        found = explainer.explain(x, n_samples=25, seed=0)
    torch.testing.assert_close(found.values.sum(1), found.outputs, rtol=1e-4, atol=1e-4)


def test_numbers_by_group_are_one_tensor_also_when_explained():
    x = (torch.randn(2, 3), torch.randn(2, 2))
    shap = KernelShap(lambda a, b: a.sum(1) * b.sum(1))
    options = {"n_samples": 32, "seed": 0, "return_input_shape": False}
    found = shap.explain(x, **options)
    assert torch.equal(found.values, shap.attribute(x, **options))
    assert found.standard_errors.shape == (2, 5)


def test_ids_too_far_apart_for_one_number_each_are_told_before_any_call():
    logged = Logged(lambda x: x.sum(1))
    with pytest.raises(ArgumentError, match=r"feature_mask: expected ids within 10000000 .*"):
        KernelShap(logged).attribute(
            torch.randn(1, 2), feature_mask=torch.tensor([[0, 1 << 30]]), return_input_shape=False
        )
    assert not logged.rows


def test_a_design_of_an_earlier_call_is_taken_again_and_only_that(monkeypatch):
    made = []
    real = _shapley_game.designs.shapley_design
    monkeypatch.setattr(
        _shapley_game.designs, "shapley_design", lambda *a: made.append(a) or real(*a)
    )
    _shapley_game._kept_regression.cache_clear()
    shap, x = KernelShap(mlp()), torch.randn(2, 7)
    first, again, other = (shap.attribute(x, target=1, n_samples=40, seed=s) for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert [a[2] for a in made] == [1, 2]
