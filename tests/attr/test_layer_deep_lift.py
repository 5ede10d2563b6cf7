"""DeepLift, DeepLiftShap and GradientShap of layers: closed forms, sums, forms and errors."""

import copy
import warnings

import pytest
import torch
from torch import nn

from fastxai import (
    ArgumentError,
    DeepLift,
    DeepLiftShap,
    GradientShap,
    LayerDeepLift,
    LayerDeepLiftShap,
    LayerGradientShap,
    LayerIntegratedGradients,
)

from ..models import Logged, ResidualCNN, TextModel, TwoInputs, mlp
from .test_layer_methods import EXACT, Beside, Quadratic, Recurrent, randn

METHODS = [LayerDeepLift, LayerDeepLiftShap, LayerGradientShap]


def deep():
    torch.manual_seed(0)
    layers = nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)
    return nn.Sequential(*layers).double().eval()


def asked(method):
    return {"seed": 0} if method is LayerGradientShap else {}


def ends(method, *shape, rows=2):
    """Baselines: one for LayerDeepLift, several for the others."""
    return randn(1 if method is LayerDeepLift else rows, *shape)


def change(model, x, baselines, target):
    return (model(x)[:, target] - model(baselines)[:, target].mean()).detach()


def total(values):
    return torch.stack([v.flatten(1).sum(1) for v in values]).sum(0)


def test_closed_forms_of_a_quadratic_form():
    model, x, baselines = Quadratic(), randn(5, 4), randn(3, 4)
    with torch.no_grad():
        y, starts = model.hidden(x), model.hidden(baselines)
    multipliers = (y[:, None] + starts) / 2 @ model.form  # [5, 3, 6]
    values = (y[:, None] - starts) * multipliers
    lift = LayerDeepLift(model, model.hidden)
    torch.testing.assert_close(lift.attribute(x, baselines[:1]), values[:, 0], **EXACT)
    plain = LayerDeepLift(model, model.hidden, multiply_by_inputs=False)
    torch.testing.assert_close(plain.attribute(x, baselines[:1]), multipliers[:, 0], **EXACT)
    shap = LayerDeepLiftShap(model, model.hidden)
    found, delta = shap.attribute(x, baselines, return_convergence_delta=True)
    torch.testing.assert_close(found, values.mean(1), **EXACT)
    assert delta.shape == (15,) and delta.abs().max() < 1e-12 and not found.requires_grad
    plain = LayerDeepLiftShap(model, model.hidden, multiply_by_inputs=False)
    torch.testing.assert_close(plain.attribute(x, baselines), multipliers.mean(1), **EXACT)


def test_what_follows_the_layer_is_linear():
    model, x = deep(), randn(4, 5)
    weight = model[4].weight[2].detach()
    for method in METHODS:
        baselines = ends(method, 5)
        expected = (model[:4](x) - model[:4](baselines).mean(0)).detach() * weight
        found = method(model, model[3]).attribute(
            x, baselines, target=2, **({"n_samples": 2} if method is LayerGradientShap else {})
        )
        torch.testing.assert_close(found, expected, **EXACT)


@pytest.mark.parametrize("of_inputs", [False, True])
def test_attributions_of_every_layer_add_up(of_inputs):
    model, x = deep(), randn(4, 5)
    for layer in model:
        for method in METHODS[:2]:
            baselines = ends(method, 5, rows=7)
            values, delta = method(model, layer).attribute(
                x, baselines, 1, return_convergence_delta=True, attribute_to_layer_input=of_inputs
            )
            torch.testing.assert_close(values.sum(1), change(model, x, baselines, 1), **EXACT)
            assert delta.abs().max() < 1e-14


def test_gradient_shap_follows_the_paths_of_the_layers_values():
    """Where what comes before is not linear, paths of the inputs would be others."""
    model, x, baselines = deep(), 3 * randn(4, 5), 3 * randn(2, 5)
    layer = model[2]
    of_paths = LayerIntegratedGradients(model, layer)
    each = [of_paths.attribute(x, b[None], 1, n_steps=500) for b in baselines]
    found, delta = LayerGradientShap(model, layer).attribute(
        x, baselines, 4000, 0.0, 1, None, True, seed=0
    )
    torch.testing.assert_close(found, (each[0] + each[1]) / 2, rtol=0, atol=2e-3)
    torch.testing.assert_close(found.sum(1), change(model, x, baselines, 1), rtol=0, atol=1e-3)
    assert delta.shape == (16000,)
    off = found.sum(1) - change(model, x, baselines, 1)
    torch.testing.assert_close(delta.reshape(4, -1).mean(1), off, **EXACT)


