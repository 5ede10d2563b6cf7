"""Lime and LimeBase: the fit, its standard errors, and functions of the user's."""

import itertools
import math

import numpy as np
import pytest
import torch
import tqdm
from sklearn import linear_model
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fastxai import ArgumentError
from fastxai.attr import Lasso, LeastSquares, Lime, LimeBase, Ridge, _lime_base
from fastxai.attr import get_exp_kernel_similarity_function as exp_kernel
from fastxai.core.coalition_bits import all_coalitions, unpack
from fastxai.core.estimate import local_regression
from fastxai.core.estimate.hadamard import foldover_hadamard
from fastxai.core.estimate.linear_fits import fit_rows
from fastxai.core.estimate.sampling import bernoulli_pairs

from ..models import Logged, ResidualCNN, Segmenter, TwoInputs, mlp, one_number

EXACT = {"rtol": 1e-6, "atol": 1e-7}


def randn(*shape):
    torch.manual_seed(sum(shape))
    return torch.randn(*shape, dtype=torch.float64)


def bend(x: Tensor) -> Tensor:
    """Four outputs for each row, of features that interact."""
    x = x.flatten(1).double()
    return torch.stack([x.sum(1).sin(), x.prod(1), x.square().sum(1), x[:, 0] * x[:, -1]], 1)


def of_batch(x: Tensor) -> Tensor:
    return bend(x).std(0).sum()


