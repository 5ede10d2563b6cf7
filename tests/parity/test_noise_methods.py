"""Captum 0.9.0 beside GradientShap and NoiseTunnel: exactly where nothing is random."""

import captum.attr
import pytest
import torch

import fastxai

from .test_gradient_methods import CASES, F32, assert_same

CASES = {name: case for name, case in CASES.items() if name != "no features"}  # Captum fails
TYPES = ["smoothgrad", "smoothgrad_sq", "vargrad"]


@pytest.fixture(params=CASES, ids=lambda name: name.replace(" ", "-").replace(",", ""))
def case(request):
    return CASES[request.param]


@pytest.mark.parametrize("nt_type", TYPES)
@pytest.mark.parametrize("method", ["Saliency", "IntegratedGradients"])
def test_noise_tunnel_without_noise(case, method, nt_type):
    model, inputs, arguments = case
    stdevs = (0.0,) * len(inputs) if isinstance(inputs, tuple) else 0.0
    found = [
        m.attr.NoiseTunnel(getattr(m.attr, method)(model)).attribute(
            inputs, nt_type=nt_type, nt_samples=5, nt_samples_batch_size=2, stdevs=stdevs,
            **arguments,
        )
        for m in (fastxai, captum)
    ]  # fmt: skip
    assert_same(*found, **F32)


def test_gradient_shap_of_one_baseline_far_along(case):
    """As good as nothing is random where the path is short."""
    model, inputs, arguments = case
    as_tuple = inputs if isinstance(inputs, tuple) else (inputs,)
    backgrounds = tuple(x[:1].clone() for x in as_tuple)
    near = tuple(
        b + 1e-3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
        for b, x in zip(backgrounds, as_tuple, strict=True)
    )
    given = (near, backgrounds) if isinstance(inputs, tuple) else (near[0], backgrounds[0])
    found = [
        m.attr.GradientShap(model).attribute(
            *given, n_samples=4, return_convergence_delta=True, **arguments
        )
        for m in (fastxai, captum)
    ]
    assert_same(found[0][0], found[1][0], rtol=0.05, atol=1e-5)
    assert found[0][1].shape == found[1][1].shape


@pytest.mark.parametrize("multiply", [True, False])
def test_gradient_shap_has_captum_s_mean(multiply):
    model, x, arguments = CASES["mlp, target list"]
    baselines = torch.randn(4, 7, generator=torch.Generator().manual_seed(2))
    torch.manual_seed(3)
    found = [
        m.attr.GradientShap(model, multiply_by_inputs=multiply).attribute(
            x, baselines, n_samples=4000, stdevs=0.3, **arguments
        )
        for m in (fastxai, captum)
    ]
    assert_same(*found, rtol=0, atol=0.02)


@pytest.mark.parametrize("nt_type", TYPES)
def test_noise_tunnel_has_captum_s_mean(nt_type):
    model, x, arguments = CASES["mlp, target list"]
    torch.manual_seed(3)
    found = [
        m.attr.NoiseTunnel(m.attr.InputXGradient(model)).attribute(
            x, nt_type, 4000, stdevs=0.3, **arguments
        ).detach()
        for m in (fastxai, captum)
    ]  # fmt: skip
    assert_same(*found, rtol=0.15, atol=0.01)


@pytest.mark.parametrize("method", ["Saliency", "InputXGradient", "IntegratedGradients"])
def test_ours_in_captum_s_noise_tunnel(method):
    model, x, arguments = CASES["mlp, target list"]
    ours = getattr(fastxai, method)(model)
    theirs = captum.attr.NoiseTunnel(ours).attribute(x, stdevs=0.0, **arguments)
    assert_same(theirs, ours.attribute(x, **arguments), **F32)
