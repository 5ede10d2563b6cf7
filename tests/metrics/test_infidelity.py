"""Infidelity against closed forms, and what it asks of the model and of the user's function."""

import threading

import pytest
import torch

from fastxai import ArgumentError, InputXGradient, IntegratedGradients, Saliency
from fastxai.metrics import infidelity, infidelity_perturb_func_decorator

from ..models import Logged, ResidualCNN, Segmenter, TwoInputs, mlp

EXACT = {"rtol": 1e-12, "atol": 1e-12}


def randn(*shape):
    torch.manual_seed(sum(shape))
    return torch.randn(*shape, dtype=torch.float64)


def noise(x):
    change = torch.randn_like(x)
    return change, x - change


def squares(x):
    return x.square().reshape(len(x), -1).sum(1)


def test_gradients_of_a_linear_model_are_exact():
    w, x = randn(6, 3), randn(4, 6)
    values = Saliency(lambda x: x @ w).attribute(x, 1, abs=False)
    found = infidelity(lambda x: x @ w, noise, x, values, target=1, n_perturb_samples=50)
    torch.testing.assert_close(found, torch.zeros(4).double(), **EXACT)


@pytest.mark.parametrize("multiply", [True, False])
def test_contributions_to_a_linear_model_are_exact_for_shares(multiply):
    w, x, baseline = randn(6), randn(4, 6), randn(4, 6)

    @infidelity_perturb_func_decorator(multiply)
    def some_at_baseline(x, baseline):
        return torch.where(torch.rand_like(x) < 0.5, x, baseline)

    values = IntegratedGradients(lambda x: x @ w, multiply).attribute(x, baseline)
    found = infidelity(lambda x: x @ w, some_at_baseline, x, values, baseline)
    torch.testing.assert_close(found, torch.zeros(4).double(), **EXACT)


def test_quadratic_model_has_its_closed_form():
    # f(x) - f(x - I) = 2 Iᵀx - |I|² for f = |x|²; the gradient foretells 2 Iᵀx: off by |I|².
    x = randn(3, 4)
    signs = iter(torch.tensor([1.0, -1.0]).double().repeat(100))

    def plus_or_minus(rows):
        size = torch.linspace(0.1, 0.4, 4).double()
        change = next(signs) * size.expand(rows.shape)
        return change, rows - change

    found = infidelity(squares, plus_or_minus, x, 2 * x, max_examples_per_batch=3)
    size = torch.linspace(0.1, 0.4, 4).double().square().sum()
    torch.testing.assert_close(found, size.square().expand(3), **EXACT)
    # And with φ = 0 nothing is foretold: the mean square of the change.
    found = infidelity(squares, plus_or_minus, x, 0 * x, max_examples_per_batch=3)
    along = 2 * x @ torch.linspace(0.1, 0.4, 4).double()
    torch.testing.assert_close(found, along.square() + size.square(), **EXACT)


def test_normalized_is_the_least_error_over_scales():
    model, x = mlp().double(), randn(4, 7)
    values = randn(4, 7)

    def measured(scale, **options):
        torch.manual_seed(0)
        return infidelity(
            model, noise, x, scale * values, target=1, max_examples_per_batch=40, **options
        )

    least = measured(1.0, normalize=True)
    for scale in (-3.0, 1e-3, 7.0):
        torch.testing.assert_close(measured(scale, normalize=True), least, rtol=1e-9, atol=0)
    scales = torch.linspace(-2, 2, 81).double()
    errors = torch.stack([measured(scale) for scale in scales])
    assert (errors >= least - 1e-12).all()
    # The error is a parabola in the scale: its lowest point from three others.
    low, middle, high = (measured(scale) for scale in (-1.0, 0.0, 1.0))
    curve, slope = (low + high) / 2 - middle, (high - low) / 2
    torch.testing.assert_close(middle - slope.square() / (4 * curve), least, rtol=1e-9, atol=1e-12)


