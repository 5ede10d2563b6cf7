"""Rows that influence one another: every copy of the batch in a call of its own."""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from fastxai.attr import (
    DeepLift,
    DeepLiftShap,
    FeatureAblation,
    FeaturePermutation,
    GradientShap,
    GuidedBackprop,
    InputXGradient,
    IntegratedGradients,
    KernelShap,
    LayerGradientXActivation,
    LayerIntegratedGradients,
    Lime,
    NoiseTunnel,
    Occlusion,
    Saliency,
    ShapleyValues,
    ShapleyValueSampling,
)
from fastxai.core.checks import ArgumentError
from fastxai.core.engine.independence import is_row_by_row as of_chain
from fastxai.core.estimate.linear_fits import LeastSquares
from fastxai.core.estimate.similarity import ExpKernel
from fastxai.core.modules import modules_of
from fastxai.metrics import infidelity

from ...models import Logged, mlp

NODES, FEATURES = 7, 4
CLOSE = {"rtol": 1e-9, "atol": 1e-9}


class Graph(nn.Module):
    """Rows are nodes, which exchange messages along edges that are an extra argument."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(FEATURES, 8).double(), nn.Linear(8, 3).double()
        self.calls: list[int] = []

    def spread(self, x, edges):
        return x + torch.zeros_like(x).index_add(0, edges[1], x[edges[0]])

    def forward(self, x, edges):
        self.calls.append(len(x))
        return self.last(self.spread(torch.tanh(self.first(self.spread(x, edges))), edges))


class Centred(nn.Module):
    """The mean over the batch comes into every output."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.last = nn.Linear(FEATURES, 8).double(), nn.Linear(8, 3).double()
        self.calls: list[int] = []

    def forward(self, x):
        self.calls.append(len(x))
        h = self.first(x)
        return self.last(torch.tanh(h - h.mean(0)))


class Attends(Centred):
    """Every row attends to all rows, as in a transformer over sets."""

    def forward(self, x):
        self.calls.append(len(x))
        h = self.first(x)
        return self.last((h @ h.T).softmax(1) @ h)


def randn(*shape: int, seed: int = 2) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


X = randn(NODES, FEATURES)
EDGES = torch.randint(0, NODES, (2, 20), generator=torch.Generator().manual_seed(3))
MODELS = {
    "graph": (Graph, (EDGES,)),
    "mean": (Centred, ()),
    "attention": (Attends, ()),
}


@pytest.fixture(params=MODELS)
def case(request):
    make, extra = MODELS[request.param]
    model = make().eval()
    return model, {"target": 1, "additional_forward_args": extra or None}, extra


def game(model, extra, x=X):
    """v(columns): output 1 of every row where all rows have only these columns."""

    def value(columns):
        y = torch.zeros_like(x)
        y[:, list(columns)] = x[:, list(columns)]
        return model(y, *extra)[:, 1].detach()

    return value


def shapley(value):
    everyone, found = range(FEATURES), torch.zeros(NODES, FEATURES, dtype=torch.float64)
    for j in everyone:
        rest = [k for k in everyone if k != j]
        for size in range(FEATURES):
            weight = math.factorial(size) * math.factorial(FEATURES - size - 1)
            for group in itertools.combinations(rest, size):
                gain = value([*group, j]) - value(group)
                found[:, j] += weight / math.factorial(FEATURES) * gain
    return found


@pytest.mark.parametrize(
    ("method", "options"),
    [
        (ShapleyValues, {}),
        (KernelShap, {"n_samples": 16}),
        (KernelShap, {"n_samples": 16, "background": torch.zeros(2, FEATURES).double()}),
        (KernelShap, {"n_samples": "auto", "seed": 0}),
    ],
)
def test_shapley_values_of_interacting_rows(case, method, options):
    model, asked, extra = case
    expected = shapley(game(model, extra))
    model.calls.clear()
    found = method(model).attribute(X, **asked, **options)
    torch.testing.assert_close(found, expected, **CLOSE)
    # But for the call that found out, every call had every row once.
    assert sum(n != NODES for n in model.calls) <= 2


