"""DeepExplainer and GradientExplainer beside shap's."""

import numpy as np
import pandas as pd
import pytest
import shap
import torch
from torch import nn

import fastxai
import fastxai.shap


def network(outputs=3, width=6):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.Tanh(),
        nn.Linear(width, outputs),
    )


def rows(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Flat(nn.Module):
    """One number a row, without a dimension for it."""

    def __init__(self):
        super().__init__()
        self.net = network(1)

    def forward(self, x):
        return self.net(x)[:, 0]


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = network()
        self.image = nn.Sequential(nn.Conv2d(1, 2, 2), nn.Sigmoid(), nn.Flatten(), nn.Linear(8, 3))

    def forward(self, x, image):
        return self.net(x) + self.image(image)


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("background", [1, 5])
def test_deep_is_shaps(outputs, background):
    module, x, data = network(outputs), rows(6, 4), rows(background, 4, seed=2)
    theirs, ours = shap.DeepExplainer(module, data), fastxai.shap.DeepExplainer(module, data)
    assert ours.expected_value.dtype == np.float32
    np.testing.assert_allclose(ours.expected_value, theirs.expected_value, atol=1e-6)
    expected, values = theirs.shap_values(x), ours.shap_values(x)
    assert values.shape == expected.shape == (6, 4, outputs) and values.dtype == np.float64
    np.testing.assert_allclose(values, expected, atol=1e-6)


def test_deep_of_a_convolution():
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(27, 2)
    )
    x, data = rows(3, 1, 8, 8), rows(4, 1, 8, 8, seed=2)
    expected = shap.DeepExplainer(module, data).shap_values(x)
    ours = fastxai.shap.DeepExplainer(module, data)
    np.testing.assert_allclose(ours.shap_values(x), expected, atol=1e-6)
    assert ours(x).values.shape == (3, 1, 8, 8, 2)


@pytest.mark.parametrize("order", ["max", "min", "max_abs"])
def test_ranked_outputs_are_shaps(order):
    module, x, data = network(), rows(6, 4), rows(5, 4, seed=2)
    theirs = shap.DeepExplainer(module, data)
    expected, chosen = theirs.shap_values(x, 2, order, check_additivity=False)
    values, indices = fastxai.shap.DeepExplainer(module, data).shap_values(x, 2, order)
    assert indices.dtype == torch.int64 and torch.equal(indices, chosen)
    np.testing.assert_allclose(values, expected, atol=1e-6)
    explainer = fastxai.shap.GradientExplainer(module, data)
    values, indices = explainer.shap_values(x, 100, 2, order, rseed=0)
    every = explainer.shap_values(x, 100, rseed=0)
    assert torch.equal(indices, chosen)
    np.testing.assert_allclose(
        values, np.take_along_axis(every, chosen[:, None].numpy(), 2), atol=1e-6
    )


@pytest.mark.parametrize("kind", ["DeepExplainer", "GradientExplainer"])
def test_several_inputs_come_as_lists(kind):
    module, x = Two(), [rows(3, 4), rows(3, 1, 3, 3)]
    data = [rows(5, 4, seed=2), rows(5, 1, 3, 3, seed=3)]
    expected = getattr(shap, kind)(module, data).shap_values(x)
    ours = getattr(fastxai.shap, kind)(module, data)
    values = ours.shap_values(x)
    assert isinstance(values, list)
    assert [v.shape for v in values] == [v.shape for v in expected] == [(3, 4, 3), (3, 1, 3, 3, 3)]
    atol = 1e-6 if kind == "DeepExplainer" else 0.5
    for value, peers in zip(values, expected, strict=True):
        np.testing.assert_allclose(value, peers, atol=atol)
    total = sum(v.reshape(3, -1, 3).sum(1) for v in values) + ours.expected_value
    outputs = module(*x).detach().numpy()
    np.testing.assert_allclose(total, outputs, atol=1e-5 if kind == "DeepExplainer" else 0.1)
    assert [e.values.shape for e in ours(x)] == [(3, 4, 3), (3, 1, 3, 3, 3)]


def test_gradient_converges_to_integrated_gradients():
    module, x, data = network().double(), rows(4, 4).double(), rows(3, 4, seed=2).double()
    ours = fastxai.shap.GradientExplainer(module, data)
    values = ours.shap_values(x, nsamples=3000, rseed=0)
    method = fastxai.IntegratedGradients(module)
    for c in range(3):
        each = [method.attribute(x, b[None], target=c, n_steps=200) for b in data]
        np.testing.assert_allclose(values[..., c], torch.stack(each).mean(0).numpy(), atol=1e-2)
    np.testing.assert_array_equal(values, ours.shap_values(x, nsamples=3000, rseed=0))