def test_normalized_without_any_attribution_is_the_mean_square_of_the_change():
    x = randn(3, 4)
    torch.manual_seed(0)
    expected = infidelity(squares, noise, x, 0 * x, max_examples_per_batch=30)
    torch.manual_seed(0)
    found = infidelity(squares, noise, x, 0 * x, max_examples_per_batch=30, normalize=True)
    torch.testing.assert_close(found, expected, **EXACT)
    assert (found > 0).all()


@pytest.mark.parametrize("shape", [(5,), (1, 1), (2, 3), (2, 3, 4), (2, 1, 3, 2, 2), (3, 0)])
def test_shapes(shape):
    x = randn(*shape)
    found = infidelity(lambda x: 3 * x.reshape(len(x), -1).sum(1), noise, x, torch.full_like(x, 3))
    torch.testing.assert_close(found, torch.zeros(shape[0]).double(), **EXACT)


def test_empty_batch_calls_nothing():
    def refuse(*_):
        raise AssertionError("called")

    for normalize in (False, True):
        x = torch.empty(0, 7).double()
        found = infidelity(refuse, refuse, x, x, normalize=normalize)
        assert found.shape == (0,) and found.dtype == torch.float64


def test_non_contiguous():
    model, x = ResidualCNN().double(), randn(6, 5, 3, 2).permute(2, 3, 0, 1)
    values = Saliency(model).attribute(x, 1)

    def along(rows):
        change = (rows.permute(0, 3, 2, 1) * 0.1).permute(0, 3, 2, 1)
        return change, rows - change

    torch.testing.assert_close(
        infidelity(model, along, x, values, target=1),
        infidelity(model, along, x.contiguous(), values.contiguous(), target=1),
        **EXACT,
    )


