"""The engine: blocks, their size, out-of-memory, and what is computed at all."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from fastxai import ops
from fastxai.core import engine
from fastxai.core.engine.blocks import Blocks
from fastxai.core.engine.model import Model, Prefix
from fastxai.core.engine.rows import InputRows, PathRows

from ...models import Logged, mlp

pytestmark = pytest.mark.usefixtures("independent_rows")  # these count calls


def path(batch: int = 6, steps: int = 10, features: int = 7) -> PathRows:
    torch.manual_seed(0)
    x = torch.randn(batch, features, dtype=torch.float64)
    return PathRows(
        (x,), (torch.zeros(1, features).double(),), torch.linspace(0, 1, steps).double()
    )


def oracle(function, rows: PathRows, weights: torch.Tensor) -> torch.Tensor:
    total = torch.zeros(rows.batch, rows.inputs[0].shape[1], dtype=torch.float64)
    for alpha, w in zip(rows.alphas, weights, strict=True):
        point = (alpha * rows.inputs[0]).requires_grad_()
        total += w * torch.autograd.grad(function(point)[:, 1].sum(), point)[0]
    return total


@pytest.mark.parametrize("limit", [None, 1, 2, 3, 5, 6, 7, 12, 13, 59, 60, 1000])
def test_any_limit_gives_the_same_sum_and_is_kept(limit):
    rows, weights = path(), torch.rand(10, dtype=torch.float64)
    function = mlp().double()
    logged = Logged(function)
    (found,) = engine.gradient_sum(Model(logged, 6, 1), rows, weights, limit)
    torch.testing.assert_close(found, oracle(function, rows, weights), rtol=1e-12, atol=1e-12)
    assert sum(logged.rows) == 60
    assert limit is None or max(logged.rows) <= limit


@pytest.mark.parametrize("limit", [None, 1, 4, 7, 60])
def test_values_arrange_repeats_and_examples(limit):
    rows = path()
    function = mlp().double()
    found = engine.values(Model(function, 6), rows, limit)
    every = rows.block(slice(0, 10), slice(0, 6))[0]
    torch.testing.assert_close(found, function(every).detach().view(10, 6, 4))
    assert not found.requires_grad


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
        MemoryError(),
    ],
)
@pytest.mark.parametrize("fits", [1, 2, 5, 13])
def test_out_of_memory_halves_and_loses_nothing(error, fits):
    rows, weights = path(), torch.rand(10, dtype=torch.float64)
    function = mlp().double()
    logged = Logged(function, fail_above=fits, error=error)
    (found,) = engine.gradient_sum(Model(logged, 6, 1), rows, weights)
    torch.testing.assert_close(found, oracle(function, rows, weights), rtol=1e-12, atol=1e-12)
    assert sum(logged.rows) == 60 and max(logged.rows) <= fits
    assert logged.tried - len(logged.rows) <= 6  # 60, 30, 15, 7, 3, 1


def test_out_of_memory_half_way_keeps_what_is_done():
    rows, weights = path(batch=5, steps=40), torch.rand(40, dtype=torch.float64)
    function = mlp().double()

    class FullLater(Logged):
        def __call__(self, *args):
            self.fail_above = 3 if sum(self.rows) > 50 else None  # less than one repeat of 5
            return super().__call__(*args)

    logged = FullLater(function, error=torch.OutOfMemoryError("out of memory"))
    (found,) = engine.gradient_sum(Model(logged, 5, 1), rows, weights, 20)
    torch.testing.assert_close(found, oracle(function, rows, weights), rtol=1e-12, atol=1e-12)
    assert sum(logged.rows) == 200


@pytest.mark.parametrize("limit", [None, 4])
def test_out_of_memory_while_adding_up_counts_nothing_twice(monkeypatch, limit):
    torch.manual_seed(0)
    x, y = torch.randn(6, 3).double(), torch.randn(6, 3).double()
    zero = torch.zeros(1, 3).double()
    rows = PathRows((x, y), (zero, zero), torch.linspace(0, 1, 10).double())
    calls, path_reduce = [], ops.path_reduce

    def fails_for_the_second_input(*args):
        calls.append(args)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("out of memory")
        return path_reduce(*args)

    monkeypatch.setattr(ops, "path_reduce", fails_for_the_second_input)
    model = Model(lambda x, y: (3 * x + 5 * y).sum(1), 6)
    found = engine.gradient_sum(model, rows, torch.full((10,), 0.1).double(), limit)
    torch.testing.assert_close(found, (torch.full_like(x, 3), torch.full_like(y, 5)))


def test_out_of_memory_for_one_row_is_told():
    logged = Logged(mlp().double(), fail_above=0, error=torch.OutOfMemoryError("out of memory"))
    with pytest.raises(torch.OutOfMemoryError):
        engine.gradient_sum(Model(logged, 6, 1), path(), torch.ones(10).double())


def test_other_errors_are_not_retried():
    logged = Logged(mlp().double(), fail_above=0, error=RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        engine.gradient_sum(Model(logged, 6, 1), path(), torch.ones(10).double())


def test_blocks_are_the_same_in_every_call():
    calls = []
    for _ in range(3):
        logged = Logged(nn.Linear(7, 2).double())
        engine.gradient_sum(Model(logged, 33, 1), path(33, 100), torch.ones(100).double())
        calls.append(logged.rows)
    assert calls[0] == calls[1] == calls[2]
    assert len(calls[0]) > 1


def test_a_row_that_costs_more_gets_smaller_blocks():
    def largest_block(width: int) -> int:
        logged = Logged(nn.Sequential(nn.Linear(7, width), nn.Tanh(), nn.Linear(width, 2)).double())
        model = Model(logged, 64, 1)
        engine.gradient_sum(model, path(64, 200), torch.ones(200).double())
        assert sum(logged.rows) == 64 * 200
        return max(logged.rows)

    assert largest_block(16) > 2 * largest_block(1024) > 4


def test_layers_tell_what_a_row_costs_before_the_first_call():
    def size(width: int, wrapped: bool = False) -> int:
        chain = nn.Sequential(nn.Linear(7, width), nn.Tanh(), nn.Linear(width, 2)).double()
        model = Model((lambda x: chain(x)) if wrapped else chain, 64, 1, dims=[2])
        return Blocks(model, path(64, 200)).size

    assert size(16) > 4000 and size(4096) < 400
    assert size(16, wrapped=True) == size(4096, wrapped=True) == 1024  # it may do other things too


def test_no_gradient_for_parameters_and_no_graph():
    function = mlp()
    counted = []
    for p in function.parameters():
        p.register_hook(counted.append)
    x = torch.randn(3, 7)
    (found,) = engine.gradient_sum(
        Model(function, 3, 0), InputRows((x,), 3), torch.ones(1).double()
    )
    assert counted == [] and all(p.grad is None for p in function.parameters())
    assert not found.requires_grad and found.grad_fn is None


def test_the_model_may_write_to_its_rows():
    x = torch.randn(3, 7)
    before = x.clone()
    engine.values(Model(lambda rows: rows.mul_(0).sum(1), 3), InputRows((x,), 3))
    torch.testing.assert_close(x, before, rtol=0, atol=0)


def collect(model, rows, limit=None, **options):
    """What stream shows, put together; every row must come just once."""
    outputs, shown = None, torch.zeros(rows.repeats, rows.batch)

    def visit(values, repeats, examples):
        nonlocal outputs
        if outputs is None:
            batch = values.shape[1] if model.whole_batch else rows.batch
            outputs = values.new_full((rows.repeats, batch, *values.shape[2:]), float("nan"))
        shown[repeats, examples] += 1
        outputs[repeats, slice(None) if model.whole_batch else examples] = values

    engine.stream(model, rows, visit, limit, **options)
    assert (shown == 1).all()
    return outputs


@pytest.mark.parametrize("limit", [None, 1, 4, 5, 6, 7, 13, 60, 1000])
def test_stream_shows_every_row_once(limit):
    rows, logged = path(), Logged(mlp().double())
    found = collect(Model(logged, 6, [0, 1, 2, 3, 0, 1], row_by_row=False), rows, limit)
    every = mlp().double()(rows.block(slice(0, 10), slice(0, 6))[0]).view(10, 6, 4)
    expected = every[:, range(6), [0, 1, 2, 3, 0, 1]].detach()
    torch.testing.assert_close(found, expected)
    assert sum(logged.rows) == 60 and (limit is None or max(logged.rows) <= limit)


@pytest.mark.parametrize("limit", [None, 2, 5, 6, 7, 60])  # one row would not tell
@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.square().mean(),
        lambda x: x.square().sum().reshape(1),
        lambda x: x.square().sum(0),
        lambda x: x.square().sum(0).reshape(1, 7),
        lambda x: x.T @ x,
        lambda x: float(x.square().sum()),
    ],
)
def test_a_model_that_answers_for_the_batch_gets_all_examples_once(function, limit):
    rows, logged = path(), Logged(function)
    model = Model(logged, 6, row_by_row=False)
    found = collect(model, rows, limit)
    parts = rows.block(slice(0, 10), slice(0, 6))[0].view(10, 6, 7)
    expected = torch.stack([torch.as_tensor(function(p)).double() for p in parts])
    assert model.whole_batch
    shape = (10, 1) if expected.dim() == 1 else expected.shape
    torch.testing.assert_close(found, expected.reshape(shape))
    assert logged.rows[-10:] == [6] * 10 and len(logged.rows) <= 11
    torch.testing.assert_close(engine.values(model, rows, limit), expected.reshape(shape))


def test_an_answer_for_the_batch_that_looks_like_the_rows_is_found_out_later():
    rows = path(batch=7)
    model = Model(lambda x: x.square().sum(0), 7, row_by_row=False)
    first = engine.values(model, InputRows(rows.inputs, 7))
    assert first.shape == (1, 7) and not model.whole_batch
    found = engine.values(model, rows)
    torch.testing.assert_close(found, (rows.alphas[:, None, None] * rows.inputs[0]).square().sum(1))
    assert model.whole_batch


def test_gradients_are_of_rows():
    with pytest.raises(AssertionError, match=r"^forward_func: expected an output with \d+ rows"):
        engine.gradient_sum(Model(lambda x: x.sum(), 6), path(), torch.ones(10).double())
    with pytest.raises(AssertionError, match=r"^forward_func: expected an output with \d+ rows"):
        engine.values(Model(lambda x: x.sum(), 6), path())


def test_what_was_row_by_row_stays_so():
    calls = []

    def forgetful(x):
        calls.append(len(x))
        return x.sum(1) if len(calls) < 3 else x.sum()

    with pytest.raises(AssertionError, match=r"^forward_func: expected an output with 12 rows"):
        engine.values(Model(forgetful, 6, row_by_row=False), path(), 12)
    assert calls == [12] * 3


class Together(PathRows):
    """Rows that cannot be made for some examples only."""

    together = True

    def block(self, repeats, examples):
        assert (examples.start, examples.stop) == (0, self.batch)
        return super().block(repeats, examples)


@pytest.mark.parametrize("limit", [None, 1, 6, 13])
def test_examples_that_belong_together_are_not_cut_apart(limit):
    rows = path()
    together = Together(rows.inputs, rows.baselines, rows.alphas)
    logged = Logged(mlp().double())
    found = collect(Model(logged, 6), together, limit)
    torch.testing.assert_close(found, engine.values(Model(mlp().double(), 6), rows))
    assert all(n % 6 == 0 for n in logged.rows) and max(logged.rows) <= max(6, limit or 60)


def test_examples_that_belong_together_and_do_not_fit_are_told():
    rows = path()
    together = Together(rows.inputs, rows.baselines, rows.alphas)
    logged = Logged(mlp().double(), fail_above=5, error=torch.OutOfMemoryError("out of memory"))
    with pytest.raises(torch.OutOfMemoryError):
        engine.values(Model(logged, 6), together)
    logged = Logged(mlp().double(), fail_above=6, error=torch.OutOfMemoryError("out of memory"))
    engine.values(Model(logged, 6), together)
    assert logged.rows == [6] * 10


def test_an_answer_for_the_batch_is_not_asked_of_a_part_of_it_when_memory_runs_out():
    error = torch.OutOfMemoryError("out of memory")
    logged = Logged(lambda x: x.square().mean(), fail_above=5, error=error)
    with pytest.raises(torch.OutOfMemoryError):
        engine.values(Model(logged, 6, row_by_row=False), path())


def test_rows_that_share_statistics_come_one_repeat_a_call():
    function = nn.Sequential(nn.Linear(7, 5), nn.BatchNorm1d(5), nn.Tanh()).double().train()
    rows, before = path(), {k: v.clone() for k, v in function.state_dict().items()}
    logged = nn.ModuleList([function])  # so that the batch norm is found
    seen = []
    logged.forward = lambda x: seen.append(len(x)) or function(x)
    found = collect(Model(logged, 6), rows)
    assert seen == [6] * 10
    for name, value in function.state_dict().items():
        assert torch.equal(value, before[name])
    one = function(rows.block(slice(3, 4), slice(0, 6))[0]).detach()
    torch.testing.assert_close(found[3], one)
    seen.clear()
    engine.values(Model(logged, 6), rows, 12)
    assert seen == [12] * 5  # the user's wish


@pytest.mark.parametrize("limit", [None, 20])
@pytest.mark.parametrize("fits", [1, 5, 13])
def test_out_of_memory_in_the_model_shows_nothing_twice(fits, limit):
    error = torch.OutOfMemoryError("out of memory")
    logged = Logged(mlp().double(), fail_above=fits, error=error)
    found = collect(Model(logged, 6), path(), limit)
    torch.testing.assert_close(found, engine.values(Model(mlp().double(), 6), path()))
    assert sum(logged.rows) == 60 and max(logged.rows) <= fits


def test_out_of_memory_of_the_visitor_shows_the_rows_again():
    rows, visited, refused = path(), torch.zeros(10, 6), []

    def visit(values, repeats, examples):
        if values.shape[:2].numel() > 7:
            refused.append(values.shape)
            raise torch.OutOfMemoryError("out of memory")
        visited[repeats, examples] += 1

    engine.stream(Model(mlp().double(), 6), rows, visit)
    assert refused and (visited == 1).all()


def test_errors_of_the_visitor_end_the_stream():
    def visit(values, repeats, examples):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        engine.stream(Model(mlp().double(), 6), path(), visit, 6)


def test_no_rows_no_calls():
    logged = Logged(mlp())
    empty = InputRows((torch.empty(0, 7),), 0)
    assert engine.values(Model(logged, 0), empty).shape == (1, 0)
    engine.stream(Model(logged, 0), empty, lambda *_: pytest.fail("there is nothing to show"))
    assert logged.tried == 0


@pytest.mark.parametrize("function", [mlp().double(), lambda x: x.square().mean()])
@pytest.mark.parametrize("limit", [None, 7])
def test_the_progress_bar_counts_rows(monkeypatch, capsys, function, limit):
    tqdm = pytest.importorskip("tqdm")
    bars = []

    class Noted(tqdm.tqdm):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            bars.append(self)

    monkeypatch.setattr(tqdm, "tqdm", Noted)
    collect(Model(function, 6, row_by_row=False), path(), limit, progress="Some attribution")
    (bar,) = bars
    assert bar.n == bar.total == 60
    assert "Some attribution: 100%" in capsys.readouterr().err


def test_a_large_batch_comes_a_few_examples_at_a_time():
    logged = Logged(nn.Linear(7, 3).double())
    rows = path(batch=30_000, steps=70)
    seen = []
    model = Model(logged, 30_000, prefix=Prefix(wanted=False))
    engine.stream(model, rows, lambda y, r, e: seen.append((r.stop - r.start, len(y[0]))))
    assert sum(n * b for n, b in seen) == 70 * 30_000
    assert min(n for n, _ in seen) >= 35 and max(b for _, b in seen) < 1000


def test_a_limit_of_the_users_takes_all_examples_first():
    logged = Logged(mlp().double())
    engine.stream(Model(logged, 6), path(), lambda y, r, e: None, limit=12)
    assert logged.rows == [12] * 5


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts page faults")
def test_memory_of_one_block_serves_the_next():
    # In a process of its own, whose malloc has not seen large tensors.
    code = """
import resource, torch
from torch import nn
from fastxai.attr import KernelShap
model = nn.Sequential(nn.Linear(30, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
x = torch.randn(1000, 30)
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    KernelShap(model).attribute(x, target=0, n_samples=512, seed=0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(child.stdout) < 10_000  # 80,000 if every block takes its pages anew
