"""DeepLift and DeepLiftShap: completeness on whole models, pairing, and a model left as it was."""

import threading
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastxai import (
    ArgumentError,
    DeepLift,
    DeepLiftShap,
    GradientShap,
    IntegratedGradients,
    LayerDeepLift,
    LayerDeepLiftShap,
)

from ..models import EmbeddingModel, Logged, ResidualCNN, TwoInputs, mlp

EXACT = {"rtol": 1e-9, "atol": 1e-10}


def randn(*shape):
    torch.manual_seed(sum(shape))
    return torch.randn(*shape, dtype=torch.float64)


class Encoder(nn.Module):
    def __init__(self, norm_first: bool) -> None:
        super().__init__()
        torch.manual_seed(5)
        layer = nn.TransformerEncoderLayer(
            8, 2, 16, batch_first=True, activation="gelu", norm_first=norm_first
        )
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 3)
        self.eval()

    def forward(self, x, padding=None):
        return self.head(self.encoder(x, src_key_padding_mask=padding).mean(1)).softmax(1)


class ByHand(nn.Module):
    """Attention written out over merged heads, one activation module for all, weights returned."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(6)
        self.qkv, self.act = nn.Linear(8, 24), nn.ReLU(inplace=True)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.scale = nn.Parameter(torch.rand(8))
        self.eval()

    def forward(self, x):
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, 2, 4).permute(2, 0, 3, 1, 4).flatten(1, 2)
        scores = torch.bmm(q, k.mT) / 2
        weights = scores.exp()
        mixed = torch.bmm(weights / weights.sum(-1, keepdim=True), v)
        x = x + mixed.unflatten(0, (-1, 2)).transpose(1, 2).flatten(2)
        x = self.act(x * self.scale)
        mixed, weights = self.attention(x, x.sigmoid(), x)
        mixed += x
        return self.act(mixed - 0.1).mean((1, 2)) + weights[:, 0, 0]


class Reused(nn.Module):
    """One ReLU module, one in place, functional calls, a residual sum in place, a gate."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.a, self.b, self.c = nn.Linear(7, 9), nn.Linear(9, 9), nn.Linear(9, 4)
        self.act, self.place = nn.ReLU(), nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.act(self.a(x))
        y = F.gelu(self.place(self.b(x)))
        y += self.act(self.b(F.silu(x)))
        F.relu_(y)
        return self.c(y * torch.sigmoid(x))


MODELS = {
    "mlp": (mlp, (3, 7), 2),
    "cnn": (ResidualCNN, (3, 2, 6, 5), 1),
    "attention": (EmbeddingModel, (3, 6, 8), 1),
    "encoder": (lambda: Encoder(False), (3, 5, 8), 2),
    "encoder, norm first": (lambda: Encoder(True), (3, 5, 8), [0, 1, 2]),
    "attention by hand": (ByHand, (3, 5, 8), None),
    "reused": (Reused, (3, 7), torch.tensor([0, 3, 1])),
}


@pytest.mark.parametrize("name", MODELS)
def test_completeness(name):
    build, shape, target = MODELS[name]
    for dtype, share in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
        model, x = build().to(dtype), randn(*shape).to(dtype)
        # Constant rows have no variance for a layer norm to divide by: in float32, others.
        exact = (None, 0.3) if dtype == torch.float64 else ()
        for baselines in (*exact, randn(1, *shape[1:]) ** 2, randn(*shape).flip(1) + 1):
            found = DeepLift(model).explain(x, baselines, target)
            change = (found.outputs - found.baseline_outputs).abs().max()
            assert found.convergence_delta.abs().max() <= share * change
        for background in (randn(2, *shape[1:]), randn(5, *shape[1:])):
            found = DeepLiftShap(model).explain(x, background, target)
            change = (found.outputs - found.baseline_outputs).abs().max()
            assert found.convergence_delta.abs().max() <= share * change


