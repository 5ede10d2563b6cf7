"""Packages: what they say of themselves, what they refuse, and what export leaves alone."""

import copy
import zipfile

import pytest
import torch
from torch import nn

import fastxai
from fastxai import ArgumentError, GradientShap, IntegratedGradients, KernelShap, Saliency
from fastxai.deploy import PackageError, fingerprint, manifest
from fastxai.ops import native, reference

from ..models import Exact, TwoInputs, mlp, one_number
from .test_gradient_methods import traced

X = torch.randn(3, 7, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("package") / "package.pt2"
    explainer = IntegratedGradients(mlp())
    sha256 = fastxai.export(
        explainer, X, path, format="torch", target=torch.tensor([0, 1, 2]), n_steps=4
    )
    return explainer, path, sha256


def test_what_a_package_says_of_itself(written):
    explainer, path, sha256 = written
    package = fastxai.load(path, sha256=sha256)
    said = package.manifest
    assert said.method == "Integrated Gradients" and said.format == "torch"
    assert said.options["n_steps"] == "4" and said.device == "cpu"
    assert [(a.name, a.shape, a.dtype) for a in said.arguments] == [
        ("inputs", (7,), "float32"),
        ("target", (), "int64"),
    ]
    assert [(a.name, a.shape, a.dtype) for a in said.results] == [
        ("outputs", (4,), "float32"),
        ("attributions", (7,), "float32"),
        ("convergence_delta", (), "float32"),
    ]
    assert said.versions["torch"] == torch.__version__
    assert said.versions["fastxai"] == fastxai.__version__
    assert said.fingerprint == fingerprint(explainer.forward_func)
    assert "inputs float32 [B, 7]" in repr(package)
    assert manifest.Manifest.from_json(said.to_json()) == said


def test_the_fingerprint_is_of_every_bit():
    model = mlp()
    before = fingerprint(model)
    assert fingerprint(copy.deepcopy(model)) == before
    with torch.no_grad():
        model[0].bias[3] = torch.nextafter(model[0].bias[3], torch.tensor(9.0))
    assert fingerprint(model) != before
    assert fingerprint(mlp().double()) != before


def test_another_file_is_refused_before_it_is_opened(written, tmp_path):
    _, path, sha256 = written
    with pytest.raises(PackageError, match="SHA-256"):
        fastxai.load(path, sha256="0" * 64)
    other = tmp_path / "other.pt2"
    other.write_bytes(path.read_bytes() + b"0")
    with pytest.raises(PackageError, match="SHA-256"):
        fastxai.load(other, sha256=sha256)
    with pytest.raises(PackageError, match="no such file"):
        fastxai.load(tmp_path / "missing.pt2")
    other.write_bytes(b"not a package")
    with pytest.raises(PackageError, match=r"expected a package that fastxai\.export"):
        fastxai.load(other)
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("package/extra/fastxai.json", "{}")
    with pytest.raises(PackageError, match=r"expected a package that fastxai\.export"):
        fastxai.load(other)


def rewritten(path, to, **changes):
    """The package with another manifest, and nothing in it that could run."""
    said = manifest.Manifest.of_file(path)
    vars(said).update(changes)
    with zipfile.ZipFile(to, "w") as archive:
        archive.writestr(f"package/extra/{manifest.ENTRY}", said.to_json())
    return to


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"versions": {"torch": "99.0"}}, r"needs that version or a later one; here is torch"),
        ({"format": "aoti", "versions": {"torch": "2.0.1"}}, "made with torch 2.0.1"),
        ({"device": "cuda, compute capability 1.0"}, "made for cuda, compute capability 1.0"),
        (
            {"format": "aoti", "machine": {**manifest.machine_here(), "system": "Plan 9"}},
            "compiled for Plan 9",
        ),
        (
            {"format": "aoti", "machine": {**manifest.machine_here(), "processor": "vax"}},
            "compiled for vax",
        ),
        (
            {"format": "aoti", "machine": {**manifest.machine_here(), "extensions": "avx9 avx10"}},
            "instructions that this one has not: avx10 avx9",
        ),
    ],
)
def test_what_would_not_run_here_is_refused(written, tmp_path, changes, message):
    path = rewritten(written[1], tmp_path / "other.pt2", **changes)
    with pytest.raises(PackageError, match=message):
        fastxai.load(path)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((X, None), ArgumentError, "target: expected 1 tensors, got None"),
        ((X, 1), ArgumentError, "target: expected int64 .*, got a int"),
        ((X, torch.zeros(2, dtype=torch.int64)), ArgumentError, r"target: expected int64 of shape"),
        ((X, torch.zeros(3, dtype=torch.int32)), ArgumentError, "target: expected int64"),
        ((X, torch.tensor([0, 4, 1])), IndexError, "target: 4 is out of range"),
        ((X, torch.tensor([0, -5, 1])), IndexError, "target: -5 is out of range"),
        ((X.double(), torch.zeros(3).long()), ArgumentError, "inputs: expected float32"),
        ((X[:, :6], torch.zeros(3).long()), ArgumentError, r"inputs: .* got float32 of shape"),
        ((X[0], torch.zeros(3).long()), ArgumentError, "inputs: expected float32 of shape"),
        (((X, X), torch.zeros(3).long()), ArgumentError, "inputs: expected 1 tensors, got 2"),
        ((X, torch.zeros(3).long(), X), ArgumentError, "baselines: expected none"),
    ],
)
def test_a_call_is_checked(written, arguments, error, message):
    package = fastxai.load(written[1])
    with pytest.raises(error, match=message):
        package(*arguments)


