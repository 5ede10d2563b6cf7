"""Maximum sensitivity against closed forms, and what it asks of the explanation function."""

import threading
from functools import partial
from itertools import islice

import numpy as np
import pytest
import torch

from fastxai import ArgumentError, FeatureAblation, IntegratedGradients, KernelShap, Saliency
from fastxai.metrics import sensitivity_max

from ..models import Logged, ResidualCNN, TwoInputs, mlp

EXACT = {"rtol": 1e-12, "atol": 1e-12}


def randn(*shape):
    torch.manual_seed(sum(shape))
    return torch.randn(*shape, dtype=torch.float64)


def bent(x, radius):
    """A perturbation that depends on the input alone."""
    if isinstance(x, tuple):
        return tuple(bent(part, radius) for part in x)
    return x + radius * (3 * x).sin()


def test_gradients_of_a_linear_model_do_not_move():
    w, x = randn(6, 3), randn(4, 6)
    found = sensitivity_max(Saliency(lambda x: x @ w).attribute, x, target=1)
    assert torch.equal(found, torch.zeros(4).double())


def test_gradient_of_squares_moves_as_the_input_does():
    # Φ = 2x, so the sensitivity is |x_p − x| / |x| whichever the norm.
    x = randn(4, 6)
    explain = Saliency(lambda x: x.square().sum(1)).attribute
    for order in (1, 2, 3, float("inf")):
        norm = partial(torch.linalg.vector_norm, ord=order, dim=1)
        found = sensitivity_max(explain, x, bent, 0.1, norm_ord=order, abs=False)
        torch.testing.assert_close(found, norm(bent(x, 0.1) - x) / norm(x), **EXACT)


def test_the_largest_of_all_samples_is_taken():
    x, sizes = randn(4, 6).abs() + 1, [0.1, 0.7, 0.3, 0.5, 0.2]
    explain = Saliency(lambda x: x.square().sum(1)).attribute
    for limit in (4, 8, None):
        left = iter(sizes)

        def scaled(rows):
            r = len(rows) // 4
            factors = 1 + torch.tensor(list(islice(left, r))).double()  # noqa: B023
            return (rows.unflatten(0, (4, r)) * factors[:, None]).flatten(0, 1)

        found = sensitivity_max(
            explain, x, scaled, n_perturb_samples=5, max_examples_per_batch=limit
        )
        torch.testing.assert_close(found, torch.full((4,), 0.7).double(), rtol=1e-6, atol=0)


def test_an_explanation_of_zero_does_not_divide():
    x = torch.zeros(2, 3).double()
    found = sensitivity_max(
        Saliency(lambda x: x.square().sum(1)).attribute, x, lambda x: x + 0.5, norm_ord=1
    )
    torch.testing.assert_close(found, torch.full((2,), 3.0).double(), **EXACT)


def test_nuc_is_the_euclidean_norm_of_a_row():
    explain, x = IntegratedGradients(mlp()).attribute, torch.randn(3, 7)
    found = sensitivity_max(explain, x, bent, norm_ord="nuc", target=1)
    torch.testing.assert_close(found, sensitivity_max(explain, x, bent, target=1), rtol=0, atol=0)


@pytest.mark.usefixtures("independent_rows")
@pytest.mark.parametrize("radius", [0, 0.02, 3.0])
def test_default_perturbations_fill_the_ball(radius):
    x, seen = torch.randn(3, 2, 4), []

    def explain(rows):
        seen.append(rows.clone())
        return rows

    sensitivity_max(explain, x, perturb_radius=radius, n_perturb_samples=400, seed=5)
    apart = torch.cat(seen[1:]).unflatten(0, (-1, 3)) - x  # [400, 3, 2, 4]
    assert torch.equal(seen[0], x) and apart.shape[0] == 400
    assert (apart.abs() <= radius + 1e-6).all()
    if radius:
        assert (apart.amax(0) > 0.97 * radius).all() and (apart.amin(0) < -0.97 * radius).all()
        assert (apart.mean(0).abs() < 0.15 * radius).all()  # 5 standard deviations
        assert len(apart.unique()) > 0.99 * apart.numel()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_seed_decides_whatever_the_calls(dtype):
    model = TwoInputs().to(dtype)
    inputs = (torch.randn(5, 4).to(dtype), torch.randn(5, 2, 3).to(dtype))

    def measured(seed, limit=None):
        return sensitivity_max(
            Saliency(model).attribute, inputs, max_examples_per_batch=limit, seed=seed, target=1
        )

    expected = measured(3)
    for limit in (1, 5, 17, 50):
        torch.testing.assert_close(measured(3, limit), expected, rtol=1e-4, atol=0)
    assert not torch.allclose(measured(4), expected, rtol=1e-2)


