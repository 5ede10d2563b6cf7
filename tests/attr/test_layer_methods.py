"""Methods of layers against closed forms, and the forms and errors that they promise."""

import copy

import pytest
import torch
from torch import nn

from fastxai import (
    ArgumentError,
    GuidedBackprop,
    GuidedGradCam,
    IntegratedGradients,
    LayerActivation,
    LayerAttribution,
    LayerDeepLift,
    LayerDeepLiftShap,
    LayerGradCam,
    LayerGradientShap,
    LayerGradientXActivation,
    LayerIntegratedGradients,
    TokenReferenceBase,
)
from fastxai.core.engine import shortcut as prefix

from ..models import Logged, ResidualCNN, TextModel, TwoInputs, mlp

EXACT = {"rtol": 1e-12, "atol": 1e-12}
METHODS = [LayerActivation, LayerGradientXActivation, LayerIntegratedGradients, LayerGradCam]
GRADIENT_METHODS = METHODS[1:]
NEW_METHODS = [LayerDeepLift, LayerDeepLiftShap, LayerGradientShap]


def randn(*shape):
    torch.manual_seed(sum(shape))
    return torch.randn(*shape, dtype=torch.float64)


def options(method, target=1):
    return {} if method is LayerActivation else {"target": target}


class Quadratic(nn.Module):
    """F(y) = y·A y / 2 of the hidden y = W x + b."""

    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(4, 6).double()
        self.form = randn(6, 6) + randn(6, 6).T
        self.form = self.form + self.form.T

    def forward(self, x):
        y = self.hidden(x)
        return 0.5 * ((y @ self.form) * y).sum(1)


def test_closed_forms_of_a_quadratic_form():
    model, x, baseline = Quadratic(), randn(5, 4), randn(1, 4)
    with torch.no_grad():
        y, start = model.hidden(x), model.hidden(baseline)
    at = {"layer": model.hidden}
    ig = LayerIntegratedGradients(model, **at)
    values, delta = ig.attribute(x, baseline, n_steps=2, return_convergence_delta=True)
    torch.testing.assert_close(values, (y - start) * ((y + start) / 2 @ model.form), **EXACT)
    assert delta.abs().max() < 1e-12 * y.square().sum() and not values.requires_grad
    mean = LayerIntegratedGradients(model, **at, multiply_by_inputs=False)
    found = mean.attribute(x, baseline, n_steps=2)
    torch.testing.assert_close(found, (y + start) / 2 @ model.form, **EXACT)
    found = LayerGradientXActivation(model, **at).attribute(x)
    torch.testing.assert_close(found, y * (y @ model.form), **EXACT)
    found = LayerGradientXActivation(model, **at, multiply_by_inputs=False).attribute(x)
    torch.testing.assert_close(found, y @ model.form, **EXACT)
    torch.testing.assert_close(LayerActivation(model, **at).attribute(x), y, **EXACT)


def test_grad_cam_is_channels_by_their_mean_gradients():
    model, x = ResidualCNN().double(), randn(3, 2, 6, 5)
    y = model.body(torch.relu(model.norm(model.stem(x)))).detach().requires_grad_()
    skip = torch.relu(model.norm(model.stem(x))).detach()
    output = model.head(torch.relu(skip + y).mean((2, 3)))[:, 2].sum()
    weights = torch.autograd.grad(output, y)[0].mean((2, 3), keepdim=True)
    cam = LayerGradCam(model, model.body)
    expected = (weights * y.detach()).sum(1, keepdim=True)
    torch.testing.assert_close(cam.attribute(x, 2), expected, **EXACT)
    found = cam.attribute(x, 2, relu_attributions=True)
    torch.testing.assert_close(found, expected.relu(), **EXACT)
    found = cam.attribute(x, 2, attr_dim_summation=False)
    torch.testing.assert_close(found, weights * y.detach(), **EXACT)


