"""GradientSHAP against closed forms, Integrated Gradients, and its own samples one by one."""

import threading

import pytest
import torch

from fastxai import ArgumentError, GradientShap, IntegratedGradients
from fastxai.core.engine.noisy_rows import NoisyRows

from ..models import EmbeddingModel, Logged, ResidualCNN, TwoInputs, mlp

EXACT = {"rtol": 1e-11, "atol": 1e-12}


def randn(*shape):
    torch.manual_seed(sum(shape))
    return torch.randn(*shape, dtype=torch.float64)


def by_hand(f, x, baselines, n_samples, stdev, seed, multiply=True):
    """Mean attributions, and the delta [B * N], from the same samples; f gives one number a row."""
    rows = NoisyRows((x,), (baselines,), (stdev,), n_samples, seed)
    everyone = slice(0, len(x))
    values, deltas = [], []
    for n in range(n_samples):
        ends, starts = (r.block(slice(n, n + 1), everyone)[0] for r in (rows.ends(), rows.starts()))
        row = rows.block(slice(n, n + 1), everyone)[0].requires_grad_()
        (gradient,) = torch.autograd.grad(f(row).sum(), row)
        value = (ends - starts) * gradient if multiply else gradient
        values.append(value)
        deltas.append(value.flatten(1).sum(1) - (f(ends) - f(starts)).detach())
    return torch.stack(values).mean(0), torch.stack(deltas, 1).flatten()


@pytest.mark.parametrize("multiply", [True, False])
@pytest.mark.parametrize(("n_samples", "count", "stdev"), [(7, 3, 0.2), (2, 5, 0.0), (40, 1, 1.0)])
def test_equals_its_samples_one_by_one(n_samples, count, stdev, multiply):
    model, x, baselines = mlp().double(), randn(4, 7), randn(count, 7)
    expected, expected_delta = by_hand(
        lambda x: model(x)[:, 2], x, baselines, n_samples, stdev, 11, multiply
    )
    values, delta = GradientShap(model, multiply_by_inputs=multiply).attribute(
        x, baselines, n_samples, stdev, 2, return_convergence_delta=True, seed=11
    )
    torch.testing.assert_close(values, expected, **EXACT)
    torch.testing.assert_close(delta, expected_delta, **EXACT)


def test_linear_model_has_its_closed_form():
    w, x, baselines = randn(6), randn(4, 6), randn(5, 6)
    found = GradientShap(lambda x: x @ w + 3).attribute(x, baselines, n_samples=10)
    torch.testing.assert_close(found, w * (x - baselines.mean(0)), **EXACT)


@pytest.mark.parametrize("n_samples", [5, 7])
def test_one_sample_for_each_baseline_has_no_bias(n_samples):
    """The mean over seeds of a quadratic model's attributions is known."""
    x, baselines = randn(3, 4), randn(5, 4)
    explainer = GradientShap(lambda x: (x**2).sum(1))
    runs = torch.stack([explainer.attribute(x, baselines, n_samples, seed=s) for s in range(200)])
    expected = (x[:, None] ** 2 - baselines**2).mean(1)  # of (x - b)(x + b)
    error = (runs.mean(0) - expected) / (runs.std(0) / 200**0.5)
    assert error.abs().max() < 4


def test_converges_to_integrated_gradients_averaged_over_the_baselines():
    model, x, baselines = mlp().double(), randn(3, 7), randn(4, 7)
    model[1] = torch.nn.Tanh()
    each = [
        IntegratedGradients(model).attribute(x, b[None], target=1, n_steps=60) for b in baselines
    ]
    expected = torch.stack(each).mean(0)
    explainer = GradientShap(model)
    errors = []
    for n in (4, 40, 400, 4000):
        found = explainer.attribute(x, baselines, n, target=1, seed=1)
        errors.append((found - expected).norm() / expected.norm())
    assert errors[0] < 0.5
    assert errors[3] < 1e-4  # independent samples: some 1e-2
    assert errors[0] > errors[1] > errors[2] > errors[3]


def test_noise_spreads_a_quadratic_model_as_known():
    x, baselines, stdev = randn(2, 3), randn(2, 3), 0.5
    found = GradientShap(lambda x: (x**2).sum(1)).attribute(x, baselines, 40_000, stdev, seed=2)
    expected = (x[:, None] ** 2 + stdev**2 - baselines**2).mean(1)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.03)