def test_seed_and_the_global_generator():
    explain, x = Saliency(mlp()).attribute, torch.randn(3, 7)
    before = torch.get_rng_state()
    sensitivity_max(explain, x, seed=1, target=0)
    sensitivity_max(explain, x, bent, target=0)
    assert torch.equal(torch.get_rng_state(), before)
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(sensitivity_max(explain, x, target=0))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_a_random_explanation_takes_its_own_seed():
    x = torch.randn(2, 7)
    explain = partial(KernelShap(mlp()).attribute, seed=0)
    found = sensitivity_max(explain, x, n_perturb_samples=3, seed=1, target=0, n_samples=40)
    assert ((found > 0) & (found < 1)).all()


TARGETS = [
    2,
    (1,),
    [0, 3, 1, 0],
    [(0,), (3,), (1,), (0,)],
    torch.tensor([2, 2, 0, 1]),
    torch.tensor(1),
    torch.tensor([3]),
    np.array([0, 3, 1, 0]),
]


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_every_target_stays_with_its_row(target):
    model, x = mlp().double(), randn(4, 7)
    explain = IntegratedGradients(model).attribute
    rows = []
    for i in range(4):
        many = not isinstance(target, int | tuple) and np.shape(target)[:1] == (4,)
        mine = target[i : i + 1] if many else target
        rows.append(sensitivity_max(explain, x[i : i + 1], bent, target=mine))
    for limit in (None, 4, 12):
        found = sensitivity_max(explain, x, bent, max_examples_per_batch=limit, target=target)
        torch.testing.assert_close(found, torch.cat(rows), **EXACT)


def test_arguments_stay_with_their_row():
    model = TwoInputs().double()
    a, b, shift = randn(5, 4), randn(5, 2, 3), randn(5, 6)
    baselines = (randn(5, 4) + 1, 0.5)
    masks = (torch.randint(3, (5, 4)), torch.randint(3, 5, (1, 2, 3)))

    def measured(rows, limit=None):
        return sensitivity_max(
            FeatureAblation(model).attribute,
            (a[rows], b[rows]),
            bent,
            max_examples_per_batch=limit,
            baselines=(baselines[0][rows], 0.5),
            target=2,
            additional_forward_args=(shift[rows], 1.5),
            feature_mask=(masks[0][rows], masks[1]),
        )

    apart = torch.cat([measured(slice(i, i + 1)) for i in range(5)])
    for limit in (None, 1, 11):
        torch.testing.assert_close(measured(slice(None), limit), apart, **EXACT)


def test_one_baseline_and_mask_for_all_rows_stay_one():
    x, baseline, mask = randn(7, 7), randn(7), torch.tensor([0, 0, 1, 1, 2, 2, 2])
    explain = FeatureAblation(mlp().double()).attribute
    options = {"baselines": baseline, "feature_mask": mask, "target": 1}
    apart = [sensitivity_max(explain, x[i : i + 1], bent, 0.5, **options) for i in range(7)]
    found = sensitivity_max(explain, x, bent, 0.5, **options)
    torch.testing.assert_close(found, torch.cat(apart), **EXACT)


def test_other_arguments_pass_through():
    seen = []

    def explain(x, **kwargs):
        seen.append(kwargs)
        return x

    names = ["a", "b", "c"]
    sensitivity_max(explain, torch.randn(3, 4), names=names, target=None, baselines=0)
    assert all(kwargs == {"names": names, "target": None, "baselines": 0} for kwargs in seen)


def test_inputs_come_in_the_form_given():
    seen = []

    def explain(x):
        seen.append(type(x))
        return x

    sensitivity_max(explain, torch.randn(3, 4))
    assert set(seen) == {torch.Tensor}
    seen.clear()
    sensitivity_max(explain, (torch.randn(3, 4), torch.randn(3, 2)))
    assert set(seen) == {tuple}


def test_explanations_of_several_parts_count_together():
    x = randn(3, 6)
    whole = sensitivity_max(lambda x: x.cumsum(1), x, bent)
    parts = sensitivity_max(lambda x: x.cumsum(1).split([1, 2, 3], 1), x, bent)
    shaped = sensitivity_max(lambda x: x.cumsum(1).reshape(-1, 2, 3), x, bent)
    torch.testing.assert_close(parts, whole, **EXACT)
    torch.testing.assert_close(shaped, whole, **EXACT)


@pytest.mark.parametrize("shape", [(5,), (1, 1), (2, 3, 4), (2, 1, 3, 2, 2)])
def test_shapes(shape):
    x = randn(*shape)
    found = sensitivity_max(lambda x: 2 * x, x, lambda x: 1.5 * x)
    torch.testing.assert_close(found, torch.full((shape[0],), 0.5).double(), **EXACT)


def test_empty_batch_calls_nothing():
    def refuse(*_):
        raise AssertionError("called")

    found = sensitivity_max(refuse, torch.empty(0, 7).double(), refuse)
    assert found.shape == (0,) and found.dtype == torch.float64
    assert sensitivity_max(refuse, torch.empty(0, 7)).shape == (0,)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    x = torch.randn(3, 7)
    found = sensitivity_max(
        Saliency(mlp().to(dtype)).attribute, x.to(dtype), perturb_radius=0.5, seed=0, target=1
    )
    expected = sensitivity_max(Saliency(mlp()).attribute, x, perturb_radius=0.5, seed=0, target=1)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.2, atol=0.02)