def test_guided_grad_cam_is_guided_backpropagation_where_grad_cam_looks():
    model, x = ResidualCNN().double(), randn(3, 2, 6, 5)
    details = GuidedBackprop(model).attribute(x, 2)
    cam = LayerGradCam(model, model.body).attribute(x, 2, relu_attributions=True)
    guided = GuidedGradCam(model, model.body)
    torch.testing.assert_close(guided.attribute(x, 2), cam * details, **EXACT)
    torch.testing.assert_close(guided.explain(x, 2).values, cam * details, **EXACT)
    logged = Logged(model)
    for arguments, message in [
        ({"inputs": x, "interpolate_mode": "cubic"}, "interpolate_mode: expected one of nearest"),
        ({"inputs": x, "interpolate_mode": "linear"}, "interpolate_mode: expected a mode for inpu"),
        ({"inputs": x.flatten(1)}, "interpolate_mode: expected a mode for inputs of shape"),
        ({"inputs": x.long()}, "inputs: expected floating-point"),
    ]:
        with pytest.raises(ArgumentError, match=f"^{message}"):
            GuidedGradCam(logged, model.body).attribute(**arguments, target=1)
    assert logged.tried == 0
    with pytest.raises(ArgumentError, match=r"^layer: expected one whose tensor .* got one with 2"):
        GuidedGradCam(model, model.head).attribute(x, 1)


def test_a_layers_input_is_the_last_ones_output():
    model, x = mlp().double(), randn(3, 7)
    for method in METHODS:
        args = options(method)
        before = method(model, model[1]).attribute(x, **args)
        found = method(model, model[2]).attribute(x, **args, attribute_to_layer_input=True)
        torch.testing.assert_close(found, before, **EXACT)


def test_the_first_layers_input_is_the_models():
    model, x, baseline = mlp().double(), randn(3, 7), randn(1, 7)
    expected = IntegratedGradients(model).attribute(x, baseline, 2)
    for layer in (model[0], model):
        found = LayerIntegratedGradients(model, layer).attribute(
            x, baseline, 2, attribute_to_layer_input=True
        )
        torch.testing.assert_close(found, expected, **EXACT)


def test_the_whole_model_as_a_layer():
    model, x = mlp().double(), randn(3, 7)
    found = LayerIntegratedGradients(model, model).attribute(x, target=2)
    expected = torch.zeros(3, 4, dtype=torch.float64)
    expected[:, 2] = (model(x) - model(0 * x))[:, 2].detach()
    torch.testing.assert_close(found, expected, **EXACT)


def test_completeness_at_the_embeddings_of_words():
    model, ids = TextModel().double(), torch.randint(1, 50, (4, 7))
    padding = torch.arange(7) >= torch.tensor([[7], [5], [6], [3]])
    reference = TokenReferenceBase(0).generate_reference(7)
    values, delta = LayerIntegratedGradients(model, model.embedding).attribute(
        ids, reference, 1, padding, n_steps=300, return_convergence_delta=True
    )
    difference = (model(ids, padding) - model(0 * ids, padding))[:, 1].detach()
    torch.testing.assert_close(values.sum((1, 2)) - difference, delta, **EXACT)
    assert values.shape == (4, 7, 16) and delta.abs().max() < 3e-3 * difference.abs().max()


def test_forms():
    model, x = mlp(), torch.randn(3, 7)
    for method in METHODS[:3]:
        args = options(method)
        single = method(model, model[0]).attribute(x, **args)
        (in_list,) = method(model, [model[0]]).attribute(x, **args)
        torch.testing.assert_close(in_list, single, rtol=0, atol=0)
    pair = LayerActivation(model, [model[2], model[0]]).attribute(x)
    assert isinstance(pair, list) and [p.shape for p in pair] == [(3, 12), (3, 16)]
    two, inputs = TwoInputs(), (torch.randn(3, 4), torch.randn(3, 2, 3))
    both = LayerIntegratedGradients(two, [two.left, two.right])
    values, delta = both.attribute(inputs, target=1, return_convergence_delta=True)
    assert isinstance(values, list) and delta.abs().max() < 1e-4
    torch.testing.assert_close(
        both.compute_convergence_delta(values, (0, 0), inputs, 1), delta, rtol=1e-5, atol=1e-6
    )