@pytest.mark.parametrize("model", [ResidualCNN(), EmbeddingModel()])
def test_deltas_tell_how_samples_add_up(model):
    shape = (2, 6, 5) if isinstance(model, ResidualCNN) else (6, 8)
    x, baselines, model = randn(3, *shape), randn(2, *shape), model.double()
    values, delta = GradientShap(model).attribute(
        x, baselines, 600, target=1, return_convergence_delta=True, seed=3
    )
    outputs, at_baselines = (model(rows)[:, 1].detach() for rows in (x, baselines))
    difference = outputs - at_baselines.mean()
    torch.testing.assert_close(
        delta.reshape(3, 600).mean(1), values.flatten(1).sum(1) - difference, **EXACT
    )
    assert delta.shape == (1800,)
    assert delta.reshape(3, 600).mean(1).abs().max() < 0.02 * difference.abs().max()


def test_tuples_share_baseline_and_position():
    """Of a product of both inputs, only then."""

    def f(a, b):
        return (a * b).sum(1)

    a, b = randn(3, 4), randn(3, 4) + 1
    backgrounds = randn(2, 4), randn(2, 4) - 1
    values = GradientShap(f).attribute((a, b), backgrounds, 4000, seed=4)
    each = [
        IntegratedGradients(f).attribute((a, b), tuple(g[k : k + 1] for g in backgrounds))
        for k in range(2)
    ]
    for value, *of_baselines in zip(values, *each, strict=True):
        expected = torch.stack(of_baselines).mean(0)
        torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-3)


def test_tuple_with_extra_arguments_targets_and_stdevs():
    model = TwoInputs().double()
    inputs, backgrounds = (randn(3, 4), randn(3, 2, 3)), (randn(5, 4), randn(5, 2, 3))
    shift, target = randn(3, 6).sigmoid(), [0, 2, 1]
    arguments = (backgrounds, 6, (0.1, 0.0), target, (shift, 2.0))
    values, delta = GradientShap(model).attribute(
        inputs, *arguments, return_convergence_delta=True, seed=5
    )
    rows = NoisyRows(inputs, backgrounds, (0.1, 0.0), 6, 5)
    everyone = slice(0, 6), slice(0, 3)
    ends, starts = rows.ends().block(*everyone), rows.starts().block(*everyone)
    points = [row.requires_grad_() for row in rows.block(*everyone)]
    index = torch.tensor(target).repeat(6)[:, None]

    def f(*rows):
        return model(*rows, shift.repeat(6, 1), 2.0).gather(1, index)[:, 0]

    gradients = torch.autograd.grad(f(*points).sum(), points)
    products = [(e - s) * g for e, s, g in zip(ends, starts, gradients, strict=True)]
    for value, product in zip(values, products, strict=True):
        torch.testing.assert_close(value, product.unflatten(0, (6, 3)).mean(0), **EXACT)
    sums = sum(product.flatten(1).sum(1) for product in products)
    expected = (sums - (f(*ends) - f(*starts)).detach()).reshape(6, 3).T.flatten()
    torch.testing.assert_close(delta, expected, **EXACT)
    assert torch.equal(ends[1], inputs[1].repeat(6, 1, 1))


def test_baselines_from_a_function():
    x, baselines, explainer = randn(3, 7), randn(4, 7), GradientShap(mlp().double())
    expected = explainer.attribute(x, baselines, target=0, seed=6)
    found = explainer.attribute(x, lambda: baselines, target=0, seed=6)
    assert torch.equal(found, expected)
    shifted = explainer.attribute(x, lambda inputs: inputs + 1, target=0, seed=6)
    assert torch.equal(shifted, explainer.attribute(x, x + 1, target=0, seed=6))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtypes(dtype):
    x, baselines, model = randn(3, 7), randn(4, 7), mlp()
    expected = GradientShap(model.double()).attribute(x, baselines, 20, 0.1, target=1, seed=7)
    values, delta = GradientShap(mlp().to(dtype)).attribute(
        x.to(dtype), baselines.to(dtype), 20, 0.1, 1, return_convergence_delta=True, seed=7
    )
    assert values.dtype == delta.dtype == torch.float32
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(values.double(), expected, rtol=tolerance, atol=tolerance)


