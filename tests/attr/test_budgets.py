"""n_samples="auto": samples until the standard errors are within tolerance."""

import warnings

import pytest
import torch
import tqdm

from fastxai.attr import KernelShap, LeastSquares, Lime, ShapleyValueSampling

from .. import oracles
from ..models import Logged, TwoInputs, mlp, one_number

METHODS = {  # how to make it, and the model rows of a sample
    "ShapleyValueSampling": (ShapleyValueSampling, lambda m: m - 1),
    "KernelShap": (KernelShap, lambda m: 1),
    "Lime": (lambda model: Lime(model, LeastSquares()), lambda m: 1),
}
EXACT = {"rtol": 1e-9, "atol": 1e-9}


@pytest.fixture(params=METHODS)
def name(request):
    return request.param


@pytest.fixture
def method(name):
    return METHODS[name][0]


@pytest.fixture
def rows_a_sample(name):
    return METHODS[name][1]


def randn(*shape):
    torch.manual_seed(sum(shape))
    return torch.randn(*shape, dtype=torch.float64)


def bent(x, *extra):  # [N, F] -> [N]
    """Rows that start large are far from linear."""
    return (x[:, :1] * x).tanh().sum(1) * x[:, 1:].sum(1) + sum(extra)


def explain(method, model, x, seed=0, **kwargs):
    kwargs = {"max_samples": 100_000, **kwargs}
    return method(model).explain(x, n_samples="auto", seed=seed, **kwargs)


def test_every_row_is_within_tolerance_and_stops_there(method):
    x = randn(5, 12) * torch.tensor([[0.1], [0.3], [1], [2], [3]], dtype=torch.float64)
    found = explain(method, bent, x, tolerance=0.06)
    errors = found.standard_errors.amax(1)
    spread = found.values.amax(1).clamp(min=0) - found.values.amin(1).clamp(max=0)
    assert (errors <= 0.06 * spread).all()
    torch.testing.assert_close(found.reached, errors / spread)
    assert found.samples.unique().numel() > 1
    assert f"{found.samples.max():,} samples" in repr(found)


def test_values_are_those_of_as_many_samples(method):
    """With all that may belong to a row: targets, baselines, groups, extra arguments."""
    model = TwoInputs().double()
    x = (randn(4, 4) * torch.tensor([[0.2], [1], [3], [5]]), randn(4, 2, 3))
    per_row = {
        "baselines": (randn(4, 4) / 9, 0.1),
        "target": [0, 2, 1, 2],
        "additional_forward_args": (randn(4, 6), 2.0),
        "feature_mask": (
            torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0]] * 2),
            torch.arange(6).view(1, 2, 3) + 4,
        ),
    }
    found = explain(method, model, x, tolerance=0.03, **per_row)
    assert found.samples.unique().numel() > 1
    for n in found.samples.unique().tolist():
        rows = found.samples == n
        same = method(model).explain(x, n_samples=n, seed=0, **per_row)
        for one, other in zip(found.values, same.values, strict=True):
            torch.testing.assert_close(one[rows], other[rows], **EXACT)
        for one, other in zip(found.standard_errors, same.standard_errors, strict=True):
            torch.testing.assert_close(one[rows], other[rows], **EXACT)
        torch.testing.assert_close(found.reached[rows], same.reached[rows], **EXACT)
        assert (same.samples == n).all()


@pytest.mark.usefixtures("independent_rows")
def test_rows_that_are_done_cost_nothing(method, rows_a_sample):
    x = randn(4, 6) * torch.tensor([[0.1], [0.1], [1], [3]], dtype=torch.float64)
    logged = Logged(bent)
    found = explain(method, logged, x, tolerance=0.03)
    outputs_at_ends = 2 * len(x)
    expected = int(found.samples.sum()) * rows_a_sample(6)
    assert sum(logged.rows) <= expected + outputs_at_ends
    assert sum(logged.rows) >= 0.9 * expected


def test_attribute_gives_the_same(method):
    x = randn(3, 12)
    found = explain(method, bent, x, tolerance=0.05)
    auto = {"n_samples": "auto", "max_samples": 100_000, "seed": 0}
    values = method(bent).attribute(x, tolerance=0.05, **auto)
    torch.testing.assert_close(values, found.values, rtol=0, atol=0)
    assert not torch.equal(method(bent).attribute(x, tolerance=0.02, **auto), values)


@pytest.mark.usefixtures("independent_rows")
def test_the_most_is_not_exceeded_and_a_warning_tells(method, rows_a_sample):
    logged = Logged(bent)
    with pytest.warns(UserWarning, match=r"max_samples: 50 samples leave .* in 2 of 2 rows"):
        found = explain(method, logged, 3 * randn(2, 9), tolerance=1e-6, max_samples=50)
    assert found.samples.tolist() == [50, 50] and (found.reached > 1e-6).all()
    assert sum(logged.rows) <= 2 * 50 * rows_a_sample(9) + 4