@pytest.mark.parametrize(
    ("dtype", "result"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_dtypes(dtype, result):
    x, w = randn(3, 4).to(dtype), randn(4).to(dtype)

    def shrunk(x):
        return x / 2, x - x / 2

    found = infidelity(lambda x: x @ w, shrunk, x, torch.zeros_like(x), n_perturb_samples=3)
    assert found.dtype == result
    expected = (x.double() @ w.double() / 2).square().to(result)
    tolerance = {torch.float16: 0.01, torch.bfloat16: 0.1}.get(dtype, 1e-6)
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def test_perturbed_inputs_come_in_the_inputs_dtype():
    x = torch.randn(3, 7)
    values = Saliency(mlp()).attribute(x, 1)

    def by_numpy(x):
        change = torch.from_numpy(x.double().sin().numpy())  # float64, as numpy's noise is
        return change, x - change

    found = infidelity(mlp(), by_numpy, x, values, target=1)
    change = x.double().sin()
    with torch.no_grad():
        expected = (values * change).sum(1) - (mlp()(x) - mlp()((x - change).float()))[:, 1]
    torch.testing.assert_close(found, expected.square().float(), rtol=1e-4, atol=1e-6)


def test_one_row_of_perturbations_is_for_all():
    x, change = randn(4, 6), randn(1, 6)
    found, expected = (
        infidelity(squares, lambda rows, i=i: (i(rows), rows - change), x, x)
        for i in (lambda rows: change, lambda rows: change.expand(rows.shape))
    )
    torch.testing.assert_close(found, expected, **EXACT)


def test_rows_keep_their_target_and_arguments_in_any_blocks():
    model = TwoInputs().double()
    a, b, shift = randn(5, 4), randn(5, 2, 3), randn(5, 6)
    target = [0, 1, 2, 1, 0]

    def bent(inputs):
        changes = tuple(0.3 * x.sin() for x in inputs)
        return changes, tuple(x - c for x, c in zip(inputs, changes, strict=True))

    values = InputXGradient(model).attribute((a, b), target, shift)

    def measured(rows, limit=None):
        return infidelity(
            model,
            bent,
            (a[rows], b[rows]),
            tuple(v[rows] for v in values),
            additional_forward_args=(shift[rows], 1.5),
            target=target[rows],
            n_perturb_samples=7,
            max_examples_per_batch=limit,
        )

    apart = torch.cat([measured(slice(i, i + 1)) for i in range(5)])
    for limit in (None, 1, 5, 11, 35):
        torch.testing.assert_close(measured(slice(None), limit), apart, **EXACT)


@pytest.mark.usefixtures("independent_rows")
def test_calls_are_few_and_never_larger_than_asked_for():
    x = torch.randn(4, 7)
    values = Saliency(mlp()).attribute(x, 0)
    for limit, largest in ((None, 160), (8, 8), (15, 12), (2, 4)):
        logged = Logged(mlp())
        infidelity(
            logged,
            noise,
            x,
            values,
            target=0,
            n_perturb_samples=40,
            max_examples_per_batch=limit,
        )
        assert sum(logged.rows) == 4 + 160 and max(logged.rows) == largest


@pytest.mark.usefixtures("independent_rows")
def test_calls_do_not_grow_with_the_number_of_samples():
    x, largest = torch.randn(4, 7), []
    for count in (2000, 20_000):
        logged = Logged(mlp())
        infidelity(logged, lambda x: (x, x), x, x, target=0, n_perturb_samples=count)
        assert sum(logged.rows) == 4 * (1 + count)
        largest.append(max(logged.rows))
    assert max(largest) < 20_000


@pytest.mark.usefixtures("independent_rows")
def test_out_of_memory_makes_smaller_calls():
    x = randn(4, 7)
    values = Saliency(mlp().double()).attribute(x, 0)

    def bent(rows):
        return rows.sin(), rows - rows.sin()

    error = torch.OutOfMemoryError("CUDA out of memory")
    logged = Logged(mlp().double(), fail_above=20, error=error)
    arguments = {"target": 0, "n_perturb_samples": 40, "normalize": True}
    found = infidelity(logged, bent, x, values, **arguments)
    torch.testing.assert_close(
        found, infidelity(mlp().double(), bent, x, values, **arguments), **EXACT
    )
    assert sum(logged.rows) == 164 and max(logged.rows) <= 20 < 4 + logged.tried * 20


def test_functions_may_write_to_what_they_get():
    x, kept = randn(3, 4), []
    before = x.clone()

    def in_place(rows):
        kept.append(rows.mul_(0.5))
        return kept[-1], kept[-1]

    def writing(rows):
        return squares(rows.mul_(2))

    for count in (1, 4):
        kept.clear()
        found = infidelity(writing, in_place, x, 0 * x, n_perturb_samples=count)
        torch.testing.assert_close(found, squares(3**0.5 * before).square(), **EXACT)
        assert torch.equal(x, before)
        assert torch.equal(kept[0], before.repeat_interleave(count, 0) / 2)


def test_model_inputs_and_generator_are_left_as_found():
    model = ResidualCNN().train()
    x = torch.randn(3, 2, 6, 5, requires_grad=True)
    values = torch.randn(3, 2, 6, 5, requires_grad=True)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.get_rng_state()
    found = infidelity(model, lambda x: (0.1 * x, 0.9 * x), x, values, target=0)
    assert not found.requires_grad and x.grad is None and x.requires_grad and model.training
    assert torch.equal(torch.get_rng_state(), generator)
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name])
    assert all(p.grad is None for p in model.parameters())


