"""Explainers compiled for one shape say what the eager ones say, in any number of threads."""

import copy
import tempfile
import threading
from pathlib import Path

import pytest
import torch
from torch import nn

from fastxai import (
    ArgumentError,
    FeatureAblation,
    InputXGradient,
    IntegratedGradients,
    KernelShap,
    Lime,
    Occlusion,
    Saliency,
    ShapleyValues,
)
from fastxai.attr import Ridge
from fastxai.deploy import PackageError, compiled, fingerprint

from ..models import EmbeddingModel, ResidualCNN, Segmenter, TwoInputs, mlp, one_number
from .test_gradient_methods import CLOSE, assert_says_the_same, randn
from .test_package import Branching, Noisy

METHODS = {
    "Saliency": (Saliency, {"abs": False}),
    "InputXGradient": (InputXGradient, {}),
    "IntegratedGradients": (IntegratedGradients, {"n_steps": 7}),
    "FeatureAblation": (FeatureAblation, {}),
    "Occlusion": (Occlusion, {"sliding_window_shapes": (3,)}),
    "KernelShap": (KernelShap, {"n_samples": 20, "seed": 3}),
    "Lime": (lambda model: Lime(model, Ridge(0.1)), {"n_samples": 20, "seed": 3}),
}


@pytest.fixture
def uncompiled(monkeypatch):
    """Everything but the compiler, which takes its time: the traced operations run one by one."""

    def run(program):
        module = program.module(check_guards=False)
        return torch.no_grad()(lambda tensors: module(*tensors))

    monkeypatch.setattr(compiled, "_library", run)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("method", METHODS)
def test_equals_the_eager_method(uncompiled, method, rows):
    kind, arguments = METHODS[method]
    explainer, x = kind(mlp()), randn(rows, [(7,)])
    target = torch.arange(rows) % 4
    explain = explainer.compile(x, target=target, **arguments)
    for other in (target, torch.full((rows,), 3), torch.full((rows,), -4)):
        assert_says_the_same(explain, explainer, x.flip(1), other, **arguments)


@pytest.mark.parametrize(
    ("build", "shape"), [(ResidualCNN, (2, 6, 5)), (EmbeddingModel, (6, 8)), (Segmenter, (2, 4))]
)
def test_other_models(uncompiled, build, shape):
    explainer, x = IntegratedGradients(build()), randn(2, [shape])
    target = (1, -2) if build is Segmenter else 2
    explain = explainer.compile(x, target=target, n_steps=5)
    found = explain(x * 2)
    expected = explainer.attribute(x * 2, target=target, n_steps=5)
    torch.testing.assert_close(found.attributions, expected, **CLOSE)


def test_the_largest_output(uncompiled):
    explainer, x = IntegratedGradients(mlp()), randn(1, [(7,)])
    explain = explainer.compile(x, target="argmax", n_steps=5)
    for row in randn(5, [(7,)]).split(1):
        target = explainer.forward_func(row).argmax(1)
        expected = explainer.attribute(row, target=target, n_steps=5)
        torch.testing.assert_close(explain(row).attributions, expected, **CLOSE)


