"""What all perturbation methods share: how they treat models, inputs, memory and the user."""

import sys
import threading

import numpy as np
import pytest
import torch
import tqdm
from torch import nn

from fastxai.attr import (
    FeatureAblation,
    FeaturePermutation,
    KernelShap,
    Occlusion,
    ShapleyValues,
    ShapleyValueSampling,
)
from fastxai.attr.lime import Lime

from ..models import Logged, mlp, one_number

METHODS = {  # with what they need for up to seven features, and what makes them repeatable
    FeatureAblation: {},
    Occlusion: {"sliding_window_shapes": (2,)},
    FeaturePermutation: {"seed": 3},
    ShapleyValues: {},
    ShapleyValueSampling: {"n_samples": 3, "seed": 3},
    KernelShap: {"n_samples": 40, "seed": 3},
    Lime: {"n_samples": 40, "seed": 3},
}
SEEDED = [method for method, needed in METHODS.items() if "seed" in needed]
CLOSE = {"rtol": 1e-9, "atol": 1e-9}


@pytest.fixture(params=METHODS, ids=lambda method: method.__name__)
def method(request):
    return request.param


def randn(*shape):
    torch.manual_seed(sum(shape))
    return torch.randn(*shape, dtype=torch.float64)


def batch_loss(x):
    return x.std(0).sum().sqrt()


def test_any_limit_gives_the_same_and_is_kept(method):
    x, model = randn(3, 7), mlp().double()
    expected = method(Logged(model)).attribute(x, target=1, **METHODS[method])
    for limit in (1, 2, 5, 1000):
        logged = Logged(model)
        found = method(logged).attribute(
            x, target=1, perturbations_per_eval=limit, **METHODS[method]
        )
        torch.testing.assert_close(found, expected, **CLOSE)
        # A regression's samples are of one row each; there two rows at least tell rows from batch.
        most = max(2, limit) if method in (KernelShap, Lime) else 3 * limit
        assert max(logged.rows) <= most


@pytest.mark.usefixtures("independent_rows")
def test_the_model_sees_no_more_rows_than_needed(method):
    rows = {
        FeatureAblation: 1 + 7,
        Occlusion: 1 + 6,
        FeaturePermutation: 1 + 7,
        ShapleyValues: 1 + 2**7,
        ShapleyValueSampling: 2 + 3 * 6,
        KernelShap: 40,
        Lime: 1 + 40,
    }
    logged, counted = Logged(one_number), method is KernelShap  # a row's multiplications
    method(logged).attribute(randn(3, 7), **METHODS[method])
    assert sum(logged.rows) <= 3 * rows[method] + counted
    logged = Logged(batch_loss)
    method(logged).attribute(randn(3, 7), **METHODS[method])
    assert sum(logged.rows) <= 3 * (rows[method] + 1)  # once more, to learn what it answers for


@pytest.mark.parametrize("form", [lambda y: y, lambda y: y[None], float])
@pytest.mark.parametrize("rows", [2, 1100])
@pytest.mark.parametrize("limit", [None, 1])
def test_a_model_that_answers_for_the_batch_sees_all_of_it(method, form, rows, limit):
    x, logged = randn(rows, 5), Logged(lambda x: form(batch_loss(x)))
    found = method(logged).attribute(x, perturbations_per_eval=limit, **METHODS[method])
    assert found.shape == (1, 5)
    calls = {Occlusion: 4, ShapleyValueSampling: 3 * 4}.get(method, 5)
    assert set(logged.rows[-calls:]) == {rows}
    if method in (FeatureAblation, ShapleyValues, ShapleyValueSampling, KernelShap):
        one_long_row = x.view(1, -1)
        found_there = method(lambda x: x.view(-1, rows, 5).std(1).sum(1).sqrt()).attribute(
            one_long_row, feature_mask=torch.arange(5).repeat(rows)[None], **METHODS[method]
        )
        torch.testing.assert_close(found, found_there[:, :5], **CLOSE)


def test_a_model_that_answers_for_a_batch_of_huge_rows(method):
    # So large that one row fills a block: its answer alone does not show what it is for.
    x, rest = torch.rand(2, 3, 1000, 1200), dict(METHODS[method])
    if method is Occlusion:
        rest["sliding_window_shapes"] = x.shape[1:]
    else:
        rest["feature_mask"] = torch.tensor([0, 1]).repeat_interleave(600)
    found = method(lambda x: x.mean()).attribute(x, **rest)
    assert found.shape == (1, 3, 1000, 1200)


def test_a_model_that_squeezes_its_single_row(method):
    x = randn(3, 4)
    for rows in (x, x[:1]):
        if method is FeaturePermutation and len(rows) == 1:
            continue
        found = method(lambda x: one_number(x).squeeze()).attribute(
            rows, perturbations_per_eval=1, **METHODS[method]
        )
        expected = method(one_number).attribute(rows, **METHODS[method])
        torch.testing.assert_close(found, expected, **CLOSE)


