"""What a row costs the model: counted alike however a model is written and whatever its weights."""

import copy
import functools
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from fastxai.attr import FeatureAblation, IntegratedGradients, KernelShap, Occlusion
from fastxai.core.engine import blocks
from fastxai.core.footprint import Footprint, Multiplications, RowCost, is_watched

from ..models import EmbeddingModel, Logged, ResidualCNN, TextModel


def cost(function, *rows) -> RowCost:
    with torch.no_grad(), Footprint(rows) as footprint:
        output = function(*rows)
    return footprint.cost(output, len(rows[0]))


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 20), nn.ReLU(), nn.Linear(20, 3)).eval()


WRITTEN = 4 * (20 + 20 + 3)  # by the net for a row


def tied(module: nn.Sequential) -> nn.Module:
    module[2].weight = nn.Parameter(module[0].weight.T[:3].repeat(1, 3)[:, :20].contiguous())
    module.register_parameter("again", module[2].weight)
    return module


def as_buffers(module: nn.Module) -> nn.Module:
    for part in module.modules():
        for name, weight in list(part._parameters.items()):
            del part._parameters[name]
            part.register_buffer(name, weight.data)
    return module


def from_inference_mode(module: nn.Module) -> nn.Module:
    with torch.inference_mode():
        return copy.deepcopy(module).requires_grad_(False)


def quantised(module: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(module, {nn.Linear})


def normed(module: nn.Module) -> nn.Module:
    """Its weights are made anew in every call."""
    for i in (0, 2):
        nn.utils.parametrizations.weight_norm(module[i])
    return module


def scripted(module: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(module)


class Holder:
    def __init__(self, module):
        self.module = module

    def predict(self, x):
        return self.module(x)


FORMS = {
    "as it is": lambda m: m,
    "frozen": lambda m: m.requires_grad_(False),
    "buffers": as_buffers,
    "tied": tied,
    "from inference mode": from_inference_mode,
    "quantised": quantised,
    "weight norm": normed,
    "scripted": scripted,
    "a function": lambda m: lambda x: m(x),
    "a partial": lambda m: functools.partial(lambda model, x: model(x), m),
    "a bound method": lambda m: Holder(m).predict,
}


@pytest.mark.parametrize("rows", [1, 2, 7, 20])  # 7 and 20 are sizes of weights
@pytest.mark.parametrize("form", FORMS)
def test_the_form_of_a_model_does_not_count(form, rows):
    assert cost(FORMS[form](net()), torch.randn(rows, 7)) == RowCost(WRITTEN, False)


def test_views_and_writes_in_place_take_no_memory():
    def function(x):
        y = x.view(-1, 7).T.T.unsqueeze(1).squeeze(1).mul_(2)
        return y.exp().exp_()

    assert cost(function, torch.randn(5, 7)) == RowCost(4 * 7, False)
    made = torch.empty(5, 7)
    assert cost(lambda x: torch.mul(x, 2, out=made), torch.randn(5, 7)) == RowCost(4 * 7, False)


def test_what_does_not_come_from_rows_does_not_count():
    def function(x):
        table = torch.randn(1000, 7).softmax(1)
        return x @ table[:3].T

    assert cost(function, torch.randn(5, 7)) == RowCost(4 * 3, False)


def test_memory_that_was_given_back_is_not_mistaken_for_rows():
    def function(x):
        for _ in range(20):
            x.exp()  # its memory is free for what comes next
            torch.zeros(len(x), 7)
        return x.sum(1)

    assert cost(function, torch.randn(5, 7)).bytes_written == 20 * 28 + 4


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.from_numpy(x.double().numpy().sum(1)),
        lambda x: torch.tensor(x.sum(1).tolist()),
        lambda x: torch.from_numpy(np.asarray(x).copy())[:, 0],
        lambda x: net()(torch.tensor(np.asarray(x).copy()))[:, 0],
    ],
)
def test_what_leaves_torch_is_opaque(function):
    assert cost(function, torch.randn(5, 7)).is_opaque


def test_it_is_no_tracer():
    assert not is_watched()
    with Footprint(()):
        assert not is_watched()
        with torch.utils.flop_counter.FlopCounterMode(display=False):
            assert is_watched()
    assert not is_watched()


def test_it_leaves_after_an_error():
    with pytest.raises(KeyError), Footprint((torch.zeros(2),)):
        raise KeyError
    assert torch._C._len_torch_dispatch_stack() == 0


def test_sparse_results_are_passed_by():
    eye = torch.eye(7).to_sparse()
    assert not cost(lambda x: torch.sparse.mm(eye, x.T).T, torch.randn(5, 7)).is_opaque


def calls(model, ask) -> list[list[int]]:
    return [run.blocks for run in ask(model).runs]


MANY = {
    "KernelShap": (net, lambda f: KernelShap(f).plan(rows(9, 7), n_samples=126, seed=0)),
    "FeatureAblation": (net, lambda f: FeatureAblation(f).plan(rows(900, 7))),
    "IntegratedGradients": (net, lambda f: IntegratedGradients(f).plan(rows(99, 7), target=1)),
    "images": (ResidualCNN, lambda f: Occlusion(f).plan(rows(2, 2, 12, 12), (2, 3, 3))),
    "images, a path": (
        ResidualCNN,
        lambda f: IntegratedGradients(f).plan(rows(3, 2, 12, 12), target=1, n_steps=60),
    ),
    "attention": (
        EmbeddingModel,
        lambda f: IntegratedGradients(f).plan(rows(9, 6, 8), target=1, n_steps=60),
    ),
    "words": (
        TextModel,
        lambda f: KernelShap(f).plan(torch.ones(5, 9, dtype=torch.long), n_samples=90, seed=0),
    ),
}


