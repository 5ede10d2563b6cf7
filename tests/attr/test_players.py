"""Groups that equal the baseline are no players: they have exactly zero and cost no samples."""

import warnings

import pytest
import torch
from torch import nn

from fastxai.attr import (
    FeatureAblation,
    KernelShap,
    LeastSquares,
    Lime,
    Occlusion,
    Ridge,
    ShapleyValues,
    ShapleyValueSampling,
)
from fastxai.attr._players import groups_that_vary, parts
from fastxai.core.checks import ArgumentError
from fastxai.core.engine import shortcut as prefix
from fastxai.core.engine.groups import check_feature_mask

from .. import oracles
from ..models import Logged, TwoInputs, mlp

CLOSE = {"rtol": 1e-10, "atol": 1e-12}
FEATURES = 12
AUTO = {"n_samples": "auto", "tolerance": 0.05, "seed": 3, "max_samples": 400}
METHODS = {
    "FeatureAblation": (FeatureAblation, {}),
    "ShapleyValues": (ShapleyValues, {}),
    "ShapleyValueSampling": (ShapleyValueSampling, {"n_samples": 6, "seed": 3}),
    "ShapleyValueSampling, auto": (ShapleyValueSampling, AUTO),
    "KernelShap": (KernelShap, {"n_samples": 50, "seed": 3, "tier": "fast"}),
    "KernelShap, leverage": (
        KernelShap,
        {"n_samples": 50, "seed": 3, "tier": "fast", "design": "leverage"},
    ),
    "KernelShap, hadamard": (
        KernelShap,
        {"n_samples": 50, "seed": 3, "tier": "fast", "design": "hadamard"},
    ),
    "KernelShap, shared": (KernelShap, {"n_samples": 60, "seed": 3, "tier": "shared"}),
    "KernelShap, accurate": (KernelShap, {"n_samples": 60, "seed": 3, "tier": "accurate"}),
    "KernelShap, auto": (KernelShap, {**AUTO, "tier": "fast"}),
    "KernelShap, accurate, auto": (KernelShap, {**AUTO, "tier": "accurate"}),
    "Lime": (Lime, {"n_samples": 60, "seed": 3}),
    "Lime, ridge": (lambda f: Lime(f, Ridge(0.5)), {"n_samples": 61, "seed": 3}),
    "Lime, auto": (lambda f: Lime(f, LeastSquares()), AUTO),
}
ROWS = {  # of the model for one example with m players, beside f(x)
    "FeatureAblation": lambda m: m,
    "ShapleyValues": lambda m: 2**m if m else 0,
    "ShapleyValueSampling": lambda m: 1 + 6 * (m - 1) if m else 0,
    "KernelShap": lambda m: min(2**m, 50) - 1,
    "Lime": lambda m: 60 if m else 0,
}

pytestmark = pytest.mark.filterwarnings(
    "ignore:max_samples", "ignore:n_samples", "ignore:.* NaN or"
)


def randn(*shape):
    torch.manual_seed(sum(shape))
    return torch.randn(*shape, dtype=torch.float64)


def network(features=FEATURES, outputs=2):
    torch.manual_seed(features)
    net = nn.Sequential(nn.Linear(features, 20), nn.Tanh(), nn.Linear(20, outputs)).double()
    net[0].weight.data *= 3
    return net.eval().requires_grad_(False)


def with_zeros(*players, features=FEATURES):
    """A row for each number, of which so many features are not zero; and which these are."""
    x, some = randn(len(players), features), torch.zeros(len(players), features, dtype=torch.bool)
    for row, m in enumerate(players):
        some[row, torch.randperm(features, generator=torch.Generator().manual_seed(row))[:m]] = True
    return x * some, some


def of_some(model, some, features=FEATURES):
    """The model as a function of these features alone, the others being zero."""

    def function(z):
        made = torch.zeros(len(z), features, dtype=z.dtype)
        made[:, some] = z.as_subclass(torch.Tensor)
        return model(made)

    return function


def explain(name, model, x, **more):
    method, arguments = METHODS[name]
    return method(model).explain(x, **{"target": 1, **arguments, **more})


@pytest.fixture(params=METHODS, ids=lambda name: name.replace(", ", "-"))
def name(request):
    return request.param


