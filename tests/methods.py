"""Every attribution method, and how a test that is about all of them makes it and asks it.

A method that is missing here fails ``tests/test_methods.py``; one that is here meets every test
that draws from the table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from fastxai import attr
from fastxai.attr import Attribution, LeastSquares, PerturbationAttribution

Options = Callable[[Tensor], dict[str, Any]]  # of inputs [B, *F], by their shape and dtype alone


@dataclass(frozen=True)
class Method:
    kind: type[Attribution]
    fixed: dict[str, Any] = field(default_factory=dict)  # arguments of attribute, for any inputs
    by_inputs: Options = lambda x: {}
    make: Callable[[Any], Attribution] | None = None  # where it takes more than a model

    @property
    def of_layer(self) -> bool:
        return "layer" in signature(self.kind).parameters

    @property
    def compares(self) -> bool:
        """Whether it compares outputs rather than taking gradients."""
        return issubclass(self.kind, PerturbationAttribution)

    @property
    def draws(self) -> bool:
        return "seed" in self.fixed

    def over(self, model: Any, layer: nn.Module | None = None) -> Attribution:
        """The method over a model; ``layer`` is for those that explain by one."""
        if self.of_layer:
            return self.kind(model, layer)
        return (self.make or self.kind)(model)

    def options(self, x: Tensor, **more: Any) -> dict[str, Any]:
        """Arguments of ``attribute`` for inputs [B, *F], with those of ``more`` that it takes."""
        known = signature(self.kind.attribute).parameters
        taken = {k: v for k, v in more.items() if k in known or "kwargs" in known}
        return {**self.fixed, **self.by_inputs(x), **taken}

    def ask(self, model: Any, x: Tensor, layer: nn.Module | None = None, **more: Any) -> Any:
        return self.over(model, layer).attribute(x, **self.options(x, **more))


def groups(x: Tensor) -> Tensor:  # [B, *F] -> [1, *F] int64
    """A feature each, or a slice along the first dimension of several."""
    along = next((d for d in range(1, x.dim()) if x.shape[d] > 1), 1)
    ids = torch.arange(x.shape[along]).reshape([-1 if d == along else 1 for d in range(x.dim())])
    return ids.expand(1, *x.shape[1:])


def window(x: Tensor) -> tuple[int, ...]:
    """As large as one of the groups."""
    along = next((d for d in range(1, x.dim()) if x.shape[d] > 1), 1)
    return tuple(1 if d == along else x.shape[d] for d in range(1, x.dim()))


def background(x: Tensor) -> Tensor:  # [3, *F]
    generator = torch.Generator().manual_seed(1)
    return torch.randn(3, *x.shape[1:], dtype=x.dtype, generator=generator)


def lime_base(model: Any) -> attr.LimeBase:
    """A fit to one number, of all coalitions of the groups."""

    def draw(x: Tensor, **_: Any) -> Any:
        count = int(groups(x).max()) + 1
        yield from ((torch.arange(2**count)[:, None] >> torch.arange(count)) & 1)[:, None]

    def perturbed(z: Tensor, x: Tensor, **_: Any) -> Tensor:
        return torch.where(z[0].bool()[groups(x)], x, 0)

    return attr.LimeBase(model, LeastSquares(), lambda *_, **__: 1.0, draw, True, perturbed, None)


def _with_background(x: Tensor) -> dict[str, Any]:
    return {"baselines": background(x)}


METHODS: dict[str, Method] = {
    method.kind.__name__: method
    for method in (
        Method(attr.Saliency),
        Method(attr.InputXGradient),
        Method(attr.IntegratedGradients, {"n_steps": 8}),
        Method(attr.GradientShap, {"n_samples": 4, "seed": 3}, _with_background),
        Method(attr.DeepLift),
        Method(attr.DeepLiftShap, {}, _with_background),
        Method(attr.GuidedBackprop),
        Method(attr.Deconvolution),
        Method(attr.GuidedGradCam),
        Method(
            attr.NoiseTunnel,
            {"nt_samples": 3, "stdevs": 0.1, "seed": 3},
            make=lambda model: attr.NoiseTunnel(attr.Saliency(model)),
        ),
        Method(attr.LayerActivation),
        Method(attr.LayerGradientXActivation),
        Method(attr.LayerIntegratedGradients, {"n_steps": 8}),
        Method(attr.LayerGradCam),
        Method(attr.LayerDeepLift),
        Method(attr.LayerDeepLiftShap, {}, _with_background),
        Method(attr.LayerGradientShap, {"n_samples": 4, "seed": 3}, _with_background),
        Method(attr.FeatureAblation),
        Method(attr.Occlusion, {}, lambda x: {"sliding_window_shapes": window(x)}),
        Method(attr.FeaturePermutation, {"seed": 3}),
        Method(attr.ShapleyValues, {}, lambda x: {"feature_mask": groups(x)}),
        Method(attr.ShapleyValueSampling, {"n_samples": 7, "seed": 3}),
        Method(attr.KernelShap, {"n_samples": 60, "seed": 3}),
        Method(attr.Lime, {"n_samples": 60, "seed": 3}),
        Method(
            attr.LimeBase,
            {},
            lambda x: {"n_samples": 2 ** (int(groups(x).max()) + 1)},
            make=lime_base,
        ),
    )
}