def test_threads_share_a_model():
    model, x = mlp().double(), randn(8, 5, 7)
    values = [Saliency(model).attribute(rows, 1) for rows in x]

    def measured(i):
        return infidelity(model, lambda r: (r.sin(), r - r.sin()), x[i], values[i], target=1)

    expected, wrong = [measured(i) for i in range(8)], []

    def work(i):
        wrong.extend(i for _ in range(20) if not torch.equal(measured(i), expected[i]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


X = torch.randn(3, 7)
REFUSED = {
    "model": ({"forward_func": 3}, "forward_func: expected a callable"),
    "function": ({"perturb_func": 0.02}, "perturb_func: expected a callable, got 0.02"),
    "inputs": ({"inputs": [X]}, "inputs: expected a torch.Tensor or a tuple"),
    "shape": ({"attributions": X[:, :6]}, r"attributions: expected .* shape \(3, 7\), got shape"),
    "rows": ({"attributions": X[:1]}, r"attributions: expected .* shape \(3, 7\), got shape"),
    "count": ({"attributions": (X, X)}, "attributions: expected .* one for each of 1 inputs"),
    "second": (
        {"inputs": (X, X), "attributions": (X, X.T)},
        r"attributions\[1\]: expected .* of shape \(3, 7\), got shape \(7, 3\)",
    ),
    "kind": ({"attributions": X.numpy()}, "attributions: expected .* as tensors, got ndarray"),
    "device": ({"attributions": X.to("meta")}, "attributions: .* device, cpu, got meta"),
    "baselines": ({"baselines": X[:2]}, "baselines: expected the input's shape"),
    "samples": ({"n_perturb_samples": 0}, "n_perturb_samples: expected an integer of at least 1"),
    "limit": ({"max_examples_per_batch": 0}, "max_examples_per_batch: expected an integer"),
    "target": ({"target": [1, 2]}, "target: expected one for each of 3 rows, got 2"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_before_any_call(name):
    wrong, message = REFUSED[name]
    logged, perturb = Logged(mlp()), Logged(noise)
    arguments = {"forward_func": logged, "perturb_func": perturb, "inputs": X, "attributions": X}
    with pytest.raises(ArgumentError, match=f"^{message}"):
        infidelity(**{**arguments, "target": 0, **wrong})
    assert logged.tried == perturb.tried == 0


@pytest.mark.parametrize(
    ("perturb", "message"),
    [
        (lambda x: x, "perturb_func: expected it to return a pair, .*decorator"),
        (lambda x: (x, x, x), "perturb_func: expected it to return a pair"),
        (lambda x: (x, x[1:]), r"perturb_func: .* perturbed inputs of shape \(30, 7\), got shape"),
        (lambda x: (x, x[:1]), "perturb_func: expected it to return perturbed inputs of shape"),
        (lambda x: (x.T, x), "perturb_func: expected it to return perturbations of shape"),
        (lambda x: ((x, x), x), "perturb_func: .* perturbations, one for each of 1 inputs, got 2"),
        (lambda x: (x, (x, x)), "perturb_func: .* inputs, one for each of 1 inputs, got 2"),
        (lambda x: (x.numpy(), x), "perturb_func: .* perturbations, as tensors, got ndarray"),
    ],
)
def test_what_the_function_returns_is_checked(perturb, message):
    logged = Logged(mlp())
    with pytest.raises(ArgumentError, match=f"^{message}"):
        infidelity(logged, perturb, X, X, target=0)
    assert sum(logged.rows) == 3  # no perturbed row went to the model


def test_decorated_functions_are_checked_too():
    decorated = infidelity_perturb_func_decorator()(lambda x: x[:, :3])
    with pytest.raises(ArgumentError, match=r"^perturb_func: .* perturbed inputs of shape"):
        infidelity(mlp(), decorated, X, X, target=0)


def test_outputs_must_be_one_number_a_row():
    x = torch.randn(3, 2, 6)
    with pytest.raises(ArgumentError, match=r"^target: expected one that leaves one number a row"):
        infidelity(Segmenter(), noise, x, x, target=1)
    with pytest.raises(IndexError, match=r"^target: 9 is out of range"):
        infidelity(mlp(), noise, X, X, target=9)
    with pytest.raises(ArgumentError, match=r"^forward_func: expected an output with 3 rows"):
        infidelity(lambda x: x.sum(), noise, X, X)
