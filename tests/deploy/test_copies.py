"""Models whose rows influence one another: each copy of the batch is a call by itself."""

import captum.attr
import pytest
import torch
from torch import nn

import fastxai
from fastxai import (
    ArgumentError,
    DeepLiftShap,
    FeatureAblation,
    GradientShap,
    IntegratedGradients,
    KernelShap,
    Lime,
    NoiseTunnel,
    Occlusion,
    Saliency,
)
from fastxai.attr import Ridge
from fastxai.core.program import copies
from fastxai.deploy import compiled
from fastxai.ops import native, reference

from .test_gradient_methods import exported, randn, traced


class LessMean(nn.Module):
    def forward(self, x):
        return (x - x.mean(0)).square().cumsum(1)


class OverLargest(nn.Module):
    def forward(self, x):
        return (x / (x.abs().max(0).values + 0.1)).sin()


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.attend = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        return self.attend(x[None], x[None], x[None], need_weights=False)[0][0]


class Running(nn.Module):
    def forward(self, x):
        return x.cumsum(0).sin()


class InPairs(nn.Module):  # takes even numbers of rows
    def forward(self, x):
        product = x[::2] * x[1::2]
        return torch.stack([product, product.square()], 1).flatten(0, 1)


class Related(nn.Module):  # by a matrix, [B, B]
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x, of):
        return self.linear(torch.tanh(of @ x))


class OfCopies(nn.Module):  # torch.vmap takes no such writing
    def forward(self, x):
        sums = torch.zeros(x.shape[0], 4).index_add_(0, torch.arange(x.shape[0]), x)
        return (sums + x.flip(0)).tanh()


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4, track_running_stats=False)

    def forward(self, x):
        return self.norm(x).sin()


METHODS = {
    "IntegratedGradients": (IntegratedGradients, {"n_steps": 5}),
    "GradientShap": (
        GradientShap,
        {"baselines": torch.eye(4)[:3], "n_samples": 3, "stdevs": 0.1, "seed": 1},
    ),
    "DeepLiftShap": (DeepLiftShap, {"baselines": torch.eye(4)[:3]}),
    "FeatureAblation": (FeatureAblation, {}),
    "Occlusion": (Occlusion, {"sliding_window_shapes": (2,)}),
    "KernelShap": (KernelShap, {"n_samples": 12, "seed": 1}),
    "Lime": (lambda model: Lime(model, Ridge(0.1)), {"n_samples": 12, "seed": 1}),
    "NoiseTunnel": (
        lambda model: NoiseTunnel(IntegratedGradients(model)),
        {"nt_samples": 3, "stdevs": 0.1, "seed": 1, "n_steps": 4},
    ),
}
ANY_NUMBER = [LessMean, OverLargest, Attending, Running, OfCopies]
FIXED = [*ANY_NUMBER, InPairs, Related]


@pytest.fixture(autouse=True)
def drawn_by_the_library(request):
    """Programs of what draws in every call need it."""
    draws = any(name in request.node.name for name in ("NoiseTunnel", "GradientShap"))
    if draws and native.backend() is reference:
        pytest.skip("the library draws")


@pytest.fixture
def uncompiled(monkeypatch):
    def run(program):
        module = program.module(check_guards=False)
        return torch.no_grad()(lambda tensors: module(*tensors))

    monkeypatch.setattr(compiled, "_library", run)


def expected(explainer, x, arguments):
    more = {"nt_samples_batch_size": 1} if isinstance(explainer, NoiseTunnel) else {}
    return explainer.attribute(x, target=1, **arguments, **more)


def pairs():
    """Each method with a model, and each model with a method of either kind."""
    of_methods = [(method, LessMean) for method in METHODS]
    of_models = [(m, kind) for m in ("IntegratedGradients", "KernelShap") for kind in FIXED]
    return sorted({*of_methods, *of_models}, key=lambda pair: (pair[0], pair[1].__name__))