def test_no_rows(written):
    found = fastxai.load(written[1])(X[:0], torch.zeros(0, dtype=torch.int64))
    assert found.attributions.shape == (0, 7) and found.outputs.shape == (0, 4)
    assert found.convergence_delta.shape == (0,)


class Branching(nn.Module):
    def __init__(self, branch):
        super().__init__()
        self.branch = branch

    def forward(self, x):
        return x.sum(1) if self.branch(x) else x.prod(1)


class Noisy(nn.Module):
    def forward(self, x):
        return (x * torch.rand_like(x)).sum(1)


@pytest.mark.parametrize(
    ("explainer", "arguments", "message"),
    [
        (IntegratedGradients(one_number), {}, "explainer: expected one over a torch.nn.Module"),
        (mlp(), {}, "explainer: expected an attribution method .*, got Sequential"),
        (
            fastxai.ShapleyValues(mlp()),
            {},
            "explainer: expected a method that can be exported.*, got ShapleyValues",
        ),
        (Saliency(mlp().train()), {}, "explainer: expected a model in eval mode"),
        (Saliency(nn.Sequential(nn.Dropout()).eval()), {"target": 9}, "target: 9 is out of range"),
        (Saliency(mlp()), {}, "target: expected one that leaves one number a row"),
        (Saliency(mlp()), {"target": "top"}, "target: expected an int, a tuple, a tensor or"),
        (Saliency(mlp()), {"target": 1, "n_steps": 3}, "Saliency: .*n_steps"),
        (IntegratedGradients(mlp()), {"target": 1, "n_steps": 0}, "n_steps: expected"),
        (
            IntegratedGradients(mlp()),
            {"target": 1, "internal_batch_size": 8},
            "internal_batch_size: expected None",
        ),
        (
            Saliency(Branching(lambda x: bool(x[0, 0] > 0)).eval()),
            {},
            "explainer: expected a model that can be traced",
        ),
        (
            Saliency(Branching(lambda x: len(x) > 1).eval()),
            {},
            "explainer: expected a model that can be traced for any number of rows",
        ),
        (
            Saliency(Noisy().eval()),
            {},
            "explainer: expected a model that always says the same of a row",
        ),
        (Saliency(mlp()), {"target": 1, "format": "onnx"}, "format: expected one of 'aoti'"),
    ],
)
def test_export_is_checked(tmp_path, explainer, arguments, message):
    path = tmp_path / "package.pt2"
    with pytest.raises((ArgumentError, IndexError), match=message):
        fastxai.export(explainer, X, path, **{"format": "torch", **arguments})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (X.long(), "inputs: expected floating-point"),
        ([X], "inputs: expected a torch.Tensor"),
        (X[:0], "example_inputs: expected at least one row"),
    ],
)
def test_example_inputs_are_checked(tmp_path, inputs, message):
    with pytest.raises(ArgumentError, match=message):
        fastxai.export(Saliency(mlp()), inputs, tmp_path / "a.pt2", format="torch", target=1)