PAIR = (randn(3, 4), randn(3, 2, 3))
ROW_MASKS = torch.tensor([[0, 0, 1, 1, 2, 2, 3], [3, 2, 1, 0, 0, 0, 0], [5, 5, 0, 0, 0, 0, 5]])
# model, inputs that differ from the baseline everywhere, arguments
CASES = {
    "one row": (mlp().double(), randn(1, 7), {"target": 2}),
    "rows": (mlp().double(), randn(5, 7), {"target": [0, 3, 1, 2, 0]}),
    "all outputs": (mlp().double(), randn(3, 7), {}),
    "outputs in two dimensions": (Segmenter().double(), randn(3, 2, 4), {}),
    "one number a row": (one_number, randn(3, 5), {}),
    "kept dimension": (lambda x: one_number(x)[:, None], randn(3, 5), {}),
    "one number for the batch": (of_batch, randn(3, 5), {}),
    "three numbers for the batch": (lambda x: bend(x).std(0)[:3], randn(4, 5), {}),
    "no features": (lambda x: x**3, randn(5), {}),
    "integers": (bend, torch.arange(15).reshape(3, 5) - 20, {"target": 0}),
    "booleans": (bend, randn(3, 5) > 0, {"target": 2, "baselines": ~(randn(3, 5) > 0)}),
    "float32": (mlp(), torch.randn(3, 7), {"target": 1}),
    "baseline number": (mlp().double(), randn(3, 7), {"target": 1, "baselines": 0.4}),
    "baseline row": (mlp().double(), randn(3, 7), {"target": 1, "baselines": randn(1, 7)}),
    "baseline rows": (mlp().double(), randn(3, 7), {"target": 1, "baselines": randn(3, 7)}),
    "mask": (
        ResidualCNN().double(),
        randn(2, 2, 6, 5),
        {"target": 4, "feature_mask": torch.arange(6)[:, None] // 2},
    ),
    "mask with gaps": (
        mlp().double(),
        randn(3, 7),
        {"feature_mask": torch.tensor([9, 4, 4, 2, 2, 7, 2])},
    ),
    "mask for each row": (mlp().double(), randn(3, 7), {"target": 1, "feature_mask": ROW_MASKS}),
    "two inputs": (
        TwoInputs().double(),
        PAIR,
        {
            "baselines": (0.5, randn(1, 2, 3)),
            "feature_mask": (torch.tensor([[0, 0, 1, 2]]), torch.tensor([[[0, 3, 3], [1, 4, 4]]])),
        },
    ),
    "extra arguments": (
        TwoInputs().double(),
        PAIR,
        {"target": [0, 1, 2], "additional_forward_args": (randn(3, 6), 2.5)},
    ),
    "bare extra argument": (
        TwoInputs().double(),
        PAIR,
        {"target": 1, "additional_forward_args": randn(3, 6)},
    ),
    "bare number": (lambda x, n: bend(x) * n, randn(3, 5), {"additional_forward_args": 3}),
    "tuple of one": (mlp().double(), (randn(3, 7),), {"target": 1}),
}


@pytest.fixture(params=CASES, ids=lambda name: name.replace(" ", "-").replace(",", ""))
def case(request):
    return CASES[request.param]


def sample_by_sample(kernel=None):
    """A similarity function like the kernel, which Lime does not know for one."""
    kernel = kernel or exp_kernel()
    return lambda *args, **kwargs: kernel(*args, **kwargs)


def assert_same(ours, theirs, **tolerance):
    assert type(ours) is type(theirs)
    torch.testing.assert_close(ours, theirs, **tolerance)


@pytest.mark.thin("surrogate")
@pytest.mark.parametrize(
    ("surrogate", "kernel"),
    [
        (Lasso(), None),
        (Ridge(0.5), exp_kernel("cosine", 0.2)),
        (LeastSquares(), exp_kernel("euclidean", 3.0)),
    ],
)
@pytest.mark.parametrize("shaped", [True, False])
def test_all_at_once_is_as_sample_by_sample(case, surrogate, kernel, shaped):
    """The weights follow from the coalitions alone, and the sums from the blocks."""
    model, inputs, arguments = case
    arguments = {**arguments, "n_samples": 45, "seed": 3, "return_input_shape": shaped}
    found = Lime(model, surrogate, kernel).attribute(inputs, **arguments)
    slow = Lime(model, surrogate, sample_by_sample(kernel))
    tolerance = {"rtol": 1e-4, "atol": 1e-6} if "float32" in str(case) else EXACT
    assert_same(found, slow.attribute(inputs, **arguments), **tolerance)


FITS = {
    "lasso": (None, linear_model.Lasso(0.01, tol=1e-14, max_iter=100_000)),
    "ridge": (Ridge(2.0), linear_model.Ridge(alpha=2.0)),
    "least squares": (LeastSquares(), linear_model.LinearRegression()),
}


@pytest.mark.parametrize("name", FITS)
@pytest.mark.parametrize("n", [25, 200, 201])
def test_as_scikit_learn_on_the_same_rows(name, n):
    ours, theirs = FITS[name]
    x, baseline, model = randn(4, 9), randn(4, 9), bend
    z = unpack(foldover_hadamard(9, n, 5), 9)
    found = Lime(model, ours).attribute(x, baseline, 0, n_samples=n, seed=5)
    for e in range(4):
        rows = torch.where(z, x[e], baseline[e])
        cosine = torch.nn.functional.cosine_similarity(rows, x[e : e + 1])
        weights = (-(1 - cosine).square() / 2).exp()
        theirs.fit(z.numpy(), model(rows)[:, 0].numpy(), weights.numpy())
        torch.testing.assert_close(found[e], torch.from_numpy(theirs.coef_), rtol=0, atol=1e-6)


@pytest.mark.parametrize("surrogate", [LeastSquares(), Lasso(0), Ridge(0)])
def test_a_linear_model_is_recovered(surrogate):
    x, baseline, slope = randn(3, 7), randn(3, 7), randn(7)
    lime = Lime(lambda x: x @ slope + 5, surrogate)
    found = lime.explain(x, baseline, n_samples=40, seed=0)
    torch.testing.assert_close(found.values, (x - baseline) * slope, rtol=1e-9, atol=1e-9)
    assert (found.standard_errors < 1e-9).all()


def test_all_outputs_are_those_of_each_target():
    model, x = Segmenter().double(), randn(3, 2, 4)
    found = Lime(model).explain(x, n_samples=60, seed=2)
    assert found.values.shape == found.standard_errors.shape == (3, 3, 4, 2, 4)
    for target in itertools.product(range(3), range(4)):
        alone = Lime(model).explain(x, target=target, n_samples=60, seed=2)
        where = (slice(None), *target)
        torch.testing.assert_close(found.values[where], alone.values, rtol=1e-9, atol=1e-10)
        expected = alone.standard_errors
        torch.testing.assert_close(found.standard_errors[where], expected, rtol=1e-7, atol=1e-9)


def test_rows_do_not_depend_on_one_another():
    x = randn(6, 7)
    found = Lime(mlp().double()).attribute(x, target=1, n_samples=60, seed=2)
    for e in range(6):
        alone = Lime(mlp().double()).attribute(x[e : e + 1], target=1, n_samples=60, seed=2)
        torch.testing.assert_close(found[e : e + 1], alone, rtol=1e-9, atol=1e-10)


def test_outputs_in_float64_stay_so_and_others_give_float32():
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        model, x = lambda x, dtype=dtype: bend(x).to(dtype), randn(2, 5)
        wide = dtype == torch.float64
        expected = torch.float64 if wide else torch.float32
        for similarity in (None, sample_by_sample()):
            found = Lime(model, similarity_func=similarity).attribute(x, target=0, n_samples=20)
            assert found.dtype == expected
    assert Lime(lambda x: float(x.sum())).attribute(randn(2, 5).float()).dtype == torch.float64


def test_groups_by_id():
    mask = torch.tensor([9, 4, 4, 2, 2, 7, 2])
    shaped = Lime(mlp()).attribute(torch.randn(3, 7), feature_mask=mask, n_samples=50, seed=1)
    torch.manual_seed(0)
    x = torch.randn(3, 7)
    for surrogate in (None, Recorded()):
        lime = Lime(mlp(), surrogate)
        arguments = {"feature_mask": mask, "n_samples": 50, "seed": 1}
        shaped = lime.attribute(x, **arguments)
        by_id = lime.attribute(x, **arguments, return_input_shape=False)
        assert by_id.shape == (3, 4, 8)
        torch.testing.assert_close(by_id[..., mask - 2], shaped)
        assert (by_id[..., [1, 3, 4, 6]] == 0).all()
        in_tuple = lime.attribute((x,), **{**arguments, "feature_mask": (mask,)})
        torch.testing.assert_close(in_tuple[0], shaped)


# Explanations


def test_explanations_tell_the_outputs():
    model, x, baseline = mlp().double(), randn(3, 7), randn(1, 7)
    found = Lime(model).explain(x, baseline, [0, 1, 2], n_samples=60, seed=1)
    rows = torch.arange(3)
    torch.testing.assert_close(found.outputs, model(x)[rows, rows].detach())
    expected = model(baseline).expand(3, 4)[rows, rows].detach()
    torch.testing.assert_close(found.baseline_outputs, expected)
    expected = Lime(model).attribute(x, baseline, [0, 1, 2], n_samples=60, seed=1)
    torch.testing.assert_close(found.values, expected, rtol=0, atol=0)
    assert found.standard_errors.shape == (3, 7) and found.convergence_delta is None
    assert found.method == "Lime"


def test_standard_errors_are_in_the_form_of_the_values():
    mask = (torch.tensor([[0, 0, 1, 2]]), torch.tensor([[[0, 3, 3], [1, 4, 4]]]))
    found = Lime(TwoInputs()).explain(PAIR_32, target=1, feature_mask=mask, n_samples=60, seed=1)
    for values, errors, x in zip(found.values, found.standard_errors, PAIR_32, strict=True):
        assert values.shape == errors.shape == x.shape and errors.dtype == torch.float32
    assert found.standard_errors[0][0, 0] == found.standard_errors[1][0, 0, 0]
    for lime in (
        Lime(mlp(), Recorded()),
        Lime(mlp(), similarity_func=sample_by_sample()),
        Lime(mlp(), perturb_func=flip),
    ):
        assert lime.explain(torch.randn(2, 7), target=1).standard_errors is None


PAIR_32 = tuple(x.float() for x in PAIR)


GAMES = {  # of signs ±1: each what a linear fit leaves over
    "pairs of features": lambda s: (s * s.roll(1, -1)).sum(-1),  # alike at complements
    "threes of features": lambda s: (s * s.roll(1, -1) * s.roll(3, -1)).sum(-1),  # opposite there
    "both": lambda s: (s @ torch.linspace(-0.5, 0.5, s.shape[-1]).double()).exp(),
}


def of_all_coalitions(model, fit, kernel, x: Tensor, baseline: Tensor) -> Tensor:
    """What Lime comes to with ever more samples; a ridge's penalty is for all coalitions."""
    z = unpack(all_coalitions(x.shape[1]), x.shape[1])
    rows = torch.where(z, x, baseline)
    distance = torch.cdist(rows, x)[:, 0]
    if kernel.distance_mode == "cosine":
        distance = 1 - torch.nn.functional.cosine_similarity(rows, x)
    weights = kernel.of_distance(distance)
    return fit_rows(fit, z, weights, model(rows)[:, None])[None, :, 0]


@pytest.mark.thin("surrogate")
@pytest.mark.parametrize("game", GAMES)
@pytest.mark.parametrize("surrogate", [LeastSquares(), Ridge(1.0), Lasso(1e-3)])
@pytest.mark.parametrize(
    ("players", "n", "too_large"),
    [(8, 128, 1.65), (13, 416, 1.25)],  # half of all coalitions, without replacement; a few
)
def test_standard_errors_cover_the_fit_to_all_coalitions(game, surrogate, players, n, too_large):
    x, baseline = torch.ones(1, players).double(), -torch.ones(1, players).double()
    kernel, model = exp_kernel("euclidean", 6.0), GAMES[game]
    of_all = Ridge(2.0**players / n) if isinstance(surrogate, Ridge) else surrogate
    truth = of_all_coalitions(model, of_all, kernel, x, baseline)
    lime = Lime(model, surrogate, kernel)
    found = [lime.explain(x, baseline, n_samples=n, seed=seed) for seed in range(150)]
    off = torch.cat([f.values for f in found]) - truth
    errors = torch.cat([f.standard_errors for f in found])
    # Without regard to pairs they would be too small by √2 for threes, and too large for pairs.
    assert 0.9 < (errors.square().mean() / off.square().mean()).sqrt() < too_large
    some = errors > 0  # a lasso's zeros are taken as given
    assert some.double().mean() > 0.5
    assert (off.abs() < 1.96 * errors)[some].double().mean() >= 0.93


def coins(inputs, num_interp_features, **kwargs):
    generator = torch.Generator().manual_seed(int(inputs.sum() * 1e6))
    while True:
        yield torch.randint(2, (1, num_interp_features), generator=generator)


@pytest.mark.thin("samples")
@pytest.mark.parametrize("surrogate", [None, LeastSquares()])
@pytest.mark.parametrize("samples", [2, 5, 10])  # for each feature
def test_far_nearer_to_all_coalitions_than_with_independent_coins(surrogate, samples):
    torch.manual_seed(3)
    model = torch.nn.Sequential(
        torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1), torch.nn.Flatten(0)
    ).double()
    fit, baseline, n = surrogate or Lasso(0.01), torch.zeros(1, 16).double(), 16 * samples

    def error(perturb, truths) -> float:
        lime = Lime(model, surrogate, perturb_func=perturb)
        found = [
            lime.attribute(x + 1e-6 * seed, n_samples=n, seed=seed) - truth
            for seed in range(30)
            for x, truth in truths
        ]
        return float(torch.cat(found).square().mean())

    with torch.no_grad():
        rows = [3 * torch.randn(1, 16).double() for _ in range(4)]
        truths = [(x, of_all_coalitions(model, fit, exp_kernel(), x, baseline)) for x in rows]
        assert error(None, truths) < error(coins, truths) / 3


