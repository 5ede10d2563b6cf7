"""Rows that stay affine: the same gradients as of rows that are made, or not used at all."""

import contextlib
import functools
import gc
import threading
import weakref

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint

from fastxai.attr import GradientShap, IntegratedGradients, KernelShap
from fastxai.core import engine
from fastxai.core.engine import shortcut as prefix
from fastxai.core.engine.coalition_rows import AblationRows, CoalitionRows, MaskPieces, OrderRows
from fastxai.core.engine.model import Model
from fastxai.core.engine.rows import PathRows
from fastxai.core.engine.shortcut import most_spared
from fastxai.core.engine.windows import Windows
from fastxai.core.estimate.sampling import permutations, prefixes
from fastxai.core.modules import modules_of
from fastxai.core.prefix.affine_rows import AffineRows, PrefixTrace
from fastxai.core.prefix.deltas import Dense, Memo, NotAffine
from fastxai.core.prefix.mixing import CoefficientMixing

from ...models import EmbeddingModel, Logged, ResidualCNN, TwoInputs, mlp, one_number


@pytest.fixture(autouse=True)
def small_models_are_worth_it(monkeypatch):
    monkeypatch.setattr(prefix, "WORTH", 1)


EXACT = {"rtol": 1e-10, "atol": 1e-12}


def randn(*shape):
    torch.manual_seed(sum(shape))
    return torch.randn(*shape, dtype=torch.float64)


def both(function, *inputs, extra=(), target=None, steps=9, limit=None):
    """Gradient sums with the prefix and without agree; whether the prefix was used."""
    batch = len(inputs[0])
    baselines = tuple(0.1 * randn(1, *x.shape[1:]) for x in inputs)
    alphas, weights = torch.linspace(0.05, 1, steps).double(), torch.rand(steps).double()
    path = PathRows(inputs, baselines, alphas)
    model, plain = (Model(function, batch, target, extra) for _ in range(2))
    plain.prefix.wanted = False
    expected = engine.gradient_sum(plain, path, weights, limit)
    found = engine.gradient_sum(model, path, weights, limit)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, **EXACT)
    return model.affine_prefix and model.runs[-1].spared > 0


W, V = randn(6, 7), randn(4, 6)


def head(x):
    return F.linear(torch.tanh(x), V)