def test_any_function_will_do(method):
    """One that numpy computes, that writes to its input, or that autograd cannot follow."""

    def model(x):
        return x.sin().cumsum(1).sum(1)

    def by_numpy(x):
        return torch.from_numpy(np.sin(x.numpy()).cumsum(1).sum(1))

    def in_place(x):
        return x.sin_().cumsum_(1).sum(1)

    def by_list(x):
        return torch.tensor([[sum(row[:2]) > 0, max(row)] for row in x.tolist()])

    for dtype in (torch.float32, torch.float64):
        x = randn(5, 4).to(dtype)
        before = x.clone()
        tolerance = {"rtol": 1e-3, "atol": 1e-4} if dtype == torch.float32 else CLOSE
        expected = method(model).attribute(x, **METHODS[method])
        for same in (by_numpy, in_place):
            found = method(same).attribute(x, **METHODS[method])
            torch.testing.assert_close(found, expected, **tolerance)
        assert torch.equal(x, before)
        found = method(by_list).attribute(x, target=1, **METHODS[method])
        expected = method(lambda x: x.max(1).values).attribute(x, **METHODS[method])
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4, check_dtype=False)


def test_outputs_of_whole_numbers_and_truth_values(method):
    x = randn(4, 5)
    expected = method(lambda x: (x.sum(1) > 0).double()).attribute(x, **METHODS[method])
    for dtype in (torch.bool, torch.uint8, torch.int32, torch.int64):
        found = method(lambda x, d=dtype: (x.sum(1) > 0).to(d)).attribute(x, **METHODS[method])
        torch.testing.assert_close(found.double(), expected.double(), rtol=1e-5, atol=1e-6)
    explanation = method(lambda x: x.sum(1) > 0).explain(x, **METHODS[method])
    assert torch.equal(explanation.outputs.double(), (x.sum(1) > 0).double())


@pytest.mark.parametrize("method", SEEDED)
def test_the_seed_decides(method):
    x, rest = randn(8, 7), {k: v for k, v in METHODS[method].items() if k != "seed"}
    explainer = method(mlp().double())
    first = explainer.attribute(x, target=1, seed=5, **rest)
    torch.testing.assert_close(explainer.attribute(x, target=1, seed=5, **rest), first)
    assert not torch.allclose(explainer.attribute(x, target=1, seed=6, **rest), first)
    torch.manual_seed(0)
    drawn = [explainer.attribute(x, target=1, **rest) for _ in range(2)]
    assert not torch.allclose(*drawn)
    torch.manual_seed(0)
    torch.testing.assert_close(explainer.attribute(x, target=1, **rest), drawn[0], rtol=0, atol=0)
    for seed in (0, -1, 2**63, 2**64 - 1, np.int64(7)):
        assert explainer.attribute(x, target=1, seed=seed, **rest).isfinite().all()


def test_works_under_no_grad_and_inference_mode(method):
    explainer = method(mlp())
    for requires_grad in (False, True):
        x = torch.randn(3, 7).requires_grad_(requires_grad)
        expected = explainer.attribute(x, target=1, **METHODS[method])
        assert not expected.requires_grad
        with torch.no_grad():
            found = explainer.attribute(x, target=1, **METHODS[method])
            torch.testing.assert_close(found, expected, rtol=0, atol=0)
        with torch.inference_mode():
            found = explainer.attribute(x, target=1, **METHODS[method])
            torch.testing.assert_close(found, expected, rtol=0, atol=0)
            made_here = x.clone()
        found = explainer.attribute(made_here, target=1, **METHODS[method])
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_no_gradient_for_parameters(method):
    model, counted = mlp(), []
    for p in model.parameters():
        p.register_hook(counted.append)
    method(model).attribute(torch.randn(3, 7), target=1, **METHODS[method])
    assert counted == [] and all(p.grad is None for p in model.parameters())