@pytest.mark.parametrize("name", MODELS)
def test_rows_do_not_depend_on_their_batch(name):
    build, shape, target = MODELS[name]
    model, x, background = build().double(), randn(*shape), randn(4, *shape[1:])
    targets = target if isinstance(target, list) else [target] * 3
    targets = target.tolist() if isinstance(target, torch.Tensor) else targets
    whole = DeepLift(model).attribute(x, background[:3], target)
    averaged = DeepLiftShap(model).attribute(x, background, target)
    one = DeepLift(model).attribute(x, background[:1], target)
    for i, t in enumerate(targets):
        row = x[i : i + 1]
        alone = [DeepLift(model).attribute(row, b[None], t) for b in background]
        torch.testing.assert_close(whole[i : i + 1], alone[i], **EXACT)
        torch.testing.assert_close(one[i : i + 1], alone[0], **EXACT)
        torch.testing.assert_close(averaged[i : i + 1], sum(alone) / 4, **EXACT)


def test_linear_model_has_its_closed_form():
    w, x, baseline = randn(6), randn(4, 6), randn(1, 6)
    torch.testing.assert_close(
        DeepLift(lambda x: x @ w + 3).attribute(x, baseline), w * (x - baseline), **EXACT
    )
    torch.testing.assert_close(
        DeepLift(lambda x: x @ w + 3, multiply_by_inputs=False).attribute(x, baseline),
        w.expand(4, 6),
        **EXACT,
    )


def test_quadratic_form_equals_integrated_gradients():
    a, x, baseline = randn(6, 6), randn(4, 6), randn(1, 6) + 1

    def quadratic(x):
        return ((x @ a) * x).sum(1)

    expected = IntegratedGradients(quadratic).attribute(x, baseline, n_steps=3)
    torch.testing.assert_close(DeepLift(quadratic).attribute(x, baseline), expected, **EXACT)


def test_saturated_relu_of_the_paper():
    def saturated(x):  # 1 − relu(1 − x₁ − x₂): its gradient is zero at (1, 1)
        return 1 - F.relu(1 - x.sum(1))

    found = DeepLift(saturated).attribute(torch.ones(1, 2))
    torch.testing.assert_close(found, torch.full((1, 2), 0.5))


@pytest.mark.usefixtures("independent_rows")
def test_a_shared_baseline_runs_once_and_each_of_several_once():
    logged = Logged(mlp())
    DeepLift(logged).attribute(torch.randn(32, 7), target=1)
    assert logged.rows == [1, 32]
    logged = Logged(mlp())
    DeepLiftShap(logged).attribute(torch.randn(32, 7), torch.randn(10, 7), target=1)
    assert sum(logged.rows) == 32 * 10 + 10
    logged = Logged(TwoInputs())
    arguments = {"target": 1, "additional_forward_args": (torch.rand(4, 6), 2.0)}
    DeepLift(logged).attribute((torch.randn(4, 4), torch.randn(4, 2, 3)), **arguments)
    assert logged.rows == [4, 4]  # each baseline with the argument of its example


def test_a_model_that_holds_something_for_every_row_gets_every_row():
    x, background, own = randn(3, 4), randn(2, 4), randn(3, 2)
    w = randn(6, 5)

    def forward(x):
        return (torch.cat([x, own], 1) @ w).tanh().sum(1)

    _, delta = DeepLift(forward).attribute(x, background[:1], return_convergence_delta=True)
    assert delta.abs().max() < 1e-12


def test_tuples_extra_arguments_and_every_pair():
    model, x = TwoInputs().double(), (randn(3, 4), randn(3, 2, 3))
    shift, background = randn(3, 6), (randn(5, 4), randn(5, 2, 3) + 1)
    arguments = {"target": [0, 2, 1], "additional_forward_args": (shift, 2.0)}
    found, delta = DeepLiftShap(model).attribute(
        x, background, return_convergence_delta=True, **arguments
    )
    assert delta.shape == (15,) and delta.abs().max() < 1e-12
    each = [
        DeepLift(model).attribute(x, tuple(b[k : k + 1] for b in background), **arguments)
        for k in range(5)
    ]
    for i in range(2):
        torch.testing.assert_close(found[i], sum(e[i] for e in each) / 5, **EXACT)