def rows(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", MANY)
def test_frozen_weights_are_cut_alike(name, monkeypatch):
    # Small models in small blocks, so that many are needed and their size is worth learning.
    for k in (blocks._K, blocks._K_FORWARD):
        monkeypatch.setitem(k, "cpu", 4e5)
    make, ask = MANY[name]
    expected = calls(make(), ask)
    assert max(map(len, expected)) > 1
    assert calls(make().requires_grad_(False), ask) == expected
    of_function = calls(lambda *x: make()(*x), ask)
    frozen = make().requires_grad_(False)
    assert calls(lambda *x: frozen(*x), ask) == of_function


@pytest.mark.usefixtures("independent_rows")
def test_what_leaves_torch_gets_large_blocks():
    logged = Logged(lambda x: torch.from_numpy(x.double().numpy().sum(1)))
    background = rows(50, 20)
    KernelShap(logged).attribute(rows(3, 20), background=background, n_samples=300, seed=0)
    assert logged.rows[0] == 3 and sum(logged.rows) == 3 + 3 * 50 * 299
    assert max(logged.rows) > 10_000 and len(logged.rows) <= 5
    logged.rows.clear()
    KernelShap(logged).attribute(
        rows(3, 20), background=background, n_samples=300, perturbations_per_eval=1000, seed=0
    )
    assert 500 < max(logged.rows) <= 1000  # the limit is the user's


@pytest.mark.parametrize("batch", [7, 3000])
def test_a_score_of_the_batch_gets_the_whole_batch(batch, monkeypatch):
    x, y = rows(batch, 5), rows(batch) > 0
    sizes = []

    def score(z):
        sizes.append(len(z))
        return ((z.sum(1) > 0) == y).double().mean()

    expected = torch.stack([score(x) - score(x * (torch.arange(5) != i)) for i in range(5)])
    sizes.clear()
    found = FeatureAblation(score).attribute(x)
    torch.testing.assert_close(found, expected.expand(1, 5).to(found.dtype))
    assert set(sizes) == {batch} and len(sizes) <= 7
    # Where the inputs do not seem to fit, whatever fails for a part of them is given all.
    monkeypatch.setattr(blocks, "_MOST_WHOLE", 1)
    monkeypatch.setitem(blocks._K_FORWARD, "cpu", 4e3)
    torch.testing.assert_close(FeatureAblation(score).attribute(x), found)


def test_the_users_own_error_is_told():
    def score(z):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        FeatureAblation(score).attribute(rows(3000, 5))


@pytest.mark.usefixtures("independent_rows")
def test_inputs_are_cut_when_memory_runs_out():
    error = torch.OutOfMemoryError("out of memory")
    logged = Logged(net(), fail_above=100, error=error)
    found = FeatureAblation(logged).attribute(rows(900, 7), target=0)
    torch.testing.assert_close(found, FeatureAblation(net()).attribute(rows(900, 7), target=0))


class LastState(nn.Module):
    def __init__(self, build):
        super().__init__()
        self.recurrent = build(9, 64, batch_first=True)

    def forward(self, x):
        return self.recurrent(x)[0][:, -1]


@pytest.mark.parametrize("build", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("rows", [1, 4])
def test_a_fused_recurrent_layer_counts_its_gates(build, rows):
    """torch's LSTM on a CPU is one operation, and its GRU and RNN many; all write their gates."""
    model = LastState(build).eval().requires_grad_(False)
    gates = {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1}[build] * 64 * 25 * 4
    written = cost(model, torch.randn(rows, 25, 9)).bytes_written
    assert gates <= written <= 6 * gates


def test_a_fused_layer_of_a_transformer_counts_what_is_between():
    layer = nn.TransformerEncoderLayer(16, 2, 64, batch_first=True).eval().requires_grad_(False)

    def opened(x):
        x = layer.norm1(x + layer._sa_block(x, None, None))
        return layer.norm2(x + layer._ff_block(x))

    x = torch.randn(3, 5, 16)
    fused, apart = cost(layer, x).bytes_written, cost(opened, x).bytes_written
    assert (3 * 16 + 16 + 64) * 5 * 4 <= fused <= apart


def test_operations_with_one_weight_count_their_results_alone():
    weight, bias = torch.randn(6, 7), torch.randn(6)
    assert cost(lambda x: nn.functional.linear(x, weight, bias), torch.randn(5, 7)) == RowCost(
        4 * 6, False
    )


COUNTED = {
    "products": lambda x: (x @ x.T).softmax(1) @ x,
    "a layer": torch.nn.Linear(6, 5),
    "convolutions": lambda x: torch.nn.functional.conv1d(x[None], torch.ones(3, len(x), 2)),
    "attention": lambda x: torch.nn.functional.scaled_dot_product_attention(
        x[None], x[None], x[None]
    ),
    "none": lambda x: x.exp().cumsum(0),
}


@pytest.mark.parametrize("name", COUNTED)
@pytest.mark.parametrize("grad_mode", [torch.no_grad, torch.inference_mode])
def test_multiplications_are_those_that_torch_counts(name, grad_mode):
    x = torch.randn(8, 6)
    with grad_mode(), torch.utils.flop_counter.FlopCounterMode(display=False) as theirs:
        COUNTED[name](x)
    with grad_mode(), Multiplications() as ours:
        COUNTED[name](x)
    assert ours.count == theirs.get_total_flops() // 2
    assert (ours.count > 0) == (name != "none")