class Functional(nn.Module):
    """The first layer twice, an in-place relu and a residual to the input."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.first, self.last = nn.Linear(7, 7), nn.Linear(7, 3)
        self.register_buffer("mean", torch.randn(7))
        self.double()

    def forward(self, x):
        x = (x - self.mean) / 2.5
        h = F.relu(self.first(x), inplace=True)
        return self.last(self.first(h) + x)


USED = {
    "modules": mlp().double(),
    "functions": lambda x: head(F.linear(x, W)),
    "shared layers": Functional(),
    "a bound method": Functional().forward,
    "no bias, then a constant": lambda x: head(3 * F.linear(x, W) + 1 - 0.5),
    "a view first": lambda x: head(F.linear(x.view(len(x), 1, 7).flatten(1), W)),
    "a view of -1": lambda x: head(F.linear(x.reshape(-1, 7), W)),
    "transposed": lambda x: head(
        F.linear(x.reshape(-1, 1, 7).transpose(1, 2).permute(0, 2, 1), W)[:, 0]
    ),
    "eval dropout": lambda x: head(F.dropout(F.linear(x, W), 0.5, training=False)),
    "sum of two layers": lambda x: head(F.linear(x, W) + F.linear(2 * x, W)),
    "subtracted from": lambda x: head(1 - F.linear(x, W)),
    "written to after the layer": lambda x: head(F.linear(x, W).mul_(2).add_(1)),
    "item of the layer": lambda x: head(_set(F.linear(x, W))),
    "input again later": lambda x: head(F.linear(x, W)) * x[:, :1],
    "checks in the forward": lambda x: head(F.linear(_checked(x), W)),
    "data-dependent": lambda x: head(F.linear(x, W)) if x.sum() > 1e9 else -head(F.linear(x, W)),
    "parametrized": nn.utils.parametrizations.weight_norm(nn.Linear(7, 3).double()),
    "affine alone": nn.Linear(7, 3).double(),
    "row by row": lambda x: torch.stack([head(row[None])[0] for row in F.linear(x, W)]),
}


def _set(h):
    h[:, 0] = 0.5
    return h


def _checked(x):
    assert isinstance(x, torch.Tensor) and x.dtype == torch.float64 and x.device.type == "cpu"
    assert x.dim() == x.ndim == 2 and x.shape[1] == x.size(1) == 7 and len(x) == x.size()[0]
    assert x.is_floating_point() and x.numel() == len(x) * 7
    return x


@pytest.mark.parametrize("limit", [None, 25])
@pytest.mark.parametrize("function", USED.values(), ids=USED)
def test_used_and_right(function, limit):
    assert both(function, randn(5, 7), target=1, limit=limit) is True


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * g


def _alias(x):
    view = x.view(len(x), 7)
    view.mul_(2)
    return head(F.linear(x, W))


def _late_alias(x):
    h = F.linear(x, W)
    view = h.view(len(h), 2, 3)
    h[:, 0].mul_(3)
    return head(view.flatten(1))


def _written_copy_of_input(x):
    x[:, 0] = x[:, 0] * 2
    return head(F.linear(x, W))


def _twice_with_memory(x):
    h = F.linear(x, W)
    part = h[:, 1:3]
    part += 1
    return head(h)


def _hooked(make):
    model = mlp().double()
    make(model)
    return model


def _compiled_in_place(model):
    model.compile(backend="eager")
    return model


NOT_USED = {
    "item assignment to the input": _written_copy_of_input,
    "in place on the input": lambda x: head(F.linear(x.add_(1), W)),
    "in place on an alias": _alias,
    "in place on an alias of a layer": _late_alias,
    "out=": lambda x: head(
        torch.add(x.detach(), 1, out=torch.empty(len(x), 7).double()) @ W.T + x @ W.T
    ),
    "custom function": lambda x: head(Cube.apply(x) @ W.T),
    "forward hook": _hooked(lambda m: m[0].register_forward_hook(lambda *a: None)),
    "pre-hook": _hooked(lambda m: m[2].register_forward_pre_hook(lambda *a: None)),
    "backward hook": _hooked(lambda m: m[2].register_full_backward_hook(lambda *a: None)),
    "data": lambda x: head(F.linear(x, W)) + x.data.sum(1, keepdim=True),
    "detach": lambda x: head(F.linear(x, W)) + x.detach().sum(1, keepdim=True),
    "tensor hook": lambda x: (x.register_hook(lambda g: g), head(F.linear(x, W)))[1],
    "scripted": torch.jit.script(mlp().double()),
    "compiled": torch.compile(mlp().double(), backend="eager"),
    "compiled in place": _compiled_in_place(mlp().double()),
    "vmap": lambda x: torch.func.vmap(lambda row: head(row @ W.T))(x),
    "checkpointed": lambda x: checkpoint(head, F.linear(x, W), use_reentrant=False),
    "nothing affine": one_number,
    "autograd inside": lambda x: head(
        torch.autograd.grad((x**2).sum(), x, create_graph=True)[0] @ W.T
    ),
}


NEED_A_GRAPH = ("autograd inside", "tensor hook")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("limit", [None, 11])
@pytest.mark.parametrize("name", NOT_USED)
def test_not_used_and_right(name, limit):
    target = None if name == "nothing affine" else 1
    assert both(NOT_USED[name], randn(5, 7), target=target, limit=limit) is not True


def test_a_custom_function_after_the_first_layer():
    assert both(lambda x: head(Cube.apply(F.linear(x, W))), randn(5, 7), target=1) is False


def test_a_custom_function_of_the_input_beside_a_layer():
    def function(x):
        return head(F.linear(x, W)) + Cube.apply(x)[:, :4]

    assert not both(function, randn(5, 7), target=1)


def test_part_of_it_follows():
    def h(x):
        return head(torch.cat([F.linear(x, W)[:, :3], torch.relu(F.linear(x, W))[:, 3:]], 1))

    assert both(h, randn(5, 7), target=2) is True


def test_images():
    assert both(ResidualCNN().double(), randn(3, 2, 8, 8), target=1) is True
    pooled = nn.Sequential(
        nn.AvgPool2d(2),
        nn.Conv2d(2, 4, 3),
        nn.BatchNorm2d(4),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(16, 3),
    )
    assert both(pooled.eval().double(), randn(3, 2, 8, 8), target=1) is True

    def dilated(x):
        return F.conv2d(x, randn(4, 1, 3, 3), None, 2, "valid", 1, 2).relu().flatten(1)

    assert both(dilated, randn(3, 2, 9, 9), target=1) is True
    assert (
        both(lambda x: F.conv1d(x, randn(4, 2, 3)).tanh().sum(2), randn(3, 2, 8), target=1) is True
    )


def test_attention_is_left_alone():
    assert both(EmbeddingModel().double(), randn(3, 6, 8), target=1) is False


def test_several_inputs_and_extra_arguments():
    model, inputs = TwoInputs().double(), (randn(5, 4), randn(5, 2, 3))
    assert both(model, *inputs, target=1) is True
    assert both(model, *inputs, extra=(randn(5, 6), 2.0), target=1) is True

    def varying(x, shift):
        return head(F.linear(x + shift, W))

    assert both(varying, randn(5, 7), extra=(randn(5, 7),), target=1) is False
    assert both(varying, randn(5, 7), extra=(randn(7),), target=1) is True
    # Extra rows as many as features: not to be taken for one for all rows.
    assert both(varying, randn(7, 7), extra=(randn(7, 7),), target=1) is False


@pytest.mark.parametrize("context", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_contexts(context):
    x = randn(5, 7)
    expected = IntegratedGradients(mlp().double(), affine_prefix=False).attribute(x, target=1)
    model = mlp().double()
    with context():
        found = IntegratedGradients(model).attribute(x, target=1)
    torch.testing.assert_close(found, expected, **EXACT)


def test_a_model_that_refused_is_tried_again_in_another_call(independent_rows):
    logged = Logged(lambda x: head(Cube.apply(x) @ W.T))
    ig, x = IntegratedGradients(logged), randn(5, 7)
    for tried in (2, 4, 6):  # what one call finds out decides about no other
        ig.attribute(x, target=1, n_steps=9)
        assert logged.tried == tried


def test_autocast_is_left_alone():
    with torch.autocast("cpu", torch.bfloat16):
        path = PathRows(
            (randn(3, 7).float(),), (torch.zeros(1, 7),), torch.linspace(0, 1, 5).double()
        )
        model = Model(mlp(), 3, 1)
        engine.gradient_sum(model, path, torch.ones(5).double())
    assert model.affine_prefix is False


def test_weights_changed_between_calls():
    model = mlp().double()
    both(model, randn(5, 7), target=1)
    with torch.no_grad():
        model[0].weight.mul_(2)
    assert both(model, randn(5, 7), target=1) is True


@pytest.mark.usefixtures("independent_rows")
def test_the_model_is_called_with_as_many_rows_as_ever():
    logged = Logged(mlp().double())
    both(logged, randn(5, 7), target=1, limit=20)
    assert sum(logged.rows) == 2 * 45


def test_errors_of_the_model_come_through_once():
    class Broken(Exception):
        pass

    def fail(x):
        raise Broken

    calls = []
    with pytest.raises(Broken):
        both(lambda x: (calls.append(1), fail(x)), randn(5, 7))
    assert len(calls) == 1


def test_what_needs_the_memory_of_rows_is_refused():
    x = randn(2, 3)
    ones = CoefficientMixing(torch.ones(4, 1).double())
    rows = AffineRows.make(Memo(x), Memo(Dense(x[None])), ones, PrefixTrace())
    for touch in (lambda: rows.numpy(), lambda: rows.data_ptr(), lambda: rows.data):
        with pytest.raises(NotAffine):
            touch()
    assert rows.shape == (8, 3) and torch.equal(rows.rows(), torch.cat([2 * x] * 4))


@pytest.mark.usefixtures("independent_rows")
@pytest.mark.parametrize("fails", [False, True])
def test_rows_do_not_wait_for_the_garbage_collector(fails, monkeypatch):
    kept = []
    real = AffineRows.rows
    monkeypatch.setattr(
        AffineRows, "rows", lambda self: kept.append(weakref.ref(self)) or real(self)
    )

    def function(x):
        y = head(F.linear(x.view(len(x), 7), W))
        return y.missing if fails else y

    gc.disable()
    try:
        with pytest.raises(AttributeError) if fails else contextlib.nullcontext():
            IntegratedGradients(function).attribute(randn(5, 7), target=1)
        assert kept and all(ref() is None for ref in kept)
    finally:
        gc.enable()


def test_threads_do_not_meet():
    model, x = mlp().double(), randn(5, 7)
    failed = []

    def work():
        try:
            for _ in range(20):
                assert both(model, x, target=1) is True
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def agree(function, rows, extra=(), target=None, limit=None):
    """Outputs with the prefix and without agree; whether the prefix was used."""
    model, plain = (Model(function, rows.batch, target, extra, row_by_row=False) for _ in range(2))
    plain.prefix.wanted = False
    expected = engine.values(plain, rows, limit)
    torch.testing.assert_close(engine.values(model, rows, limit), expected, **EXACT)
    return model.affine_prefix and model.runs[-1].spared > 0


def of_coalitions(function, *inputs, n=200, batch_mask=False, backgrounds=1, **options):
    batch, players = len(inputs[0]), 5
    torch.manual_seed(7)
    count = batch if batch_mask else 1
    masks = tuple(torch.randint(5, (count, *x.shape[1:]), dtype=torch.int32) for x in inputs)
    baselines = tuple(0.1 * randn(1, backgrounds, *x.shape[1:]) for x in inputs)
    bits = torch.randint(1 << players, (n, 1))
    return agree(function, CoalitionRows(inputs, baselines, bits, masks, players), **options)


def one_off(function, *inputs, sources=1, batch_mask=False, groups=60, **options):
    """The same for rows with one of many groups replaced."""
    batch = len(inputs[0])
    torch.manual_seed(7)
    count = batch if batch_mask else 1
    masks = (torch.randint(groups, (count, *x.shape[1:]), dtype=torch.int32) for x in inputs)
    pieces = tuple(MaskPieces(mask, groups) for mask in masks)
    replacements = tuple(randn(batch, *x.shape[1:]) for x in inputs)
    of = (torch.randint(batch, (groups if sources > 1 else 1, batch)),) * len(inputs)
    return agree(function, AblationRows(inputs, replacements, of, pieces, groups), **options)


def wide(x):
    return head(torch.tanh(F.linear(x, randn(6, 90))))


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("batch_mask", [False, True])
@pytest.mark.parametrize("name", [n for n in (*USED, *NOT_USED) if n not in NEED_A_GRAPH])
@pytest.mark.filterwarnings("ignore")
def test_coalitions(name, batch_mask, inference):
    function = {**USED, **NOT_USED}[name]
    with torch.inference_mode(inference):
        used = of_coalitions(function, randn(3, 7), batch_mask=batch_mask)
    if name in NOT_USED:  # what it refuses only for a graph's sake may be used here
        assert used is not True or name in ("custom function", "checkpointed")
    elif name not in ("shared layers", "a bound method", "input again later", "data-dependent"):
        assert used is True  # of these the layers are so small that it does not pay


def test_coalitions_of_images_and_pairs():
    assert of_coalitions(ResidualCNN().double(), randn(2, 2, 8, 8)) is True
    assert of_coalitions(TwoInputs().double(), randn(2, 4), randn(2, 2, 3), target=1) is True
    assert of_coalitions(EmbeddingModel().double(), randn(2, 6, 8)) is False


@pytest.mark.parametrize("limit", [None, 3, 12, 100])
def test_several_backgrounds(limit):
    used = None if limit == 3 else True  # a coalition over part of its backgrounds is made
    assert of_coalitions(wide, randn(4, 90), backgrounds=3, limit=limit) is used
    both_inputs = TwoInputs().double()
    inputs = randn(2, 4), randn(2, 2, 3)
    options = {"backgrounds": 3, "target": 1, "limit": limit}
    assert of_coalitions(both_inputs, *inputs, **options) is used


@pytest.mark.parametrize("players", [2, 5, 70, 150])
@pytest.mark.parametrize("limit", [None, 7])
def test_orders(players, limit):
    inputs = (randn(2, 160),)
    baselines = (randn(1, 1, 160),)
    masks = ((torch.arange(160) % players).int()[None],)
    orders = permutations(players, 40, seed=3)
    rows = OrderRows(inputs, baselines, prefixes(orders), masks, orders)
    used = agree(lambda x: head(torch.tanh(F.linear(x, randn(6, 160)))), rows, limit=limit)
    assert used is True or players == 70  # as many to mix as the layer has to multiply


@pytest.mark.parametrize("limit", [None, 40])
@pytest.mark.parametrize("sources", [1, 2])
@pytest.mark.parametrize("batch_mask", [False, True])
def test_one_group_off(batch_mask, sources, limit):
    options = {"batch_mask": batch_mask, "sources": sources, "limit": limit}
    assert one_off(wide, randn(4, 90), **options) is True
    assert one_off(lambda x: wide((x - 0.5) * 2), randn(4, 90), **options) is True
    assert one_off(lambda x: wide(x.flatten(1) / randn(90)), randn(4, 9, 10), **options) is True
    assert one_off(TwoInputs().double(), randn(2, 4), randn(2, 2, 3), target=1, **options) is True


@pytest.mark.parametrize("name", [n for n in (*USED, *NOT_USED) if n not in NEED_A_GRAPH])
@pytest.mark.filterwarnings("ignore")
def test_one_group_off_of_any_model(name):
    one_off({**USED, **NOT_USED}[name], randn(3, 7), groups=7)


@pytest.mark.usefixtures("independent_rows")
def test_one_group_off_of_images_is_made():
    made = Logged(ResidualCNN().double())
    assert not one_off(made, randn(2, 2, 8, 8), limit=24)
    assert sum(made.rows) == 2 * 120 and made.tried == len(made.rows)  # nothing tried in vain


def test_one_window_off():
    window = Windows((9, 10), (3, 4), (2, 2), 0, torch.device("cpu"))
    x, other = randn(2, 9, 10), randn(1, 9, 10)
    rows = AblationRows((x,), (other,), (torch.zeros(1, 2).long(),), (window,), window.count)
    assert agree(lambda x: wide(x.flatten(1)), rows) is True


def test_what_reads_the_memory_of_rows():
    def by_pointer(x):  # as compiled code does that torch does not know
        return head(torch.from_dlpack(torch._C._to_dlpack(x)) @ W.T)

    assert of_coalitions(by_pointer, randn(3, 7)) is False
    assert of_coalitions(lambda x: by_pointer(F.linear(x, randn(7, 7))), randn(3, 7)) is False


@pytest.mark.filterwarnings("ignore")
def test_parallel_and_quantised_modules():
    x = randn(20, 7)
    assert both(nn.DataParallel(mlp().double()), x, target=1) is False
    quantised = torch.ao.quantization.quantize_dynamic(mlp(), {nn.Linear})
    arguments = {"target": 1, "n_samples": 100, "seed": 0}
    found, expected = (
        KernelShap(quantised, affine_prefix=wanted).attribute(x[:2].float(), **arguments)
        for wanted in (True, False)
    )
    torch.testing.assert_close(found, expected)


def test_a_model_moved_and_loaded_between_calls():
    model, other = mlp(), mlp()
    ig, x = IntegratedGradients(model), randn(20, 7)
    for change in (
        lambda: model.double(),
        lambda: model.load_state_dict({k: 2 * v for k, v in other.state_dict().items()}),
        lambda: setattr(model[0], "weight", nn.Parameter(randn(16, 7))),
        lambda: model.__setitem__(0, nn.Linear(7, 16).double()),
    ):
        change()
        expected = IntegratedGradients(model, affine_prefix=False).attribute(x, target=1)
        torch.testing.assert_close(ig.attribute(x, target=1), expected, **EXACT)


def test_weights_changed_in_the_forward():
    weight = randn(6, 7)

    def function(x):
        weight.mul_(-1)
        return head(F.linear(x, weight)) + head(F.linear(x, weight.mul_(-1)))

    assert of_coalitions(function, randn(5, 7), limit=60) is True


def test_integers_are_left_alone():
    table, x = randn(9, 6), torch.randint(9, (3, 7))
    found, expected = (
        KernelShap(lambda x: head(table[x]).sum(1), affine_prefix=wanted).attribute(x, target=1)
        for wanted in (True, False)
    )
    torch.testing.assert_close(found, expected, **EXACT)


def test_few_coalitions_are_not_worth_it():
    assert of_coalitions(mlp().double(), randn(3, 7), n=8) in (None, False)


def test_an_infinite_number_that_is_absent_leaves_no_trace():
    x = randn(1, 7)
    x[0, 2] = torch.inf
    found = KernelShap(lambda rows: head(F.linear(rows.clamp(-2, 2), W))).explain(
        x, target=0, n_samples=200
    )
    finite = KernelShap(lambda rows: head(F.linear(rows.clamp(-2, 2), W))).explain(
        x.clamp(-2, 2), target=0, n_samples=200
    )
    torch.testing.assert_close(found.values, finite.values)


def test_what_cannot_pay_is_not_tried(monkeypatch):
    made = []
    real = AffineRows.make
    monkeypatch.setattr(
        AffineRows, "make", staticmethod(lambda *a, **k: made.append(1) or real(*a, **k))
    )
    ig, x = IntegratedGradients(mlp()), torch.randn(5, 7)
    for worth, tried in ((1e9, False), (1, True)):
        monkeypatch.setattr(prefix, "WORTH", worth)
        ig.attribute(x, target=1)
        assert bool(made) is tried


def test_what_may_be_spared_at_most():
    flat = (torch.zeros(3, 7),)
    first = 7 * 16  # multiplications of the first layer: ReLU comes next
    assert most_spared(list(mlp().modules()), flat, 1) == first
    # As many deltas as it has inputs are no fewer multiplications for a row.
    assert most_spared(list(mlp().modules()), flat, 7) == 16
    assert most_spared(list(mlp().modules()), flat, 10) < 0
    two = nn.Sequential(nn.Linear(7, 16), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 4))
    assert most_spared(list(two.modules()), flat, 1) == first + 16 * 12
    assert most_spared([], flat, 7) == torch.inf  # of functions nothing is known
    recurrent = nn.Sequential(nn.LSTM(3, 8, batch_first=True), nn.Linear(8, 2))
    assert most_spared(list(recurrent.modules()), (torch.zeros(2, 5, 3),), 1) <= 5 * 8 * 2


def test_modules_come_in_order():
    for model in (ResidualCNN(), EmbeddingModel(), nn.Sequential(mlp(), mlp(), nn.ReLU())):
        assert modules_of(model) == list(model.modules()) == modules_of(model.forward)
    shared = nn.Linear(2, 2)
    model = nn.Sequential(nn.Sequential(shared, nn.Tanh()), shared)
    assert modules_of(model) == list(model.modules())
    assert modules_of(lambda x: x) == []


def test_the_same_call_gives_the_same_bits_whatever_was_before():
    x, layer = torch.randn(40, 7), mlp()
    for explainer in (IntegratedGradients(layer), KernelShap(lambda x: layer(x))):
        options = {"seed": 0, "n_samples": 100} if isinstance(explainer, KernelShap) else {}
        first = explainer.attribute(x, target=1, **options)
        explainer.attribute(x[:1], target=2, **options)
        assert torch.equal(explainer.attribute(x, target=1, **options), first)


def test_an_answer_for_the_batch_is_left_alone():
    of_coalitions(lambda x: head(F.linear(x, W)).mean(), randn(3, 7), n=30)


STEPS = {
    "linear": lambda x: F.linear(x, randn(6, x.shape[-1])) if x.dim() > 1 else x,
    "bias": lambda x: x + randn(x.shape[-1]),
    "scale": lambda x: 0.7 * x,
    "divide": lambda x: x / 3,
    "negative": lambda x: 2 - x,
    "view": lambda x: x.reshape(len(x), -1, 2),
    "flatten": lambda x: x.flatten(1),
    "transpose": lambda x: x.transpose(1, -1),
    "double": lambda x: x + x,
    "residual": lambda x: x + F.linear(x, randn(x.shape[-1], x.shape[-1])),
    "relu": torch.relu,
    "relu_": lambda x: F.relu(x.clone(), inplace=True),
    "in place": lambda x: (x * 1).mul_(1.5),
    "square": lambda x: x * x,
    "slice": lambda x: x[:, :4],
    "mean": lambda x: x - x.mean(0, keepdim=True).detach() * 0,
    "select": lambda x: torch.where(x > 0, x, 0.1 * x),
    "cat": lambda x: torch.cat([x, x.sin()], -1),
}


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=7))
def test_any_composition(names):
    def function(x):
        for name in names:
            if x[0].numel() > 200:
                x = x.flatten(1)[:, :8]
            x = STEPS[name](x)
        return x.flatten(1).sum(1)

    both(function, randn(3, 8), steps=4)
    of_coalitions(function, randn(3, 8), n=40)
    one_off(function, randn(3, 8), groups=8)


def drawn(function, *inputs, baselines=3, target=None, samples=40, multiply=True):
    """GradientShap with the prefix and without agree; what tells its plan."""
    given, background = inputs, tuple(randn(baselines, *x.shape[1:]) for x in inputs)
    methods = [GradientShap(function, multiply, affine_prefix=wanted) for wanted in (True, False)]
    options = {"n_samples": samples, "target": target, "seed": 4}
    found, expected = (m.attribute(given, background, **options) for m in methods)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, **EXACT)
    return functools.partial(methods[0].plan, given, background, **options)


@pytest.mark.parametrize("name", [*USED, *NOT_USED])
@pytest.mark.filterwarnings("ignore")
def test_drawn_points_of_any_model(name):
    target = None if name == "nothing affine" else 1
    drawn({**USED, **NOT_USED}[name], randn(3, 7), target=target)


@pytest.mark.parametrize("multiply", [False, True])
@pytest.mark.parametrize("baselines", [1, 3])
def test_drawn_points(baselines, multiply):
    options = {"baselines": baselines, "multiply": multiply}
    assert "linear" in str(drawn(wide, randn(4, 90), target=1, **options)())
    assert "linear" in str(
        drawn(TwoInputs().double(), randn(2, 4), randn(2, 2, 3), target=1, **options)()
    )
    drawn(ResidualCNN().double(), randn(2, 2, 8, 8), target=1, **options)


def test_few_drawn_points_and_noisy_ones_are_made():
    few = drawn(wide, randn(4, 90), target=1, baselines=30)()  # as many anchors as points
    assert "linear" not in str(few)
    x, background = randn(4, 90), randn(3, 90)
    noisy = GradientShap(wide).plan(x, background, n_samples=40, stdevs=0.1, target=1, seed=0)
    assert "linear" not in str(noisy)