def test_custom_attribution_functions():
    model, x, baseline = mlp().double(), randn(3, 7), randn(1, 7)
    multipliers = DeepLift(model, multiply_by_inputs=False).attribute(x, baseline, 1)
    for function, expected in (
        (lambda m: (m[0] * 2,), multipliers * 2),
        (lambda m, x: (m[0] * x[0],), multipliers * x),
        (lambda m, x, b: (m[0] * b[0] + 0 * x[0],), multipliers * baseline),
    ):
        found = DeepLift(model).attribute(x, baseline, 1, custom_attribution_func=function)
        torch.testing.assert_close(found, expected, **EXACT)
    seen = []

    def pairs(multipliers, inputs, baselines):
        seen.extend(t[0] for t in (multipliers, inputs, baselines))
        return inputs

    background = randn(4, 7)
    DeepLiftShap(model).attribute(x, background, 1, custom_attribution_func=pairs)
    assert torch.equal(seen[1], x.repeat_interleave(4, 0))
    assert torch.equal(seen[2], background.repeat(3, 1))
    torch.testing.assert_close(
        seen[0][5:6],
        DeepLift(model, False).attribute(x[1:2], background[1:2], 1),
        **EXACT,
    )


@pytest.mark.parametrize(
    "method, rows",
    [
        (DeepLift, 3),
        (DeepLiftShap, 6),
        (lambda model: LayerDeepLift(model, model[0]), 3),
        (lambda model: LayerDeepLiftShap(model, model[0]), 6),
    ],
)
def test_custom_attribution_functions_return_a_tensor_for_each_input(method, rows):
    kinds = {
        "a tuple of 1 tensors, got Tensor": lambda m: m[0],
        "a tuple of 1 tensors, got list": lambda m: [*m],
        "a tuple of 1 tensors, got 2 of them": lambda m: (*m, *m),
        "a tuple of 1 tensors, got NoneType": lambda m: None,
        f"tensors of {rows} rows, got NoneType": lambda m: (None,),
        f"tensors of {rows} rows, got .*3": lambda m: (m[0].new_ones(30),),
    }
    baselines = torch.randn(rows // 3, 7)
    for message, function in kinds.items():
        with pytest.raises(ArgumentError, match=f"^custom_attribution_func: .*{message}"):
            method(mlp()).attribute(X, baselines, 1, custom_attribution_func=function)


def test_a_missed_sum_is_told_of_finite_rows_alone():
    def function(x):
        return x.exp().sum(1)

    x = torch.randn(3, 4)
    x[1] = torch.nan
    with pytest.warns(UserWarning) as told:
        DeepLift(function).attribute(x, torch.zeros(1, 4))
    assert not any("miss" in str(warning.message) for warning in told)
    assert any("infinite attributions in rows 1," in str(warning.message) for warning in told)

    with pytest.warns(UserWarning, match=r"miss F\(x\) - F\(x'\) by up to \d"):
        DeepLift(lambda x: Doubled.apply(x).sum(1)).attribute(x, torch.ones(1, 4))


def test_empty_batch_does_not_call_the_model():
    logged = Logged(mlp())
    found, delta = DeepLift(logged).attribute(
        torch.empty(0, 7), target=1, return_convergence_delta=True
    )
    assert found.shape == (0, 7) and delta.shape == (0,)
    found = DeepLiftShap(logged).attribute(torch.empty(0, 7), torch.randn(3, 7), 1)
    assert found.shape == (0, 7) and logged.rows == []


def test_non_contiguous_inputs_and_one_explainer_for_all_shapes():
    model = ResidualCNN().double()
    x, baseline = randn(6, 5, 3, 2).permute(2, 3, 0, 1), randn(3, 4, 6, 5)[:, ::2]
    explainer = DeepLift(model)
    found = explainer.attribute(x, baseline, 0)
    explainer.attribute(x[:1], target=0)
    again = explainer.attribute(x.contiguous(), baseline.contiguous(), 0)
    torch.testing.assert_close(found, again, **EXACT)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_result_dtype(dtype):
    x = torch.randn(3, 7).to(dtype)
    found = DeepLift(mlp().to(dtype)).attribute(x, 0.5, target=1)
    assert found.dtype == dtype and not found.requires_grad and found.isfinite().all()


def test_works_under_no_grad_and_inference_mode():
    model, x = mlp(), torch.randn(3, 7)
    expected = DeepLift(model).attribute(x, target=1)
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            found = DeepLift(model).attribute(x, target=1)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_everything_is_as_before_after_an_error(error):
    model, x = ResidualCNN(), torch.randn(3, 2, 6, 5)
    expected = DeepLift(model).attribute(x, target=1)
    output = model(x)
    with pytest.raises(error):
        DeepLift(Logged(model, fail_above=1, error=error())).attribute(x, target=1)
    assert torch.equal(model(x), output) and not x.requires_grad
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())
    assert torch.equal(DeepLift(model).attribute(x, target=1), expected)


