"""The program of each method, made of the arguments of an explainer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .. import ops
from ..attr import (
    DeepLift,
    DeepLiftShap,
    FeatureAblation,
    GradientShap,
    InputXGradient,
    IntegratedGradients,
    KernelShap,
    Lime,
    NoiseTunnel,
    Occlusion,
    Saliency,
)
from ..attr.lime import fair_coins
from ..attr.noise_tunnel import _TYPES
from ..core import coalition_bits
from ..core.checks import ArgumentError, check, check_count, check_seed
from ..core.engine.coalition_rows import MaskPieces, Pieces
from ..core.engine.groups import FeatureGroups, check_feature_mask, check_ids
from ..core.engine.inputs import Inputs, check_background, check_stdevs
from ..core.engine.windows import Windows, check_windows
from ..core.estimate import designs, hadamard, quadrature
from ..core.estimate.kriging import Kriging, leaves_residuals
from ..core.estimate.linear_fits import Lasso, LinearFit, is_wide
from ..core.estimate.shapley_regression import ShapleyRegression
from ..core.estimate.similarity import ExpKernel
from ..core.estimate.tiers import check_tier
from ..core.intercept.relu import check_eager
from ..core.modules import modules_of
from ..core.prefix.mixing import Each, Mixed
from ..ops import native, reference
from . import programs
from .call import WITH_DESIGN, method_of
from .programs import Program


def _saliency(explainer: Saliency, inputs: Inputs, abs: bool) -> Program:
    return partial(programs.saliency, abs=abs)


def _input_x_gradient(explainer: InputXGradient, inputs: Inputs) -> Program:
    return programs.input_x_gradient


def _integrated_gradients(
    explainer: IntegratedGradients, inputs: Inputs, n_steps: int, method: str
) -> Program:
    alphas, weights = quadrature.rule(method, n_steps, inputs.tensors[0].device)
    return partial(
        programs.integrated_gradients,
        alphas=alphas,
        weights=weights,
        multiply_by_inputs=explainer.multiplies_by_inputs,
    )


def _gradient_shap(
    explainer: GradientShap,
    inputs: Inputs,
    background: Any,
    n_samples: int,
    stdevs: Any,
    return_convergence_delta: bool,
    seed: int | None = None,
) -> Program:
    _check_library("which draws the samples")
    return partial(
        programs.gradient_shap,
        background=_check_background(background, inputs),
        stdevs=check_stdevs(stdevs, inputs),
        samples=check_count(n_samples, "n_samples"),
        multiply_by_inputs=explainer.multiplies_by_inputs,
        convergence_delta=return_convergence_delta,
    )


def _deep_lift(explainer: DeepLift, inputs: Inputs, custom_attribution_func: Any) -> Program:
    check_eager(explainer.model, modules_of(explainer.model))
    combine = explainer._combination(custom_attribution_func)
    return partial(programs.deep_lift, combine=combine, eps=explainer.eps)


def _deep_lift_shap(
    explainer: DeepLiftShap, inputs: Inputs, background: Any, custom_attribution_func: Any
) -> Program:
    check_eager(explainer.model, modules_of(explainer.model))
    background = _check_background(background, inputs)
    check(len(background[0]) > 1, "baselines", "two rows or more; DeepLift takes one", "one")
    return partial(
        programs.deep_lift_shap,
        background=background,
        combine=explainer._combination(custom_attribution_func),
        eps=explainer.eps,
    )


def _check_background(baselines: Any, inputs: Inputs) -> tuple[Tensor, ...]:
    check(not callable(baselines), "baselines", "rows, all of which are built in", "a function")
    return check_background(baselines, inputs, "baselines")


def _noise_tunnel(
    explainer: NoiseTunnel,
    inputs: Inputs,
    nt_type: str,
    nt_samples: int,
    stdevs: Any,
    background: Any,
    arguments: dict[str, Any],
    seed: int | None,
) -> Program:
    _check_library("which draws the noise")
    check(nt_type in _TYPES, "nt_type", f"one of {', '.join(_TYPES)}", repr(nt_type))
    method = explainer.attribution_method
    if background is not None:
        background = _check_background(background, inputs)
    return partial(
        programs.noise_tunnel,
        method=PROGRAMS[type(method)](method, inputs, **arguments),
        nt_type=nt_type,
        stdevs=check_stdevs(stdevs, inputs),
        samples=check_count(nt_samples, "nt_samples"),
        background=background,
    )


def _check_library(what: str) -> None:
    expected = f"a method that needs no compiled library, {what}; there is none here"
    check(native.backend() is not reference, "explainer", expected, "one that does")


def _feature_ablation(explainer: FeatureAblation, inputs: Inputs, feature_mask: Any) -> Program:
    groups = _groups(feature_mask, inputs)
    count = groups.count + 1  # the last is of no feature

    def kept() -> tuple[Tensor, ...]:
        numbers = torch.arange(count, device=_device(inputs))
        return tuple(mask != numbers.reshape(-1, *[1] * (mask.dim() - 1)) for mask in groups.masks)

    pieces = (MaskPieces(mask, count) for mask in groups.masks)
    return partial(
        programs.feature_ablation,
        rows=programs.Replaced(kept, _positions(pieces, count), Each(count)),
        groups=groups,
    )


def _occlusion(
    explainer: Occlusion, inputs: Inputs, sliding_window_shapes: Any, strides: Any
) -> Program:
    windows = check_windows(sliding_window_shapes, strides, inputs)
    count = windows[-1].first + windows[-1].count + 1  # the last is of no feature
    positions = _positions(windows, count)
    kept = tuple(_left_by(window, *found) for window, found in zip(windows, positions, strict=True))
    return partial(
        programs.occlusion,
        rows=programs.Replaced(lambda: kept, positions, Each(count)),
        windows=windows,
    )


def _positions(pieces: Iterable[Pieces], count: int) -> tuple[tuple[Tensor, Tensor], ...]:
    """Which features of each input are of which group, one grouping for all examples."""
    return tuple(p.positions(slice(0, count), slice(0, 1)) for p in pieces)


def _left_by(windows: Windows, positions: Tensor, offsets: Tensor) -> Tensor:  # [N, *F] bool
    """Which features of one input each window leaves."""
    count = offsets.shape[1] - 1
    window = torch.arange(count, device=windows.device).repeat_interleave(offsets[0].diff())
    features = torch.Size(windows.shape).numel()
    kept = torch.ones(count, features, dtype=torch.bool, device=windows.device)
    kept[window, positions[0]] = False
    return kept.unflatten(1, windows.shape)


def _kernel_shap(
    explainer: KernelShap,
    inputs: Inputs,
    feature_mask: Any,
    n_samples: int,
    return_input_shape: bool,
    background: Any,
    design: str | None,
    tier: str | None,
    seed: int | None,
    standard_errors: bool = True,
) -> Program:
    groups = _groups(feature_mask, inputs, return_input_shape)
    n_samples = check_count(n_samples, "n_samples", at_least=2)
    expected = "None, fast or shared, as a package factorises nothing"
    check(check_tier(tier) != "accurate", "tier", expected, tier)
    seed, device = check_seed(seed), _device(inputs)
    try:
        if tier == "shared" and design is None:
            plan = designs.kriging_design(groups.count, n_samples, seed)
        else:
            plan = designs.shapley_design(groups.count, n_samples, seed, design)
    except ValueError as error:
        raise ArgumentError(f"design: {error}") from error
    regression = ShapleyRegression(plan)
    fit: programs.Fit
    if tier == "shared" and leaves_residuals(plan, regression):
        kriging = Kriging(plan, device)
        fit = partial(kriging.of_block, own_scales=False, with_errors=standard_errors)
    else:
        fit = programs.Regression(
            _solution(plan, regression).to(device),
            _pairs(regression, device) if standard_errors else None,
        )
    present = _present(plan.bits, groups, inputs, with_nobody=True)
    return partial(
        programs.kernel_shap,
        rows=_coalitions(present, groups, inputs),
        fit=fit,
        background=None if background is None else check_background(background, inputs),
        spread=groups.spread if return_input_shape else _by_id(groups),
    )


def _solution(plan: designs.Design, fit: ShapleyRegression) -> Tensor:  # [M, N + 2] float64
    """What each output counts for each value: the regression of unit vectors.

    The outputs are of the empty coalition, the design's, and the full one.
    """
    each = torch.eye(plan.bits.shape[0], dtype=torch.float64)
    moments = ops.coalition_rhs(plan.bits, plan.players, plan.weights, each)
    difference = torch.zeros(each.shape[0] + 2, dtype=torch.float64)
    difference[0], difference[-1] = -1, 1
    return fit.solve(torch.nn.functional.pad(moments, (1, 1)), difference)


def _pairs(fit: ShapleyRegression, device: torch.device) -> tuple[Tensor, Tensor]:
    z, influence = fit.pairs()
    return z.to(device), influence.square().T.contiguous().to(device)


def _lime(
    explainer: Lime,
    inputs: Inputs,
    feature_mask: Any,
    n_samples: int,
    return_input_shape: bool,
    seed: int | None,
    standard_errors: bool = False,
) -> Program:
    kernel, fit = explainer.similarity_func, explainer.interpretable_model
    known = isinstance(kernel, ExpKernel)
    check(known, "similarity_func", "get_exp_kernel_similarity_function's", kernel)
    fair = explainer.perturb_func is fair_coins
    check(fair, "perturb_func", "None, fair coins", explainer.perturb_func)
    linear = isinstance(fit, LinearFit)
    check(linear, "interpretable_model", "a Lasso, Ridge or LeastSquares", fit)
    lasso = isinstance(fit, Lasso) and fit.alpha > 0
    check(
        not lasso or native.backend() is not reference,
        "interpretable_model",
        "a Ridge or LeastSquares where there is no compiled library, which has the lasso",
        fit,
    )
    groups = _groups(feature_mask, inputs, return_input_shape)
    n = check_count(n_samples, "n_samples")
    check(not is_wide(n, groups.count), "feature_mask", "fewer groups", groups.count)
    bits = hadamard.foldover_hadamard(groups.count, n, check_seed(seed))
    present = _present(bits, groups, inputs)
    return partial(
        programs.lime,
        rows=_coalitions(present, groups, inputs),
        present=present,
        groups=groups,
        kernel=kernel,
        fit=fit,
        standard_errors=standard_errors,
        spread=groups.spread if return_input_shape else _by_id(groups),
    )


def _groups(feature_mask: Any, inputs: Inputs, return_input_shape: bool = True) -> FeatureGroups:
    groups = check_feature_mask(feature_mask, inputs)
    check(groups.one_for_all, "feature_mask", "one row for all examples", "one for each")
    if not return_input_shape:
        check_ids(groups)
    # A file has trouble with tensors that share memory, as the parts of one mask do.
    return replace(groups, masks=tuple(mask.clone() for mask in groups.masks))


def _by_id(groups: FeatureGroups) -> programs.Spread:
    """One number for each id between the least and the greatest, zero where there is none."""
    ids = torch.arange(groups.count) if groups.ids is None else groups.ids.cpu()
    source = torch.full((int(ids[-1] - ids[0]) + 1,), groups.count)  # a zero beside the values
    source[ids - ids[0]] = torch.arange(groups.count)
    source = source.to(groups.masks[0].device)
    return lambda values: (torch.nn.functional.pad(values, (0, 1))[..., source],)


def _present(
    bits: Tensor, groups: FeatureGroups, inputs: Inputs, with_nobody: bool = False
) -> Tensor:  # [N, M] bool
    """Who is in these coalitions, and at last in the full one."""
    present = coalition_bits.unpack(bits, groups.count).to(torch.bool)
    everyone = torch.ones_like(present[:1]) if len(present) else torch.ones(1, groups.count).bool()
    first = [~everyone] if with_nobody else []
    return torch.cat([*first, present, everyone]).to(_device(inputs))


def _coalitions(present: Tensor, groups: FeatureGroups, inputs: Inputs) -> programs.Replaced:
    def kept() -> tuple[Tensor, ...]:
        return tuple(
            present[:, mask.flatten().long()].unflatten(1, mask.shape[1:]) for mask in groups.masks
        )

    pieces = (MaskPieces(mask, groups.count) for mask in groups.masks)
    mixing = Mixed(present.to(inputs.tensors[0].dtype))
    return programs.Replaced(kept, _positions(pieces, groups.count), mixing)


def _device(inputs: Inputs) -> torch.device:
    return inputs.tensors[0].device


PROGRAMS: dict[type, Callable[..., Program]] = {
    DeepLift: _deep_lift,
    DeepLiftShap: _deep_lift_shap,
    FeatureAblation: _feature_ablation,
    GradientShap: _gradient_shap,
    InputXGradient: _input_x_gradient,
    IntegratedGradients: _integrated_gradients,
    KernelShap: _kernel_shap,
    Lime: _lime,
    NoiseTunnel: _noise_tunnel,
    Occlusion: _occlusion,
    Saliency: _saliency,
}


def check_module(explainer: Any) -> nn.Module:
    names = ", ".join(kind.__name__ for kind in PROGRAMS)
    check(type(explainer) in PROGRAMS, "explainer", "one of {}", type(explainer).__name__, names)
    method = method_of(explainer)
    if method is not explainer:
        fine = type(method) in PROGRAMS and not isinstance(method, (NoiseTunnel, *WITH_DESIGN))
        expected = "a NoiseTunnel over one of {} that draws no coalitions"
        check(fine, "explainer", expected, f"one over {type(method).__name__}", names)
    module = explainer.forward_func
    check(
        isinstance(module, nn.Module),
        "explainer",
        "one over a torch.nn.Module, whose weights can be exported",
        f"a {type(module).__name__} as its forward_func",
    )
    training = [name or "the model" for name, m in module.named_modules() if m.training]
    check(not training, "explainer", "a model in eval mode", f"{training[:1]} in train mode")
    return module