def test_shapley_sampling_adds_up(case):
    model, asked, extra = case
    value = game(model, extra)
    found = ShapleyValueSampling(model).attribute(X, n_samples=6, seed=0, **asked)
    torch.testing.assert_close(found.sum(1), value(range(FEATURES)) - value([]), **CLOSE)


@pytest.mark.parametrize(
    ("method", "options"), [(FeatureAblation, {}), (Occlusion, {"sliding_window_shapes": (1,)})]
)
@pytest.mark.parametrize("limit", [None, 1, 3])
def test_drops_of_interacting_rows(case, method, options, limit):
    model, asked, extra = case
    value, everyone = game(model, extra), range(FEATURES)
    drops = [value(everyone) - value([k for k in everyone if k != j]) for j in everyone]
    found = method(model).attribute(X, perturbations_per_eval=limit, **asked, **options)
    torch.testing.assert_close(found, torch.stack(drops, 1), **CLOSE)


def test_features_that_do_nothing_do_not_part_rows_that_interact(case):
    model, asked, extra = case
    x = X.clone()
    x[2, 1] = x[5, :3] = 0
    value, everyone = game(model, extra, x), range(FEATURES)
    drops = [value(everyone) - value([k for k in everyone if k != j]) for j in everyone]
    found = FeatureAblation(model).attribute(x, **asked)
    torch.testing.assert_close(found, torch.stack(drops, 1), **CLOSE)


def test_lime_of_interacting_rows(case):
    model, asked, extra = case
    # All coalitions, of nearly the same weight: least squares are differences of means.
    value, columns = game(model, extra), range(FEATURES)
    means = torch.zeros(NODES, FEATURES, dtype=torch.float64)
    for coins in itertools.product((0, 1), repeat=FEATURES):
        y = value([k for k in columns if coins[k]])
        for k in columns:
            means[:, k] += (2 * coins[k] - 1) * y / 2 ** (FEATURES - 1)
    kernel = ExpKernel("euclidean", 1e4)
    found = Lime(model, LeastSquares(), kernel).attribute(X, n_samples=16, seed=0, **asked)
    torch.testing.assert_close(found, means, rtol=1e-6, atol=1e-6)
    mine = Lime(model, LeastSquares(), lambda *args, **kwargs: 1.0)
    with pytest.raises(ArgumentError, match=r"^similarity_func: .*rows that do not influence"):
        mine.attribute(X, n_samples=16, seed=0, **asked)


def gradients(model, x, extra):
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(model(leaf, *extra)[:, 1].sum(), leaf)[0]


def test_paths_of_interacting_rows(case):
    model, asked, extra = case
    steps = (torch.arange(10).double() + 0.5) / 10
    mean = torch.stack([gradients(model, a * X, extra) for a in steps]).mean(0)
    ig = IntegratedGradients(model)
    model.calls.clear()
    found = ig.attribute(X, n_steps=10, method="riemann_middle", **asked)
    torch.testing.assert_close(found, X * mean, **CLOSE)
    assert sum(n != NODES for n in model.calls) == 1
    if extra:  # the first layer sees the rows after an exchange of messages
        return
    found = LayerIntegratedGradients(model, model.first).attribute(
        X, n_steps=10, method="riemann_middle", attribute_to_layer_input=True, **asked
    )
    torch.testing.assert_close(found, X * mean, **CLOSE)