@pytest.mark.usefixtures("independent_rows")
def test_calls_are_few_and_never_larger_than_asked_for():
    x = torch.randn(4, 7)
    for limit, sizes in ((None, [4, 40]), (8, [4, *[8] * 5]), (2, [4] * 11)):
        logged = Logged(lambda x: x)
        sensitivity_max(logged, x, max_examples_per_batch=limit)
        assert logged.rows == sizes


@pytest.mark.usefixtures("independent_rows")
def test_out_of_memory_makes_smaller_calls():
    x = randn(4, 7)
    error = torch.OutOfMemoryError("CUDA out of memory")
    logged = Logged(lambda x: x.sin(), fail_above=20, error=error)
    found = sensitivity_max(logged, x, seed=3, n_perturb_samples=30)
    expected = sensitivity_max(lambda x: x.sin(), x, seed=3, n_perturb_samples=30)
    assert torch.equal(found, expected)
    assert sum(logged.rows) == 124 and max(logged.rows) <= 20 and logged.tried > len(logged.rows)


def test_functions_may_write_to_what_they_get():
    x = randn(3, 4)
    before = x.clone()
    found = sensitivity_max(lambda x: x.mul_(2).clone(), x, lambda x: x.mul_(1.5))
    torch.testing.assert_close(found, torch.full((3,), 0.5).double(), **EXACT)
    assert torch.equal(x, before)


def test_model_and_inputs_are_left_as_found_after_an_interrupt():
    model, x = ResidualCNN(), torch.randn(3, 2, 6, 5, requires_grad=True)
    calls = []

    def interrupted(x, **kwargs):
        calls.append(len(x))
        if len(calls) > 1:
            raise KeyboardInterrupt
        return Saliency(model).attribute(x, **kwargs)

    with pytest.raises(KeyboardInterrupt):
        sensitivity_max(interrupted, x, target=1)
    assert torch.is_grad_enabled() and x.requires_grad and x.grad is None
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_threads_share_an_explainer():
    explain, x = IntegratedGradients(ResidualCNN()).attribute, torch.randn(8, 2, 2, 6, 5)

    def measured(i):
        return sensitivity_max(explain, x[i], n_perturb_samples=3, seed=i, target=1, n_steps=3)

    expected, wrong = [measured(i) for i in range(8)], []

    def work(i):
        wrong.extend(i for _ in range(5) if not torch.equal(measured(i), expected[i]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


X = torch.randn(3, 7)
REFUSED = {
    "explanation": ({"explanation_func": 3}, "explanation_func: expected a callable, got 3"),
    "inputs": ({"inputs": [X]}, "inputs: expected a torch.Tensor or a tuple"),
    "integers": ({"inputs": X.long()}, "inputs: expected floating-point values to perturb"),
    "booleans": ({"inputs": (X, X > 0)}, r"inputs\[1\]: expected floating-point values to"),
    "function": ({"perturb_func": 0.02}, "perturb_func: expected a callable, got 0.02"),
    "radius": ({"perturb_radius": -0.1}, "perturb_radius: expected .* at least 0, got -0.1"),
    "infinite": ({"perturb_radius": float("inf")}, "perturb_radius: expected a finite number"),
    "text": ({"perturb_radius": "0.1"}, "perturb_radius: expected a finite number"),
    "samples": ({"n_perturb_samples": 0}, "n_perturb_samples: expected an integer of at least 1"),
    "limit": ({"max_examples_per_batch": 2.5}, "max_examples_per_batch: expected an integer"),
    "norm": ({"norm_ord": "l2"}, "norm_ord: expected .* got 'l2'"),
    "no norm": ({"norm_ord": None}, "norm_ord: expected"),
    "seed": ({"seed": 0.5}, "seed: expected an integer or None"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_before_any_call(name):
    wrong, message = REFUSED[name]
    logged = Logged(lambda x: x)
    with pytest.raises(ArgumentError, match=f"^{message}"):
        sensitivity_max(**{"explanation_func": logged, "inputs": X, **wrong})
    assert logged.tried == 0


@pytest.mark.parametrize(
    ("explain", "message"),
    [
        (lambda x: x[1:], r"explanation_func: .* with 3 rows for 3 .* got shape \(2, 7\)"),
        (lambda x: x.sum(), r"explanation_func: .* got shape \(\)"),
        (lambda x: x.numpy(), "explanation_func: .* got ndarray"),
        (lambda x: ((x, x), x[:, 0]), "explanation_func: .*without return_convergence_delta.* got"),
    ],
)
def test_what_the_explanation_returns_is_checked(explain, message):
    with pytest.raises(ArgumentError, match=f"^{message}"):
        sensitivity_max(explain, X)


@pytest.mark.parametrize("perturb", [lambda x: x[1:], lambda x: (x, x), lambda x: x.numpy()])
def test_what_the_function_returns_is_checked(perturb):
    with pytest.raises(ArgumentError, match=r"^perturb_func: .* return perturbed inputs"):
        sensitivity_max(lambda x: x, X, perturb)
