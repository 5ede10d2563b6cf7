"""Layers are told and replaced for one call in one thread, and the model is left as it was."""

import copy
import io
import pickle
import threading

import pytest
import torch
from torch import nn

from fastxai import LayerActivation
from fastxai.core.engine.model import Model
from fastxai.core.intercept.layers import Layers, Recorded, Replaced, Watched

from ...models import ResidualCNN, TextModel, mlp

X = torch.randn(3, 7)


def layers(model, layer, of_inputs=False):
    return Layers(layer, of_inputs, Model(model, 3, 0))


def left(model):
    """What is on the model's modules, to be compared."""
    return [(dict(m.__dict__), list(m._forward_hooks), list(m._forward_pre_hooks))
            for m in model.modules()]  # fmt: skip


@pytest.mark.parametrize("of_inputs", [False, True])
def test_what_a_layer_takes_and_gives(of_inputs):
    model = mlp()
    watched = Watched(model, layers(model, [model[2], model[0]], of_inputs))
    before = left(model)
    torch.testing.assert_close(watched(X), model(X), rtol=0, atol=0)
    assert left(model) == before
    second, first = watched.flat
    hidden = model[:2](X)
    torch.testing.assert_close(first, X if of_inputs else model[0](X), rtol=0, atol=0)
    torch.testing.assert_close(second, hidden if of_inputs else model[2](hidden), rtol=0, atol=0)
    assert not first.requires_grad and watched.layer_of(1) == 1


@pytest.mark.parametrize("of_inputs", [False, True])
def test_replacing_them(of_inputs):
    model = mlp()
    watched = Watched(model, layers(model, model[2], of_inputs))
    watched(X)
    other = torch.randn_like(watched.flat[0])
    found = Replaced(watched)(other, X)
    torch.testing.assert_close(found, model[2 if of_inputs else 3 :](other), rtol=0, atol=0)


def test_what_is_found_is_as_it_was_before_in_place_operations():
    model, x = ResidualCNN(), torch.randn(2, 2, 4, 4)
    watched = Watched(model, layers(model, model.norm))
    watched(x)
    torch.testing.assert_close(watched.flat[0], model.norm(model.stem(x)), rtol=0, atol=0)
    assert watched.flat[0].min() < 0  # what follows is an in-place ReLU


def test_outputs_after_the_layers_own_hooks_and_inputs_after_those_before():
    model = mlp()
    model[2].register_forward_hook(lambda module, args, output: output + 1)
    model[2].register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    watched = Watched(model, layers(model, model[2]))
    watched(X)
    torch.testing.assert_close(watched.flat[0], model[2](model[:2](X)))
    watched = Watched(model, layers(model, model[2], of_inputs=True))
    watched(X)
    torch.testing.assert_close(watched.flat[0], 2 * model[:2](X))


class Several(nn.Module):
    """Layers that take and give more than a tensor."""

    class Pair(nn.Module):
        def forward(self, a, b, scale=1.0, flag=None, *, negative=False):
            return [(a + b) * scale, None, -b if negative else b]

    class Record(nn.Module):
        def forward(self, x):
            return x.max(1)

    def __init__(self):
        super().__init__()
        self.pair, self.record = self.Pair(), self.Record()

    def forward(self, x):
        a, nothing, b = self.pair(x, 3 * x, 2.0, None, negative=True)
        assert nothing is None
        return (a * b) + self.record(x).values[:, None]


def test_several_tensors_with_other_things_between():
    model = Several()
    watched = Watched(model, layers(model, model.pair))
    expected = watched(X)
    assert [len(t) for t in watched.found] == [2] and isinstance(watched.packed([1, 2]), tuple)
    torch.testing.assert_close(watched.flat, (8 * X, -3 * X))
    found = Replaced(watched)(8 * X, -3 * X, X)
    torch.testing.assert_close(found, expected)
    of_inputs = Watched(model, layers(model, model.pair, of_inputs=True))
    of_inputs(X)
    torch.testing.assert_close(of_inputs.flat, (X, 3 * X))
    torch.testing.assert_close(Replaced(of_inputs)(X, 3 * X, X), expected)