@pytest.mark.parametrize(("method", "model"), pairs())
def test_compiled(uncompiled, method, model):
    torch.manual_seed(0)
    kind, arguments = METHODS[method]
    x, explainer = randn(4, [(4,)]), kind(model().eval())
    if model is Related:
        arguments = {**arguments, "additional_forward_args": randn(4, [(4,)])}
    explain = explainer.compile(torch.zeros_like(x), target=1, **arguments)
    given = (arguments[k] for k in ("additional_forward_args",) if k in arguments)
    found = explain(x, None, None, *given)
    torch.testing.assert_close(
        found.attributions, expected(explainer, x, arguments), rtol=1e-4, atol=1e-5
    )
    assert explain.manifest.rows_interact or model is InPairs  # whole pairs are in each copy


@pytest.mark.thin("example")
@pytest.mark.parametrize("example", [1, 3])
@pytest.mark.parametrize(
    ("method", "model"),
    [("IntegratedGradients", m) for m in ANY_NUMBER]
    + [("KernelShap", LessMean), ("NoiseTunnel", LessMean), ("DeepLiftShap", LessMean)],
)
def test_any_number_of_rows(tmp_path, method, model, example):
    torch.manual_seed(0)
    kind, arguments = METHODS[method]
    explainer = kind(model().eval())
    if example == 1:
        explain = exported(tmp_path, explainer, torch.zeros(1, 4), target=1, **arguments)
    else:
        explain = traced(explainer, torch.zeros(example, 4), target=1, **arguments)
    assert explain.manifest.rows_interact
    for rows in (1, 2, 5):
        x = randn(rows, [(4,)])
        wanted = expected(explainer, x, arguments)
        torch.testing.assert_close(explain(x).attributions, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("affine_prefix", [True, False])
def test_a_prefix(uncompiled, affine_prefix):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3000), Running()).eval()
    explainer = FeatureAblation(model, affine_prefix=affine_prefix)
    x = randn(4, [(4,)])
    found = explainer.compile(x, target=1)(x).attributions
    oracle = captum.attr.FeatureAblation(model).attribute(x, target=1, perturbations_per_eval=1)
    torch.testing.assert_close(found, oracle, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("offset", [0, 1000])
@pytest.mark.parametrize("feature", range(4))
def test_one_feature_and_large_outputs(uncompiled, feature, offset):
    """What rows do to one another through a single feature, beneath outputs that hardly change."""

    class OfOneFeature(nn.Module):
        def forward(self, x):
            return (x - 0.3 * x.max(0).values).tanh() + offset

    x = randn(5, [(4,)])
    for method in ("FeatureAblation", "IntegratedGradients", "KernelShap"):
        kind, arguments = METHODS[method]
        explain = kind(OfOneFeature().eval()).compile(x, target=feature, **arguments)
        assert explain.manifest.rows_interact


def test_as_captum_one_copy_at_a_time(uncompiled):
    x, model = randn(4, [(4,)]), LessMean()
    found = IntegratedGradients(model.eval()).compile(x, target=1, n_steps=5)(x).attributions
    oracle = captum.attr.IntegratedGradients(model)
    wanted = oracle.attribute(x, target=1, n_steps=5, internal_batch_size=4)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_ids_that_are_all_alike_tell_nothing(uncompiled):
    class OfIds(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(9, 3)

        def forward(self, ids):
            values = self.embed(ids).sum(1)
            return values - values.mean(0)

    torch.manual_seed(0)
    explainer = FeatureAblation(OfIds().eval())
    ids = torch.arange(12).reshape(3, 4) % 9
    found = explainer.compile(torch.zeros_like(ids), target=1)(ids).attributions
    torch.testing.assert_close(found, explainer.attribute(ids, target=1))


@pytest.mark.parametrize("method", ["KernelShap", "NoiseTunnel"])
def test_rows_by_themselves_stay_in_one_call(uncompiled, monkeypatch, method):
    monkeypatch.setattr(copies, "mapped", None)
    monkeypatch.setattr(copies, "one_by_one", None)
    x, model = randn(3, [(4,)]), nn.Sequential(nn.Linear(4, 4), nn.RReLU()).eval()
    kind, arguments = METHODS[method]
    assert not kind(model).compile(x, target=1, **arguments).manifest.rows_interact


@pytest.mark.parametrize("method", ["IntegratedGradients", "GradientShap", "NoiseTunnel"])
def test_gradients_with_statistics_of_the_batch(uncompiled, method):
    kind, arguments = METHODS[method]
    with pytest.raises(ArgumentError, match=r"forward_func: .*track_running_stats"):
        kind(Normed().eval()).compile(randn(4, [(4,)]), target=1, **arguments)
    explain = Saliency(Normed().eval()).compile(randn(4, [(4,)]), target=1)
    assert explain.manifest.rows_interact


def test_outputs_with_statistics_of_the_batch(uncompiled):
    explainer, x = KernelShap(Normed().eval()), randn(4, [(4,)])
    found = explainer.compile(x, target=1, n_samples=12, seed=1)(x).attributions
    wanted = explainer.attribute(x, target=1, n_samples=12, seed=1)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_too_many_calls_to_write_out(uncompiled):
    with pytest.raises(ArgumentError, match=r"forward_func: .*torch.vmap.*256.*samples"):
        IntegratedGradients(OfCopies().eval()).compile(randn(3, [(4,)]), target=1, n_steps=300)


def test_a_matrix_for_one_number_of_rows(tmp_path):
    x, of = randn(3, [(4,)]), randn(3, [(3,)])
    with pytest.raises(
        ArgumentError, match=r"forward_func: expected .* any number of rows.*compile"
    ):
        fastxai.export(
            FeatureAblation(Related().eval()),
            x,
            tmp_path / "a.pt2",
            format="torch",
            target=1,
            additional_forward_args=of,
        )


class Counting(nn.Module):  # its first call and later ones differ, by a buffer and by attributes
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.number, self.cache = 0, None

    def forward(self, x):
        self.calls += 1
        self.number += 1
        self.cache = x.mean(1, keepdim=True) if self.cache is None else self.cache + 1
        return x * self.calls * self.number + self.cache[: len(x)]


def test_what_a_model_keeps(uncompiled):
    explainer, x = FeatureAblation(Counting().eval()), randn(3, [(4,)])
    explain = explainer.compile(torch.ones_like(x), target=1)
    model = Counting().eval()
    for _ in range(2):
        torch.testing.assert_close(explain(x).outputs, Counting()(x))
    wanted = FeatureAblation(lambda rows: rows + rows.mean(1, keepdim=True)).attribute(x, target=1)
    torch.testing.assert_close(explain(x).attributions, wanted)
    assert model.number == 0 and explainer.forward_func.number == 0


def test_infinite_inputs_with_a_prefix(uncompiled):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 3000), nn.ReLU(), nn.Linear(3000, 2)).eval()
    x = randn(3, [(40,)])
    x[1, 3] = torch.inf
    explain = FeatureAblation(model).compile(torch.zeros_like(x), target=1)
    assert explain.manifest.affine_prefix
    with pytest.raises(ArgumentError, match=r"inputs: expected finite .*affine_prefix.* rows \[?1"):
        explain(x)
    explain = FeatureAblation(model, affine_prefix=False).compile(torch.zeros_like(x), target=1)
    assert not explain.manifest.affine_prefix


class Decided(nn.Module):
    """Outputs of a dtype that has no differences, or others than floats have."""

    def __init__(self, dtype):
        super().__init__()
        self.dtype, self.layer = dtype, nn.Linear(4, 3)

    def forward(self, x):
        return (self.layer(x) > 0).to(self.dtype)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64])
def test_outputs_that_are_no_floats(uncompiled, dtype):
    explainer, x = FeatureAblation(Decided(dtype).eval()), randn(5, [(4,)])
    explain = explainer.compile(x, target=1)
    assert not explain.manifest.rows_interact
    assert torch.equal(explain(x).attributions, explainer.attribute(x, target=1))
