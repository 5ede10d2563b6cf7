"""What type checkers are told of each method; mypy reads this file, and nothing runs it.

A wrong call must be an error: an ``ignore`` that is not needed is one as well.
"""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import assert_type

import fastxai
from fastxai.attr._layer import OfLayers
from fastxai.core.checks import TensorOrTuple
from fastxai.deploy import Package

Tensors = tuple[Tensor, ...]


def forms(
    model: torch.nn.Module, x: Tensor, pair: tuple[Tensor, Tensor], any: TensorOrTuple
) -> None:
    """Tensor in, tensor out; tuple in, tuple out; and what may be either may be either."""
    saliency = fastxai.Saliency(model)
    assert_type(saliency.attribute(x, 1), Tensor)
    assert_type(saliency.attribute(pair, 1, abs=False), Tensors)
    assert_type(saliency.attribute(any, 1), TensorOrTuple)
    assert_type(saliency.attribute(torch.nn.Parameter(x)), Tensor)
    saliency.attribute(x, abz=True)  # type: ignore[call-arg]

    assert_type(fastxai.InputXGradient(model).attribute(x), Tensor)
    assert_type(fastxai.GuidedBackprop(model).attribute(pair), Tensors)
    assert_type(fastxai.Deconvolution(model).attribute(x), Tensor)
    assert_type(fastxai.GuidedGradCam(model, model).attribute(pair), Tensors)
    assert_type(fastxai.FeatureAblation(model).attribute(x, 0), Tensor)
    assert_type(fastxai.FeaturePermutation(model).attribute(x, 0), Tensor)
    assert_type(fastxai.Occlusion(model).attribute(pair, ((1,), (2,))), Tensors)
    assert_type(fastxai.ShapleyValues(model).attribute(x), Tensor)
    assert_type(fastxai.ShapleyValueSampling(model).attribute(pair, n_samples="auto"), Tensors)


def one_number_a_group(model: torch.nn.Module, x: Tensor, pair: tuple[Tensor, Tensor]) -> None:
    for method in (fastxai.KernelShap(model), fastxai.Lime(model)):
        assert_type(method.attribute(x), Tensor)
        assert_type(method.attribute(pair, return_input_shape=True), Tensors)
        assert_type(method.attribute(pair, n_samples=9, return_input_shape=False), Tensor)
    assert_type(fastxai.KernelShap(model).attribute(pair, tier="fast"), Tensors)


def deltas(model: torch.nn.Module, x: Tensor, pair: tuple[Tensor, Tensor]) -> None:
    """With a convergence delta a pair."""
    integrated = fastxai.IntegratedGradients(model)
    assert_type(integrated.attribute(x, 0, 1, n_steps=9), Tensor)
    assert_type(integrated.attribute(pair, return_convergence_delta=False), Tensors)
    assert_type(integrated.attribute(x, return_convergence_delta=True), tuple[Tensor, Tensor])
    assert_type(integrated.attribute(pair, return_convergence_delta=True), tuple[Tensors, Tensor])

    lift = fastxai.DeepLift(model)
    assert_type(lift.attribute(x), Tensor)
    assert_type(lift.attribute(x, return_convergence_delta=True), tuple[Tensor, Tensor])
    shap = fastxai.DeepLiftShap(model)
    assert_type(shap.attribute(pair, pair), Tensors)
    assert_type(shap.attribute(pair, pair, return_convergence_delta=True), tuple[Tensors, Tensor])
    shap.attribute(x)  # type: ignore[call-overload]
    drawn = fastxai.GradientShap(model)
    assert_type(drawn.attribute(x, x, 5, 0.1, 1, seed=3), Tensor)
    assert_type(drawn.attribute(x, x, return_convergence_delta=True), tuple[Tensor, Tensor])


def layers(model: torch.nn.Module, x: Tensor) -> None:
    """The layer decides about the form."""
    assert_type(fastxai.LayerActivation(model, model).attribute(x), OfLayers)
    assert_type(fastxai.LayerGradientXActivation(model, [model]).attribute(x, 1), OfLayers)
    assert_type(fastxai.LayerGradCam(model, model).attribute(x, 1), OfLayers)
    integrated = fastxai.LayerIntegratedGradients(model, model)
    assert_type(integrated.attribute(x), OfLayers)
    assert_type(integrated.attribute(x, return_convergence_delta=True), tuple[OfLayers, Tensor])
    lift = fastxai.LayerDeepLift(model, model)
    assert_type(lift.attribute(x), OfLayers)
    assert_type(lift.attribute(x, return_convergence_delta=True), tuple[OfLayers, Tensor])
    shap = fastxai.LayerDeepLiftShap(model, model)
    assert_type(shap.attribute(x, x), OfLayers)
    assert_type(shap.attribute(x, x, return_convergence_delta=True), tuple[OfLayers, Tensor])
    drawn = fastxai.LayerGradientShap(model, model)
    assert_type(drawn.attribute(x, x), OfLayers)
    assert_type(drawn.attribute(x, x, return_convergence_delta=True), tuple[OfLayers, Tensor])


def tunnels(model: torch.nn.Module, x: Tensor, pair: tuple[Tensor, Tensor]) -> None:
    """A tunnel has the form of its method."""
    tunnel = fastxai.NoiseTunnel(fastxai.DeepLift(model))
    assert_type(tunnel.attribute(x, "vargrad", target=1), Tensor)
    assert_type(tunnel.attribute(pair, stdevs=(0.1, 0.2)), Tensors)
    assert_type(tunnel.attribute(pair, return_convergence_delta=True), tuple[Tensors, Tensor])
    of_layer = fastxai.NoiseTunnel(fastxai.LayerActivation(model, model)).attribute(x)
    of_layer.whatever()  # as its type is Any
    tunnel.explain(x, nt_sample=3, target=1)


class Halved(fastxai.Saliency):
    def attribute(self, inputs: Tensor, by: float = 0.5) -> Tensor:  # type: ignore[override]
        return super().attribute(inputs) * by


def arguments(model: torch.nn.Module, x: Tensor) -> None:
    """What takes the arguments of ``attribute`` has its arguments."""
    integrated = fastxai.IntegratedGradients(model)
    assert_type(integrated.explain(x, 0.0, target=1, n_steps=9), fastxai.Explanation)
    assert_type(integrated.plan(x, n_steps=9), fastxai.Plan)
    assert_type(integrated.compile(x, target="argmax"), Package)
    assert_type(integrated.compile(x, target=1, standard_errors=None), Package)
    integrated.explain(x, steps=9)  # type: ignore[call-arg]
    integrated.explain(x, n_steps="9")  # type: ignore[arg-type]
    integrated.plan(x, steps=9)  # type: ignore[call-arg]
    integrated.compile(x, steps=9)  # type: ignore[call-overload]

    assert_type(Halved(model).explain(x, by=2.0), fastxai.Explanation)
    Halved(model).explain(x, target=1)  # type: ignore[call-arg]
