"""Writes an explanation and its model into one file."""

from __future__ import annotations

import copy
import os
import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from inspect import signature
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from .. import ops
from ..attr import (
    Attribution,
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
from ..attr._base import check_ids
from ..attr.lime import ExpKernel, fair_coins
from ..attr.noise_tunnel import _TYPES
from ..core import designs, quadrature
from ..core.affine import Each, Mixed, NotAffine, may_follow, modules_of
from ..core.flags import check_flags, flags_of
from ..core.inputs import (
    ArgumentError,
    FeatureGroups,
    Inputs,
    TensorOrTuple,
    check,
    check_background,
    check_baselines,
    check_count,
    check_feature_mask,
    check_forward_args,
    check_inputs,
    check_seed,
    check_stdevs,
    name_of,
)
from ..core.kriging import Kriging, leaves_residuals
from ..core.linear_fits import Lasso, LinearFit, is_wide
from ..core.model import Target
from ..core.prefix import may_stay_affine
from ..core.rows import MaskPieces, Pieces
from ..core.rules import check_eager
from ..core.surrogate import ShapleyRegression
from ..core.tiers import check_tier
from ..core.windows import Windows, check_windows
from ..ops import native, reference
from . import programs
from .manifest import (
    ENTRY,
    FORMATS,
    Argument,
    Manifest,
    PackageError,
    device_here,
    file_digest,
    fingerprint,
    machine_here,
)
from .programs import TOP, Answer, Program, Question

_TRACED = {  # by whether the number of rows is fixed
    False: "any number of rows: no Python branches on the values or the number of rows",
    True: "these shapes: no Python branches on the values",
}
_BATCH = 11  # rows to trace with: not 0 or 1, which are special, and not a multiple of much


def export(
    explainer: Attribution,
    example_inputs: TensorOrTuple,
    path: str | os.PathLike[str],
    *,
    format: str = "aoti",
    standard_errors: bool | None = None,
    **attribute_arguments: Any,
) -> str:
    """Compiles an explanation together with its model into one file.

    The file holds a function from inputs to the model's outputs, their attributions and, where the
    method has them, the convergence delta or standard errors, in one call for any number of rows.
    All rows that the method asks the model about for a batch go through it in one call; affine
    operations at its beginning are done on few rows for all where that saves time, unless the
    explainer has ``affine_prefix=False``. The model's weights are copied into the file.

    A tensor argument with a row for each example becomes an argument of that function, and so does
    the ``seed`` of :class:`GradientShap` and :class:`NoiseTunnel` unless it is given here;
    everything else is built in.

    Args:
        explainer: a :class:`Saliency`, :class:`InputXGradient`, :class:`IntegratedGradients`,
            :class:`GradientShap`, :class:`DeepLift`, :class:`DeepLiftShap`,
            :class:`FeatureAblation`, :class:`Occlusion`, :class:`KernelShap` or :class:`Lime` over
            a module in eval mode, or a :class:`NoiseTunnel` over any of them but the last two. It
            and the module are left as they are. The coalitions of the last two are drawn here, by
            ``seed``, and serve all calls; they are of all groups of the feature mask, as is what
            ablation asks about, whether or not these differ from the baseline in an input.
        example_inputs: a tensor [B, *F], or a tuple of tensors [B, *F_i], of the shapes, dtypes and
            device that will be served; their values do not matter. Two rows or more, if another
            tensor has a row for each.
        path: the file to write, which ends in ``.pt2``.
        format: "aoti" for native code, compiled for this kind of machine and this version of
            torch; "torch" for a ``torch.export`` program, which runs anywhere torch does, slower.
        standard_errors: whether calls return standard errors as well, which :class:`KernelShap` and
            :class:`Lime` have; None for those that cost little, KernelShap's. Lime's are about as
            much work as the fit.
        **attribute_arguments: as for the explainer's ``attribute``. ``target`` may also be
            ``"argmax"``: the class with the largest output. With ``return_convergence_delta``
            :class:`GradientShap` gives the delta of every sample, for two more rows of the model
            each; other methods that have one always give it.

    Returns:
        The file's SHA-256, for ``load(path, sha256=...)``.

    Raises:
        ArgumentError: an argument is not as above, cannot be built in, or the model cannot be
            traced; the message names it.
        PackageError: there is no C++ compiler here, which the format "aoti" needs.
    """
    check(format in FORMATS, "format", "one of {}", repr(format), ", ".join(map(repr, FORMATS)))
    file = _check_path(path)
    program, manifest = _prepared(
        explainer, example_inputs, attribute_arguments, standard_errors, format
    )
    return _write(program, manifest, file)


def _prepared(
    explainer: Attribution,
    example_inputs: TensorOrTuple,
    attribute_arguments: dict[str, Any],
    standard_errors: bool | None,
    format: str,
    fixed: bool = False,
) -> tuple[torch.export.ExportedProgram, Manifest]:
    """The explanation as operations on tensors, and what it is."""
    module = _check_module(explainer)
    options = _options(explainer, example_inputs, attribute_arguments)
    call = _Call(explainer, module, example_inputs, options, fixed)
    options = {k: v for k, v in options.items() if k not in _ASKED}
    if standard_errors is not None:
        _check_has_errors(explainer, standard_errors)
        options["standard_errors"] = standard_errors
    program = _PROGRAMS[type(explainer)](explainer, call.inputs, **options)

    outputs = call.check_outputs()
    if isinstance(_of(explainer), _ONE_NUMBER):
        programs.check_one_number(call.question(call.examples), outputs)
    traced = _trace(program, call)
    manifest = Manifest(
        method=_name(explainer),
        options={k: _in_words(v) for k, v in attribute_arguments.items()},
        arguments=call.arguments,
        results=traced.results,
        magnitude=traced.magnitude,
        inputs_in_tuple=call.inputs.in_tuple,
        fingerprint=fingerprint(module),
        needs_library=_calls_our_ops(traced.program),
        format=format,
        device=device_here(call.examples[0].device),
        versions=_versions(),
        machine=machine_here(),
    )
    return traced.program, manifest


# --- What the user passed ---

_ASKED = ("inputs", "baselines", "target", "additional_forward_args")
# Arguments that are about how the model is called, and the one value that fits a single call.
_ONLY = {
    "internal_batch_size": None,
    "nt_samples_batch_size": None,
    "perturbations_per_eval": None,
    "show_progress": False,
}
_OF_BUDGET = ("tolerance", "max_samples")  # which have no say over a number of samples
_WITH_ERRORS = (KernelShap, Lime)
_ONE_NUMBER = (Saliency, InputXGradient, IntegratedGradients, GradientShap, DeepLift)
_DRAWING = (GradientShap, NoiseTunnel)  # in every call; the seed comes with it
_WITH_DESIGN = (KernelShap, Lime)  # which is drawn at export


def _of(explainer: Any) -> Any:
    """The method itself, or the one that a tunnel smooths."""
    return explainer.attribution_method if isinstance(explainer, NoiseTunnel) else explainer


def _name(explainer: Any) -> str:
    method = _of(explainer)
    own = "" if method is explainer else f"{explainer.get_name()} over "
    return own + str(method.get_name())


def _check_path(path: str | os.PathLike[str]) -> Path:
    check(isinstance(path, str | os.PathLike), "path", "a path", type(path).__name__)
    file = Path(path)
    check(file.suffix == ".pt2", "path", "a name that ends in .pt2", repr(str(path)))
    check(file.parent.is_dir(), "path", "a directory that exists", repr(str(file.parent)))
    writable = os.access(file.parent, os.W_OK) and (not file.exists() or os.access(file, os.W_OK))
    fine = writable and not file.is_dir()
    check(fine, "path", "a file that can be written", repr(str(path)))
    return file


def _check_module(explainer: Any) -> nn.Module:
    names = ", ".join(kind.__name__ for kind in _PROGRAMS)
    check(type(explainer) in _PROGRAMS, "explainer", "one of {}", type(explainer).__name__, names)
    method = _of(explainer)
    if method is not explainer:
        fine = type(method) in _PROGRAMS and not isinstance(method, (NoiseTunnel, *_WITH_DESIGN))
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


def _options(explainer: Any, inputs: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments of ``attribute`` by name."""
    try:
        check_flags(flags_of(explainer.attribute), (inputs,), arguments)
        call = signature(explainer.attribute).bind(inputs, **arguments)
    except TypeError as error:
        raise ArgumentError(f"{explainer.get_name()}: {error}") from error
    call.apply_defaults()
    options = dict(call.arguments)
    rest = options.pop("kwargs", {})
    has_choice = isinstance(explainer, GradientShap)  # others give their delta for next to nothing
    if not has_choice:
        options.pop("return_convergence_delta", None)
    for name in _ONLY.keys() & options.keys():
        expected = f"{_ONLY[name]}, as a package asks the model about all rows in one call"
        check(options[name] is _ONLY[name], name, expected, options[name])
        del options[name]
    for name in _OF_BUDGET:
        options.pop(name, None)
    if isinstance(explainer, NoiseTunnel):
        return _options_of_tunnel(explainer, options, rest)
    check(not rest, next(iter(rest), ""), "no such argument", "one")
    if explainer._draws_baselines:
        options["background"] = options.pop("baselines")
    return options


def _options_of_tunnel(
    tunnel: NoiseTunnel, options: dict[str, Any], rest: dict[str, Any]
) -> dict[str, Any]:
    """Its own, and as ``arguments`` those of its method; what a question is made of among its."""
    of_method = _options(tunnel.attribution_method, options["inputs"], rest)
    of_method.pop("seed", None)
    asked = {name: of_method.pop(name) for name in _ASKED if name in of_method}
    draws = options.pop("draw_baseline_from_distrib")
    background = asked.pop("baselines", None) if draws else None
    return options | asked | {"background": background, "arguments": of_method}


def _check_has_errors(explainer: Any, standard_errors: Any) -> None:
    check(isinstance(standard_errors, bool), "standard_errors", "a bool or None", standard_errors)
    has = isinstance(explainer, _WITH_ERRORS)
    expected = "None, as {} has no standard errors"
    check(has, "standard_errors", expected, standard_errors, explainer.get_name())


class _Call:
    """The tensors that a call of the program takes, and how a question comes of them.

    ``fixed`` is for as many rows as the inputs have, and no other number.
    """

    def __init__(
        self,
        explainer: Any,
        module: nn.Module,
        inputs: Any,
        options: dict[str, Any],
        fixed: bool = False,
    ):
        self.module = _frozen_copy(module)
        self.fixed = fixed
        differentiates = explainer._differentiates or isinstance(explainer, NoiseTunnel)
        self.inputs = check_inputs(inputs, differentiates)
        batch = self.inputs.batch
        check(batch > 0, "example_inputs", "at least one row", self.inputs.tensors[0].shape)
        self.baselines = check_baselines(options.get("baselines"), self.inputs)
        self.inputs = self.inputs.in_dtypes_of(self.baselines)
        extra = options.get("additional_forward_args")
        self.forward_args = check_forward_args(extra, differentiates)
        self.target = _check_target(options.get("target"), batch, fixed)
        self.seed = _check_seed(explainer, options.get("seed"))
        self.prefix = _may_have_prefix(explainer, self.module, self.inputs, self.baselines)
        in_tuple = self.inputs.in_tuple
        named = [
            *self._named("inputs", self.inputs.tensors, in_tuple),
            *self._named("target", (self.target,), False),
            *self._named("baselines", self.baselines, in_tuple),
            *self._named("additional_forward_args", self.forward_args, True),
            *([("seed", self.seed)] if isinstance(self.seed, Tensor) else []),
        ]
        self.rows = batch if fixed else _BATCH
        self.examples = [_some_rows(tensor, self.rows) for _, tensor in named]
        self.arguments = tuple(_described(name, tensor, batch) for name, tensor in named)

    def _named(self, name: str, values: Sequence[Any], in_tuple: bool) -> list[tuple[str, Tensor]]:
        """Those that a call brings, and what they are called."""
        of_rows = name == "inputs"
        return [
            (name_of(name, i, in_tuple), value)
            for i, value in enumerate(values)
            if of_rows or self._is_of_rows(value)
        ]

    def _is_of_rows(self, value: Any) -> bool:
        batch = self.inputs.batch
        # One row says nothing of others; a baseline of one row is for all.
        told = batch > 1 or (self.fixed and all(value is not b for b in self.baselines))
        return told and isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == batch

    def some_rows(self, count: int) -> list[Tensor]:
        """The first of the examples, or all if no other number is called for."""
        if self.fixed:
            return self.examples
        return [e[:count].contiguous() if e.dim() else e for e in self.examples]

    def question(self, tensors: Sequence[Tensor]) -> Question:
        """The question that a call with these tensors asks; what is built in comes with it."""
        given = iter(tensors)

        def filled(values: Sequence[Any]) -> tuple[Any, ...]:
            return tuple(next(given) if self._is_of_rows(v) else v for v in values)

        inputs = tuple(next(given) for _ in self.inputs.tensors)
        (target,) = filled((self.target,))
        baselines, forward_args = filled(self.baselines), filled(self.forward_args)
        of_rows = tuple(map(self._is_of_rows, self.forward_args))
        seed = next(given) if isinstance(self.seed, Tensor) else self.seed
        return Question(
            self.module, inputs, baselines, forward_args, of_rows, target, seed, self.prefix
        )

    def check_outputs(self) -> Tensor:
        """The outputs at the examples, [B, *C]; one for each row, that the target is among."""
        question = self.question(self.examples)
        with torch.no_grad():
            outputs = question.outputs(*(x.clone() for x in question.inputs))
        got = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        of_rows = isinstance(outputs, Tensor) and outputs.shape[:1] == (question.batch,)
        check(
            of_rows, "forward_func", "a tensor with one entry for each of {} rows", got, self.rows
        )
        target = self.target
        if target is TOP:
            check(outputs.dim() == 2, "target", "outputs [B, C] to find the largest of", got)
        elif target is not None:
            # Raises if it is out of range.
            Target(target if isinstance(target, tuple) else (0,) * _width(target), 1).select(
                outputs, 1, slice(0, self.rows)
            )
        return outputs


def _may_have_prefix(
    explainer: Any, module: nn.Module, inputs: Inputs, baselines: tuple[Tensor, ...]
) -> bool:
    wanted = _of(explainer)._affine_prefix and may_stay_affine((*inputs.tensors, *baselines))
    return wanted and may_follow(module, modules_of(module))


def _check_target(target: Any, batch: int, fixed: bool) -> Any:
    """As :class:`Question` has it."""
    if isinstance(target, str):
        check(target == TOP, "target", "an int, a tuple, a tensor or {!r}", repr(target), TOP)
        return TOP
    if fixed and isinstance(target, Tensor) and target.dim() == 1:
        target = target.tolist()  # one for each row, also where there is one row
    checked = Target(target, batch)
    if checked.each is None:
        return checked.everywhere or None
    if batch == 1 and not fixed:  # one row says nothing of others
        return tuple(checked.each[0].tolist())
    return checked.each[:, 0] if checked.each.shape[1] == 1 else checked.each


def _check_seed(explainer: Any, seed: Any) -> Tensor | int | None:
    """A tensor if every call brings another; None if there is nothing to draw in it."""
    if not isinstance(explainer, _DRAWING):
        return None
    return torch.zeros((), dtype=torch.int64) if seed is None else check_seed(seed)


def _width(target: Tensor) -> int:
    return 1 if target.dim() == 1 else target.shape[1]


def _frozen_copy(module: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(module).requires_grad_(False)
    except Exception as error:
        raise ArgumentError(f"explainer: its model cannot be copied: {error}") from error


def _some_rows(tensor: Tensor, count: int) -> Tensor:
    """The rows again and again, as many as a program is traced with; a number as it is."""
    if tensor.dim() == 0:
        return tensor
    rows = torch.arange(count, device=tensor.device) % tensor.shape[0]
    return tensor.detach()[rows].contiguous()


def _described(name: str, tensor: Tensor, batch: int) -> Argument:
    rows = tensor.shape[0] // batch if tensor.dim() else 0
    return Argument(name, tuple(tensor.shape[1:]), str(tensor.dtype).removeprefix("torch."), rows)


def _in_words(value: Any) -> str:
    tensors = value if isinstance(value, tuple) else (value,)
    if not any(isinstance(t, Tensor) for t in tensors):
        return repr(value)
    words = (f"tensor {tuple(t.shape)}" if isinstance(t, Tensor) else repr(t) for t in tensors)
    return ", ".join(words)


# --- The methods ---


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
        method=_PROGRAMS[type(method)](method, inputs, **arguments),
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
    bits = designs.foldover_hadamard(groups.count, n, check_seed(seed))
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
    present = designs.unpack(bits, groups.count).to(torch.bool)
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


_PROGRAMS: dict[type, Callable[..., Program]] = {
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


# --- From a program to a file ---


@dataclass(frozen=True)
class _Traced:
    program: torch.export.ExportedProgram
    results: tuple[Argument, ...]
    magnitude: bool


def _trace(program: Program, call: _Call) -> _Traced:
    names: list[str] = []

    def run(*tensors: Tensor) -> tuple[Tensor, ...]:
        answer = program(call.question(tensors))
        named = _named_results(answer, call.inputs)
        names[:] = named
        more = () if answer.magnitude is None else (answer.magnitude,)
        return (*named.values(), *more)

    batch = torch.export.Dim("batch", min=1)
    shapes = None
    if not call.fixed:
        shapes = tuple({0: batch} if example.dim() else {} for example in call.examples)
    try:
        with torch.no_grad():
            if call.prefix:
                run(*call.some_rows(1))  # whether rows can stay affine, and it pays
            graph = _graph(run, call.examples, call.fixed)
            exported = torch.export.export(graph, tuple(call.examples), dynamic_shapes=shapes)
            results = run(*call.examples)
        _check_trace(exported, run, call)
    except NotAffine:
        call.prefix = False
        return _trace(program, call)
    except (ArgumentError, IndexError):
        raise
    except Exception as error:
        raise ArgumentError(
            f"explainer: expected a model that can be traced for {_TRACED[call.fixed]}, no numpy. "
            f"{type(error).__name__}: "
            f"{str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        ) from error
    described = [_described(n, r, call.rows) for n, r in zip(names, results, strict=False)]
    return _Traced(exported, tuple(described), len(results) > len(names))


def _graph(run: Callable[..., Any], examples: list[Tensor], fixed: bool) -> torch.fx.GraphModule:
    """The operations on tensors, with the number of rows left open unless it is fixed."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.fx.experimental.symbolic_shapes import (
        DimDynamic,
        ShapeEnv,
        StatelessSymbolicContext,
    )

    rows = DimDynamic.STATIC if fixed else DimDynamic.DUCK
    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    fakes = [
        mode.from_tensor(
            example,
            symbolic_context=StatelessSymbolicContext(
                [rows][: example.dim()] + [DimDynamic.STATIC] * (example.dim() - 1)
            ),
        )
        for example in examples
    ]
    return make_fx(run, tracing_mode="symbolic", _allow_non_fake_inputs=True)(*fakes)


def _calls_our_ops(program: torch.export.ExportedProgram) -> bool:
    return any(str(node.target).startswith("fastxai") for node in program.graph.nodes)


def _check_trace(
    exported: torch.export.ExportedProgram, run: Callable[..., Any], call: _Call
) -> None:
    """For another number of rows, and one alone, the trace must say what was traced."""
    module = exported.module()
    for rows in (call.rows,) if call.fixed else (1, _BATCH - 1):
        tensors = call.some_rows(rows)
        with torch.no_grad():
            got, expected = module(*tensors), run(*tensors)
        for one, other in zip(got, expected, strict=True):
            close = torch.allclose(one, other, rtol=1e-3, atol=1e-5, equal_nan=True)
            same = one.shape == other.shape and close
            check(
                same,
                "explainer",
                "a model that always says the same of a row",
                f"one that says something else of {rows} rows when it is traced",
            )


def _named_results(answer: Answer, inputs: Inputs) -> dict[str, Tensor]:
    def several(name: str, tensors: tuple[Tensor, ...] | None) -> dict[str, Tensor]:
        in_tuple = inputs.in_tuple and len(tensors or ()) == len(inputs.tensors)
        return {name_of(name, i, in_tuple): t for i, t in enumerate(tensors or ())}

    delta = answer.convergence_delta
    return {
        "outputs": answer.outputs,
        **several("attributions", answer.attributions),
        **({} if delta is None else {"convergence_delta": delta}),
        **several("standard_errors", answer.standard_errors),
    }


def _write(program: torch.export.ExportedProgram, manifest: Manifest, file: Path) -> str:
    """Writes beside the file first, so that it is never there in part; tells the SHA-256."""
    extra = {ENTRY: manifest.to_json()}
    with TemporaryDirectory(prefix=".fastxai-", dir=file.parent) as folder:
        draft = Path(folder, file.name)
        if manifest.format == "torch":
            torch.export.save(program, draft, extra_files=extra)
        else:
            _compile(program, draft, extra)
        sha256 = file_digest(draft)  # the file's may be another's by the time that it is there
        os.replace(draft, file)
    return sha256


def _compile(program: torch.export.ExportedProgram, file: Path, extra: dict[str, str]) -> None:
    from torch.export.pt2_archive._package import package_pt2

    with TemporaryDirectory(prefix="fastxai-") as folder:
        files = _native_code(program, folder, for_package=True)
        package_pt2(str(file), aoti_files={"model": files}, extra_files=extra)


def _native_code(program: torch.export.ExportedProgram, folder: str, for_package: bool) -> Any:
    """Compiles into the folder: the files of a package, or one library, whose path this is."""
    from torch._inductor import aot_compile, cpp_builder
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        cpp_builder.get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise PackageError(
            "native code needs a C++ compiler: expected g++, or what the environment variable CXX "
            f"names, got none that runs. {error}"
        ) from error
    arguments, keywords = program.example_inputs
    module = program.module(check_guards=False)
    options = {"aot_inductor.package": for_package, "aot_inductor.output_path": folder}
    return aot_compile(module, arguments, keywords, options=options)


def _versions() -> dict[str, str]:
    from fastxai import __version__

    return {
        "fastxai": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