def test_gradients_of_interacting_rows(case):
    model, asked, extra = case
    expected = gradients(model, X, extra)
    found = Saliency(model).attribute(X, abs=False, **asked)
    torch.testing.assert_close(found, expected, **CLOSE)
    torch.testing.assert_close(InputXGradient(model).attribute(X, **asked), X * expected, **CLOSE)
    tunnel = NoiseTunnel(Saliency(model))
    found = tunnel.attribute(X, nt_samples=5, stdevs=0.0, abs=False, **asked)
    torch.testing.assert_close(found, expected, **CLOSE)
    zero = torch.zeros(1, FEATURES).double()
    shap = GradientShap(model).attribute(X, zero, n_samples=5, stdevs=0.0, seed=0, **asked)
    assert shap.isfinite().all()


def test_many_rows_that_interact_come_in_one_call():
    torch.manual_seed(0)
    x, edges = randn(3000, FEATURES), torch.randint(0, 3000, (2, 9000))
    model, asked = Graph().eval(), {"target": 1, "additional_forward_args": (edges,)}
    expected = gradients(model, x, (edges,))
    found = Saliency(model).attribute(x, abs=False, **asked)
    torch.testing.assert_close(found, expected, **CLOSE)
    total = (model(x, edges) - model(0 * x, edges))[:, 1].sum()
    torch.testing.assert_close(DeepLift(model).attribute(x, **asked).sum(), total, **CLOSE)


def test_the_decision_is_of_the_call():
    graph, rows = Graph().eval(), mlp().double()
    model = lambda x, edges: graph(x, edges) if edges is not None else rows(x.repeat(1, 2)[:, :7])  # noqa: E731
    explainer = KernelShap(model)
    alone = explainer.attribute(X, target=1, additional_forward_args=(None,), n_samples=16)
    explainer.attribute(X, target=1, additional_forward_args=(EDGES,), n_samples=16)
    again = explainer.attribute(X, target=1, additional_forward_args=(None,), n_samples=16)
    assert torch.equal(alone, again)


