"""Every rule on its own: exact values, multipliers that add up, in both ways of pairing rows."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastxai import ArgumentError, DeepLift, DeepLiftShap
from fastxai.core.intercept.deep_lift import Lifted
from fastxai.core.intercept.multipliers import elementwise

EXACT = {"rtol": 1e-9, "atol": 1e-10}


def randn(*shape: int) -> Tensor:
    torch.manual_seed(sum(shape))
    return torch.randn(*shape, dtype=torch.float64)


def multipliers(function, x, baselines, eps=1e-10):
    leaf = x.clone().requires_grad_()
    y = Lifted(function, 1, eps)(leaf, baselines)
    torch.testing.assert_close(y.detach(), function(x.clone()).detach(), rtol=1e-12, atol=1e-12)
    (found,) = torch.autograd.grad(y.sum(), leaf)
    return found


def check_completeness(function, x, baselines):
    each = len(x) // len(baselines)
    found = multipliers(function, x, baselines)
    pairs = baselines.repeat_interleave(each, 0)
    got = (found * (x - pairs)).flatten(1).sum(1)
    change = function(x.clone()) - function(pairs.clone())
    expected = change.reshape(len(x), -1).sum(1)
    torch.testing.assert_close(got, expected, **EXACT)
    torch.testing.assert_close(found, multipliers(function, x, pairs), **EXACT)
    assert found.abs().max() > 0


ONE_TO_ONE = {
    "relu": F.relu,
    "relu, in place": lambda x: (x * 1).relu_(),
    "relu, of a view": lambda x: ((y := x * 1)[:, :2].relu_(), y)[1],
    "then written to": lambda x: F.silu(x.tanh_()).add_(1).mul_(2),
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2, True),
    "elu": lambda x: F.elu(x, alpha=0.7),
    "celu, selu": lambda x: F.celu(F.selu(x)),
    "silu": lambda x: F.silu(x, inplace=True),
    "gelu": F.gelu,
    "gelu, tanh": lambda x: F.gelu(x, approximate="tanh"),
    "sigmoid": torch.sigmoid,
    "tanh": lambda x: x.tanh(),
    "softplus": F.softplus,
    "hardtanh, relu6": lambda x: F.hardtanh(x) + F.relu6(x),
    "hardswish, hardsigmoid": lambda x: F.hardswish(x) + F.hardsigmoid(x),
    "mish, logsigmoid": lambda x: F.mish(x) + F.logsigmoid(x),
    "exp, log, sqrt": lambda x: (x.exp() + 1).log().sqrt(),
    "abs, clamp": lambda x: x.abs().clamp(0.1, 0.8) + x.clamp_min(0),
    "powers": lambda x: x**2 + x.square() + 2**x + x.abs() ** 1.5,
    "reciprocal": lambda x: 1 / (x**2 + 1) + x.exp().reciprocal() + x / 3,
    "threshold, prelu": lambda x: F.threshold(x, 0.1, 0) + F.prelu(x, torch.full((1,), 0.2).to(x)),
    "erf, sin": lambda x: torch.erf(x) + x.sin(),
    "keywords": lambda x: torch.relu(input=x) + F.softplus(input=x, beta=2),
}
SEVERAL_TO_MANY = {
    "softmax": lambda x: x.softmax(-1)[..., 0],
    "softmax by keyword": lambda x: F.softmax(x * 3, dim=1)[:, 0],
    "log_softmax": lambda x: F.log_softmax(x, 2)[..., 1],
    "softmin": lambda x: F.softmin(x, 2)[..., 1],
    "logsumexp": lambda x: x.logsumexp((1, 2)),
    "masked softmax": lambda x: x.masked_fill(~MASK, -torch.inf).softmax(-1)[..., 0],
    "layer norm": lambda x: F.layer_norm(x, (4,), W4, W4, 1e-3) ** 3,
    "layer norm of two": lambda x: F.layer_norm(x, (6, 4))[:, 0],
    "group norm": lambda x: F.group_norm(x, 3, W6, W6)[..., 1],
    "instance norm": lambda x: F.instance_norm(x, weight=W6)[..., 1],
    "rms norm": lambda x: F.rms_norm(x, (4,), W4)[..., 1],
    "norm by hand": lambda x: ((x - x.mean(-1, True)) / (x.var(-1, keepdim=True) + 1e-3).sqrt())[
        ..., 0
    ],
    "std": lambda x: x / (x.std(dim=-1, unbiased=False, keepdim=True) + 0.1),
    "normalize": lambda x: F.normalize(x, dim=-1)[..., 1],
    "product": lambda x: x[:, :3] * x[:, 3:] + x[:, 1:4] * x[:, 1:4] + W4 * (y := x[:, :3]) * y,
    "product in place": lambda x: (x * 1).mul_(x.exp()),
    "quotient": lambda x: x[:, :3] / (x[:, 3:] ** 2 + 1),
    "quotient in place": lambda x: (x * 1).div_(x.exp()),
    "broadcast": lambda x: x * x.mean(1, keepdim=True),
    "matmul": lambda x: x @ x.transpose(1, 2) @ x,
    "bmm": lambda x: torch.bmm(x, x.transpose(1, 2)),
    "baddbmm": lambda x: torch.baddbmm(x, x, x[:, :4].tanh(), beta=0.5, alpha=2),
    "einsum": lambda x: torch.einsum("bij,bkj->bik", x, x.exp()),
    "maximum": lambda x: torch.maximum(x[:, :3], x[:, 3:]) + torch.minimum(x[:, :3], x[:, 3:]),
    "glu": lambda x: F.glu(x, 1),
    "attention": lambda x: F.scaled_dot_product_attention(x, x.tanh(), x),
    "attention, causal": lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True),
    "attention, mask": lambda x: F.scaled_dot_product_attention(x, x, x, MASK66, scale=0.3),
    "attention, a query sees no key": lambda x: F.scaled_dot_product_attention(
        x, x, F.scaled_dot_product_attention(x, x, x, BLIND)
    ),
    "attention, added -inf": lambda x: F.scaled_dot_product_attention(
        x, x, x, torch.zeros(6, 6).to(x).masked_fill(~BLIND, -torch.inf)
    ),
    "attention by hand, a query sees no key": lambda x: (
        (x @ x.mT).masked_fill(~BLIND, -torch.inf).softmax(-1).nan_to_num(0) @ x
    ),
    "max pool 1d": lambda x: F.max_pool1d(x, 3, 1, 1),
    "max pool 2d": lambda x: F.max_pool2d(x[:, None], 3, 2, 1, ceil_mode=True),
    "max pool 3d": lambda x: F.max_pool3d(x[:, None, None], (1, 2, 2)),
    "max pool, indices": lambda x: F.max_pool1d(x, 2, return_indices=True)[0],
    "cosine similarity": lambda x: F.cosine_similarity(x[:, :3], x[:, 3:].exp(), dim=-1),
    "max along a dimension": lambda x: x.max(1).values + x.max(dim=1, keepdim=True)[0][:, 0],
    "amax": lambda x: x.amax((1, 2)) + torch.amax(x, dim=(-1, 1)),
    "softmax by hand": lambda x: ((e := (x - x.amax(-1, True)).exp()) / e.sum(-1, True))[..., 0],
    "norm": lambda x: (
        x / (x.norm(dim=-1, keepdim=True) + torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True))
    ),
    "integer factor": lambda x: (x * torch.arange(4)) ** 2,
    "adaptive max pool": lambda x: nn.AdaptiveMaxPool1d(2)(x) + F.adaptive_max_pool2d(x, (1, 2)),
    "rows behind": lambda x: x.transpose(0, 1).softmax(-1).transpose(0, 1)[..., 0],
    "rows merged": lambda x: (x.reshape(-1, 4) * x.reshape(-1, 4).exp()).reshape(x.shape),
}
W4, W6, MASK = randn(4), randn(6), torch.tensor([True, False, True, True])
MASK66 = torch.ones(6, 6, dtype=torch.bool).tril()
BLIND = MASK66.clone().index_fill(0, torch.tensor([0, 3]), False)


@pytest.mark.parametrize("baselines", [1, 2, 6])
@pytest.mark.parametrize("name", {**ONE_TO_ONE, **SEVERAL_TO_MANY})
def test_multipliers_add_up(name, baselines):
    function = {**ONE_TO_ONE, **SEVERAL_TO_MANY}[name]
    check_completeness(function, 1.5 * randn(6, 6, 4), randn(baselines, 6, 4))


@pytest.mark.parametrize("name", ONE_TO_ONE)
def test_one_to_one_is_the_rescale_rule(name):
    x, baseline = 1.5 * randn(6, 6, 4), randn(1, 6, 4)
    function = ONE_TO_ONE[name]
    with torch.no_grad():
        expected = (function(x.clone()) - function(baseline.clone())) / (x - baseline)
    if name not in ("reciprocal", "abs, clamp", "powers"):  # those add several
        torch.testing.assert_close(multipliers(function, x, baseline), expected, **EXACT)


@pytest.mark.parametrize("name", [n for n in ONE_TO_ONE if "in place" not in n and "view" not in n])
def test_where_nothing_differs_the_gradient_is_used(name):
    x = randn(3, 6, 4)
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(ONE_TO_ONE[name](leaf * 1).sum(), leaf)
    torch.testing.assert_close(multipliers(ONE_TO_ONE[name], x, x), expected, **EXACT)


@pytest.mark.parametrize("name", SEVERAL_TO_MANY)
def test_near_the_baseline_multipliers_are_gradients(name):
    baseline = randn(3, 6, 4)
    function, leaf = SEVERAL_TO_MANY[name], baseline.clone().requires_grad_()
    (expected,) = torch.autograd.grad(function(leaf).sum(), leaf)
    found = multipliers(function, baseline + 1e-6 * randn(3, 6, 4), baseline)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_a_product_is_split_as_shapley_does():
    x, baseline = randn(5, 2), randn(5, 2) ** 2 - 1
    found = multipliers(lambda x: x[:, 0] * x[:, 1], x, baseline) * (x - baseline)
    (a, b), (c, d) = x.T, baseline.T
    first = ((a * d - c * d) + (a * b - c * b)) / 2  # the mean of what it adds in both orders
    torch.testing.assert_close(found[:, 0], first, **EXACT)
    torch.testing.assert_close(found[:, 1], a * b - c * d - first, **EXACT)


def test_softmax_of_extreme_scores():
    x, baseline = randn(4, 5) * 1000, -randn(4, 5) * 1000
    found = multipliers(lambda x: x.softmax(1)[:, :1], x, baseline)
    change = (x.softmax(1) - baseline.softmax(1))[:, 0]
    torch.testing.assert_close((found * (x - baseline)).sum(1), change, rtol=1e-9, atol=1e-9)
    assert found.isfinite().all()


def test_other_operations_for_the_baselines_are_an_error():
    def function(x):
        return x.relu() if x.sum() > 0 else x.tanh()

    with pytest.raises(ArgumentError, match=r"forward_func: expected the same operations .* tanh"):
        Lifted(function, 1, 1e-10)(-torch.ones(2, 3).requires_grad_(), torch.ones(2, 3))
    with pytest.raises(ArgumentError, match=r"forward_func: expected the same operations .* relu"):
        Lifted(lambda x: x.relu() if x.sum() > 0 else x, 1, 1e-10)(
            -torch.ones(2, 3).requires_grad_(), torch.ones(2, 3)
        )


def _written_afterwards(x):
    h = 2 * x
    y = h.tanh()
    h.add_(1)
    return h * y


def _result_written_afterwards(x):
    y = x.tanh()
    z = y * 3
    y.mul_(2)
    return y + z


def _written_unnoticed(x):
    h = 2 * x
    y = h.tanh()
    h.data.mul_(3)
    return y


@pytest.mark.parametrize(
    "function", [_written_afterwards, _result_written_afterwards, _written_unnoticed]
)
def test_values_are_those_before_the_model_writes_to_them(function):
    x = randn(4, 3)
    check_completeness(function, x, randn(2, 3))
    check_completeness(function, x, randn(1, 3))


@pytest.mark.parametrize("close", [False, True])
def test_gradients_are_taken_only_where_input_and_baseline_are_close(close, monkeypatch):
    taken = []
    real = elementwise.gradient_of
    monkeypatch.setattr(elementwise, "gradient_of", lambda *a: taken.append(1) or real(*a))
    x, baseline = randn(4, 3).abs() + 1, torch.zeros(1, 3, dtype=torch.float64)
    expected = x.tanh() / x
    if close:
        x[1, 2], expected[1, 2] = 0, 1
    torch.testing.assert_close(multipliers(torch.tanh, x, baseline), expected, **EXACT)
    assert bool(taken) is close


def test_what_has_no_rule_is_told_and_keeps_its_gradient():
    x, baseline = randn(3, 4), randn(1, 4)
    leaf = x.clone().requires_grad_()
    lifted = Lifted(lambda x: x.tanh().logcumsumexp(1), 1, 1e-10)
    y = lifted(leaf, baseline)
    assert [function.__name__ for function in lifted.unruled] == ["logcumsumexp"]
    (found,) = torch.autograd.grad(y.sum(), leaf)
    inner = x.tanh().requires_grad_()
    (expected,) = torch.autograd.grad(inner.logcumsumexp(1).sum(), inner)
    multiplier = (x.tanh() - baseline.tanh()) / (x - baseline)
    torch.testing.assert_close(found, expected * multiplier, **EXACT)


def test_masks_with_rows_are_as_masks_without(monkeypatch):
    """One baseline is there for all inputs, and so is its mask."""
    asked = []
    monkeypatch.setattr(elementwise, "_shapley", lambda *_: asked.append(1))

    def function(x):
        mask = torch.ones(len(x), 6, 4, dtype=torch.bool).tril()
        return torch.where(mask, x, -torch.inf).softmax(-1)[..., 0] + (x * mask)[..., 1]

    check_completeness(function, randn(6, 6, 4), randn(1, 6, 4))
    assert not asked


HIDING = {
    "softmax": lambda s, x: (s.softmax(-1) * x).sum(-1),
    "log_softmax": lambda s, x: s.log_softmax(-1)[..., 0],
    "logsumexp": lambda s, x: s.logsumexp(-1),
    "max": lambda s, x: s.amax(-1) + s.max(-1).values,
}


@pytest.mark.parametrize("hidden", [-torch.inf, torch.finfo(torch.float64).min, -1e30, -1e4])
@pytest.mark.parametrize("name", HIDING)
@pytest.mark.parametrize("baselines", [1, 6])
def test_what_a_mask_hides_at_one_end_alone(name, hidden, baselines):
    """Padding of the inputs is elsewhere than that of the baselines, say; nothing is infinite."""

    def function(x):
        visible = F.pad(x[:, :, 1:] > -0.5, (1, 0), value=True)
        return HIDING[name](x.masked_fill(~visible, hidden), x)

    check_completeness(function, randn(6, 6, 4), randn(baselines, 6, 4))


@pytest.mark.parametrize("function", [torch.relu, torch.tanh])
def test_a_row_of_nan_leaves_the_others_alone(function):
    x, baselines = randn(3, 4), randn(3, 4)
    x[1] = torch.nan
    x[0, 0] = baselines[0, 0]
    leaf = x.clone().requires_grad_()
    Lifted(function, 1, 1e-10)(leaf, baselines).sum().backward()
    assert leaf.grad[1].isnan().all()
    alone = multipliers(function, x[[0, 2]], baselines[[0, 2]])
    torch.testing.assert_close(leaf.grad[[0, 2]], alone, **EXACT)


@pytest.mark.parametrize("first", [nn.ReLU(inplace=True), nn.ReLU(), nn.Identity(), nn.Flatten()])
def test_inputs_and_baselines_of_a_chain_of_layers_stay_as_they_are(first):
    model = nn.Sequential(first, nn.Linear(5, 4), nn.ReLU(inplace=True), nn.Linear(4, 2)).double()
    x, baselines = randn(3, 5), randn(2, 5)
    before = x.clone(), baselines.clone()
    found = DeepLiftShap(model).attribute(x, baselines, target=1)
    change = model(x.clone())[:, 1] - model(baselines.clone())[:, 1].mean()
    torch.testing.assert_close(found.sum(1), change.detach())
    assert torch.equal(x, before[0]) and torch.equal(baselines, before[1])
    found = DeepLift(model).attribute(x, baselines[:1], target=1)
    change = model(x.clone())[:, 1] - model(baselines[:1].clone())[:, 1]
    torch.testing.assert_close(found.sum(1), change.detach())
    assert torch.equal(x, before[0]) and torch.equal(baselines, before[1])


def test_what_a_function_writes_unseen_is_not_to_the_inputs():
    layer = nn.Linear(5, 2).double().requires_grad_(False)

    def function(x):
        y = layer(x).relu()
        x.detach().zero_()
        return y

    x, baselines = randn(3, 5), randn(1, 5)
    before = x.clone(), baselines.clone()
    DeepLift(function).attribute(x, baselines, target=1)
    assert torch.equal(x, before[0]) and torch.equal(baselines, before[1])