def test_baselines_come_in_the_dtype_of_the_inputs():
    x, baselines, explainer = randn(3, 7).float(), randn(4, 7), GradientShap(mlp())
    found = explainer.attribute(x, baselines, target=1, seed=1)
    assert torch.equal(found, explainer.attribute(x, baselines.float(), target=1, seed=1))


def test_shapes():
    explainer = GradientShap(mlp())
    values, delta = explainer.attribute(
        torch.empty(0, 7), torch.randn(2, 7), target=0, return_convergence_delta=True
    )
    assert values.shape == (0, 7) and delta.shape == (0,)
    one = explainer.attribute(torch.randn(1, 7), torch.randn(1, 7), n_samples=1, target=0)
    assert one.shape == (1, 7)
    x, baselines = torch.randn(7, 3).T, torch.randn(7, 4).T  # not contiguous
    found = explainer.attribute(x, baselines, target=0, seed=1)
    whole = x.contiguous(), baselines.contiguous()
    torch.testing.assert_close(found, explainer.attribute(*whole, target=0, seed=1))


@pytest.mark.usefixtures("independent_rows")
def test_blocks_change_nothing_but_rounding():
    model, x, baselines = mlp().double(), randn(5, 7), randn(3, 7)
    expected = GradientShap(model).attribute(x, baselines, 200, 0.1, 1, seed=8)
    for most in (3, 40):
        error = torch.OutOfMemoryError("out of memory")
        logged = Logged(model, fail_above=most, error=error)
        found, delta = GradientShap(logged).attribute(
            x, baselines, 20, 0.1, 1, return_convergence_delta=True, seed=8
        )
        again, whole = GradientShap(model).attribute(
            x, baselines, 20, 0.1, 1, return_convergence_delta=True, seed=8
        )
        assert max(logged.rows) <= most
        torch.testing.assert_close(found, again, **EXACT)
        torch.testing.assert_close(delta, whole, **EXACT)
    large = randn(300, 7)  # several slices of examples
    large[:5] = x
    found = GradientShap(model).attribute(large, baselines, 200, 0.1, 1, seed=8)
    torch.testing.assert_close(found[:5], expected, **EXACT)


@pytest.mark.usefixtures("independent_rows")
def test_memory_does_not_grow_with_samples():
    x, baselines = randn(1, 2000).float(), randn(4, 2000).float()

    def most_rows(n_samples):
        logged = Logged(lambda x: x.sin().sum(1))
        GradientShap(logged).attribute(x, baselines, n_samples)
        assert sum(logged.rows) == n_samples
        return max(logged.rows)

    assert most_rows(10_000) <= 1.1 * most_rows(5_000)  # blocks are evened out


def test_seeds():
    x, baselines, explainer = randn(3, 7), randn(4, 7), GradientShap(mlp().double())

    def run(seed=None):
        return explainer.attribute(x, baselines, stdevs=0.1, target=0, seed=seed)

    assert torch.equal(run(9), run(9))
    assert not torch.equal(run(9), run(10))
    torch.manual_seed(0)
    first = run()
    assert not torch.equal(first, run())
    torch.manual_seed(0)
    assert torch.equal(first, run())
    state = torch.get_rng_state()
    run(9)
    assert torch.equal(torch.get_rng_state(), state)


def test_explain_and_plan():
    model, x, baselines = mlp().double(), randn(3, 7), randn(4, 7)
    found = GradientShap(model).explain(x, baselines, 200, target=1, seed=1)
    outputs, at_baselines = model(x)[:, 1].detach(), model(baselines)[:, 1].detach().mean()
    torch.testing.assert_close(found.outputs, outputs)
    torch.testing.assert_close(found.baseline_outputs, at_baselines.expand(3))
    expected = found.values.sum(1) - (outputs - at_baselines)
    torch.testing.assert_close(found.convergence_delta, expected)
    assert found.method == "Gradient Shap"
    assert "600" in str(GradientShap(model).plan(x, baselines, 200, target=1))


def test_compute_convergence_delta_takes_a_start_for_each_row():
    model, x, starts = mlp().double(), randn(3, 7), randn(3, 7)
    values, explainer = randn(3, 7) + 1, GradientShap(model)
    found = explainer.compute_convergence_delta(values, starts, x, target=1)
    expected = values.sum(1) - (model(x) - model(starts))[:, 1].detach()
    torch.testing.assert_close(found, expected)