@pytest.mark.parametrize("surrogate", [LeastSquares(), Ridge(1.0), Lasso(1e-3)])
@pytest.mark.parametrize("similarity", [None, sample_by_sample()])
def test_as_many_samples_as_there_are_coalitions_are_exact(surrogate, similarity):
    x, baseline = randn(1, 7), randn(1, 7) + 1
    model = lambda x: bend(x)[:, 0]  # noqa: E731
    truth = of_all_coalitions(model, surrogate, exp_kernel(), x, baseline)
    for seed in range(3):
        lime = Lime(model, surrogate, similarity)
        found = lime.attribute(x, baseline, n_samples=128, seed=seed)
        torch.testing.assert_close(found, truth, rtol=1e-8, atol=1e-9)


# Randomness, memory, blocks


def test_seeds():
    x, lime = randn(2, 7), Lime(bend)
    arguments = {"target": 0, "n_samples": 30}
    first = lime.attribute(x, **arguments, seed=1)
    torch.testing.assert_close(lime.attribute(x, **arguments, seed=1), first, rtol=0, atol=0)
    assert not torch.allclose(lime.attribute(x, **arguments, seed=2), first)
    torch.manual_seed(4)
    drawn = lime.attribute(x, **arguments)
    after = torch.get_rng_state()
    torch.manual_seed(4)
    torch.testing.assert_close(lime.attribute(x, **arguments), drawn, rtol=0, atol=0)
    torch.manual_seed(4)
    torch.randint(2**63 - 1, ())  # all that is drawn
    assert torch.equal(torch.get_rng_state(), after)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Lime(bend, LeastSquares()),
        lambda: Lime(bend, Recorded()),
        lambda: Lime(bend, Recorded(), sample_by_sample()),
        lambda: Lime(bend, perturb_func=flip),
    ],
)
def test_the_global_generator_is_left_alone(make):
    x, before = randn(2, 7), torch.get_rng_state()
    make().attribute(x, target=0, seed=3)
    assert torch.equal(torch.get_rng_state(), before)