def test_gradient_shap_takes_a_single_baseline():
    model, x, baseline = deep(), randn(4, 5), randn(1, 5)
    expected = LayerIntegratedGradients(model, model[2]).attribute(x, baseline, 1, n_steps=500)
    found = LayerGradientShap(model, model[2]).attribute(x, baseline, 2000, target=1, seed=0)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("stdevs", [0.0, 0.3])
def test_the_first_layers_input_is_the_models(stdevs):
    model, x, baselines = deep(), randn(4, 5), randn(3, 5)
    for layer in (model[0], model):
        asked = {"target": 1, "return_convergence_delta": True}
        here = {**asked, "attribute_to_layer_input": True}
        for multiply in (True, False):
            expected = DeepLift(model, multiply).attribute(x, baselines[:1], **asked)
            found = LayerDeepLift(model, layer, multiply).attribute(x, baselines[:1], **here)
            torch.testing.assert_close(found, expected, **EXACT)
            expected = DeepLiftShap(model, multiply).attribute(x, baselines, **asked)
            found = LayerDeepLiftShap(model, layer, multiply).attribute(x, baselines, **here)
            torch.testing.assert_close(found, expected, **EXACT)
            for samples in (2, 7):
                more = {"n_samples": samples, "stdevs": stdevs, "seed": 5}
                expected = GradientShap(model, multiply).attribute(x, baselines, **asked, **more)
                found = LayerGradientShap(model, layer, None, multiply).attribute(
                    x, baselines, **here, **more
                )
                torch.testing.assert_close(found, expected, **EXACT)


@pytest.mark.parametrize("method", METHODS)
def test_extra_arguments_belong_to_the_examples(method):
    model, inputs = TwoInputs().double(), (randn(3, 4), randn(3, 2, 3))
    shift = randn(3, 6)
    baselines = (ends(method, 4), ends(method, 2, 3))
    arguments = {"target": [0, 2, 1], "additional_forward_args": (shift, 2.0)}
    some = {"n_samples": 1000} if method is LayerGradientShap else {}
    explainer = method(model, [model.left, model.right])
    found, delta = explainer.attribute(
        inputs, baselines, **arguments, **asked(method), **some, return_convergence_delta=True
    )
    assert isinstance(found, list) and [f.shape for f in found] == [(3, 6), (3, 6)]
    if method is not LayerGradientShap:
        assert delta.abs().max() < 1e-13
    else:
        assert delta.reshape(3, -1).mean(1).abs().max() < 2e-3
    alone = LayerDeepLift(model, [model.left, model.right])
    if method is LayerGradientShap:
        alone = LayerIntegratedGradients(model, [model.left, model.right])
    near = {"rtol": 0, "atol": 2e-3} if method is LayerGradientShap else EXACT
    for i in range(3):
        rows = tuple(t[i : i + 1] for t in inputs)
        its_own = {"target": (0, 2, 1)[i], "additional_forward_args": (shift[i : i + 1], 2.0)}
        each = [
            alone.attribute(rows, tuple(b[k : k + 1] for b in baselines), **its_own)
            for k in range(len(baselines[0]))
        ]
        mean = [torch.stack(of_layer).mean(0) for of_layer in zip(*each, strict=True)]
        torch.testing.assert_close([f[i : i + 1] for f in found], mean, **near)


