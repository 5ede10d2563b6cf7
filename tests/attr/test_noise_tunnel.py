"""NoiseTunnel against an explicit loop over the same samples, over every kind of method."""

import threading

import captum.attr
import pytest
import torch

from fastxai import (
    ArgumentError,
    FeatureAblation,
    GradientShap,
    InputXGradient,
    IntegratedGradients,
    KernelShap,
    NoiseTunnel,
    Saliency,
    ShapleyValueSampling,
)
from fastxai.core.engine.noisy_rows import NoisyRows

from ..models import EmbeddingModel, Logged, ResidualCNN, TwoInputs, mlp

EXACT = {"rtol": 1e-11, "atol": 1e-12}
TYPES = {
    "smoothgrad": lambda v: v.mean(0),
    "smoothgrad_sq": lambda v: v.square().mean(0),
    "vargrad": lambda v: v.var(0, correction=0),
}


def randn(*shape):
    torch.manual_seed(sum(shape))
    return torch.randn(*shape, dtype=torch.float64)


def samples_of(inputs, stdevs, count, seed):
    """The noisy inputs of every sample, each a tuple of tensors [B, *F_i]."""
    rows = NoisyRows(inputs, None, stdevs, count, seed)
    everyone = slice(0, inputs[0].shape[0])
    return [rows.block(slice(n, n + 1), everyone) for n in range(count)]


METHODS = {
    "saliency": (Saliency, {}),
    "signed saliency": (Saliency, {"abs": False}),
    "input x gradient": (InputXGradient, {}),
    "integrated gradients": (IntegratedGradients, {"n_steps": 8, "baselines": 0.1}),
    "ablation": (FeatureAblation, {"baselines": 0.1}),
    "ablation, mask": (FeatureAblation, {"feature_mask": torch.tensor([[0, 0, 1, 2, 2, 3, 3]])}),
    "shap, mask": (KernelShap, {"feature_mask": torch.tensor([[0, 0, 1, 2, 2, 3, 3]])}),
}


@pytest.mark.parametrize("nt_type", TYPES)
@pytest.mark.parametrize("limit", [None, 1, 2, 50])
@pytest.mark.parametrize("name", METHODS)
def test_equals_an_explicit_loop(name, limit, nt_type):
    make, arguments = METHODS[name]
    method, x = make(mlp().double()), randn(3, 7)
    arguments = {"target": [0, 3, 1], **arguments}
    each = [method.attribute(*x_n, **arguments) for x_n in samples_of((x,), (0.3,), 5, 11)]
    found = NoiseTunnel(method).attribute(x, nt_type, 5, limit, 0.3, seed=11, **arguments)
    torch.testing.assert_close(found, TYPES[nt_type](torch.stack(each)), **EXACT)


@pytest.mark.parametrize("make", [Saliency, IntegratedGradients])
@pytest.mark.parametrize("limit", [None, 2])
def test_what_belongs_to_the_examples_is_repeated(make, limit):
    method = make(TwoInputs().double())
    inputs = randn(3, 4), randn(3, 2, 3)
    arguments = {"target": torch.tensor([0, 2, 1]), "additional_forward_args": (randn(3, 6), 2.0)}
    if make is IntegratedGradients:
        arguments["baselines"] = (randn(3, 4), randn(1, 2, 3))
    samples = samples_of(inputs, (0.3, 0.1), 5, 11)
    each = [method.attribute(x_n, **arguments) for x_n in samples]
    found = NoiseTunnel(method).attribute(
        inputs, nt_samples=5, nt_samples_batch_size=limit, stdevs=(0.3, 0.1), seed=11, **arguments
    )
    assert isinstance(found, tuple)
    for value, *values in zip(found, *each, strict=True):
        torch.testing.assert_close(value, torch.stack(values).mean(0), **EXACT)