def test_functions_of_the_users_that_draw_do_so_undisturbed():
    def draw(inputs, num_interp_features, **kwargs):
        return torch.randint(2, (1, num_interp_features))

    x = randn(1, 7)
    torch.manual_seed(4)
    Lime(bend, perturb_func=draw).attribute(x, target=0, n_samples=3)
    after = torch.get_rng_state()
    torch.manual_seed(4)
    for _ in range(3):
        torch.randint(2, (1, 7))
    assert torch.equal(torch.get_rng_state(), after)


@pytest.mark.parametrize("make", [lambda f: Lime(f), lambda f: Lime(f, None, sample_by_sample())])
@pytest.mark.parametrize("limit", [2, 3, 7, 50, 1000])
def test_any_limit_gives_the_same(make, limit):
    x, model = randn(3, 7), mlp().double()
    expected = make(model).attribute(x, n_samples=40, seed=3)
    logged = Logged(model)
    found = make(logged).attribute(x, n_samples=40, seed=3, perturbations_per_eval=limit)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)
    assert max(logged.rows) <= limit


class Largest(TorchDispatchMode):
    """Notes the bytes of the largest tensor made."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor):
                self.bytes = max(self.bytes, tensor.numel() * tensor.element_size())
        return out


def test_memory_does_not_grow_with_the_samples():
    x, largest = torch.randn(1, 49), []
    for n in (100_000, 200_000):
        with Largest() as mode:
            Lime(lambda x: x.sum(1), LeastSquares()).attribute(x, n_samples=n, seed=0)
        largest.append(mode.bytes)
    assert max(largest) < 40e6  # 49 numbers for each of 200,000 samples take 78 MB
    assert largest[1] < 1.1 * largest[0] + 8 * 200_000 * 3  # the coalitions' bits


@pytest.mark.parametrize("players", [16_384, 150_528])
def test_coalitions_of_many_players_take_little_memory(players):
    with Largest() as mode:
        assert foldover_hadamard(players, 25, 0).shape == (25, players // 64)
    assert mode.bytes < 3e6  # a table of all rows of a Hadamard matrix takes 34 MB, or 5 GB


def test_many_rows_and_outputs_fit_in_parts(monkeypatch):
    x, model = randn(30, 7), mlp().double()
    expected = Lime(model).explain(x, n_samples=40, seed=3)
    monkeypatch.setattr(local_regression, "_BLOCK", 60)  # a problem at a time
    found = Lime(model).explain(x, n_samples=40, seed=3)
    torch.testing.assert_close(found.values, expected.values, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(found.standard_errors, expected.standard_errors, rtol=1e-7, atol=0)


@pytest.mark.parametrize("players", [5_000, 40_000])
@pytest.mark.parametrize("surrogate", [Ridge(1.0), LeastSquares(), Lasso(0.001)])
def test_thousands_of_groups_without_a_mask(players, surrogate):
    """As for few features with the same coalitions, each many times over."""
    x = randn(2, players)
    lime = Lime(lambda x: bend(x[:, :: players // 10] / 2), surrogate)
    found = lime.explain(x, target=0, n_samples=30, seed=1)
    assert found.values.shape == (2, players) and found.standard_errors is None
    z = unpack(foldover_hadamard(players, 30, 1), players)
    for e in range(2):
        rows = torch.where(z, x[e], 0)
        cosine = torch.nn.functional.cosine_similarity(rows, x[e : e + 1])
        share = (-(1 - cosine).square() / 2).exp()
        total, share = share.sum(), share / share.sum()
        y = bend(rows[:, :: players // 10] / 2)[:, 0]
        centred = z.double() - share @ z.double()
        slope = centred.T @ (share * (y - share @ y - centred @ found.values[e]))
        if isinstance(surrogate, Ridge):
            torch.testing.assert_close(slope, found.values[e] / total, rtol=1e-6, atol=1e-9)
        elif isinstance(surrogate, Lasso):
            active = found.values[e] != 0
            expected = 0.001 * found.values[e].sign()
            assert 0 < active.sum() < 30
            torch.testing.assert_close(slope[active], expected[active], rtol=0, atol=1e-8)
            assert (slope.abs() < 0.001 + 1e-8).all()
        else:
            assert slope.abs().max() < 1e-9
            assert found.values[e].norm() < 1


def test_coins_of_many_players_are_as_fair():
    z = unpack(bernoulli_pairs(70_000, 40, 3), 70_000).double()
    assert (z[::2] + z[1::2] == 1).all()
    means = z[::2].mean(1)
    assert ((means - 0.5).abs() < 5 * 0.5 / math.sqrt(70_000)).all()
    parts = z[::2].split(32_704, 1)
    assert not torch.equal(parts[0][:, :4592], parts[2])
    other = unpack(bernoulli_pairs(70_000, 40, 4), 70_000).double()
    for first, second in itertools.product(parts[:2], other[::2].split(32_704, 1)[:2]):
        assert abs(float((first != second).double().mean()) - 0.5) < 0.01


def test_a_row_that_is_not_finite_spoils_no_other():
    x = randn(3, 7)
    expected = Lime(bend, LeastSquares()).attribute(x, target=0, n_samples=40, seed=1)
    x[1, 2] = torch.inf
    model = lambda x: bend(x.nan_to_num(0, 0, 0))  # noqa: E731
    with pytest.warns(UserWarning, match="NaN or infinite values in rows 1;"):
        found = Lime(model, LeastSquares()).attribute(x, target=0, n_samples=40, seed=1)
    torch.testing.assert_close(found[[0, 2]], expected[[0, 2]], rtol=1e-9, atol=1e-10)
    assert found[1].isnan().all()


# Surrogates and functions of the user's


def flip(inputs, num_interp_features, **kwargs):
    """Coalitions that do not draw from the global generator."""
    generator = torch.Generator().manual_seed(2)
    while True:
        yield torch.randint(2, (1, num_interp_features), generator=generator)


class Recorded:
    """A surrogate that keeps what it was given; its coefficients are those of a ridge."""

    def __init__(self, form=lambda coefficients: coefficients):
        self.seen, self.form = [], form

    def fit(self, loader):
        (batch,) = list(loader)
        self.seen.append(batch)

    def representation(self):
        x, y, weights = (part.numpy() for part in self.seen[-1])
        return self.form(linear_model.Ridge(alpha=1.0).fit(x, y, weights).coef_)


@pytest.mark.thin("form")
@pytest.mark.parametrize(
    "form", [torch.from_numpy, np.asarray, list, lambda b: torch.from_numpy(b)[None]]
)
@pytest.mark.parametrize("similarity", [None, sample_by_sample()])
def test_surrogates_of_the_users(case, form, similarity):
    model, inputs, arguments = case
    arguments = {**arguments, "n_samples": 45, "seed": 3}
    surrogate = Recorded(form)
    found = Lime(model, surrogate, similarity).attribute(inputs, **arguments)
    expected = Lime(model, Ridge()).attribute(inputs, **arguments)
    assert_same(found, expected, rtol=1e-3, atol=1e-4)  # it works in float32
    for x, y, weights in surrogate.seen:
        assert x.dtype == y.dtype == weights.dtype == torch.float32
        assert x.shape[0] == len(y) == len(weights) == 45


def plain_generator(inputs, **kwargs):
    return flip(inputs, **kwargs)


class GeneratorObject:
    def __call__(self, inputs, **kwargs):
        return flip(inputs, **kwargs)


@pytest.mark.parametrize("perturb", [plain_generator, GeneratorObject()])
def test_whatever_returns_a_generator_is_one(perturb):
    x = randn(2, 7)
    found = Lime(bend, Ridge(), perturb_func=perturb).attribute(x, target=0)
    expected = Lime(bend, Ridge(), perturb_func=flip).attribute(x, target=0)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("surrogate", [Lasso(), Ridge()])
def test_functions_are_called_without_gradients_and_leave_none(surrogate):
    seen = []

    def perturb(inputs, **kwargs):
        seen.append(torch.is_grad_enabled())
        return torch.randint(2, (1, 7)).double().requires_grad_()

    def similarity(inputs, perturbed, z, **kwargs):
        seen.append(torch.is_grad_enabled())
        return torch.ones(1).requires_grad_()

    x = randn(2, 7).requires_grad_()
    found = Lime(mlp().double(), surrogate, similarity, perturb).attribute(x, target=0)
    assert seen == [False] * 100 and not found.requires_grad and x.grad is None


def test_the_large_samples_of_functions_are_not_all_kept(monkeypatch):
    monkeypatch.setattr(_lime_base, "_BYTES_KEPT", 10 * 7 * 8)
    x, logged = randn(2, 7), Logged(mlp().double())
    found = Lime(logged, None, sample_by_sample()).attribute(x, n_samples=45, seed=3)
    assert max(logged.rows) == 10 and sum(logged.rows) == 2 * 46 + 8  # some to see if rows interact
    expected = Lime(mlp().double()).attribute(x, n_samples=45, seed=3)
    torch.testing.assert_close(found, expected, **EXACT)


def test_out_of_memory_in_a_model_of_samples():
    x, model = randn(2, 7), mlp().double()
    logged = Logged(model, fail_above=6, error=torch.OutOfMemoryError("out of memory"))
    found = Lime(logged, None, sample_by_sample()).attribute(x, n_samples=45, seed=3)
    expected = Lime(model).attribute(x, n_samples=45, seed=3)
    torch.testing.assert_close(found, expected, **EXACT)


@pytest.mark.parametrize("make", [lambda f: Lime(f), lambda f: Lime(f, None, sample_by_sample())])
def test_progress(monkeypatch, capsys, make):
    bars = []

    class Bar(tqdm.tqdm):
        def close(self):
            bars.append((self.desc, self.total, self.n))
            super().close()

    monkeypatch.setattr(tqdm, "tqdm", Bar)
    make(mlp()).attribute(torch.randn(3, 7), target=0, n_samples=20, show_progress=True)
    assert bars[0] == ("Lime attribution", 60, 60)


# LimeBase


def identity(sample, inputs, **kwargs):
    return sample


def noise(inputs, **kwargs):
    return inputs + torch.randn_like(inputs)


def weight(inputs, perturbed, z, **kwargs):
    return 1.0


def base(model, surrogate=None, perturb=noise, to=identity, similarity=weight):
    return LimeBase(model, surrogate or LeastSquares(), similarity, perturb, False, None, to)


def test_lime_base_recovers_a_linear_model():
    x, slope = randn(1, 7), randn(7)
    found = base(lambda x: x @ slope).attribute(x, n_samples=30)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, slope[None], rtol=1e-9, atol=1e-9)
    explained = base(lambda x: x @ slope).explain(x, n_samples=30)
    torch.testing.assert_close(explained.values, slope[None], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(explained.outputs, x @ slope)
    assert explained.method == "Lime Base" and explained.standard_errors is None


def test_lime_base_returns_whatever_the_surrogate_is():
    surrogate = Recorded(lambda coefficients: {"coefficients": coefficients})
    found = base(bend, surrogate).attribute(randn(1, 7), target=0)
    assert found.keys() == {"coefficients"}


def test_lime_base_reports_progress(capsys):
    base(bend).attribute(randn(1, 7), target=0, n_samples=20, show_progress=True)
    shown = capsys.readouterr().err
    assert "Lime Base attribution" in shown and "20.0/20.0" in shown


# Bad input


def broken_generator(count, wrong):
    def perturb(inputs, num_interp_features, **kwargs):
        for _ in range(count):
            yield torch.ones(1, num_interp_features)
        yield wrong

    return perturb


BEFORE_ANY_CALL = {
    "samples 0": ({"n_samples": 0}, r"n_samples: expected an integer of at least 1, got 0"),
    "samples 2.5": ({"n_samples": 2.5}, r"n_samples: .* got 2.5"),
    "seed": ({"seed": 1.5}, r"seed: expected an integer or None, got 1.5"),
    "far ids": (
        {"feature_mask": torch.tensor([5] * 6 + [10_000_005]), "return_input_shape": False},
        r"feature_mask: expected ids within 10000000 of each other.* got 10000001 apart",
    ),
}


@pytest.mark.parametrize("perturb", [None, flip])
@pytest.mark.parametrize("name", BEFORE_ANY_CALL)
def test_refused_before_any_model_call(name, perturb):
    arguments, message = BEFORE_ANY_CALL[name]
    logged = Logged(mlp())
    with pytest.raises(ArgumentError, match=f"^{message}"):
        Lime(logged, perturb_func=perturb).attribute(torch.randn(2, 7), target=0, **arguments)
    assert logged.tried == 0


def test_far_ids_do_no_harm_where_none_are_listed():
    x, near = torch.randn(2, 7), torch.tensor([0] * 6 + [1])
    arguments = {"target": 0, "n_samples": 20, "seed": 1}
    found = Lime(mlp()).attribute(x, feature_mask=near * (2**31 - 1), **arguments)
    torch.testing.assert_close(found, Lime(mlp()).attribute(x, feature_mask=near, **arguments))
    far = near + 2**31 - 2
    by_id = Lime(mlp()).attribute(x, feature_mask=far, **arguments, return_input_shape=False)
    torch.testing.assert_close(by_id, found[:, 5:])


CONSTRUCTED = {
    "surrogate": (lambda: Lime(mlp(), 3), r"interpretable_model: expected Lasso, .* got 3"),
    "surrogate class": (lambda: Lime(mlp(), object()), r"interpretable_model: .*fit\(dataloader\)"),
    "similarity": (
        lambda: Lime(mlp(), None, 0.5),
        r"similarity_func: expected a callable, got 0.5",
    ),
    "perturb": (
        lambda: Lime(mlp(), perturb_func="x"),
        r"perturb_func: expected a callable, got 'x'",
    ),
    "forward": (lambda: Lime(None), r"forward_func: expected a module or callable"),
    "from": (
        lambda: LimeBase(mlp(), Lasso(), weight, noise, True, None, identity),
        r"from_interp_rep_transform: expected a callable, got None",
    ),
    "to": (
        lambda: LimeBase(mlp(), Lasso(), weight, noise, False, identity, None),
        r"to_interp_rep_transform: expected a callable, got None",
    ),
    "mode": (lambda: exp_kernel("manhattan"), r"distance_mode: expected one of .* got 'manhattan'"),
    "width": (lambda: exp_kernel("cosine", 0), r"kernel_width: expected a width above 0, got 0"),
    "width NaN": (lambda: exp_kernel("cosine", math.nan), r"kernel_width: expected a width"),
}


@pytest.mark.parametrize("name", CONSTRUCTED)
def test_constructors(name):
    make, message = CONSTRUCTED[name]
    with pytest.raises(ArgumentError, match=f"^{message}"):
        make()


BROKEN = {  # what is given for Lime's functions, message
    "no sample": (
        {"perturb_func": lambda inputs, **kwargs: iter(()).__class__ and (x for x in ())},
        r"perturb_func: expected at least one sample, got none",
    ),
    "flat sample": (
        {"perturb_func": broken_generator(3, torch.ones(7))},
        r"perturb_func: expected an interpretable sample \[1, M\], got shape \(7,\)",
    ),
    "two samples": (
        {"perturb_func": broken_generator(3, torch.ones(2, 7))},
        r"perturb_func: .* got shape \(2, 7\)",
    ),
    "list": (
        {"perturb_func": broken_generator(3, [1, 0])},
        r"perturb_func: .* got list",
    ),
    "two weights": (
        {"similarity_func": lambda *args, **kwargs: torch.ones(2)},
        r"similarity_func: expected one number, got 2 numbers",
    ),
    "no weight": (
        {"similarity_func": lambda *args, **kwargs: 0.0},
        r"similarity_func: expected a weight above zero for some sample, got none for row 0",
    ),
    "narrow kernel": (
        {"similarity_func": exp_kernel("euclidean", 1e-3)},
        r"similarity_func: expected a weight above zero .* got none for row 0",
    ),
    "short representation": (
        {"interpretable_model": Recorded(lambda b: b[:3])},
        r"interpretable_model: expected a representation of 7 coefficients, got shape \(3,\)",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_functions_that_return_what_cannot_be_used(name):
    arguments, message = BROKEN[name]
    with pytest.raises(ArgumentError, match=f"^{message}"):
        Lime(mlp(), **arguments).attribute(1 + torch.rand(2, 7), target=0, seed=0)


def test_which_row_has_no_weight_or_no_output_is_told():
    x = torch.zeros(4, 7)
    x[2] = 1000
    with pytest.raises(ArgumentError, match=r"got none for row 2 of the inputs"):
        Lime(mlp(), None, exp_kernel("euclidean")).attribute(x, target=0, seed=0)

    def model(x):
        return torch.where(x[:, 0] == 1000, torch.nan, x.sum(1)) * (x[:, 1] != 1000)

    for similarity in (None, sample_by_sample()):
        with pytest.raises(ArgumentError, match=r"forward_func: .* NaN for row 2 of the inputs"):
            Lime(model, None, similarity).attribute(x, seed=0)

    def only_perturbed(x):
        alone = (x[:, 0] == 1000) & (x[:, 1:] == 0).any(1)
        return torch.where(alone, torch.nan, x.sum(1))

    for similarity in (None, sample_by_sample()):
        with pytest.raises(ArgumentError, match=r"forward_func: .* NaN for row 2 of the inputs"):
            Lime(only_perturbed, None, similarity).attribute(x, seed=0)


def test_one_mask_for_an_answer_for_the_batch():
    with pytest.raises(ArgumentError, match=r"^feature_mask: expected one row for all examples"):
        Lime(of_batch).attribute(randn(3, 7), feature_mask=ROW_MASKS)


BASES = {
    "rows": (
        base(bend, to=lambda sample, inputs: sample[:1]),
        randn(3, 7),
        {"target": 0},
        r"forward_func: expected one number for the batch of 3 rows .* got 3 numbers",
    ),
    "outputs": (base(bend), randn(1, 7), {}, r"target: expected one that leaves one number a samp"),
    "shape": (
        base(bend, perturb=lambda inputs: inputs.expand(2, 7)),
        randn(1, 7),
        {"target": 0},
        r"perturb_func: expected 1 model inputs of 1 rows, got \[\(2, 7\)\]",
    ),
    "kind": (
        base(bend, perturb=lambda inputs: None),
        randn(1, 7),
        {"target": 0},
        r"perturb_func: expected 1 model inputs .* got \['NoneType'\]",
    ),
    "form": (
        base(bend, to=lambda sample, inputs: sample[0]),
        randn(1, 7),
        {"target": 0},
        r"to_interp_rep_transform: expected an interpretable sample \[1, M\], got shape \(7,\)",
    ),
    "samples": (base(bend), randn(1, 7), {"n_samples": 0}, r"n_samples: expected an integer of at"),
    "limit": (
        base(bend),
        randn(1, 7),
        {"perturbations_per_eval": 0},
        r"perturbations_per_eval: expected an integer of at least 1",
    ),
}


@pytest.mark.parametrize("name", BASES)
def test_lime_base_refuses(name):
    lime, inputs, arguments, message = BASES[name]
    with pytest.raises(ArgumentError, match=f"^{message}"):
        lime.attribute(inputs, **arguments)