class OneAtATime(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(FEATURES, 3).double()

    def forward(self, x):
        if len(x) != 1:
            raise RuntimeError("one row at a time")
        return torch.tanh(self.layer(x))


@pytest.mark.parametrize(
    ("method", "options"),
    [
        (FeatureAblation, {}),
        (ShapleyValues, {}),
        (KernelShap, {"n_samples": 12, "seed": 0}),
        (Lime, {"n_samples": 12, "seed": 0}),
        (IntegratedGradients, {}),
        (NoiseTunnel, {"seed": 0}),
    ],
)
def test_a_model_of_one_row(method, options):
    model, x = OneAtATime(), X[:1]
    free = lambda z: torch.tanh(model.layer(z))  # noqa: E731
    of = lambda f: NoiseTunnel(Saliency(f)) if method is NoiseTunnel else method(f)  # noqa: E731
    found = of(model).attribute(x, target=1, **options)
    torch.testing.assert_close(found, of(free).attribute(x, target=1, **options), **CLOSE)


def test_the_users_own_error():
    def model(x):
        raise KeyError("mine")

    for method in (FeatureAblation(model), IntegratedGradients(model)):
        with pytest.raises(KeyError, match="mine"):
            method.attribute(X, target=1)


def test_independent_rows_are_stacked():
    logged = Logged(mlp().double())
    FeatureAblation(logged).attribute(randn(5, 7), target=1)
    assert logged.rows == [5, 5, 10, 35]  # the inputs, less one feature, both, less each feature


METHODS_OF_A_TUNNEL = [IntegratedGradients, FeatureAblation, KernelShap, DeepLift]


@pytest.mark.parametrize("method", METHODS_OF_A_TUNNEL)
def test_noise_tunnels_over_methods(case, method):
    model, asked, _ = case
    options = {"n_samples": 20} if method is KernelShap else {}
    one_by_one = NoiseTunnel(method(model))
    samples = [
        one_by_one.attribute(
            X, nt_samples=4, nt_samples_batch_size=1, stdevs=0.3, seed=5, **options, **asked
        ),
        one_by_one.attribute(X, nt_samples=4, stdevs=0.3, seed=5, **options, **asked),
    ]
    torch.testing.assert_close(*samples, **CLOSE)


def test_noise_tunnel_with_a_matrix_of_the_batch():
    matrix = randn(NODES, NODES, seed=4)
    model = lambda x, a: torch.tanh(a @ x)  # noqa: E731
    tunnel = NoiseTunnel(IntegratedGradients(model))
    found = tunnel.attribute(X, stdevs=0.0, target=1, additional_forward_args=matrix)
    expected = IntegratedGradients(model).attribute(X, target=1, additional_forward_args=matrix)
    torch.testing.assert_close(found, expected, **CLOSE)


@pytest.mark.parametrize(
    "mix", [lambda x: x.cumsum(0), lambda x: x + x.sum(0), lambda x: x * x.flip(0).exp()]
)
@pytest.mark.parametrize("method", [DeepLift, DeepLiftShap])
def test_baselines_of_interacting_rows(mix, method):
    """Every example has a baseline of its own in the pass at the baselines."""
    net = nn.Sequential(nn.Linear(FEATURES, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    model, baselines = (lambda x: net(mix(x)).sin()), randn(2, FEATURES, seed=6)
    if method is DeepLift:
        baselines = baselines[:1]
    found = method(model).attribute(X, baselines, target=1)
    many = [DeepLift(model).attribute(X, b.expand_as(X).clone(), target=1) for b in baselines]
    torch.testing.assert_close(found, torch.stack(many).mean(0), **CLOSE)
    drop = sum((model(X) - model(b.expand_as(X)))[:, 1].sum() for b in baselines) / len(baselines)
    torch.testing.assert_close(found.sum(), drop, **CLOSE)


class Grouped(nn.Module):
    """So many rows after one another share their mean."""

    def __init__(self, size: int) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.size, self.first = size, nn.Linear(FEATURES, 300).double()
        self.last = nn.Linear(300, 2).double()

    def forward(self, x):
        h = torch.tanh(self.first(x)).split(self.size)
        return self.last(torch.cat([part - part.mean(0) for part in h]))


@pytest.mark.thin("rows")
@pytest.mark.parametrize("size", [2, 7, 30])
@pytest.mark.parametrize("rows", [4200, 5000])
def test_groups_are_not_cut(size, rows):
    model, x = Grouped(size), randn(rows, FEATURES)
    drops = []
    for j in range(FEATURES):
        without = x.clone()
        without[:, j] = 0
        drops.append((model(x) - model(without))[:, 1].detach())
    found = FeatureAblation(model).attribute(x, target=1)
    torch.testing.assert_close(found, torch.stack(drops, 1), **CLOSE)
    mean = torch.stack([gradients(model, a * x, ()) for a in (0.25, 0.75)]).mean(0)
    found = IntegratedGradients(model).attribute(x, n_steps=2, method="riemann_middle", target=1)
    torch.testing.assert_close(found, x * mean, **CLOSE)


def test_a_batch_that_may_be_too_large(monkeypatch):
    """By the guess of what a row takes it is not given whole, unless rows interact."""
    monkeypatch.setattr("fastxai.core.engine.blocks._MOST_WHOLE", 1000)
    for model in (Grouped(2), Grouped(9), Centred()):
        x = randn(90, FEATURES)
        whole = gradients(model, x, ())
        found = Saliency(model).attribute(x, target=1, abs=False)
        torch.testing.assert_close(found, whole, **CLOSE)
        without = x.clone()
        without[:, 0] = 0
        drop = (model(x) - model(without))[:, 1].detach()
        found = FeatureAblation(model).attribute(x, target=1)[:, 0]
        torch.testing.assert_close(found, drop, **CLOSE)


@pytest.mark.parametrize("limit", [None, NODES, 2 * NODES, 5 * NODES + 1])
def test_perturbations_of_the_users_own(case, limit):
    model, asked, extra = case

    def shift(x, mask):
        shifted = x.roll(1, 0)
        return torch.where(mask, shifted, x)

    found = FeaturePermutation(model, shift).attribute(
        X, perturbations_per_eval=limit or 1, **asked
    )
    drops = []
    for j in range(FEATURES):
        moved = X.clone()
        moved[:, j] = X[:, j].roll(1)
        drops.append((model(X, *extra) - model(moved, *extra))[:, 1].detach())
    torch.testing.assert_close(found, torch.stack(drops, 1), **CLOSE)

    torch.manual_seed(0)
    noise = torch.randn(8, NODES, FEATURES, dtype=torch.float64)
    drawn = iter(noise)

    def draw(x):
        rows = torch.stack([next(drawn) for _ in range(len(x) // NODES)], 1).flatten(0, 1)
        return rows, x - rows

    score = infidelity(
        model,
        draw,
        X,
        X,
        n_perturb_samples=8,
        max_examples_per_batch=limit,
        **_of_metric(asked),
    )
    each = [((z * X).sum(1) - _drop(model, extra, X - z)).square() for z in noise]
    torch.testing.assert_close(score, torch.stack(each).mean(0), **CLOSE)


def _of_metric(asked):
    return {"target": asked["target"], "additional_forward_args": asked["additional_forward_args"]}


def _drop(model, extra, moved):
    return (model(X, *extra) - model(moved, *extra))[:, 1].detach()


@pytest.mark.parametrize("batch", [1, 5])
def test_what_the_largest_number_decides(batch):
    model = lambda x: (x / x.max()).sum(1)  # noqa: E731
    x = randn(batch, FEATURES).abs()
    drops = []
    for j in range(FEATURES):
        without = x.clone()
        without[:, j] = 0
        drops.append(model(x) - model(without))
    found = FeatureAblation(model).attribute(x)
    torch.testing.assert_close(found, torch.stack(drops, 1), **CLOSE)


def is_row_by_row(forward_func, dim=2):
    return of_chain(forward_func, modules_of(forward_func), (dim,), ())


class TestProof:
    def test_chains_of_known_layers(self):
        layers = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2)
        chain = nn.Sequential(nn.Sequential(*layers[:3]), *layers[3:], nn.Dropout(), nn.Softmax(-1))
        assert is_row_by_row(chain.eval(), 4) and is_row_by_row(nn.Linear(2, 2))
        assert not is_row_by_row(chain.train(), 4)

    @pytest.mark.parametrize(
        "layer",
        [
            nn.Flatten(0),
            nn.Softmax(0),
            nn.Softmax(),
            Centred(),
            nn.LSTM(2, 2),
            nn.BatchNorm1d(2, track_running_stats=False).eval(),
            nn.Dropout().train(),
            type("Mine", (nn.Linear,), {})(2, 2),
        ],
    )
    def test_others_are_not_known(self, layer):
        assert not is_row_by_row(nn.Sequential(nn.Linear(2, 2), layer))

    @pytest.mark.parametrize(
        ("layer", "dim"),
        [
            (nn.LogSoftmax(-1), 1),
            (nn.ReLU(), 1),
            (nn.Conv1d(3, 3, 1), 2),
            (nn.LayerNorm((3, 4)), 2),
            (nn.Sequential(nn.Flatten(), nn.Conv1d(3, 3, 1)), 3),
            (nn.Embedding(5, 2, max_norm=1.0), 1),
        ],
    )
    def test_what_has_no_batch_is_not_known(self, layer, dim):
        assert not is_row_by_row(layer, dim)

    def test_gradients_and_functions_that_are_watched_are_not_known(self):
        layer = nn.Linear(2, 2)
        with torch.overrides.TorchFunctionMode():
            assert not is_row_by_row(layer)
        assert is_row_by_row(layer)
        layer.register_full_backward_hook(lambda module, given, found: None)
        assert not is_row_by_row(layer)

    def test_hooks_and_other_forwards_are_not_known(self):
        hooked = nn.Sequential(nn.Linear(2, 2))
        hooked[0].register_forward_hook(lambda module, args, output: output - output.mean(0))
        assert not is_row_by_row(hooked)
        replaced = nn.Sequential(nn.Linear(2, 2))
        replaced[0].forward = lambda x: x - x.mean(0)
        assert not is_row_by_row(replaced)
        assert not is_row_by_row(lambda x: x)


BAGS = {
    "[1, C]": (lambda y: y, 1),
    "[1]": (lambda y: y[:, 1], None),
    "[]": (lambda y: y[0, 1], None),
}


class Bag(nn.Module):
    """One output for a bag of rows, in one of the forms that people return it in."""

    def __init__(self, form: str) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.weigh, self.judge = nn.Linear(FEATURES, 1).double(), nn.Linear(FEATURES, 2).double()
        self.form, self.target = BAGS[form]

    def forward(self, x):
        return self.form(self.judge((self.weigh(x).softmax(0) * x).sum(0, keepdim=True)))


@pytest.mark.parametrize("form", BAGS)
@pytest.mark.parametrize("rows", [1, 2, NODES])
def test_gradients_of_one_output_for_a_bag(form, rows):
    bag, x = Bag(form), X[:rows]
    asked = {"target": bag.target}

    def gradient(at):
        leaf = at.clone().requires_grad_()
        return torch.autograd.grad(bag(leaf).reshape(-1)[-1], leaf)[0]

    expected = gradient(x)
    close = lambda found, truth: torch.testing.assert_close(found, truth, **CLOSE)  # noqa: E731
    close(Saliency(bag).attribute(x, abs=False, **asked), expected)
    close(InputXGradient(bag).attribute(x, **asked), x * expected)
    close(GuidedBackprop(bag).attribute(x, **asked), expected)
    tunnel = NoiseTunnel(Saliency(bag))
    close(tunnel.attribute(x, nt_samples=5, stdevs=0.0, abs=False, **asked), expected)
    at_layer = LayerGradientXActivation(bag, bag.judge).attribute(x, **asked)
    close(at_layer.sum(), bag(x).reshape(-1)[-1].detach())
    steps = (torch.arange(10).double() + 0.5) / 10
    mean = torch.stack([gradient(a * x) for a in steps]).mean(0)
    found, delta = IntegratedGradients(bag).attribute(
        x, n_steps=10, method="riemann_middle", return_convergence_delta=True, **asked
    )
    close(found, x * mean)
    change = (bag(x) - bag(0 * x)).reshape(-1)[-1].detach()
    close(delta.sum() if rows > 1 else delta[0], found.sum() - change)


INFLUENCES = {
    "sum": lambda x: x.sum(1) * x.sum(),
    "mean": lambda x: x.sum(1) * x.mean(),
    "last row": lambda x: x.sum(1) * x[-1].sum(),
    "first row": lambda x: x.sum(1) * x[0].sum(),
    "least": lambda x: (x - x.amin(0)).pow(2).sum(1),
    "pairs": lambda x: (x.view(-1, 2, FEATURES) * x.view(-1, 2, FEATURES).flip(1)).sum(2).view(-1),
    "running sum": lambda x: (x.cumsum(0) ** 2).sum(1),
    "running sum from the end": lambda x: (x.flip(0).cumsum(0).flip(0) ** 2).sum(1),
}


@pytest.mark.parametrize("name", INFLUENCES)
@pytest.mark.parametrize("zero", [False, True], ids=["all vary", "some equal the baseline"])
def test_influences_of_every_direction(name, zero):
    model, x = INFLUENCES[name], X[:6].abs() + 0.1
    if zero:
        x[1, 2] = x[4, 0] = 0
    everyone = range(FEATURES)

    def without(columns):
        y = x.clone()
        y[:, list(columns)] = 0
        return model(y)

    drops = torch.stack([model(x) - without([j]) for j in everyone], 1)
    torch.testing.assert_close(FeatureAblation(model).attribute(x), drops, **CLOSE)
    found = ShapleyValues(model).attribute(x)
    torch.testing.assert_close(found.sum(1), model(x) - without(everyone), **CLOSE)
    torch.testing.assert_close(KernelShap(model).attribute(x, n_samples=16), found, **CLOSE)
    mean = torch.zeros_like(x)
    for a in (torch.arange(10).double() + 0.5) / 10:
        leaf = (a * x).requires_grad_()
        mean += torch.autograd.grad(model(leaf).sum(), leaf)[0] / 10
    found = IntegratedGradients(model).attribute(x, n_steps=10, method="riemann_middle")
    torch.testing.assert_close(found, x * mean, **CLOSE)


class OneFeatureShared(nn.Module):
    """Every output depends on one feature, less its mean or its largest number over the batch."""

    def __init__(self, shared, offset: float = 0.0) -> None:
        super().__init__()
        self.shared, self.offset = shared, offset

    def forward(self, x):
        return torch.tanh(x - self.shared(x)) + self.offset


SHARED = {"mean": lambda x: x.mean(0), "max": lambda x: x.amax(0)}


@pytest.mark.parametrize("affine_prefix", [True, False])
@pytest.mark.parametrize("shared", SHARED)
@pytest.mark.parametrize("rows", [1, 2, 5])
@pytest.mark.parametrize("feature", range(FEATURES))
def test_what_one_feature_shares_is_seen(shared, rows, feature, affine_prefix):
    x, model = randn(rows, FEATURES, seed=rows), OneFeatureShared(SHARED[shared])
    without = x.clone()
    without[:, feature] = 0
    drop = torch.zeros_like(x)
    drop[:, feature] = (model(x) - model(without))[:, feature]
    for method in (FeatureAblation, ShapleyValues):
        found = method(model, affine_prefix=affine_prefix).attribute(x, target=feature)
        torch.testing.assert_close(found, drop, **CLOSE)


@pytest.mark.parametrize("affine_prefix", [True, False])
@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize(("dtype", "offset"), [(torch.float32, 3e3), (torch.float64, 1e9)])
def test_large_outputs_do_not_hide_what_rows_do_to_each_other(dtype, offset, rows, affine_prefix):
    x = randn(rows, FEATURES).to(dtype)
    model = OneFeatureShared(SHARED["mean"], offset)
    tunnel = NoiseTunnel(Saliency(model, affine_prefix=affine_prefix))
    found = tunnel.attribute(x, target=1, stdevs=0.3, nt_samples=6, seed=0, abs=False)
    alone = tunnel.attribute(
        x, target=1, stdevs=0.3, nt_samples=6, nt_samples_batch_size=1, seed=0, abs=False
    )
    torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-5)
    without = x.clone()
    without[:, 1] = 0
    drop = (model(x) - model(without))[:, 1]
    ablation = FeatureAblation(model, affine_prefix=affine_prefix)
    found = ablation.attribute(x, target=1)[:, 1]
    torch.testing.assert_close(found, drop, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("make_wide", [Tensor.double, lambda y: y.double() + 1e6])
def test_rounding_is_not_taken_for_interaction(make_wide):
    """Outputs of float32 that are made wider are no more exact; large ones are rounded by more."""
    torch.manual_seed(0)
    layers = [nn.Linear(FEATURES, 256)]
    for _ in range(6):
        layers += [nn.ReLU(), nn.LayerNorm(256), nn.Linear(256, 256)]
    net, calls = nn.Sequential(*layers, nn.Linear(256, 3)).eval(), []

    def model(x):
        calls.append(len(x))
        return make_wide(net(x))

    for rows in (1, 3):
        calls.clear()
        KernelShap(model).attribute(randn(rows, FEATURES).float(), target=1, n_samples=16)
        assert len(calls) <= 8  # 3 of them for a closer look