@pytest.mark.parametrize("players", [1, 2, 3, 5, 8, 11])
def test_as_without_the_features_that_do_nothing(name, players):
    """Values, errors, samples, tier and all: nothing tells that there are more features."""
    x, some = with_zeros(players)
    found = explain(name, network(), x)
    # There is no such design for so few, and so it is the best one.
    no_design = {"design": None} if "hadamard" in name and players < 6 else {}
    expected = explain(name, of_some(network(), some[0]), x[:, some[0]], **no_design)
    for ours, theirs in (
        (found.values, expected.values),
        (found.standard_errors, expected.standard_errors),
    ):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert (ours[~some] == 0).all()
            # Lime's distances add up all features, in another order.
            torch.testing.assert_close(ours[some], theirs[0], rtol=1e-6, atol=1e-9, equal_nan=True)
    torch.testing.assert_close(found.values[some], expected.values[0], **CLOSE)
    assert found.players.tolist() == expected.players.tolist() == [players]
    assert (found.samples is None) == (expected.samples is None)
    assert found.samples is None or torch.equal(found.samples, expected.samples)
    assert found.tier == expected.tier


@pytest.mark.parametrize("affine", [True, False])
def test_a_row_in_a_batch_is_as_alone(name, affine, monkeypatch):
    """Whoever else is there, and whatever belongs to a row goes with it."""
    monkeypatch.setattr(prefix, "WORTH", 1 if affine else 1e30)
    x, some = with_zeros(5, 0, 8, 1, 12, 8, 5)
    baseline = randn(8, FEATURES)[1:]
    x = torch.where(some, x, baseline)
    target, shift = [0, 1, 1, 0, 1, 0, 1], randn(7, 2)
    model = network()
    function = lambda x, shift: model(x) + shift * x[:, :2]  # noqa: E731
    function = model if affine else function
    rest = {} if affine else {"additional_forward_args": shift}
    together = explain(name, function, x, baselines=baseline, target=target, **rest)
    assert together.players.tolist() == [5, 0, 8, 1, 12, 8, 5]
    assert (together.values[~some] == 0).all() and (together.values[some] != 0).any()
    for i in range(len(x)):
        at = slice(i, i + 1)
        rest = {} if affine else {"additional_forward_args": shift[at]}
        alone = explain(name, function, x[at], baselines=baseline[at], target=target[i], **rest)
        torch.testing.assert_close(together.values[at], alone.values, **CLOSE)
        if together.standard_errors is not None:
            errors = together.standard_errors[at]
            assert (errors[~some[at]] == 0).all()
            torch.testing.assert_close(
                errors, alone.standard_errors, rtol=1e-6, atol=1e-9, equal_nan=True
            )
            reached = together.reached[at]
            torch.testing.assert_close(reached, alone.reached, rtol=1e-6, atol=1e-9, equal_nan=True)
        for field in ("samples", "players"):
            ours, theirs = getattr(together, field), getattr(alone, field)
            assert ours is None or torch.equal(ours[at], theirs)
        torch.testing.assert_close(together.baseline_outputs[at], alone.baseline_outputs)
        if together.convergence_delta is not None:
            assert together.convergence_delta[at].abs() < 1e-12


@pytest.mark.parametrize("name", ["ShapleyValues", "KernelShap"])
@pytest.mark.parametrize("background", [None, 4])
def test_values_of_the_players_are_those_of_all(name, background):
    """By brute force over all groups: the axiom of the dummy."""
    x, some = with_zeros(4, 6, 2, features=9)
    model, rest = network(9), {"n_samples": 512} if name == "KernelShap" else {}
    rows = torch.zeros(1, 9, dtype=torch.float64)
    if background:
        if name == "ShapleyValues":
            pytest.skip("takes no background")
        rest["background"] = rows = randn(background, 9) * (torch.arange(9) > 5)
        some = some | (torch.arange(9) > 5)
    found = METHODS[name][0](model).explain(x, target=1, **rest)
    z = oracles.every_coalition(9)
    for e in range(3):
        values = torch.stack([model(torch.where(z, x[e], row))[:, 1] for row in rows]).mean(0)
        torch.testing.assert_close(
            found.values[e], oracles.brute_force(values), rtol=1e-12, atol=1e-12
        )
    assert (found.values[~some] == 0).all() and found.players.tolist() == some.sum(1).tolist()