@pytest.mark.parametrize("method", METHODS)
def test_words(method):
    model = TextModel().double().eval()
    ids, padding = torch.randint(1, 50, (3, 6)), torch.zeros(1, 6, dtype=torch.int64)
    baselines = padding if method is LayerDeepLift else torch.cat([padding, padding + 7])
    some = {"n_samples": 400, "seed": 0} if method is LayerGradientShap else {}
    found = method(model, model.embedding).attribute(ids, baselines, target=1, **some)
    expected = change(model, ids, baselines, 1)
    near = {"rtol": 0, "atol": 0.02} if method is LayerGradientShap else EXACT
    torch.testing.assert_close(found.sum((1, 2)), expected, **near)
    with pytest.raises(ArgumentError, match=r"^layer: .* floating-point numbers to differentiat"):
        method(model, model.embedding).attribute(
            ids, baselines, target=1, attribute_to_layer_input=True
        )
    if method is LayerGradientShap:
        for stdevs, name in ((0.1, "stdevs"), ((0.1,), r"stdevs\[0\]")):
            with pytest.raises(ArgumentError, match=rf"^{name}: expected 0 for inputs of torch.in"):
                method(model, model.embedding).attribute(ids, baselines, stdevs=stdevs, target=1)


class Frame(nn.Module):
    """Sums around and behind a layer, and an operation without a rule where it is told to be."""

    def __init__(self, around=False, before=False, behind=False):
        super().__init__()
        torch.manual_seed(5)
        self.first, self.layer, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 1)
        self.around, self.before, self.behind = around, before, behind
        self.double()

    def forward(self, x):
        h = self.first(x)
        h = torch.matrix_exp(h[:, :, None] * h[:, None])[:, 0] if self.before else h.tanh()
        y = self.layer(h)
        y = y + h if self.around else y
        y = torch.renorm(y, 2, 0, 0.5) if self.behind else y.tanh()
        return self.last(y).sum(1)


@pytest.mark.parametrize("method", METHODS[:2])
def test_a_missed_sum_is_told_where_all_ways_lead_through_the_layer(method):
    x, baselines = randn(3, 4), ends(method, 4)

    def told(model, **arguments):
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            explainer = method(model, arguments.pop("layer", model.layer))
            _, delta = explainer.attribute(x, baselines, return_convergence_delta=True, **arguments)
        return delta.abs().max(), [str(w.message) for w in found]

    off, said = told(Frame())
    assert off < 1e-14 and not said
    off, said = told(Frame(behind=True))
    assert off > 1e-3 and len(said) == 1 and "no rule for renorm:" in said[0]
    off, said = told(Frame(before=True))  # what comes before does not matter
    assert off < 1e-14 and not said
    off, said = told(Frame(before=True, behind=True))
    assert off > 1e-3 and "no rule for renorm:" in said[0]
    off, said = told(Frame(around=True))  # nor is a sum promised
    assert off > 1e-3 and not said
    off, said = told(Frame(around=True, behind=True), attribute_to_layer_input=True)
    assert off > 1e-3 and "no rule for renorm:" in said[0]  # h is in both terms
    off, said = told(Frame(around=True), attribute_to_layer_input=True)
    assert off < 1e-14 and not said
    model = Frame(around=True)
    off, said = told(model, layer=[model.layer, model.last])  # one feeds the other
    assert off > 1e-3 and not said


@pytest.mark.parametrize("method", METHODS)
def test_the_last_call_of_a_layer_counts(method):
    model, x, baselines = Beside(), randn(3, 6, 5), ends(method, 6, 5)
    arguments = {"target": 1, **asked(method)}
    expected = method(model, model.behind).attribute(x, baselines, **arguments)
    found = method(model, model.relu).attribute(x, baselines, **arguments)
    torch.testing.assert_close(found, expected, **EXACT)