def test_nothing_is_left_behind():
    model, x, baselines = mlp(), torch.randn(3, 7, requires_grad=True), torch.randn(4, 7)
    model.train()

    def raising(rows):
        if len(rows) > 3:
            raise KeyboardInterrupt
        return model(rows)

    with pytest.raises(KeyboardInterrupt):
        GradientShap(raising).attribute(x, baselines, target=0)
    found = GradientShap(model).attribute(x, baselines, target=0)
    assert not found.requires_grad
    with torch.inference_mode():
        values, _ = GradientShap(model).attribute(
            x, baselines, target=0, return_convergence_delta=True
        )
    assert values.shape == x.shape
    assert x.grad is None and x.requires_grad and not baselines.requires_grad
    assert model.training and all(p.grad is None and p.requires_grad for p in model.parameters())


def test_threads_share_an_explainer():
    model, x, baselines = mlp(), torch.randn(3, 7), torch.randn(4, 7)
    explainer = GradientShap(model)

    def run(seed):
        return explainer.attribute(x, baselines, 20, 0.1, target=1, seed=seed)

    expected = [run(seed) for seed in range(4)]
    wrong = []

    def work(seed):
        for _ in range(10):
            if not torch.equal(run(seed), expected[seed]):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


X, BASELINES = torch.randn(3, 7), torch.randn(4, 7)
BAD = {
    "no samples": ({"n_samples": 0}, "n_samples: expected an integer of at least 1, got 0"),
    "samples": ({"n_samples": 2.5}, "n_samples: expected an integer"),
    "negative": ({"stdevs": -0.1}, "stdevs: expected a finite number of at least 0, got -0.1"),
    "nan": ({"stdevs": float("nan")}, "stdevs: expected a finite number"),
    "infinite": ({"stdevs": float("inf")}, "stdevs: expected a finite number"),
    "text": ({"stdevs": "0.1"}, "stdevs: expected a finite number of at least 0, got '0.1'"),
    "bool": ({"stdevs": True}, "stdevs: expected a finite number of at least 0, got True"),
    "tensor": ({"stdevs": torch.tensor(0.1)}, "stdevs: expected a finite number"),
    "many": ({"stdevs": (0.1, 0.2)}, "stdevs: expected one for each of the 1 inputs, got 2"),
    "in a tuple": ({"stdevs": (-1.0,)}, r"stdevs\[0\]: expected a finite number of at least 0"),
    "seed": ({"seed": 1.5}, "seed: expected an integer or None, got 1.5"),
    "number": ({"baselines": 0}, "baselines: expected a torch.Tensor, got int"),
    "none": ({"baselines": None}, "baselines: expected a torch.Tensor, got NoneType"),
    "width": ({"baselines": BASELINES[:, :3]}, "baselines: expected at least one row"),
    "no rows": ({"baselines": BASELINES[:0]}, "baselines: expected at least one row"),
    "function": ({"baselines": lambda: 3}, "baselines: expected a torch.Tensor, got int"),
    "count": ({"baselines": (BASELINES, X)}, "baselines: expected one for each of 1 inputs, got 2"),
    "device": ({"baselines": BASELINES.to("meta")}, "baselines: expected the input's device"),
    "integers": ({"inputs": X.long()}, "inputs: expected floating-point values"),
    "target": ({"target": [1, 2]}, "target: expected one for each of 3 rows, got 2"),
}


@pytest.mark.parametrize("name", BAD)
def test_refused_before_any_model_call(name):
    arguments, message = BAD[name]
    logged = Logged(mlp())
    with pytest.raises(ArgumentError, match=f"^{message}"):
        GradientShap(logged).attribute(
            **{"inputs": X, "baselines": BASELINES, "target": 0, **arguments}
        )
    assert logged.tried == 0


def test_tuples_need_as_many_baselines_for_each_input():
    with pytest.raises(ArgumentError, match=r"^baselines\[1\]: expected .* as many for each input"):
        GradientShap(TwoInputs()).attribute(
            (torch.randn(3, 4), torch.randn(3, 2, 3)),
            (torch.randn(5, 4), torch.randn(4, 2, 3)),
            target=0,
        )