@pytest.mark.parametrize("rows", [1, 2])
def test_what_comes_with_a_call(uncompiled, rows):
    explainer, inputs = IntegratedGradients(TwoInputs()), randn(rows, [(4,), (2, 3)])
    shift, baselines = torch.rand(rows, 6), (torch.rand(rows, 4), 0.5)
    explain = explainer.compile(
        inputs, target=[1] * rows, baselines=baselines, additional_forward_args=(shift, 0.5)
    )
    names = ["inputs[0]", "inputs[1]", "target", "baselines[0]", "additional_forward_args[0]"]
    if rows == 1:
        names.remove("baselines[0]")  # one row is for all
    assert [a.name for a in explain.manifest.arguments] == names
    other = torch.rand(rows, 6)
    given = {"target": torch.zeros(rows).long(), "additional_forward_args": other}
    if rows > 1:
        baselines = (torch.rand(rows, 4), 0.5)
        given["baselines"] = baselines[0]
    expected = explainer.attribute(
        inputs, baselines, target=0, additional_forward_args=(other, 0.5)
    )
    torch.testing.assert_close(explain(inputs, **given).attributions, expected, **CLOSE)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((randn(2, [(7,)]),), ArgumentError, "target: expected 1 tensors, got None"),
        (
            (randn(3, [(7,)]), torch.zeros(3).long()),
            ArgumentError,
            r"inputs: expected float32 of shape \(2, 7\) on cpu, as it was compiled for, "
            r"got float32 of shape \(3, 7\)",
        ),
        ((randn(0, [(7,)]), torch.zeros(0).long()), ArgumentError, r"got float32 of shape \(0, 7"),
        ((randn(2, [(7,)]), torch.zeros(1).long()), ArgumentError, r"target: .* \(2,\) on cpu"),
        ((randn(2, [(7,)]).double(), torch.zeros(2).long()), ArgumentError, "inputs: .*float64"),
        ((randn(2, [(7,)]), torch.tensor([0, 4])), IndexError, "target: 4 is out of range"),
        ((1.0, torch.zeros(2).long()), ArgumentError, "inputs: .* got a float"),
    ],
)
def test_a_call_is_checked(uncompiled, arguments, error, message):
    explain = Saliency(mlp()).compile(randn(2, [(7,)]), target=torch.tensor([0, 1]))
    with pytest.raises(error, match=message):
        explain(*arguments)


def test_what_it_says_of_itself(uncompiled):
    explainer = IntegratedGradients(mlp())
    explain = explainer.compile(randn(2, [(7,)]), target=1, n_steps=4)
    assert explain.rows == 2 and "inputs float32 [2, 7]" in repr(explain)
    said = explain.manifest
    assert said.method == "Integrated Gradients" and said.options == {"target": "1", "n_steps": "4"}
    assert said.fingerprint == fingerprint(explainer.forward_func) and said.device == "cpu"


@pytest.mark.parametrize(
    ("explainer", "arguments", "message"),
    [
        (
            ShapleyValues(mlp()),
            {},
            "explainer: expected a method that can be exported.*, got ShapleyValues",
        ),
        (Saliency(one_number), {}, "explainer: expected one over a torch.nn.Module"),
        (Saliency(mlp().train()), {}, "explainer: expected a model in eval mode"),
        (Saliency(mlp()), {}, "target: expected one that leaves one number a row"),
        (Saliency(mlp()), {"target": [1]}, "target: expected one for each of 3 rows"),
        (Saliency(mlp()), {"target": torch.tensor([0.5, 1, 1])}, "target: expected an int"),
        (Saliency(mlp()), {"target": 9}, "target: 9 is out of range"),
        (Saliency(mlp()), {"target": 1, "path": "a.pt2"}, "Saliency: .*path"),
        (
            Saliency(Branching(lambda x: bool(x[0, 0] > 0)).eval()),
            {},
            "explainer: expected a model that can be traced for these shapes",
        ),
        (Saliency(Noisy().eval()), {}, "explainer: expected a model that always says the same"),
    ],
)
def test_arguments_are_checked_before_anything_is_compiled(
    monkeypatch, explainer, arguments, message
):
    monkeypatch.setattr(compiled, "_library", None)
    with pytest.raises((ArgumentError, IndexError), match=message):
        explainer.compile(randn(3, [(7,)]), **arguments)


def test_a_model_may_branch_on_the_number_of_rows(uncompiled):
    for rows in (1, 2):
        explainer, x = Saliency(Branching(lambda x: len(x) > 1).eval()), randn(rows, [(4,)])
        found = explainer.compile(x)(x)
        torch.testing.assert_close(found.attributions, explainer.attribute(x), **CLOSE)


def test_everything_is_left_as_found(uncompiled):
    model = mlp()
    before, x = copy.deepcopy(model.state_dict()), randn(2, [(7,)]).requires_grad_()
    state = torch.random.get_rng_state()
    explain = IntegratedGradients(model).compile(x, target=1)
    found = explain(x)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert x.grad is None and x.requires_grad and not found.attributions.requires_grad
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    with torch.no_grad():
        model[0].weight.zero_()  # later changes do not reach it
    torch.testing.assert_close(explain(x), found, rtol=0, atol=0)