@pytest.mark.parametrize("method", METHODS)
def test_parts_that_make_no_difference(method):
    model, x, baselines = Beside(), randn(3, 6, 5), ends(method, 6, 5)
    arguments = {"target": 1, **asked(method)}
    expected = method(model, model.after).attribute(x, baselines, **arguments)
    output, *states = method(model, model.lstm).attribute(x, baselines, **arguments)
    torch.testing.assert_close(output, expected, **EXACT)
    assert [s.shape[0] for s in states] == [3, 3] and not any(s.any() for s in states)
    with pytest.raises(RuntimeError, match=r"^layer: .* not depend on the output of unused"):
        method(model, model.unused).attribute(x, baselines, **arguments)
    with pytest.raises(ArgumentError, match=r"^layer: expected .* as none was given"):
        method(model, None).attribute(x, baselines, **arguments)
    if method is LayerDeepLift:
        zeros = method(model, model.unused).attribute(
            x, baselines, **arguments, grad_kwargs={"materialize_grads": True}
        )
        assert zeros.shape == (3, 6, 2) and not zeros.any()


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("method", METHODS)
def test_one_row_for_all(method, batch):
    model, x, baselines = Beside(), randn(batch, 6, 5), ends(method, 6, 5)
    arguments = {"target": 1, **asked(method)}
    found, places = method(model, [model.behind, model.places]).attribute(x, baselines, **arguments)
    expected = method(model, model.behind).attribute(x, baselines, **arguments)
    torch.testing.assert_close(found, expected, **EXACT)
    assert places.shape == (batch, 6, 7) and not places.any()


@pytest.mark.parametrize("method", METHODS)
def test_tensors_without_rows_first_are_refused(method):
    model, x = Recurrent().double(), randn(2, 6, 5)
    with pytest.raises(ArgumentError, match=r"^layer: .* rows of .* first, got gru \(GRU\) with s"):
        method(model, model.gru).attribute(x, ends(method, 6, 5), target=0)


@pytest.mark.parametrize("method", METHODS)
def test_wherever_models_are_called(method):
    model, x = TextModel().double().eval(), torch.randint(1, 50, (4, 7))
    layer = model.encoder.layers[1].linear1
    baselines = torch.zeros(1 if method is LayerDeepLift else 2, 7, dtype=torch.int64)
    arguments = {"target": 1, **asked(method)}
    expected = method(model, layer).attribute(x, baselines, **arguments)
    assert expected.shape == (4, 7, 32)
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            found = method(model, layer).attribute(x, baselines, **arguments)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
        assert not found.requires_grad
    if method is not LayerGradientShap:  # whose draws are by the place in the batch
        alone = [method(model, layer).attribute(row, baselines, **arguments) for row in x.split(1)]
        torch.testing.assert_close(torch.cat(alone), expected, **EXACT)
    model.requires_grad_(False)
    found = method(model, layer).attribute(x, baselines, **arguments)
    torch.testing.assert_close(found, expected, **EXACT)


@pytest.mark.parametrize("method", METHODS)
def test_models_and_inputs_are_left_as_they_were(method):
    model, x = ResidualCNN().eval(), torch.randn(3, 2, 6, 5, requires_grad=True)
    baselines = torch.randn(1 if method is LayerDeepLift else 2, 2, 6, 5)
    state, generator = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    before = [(dict(m.__dict__), m.training) for m in model.modules()]
    method(model, model.body).attribute(x, baselines, target=1, **asked(method))
    torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)
    assert [(dict(m.__dict__), m.training) for m in model.modules()] == before
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert x.grad is None and x.requires_grad and torch.equal(torch.get_rng_state(), generator)


@pytest.mark.parametrize("method", METHODS)
def test_explanations(method):
    model, x, baselines = deep(), randn(4, 5), ends(method, 5)
    explainer = method(model, [model[2]])
    found = explainer.explain(x, baselines, target=1, **asked(method))
    values = explainer.attribute(x, baselines, target=1, **asked(method))
    torch.testing.assert_close(found.values, values, rtol=0, atol=0)
    torch.testing.assert_close(found.outputs, model(x)[:, 1].detach())
    mean = model(baselines)[:, 1].mean().detach()
    torch.testing.assert_close(found.baseline_outputs, mean.expand(4), rtol=0.3, atol=0.3)
    expected = total(values) - (found.outputs - found.baseline_outputs)
    torch.testing.assert_close(found.convergence_delta, expected, **EXACT)
    assert "(4, 6)" in repr(found) and found.method.startswith("Layer ")
    starts = baselines[:1].expand(4, 5)
    delta = explainer.compute_convergence_delta(values, starts, x, 1)
    torch.testing.assert_close(delta, total(values) - change(model, x, baselines[:1], 1), **EXACT)
    assert sum(run.count for run in explainer.plan(x, baselines, target=1).runs) > 0