def test_threads_share_a_model():
    model, x = ResidualCNN(), torch.randn(3, 2, 6, 5)
    deep, shap = DeepLift(model), DeepLiftShap(model)
    plain = IntegratedGradients(model)
    calls = [
        lambda: deep.attribute(x, target=1),
        lambda: shap.attribute(x, -x, target=1),
        lambda: plain.attribute(x, target=1, n_steps=5),
    ]
    expected, wrong = [call() for call in calls], []

    def work(i):
        for _ in range(8):
            if not torch.equal(calls[i % 3](), expected[i % 3]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


X = torch.randn(3, 7)
SCRIPTED = torch.jit.trace(mlp(), X, check_trace=False)  # the check imports a lot
BAD = {
    "scripted": (DeepLift, nn.Sequential(SCRIPTED), {}, "forward_func: .* seen one by one"),
    "compiled": (
        DeepLift,
        torch.compile(mlp(), backend="eager"),
        {},
        "forward_func: .* seen one by one",
    ),
    "train mode": (
        DeepLift,
        nn.Sequential(nn.Linear(7, 4), nn.BatchNorm1d(4)),
        {},
        "forward_func: expected batch norms in eval mode",
    ),
    "baseline shape": (DeepLift, mlp(), {"baselines": X[:, :3]}, "baselines: expected"),
    "no function": (DeepLift, mlp(), {"custom_attribution_func": 3}, "custom_attribution_func: "),
    "four parameters": (
        DeepLift,
        mlp(),
        {"custom_attribution_func": lambda a, b, c, d: a},
        "custom_attribution_func: expected one to three",
    ),
    "one baseline": (DeepLiftShap, mlp(), {"baselines": X[:1]}, "baselines: .* two rows or more"),
    "a number": (DeepLiftShap, mlp(), {"baselines": 0}, "baselines: .* two rows or more"),
    "none": (DeepLiftShap, mlp(), {"baselines": None}, "baselines: .* two rows or more"),
    "shapes": (DeepLiftShap, mlp(), {"baselines": X[:, :3]}, "baselines.*: expected"),
    "count": (DeepLiftShap, mlp(), {"baselines": (X, X)}, "baselines: expected one for each"),
    "function": (DeepLiftShap, mlp(), {"baselines": lambda: X[:1]}, "baselines: .* two rows"),
    "of two": (
        DeepLiftShap,
        mlp(),
        {"baselines": lambda a, b: a},
        "baselines: expected a function",
    ),
    "of a name": (GradientShap, mlp(), {"baselines": lambda *, a: a}, "baselines: expected a func"),
    "in C": (GradientShap, mlp(), {"baselines": torch.zeros_like}, "baselines: .* a lambda"),
    "partial": (DeepLiftShap, mlp(), {"baselines": partial(torch.rand, 2, 7)}, "baselines: .* lam"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    method, model, arguments, message = BAD[name]
    with pytest.raises(ArgumentError, match=f"^{message}"):
        method(model).attribute(X, target=1, **arguments)


def test_a_plan_names_the_rows():
    plan = DeepLiftShap(mlp()).plan(X, torch.randn(5, 7), 1)
    assert [(run.rows, run.count) for run in plan.runs] == [("inputs against baselines", 15)]


def test_one_baseline_for_each_row_beside_one_for_all():
    model, inputs = TwoInputs(), (torch.randn(3, 4), torch.randn(3, 2, 3))
    each = torch.rand(3, 4)
    found = DeepLift(model).attribute(inputs, (each, 0.5), 1)
    expected = DeepLift(model).attribute(inputs, (each, torch.full((3, 2, 3), 0.5)), 1)
    torch.testing.assert_close(found, expected)


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, gradient):
        return 2 * ctx.saved_tensors[0] * gradient


def misses(function, method=DeepLift):
    x, w = randn(3, 6), randn(6, 6)
    with pytest.warns(UserWarning) as said:
        found = method(lambda x: function(x @ w).flatten(1)).attribute(x, randn(2, 6)[:1].repeat(
            3, 1), target=0)  # fmt: skip
    assert len(said) == 1 and found.shape == x.shape
    return str(said[0].message)


@pytest.mark.parametrize("method", [DeepLift, DeepLiftShap])
def test_attributions_that_do_not_add_up_are_told_with_the_reason(method):
    assert "no rule for logcumsumexp: " in misses(lambda h: h.logcumsumexp(1).flip(1), method)
    assert "no rule for Doubled: " in misses(Doubled.apply, method)
    assert "rows that influence" in misses(lambda h: h * h.exp().mean(0), method)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_rounding_is_not_told(dtype):
    for build, shape, target in MODELS.values():
        model, x = build().to(dtype), randn(*shape).to(dtype)
        DeepLift(model).attribute(x, x.flip(0) + 1, target)
        DeepLiftShap(model).attribute(x, randn(3, *shape[1:]).to(dtype), target)


# What CSR matrices are multiplied with, number by number, gets no gradient from torch.
MIXED = {
    "left": lambda x, a: a @ x.tanh(),
    "sparse.mm": lambda x, a: torch.sparse.mm(a, x.tanh()),
    "right": lambda x, a: x.tanh() @ a,
    "addmm": lambda x, a: torch.addmm(x, a, x.tanh()),
    "mask": lambda x, a: x + (a * x.tanh()).to_dense(),
}


@pytest.mark.parametrize(
    ("mixed", "layout"),
    [(mixed, torch.sparse_coo) for mixed in MIXED]
    + [(mixed, torch.sparse_csr) for mixed in MIXED if mixed != "mask"],
    ids=str,
)
def test_sparse_extra_arguments_are_as_dense_ones(mixed, layout):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    net, x = net.double(), torch.randn(3, 3, dtype=torch.float64)
    dense = torch.tensor([[0.0, 1.5, 0.0], [2.0, 0.0, 0.5], [1.0, 0.0, 0.0]], dtype=torch.float64)

    def model(x, matrix):
        return net(MIXED[mixed](x, matrix))

    for method in (DeepLift, DeepLiftShap):
        baselines = torch.randn(2, 3, dtype=torch.float64) if method is DeepLiftShap else None
        asked = {"baselines": baselines, "target": 1}
        plain = method(model).attribute(x, additional_forward_args=dense, **asked)
        given = method(model).attribute(
            x, additional_forward_args=dense.to_sparse(layout=layout), **asked
        )
        torch.testing.assert_close(given, plain, rtol=0, atol=1e-14)


@pytest.mark.parametrize("size", [1e3, 4e4])
def test_softmax_of_large_logits_is_as_exact_as_the_outputs(size):
    """Logits of 1e6 have fractions of 1/16 in float32: outputs cannot be told closer than that."""
    for seed in range(4):
        torch.manual_seed(seed)
        layers = nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 4), nn.Softmax(1)
        model, x = nn.Sequential(*layers), 100 * torch.rand(2, 20)
        with torch.no_grad():
            model[2].weight.copy_(size * model[2].weight.abs().mean(0).expand(4, 20))
            output, logits = model(x), model[:3](x)
        found = DeepLift(model).attribute(x, target=1)
        multipliers = DeepLift(model[3], False).attribute(logits, target=1)
        exact = DeepLift(model[3], False).attribute(logits.double(), target=1)
        torch.testing.assert_close(multipliers.double(), exact, rtol=6e-8, atol=0)
        model.double()
        off = (model(x.double()) - output).detach().abs().max()
        exact = DeepLift(model).attribute(x.double(), target=1)
        assert (found - exact).abs().max() <= off + 1e-4