@pytest.fixture
def leftovers(tmp_path, monkeypatch):
    """What is left of the test's temporary files, which are its own: others compile meanwhile."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return lambda: [p for p in tmp_path.iterdir() if p.name.startswith("fastxai-")]


def test_without_a_compiler(leftovers):
    from torch._inductor import config

    before, none = leftovers(), config.patch({"cpp.cxx": ("no-such-compiler",)})
    message = r"needs a C\+\+ compiler: expected g\+\+, or what"
    with none, pytest.raises(PackageError, match=message):
        Saliency(mlp()).compile(randn(2, [(7,)]), target=1)
    assert leftovers() == before


def test_files_are_removed_after_an_error(monkeypatch, leftovers):
    def fail(program, folder, for_package):
        Path(folder, "model.cpp").write_text("")
        raise KeyboardInterrupt

    monkeypatch.setattr(compiled, "native_code", fail)
    before = leftovers()
    with pytest.raises(KeyboardInterrupt):
        Saliency(mlp()).compile(randn(2, [(7,)]), target=1)
    assert leftovers() == before


@pytest.mark.library
def test_native_code_in_many_threads(leftovers):
    before = leftovers()
    explainer = IntegratedGradients(mlp())
    explain = explainer.compile(randn(2, [(7,)]), target=torch.tensor([0, 1]), n_steps=7)
    assert leftovers() == before
    inputs = [(randn(i, [(2, 7)])[-1], torch.tensor([i % 4, 2])) for i in range(1, 9)]
    expected = [explain(*given) for given in inputs]
    for (x, target), found in zip(inputs, expected, strict=True):
        eager = explainer.attribute(x, target=target, n_steps=7)
        torch.testing.assert_close(found.attributions, eager, **CLOSE)
    wrong = []

    def work(i):
        for _ in range(100):
            found = explain(*inputs[i])
            if not all(map(torch.equal, found[:3], expected[i][:3])):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    strided = randn(7, [(2,)]).T
    assert_says_the_same(explain, explainer, strided, torch.tensor([3, -4]), n_steps=7)


class OnGpu:
    """What every CUDA test needs."""

    def __init__(self, method="IntegratedGradients", rows=2):
        kind, self.arguments = METHODS[method]
        self.explainer = kind(mlp().cuda())
        self.x, self.target = randn(rows, [(7,)]).cuda(), (torch.arange(rows) % 4).cuda()
        self.explain = self.explainer.compile(self.x, target=self.target, **self.arguments)


cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@cuda
@pytest.mark.cuda
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("method", [m for m in METHODS if m != "Lime"])
def test_a_cuda_graph_equals_the_eager_method(method, rows):
    case = OnGpu(method, rows)
    assert case.explain.manifest.format == "cuda graph"
    for x in (case.x, case.x.flip(1)):
        assert_says_the_same(case.explain, case.explainer, x, case.target, **case.arguments)


@cuda
@pytest.mark.cuda
def test_results_of_a_cuda_graph_stay_when_it_is_called_again():
    case = OnGpu()
    first = case.explain(case.x, case.target)
    kept = first.attributions.clone()
    case.explain(case.x * 3, case.target)
    assert torch.equal(first.attributions, kept)


@cuda
@pytest.mark.cuda
def test_many_threads_and_streams_on_one_cuda_graph():
    case = OnGpu()
    inputs = [randn(i, [(2, 7)])[-1].cuda() for i in range(1, 7)]
    expected = [case.explain(x, case.target).attributions for x in inputs]
    torch.cuda.synchronize()
    wrong = []

    def work(i):
        with torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(50):
                if not torch.equal(case.explain(inputs[i], case.target).attributions, expected[i]):
                    wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@cuda
@pytest.mark.cuda
def test_a_model_that_waits_for_the_gpu_is_refused():
    class Waits(nn.Module):
        def forward(self, x):
            return torch.linalg.eigvalsh(x @ x.mT).sum(-1)

    with pytest.raises(ArgumentError, match="that a CUDA graph can hold"):
        FeatureAblation(Waits().eval()).compile(torch.rand(2, 3, 3).cuda())