class Halves(nn.Module):
    def forward(self, x):
        return x[..., :2].tanh(), x[..., 2:].tanh()


class Recurrent(nn.Module):
    """Layers with tuples: an LSTM's is nested, a GRU's is not; attention takes three."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.gru = nn.GRU(5, 4, batch_first=True)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.lstm, self.halves = nn.LSTM(2, 2, batch_first=True), Halves()
        self.eval()

    def forward(self, x):
        y, last = self.gru(x)
        mixed, _ = self.attention(y, y, y, need_weights=False)
        first, second = self.halves(mixed + last.transpose(0, 1))
        return self.lstm(first * second)[0][:, -1]


def test_tuples():
    model, x = Recurrent(), torch.randn(1, 6, 5)
    y, last = LayerActivation(model, model.gru).attribute(x)
    torch.testing.assert_close((y, last), tuple(t.detach() for t in model.gru(x)))
    with pytest.raises(
        ArgumentError, match=r"^layer: .* 2 rows .* first, got gru \(GRU\) with shape \(1, 2,"
    ):
        LayerIntegratedGradients(model, model.gru).attribute(x.repeat(2, 1, 1), target=0)
    values, delta = LayerIntegratedGradients(model, model.gru).attribute(
        x, target=0, n_steps=100, return_convergence_delta=True
    )  # of one row, in calls of one row
    assert [v.shape for v in values] == [(1, 6, 4), (1, 1, 4)] and delta.abs().max() < 1e-4
    values, delta = LayerIntegratedGradients(model, model.halves).attribute(
        x, target=0, n_steps=100, return_convergence_delta=True
    )
    assert isinstance(values, tuple) and delta.abs().max() < 1e-4
    assert [v.shape for v in values] == [(1, 6, 2), (1, 6, 2)]
    mixed = LayerActivation(model, model.attention).attribute(x)  # None beside is left out
    assert mixed.shape == (1, 6, 4)
    taken = LayerActivation(model, model.attention).attribute(x, attribute_to_layer_input=True)
    assert len(taken) == 3
    output, h, c = LayerActivation(model, model.lstm).attribute(x)
    torch.testing.assert_close(output[:, -1], h[0])
    assert c.shape == h.shape


class Beside(nn.Module):
    """A layer that is used twice, one with one row for all, and what makes no difference."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(8)
        self.first, self.relu, self.behind = nn.Linear(5, 7), nn.ReLU(), nn.Identity()
        self.places, self.lstm = nn.Embedding(6, 7), nn.LSTM(7, 7, batch_first=True)
        self.after, self.unused, self.out = nn.Identity(), nn.Linear(5, 2), nn.Linear(7, 3)
        self.double()

    def forward(self, x):  # [N, 6, 5]
        self.unused(x)
        h = self.behind(self.relu(self.first(self.relu(x)))) + self.places(torch.arange(6)[None])
        return self.out(torch.tanh(self.after(self.lstm(h)[0])).mean(1))


def test_the_last_call_of_a_layer_counts():
    model, x = Beside(), randn(3, 6, 5)
    for method in METHODS:
        options = {} if method is LayerActivation else {"target": 1}
        expected = method(model, model.behind).attribute(x, **options)
        found = method(model, model.relu).attribute(x, **options)
        torch.testing.assert_close(found, expected, **EXACT)


def test_calls_for_a_row_each_are_not_taken_for_others():
    model, x = mlp(), torch.randn(3, 7)
    apart = lambda x: torch.cat([model(row) for row in x.split(1)])  # noqa: E731
    for method in (*NEW_METHODS, LayerIntegratedGradients):
        with pytest.raises(ArgumentError, match=r"^layer: .* the . rows of .* got Linear with sha"):
            asked = {"internal_batch_size": 3} if method is LayerIntegratedGradients else {}
            method(apart, model[2]).attribute(x, 0 * x, target=1, **asked)