@pytest.mark.parametrize("kind", ["DeepExplainer", "GradientExplainer"])
def test_one_output_without_a_dimension(kind):
    module, x, data = Flat(), rows(4, 4), rows(5, 4, seed=2)
    ours = getattr(fastxai.shap, kind)(module, data)
    beside = getattr(fastxai.shap, kind)(module.net, data)
    options = {} if kind == "DeepExplainer" else {"rseed": 0}
    values = ours.shap_values(x, **options)
    assert values.shape == (4, 4, 1) and ours.expected_value.shape == (1,)
    np.testing.assert_allclose(values, beside.shap_values(x, **options), atol=1e-6)


@pytest.mark.parametrize("kind", ["DeepExplainer", "GradientExplainer"])
@pytest.mark.parametrize("form", [np.array, lambda x: pd.DataFrame(x.numpy(), columns=[*"abcd"])])
def test_other_data_and_the_explanation(kind, form):
    module, x, data = nn.Sequential(network(), nn.Dropout()), rows(4, 4), rows(5, 4, seed=2)
    explainer = getattr(fastxai.shap, kind)(module, form(data))
    found = explainer(form(x))
    assert module.training and module[1].training
    module.eval()
    assert all(p.grad is None for p in module.parameters())
    assert isinstance(found.data, np.ndarray) and found.base_values.shape == (4, 3)
    named = [*"abcd"] if form is not np.array else [f"Feature {i}" for i in range(4)]
    assert found.feature_names == named and found.output_names == [f"Output {i}" for i in range(3)]
    total = found.values.sum(1) + found.base_values
    np.testing.assert_allclose(total, module(x).detach(), atol=1e-5 if "Deep" in kind else 0.1)
    one = found[1, :, 2].to_shap()
    assert one.values.shape == (4,) and np.ndim(one.base_values) == 0


@pytest.mark.parametrize("kind", ["DeepExplainer", "GradientExplainer"])
def test_a_layers_input(kind):
    module, x, data = network(), rows(4, 4), rows(5, 4, seed=2)
    explainer = getattr(fastxai.shap, kind)((module, module[4]), data)  # of 6 inputs, 3 outputs
    values = explainer.shap_values(x)
    assert values.shape == (4, 6, 3)
    total = values.sum(1) + explainer.expected_value
    atol = 1e-5 if kind == "DeepExplainer" else 0.1
    np.testing.assert_allclose(total, module(x).detach(), atol=atol)


@pytest.mark.parametrize("kind", ["DeepExplainer", "GradientExplainer"])
def test_bad_arguments(kind):
    make = getattr(fastxai.shap, kind)
    module, x, data = network(), rows(4, 4), rows(5, 4, seed=2)
    explainer = make(module, data)
    for call, match in (
        (lambda: make(lambda z: z, data), "model: expected a torch module"),
        (lambda: make((module, "2"), data), "model: expected a torch module, or a pair"),
        (lambda: make(module, data[:0]), "data: expected at least one row"),
        (lambda: make(module, data, output_names=["a"]), "output_names: expected 3"),
        (lambda: make(module, data, feature_names=["a"]), "feature_names: expected 4"),
        (lambda: explainer.shap_values(x[:, :3]), r"X: expected rows \[B, \*F\] with F \(4,\)"),
        (lambda: explainer.shap_values(x[0]), r"X: expected rows \[B, \*F\] with F \(4,\)"),
        (lambda: make(module, [data, data[:2]]), r"data\[1\]: expected as many rows as data"),
        (lambda: explainer.shap_values(x, ranked_outputs=0), "ranked_outputs"),
        (
            lambda: explainer.shap_values(x, ranked_outputs=1, output_rank_order="best"),
            "output_rank_order: expected one of max, min, max_abs",
        ),
    ):
        with pytest.raises(fastxai.ArgumentError, match=match):
            call()


def test_variances_are_those_of_the_mean():
    module, x, data = network().double(), rows(2, 4).double(), rows(3, 4, seed=2).double()
    explainer = fastxai.shap.GradientExplainer(module, data)
    n = 5000
    values, variances = explainer.shap_values(x, n, rseed=0, return_variances=True)
    np.testing.assert_allclose(values, explainer.shap_values(x, n, rseed=0), atol=1e-12)
    assert len(variances) == 3 and variances[0].shape == (2, 4)
    draw = np.random.default_rng(0)
    point, which = torch.from_numpy(draw.random((n, 1, 1))), draw.integers(3, size=n)
    apart = x - data[which][:, None]
    path = (data[which][:, None] + point * apart).requires_grad_()
    for c in range(3):
        (gradient,) = torch.autograd.grad(module(path)[..., c].sum(), path)
        expected = (gradient * apart).detach().numpy().var(0) / n
        np.testing.assert_allclose(variances[c], expected, rtol=0.15)
    several = explainer.shap_values(x, 50, 2, rseed=0, return_variances=True)
    assert len(several) == 3 and len(several[1]) == 2 and several[2].shape == (2, 2)


