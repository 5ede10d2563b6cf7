"""Integrated Gradients against closed forms, its axioms, and the shapes it may meet."""

import subprocess
import sys
import threading

import pytest
import torch

from fastxai import IntegratedGradients

from ..models import EmbeddingModel, Logged, ResidualCNN, TwoInputs, mlp, one_number

EXACT = {"rtol": 1e-12, "atol": 1e-12}


def randn(*shape):
    torch.manual_seed(sum(shape))
    return torch.randn(*shape, dtype=torch.float64)


def test_linear_model_has_its_closed_form():
    w, x, baseline = randn(6), randn(4, 6), randn(1, 6)
    for method in ("gausslegendre", "riemann_left", "riemann_middle"):
        found = IntegratedGradients(lambda x: x @ w + 3).attribute(x, baseline, method=method)
        torch.testing.assert_close(found, w * (x - baseline), **EXACT)


def test_quadratic_form_has_its_closed_form():
    a, x, baseline = randn(6, 6), randn(4, 6), randn(4, 6)
    form = a + a.T
    found = IntegratedGradients(lambda x: 0.5 * ((x @ form) * x).sum(1)).attribute(
        x, baseline, n_steps=2
    )
    torch.testing.assert_close(found, (x - baseline) * ((x + baseline) / 2 @ form), **EXACT)


def test_product_of_three_is_shared_equally_from_zero():
    x = randn(5, 3)
    found = IntegratedGradients(lambda x: x.prod(1)).attribute(x, n_steps=2)
    torch.testing.assert_close(found, (x.prod(1) / 3)[:, None].expand(5, 3), **EXACT)


def test_mean_gradient_without_multiplication():
    x = randn(4, 3)
    found = IntegratedGradients(lambda x: (x**2).sum(1), multiply_by_inputs=False).attribute(x)
    torch.testing.assert_close(found, x, **EXACT)  # ∫ 2αx dα


@pytest.mark.parametrize("model", [mlp(), ResidualCNN(), EmbeddingModel()])
def test_completeness(model):
    shape = {"Sequential": (3, 7), "ResidualCNN": (3, 2, 6, 5), "EmbeddingModel": (3, 6, 8)}
    x = randn(*shape[type(model).__name__])
    model = model.double()
    values, delta = IntegratedGradients(model).attribute(
        x, 0.1, target=1, n_steps=2000, return_convergence_delta=True
    )
    difference = (model(x) - model(torch.full_like(x, 0.1)))[:, 1].detach()
    torch.testing.assert_close(values.flatten(1).sum(1) - difference, delta, **EXACT)
    assert delta.abs().max() < 1e-3 * difference.abs().max()


def test_smooth_model_converges_geometrically():
    model, x = mlp().double(), randn(3, 7)
    model[1] = torch.nn.Tanh()
    delta = IntegratedGradients(model).explain(x, target=0, n_steps=24).convergence_delta
    assert delta.abs().max() < 1e-9


def test_symmetry_dummy_and_linearity():
    x = randn(3, 4)
    x[:, 1] = x[:, 0]

    def f(x):
        return torch.tanh(x[:, 0] + x[:, 1]) * x[:, 2].exp()

    def g(x):
        return (x[:, 2] * x[:, 3]).sin()

    of_f, of_g = (IntegratedGradients(m).attribute(x) for m in (f, g))
    torch.testing.assert_close(of_f[:, 0], of_f[:, 1], **EXACT)
    assert (of_f[:, 3] == 0).all() and (of_g[:, :2] == 0).all()
    both = IntegratedGradients(lambda x: 2 * f(x) - 3 * g(x)).attribute(x)
    torch.testing.assert_close(both, 2 * of_f - 3 * of_g, **EXACT)


def test_input_equal_to_baseline_gets_zero():
    x = randn(3, 7)
    assert (IntegratedGradients(mlp().double()).attribute(x, x, target=0) == 0).all()


@pytest.mark.parametrize(
    "shape", [(5,), (1, 1), (2, 3), (2, 3, 4), (2, 1, 3, 2, 2), (0, 4), (3, 0)]
)
def test_shapes(shape):
    x = randn(*shape)
    found, delta = IntegratedGradients(lambda x: (x**3).reshape(len(x), -1).sum(1)).attribute(
        x, n_steps=2, return_convergence_delta=True
    )
    torch.testing.assert_close(found, x**3, **EXACT)
    assert delta.shape == (shape[0],) and found.is_contiguous()


def test_empty_batch_does_not_call_the_model():
    logged = Logged(mlp())
    found, delta = IntegratedGradients(logged).attribute(
        torch.empty(0, 7), target=1, return_convergence_delta=True
    )
    assert found.shape == (0, 7) and delta.shape == (0,) and logged.rows == []


def test_non_contiguous_inputs_and_baselines():
    model = ResidualCNN().double()
    x, baseline = randn(6, 5, 3, 2).permute(2, 3, 0, 1), randn(3, 4, 6, 5)[:, ::2]
    assert not x.is_contiguous() and not baseline.is_contiguous()
    ig = IntegratedGradients(model)
    torch.testing.assert_close(
        ig.attribute(x, baseline, 0),
        ig.attribute(x.contiguous(), baseline.contiguous(), 0),
        **EXACT,
    )


def test_channels_last_model_and_input():
    model, x = ResidualCNN().double(), randn(3, 2, 6, 5)
    expected = IntegratedGradients(model).attribute(x, target=0)
    model, x = model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    torch.testing.assert_close(IntegratedGradients(model).attribute(x, target=0), expected, **EXACT)