def test_masks_and_baselines_of_each_example():
    method, x = FeatureAblation(mlp().double()), randn(3, 7)
    mask = torch.tensor([[0, 0, 1, 1, 2, 2, 2], [0, 1, 1, 1, 1, 2, 2], [2, 2, 1, 1, 0, 0, 0]])
    arguments = {"target": 1, "baselines": randn(3, 7), "feature_mask": mask}
    each = [method.attribute(*x_n, **arguments) for x_n in samples_of((x,), (0.3,), 4, 1)]
    found = NoiseTunnel(method).attribute(x, nt_samples=4, stdevs=0.3, seed=1, **arguments)
    torch.testing.assert_close(found, torch.stack(each).mean(0), **EXACT)


@pytest.mark.parametrize("limit", [None, 2])
def test_deltas_of_every_sample(limit):
    method, x = IntegratedGradients(mlp().double()), randn(3, 7)
    arguments = {"target": 1, "n_steps": 3, "return_convergence_delta": True}
    each = [method.attribute(*x_n, **arguments) for x_n in samples_of((x,), (0.3,), 5, 2)]
    values, delta = NoiseTunnel(method).attribute(
        x, nt_samples=5, nt_samples_batch_size=limit, stdevs=0.3, seed=2, **arguments
    )
    torch.testing.assert_close(values, torch.stack([v for v, _ in each]).mean(0), **EXACT)
    torch.testing.assert_close(delta, torch.stack([d for _, d in each], 1).flatten(), **EXACT)
    assert NoiseTunnel(method).has_convergence_delta() and method.multiplies_by_inputs
    assert not NoiseTunnel(Saliency(mlp())).has_convergence_delta()


def test_several_outputs_of_an_example_stay_apart():
    method, x = FeatureAblation(mlp().double()), randn(3, 7)
    each = [method.attribute(*x_n) for x_n in samples_of((x,), (0.3,), 4, 3)]
    assert each[0].shape == (12, 7)  # 3 examples, 4 outputs
    found = NoiseTunnel(method).attribute(x, nt_samples=4, stdevs=0.3, seed=3)
    torch.testing.assert_close(found, torch.stack(each).mean(0), **EXACT)


def test_one_answer_for_the_batch():
    model, x = mlp().double(), randn(3, 7)
    method = FeatureAblation(lambda x: model(x).square().mean())
    each = [method.attribute(*x_n) for x_n in samples_of((x,), (0.3,), 4, 3)]
    found = NoiseTunnel(method).attribute(x, nt_samples=4, stdevs=0.3, seed=3)
    assert found.shape == (1, 7)
    torch.testing.assert_close(found, torch.stack(each).mean(0), **EXACT)


def test_drawn_baselines():
    model, x, rows = mlp().double(), randn(3, 7), randn(4, 7)
    w = randn(7)
    linear = NoiseTunnel(IntegratedGradients(lambda x: x @ w))
    found = linear.attribute(
        x, nt_samples=8, stdevs=0.0, draw_baseline_from_distrib=True, baselines=rows
    )
    torch.testing.assert_close(found, w * (x - rows.mean(0)), **EXACT)
    method = IntegratedGradients(model)
    everyone = slice(0, 3)
    starts = NoisyRows((x,), (rows,), (0.0,), 6, 5).starts()
    each = [
        method.attribute(*x_n, *starts.block(slice(n, n + 1), everyone), target=1)
        for n, x_n in enumerate(samples_of((x,), (0.3,), 6, 5))
    ]
    for limit in (None, 4):
        found = NoiseTunnel(method).attribute(
            x, "smoothgrad", 6, limit, 0.3, True, baselines=rows, target=1, seed=5
        )
        torch.testing.assert_close(found, torch.stack(each).mean(0), **EXACT)