def test_blocks_make_no_difference(monkeypatch):
    from fastxai.core.engine.blocks import Blocks

    model, x, baselines = deep(), randn(5, 5), randn(4, 5)
    methods = [LayerDeepLiftShap(model, model[2]), LayerGradientShap(model, model[2])]
    options = [{}, {"n_samples": 9, "seed": 1}]
    asked = {"target": 1, "return_convergence_delta": True}
    pairs = list(zip(methods, options, strict=True))
    expected = [method.attribute(x, baselines, **more, **asked) for method, more in pairs]
    for size in (1, 3, 5, 10):
        monkeypatch.setattr(Blocks, "size", size)
        found = [method.attribute(x, baselines, **more, **asked) for method, more in pairs]
        torch.testing.assert_close(found, expected, **EXACT)


def test_custom_attribution_functions_must_return_as_many():
    model, x = deep(), randn(4, 5)
    seen = []

    def combine(multipliers, activations, references):
        seen.append([t.shape for t in (*multipliers, *activations, *references)])
        return multipliers

    found = LayerDeepLiftShap(model, model[0]).attribute(
        x, randn(3, 5), 1, custom_attribution_func=combine
    )
    plain = LayerDeepLiftShap(model, model[0], False).attribute(x, randn(3, 5), 1)
    torch.testing.assert_close(found, plain, **EXACT)
    assert seen == [[(12, 8)] * 3]
    for wrong in (lambda m: m[0], lambda m: (m[0], m[0])):
        with pytest.raises(ArgumentError, match=r"^custom_attribution_func: .* a tuple of 1"):
            LayerDeepLift(model, model[0]).attribute(x, 0, 1, custom_attribution_func=wrong)


@pytest.mark.parametrize("method", METHODS)
def test_refused_before_any_model_call(method):
    x, logged = torch.randn(3, 7), Logged(mlp())
    fine = {"inputs": x, "baselines": torch.zeros(1 if method is LayerDeepLift else 2, 7)}
    cases = [
        ({"inputs": torch.empty(0, 7)}, "inputs: expected at least one row"),
        ({"inputs": [x]}, "inputs: expected a torch.Tensor"),
        ({"baselines": torch.zeros(2, 3)}, "baselines: expected"),
        ({"baselines": "zero"}, "baselines: expected"),
        ({"target": "cat"}, "target"),
    ]
    if method is LayerGradientShap:
        cases += [
            ({"n_samples": 0}, "n_samples"),
            ({"stdevs": -1.0}, "stdevs"),
            ({"stdevs": (0.1, 0.1)}, "stdevs"),
            ({"seed": 0.5}, "seed"),
        ]
    else:
        cases += [
            ({"custom_attribution_func": 3}, "custom_attribution_func: expected a function"),
            ({"custom_attribution_func": lambda: ()}, "custom_attribution_func: expected one to"),
        ]
    if method is LayerDeepLift:
        cases.append(({"grad_kwargs": {"create_graph": True}}, "grad_kwargs: expected None"))
    if method is LayerDeepLiftShap:
        cases.append(({"baselines": x[:1]}, "baselines: expected a tensor of two rows"))
    for arguments, message in cases:
        with pytest.raises(ArgumentError, match=f"^{message}"):
            method(logged, logged.model[0]).attribute(**{**fine, "target": 0, **arguments})
    assert logged.tried == 0
    with pytest.raises(ArgumentError, match=r"^layer: expected a torch.nn.Module or a list"):
        method(logged, "2")
    with pytest.raises(ArgumentError, match=r"^layer: expected a layer of forward_func, got Lin"):
        method(mlp(), nn.Linear(7, 4)).attribute(**fine, target=0)


def test_batch_norms_in_train_mode_are_refused():
    model, x = ResidualCNN().train(), torch.randn(3, 2, 6, 5)
    for method in METHODS[:2]:
        with pytest.raises(
            ArgumentError, match=r"^forward_func: expected batch norms in eval mode"
        ):
            baselines = torch.zeros(1 if method is LayerDeepLift else 2, 2, 6, 5)
            method(model, model.body).attribute(x, baselines, 1)
