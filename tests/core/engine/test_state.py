"""What a call leaves as it was: the state of modules, wherever they are, and extra arguments."""

import functools
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from fastxai import DeepLift, FeatureAblation, InputXGradient, IntegratedGradients, KernelShap
from fastxai.core.engine.state import modules_behind

X = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
NORM = nn.BatchNorm1d(5)  # a global, which a function names
HOME = SimpleNamespace(model=NORM)


class Holder:
    __slots__ = ("norm",)

    def __init__(self, norm):
        self.norm = norm

    def predict(self, x):
        return self.norm(x)


class Callable:
    def __init__(self, norm):
        self.parts = {"first": (norm,)}

    def __call__(self, x):
        return self.parts["first"][0](x)


class Unregistered(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.norms = [norm]

    def forward(self, x):
        return self.norms[0](x)


def by_global(x):
    return NORM(x)


def by_another(x):
    return by_global(x)


def by_global_attribute(x):
    return HOME.model(x)


REACHED = {
    "module": lambda: NORM,
    "partial": lambda: functools.partial(NORM),
    "partial's argument": lambda: functools.partial(lambda norm, x: norm(x), NORM),
    "closure": lambda: (lambda norm: lambda x: norm(x))(NORM),
    "default": lambda: lambda x, norm=NORM: norm(x),
    "global": lambda: by_global,
    "global of another function": lambda: by_another,
    "attribute of a global": lambda: by_global_attribute,
    "bound method": lambda: Holder(NORM).predict,
    "callable object": lambda: Callable(NORM),
    "decorated": lambda: torch.no_grad()(by_global),
    "list in a module": lambda: Unregistered(NORM),
    "comprehension": lambda: lambda x: torch.stack([NORM(v) for v in [x]])[0],
}


@pytest.mark.parametrize("reach", REACHED)
def test_running_statistics_are_put_back(reach):
    function = REACHED[reach]()
    assert NORM in modules_behind(function)
    before = {name: b.clone() for name, b in NORM.named_buffers()}
    FeatureAblation(function).attribute(X, target=1)
    assert all(torch.equal(b, before[name]) for name, b in NORM.named_buffers())


def test_a_function_that_holds_itself_and_much_else_is_searched_to_an_end():
    def function(x):
        return function.others, x

    function.others = [[i, function] for i in range(5000)]
    assert modules_behind(function) == []


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.ones(()))
        self.seen = None

    def forward(self, x, by=None):
        if by is not None:
            self.scale = self.scale + 1  # another tensor takes its place
        self.scale.detach().numpy()[...] += 1
        self.seen = x.detach()
        return x * self.scale


@pytest.mark.parametrize("method", [InputXGradient, FeatureAblation, DeepLift])
@pytest.mark.parametrize("by", [None, 1])
def test_state_of_ones_own_modules_is_put_back(method, by):
    model = Counting()
    scale = model.scale
    method(model).attribute(X, target=1, additional_forward_args=by)
    assert model.scale is scale and scale == 1 and model.seen is None


def test_state_is_put_back_after_an_error():
    model = Counting()

    def fails(x):
        model(x)
        raise ValueError("of the model's own")

    with pytest.raises(ValueError, match="own"):
        FeatureAblation(fails).attribute(X, target=1)
    assert model.scale == 1 and model.seen is None


class Remembering(nn.Module):
    """Keeps the last rows in an attribute of some form, and adds what it finds there."""

    def __init__(self, form):
        super().__init__()
        self.form = form
        zero = torch.zeros(())
        forms = {"tuple": (zero, 1), "list": [zero], "dict": {"h": [zero]}, "tensor": zero}
        if form in forms:
            self.held = forms[form]

    def forward(self, x):
        last = getattr(self, "held", torch.zeros(()))
        last = last["h"][0] if self.form == "dict" else last
        last = (last[0] if self.form in ("tuple", "list") else last).clone()
        now = x.detach().sum()
        if self.form == "tuple":
            self.held = (now, 1)
        elif self.form == "list":
            self.held[0] = now
        elif self.form == "dict":
            self.held["h"] = [now]
        elif self.form == "tensor":
            self.held.add_(now)
        else:
            self.held = now
        return x + last * x.square()


class RememberingFunction:
    """The same, in an object that is no module."""

    def __init__(self):
        self.last = torch.zeros(())

    def __call__(self, x):
        last, self.last = self.last, x.detach().sum()
        return x + last * x.square()


@pytest.mark.parametrize("method", [InputXGradient, FeatureAblation, DeepLift])
@pytest.mark.parametrize("form", ["tuple", "list", "dict", "tensor", "new", "object"])
def test_tensors_that_a_model_keeps_are_put_back(method, form):
    model = RememberingFunction() if form == "object" else Remembering(form)
    attribute = method(model).attribute
    found, again = attribute(X, target=1), attribute(X, target=1)
    of_target = torch.zeros_like(X)
    of_target[:, 1] = X[:, 1]
    torch.testing.assert_close(found, of_target, rtol=1e-5, atol=1e-6)
    assert torch.equal(found, again)
    held = vars(model).get("last" if form == "object" else "held", torch.zeros(()))
    held = held["h"] if form == "dict" else held
    assert (held if form in ("tensor", "new", "object") else held[0]) == 0


class Cache:
    """Of keys, as decoders have one."""

    def __init__(self, keys):
        self.keys = [keys]


def writes(kind):
    def add(scale):
        if kind == "in place":
            scale += 1
        elif kind == "data":
            scale.data.add_(1)
        else:
            scale.detach().numpy()[...] += 1
        return scale

    return add


HELD = {
    "of rows": lambda: torch.ones(4, 5),
    "of all": lambda: torch.ones(5),
    "list": lambda: [torch.ones(5)],
    "dict": lambda: {"scale": torch.ones(5)},
    "object": lambda: Cache(torch.ones(5)),
    "inference": lambda: [torch.inference_mode()(torch.ones)(5)],
}


def scale_in(held):
    if isinstance(held, Cache):
        return held.keys[0]
    if isinstance(held, list):
        return held[0]
    return held["scale"] if isinstance(held, dict) else held


@pytest.mark.parametrize("held", HELD)
@pytest.mark.parametrize("kind", ["in place", "data", "numpy"])
@pytest.mark.parametrize(
    "method", [InputXGradient, IntegratedGradients, DeepLift, FeatureAblation, KernelShap]
)
def test_every_call_gets_the_extra_arguments_as_they_were_given(method, kind, held):
    extra, add = HELD[held](), writes(kind)

    def model(x, extra):
        return x * add(scale_in(extra))

    options = {"n_samples": 32} if method is KernelShap else {}
    got = method(model).attribute(X, target=1, additional_forward_args=(extra,), **options)
    right = torch.zeros_like(X)
    right[:, 1] = 2 * X[:, 1]
    torch.testing.assert_close(got, right, atol=1e-5, rtol=0)
    assert torch.equal(scale_in(extra), torch.ones_like(scale_in(extra)))


def test_a_graph_may_lead_to_an_extra_argument():
    weight = torch.ones(5, requires_grad=True)
    for extra in (weight, weight * 2):
        got = InputXGradient(lambda x, w: x * w).attribute(
            X, target=1, additional_forward_args=extra
        )
        torch.testing.assert_close(got[:, 1], X[:, 1] * extra[1].detach())
    assert weight.grad is None