@pytest.mark.parametrize("make", [ShapleyValueSampling, KernelShap])
def test_methods_that_sample_are_seeded(make):
    x, arguments = randn(3, 7), {"n_samples": 20, "target": 1}
    tunnel = NoiseTunnel(make(mlp().double()))
    first = tunnel.attribute(x, stdevs=0.1, seed=1, **arguments)
    for limit in (None, 1, 3):
        found = tunnel.attribute(x, nt_samples_batch_size=limit, stdevs=0.1, seed=1, **arguments)
        torch.testing.assert_close(found, first, **EXACT)
    assert not torch.allclose(tunnel.attribute(x, stdevs=0.1, seed=2, **arguments), first)


def test_tunnels_and_gradient_shap_within():
    x, rows, model = randn(3, 7), randn(4, 7), mlp().double()
    inner = NoiseTunnel(Saliency(model))
    found = NoiseTunnel(inner).attribute(x, nt_samples=3, stdevs=0.1, target=1, seed=1)
    assert found.shape == x.shape
    values, delta = NoiseTunnel(GradientShap(model)).attribute(
        x, nt_samples=3, stdevs=0.1, baselines=rows, target=1, return_convergence_delta=True
    )
    assert values.shape == x.shape and delta.shape == (3 * 3 * 5,)


def test_baselines_to_draw_from_are_not_repeated():
    x, rows, w = randn(4, 7), randn(4, 7), randn(7)  # as many as examples
    tunnel = NoiseTunnel(GradientShap(lambda x: x @ w))
    found = tunnel.attribute(x, stdevs=0.0, nt_samples=3, baselines=rows, n_samples=4)
    torch.testing.assert_close(found, w * (x - rows.mean(0)), **EXACT)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("nt_type", TYPES)
def test_captum_s_own_methods(nt_type):
    model, x = mlp().double(), randn(3, 7)
    for theirs, ours in (
        (captum.attr.Saliency(model), Saliency(model)),
        (captum.attr.InputXGradient(model), InputXGradient(model)),
        (captum.attr.IntegratedGradients(model), IntegratedGradients(model)),
        (captum.attr.FeatureAblation(model), FeatureAblation(model)),
    ):
        found = NoiseTunnel(theirs).attribute(x, nt_type, target=1, stdevs=0.1, seed=4)
        expected = NoiseTunnel(ours).attribute(x, nt_type, target=1, stdevs=0.1, seed=4)
        assert not found.requires_grad
        # Captum keeps the weights of steps in float32.
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-9)


def test_smoothgrad_of_a_quadratic_model_as_known():
    x = randn(2, 3)
    found = NoiseTunnel(Saliency(lambda x: (x**2).sum(1))).attribute(
        x, "vargrad", 20_000, stdevs=0.5, abs=False, seed=1
    )
    torch.testing.assert_close(found, torch.ones_like(x), rtol=0.05, atol=0)  # 4 σ²


def test_a_small_variance_beside_a_large_mean():
    """E[v²] - E[v]² has no digit left of it in float32."""
    x = torch.randn(2, 3)
    found = NoiseTunnel(Saliency(lambda x: 1e4 * x.sum(1) + (x**2).sum(1) / 2)).attribute(
        x, "vargrad", 4000, stdevs=0.5, seed=1
    )
    torch.testing.assert_close(found, torch.full_like(x, 0.25), rtol=0.1, atol=0)