class OftenOrNot(nn.Module):
    """Calls a layer once, or twice where the first row is large."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Tanh()

    def forward(self, x):
        y = self.layer(x)
        return (self.layer(y) if x[0].max() > 9 else y).sum(1)


def test_a_layer_that_is_called_now_and_then_more_often_is_refused():
    model, x = OftenOrNot(), torch.full((3, 4), 10.0)
    with pytest.raises(
        ArgumentError, match=r"^layer: .* calls as often .* got layer \(Tanh\), cal"
    ):
        LayerIntegratedGradients(model, model.layer).attribute(x, 0 * x)


def test_parts_that_make_no_difference_have_zeros():
    model, x = Beside(), randn(3, 6, 5)
    for method in (LayerGradientXActivation, LayerGradCam, LayerIntegratedGradients):
        expected = method(model, model.after).attribute(x, target=1)
        output, *states = method(model, model.lstm).attribute(x, target=1)
        torch.testing.assert_close(output, expected, **EXACT)
        assert len(states) == 2 and not any(s.any() for s in states)
        explainer = method(model, None)
        with pytest.raises(ArgumentError, match=r"^layer: expected .* as none was given"):
            explainer.attribute(x, target=1)
        explainer.layer = model.unused
        with pytest.raises(RuntimeError, match="does not depend on the output of unused"):
            explainer.attribute(x, target=1)
        zeros = explainer.attribute(x, target=1, grad_kwargs={"materialize_grads": True})
        assert zeros.shape[0] == 3 and not zeros.any()


@pytest.mark.parametrize("batch", [1, 3])
def test_one_row_for_all(batch):
    model, x = Beside(), randn(batch, 6, 5)
    layers = [model.behind, model.places]
    found, places = LayerIntegratedGradients(model, layers).attribute(x, target=1)
    expected = LayerIntegratedGradients(model, model.behind).attribute(x, target=1)
    torch.testing.assert_close(found, expected, **EXACT)
    assert places.shape == (batch, 6, 7) and not places.any()


def test_blocks_make_no_difference():
    model, ids = TextModel().double(), torch.randint(1, 50, (5, 4))
    ig = LayerIntegratedGradients(model, model.embedding)
    arguments = {"target": [0, 1, 2, 0, 1], "n_steps": 8}
    expected = [ig.attribute(ids[i : i + 1], target=i % 3, n_steps=8) for i in range(5)]
    for limit in (None, 1, 3, 40):
        found = ig.attribute(ids, **arguments, internal_batch_size=limit)
        torch.testing.assert_close(found, torch.cat(expected), **EXACT)


def test_affine_prefix_after_the_layer(monkeypatch):
    monkeypatch.setattr(prefix, "WORTH", 1)
    model, x = ResidualCNN().double(), randn(3, 2, 6, 5)
    for layer in (model.stem, model.norm, model.body):  # before a batch norm, a ReLU, and a sum
        ours = LayerIntegratedGradients(model, layer)
        plain = LayerIntegratedGradients(model, layer, affine_prefix=False)
        values, delta = ours.attribute(x, target=1, return_convergence_delta=True)
        expected = plain.attribute(x, target=1, return_convergence_delta=True)
        torch.testing.assert_close((values, delta), expected, **EXACT)
    plan = LayerIntegratedGradients(model, model.stem).plan(x, target=1)
    assert plan.runs[-1].followed == ["batch_norm"] and plan.runs[-1].by_prefix == 150
    model.body.register_forward_hook(lambda *args: None)  # which would see such rows
    plan = LayerIntegratedGradients(model, model.stem).plan(x, target=1)
    assert plan.runs[-1].by_prefix == 0


def test_explain_and_plan():
    model, ids = TextModel(), torch.randint(1, 50, (4, 7))
    ig = LayerIntegratedGradients(model, [model.embedding])
    found = ig.explain(ids, 0, target=2, n_steps=9)
    values, delta = ig.attribute(ids, 0, 2, n_steps=9, return_convergence_delta=True)
    torch.testing.assert_close(found.values, values, rtol=0, atol=0)
    torch.testing.assert_close(found.convergence_delta, delta, rtol=0, atol=0)
    torch.testing.assert_close(found.outputs, model(ids)[:, 2].detach())
    torch.testing.assert_close(found.baseline_outputs, model(0 * ids)[:, 2].detach())
    assert "(4, 7, 16)" in repr(found) and found.method == "Layer Integrated Gradients"
    runs = ig.plan(ids, 0, target=2, n_steps=9).runs
    assert [(run.rows, run.count) for run in runs] == [("inputs", 8), ("points of paths", 36)]
    found = LayerGradCam(model, model.embedding).explain(ids, target=2)
    assert found.values.shape == (4, 1, 16) and found.convergence_delta is None
    assert LayerActivation(model, model.head).explain(ids).outputs.shape == (4, 3)


@pytest.mark.parametrize("method", METHODS)
def test_under_no_grad_and_inference_mode(method):
    model, ids = TextModel(), torch.randint(1, 50, (4, 7))
    expected = method(model, model.embedding).attribute(ids, **options(method))
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            found = method(model, model.embedding).attribute(ids, **options(method))
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
        assert not found.requires_grad


@pytest.mark.parametrize("method", GRADIENT_METHODS)
def test_frozen_models(method):
    model, ids = TextModel(), torch.randint(1, 50, (4, 7))
    inner = model.encoder.layers[1].linear1
    expected = method(model, inner).attribute(ids, **options(method))
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    found = method(model, inner).attribute(ids, **options(method))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def test_a_frozen_models_layer_input_that_is_used_besides():
    model, x = ResidualCNN(), torch.randn(3, 2, 6, 5)
    method = LayerGradientXActivation(model, model.stem)
    both = LayerGradientXActivation(lambda x: model(x) + x.mean((1, 2, 3))[:, None], model.stem)
    of_model, of_both = (m.attribute(x, 1, attribute_to_layer_input=True) for m in (method, both))
    torch.testing.assert_close(of_both, of_model + x / 60)
    model.requires_grad_(False)
    found = both.attribute(x, 1, attribute_to_layer_input=True)
    torch.testing.assert_close(found, of_both)


def test_in_place_operations_after_the_layer():
    model, x = ResidualCNN().double(), randn(3, 2, 6, 5)
    found = [method(model, model.norm).attribute(x, **options(method)) for method in METHODS]
    model.relu.inplace = False
    for method, value in zip(METHODS, found, strict=True):
        expected = method(model, model.norm).attribute(x, **options(method))
        torch.testing.assert_close(value, expected, **EXACT)


@pytest.mark.parametrize("method", METHODS)
def test_models_and_inputs_are_left_as_they_were(method):
    model, x = ResidualCNN().train(), torch.randn(3, 2, 6, 5, requires_grad=True)
    state = copy.deepcopy(model.state_dict())
    before = [(dict(m.__dict__), m.training) for m in model.modules()]
    generator = torch.get_rng_state()
    method(model, model.body).attribute(x, **options(method))
    torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)
    assert [(dict(m.__dict__), m.training) for m in model.modules()] == before
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert x.grad is None and x.requires_grad and torch.equal(torch.get_rng_state(), generator)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes(dtype):
    model, ids = TextModel().to(dtype), torch.randint(1, 50, (4, 7))
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    found = LayerIntegratedGradients(model, model.embedding).attribute(ids, target=1)
    assert found.dtype == wide
    for method in (LayerActivation, LayerGradientXActivation, LayerGradCam):
        assert method(model, model.embedding).attribute(ids, **options(method)).dtype == dtype


def test_what_the_model_returns_does_not_matter_for_activations():
    model, x = mlp(), torch.randn(3, 7)
    for returned in (None, {"logits": 3}, torch.tensor(1.0)):
        found = LayerActivation(lambda x, r=returned: (model(x), r)[1], model[0]).attribute(x)
        torch.testing.assert_close(found, model[0](x).detach(), rtol=0, atol=0)


def test_activations_without_rows_first():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.GRU(4, 3)
            self.table = nn.Embedding(6, 3)

        def forward(self, x):  # [B, T, 4]
            out, _ = self.encoder(x.transpose(0, 1))
            return (out + self.table(torch.arange(6))[:, None]).sum((0, 2))

    model, x = Model(), torch.randn(5, 6, 4)
    out, last = LayerActivation(model, model.encoder).attribute(x)
    assert out.shape == (6, 5, 3) and last.shape == (1, 5, 3)
    assert LayerActivation(model, model.table).attribute(x).shape == (6, 3)
    found = LayerGradientXActivation(model, model.table).attribute(x)
    torch.testing.assert_close(found, 5 * model.table.weight.detach())
    with pytest.raises(ArgumentError, match="layer: expected a layer whose output has the 5 rows"):
        LayerIntegratedGradients(model, model.table).attribute(x)


class Head(nn.Module):
    """What is not used, what is used twice, what gives a dict."""

    def __init__(self):
        super().__init__()
        self.body, self.spare, self.relu = nn.Linear(7, 4), nn.Linear(7, 4), nn.ReLU()
        self.unused, self.whole = nn.Linear(7, 4), self.Dict()

    class Dict(nn.Module):
        def forward(self, x):
            return {"x": x, "of": object()}

    def forward(self, x):
        self.unused(x)
        return self.relu(self.relu(self.body(x)) + self.whole(x)["x"][:, :4])


@pytest.mark.parametrize("method", METHODS)
def test_layers_that_cannot_be_explained(method):
    model, x = Head(), torch.randn(3, 7)
    logged = Logged(model)
    cases = [
        (
            model,
            nn.Linear(7, 4),
            ArgumentError,
            "^layer: expected a layer of forward_func, got Lin",
        ),
        (model.forward, nn.Linear(7, 4), ArgumentError, "^layer: expected a layer of forward_func"),
        (logged, nn.Linear(7, 4), ArgumentError, "^layer: expected .* that forward_func calls, go"),
        (model, model.spare, ArgumentError, r"^layer: .* calls, got spare \(Linear\)$"),
        (model, model.whole, ArgumentError, r"^layer: .* got whole \(Dict\) with a dict"),
    ]
    if method is not LayerActivation:
        unused = r"^layer: forward_func's output does not depend on the output of unused \(Linear\)"
        cases.append((model, model.unused, RuntimeError, unused))
    for function, layer, error, message in cases:
        with pytest.raises(error, match=message):
            method(function, layer).attribute(x, **options(method))


def test_layers_that_feed_one_another():
    model, x = mlp().double(), randn(3, 7)
    both = [model[0], model[2]]
    found = LayerGradientXActivation(model, both).attribute(x, 1)
    apart = [LayerGradientXActivation(model, layer).attribute(x, 1) for layer in both]
    torch.testing.assert_close(found, apart, **EXACT)
    inside = LayerGradientXActivation(model, [model, model[0]]).attribute(x, 1)
    torch.testing.assert_close(inside[1], apart[0], **EXACT)
    with pytest.raises(RuntimeError, match=r"^layer\[0\]: .* output of 0 \(Linear\); of layers"):
        LayerIntegratedGradients(model, both).attribute(x, target=1)


def test_refused_at_once():
    model, x = mlp(), torch.randn(3, 7)
    for layer, message in [
        ("2", "layer: expected a torch.nn.Module or a list of them, got str"),
        ([], "layer: expected at least one module"),
        ([model[0], None], "layer: expected a torch.nn.Module"),
        ([model[0], model[0]], "layer: expected each module once"),
    ]:
        with pytest.raises(ArgumentError, match=f"^{message}"):
            LayerActivation(model, layer)
    with pytest.raises(ArgumentError, match=r"^layer: expected one torch.nn.Module, got list"):
        LayerGradCam(model, [model[0]])
    with pytest.raises(ArgumentError, match=r"^device_ids: expected one device at most"):
        LayerActivation(model, model[0], [0, 1])
    logged, ig = Logged(model), LayerIntegratedGradients
    for arguments, message in [
        ({"inputs": torch.empty(0, 7)}, "inputs: expected at least one row"),
        ({"inputs": [x]}, "inputs: expected a torch.Tensor"),
        ({"n_steps": 0}, "n_steps"),
        ({"method": "simpson"}, "method"),
        ({"internal_batch_size": 0}, "internal_batch_size"),
        ({"grad_kwargs": {"create_graph": True}}, "grad_kwargs: expected None"),
        ({"baselines": x[:2]}, "baselines"),
        ({"target": "cat"}, "target"),
    ]:
        with pytest.raises(ArgumentError, match=f"^{message}"):
            ig(logged, model[0]).attribute(**{"inputs": x, "target": 0, **arguments})
    assert logged.tried == 0
    assert ig(model, model[0], [0]).attribute(x, target=0, grad_kwargs={}).shape == (3, 16)


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_layers_that_run_elsewhere():
    model, x = mlp(), torch.randn(3, 7)
    scripted = torch.jit.script(model)
    with pytest.raises(ArgumentError, match=r"^layer: .* a layer of a model that is not compiled"):
        LayerActivation(scripted, next(scripted.children())).attribute(x)
    compiled = torch.compile(model, backend="eager")
    with pytest.raises(ArgumentError, match=r"^layer: .* inside a compiled or scripted Optimized"):
        LayerActivation(compiled, model[0]).attribute(x)
    with pytest.raises(ArgumentError, match=r"^forward_func: .* got a compiled function"):
        LayerActivation(torch.compile(lambda x: model(x), backend="eager"), model[0]).attribute(x)
    beside = nn.Sequential(model[0], torch.jit.script(model[1:]))
    found = LayerActivation(beside, model[0]).attribute(x)
    torch.testing.assert_close(found, model[0](x).detach())
    parallel = nn.DataParallel(model, device_ids=None)
    parallel.device_ids = [0, 1]
    with pytest.raises(ArgumentError, match=r"^forward_func: expected a model on one device, got"):
        LayerActivation(parallel, model[0]).attribute(x)


def test_integers_are_no_matter_to_differentiate():
    model, ids = TextModel(), torch.randint(1, 50, (4, 7))
    taken = LayerActivation(model, model.embedding).attribute(ids, attribute_to_layer_input=True)
    assert torch.equal(taken, ids)
    for method in GRADIENT_METHODS:
        with pytest.raises(
            ArgumentError, match=r"^layer: .* floating-point numbers to differentiat"
        ):
            method(model, model.embedding).attribute(ids, target=1, attribute_to_layer_input=True)


def test_interpolate():
    values = torch.arange(4.0).reshape(1, 1, 2, 2)
    found = LayerAttribution.interpolate(values, (4, 6))
    expected = values.repeat_interleave(2, 2).repeat_interleave(3, 3)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    line = torch.tensor([[[0.0, 4.0]]])
    found = LayerGradCam.interpolate(line, 4, "linear")
    torch.testing.assert_close(found, torch.tensor([[[0.0, 1, 3, 4]]]))
    for arguments, message in [
        ((values[0, 0], 4), "layer_attribution: expected 3, 4 or 5 dimensions"),
        ((values, (4, 4, 4)), "interpolate_dims: expected 2 sizes"),
        ((values, 0), "interpolate_dims: expected an integer"),
    ]:
        with pytest.raises(ArgumentError, match=f"^{message}"):
            LayerAttribution.interpolate(*arguments)


def test_token_references():
    reference = TokenReferenceBase(reference_token_idx=7)
    found = reference.generate_reference(3, device="cpu")
    assert torch.equal(found, torch.tensor([7, 7, 7])) and found.dtype == torch.int64
    assert reference.generate_reference(0, torch.device("cpu")).shape == (0,)
    for arguments in [(-1,), (1.5,)]:
        with pytest.raises(ArgumentError, match="reference_token_idx"):
            TokenReferenceBase(*arguments)
        with pytest.raises(ArgumentError, match="sequence_length"):
            reference.generate_reference(*arguments)