def test_variances_of_several_inputs():
    x = [rows(3, 4), rows(3, 1, 3, 3)]
    data = [rows(5, 4, seed=2), rows(5, 1, 3, 3, seed=3)]
    explainer = fastxai.shap.GradientExplainer(Two(), data)
    _, variances = explainer.shap_values(x, 20, rseed=0, return_variances=True)
    assert [[v.shape for v in each] for each in variances] == [[(3, 4), (3, 1, 3, 3)]] * 3
    module = network()
    layered = fastxai.shap.GradientExplainer((module, module[2]), data[0])
    with pytest.raises(fastxai.ArgumentError, match="return_variances: expected False for a layer"):
        layered.shap_values(x[0], 20, return_variances=True)


class Sum(nn.Module):
    """Both inputs get the same gradient, as one tensor."""

    def __init__(self):
        super().__init__()
        self.net, self.calls = network(), []

    def forward(self, x, y):
        self.calls.append(len(x))
        return self.net(x + y)


@pytest.mark.parametrize("ranked", [None, 2])
@pytest.mark.parametrize("kind", ["DeepExplainer", "GradientExplainer"])
def test_all_outputs_come_of_one_call(kind, ranked):
    module, x = Sum(), [rows(3, 4), rows(3, 4, seed=2)]
    data = [rows(5, 4, seed=3), rows(5, 4, seed=4)]
    options = {} if kind == "DeepExplainer" else {"nsamples": 20, "rseed": 0}
    explainer = getattr(fastxai.shap, kind)(module, data)
    module.calls.clear()
    found = explainer.shap_values(x, ranked_outputs=ranked, **options)
    count = 15 if kind == "DeepExplainer" else 60
    assert module.calls.count(count) == 1
    values, ranks = (found, None) if ranked is None else found
    for k in range(3 if ranked is None else 2):
        target = k if ranks is None else ranks[:, k]
        if kind == "DeepExplainer":
            each = fastxai.DeepLiftShap(module).attribute(tuple(x), tuple(data), target)
        else:
            each = fastxai.GradientShap(module).attribute(
                tuple(x), tuple(data), 20, target=target, seed=0
            )
        for value, expected in zip(values, each, strict=True):
            np.testing.assert_allclose(value[..., k], expected.numpy(), atol=1e-7)


class Once(torch.autograd.Function):
    """As code of torch.compile is, whose graph cannot be kept."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        if torch._C._autograd._get_current_graph_task_keep_graph():
            raise RuntimeError("expected create_graph=False and retain_graph=False")
        return gradient


class UsesUp(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = network()

    def forward(self, x):
        return Once.apply(self.net(x))


@pytest.mark.filterwarnings("ignore:DeepLift")
@pytest.mark.parametrize("kind", ["DeepExplainer", "GradientExplainer"])
def test_a_graph_that_cannot_be_kept(kind):
    module, x, data = UsesUp(), rows(3, 4), rows(5, 4, seed=2)
    options = {} if kind == "DeepExplainer" else {"rseed": 0}
    found = getattr(fastxai.shap, kind)(module, data).shap_values(x, **options)
    expected = getattr(fastxai.shap, kind)(module.net, data).shap_values(x, **options)
    np.testing.assert_allclose(found, expected, atol=1e-7)


@pytest.mark.parametrize("kind", ["DeepExplainer", "GradientExplainer"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves(kind, dtype):
    module, x, data = network(), rows(4, 4), rows(5, 4, seed=2)
    options = {} if kind == "DeepExplainer" else {"rseed": 0}
    expected = getattr(fastxai.shap, kind)(module, data).shap_values(x, **options)
    explainer = getattr(fastxai.shap, kind)(module.to(dtype), data)
    narrow = np.float16 if dtype == torch.float16 else np.float32
    assert explainer.expected_value.dtype == narrow
    np.testing.assert_allclose(explainer.shap_values(x, **options), expected, atol=0.05)


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, gradient):
        return 3 * ctx.saved_tensors[0] ** 2 * gradient


class Cubed(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = network()

    def forward(self, x):
        return Cube.apply(self.net(x))


def test_one_warning_tells_of_all_outputs():
    explainer = fastxai.shap.DeepExplainer(Cubed(), rows(5, 4, seed=2))
    with pytest.warns(UserWarning, match=r"DeepLift: attributions miss .*no rule for Cube") as told:
        explainer.shap_values(rows(3, 4))
    assert len([w for w in told if "DeepLift" in str(w.message)]) == 1