@pytest.mark.parametrize("nt_type", TYPES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtypes(dtype, nt_type):
    x = randn(3, 7)
    for make in (Saliency, IntegratedGradients):
        expected = NoiseTunnel(make(mlp().double())).attribute(x, nt_type, target=1, seed=7)
        found = NoiseTunnel(make(mlp().to(dtype))).attribute(x.to(dtype), nt_type, target=1, seed=7)
        assert found.dtype == make(mlp().to(dtype)).attribute(x.to(dtype), target=1).dtype
        tolerance = 1e-4 if dtype == torch.float32 else 0.1
        torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("model", [ResidualCNN(), EmbeddingModel()])
def test_other_shapes(model):
    x = randn(2, 2, 6, 5) if isinstance(model, ResidualCNN) else randn(2, 6, 8)
    method = Saliency(model.double())
    each = [method.attribute(*x_n, target=1) for x_n in samples_of((x,), (0.3,), 4, 3)]
    found = NoiseTunnel(method).attribute(x, nt_samples=4, stdevs=0.3, target=1, seed=3)
    torch.testing.assert_close(found, torch.stack(each).mean(0), **EXACT)


@pytest.mark.parametrize("make", [Saliency, IntegratedGradients, FeatureAblation])
def test_empty_and_strided_batches(make):
    tunnel = NoiseTunnel(make(mlp()))
    for nt_type in TYPES:
        assert tunnel.attribute(torch.empty(0, 7), nt_type, target=0).shape == (0, 7)
    x = torch.randn(7, 3).T
    found = tunnel.attribute(x, target=0, seed=1)
    torch.testing.assert_close(found, tunnel.attribute(x.contiguous(), target=0, seed=1))


@pytest.mark.thin("make")
@pytest.mark.usefixtures("independent_rows")
@pytest.mark.parametrize("nt_type", TYPES)
@pytest.mark.parametrize("make", [Saliency, IntegratedGradients])
def test_large_batches_and_small_blocks_change_nothing_but_rounding(make, nt_type):
    model, x = mlp().double(), randn(300, 7)
    few = NoiseTunnel(make(model)).attribute(x[:5], nt_type, 70, stdevs=0.3, target=1, seed=8)
    many = NoiseTunnel(make(model)).attribute(x, nt_type, 70, stdevs=0.3, target=1, seed=8)
    torch.testing.assert_close(many[:5], few, **EXACT)
    error = torch.OutOfMemoryError("out of memory")
    logged = Logged(model, fail_above=9, error=error)
    found = NoiseTunnel(make(logged)).attribute(x[:5], nt_type, 70, stdevs=0.3, target=1, seed=8)
    assert max(logged.rows) <= 9
    torch.testing.assert_close(found, few, **EXACT)


@pytest.mark.usefixtures("independent_rows")
def test_batch_size_is_the_limit_of_a_call():
    logged = Logged(mlp())
    NoiseTunnel(Saliency(logged)).attribute(
        torch.randn(3, 7), nt_samples=7, nt_samples_batch_size=2, target=0
    )
    assert sum(logged.rows) == 21 and max(logged.rows) == 6


def test_seeds_and_state():
    model, x = mlp(), torch.randn(3, 7, requires_grad=True)
    tunnel = NoiseTunnel(Saliency(model))
    state = torch.get_rng_state()
    first = tunnel.attribute(x, target=0, seed=1)
    assert torch.equal(tunnel.attribute(x, target=0, seed=1), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(tunnel.attribute(x, target=0, seed=2), first)
    torch.manual_seed(0)
    drawn = tunnel.attribute(x, target=0)
    assert not torch.equal(drawn, tunnel.attribute(x, target=0))
    torch.manual_seed(0)
    assert torch.equal(drawn, tunnel.attribute(x, target=0))
    assert x.grad is None and x.requires_grad and not first.requires_grad
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    with torch.no_grad():
        assert torch.equal(tunnel.attribute(x, target=0, seed=1), first)
    with torch.inference_mode():
        for make in (Saliency, IntegratedGradients):
            assert NoiseTunnel(make(model)).attribute(x, target=0).shape == x.shape


def test_explain_and_plan():
    model, x = mlp(), torch.randn(3, 7)
    for make in (Saliency, IntegratedGradients):
        tunnel = NoiseTunnel(make(model))
        found = tunnel.explain(x, nt_samples=4, target=1, seed=1)
        assert torch.equal(found.values, tunnel.attribute(x, nt_samples=4, target=1, seed=1))
        torch.testing.assert_close(found.outputs, model(x)[:, 1].detach())
        assert found.method == "Noise Tunnel"
        assert "inputs" in str(NoiseTunnel(Saliency(model)).plan(x, nt_samples=4, target=1))


def test_threads_share_a_tunnel():
    tunnels = [NoiseTunnel(make(mlp())) for make in (Saliency, IntegratedGradients)]
    x = torch.randn(3, 7)

    def run(seed):
        return [t.attribute(x, "vargrad", stdevs=0.1, target=1, seed=seed) for t in tunnels]

    expected = [run(seed) for seed in range(4)]
    wrong = []

    def work(seed):
        for _ in range(10):
            if not all(map(torch.equal, run(seed), expected[seed])):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


X = torch.randn(3, 7)
BAD = {
    "type": ({"nt_type": "smooth"}, "nt_type: expected one of smoothgrad, .* got 'smooth'"),
    "no samples": ({"nt_samples": 0}, "nt_samples: expected an integer of at least 1, got 0"),
    "batch size": ({"nt_samples_batch_size": 0}, "nt_samples_batch_size: expected an integer"),
    "negative": ({"stdevs": -0.1}, "stdevs: expected a finite number of at least 0, got -0.1"),
    "nan": ({"stdevs": float("nan")}, "stdevs: expected a finite number"),
    "many": ({"stdevs": (0.1, 0.2)}, "stdevs: expected one for each of the 1 inputs, got 2"),
    "seed": ({"seed": "x"}, "seed: expected an integer or None"),
    "integers": ({"inputs": X.long()}, "inputs: expected floating-point values"),
    "list": ({"inputs": [X]}, "inputs: expected a torch.Tensor or a tuple of them"),
    "target": ({"target": [1, 2]}, "target: expected one for each of 3 rows, got 2"),
    "baselines": (
        {"draw_baseline_from_distrib": True, "baselines": X[:, :2]},
        "baselines: expected at least one row",
    ),
}


@pytest.mark.parametrize("make", [Saliency, IntegratedGradients])
@pytest.mark.parametrize("name", BAD)
def test_refused_before_any_model_call(name, make):
    arguments, message = BAD[name]
    logged = Logged(mlp())
    with pytest.raises(ArgumentError, match=f"^{message}"):
        NoiseTunnel(make(logged)).attribute(**{"inputs": X, "target": 0, **arguments})
    assert logged.tried == 0


@pytest.mark.parametrize("flag", ["yes", torch.tensor([1, 0])], ids=["word", "tensor"])
@pytest.mark.parametrize("call", ["attribute", "explain", "plan"])
def test_flags_of_the_method_are_checked(call, flag):
    logged = Logged(mlp())
    method = IntegratedGradients(logged)
    for tunnel in (NoiseTunnel(method), NoiseTunnel(NoiseTunnel(method))):
        with pytest.raises(ArgumentError, match=r"^return_convergence_delta: expected True or"):
            getattr(tunnel, call)(X, target=0, return_convergence_delta=flag)
        with pytest.raises(ArgumentError, match=r"^draw_baseline_from_distrib: expected True or"):
            getattr(tunnel, call)(X, target=0, draw_baseline_from_distrib=flag)
    assert logged.tried == 0


def test_explain_has_no_use_for_a_convergence_delta():
    tunnel, asked = NoiseTunnel(IntegratedGradients(mlp())), {"target": 0, "seed": 1}
    found = tunnel.explain(X, **asked, return_convergence_delta=True).values
    torch.testing.assert_close(found, tunnel.attribute(X, **asked))


def test_unknown_arguments_are_the_method_s_to_refuse():
    logged = Logged(mlp())
    for make in (Saliency, IntegratedGradients):
        with pytest.raises(TypeError, match="n_stepps"):
            NoiseTunnel(make(logged)).attribute(X, target=0, n_stepps=3)
    assert logged.tried == 0


@pytest.mark.parametrize("method", [None, mlp(), Saliency])
def test_only_methods_are_smoothed(method):
    with pytest.raises(ArgumentError, match=r"^attribution_method: expected an attribution method"):
        NoiseTunnel(method)