def test_a_model_that_is_exact_at_once_stops_at_once(method):
    x, weights = randn(3, 8), randn(8)
    for model in (
        lambda x: x @ weights,
        lambda x: x[:, 0] * 0 + 2,
        lambda x: x.float() @ weights.float(),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = explain(method, model, x, tolerance=1e-3)
        assert found.samples.unique().numel() == 1 and found.samples[0] <= 80
        assert (found.reached == 0).all()


def test_one_answer_for_the_batch(method):
    model = lambda x: bent(x).mean()  # noqa: E731
    found = explain(method, model, randn(3, 5), tolerance=0.05)
    assert found.samples.shape == found.reached.shape == (1,) and found.reached <= 0.05


def test_rows_that_share_statistics_stay_together(method):
    norm = torch.nn.BatchNorm1d(5).double()
    x = randn(4, 5) * torch.tensor([[0.1], [1], [1], [9]], dtype=torch.float64)
    found = explain(method, lambda x: bent(norm(x)), x, tolerance=0.2)
    module = torch.nn.Sequential(norm, torch.nn.Linear(5, 1).double(), torch.nn.Tanh())
    found = explain(method, module, x, tolerance=0.2)
    assert found.samples.unique().numel() == 1


def test_several_outputs(method):
    x = randn(3, 7)
    found = explain(method, mlp().double(), x, tolerance=0.05)
    assert found.values.shape == (3, 4, 7) and (found.reached <= 0.05).all()
    spread = found.values.amax(2).clamp(min=0) - found.values.amin(2).clamp(max=0)
    torch.testing.assert_close((found.standard_errors.amax(2) / spread).amax(1), found.reached)


def test_no_rows_and_one_feature(method):
    found = explain(method, one_number, randn(0, 5))
    assert found.values.shape == (0, 5) and found.samples.shape == (0,)
    found = explain(method, one_number, randn(3, 1))
    torch.testing.assert_close(
        found.values[:, 0], one_number(randn(3, 1)) - one_number(torch.zeros(3, 1))
    )


def test_the_bar_shows_the_error(method, monkeypatch, capsys):
    shown = []

    class Noted(tqdm.tqdm):
        def set_postfix_str(self, text="", refresh=True):
            shown.append(text)
            super().set_postfix_str(text, refresh)

    monkeypatch.setattr(tqdm, "tqdm", Noted)
    found = explain(method, bent, 2 * randn(2, 6), tolerance=0.02, show_progress=True)
    assert len(shown) > 1 and all("wanted 2.00%" in text for text in shown)
    errors = [float(text.split("%")[0].removeprefix("error ")) for text in shown]
    assert errors[-1] < errors[0]
    assert errors[-1] == pytest.approx(100 * float(found.reached.max()), abs=0.01)
    assert f"{method(bent).get_name()} attribution" in capsys.readouterr().err


def lime_of_all(game):
    """What LeastSquares comes to with all coalitions of a row of ones against zeros, [M]."""
    z = oracles.every_coalition(game.players).double()
    distance = 1 - (z.mean(1)).sqrt()  # of the cosine
    root = (distance.square() / -4).exp()[:, None]
    x = torch.cat([z, torch.ones(len(z), 1)], 1)
    return torch.linalg.lstsq(root * x, root * game.value(z.bool())[:, None]).solution[:-1, 0]


GAMES = {
    "of degree 4": oracles.of_degree(10, 4, 30, seed=3),
    "kernel": oracles.gaussian_kernel(randn(10), randn(10) / 2, randn(6, 10), randn(6), 0.05),
}


@pytest.mark.thin("tolerance")
@pytest.mark.parametrize("tolerance", [0.01, 0.03, 0.1])
@pytest.mark.parametrize("game", GAMES)
def test_stopping_does_not_spoil_coverage(method, name, game, tolerance):
    """Errors that happen to look small end the sampling: still they must be told honestly."""
    game = GAMES[game]
    truth = lime_of_all(game) if name == "Lime" else game.shapley
    x, explainer = torch.ones(1, game.players).double(), method(lambda x: game.value(x > 0.5))
    inside = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of max_samples
        for seed in range(60):
            found = explainer.explain(x, n_samples="auto", tolerance=tolerance, seed=seed)
            off = (found.values[0] - truth).abs()
            inside.append(off <= 1.96 * found.standard_errors[0] + 1e-12)
    assert torch.stack(inside).double().mean() > 0.92


@pytest.mark.parametrize("ask", ["attribute", "explain"])
def test_warnings_are_about_the_line_that_called(method, ask):
    with pytest.warns(UserWarning, match="max_samples") as caught:
        getattr(method(bent), ask)(
            randn(2, 9), n_samples="auto", tolerance=1e-9, max_samples=60, show_progress=True
        )
    assert caught[0].filename == __file__