def test_one_explainer_from_many_threads(method):
    explainer = method(mlp())
    inputs = [randn(3, 7).float() + i for i in range(6)]
    expected = [explainer.attribute(x, target=1, **METHODS[method]) for x in inputs]
    wrong = []

    def work(i):
        for _ in range(10):
            found = explainer.attribute(inputs[i], target=1, **METHODS[method])
            if not torch.equal(found, expected[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_batch_of_no_examples(method):
    logged = Logged(mlp())
    for arguments in ({"target": 1}, {"target": []}, {}):
        found = method(logged).attribute(torch.empty(0, 7), **arguments, **METHODS[method])
        assert found.shape == (0, 7)
    assert logged.tried == 0


class Failing(nn.Module):
    """A model with a batch norm that raises after so many rows."""

    def __init__(self, error=None, after=0):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(7, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 4))
        self.error, self.after, self.rows = error, after, 0

    def forward(self, x):
        self.rows += len(x)
        if self.error is not None and self.rows > self.after:
            raise self.error
        return self.body(x)


@pytest.mark.parametrize("error", [None, ValueError("midway"), KeyboardInterrupt()])
@pytest.mark.parametrize("training", [True, False])
def test_everything_is_left_as_found(method, error, training):
    model = Failing(error, after=10).train(training)
    given = torch.randn(3, 7)
    x, baseline = given.clone().requires_grad_(), torch.zeros(1, 7, requires_grad=True)
    mask = torch.arange(7)[None]
    x.grad = torch.ones_like(x)
    weight, frozen = model.body[0].weight, model.body[3].weight.requires_grad_(False)
    weight.grad = torch.full_like(weight, 2)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    random, version = torch.get_rng_state(), x._version
    limit = 6 if method in (KernelShap, Lime) else 2  # of rows, or times three rows
    rest = {"perturbations_per_eval": limit, **METHODS[method]}
    rest |= {} if method is FeaturePermutation else {"baselines": baseline}
    rest |= {} if method is Occlusion else {"feature_mask": mask}

    if error is None:
        assert method(model).attribute(x, target=1, **rest).shape == (3, 7)
    else:
        with pytest.raises(type(error)):
            method(model).attribute(x, target=1, **rest)
    assert model.rows > 10
    assert torch.equal(x.detach(), given) and x.requires_grad and (x.grad == 1).all()
    assert x._version == version and baseline.requires_grad and baseline.grad is None
    assert torch.equal(mask, torch.arange(7)[None])
    assert all(m.training == training for m in model.modules()) and not frozen.requires_grad
    assert (weight.grad == 2).all() and weight.requires_grad and frozen.grad is None
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name])
    assert torch.equal(torch.get_rng_state(), random) and torch.is_grad_enabled()


@pytest.fixture
def bars(monkeypatch):
    """The progress bars that were shown."""
    shown = []

    class Noted(tqdm.tqdm):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            shown.append(self)

    monkeypatch.setattr(tqdm, "tqdm", Noted)
    return shown


@pytest.mark.parametrize("limit", [None, 1, 3])
@pytest.mark.parametrize("model", [one_number, batch_loss])
def test_a_progress_bar_on_request(bars, capsys, method, limit, model):
    x, rest = randn(4, 7), {**METHODS[method], "perturbations_per_eval": limit}
    method(model).attribute(x, **rest)
    silent = capsys.readouterr()
    assert bars == [] and silent.err == "" and silent.out == ""
    method(model).attribute(x, **rest, show_progress=True)
    (bar,) = bars
    assert bar.n == bar.total > 0
    printed = capsys.readouterr()
    assert f"{method.get_name()} attribution: 100%" in printed.err and printed.out == ""
    assert printed.err.endswith("\n")  # closed


@pytest.mark.parametrize("error", [ValueError("midway"), KeyboardInterrupt()])
def test_the_progress_bar_is_closed_after_an_error(bars, capsys, method, error):
    with pytest.raises(type(error)):
        method(Failing(error, after=13).eval()).attribute(
            torch.randn(3, 7),
            target=1,
            perturbations_per_eval=1,
            show_progress=True,
            **METHODS[method],
        )
    (bar,) = bars
    assert 0 < bar.n < bar.total and bar.disable  # which is how tqdm notes that it is closed
    assert capsys.readouterr().err.endswith("\n")


def test_without_tqdm_there_is_a_warning_and_a_result(monkeypatch, method):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    x = randn(3, 7)
    with pytest.warns(UserWarning, match="pip install tqdm"):
        found = method(one_number).attribute(x, show_progress=True, **METHODS[method])
    torch.testing.assert_close(found, method(one_number).attribute(x, **METHODS[method]))


@pytest.mark.parametrize("method", [KernelShap, ShapleyValueSampling])
def test_one_call_leaves_nothing_behind_for_the_next(method):
    asked = []

    def model(x):
        asked.append((len(x), torch.is_grad_enabled()))
        return (x @ torch.ones(6, 3, dtype=x.dtype)).relu().sum(1)

    x, explainer = torch.randn(1, 6), method(model)
    first, calls = explainer.attribute(x, n_samples=20, seed=0), list(asked)
    explainer.attribute(x.double(), n_samples=21, seed=1)
    asked.clear()
    again = explainer.attribute(x, n_samples=20, seed=0)
    torch.testing.assert_close(again, first, rtol=0, atol=0)
    # But for the row whose multiplications are counted once.
    assert asked == calls[-len(asked) :] and len(calls) - len(asked) <= 1
    assert not any(enabled for _, enabled in asked)
