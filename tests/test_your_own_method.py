"""What docs/your_own_method.md writes must run as it stands, and be right."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

import fastxai
from fastxai import extend
from fastxai.attr import FeatureAblation, IntegratedGradients, Saliency

from .models import Logged

PAGE = Path(__file__).parents[1] / "docs" / "your_own_method.md"


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """All that the page defines."""
    names: dict = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("page"))
        for example in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S):
            exec(example, names)
    return names


def test_only_promised_names_are_used():
    for imported in re.findall(r"from (fastxai\S*) import (.*)", PAGE.read_text()):
        assert imported[0] == "fastxai.extend"
        assert set(imported[1].split(", ")) <= set(extend.__all__)
    assert "fastxai.core" not in PAGE.read_text()


def test_the_examples_run(names):
    explanation, model, x = names["explanation"], names["model"], names["x"]
    assert explanation.values.shape == (5, 3) and explanation.method == "Scaled Gradient"
    torch.testing.assert_close(explanation.outputs, model(x)[:, 1].detach())
    assert names["smooth"].shape == (5, 3)


def cubes(x):  # [B, F] -> [B, 2]
    return torch.stack([x.sum(1), x.pow(3).sum(1)], 1)


def test_scaled_gradients_of_cubes(names):
    """At s x the gradient of Σ x³ is 3 s² x²."""
    x, scales = torch.randn(4, 3, dtype=torch.float64), (0.25, 0.5, 2.0)
    scaled = names["ScaledGradient"](cubes)
    expected = 3 * x**3 * sum(s * s for s in scales) / 3
    torch.testing.assert_close(scaled.attribute(x, target=1, scales=scales), expected)
    torch.testing.assert_close(scaled.explain(x, target=[0, 0, 0, 0]).values, x)
    both = scaled.__class__(lambda a, b: cubes(a + b)).attribute((x, x), 0)
    torch.testing.assert_close(both, (x, x))
    plan = scaled.plan(x, target=1, scales=scales)
    assert [(run.rows, run.count) for run in plan.runs] == [("points of paths", 12)]


def product_and_sum(x):  # [B, 3] -> [B]
    return x[:, 0] * x[:, 1] + x[:, 2]


def test_leaving_two_out_of_a_product_and_a_sum(names):
    """Each factor adds the product where the other is left, in one of two cases."""
    x = torch.randn(4, 3, dtype=torch.float64)
    half = x[:, 0] * x[:, 1] / 2
    method = names["LeaveTwoOut"](product_and_sum)
    torch.testing.assert_close(method.attribute(x), torch.stack([half, half, x[:, 2]], 1))
    torch.testing.assert_close(method.explain(x).outputs, product_and_sum(x))
    linear = names["LeaveTwoOut"](lambda x: torch.stack([x.sum(1), 2 * x.sum(1)], 1))
    found = linear.attribute(x)  # example by example, output by output
    torch.testing.assert_close(found, torch.stack([x, 2 * x], 1).flatten(0, 1))


@pytest.mark.parametrize("name", ["ScaledGradient", "LeaveTwoOut"])
def test_blocks_of_the_rows_change_nothing(names, name, monkeypatch):
    method, x = names[name](names["model"]), torch.randn(6, 3)
    expected = method.attribute(x, target=1)
    monkeypatch.setattr(
        "fastxai.core.engine.blocks.rows_a_call", lambda row_bytes, device, forward_only: 4
    )
    logged = Logged(names["model"])
    torch.testing.assert_close(names[name](logged).attribute(x, target=1), expected)
    assert max(logged.rows) <= 12


@pytest.mark.parametrize("name", ["ScaledGradient", "LeaveTwoOut"])
def test_noise_tunnel_over_it_is_the_mean_at_noisy_inputs(names, name):
    method, x = names[name](names["model"]), torch.randn(3, 3)
    rows = extend.NoisyRows((x,), None, (0.2,), 5, 7)
    samples = [rows.block(slice(n, n + 1), slice(0, 3))[0] for n in range(5)]
    expected = torch.stack([method.attribute(sample, target=1) for sample in samples]).mean(0)
    tunnel = fastxai.NoiseTunnel(method)
    found = tunnel.attribute(x, nt_samples=5, stdevs=0.2, target=1, seed=7)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("name", "options"),
    [("Exportable", {"scales": (0.25, 1.0, 0.5)}), ("ExportableLeaveTwoOut", {})],
)
@pytest.mark.parametrize("target", [1, torch.tensor([0, 1, 1, 0, 1])])
def test_a_package_tells_what_the_method_tells(names, name, options, target, tmp_path):
    method, x = names[name](names["model"]), torch.randn(5, 3)
    file = tmp_path / "own.pt2"
    fastxai.export(method, torch.randn(5, 3), file, format="torch", target=target, **options)
    asked = {"target": target} if isinstance(target, torch.Tensor) else {}
    found = fastxai.load(file)(x, **asked)
    torch.testing.assert_close(found.attributions, method.attribute(x, target=target, **options))
    torch.testing.assert_close(found.outputs, method.forward_func(x).detach())


def test_rows_that_influence_one_another_are_kept_apart_for_it_too(names, tmp_path):
    class Centred(nn.Module):
        def forward(self, x):
            return (x - x.mean(0)).pow(2).sum(1)

    model, x = Centred().eval(), torch.randn(4, 3)
    for name in ("Exportable", "ExportableLeaveTwoOut"):
        method, file = names[name](model), tmp_path / f"{name}.pt2"
        fastxai.export(method, x, file, format="torch")
        found = fastxai.load(file)(x).attributions
        torch.testing.assert_close(found, method.attribute(x), rtol=1e-4, atol=1e-5)


def test_bad_arguments_are_told_before_any_model_call(names):
    logged = Logged(cubes)
    with pytest.raises(fastxai.ArgumentError, match=r"^scales: expected at least one number"):
        names["ScaledGradient"](logged).attribute(torch.randn(2, 3), 1, scales=())
    with pytest.raises(fastxai.ArgumentError, match=r"^inputs: expected two features or more"):
        names["LeaveTwoOut"](logged).attribute(torch.randn(2, 1), 1)
    with pytest.raises(fastxai.ArgumentError, match=r"^inputs: expected floating-point"):
        names["ScaledGradient"](logged).attribute(torch.ones(2, 3).long(), 1)
    assert logged.rows == []


@pytest.mark.parametrize("ask", [extend.values, extend.gradients, extend.gradient_sum])
def test_a_block_with_too_few_rows_is_told_before_the_model_is_called(names, ask):
    class Short(names["KeptRows"]):
        def block(self, repeats, examples):
            return (super().block(repeats, examples)[0][1:],)

    logged = Logged(cubes)
    request = fastxai.Saliency(logged)._query(torch.randn(2, 3), target=1)
    rows = Short(request.inputs.tensors[0], torch.ones(4, 3, dtype=torch.bool))
    weights = () if ask is not extend.gradient_sum else (torch.ones(4, dtype=torch.float64),)
    with pytest.raises(fastxai.ArgumentError, match=r"^rows: expected a block with \d × 2 rows, "):
        ask(request.model, rows, *weights)
    assert logged.rows == []


HOOKS = {
    extend.Attribution: ["_query", "_find", "_program", "_row_by_row", "_gives_one_number"],
    extend.GradientAttribution: ["_values", "_stacks_rows"],
    extend.PerturbationAttribution: ["_outputs_at_inputs", "_values_of", "_stream"],
}


def test_what_a_subclass_is_promised_is_there():
    names = [name for of_class in HOOKS.values() for name in of_class]
    assert sorted(set(re.findall(r"``(?:self\.)?(_[a-z]\w+)", extend.__doc__))) == sorted(names)
    for kind, of_class in HOOKS.items():
        assert all(hasattr(kind, name) for name in of_class)


class Absolute(IntegratedGradients):
    def _values(self, request, **options):
        return tuple(v.abs() for v in super()._values(request, **options))


class Halved(Saliency):
    def of_gradient(self, gradient, x, **options):
        return super().of_gradient(gradient, x, **options) / 2


class Doubled(FeatureAblation):
    def attribute(self, *args, **kwargs):
        return 2 * super().attribute(*args, **kwargs)


class Shifted(FeatureAblation):
    def _query(self, inputs, *args, **kwargs):
        return super()._query(inputs + 1, *args, **kwargs)


class Ranked(FeatureAblation):
    def _values_of(self, *args, **kwargs):
        return super()._values_of(*args, **kwargs).round()


class Found(FeatureAblation):
    def _find(self, *args, **kwargs):
        return super()._find(*args, **kwargs)


@pytest.mark.parametrize("kind", [Absolute, Halved, Doubled, Shifted, Ranked, Found])
def test_a_subclass_that_changes_attributions_inherits_no_program(kind, tmp_path):
    """Else its package would tell what the class above it tells."""
    explainer, file = kind(nn.Linear(3, 2).eval()), tmp_path / "own.pt2"
    with pytest.raises(fastxai.ArgumentError, match=f"^explainer: .* got {kind.__name__}$"):
        fastxai.export(explainer, torch.randn(2, 3), file, format="torch", target=1)
    with pytest.raises(fastxai.ArgumentError, match=r"^explainer: .* can be exported"):
        wrapped = fastxai.NoiseTunnel(explainer)
        fastxai.export(wrapped, torch.randn(2, 3), file, format="torch", target=1)

    class Below(kind):
        pass

    assert not Below(explainer.forward_func)._has_program()


def test_a_subclass_that_changes_nothing_of_them_keeps_it():
    class Named(Saliency):
        @classmethod
        def get_name(cls):
            return "Mine"

    class Restored(Absolute):
        def _program(self, inputs, **options):
            raise NotImplementedError

    assert Named(nn.Linear(3, 2))._has_program()
    assert Restored(nn.Linear(3, 2))._has_program()