@pytest.mark.usefixtures("independent_rows")
@pytest.mark.parametrize("name", ROWS)
def test_only_players_cost_rows(name):
    of_example = ROWS[name]
    for players in ([7], [0], [1], [2], [0, 0], [4, 4], [9, 0, 3, 3, 1], [12, 2]):
        logged, arguments = Logged(network()), METHODS[name][1]
        METHODS[name][0](logged).attribute(with_zeros(*players)[0], target=0, **arguments)
        expected = len(players) + sum(map(of_example, players))
        assert sum(logged.rows) == expected, players
        if max(players) == 0:
            assert len(logged.rows) == 1


def test_without_players_there_is_nothing_to_ask_or_tell(name):
    x = torch.zeros(3, FEATURES, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = explain(name, network(), x)
    assert (found.values == 0).all() and found.values.shape == x.shape
    assert torch.equal(found.outputs, found.baseline_outputs)
    assert found.players.tolist() == [0, 0, 0] and (
        found.samples is None or not found.samples.any()
    )
    if found.standard_errors is not None:
        assert (found.standard_errors == 0).all() and (found.reached == 0).all()
    if found.convergence_delta is not None:
        assert (found.convergence_delta == 0).all()
    assert "0 players" in repr(found)
    empty = explain(name, network(), x[:0])
    assert empty.values.shape == (0, FEATURES) and empty.players.shape == (0,)


def test_how_many_play_is_told():
    x, _ = with_zeros(3, 9, 9)
    found = explain("KernelShap", network(), x)
    assert found.samples.tolist() == [8, 50, 50] and found.players.tolist() == [3, 9, 9]
    assert "50 samples, 3 to 9 players" in repr(found)
    assert "9 players" in repr(explain("KernelShap", network(), x[1:]))


NAN, INFINITE = torch.nan, torch.inf
EQUAL = {  # inputs and baselines of which all but the last features are equal
    "float32": (torch.tensor([[1.5, 2, 3]]), torch.tensor([[1.5, 2, 4]])),
    "float16": (torch.tensor([[1.5, 2, 3]]).half(), torch.tensor([[1.5, 2, 4]]).half()),
    "bfloat16": (torch.tensor([[1.5, 2, 3]]).bfloat16(), 2 * torch.tensor([[0.75, 1, 4]])),
    "integers": (torch.tensor([[1, -2, 3]]), torch.tensor([[1, -2, 4]])),
    "bytes": (torch.tensor([[1, 0, 3]]).byte(), torch.tensor([[1, 0, 4]]).byte()),
    "integers and fractions": (torch.tensor([[1, 2, 3]]), torch.tensor([[1, 2, 3.5]])),
    "booleans": (torch.tensor([[True, False, True]]), torch.tensor([[True, False, False]])),
    "complex": (torch.tensor([[1 + 2j, 1j, 3j]]), torch.tensor([[1 + 2j, 1j, 4]])),
    "NaN": (torch.tensor([[NAN, 0, NAN]]), torch.tensor([[NAN, 0, 1]])),
    "infinite": (
        torch.tensor([[INFINITE, -INFINITE, 0]]),
        torch.tensor([[INFINITE, -INFINITE, 1]]),
    ),
    "zeros of either sign": (torch.tensor([[-0.0, 0.0, 3]]), torch.tensor([[0.0, -0.0, 1]])),
    "a number": (torch.tensor([[2.0, 2, 3]]), 2),
    "rows": (torch.tensor([[2.0, 1, 3], [5, 6, 7]]), torch.tensor([[2.0, 1, 4], [5, 6, 8]])),
}


def told(x):
    """One number a row of inputs of any kind."""
    x = torch.where(x.isnan(), 7, x).clamp(-9, 9) if x.is_floating_point() else x
    return (x.abs() if x.is_complex() else x).double() @ torch.tensor([1.0, 3, 5]).double()


@pytest.mark.parametrize("kind", EQUAL)
@pytest.mark.parametrize(
    "method", ["FeatureAblation", "ShapleyValues", "ShapleyValueSampling", "KernelShap", "Lime"]
)
def test_what_is_equal(method, kind):
    x, baseline = EQUAL[kind]
    method, arguments = METHODS[method]
    found = method(told).explain(x, baseline, **arguments)
    assert found.players.tolist() == [1] * len(x)
    assert (found.values[:, :2] == 0).all() and (found.values[:, 2] != 0).all()


@pytest.mark.parametrize("kind", ["float32", "integers", "NaN"])
def test_a_background_must_be_equal_in_every_row(kind):
    x, baseline = EQUAL[kind]
    background = baseline.repeat(3, 1)
    found = KernelShap(told).explain(x, background=background)
    assert found.players.tolist() == [1] and (found.values[:, :2] == 0).all()
    background[1, 0] = 5
    found = KernelShap(told).explain(x, background=background)
    assert found.players.tolist() == [2] and found.values[0, 0] != 0


def test_groups_over_several_inputs(name):
    """A group plays if one of its features does, in any of the inputs; ids may have gaps."""
    model = TwoInputs().double()
    x = randn(3, 4), randn(3, 2, 3)
    x[0][0, 1:] = x[1][0] = 0
    x[0][1] = 0
    masks = (
        torch.tensor([[0, 0, 4, 9]]),
        torch.tensor([[[0, 4, 6], [6, 6, 6]], [[9] * 3] * 2, [[0, 4, 6], [6, 6, 6]]]),
    )
    no_design = {"design": None} if "hadamard" in name else {}  # there is none for four
    found = explain(name, model, x, target=1, feature_mask=masks, **no_design)
    assert found.players.tolist() == [1, 1, 4]
    (left, right), baseline = found.values, model(torch.zeros_like(x[0]), torch.zeros_like(x[1]))
    assert (left[0, 2:] == 0).all() and (right[0].flatten()[1:] == 0).all()
    assert (left[1, :3] == 0).all() and left[1, 3] == right[1, 0, 0]
    # A single player has the whole difference, if the method gives all of it to somebody.
    if "Lime, ridge" not in name and name != "Lime":
        difference = (model(*x) - baseline)[:, 1].detach()
        torch.testing.assert_close(left[0, 0], difference[0])
        torch.testing.assert_close(left[1, 3], difference[1])
    for i in range(3):
        at = slice(i, i + 1)
        rows, own = (x[0][at], x[1][at]), (masks[0], masks[1][at])
        alone = explain(name, model, rows, target=1, feature_mask=own, **no_design)
        for ours, theirs in zip(found.values, alone.values, strict=True):
            torch.testing.assert_close(ours[at], theirs, **CLOSE)


@pytest.mark.parametrize("name", ["KernelShap", "Lime"])
def test_groups_by_id(name):
    mask = torch.tensor([9, 4, 4, 2, 2, 7, 2])
    x = randn(2, 7)
    x[0, [0, 5]] = x[1, 1:3] = 0
    shaped = explain(name, mlp().double(), x, feature_mask=mask)
    by_id = explain(name, mlp().double(), x, feature_mask=mask, return_input_shape=False)
    assert shaped.players.tolist() == [2, 3] and by_id.values.shape == (2, 8)
    for found, expected in (
        (by_id.values, shaped.values),
        (by_id.standard_errors, shaped.standard_errors),
    ):
        torch.testing.assert_close(found[:, mask - 2], expected)
        assert (found[:, [1, 3, 4, 6]] == 0).all()


def test_several_outputs(name):
    x, some = with_zeros(5, 3)
    every = explain(name, network(), x, target=None)
    for target in range(2):
        one = explain(name, network(), x, target=target)
        if "auto" in name or "accurate" in name:  # which is for all outputs together
            continue
        of_target = (
            every.values.unflatten(0, (2, -1))[:, target]
            if name == "FeatureAblation"
            else every.values[:, target]
        )
        torch.testing.assert_close(of_target, one.values, **CLOSE)
    if name != "FeatureAblation":
        assert (every.values.transpose(1, 2)[~some] == 0).all()


WHOLE = {
    "one number": lambda x: network()(x).std(0).sum(),
    "as many as rows": lambda x: network()(x).mean(0),  # for two rows two numbers
    "three": lambda x: torch.cat([network()(x).mean(0), x.sum()[None]]),
}


@pytest.mark.thin("model")
@pytest.mark.parametrize(
    ("model", "limit"),
    [("one number", None), ("three", 1), ("as many as rows", None), ("as many as rows", 1)],
)
def test_one_answer_for_the_batch(name, model, limit):
    """A group is a player for all if it is one in any example: all of them are asked together."""
    x = torch.zeros(2, FEATURES, dtype=torch.float64)
    x[0, :3], x[1, [2, 7]] = randn(3), randn(2)
    logged = Logged(WHOLE[model])
    found = explain(name, logged, x, target=None, perturbations_per_eval=limit)
    assert set(found.players.tolist()) == {4}
    some = x.any(0)
    assert (found.values[..., ~some] == 0).all()
    assert (found.values[..., some] != 0).any() or name == "Lime"  # whose lasso finds nothing

    # As if it were one row of so many features.
    def few(z):
        places = some.nonzero()[:, 0]
        batches = z.as_subclass(torch.Tensor).view(len(z), 2, 4)
        each = [WHOLE[model](torch.zeros_like(x).index_copy(1, places, rows)) for rows in batches]
        return torch.stack(each).reshape(len(z), -1)

    mask = torch.arange(4).repeat(2)
    if name != "FeatureAblation" and "Lime" not in name and "hadamard" not in name:
        expected = explain(name, few, x[:, some].reshape(1, 8), target=None, feature_mask=mask)
        ours = found.values.reshape(-1, FEATURES)[:, some]
        torch.testing.assert_close(
            ours, expected.values.reshape(-1, 8)[:, :4], rtol=1e-6, atol=1e-9
        )


def test_rows_that_share_statistics_stay_together(name):
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(FEATURES).double()
    seen = Logged(nn.Sequential(norm, network()))
    model = nn.Sequential(norm, network())
    model.register_forward_pre_hook(lambda _, args: seen.rows.append(len(args[0])))
    x, some = with_zeros(4, 3, 0)
    found = explain(name, model, x)
    assert found.players.tolist() == [int(some.any(0).sum())] * 3
    assert all(rows % 3 == 0 for rows in seen.rows)
    assert (found.values[:, ~some.any(0)] == 0).all()


def test_a_label_of_its_own_for_each_row_of_an_answer_for_the_batch():
    """Groups of each example's own are still refused, now that it is known too late."""
    x, _ = with_zeros(3, 5)
    mask = torch.arange(2 * FEATURES).view(2, FEATURES) % 5
    for method in (FeatureAblation, KernelShap, ShapleyValues, ShapleyValueSampling, Lime):
        with pytest.raises(ArgumentError, match="feature_mask: expected one row for all examples"):
            method(WHOLE["as many as rows"]).attribute(x, feature_mask=mask)


@pytest.mark.usefixtures("independent_rows")
@pytest.mark.parametrize("windows", [((2, 3), (1, 2)), ((3, 3), (2, 1)), ((1, 1), 1), ((5, 6), 1)])
@pytest.mark.parametrize("batch", [1, 4])
def test_windows_with_nothing_in_them_are_not_asked_about(windows, batch):
    shape, strides = windows
    torch.manual_seed(2)
    x = randn(batch, 5, 6) * (torch.rand(batch, 5, 6) < 0.25)
    model = lambda x: (x.flatten(1) @ randn(30)).sin()  # noqa: E731
    logged = Logged(model)
    found = Occlusion(logged).explain(x, shape, strides)
    strides = strides if isinstance(strides, tuple) else (strides, strides)
    total, count, players = torch.zeros_like(x), torch.zeros(5, 6), torch.zeros(batch).long()
    for a in range(0, 6 - shape[0] + strides[0] - 1, strides[0]):
        for b in range(0, 7 - shape[1] + strides[1] - 1, strides[1]):
            where = slice(a, a + shape[0]), slice(b, b + shape[1])
            without = x.clone()
            without[:, where[0], where[1]] = 0
            players += (without != x).flatten(1).any(1)
            total[:, where[0], where[1]] += (model(x) - model(without))[:, None, None]
            count[where] += 1
    torch.testing.assert_close(found.values, total / count, **CLOSE)
    assert torch.equal(found.players, players)
    asked = batch + int(players.sum())
    assert sum(logged.rows[:-1]) == asked  # the last are baseline outputs


def test_windows_over_what_stays_affine(monkeypatch):
    monkeypatch.setattr(prefix, "WORTH", 1)
    x = randn(4, 5, 6) * (torch.rand(4, 5, 6, generator=torch.Generator().manual_seed(1)) < 0.3)
    model, arguments = nn.Sequential(nn.Flatten(), network(30)), {"target": 0}
    found = Occlusion(model).explain(x, (2, 3), (1, 2), **arguments)
    assert len(found.players.unique()) > 1 and found.players.max() < 15
    expected = Occlusion(model, affine_prefix=False).attribute(x, (2, 3), (1, 2), **arguments)
    torch.testing.assert_close(found.values, expected, **CLOSE)
    moved = Occlusion(model, affine_prefix=False).attribute(x + 1e-300, (2, 3), (1, 2), **arguments)
    torch.testing.assert_close(found.values, moved, **CLOSE)
    one = Occlusion(told).explain(torch.tensor([[2.0, 0, 1]]), (1,))
    assert one.players.tolist() == [2]


def test_rows_of_one_number():
    x = torch.tensor([0.0, 2, 0, 3])
    for method, rest in (
        (FeatureAblation, {}),
        (KernelShap, {}),
        (Occlusion, {"sliding_window_shapes": ()}),
    ):
        found = method(lambda x: x**2).explain(x, **rest)
        assert found.values.tolist() == [0, 4, 0, 9] and found.players.tolist() == [0, 1, 0, 1]


def test_windows_over_several_inputs():
    model = TwoInputs().double()
    x = randn(3, 4), randn(3, 2, 3)
    x[0][0, :3] = x[1][1] = x[1][2, 0, 1:] = 0
    arguments = {"sliding_window_shapes": ((2,), (1, 2)), "target": 1}
    found = Occlusion(model).explain(x, **arguments)
    assert found.players.tolist() == [1 + 4, 3 + 0, 3 + 3]
    moved = tuple(part + 1e-300 for part in x)  # nothing is zero, and nothing else is changed
    expected = Occlusion(model).explain(moved, **arguments)
    assert expected.players.tolist() == [7, 7, 7]
    for ours, theirs in zip(found.values, expected.values, strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)
    assert found.values[0][0, 0] == 0


def test_what_did_not_change_is_zero_though_the_output_is_infinite():
    x = torch.tensor([[1.0, 0, 2], [0, 0, 2]])
    found = FeatureAblation(lambda x: (x.sum(1) + 1) / 0).attribute(x)
    assert (found[x == 0] == 0).all() and found[x != 0].isnan().all()


def test_more_groups_than_can_be_enumerated_if_few_play():
    x, _ = with_zeros(9, 3, features=40)
    found = ShapleyValues(network(40)).explain(x, target=0)
    torch.testing.assert_close(
        found.values, KernelShap(network(40)).attribute(x, target=0, n_samples=512), **CLOSE
    )
    logged = Logged(network(40))
    for x in (with_zeros(5, 26, features=40)[0], randn(1, 40)):
        with pytest.raises(ArgumentError, match="at most 25 groups that differ from the baseline"):
            ShapleyValues(logged).attribute(x, target=0)
    assert not logged.rows
    x = torch.eye(40, dtype=torch.float64)[:30]  # one each; together 30
    assert ShapleyValues(network(40)).explain(x, target=0).players.tolist() == [1] * 30
    with pytest.raises(ArgumentError, match=r"at most 25 groups .* got 30 groups"):
        ShapleyValues(lambda x: network(40)(x).mean()).attribute(x)


def test_too_few_samples_are_told_once_and_only_if_they_are():
    x, _ = with_zeros(12, 3, 11, 10, 4)
    with pytest.warns(
        UserWarning, match=r"20 coalitions do not determine .* of 12 groups"
    ) as caught:
        KernelShap(network()).attribute(x, target=0, n_samples=20, seed=0)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        KernelShap(network()).attribute(x[[1, 4]], target=0, n_samples=20, seed=0)


def test_a_design_must_exist_for_all_groups():
    x, _ = with_zeros(4)
    with pytest.raises(ArgumentError, match=r"design: the enumeration design needs 2\^12 samples"):
        KernelShap(network()).attribute(x, target=0, n_samples=100, design="enumeration")


@pytest.mark.parametrize("name", [name for name in METHODS if "auto" in name])
def test_samples_by_tolerance(name):
    x, _ = with_zeros(12, 4, 0, 1, 12)
    x[4] /= 1000
    with pytest.warns(UserWarning) as caught:
        found = explain(name, network(), x, tolerance=1e-7, max_samples=80)
    texts = [str(w.message) for w in caught if "max_samples" in str(w.message)]
    missed = int((~(found.reached <= 1e-7)).sum())
    assert len(texts) == 1 and f"{found.samples.max()} samples leave" in texts[0]
    assert f"in {missed} of 5 rows" in texts[0] and 0 < missed < 5
    assert found.samples[2] == 0 and found.samples.max() == 80


def test_the_most_samples_are_for_the_groups_that_play():
    x, _ = with_zeros(7, features=20)
    for method in (Lime, KernelShap):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = method(network(20)).explain(
                x, target=0, n_samples="auto", tolerance=1e-12, seed=0
            )
        assert found.samples.tolist() == [700 if method is Lime else 128]


def test_a_row_of_nan_is_named_as_it_is_in_the_batch(name):
    x, _ = with_zeros(3, 5, 9, 5)
    x[3, 0] = 1000.0

    def model(z):
        perturbed = (z[:, 0] == 1000) & (z != x[3]).any(1)
        return torch.where(perturbed, torch.nan, z.sum(1))

    with pytest.raises(ArgumentError, match="got NaN for row 3 of the inputs"):
        explain(name, model, x, target=None)


def test_functions_of_the_users_still_see_all_groups():
    seen = []

    def similarity(original, perturbed, interpretable, **kwargs):
        seen.append(interpretable.shape)
        return 1.0

    class Fit:
        def fit(self, loader):
            ((z, y, _),) = list(loader)
            self.found = torch.linalg.lstsq(z, y).solution

        def representation(self):
            return self.found

    x, _ = with_zeros(3, 5)
    Lime(network(), similarity_func=similarity).attribute(x, target=0, n_samples=10, seed=0)
    assert set(seen) == {(1, FEATURES)} and len(seen) == 20
    found = Lime(network(), Fit()).explain(x, target=0, n_samples=40, seed=0)
    assert found.values.shape == x.shape


@pytest.mark.usefixtures("independent_rows")
@pytest.mark.parametrize("name", ROWS)
def test_plans_count_all_parts(name, monkeypatch):
    monkeypatch.setattr(prefix, "WORTH", 1)
    players = [9, 0, 3, 3, 1]
    method, arguments = METHODS[name]
    plan = method(network()).plan(with_zeros(*players)[0], target=0, **arguments)
    asked = 5 + sum(map(ROWS[name], players))
    assert sum(run.count for run in plan.runs) == asked
    assert sum(sum(run.blocks) for run in plan.runs) == asked
    assert all(0 < plan.cost(run) <= 1.5 for run in plan.runs)


@pytest.mark.parametrize("name", ROWS)
def test_the_progress_bar_knows_how_much_there_is_to_do(name, monkeypatch):
    tqdm, shown = pytest.importorskip("tqdm"), []

    class Noted(tqdm.tqdm):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            shown.append((self, self.total))

    monkeypatch.setattr(tqdm, "tqdm", Noted)
    method, arguments = METHODS[name]
    x = with_zeros(9, 0, 3, 3, 1)[0]
    method(network()).attribute(x, target=0, show_progress=True, **arguments)
    ((bar, total),) = shown
    # Shapley sampling asks about baselines beside.
    beside = 4 if name == "ShapleyValueSampling" else 0
    assert bar.n == total == sum(map(ROWS[name], [9, 0, 3, 3, 1])) - beside


def test_a_mask_that_all_share_stays_one():
    """Sentences of one length, say: then the beginning of the model is done once for all."""
    x = randn(4, FEATURES)
    x[:, 7:] = 0
    request = KernelShap(network())._query(x, target=0)
    groups = check_feature_mask(None, request.inputs)
    (part,) = parts(request, groups_that_vary(request, groups))
    (mask,) = part.players(groups).masks
    assert part.request is request and mask.shape == (1, FEATURES)
    assert mask[0, :7].tolist() == list(range(7)) and part.players(groups).count == 7


def test_inputs_and_outputs_are_left_alone(name):
    """Also outputs that are the inputs."""
    x, _ = with_zeros(5, 3)
    before = x.clone()
    found = explain(name, lambda z: z[:, 0], x, target=None)
    assert torch.equal(x, before) and torch.equal(found.outputs, x[:, 0])
    assert (found.baseline_outputs == 0).all()