@pytest.mark.parametrize("name", ["package.onnx", "missing/package.pt2", "folder.pt2"])
def test_the_path_is_checked_first(tmp_path, name):
    (tmp_path / "folder.pt2").mkdir()
    with pytest.raises(ArgumentError, match="path: expected"):
        fastxai.export(KernelShap(mlp()), None, tmp_path / name)


def test_the_model_and_generators_are_left_alone(tmp_path):
    model = TwoInputs().requires_grad_(True)
    model.head.requires_grad_(False)
    before = {name: (p, p.clone(), p.requires_grad) for name, p in model.named_parameters()}
    inputs = (torch.randn(2, 4, requires_grad=True), torch.randn(2, 2, 3))
    state = torch.random.get_rng_state()
    fastxai.export(IntegratedGradients(model), inputs, tmp_path / "a.pt2", format="torch", target=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, parameter in model.named_parameters():
        same, value, requires_grad = before[name]
        assert parameter is same and torch.equal(parameter, value) and parameter.grad is None
        assert parameter.requires_grad == requires_grad
    assert inputs[0].grad is None and inputs[0].requires_grad and not model.training


def test_later_changes_of_the_model_do_not_reach_the_package(tmp_path):
    model = mlp()
    fastxai.export(Saliency(model), X, tmp_path / "a.pt2", format="torch", target=1)
    package = fastxai.load(tmp_path / "a.pt2")
    before = package(X)
    with torch.no_grad():
        model[0].weight.zero_()
    torch.testing.assert_close(package(X), before, rtol=0, atol=0)


def test_results_have_no_graph(written):
    found = fastxai.load(written[1])(X.clone().requires_grad_(), torch.tensor([0, 1, 2]))
    assert not found.attributions.requires_grad and not found.outputs.requires_grad


@pytest.mark.parametrize(
    ("explainer", "arguments", "depends_on"),
    [
        (IntegratedGradients(Exact(4)), {"n_steps": 4}, "nothing"),
        (KernelShap(Exact(4)), {"n_samples": 16, "seed": 3}, "rounding"),
        pytest.param(
            GradientShap(Exact(4)),
            {"baselines": torch.randn(3, 4).double()},
            "place",
            marks=pytest.mark.skipif(
                native.backend() is reference, reason="noise is drawn by the compiled library"
            ),
        ),
    ],
)
def test_rows_in_any_company(explainer, arguments, depends_on):
    """A row's attributions are as alone, or as in that place; see attr/test_determinism.py."""
    x, target = torch.randn(6, 4).double(), torch.arange(6) % 3
    package = traced(explainer, x, target=target, **arguments)
    seed = {"seed": 3} if depends_on == "place" else {}

    def ask(rows):
        return package(x[rows], target[rows], **seed).attributions

    together, order = ask(slice(None)), torch.tensor([4, 0, 5, 1, 3, 2])
    assert torch.equal(ask(slice(None)), together)
    if depends_on == "place":
        assert torch.equal(ask(slice(0, 3)), together[:3])
        assert not torch.isclose(ask(order), together[order]).all()
        return
    off = 1e-13 * float(together.abs().max()) if depends_on == "rounding" else 0
    alone = torch.cat([ask(slice(i, i + 1)) for i in range(6)])
    for found, expected in ((alone, together), (ask(order), together[order])):
        torch.testing.assert_close(found, expected, rtol=0, atol=off)