def test_torchs_fast_path_is_not_taken():
    model, ids = TextModel(), torch.randint(50, (3, 5))
    inner = model.encoder.layers[1].linear1
    with torch.no_grad():
        expected = model(ids)
        watched = Watched(model, layers(model, inner))
        torch.testing.assert_close(watched(ids), expected)
        assert watched.flat[0].shape == (3, 5, 32)
        # Where nothing requires a gradient it would be taken too.
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    recorded = Recorded(model, layers(model, inner))
    output = recorded(ids)[:, 0].sum()
    assert torch.autograd.grad(output, recorded.points[0])[0].abs().sum() > 0


def test_an_attribute_of_the_layers_own_is_put_back():
    model = mlp()
    plain, calls = model[2].forward, []
    model[2].forward = lambda x: calls.append(1) or plain(x)
    own = model[2].forward
    watched = Watched(model, layers(model, model[2], of_inputs=True))
    watched(X)
    assert calls == [1] and model[2].__dict__["forward"] is own


def test_one_thread_watches_and_another_does_not():
    model = mlp()
    inside, go_on = threading.Event(), threading.Event()
    blocked = nn.Sequential(model[:2], Waits(inside, go_on), model[2:])
    watched = Watched(blocked, layers(blocked, blocked[0][0]))
    replaced_in, results = [], []

    def watching():
        replaced_in.append(watched(X))

    thread = threading.Thread(target=watching)
    thread.start()
    assert inside.wait(10)
    covered = blocked[0][0].__dict__["_call_impl"]
    results.append(model(X))  # in this thread, while the other is in the middle
    copied = copy.deepcopy(blocked[0])
    stored = io.BytesIO(pickle.dumps(blocked[0]))
    own = Watched(model, layers(model, model[0]))
    results.append(own(X))
    assert blocked[0][0].__dict__["_call_impl"] is covered
    go_on.set()
    thread.join()
    for result in (*results, *replaced_in):
        torch.testing.assert_close(result, model(X), rtol=0, atol=0)
    torch.testing.assert_close(own.flat, watched.flat, rtol=0, atol=0)
    assert "_call_impl" not in blocked[0][0].__dict__
    for other in (copied, pickle.load(stored)):
        with torch.no_grad():
            other[0].weight.zero_()
            assert (other(X) == other[0].bias.relu()).all()  # its own weights


class Waits(nn.Module):
    """Lets another thread do something in the middle of a call."""

    def __init__(self, inside, go_on):
        super().__init__()
        self.events = inside, go_on

    def forward(self, x):
        self.events[0].set()
        assert self.events[1].wait(10)
        return x


def test_a_function_that_looks_into_the_same_layer_itself():
    model = mlp()

    def f(x):
        return LayerActivation(model, model[2]).attribute(x) + 0 * model(x)[:, :1]

    found = LayerActivation(lambda x: (model(x), f(x.detach()))[1], model[0])
    torch.testing.assert_close(found.attribute(X), model[0](X).detach())
    inner = LayerActivation(model, model[0])
    outer = LayerActivation(lambda x: inner.attribute(x), model[0])
    torch.testing.assert_close(outer.attribute(X), model[0](X).detach(), rtol=0, atol=0)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_after_an_error(error):
    model = mlp()

    class Fails(nn.Module):
        def forward(self, x):
            raise error("here")

    model.append(Fails())
    before = left(model)
    for of_inputs in (False, True):
        watched = Watched(model, layers(model, [model[0], model[2]], of_inputs))
        with pytest.raises(error, match="here"):
            watched(X)
        assert left(model) == before
    assert torch.overrides._len_torch_function_stack() == 0


def test_only_what_may_be_left_out_is_called_under_a_mode():
    seen = []

    class Spying(nn.Linear):
        def forward(self, x):
            seen.append(torch.overrides._len_torch_function_stack())
            return super().forward(x)

    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.Sequential(nn.Tanh(), encoder, nn.Linear(8, 8), Spying(8, 4)).eval()
    x = torch.randn(3, 5, 8)
    for layer, mode in ((model[0], 0), (model[2], 0), (encoder, 1), (encoder.linear1, 1)):
        for function in (model, lambda x: model(x)):
            with torch.no_grad():  # where the encoder would do without its layers
                watched = Watched(function, layers(function, layer))
                watched(x)
            assert watched.flat
            if function is model:
                assert seen.pop() == mode