@pytest.mark.parametrize(
    ("dtype", "result"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_result_dtype_and_accuracy(dtype, result):
    w, x = randn(6), randn(4, 6).to(dtype)
    found = IntegratedGradients(lambda x: x @ w.to(dtype)).attribute(x, 0.5, n_steps=100)
    assert found.dtype == result
    expected = (w.to(dtype).double() * (x.double() - 0.5)).to(result)
    tolerance = EXACT if dtype == torch.float64 else {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(found, expected, **tolerance)


def test_baseline_of_another_dtype_is_converted():
    x, baseline = randn(2, 7).float(), randn(1, 7)
    ig = IntegratedGradients(mlp())
    torch.testing.assert_close(
        ig.attribute(x, baseline, 0), ig.attribute(x, baseline.float(), 0), rtol=0, atol=0
    )


def test_extra_arguments_follow_their_rows_through_any_blocks():
    a, b, shift = randn(5, 4), randn(5, 2, 3), randn(5, 6)
    model = TwoInputs().double()
    rows = [
        IntegratedGradients(model).attribute(
            (a[i : i + 1], b[i : i + 1]), target=i % 3, additional_forward_args=shift[i : i + 1]
        )
        for i in range(5)
    ]
    for limit in (None, 1, 2, 7, 250):
        found = IntegratedGradients(model).attribute(
            (a, b),
            target=[i % 3 for i in range(5)],
            additional_forward_args=shift,
            internal_batch_size=limit,
        )
        torch.testing.assert_close(found[0], torch.cat([row[0] for row in rows]), **EXACT)
        torch.testing.assert_close(found[1], torch.cat([row[1] for row in rows]), **EXACT)


def test_extra_tensors_without_the_batch_dimension_pass_through():
    x, matrix = randn(3, 7), randn(7, 2)
    seen = []

    def forward(x, matrix, number):
        seen.append((matrix.shape, number.shape))
        return (x @ matrix).sum(1) * number

    IntegratedGradients(forward).attribute(x, additional_forward_args=(matrix, torch.tensor(2.0)))
    assert set(seen) == {((7, 2), ())}


def test_batch_norm_in_train_mode_sees_all_rows_at_once_and_is_not_trained():
    captum = pytest.importorskip("captum.attr")
    model, x = ResidualCNN().train(), randn(3, 2, 6, 5).float()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    arguments = {"target": 1, "n_steps": 400}
    found = IntegratedGradients(model).attribute(x, **arguments)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    expected = captum.IntegratedGradients(model).attribute(x, **arguments)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    model.eval()
    apart = IntegratedGradients(model).attribute(x, **arguments)
    assert (apart - found).abs().max() > 1e-3  # it does make a difference


def test_works_under_no_grad_and_inference_mode():
    model, x = mlp(), torch.randn(3, 7)
    ig = IntegratedGradients(model)
    expected = ig.attribute(x, target=1)
    with torch.no_grad():
        torch.testing.assert_close(ig.attribute(x, target=1), expected, rtol=0, atol=0)
    with torch.inference_mode():
        torch.testing.assert_close(ig.attribute(x, target=1), expected, rtol=0, atol=0)


def test_result_has_no_graph():
    x = torch.randn(3, 7, requires_grad=True)
    found, delta = IntegratedGradients(mlp()).attribute(x, target=1, return_convergence_delta=True)
    assert not found.requires_grad and not delta.requires_grad


def test_one_explainer_from_many_threads():
    ig = IntegratedGradients(ResidualCNN())
    inputs = [randn(3, 2, 6, 5).float() + i for i in range(8)]
    expected = [ig.attribute(x, target=1) for x in inputs]
    wrong = []

    def work(i):
        for _ in range(20):
            if not torch.equal(ig.attribute(inputs[i], target=1), expected[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_memory_does_not_grow_with_the_number_of_steps():
    # A child process for each, since the peak of a process never falls.
    script = """
import resource, sys, torch, fastxai
model = torch.nn.Sequential(torch.nn.Linear(2000, 300), torch.nn.ReLU(), torch.nn.Linear(300, 2))
ig = fastxai.IntegratedGradients(model)
ig.attribute(torch.randn(4, 2000), target=0, n_steps=50)
ig.attribute(torch.randn(4, 2000), target=0, n_steps=int(sys.argv[1]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""
    peaks = [
        int(subprocess.check_output([sys.executable, "-c", script, steps]))
        for steps in ("500", "8000")
    ]
    assert peaks[1] - peaks[0] < 40, peaks  # MB; all points at once would be 256 MB


def test_one_number_a_row_needs_no_target():
    x = randn(3, 4)
    with_dimension = IntegratedGradients(lambda x: one_number(x)[:, None])
    torch.testing.assert_close(
        IntegratedGradients(one_number).attribute(x), with_dimension.attribute(x, target=0), **EXACT
    )


def test_a_model_that_squeezes_its_single_row():
    x = randn(1, 4)
    found = IntegratedGradients(lambda x: one_number(x).squeeze()).attribute(x, n_steps=1)
    torch.testing.assert_close(
        found, IntegratedGradients(one_number).attribute(x, n_steps=1), **EXACT
    )


def test_a_model_that_writes_to_its_input():
    def in_place(x):
        x[:, 0] = 0
        return x.mul_(2).pow(2).sum(1)

    x = randn(3, 4)
    before = x.clone()
    found = IntegratedGradients(in_place).attribute(x, n_steps=2)
    expected = 4 * x**2
    expected[:, 0] = 0
    torch.testing.assert_close(found, expected, **EXACT)
    assert torch.equal(x, before)
    logged = Logged(in_place)
    IntegratedGradients(logged).attribute(x, n_steps=4, internal_batch_size=3)
    assert logged.tried == 5  # it is found out once
