"""Writes an explanation and its model into one file."""

from __future__ import annotations

import copy
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..attr import Attribution, InputXGradient, IntegratedGradients, Saliency
from ..core import quadrature
from ..core.inputs import (
    ArgumentError,
    Inputs,
    TensorOrTuple,
    check,
    check_baselines,
    check_forward_args,
    check_inputs,
    name_of,
)
from ..core.model import Target
from . import programs
from .manifest import (
    ENTRY,
    FORMATS,
    Argument,
    Manifest,
    device_here,
    file_digest,
    fingerprint,
    machine_here,
)
from .programs import TOP, Answer, Program, Question

_BATCH = 11  # rows to trace with: not 0 or 1, which are special, and not a multiple of much


def export(
    explainer: Attribution,
    example_inputs: TensorOrTuple,
    path: str | os.PathLike[str],
    *,
    format: str = "aoti",
    **attribute_arguments: Any,
) -> str:
    """Compiles an explanation together with its model into one file.

    The file holds a function from inputs to the model's outputs, their attributions and, where the
    method has one, the convergence delta, in one call for any number of rows. All rows that the
    method asks the model about for a batch go through it in one call. The model's weights are
    copied into the file.

    A tensor argument with a row for each example becomes an argument of that function; everything
    else is built in.

    Args:
        explainer: a :class:`Saliency`, :class:`InputXGradient` or :class:`IntegratedGradients` over
            a module in eval mode. It and the module are left as they are.
        example_inputs: a tensor [B, *F], or a tuple of tensors [B, *F_i], of the shapes, dtypes and
            device that will be served; their values do not matter. Two rows or more, if another
            tensor has a row for each.
        path: the file to write, which ends in ``.pt2``.
        format: "aoti" for native code, compiled for this kind of machine and this version of
            torch; "torch" for a ``torch.export`` program, which runs anywhere torch does, slower.
        **attribute_arguments: as for the explainer's ``attribute``. ``target`` may also be
            ``"argmax"``: the class with the largest output.

    Returns:
        The file's SHA-256, for ``load(path, sha256=...)``.

    Raises:
        ArgumentError: an argument is not as above, cannot be built in, or the model cannot be
            traced; the message names it.
    """
    check(format in FORMATS, "format", "one of {}", repr(format), ", ".join(map(repr, FORMATS)))
    file = _check_path(path)
    module = _check_module(explainer)
    options = _options(explainer, example_inputs, attribute_arguments)
    call = _Call(explainer, module, example_inputs, options)
    options = {k: v for k, v in options.items() if k not in _ASKED}
    program = _PROGRAMS[type(explainer)](explainer, call.question(call.examples), **options)

    outputs = call.check_outputs()
    if isinstance(explainer, _ONE_NUMBER):
        programs.check_one_number(call.question(call.examples), outputs)
    traced = _trace(program, call)
    manifest = Manifest(
        method=explainer.get_name(),
        options={k: _in_words(v) for k, v in attribute_arguments.items()},
        arguments=call.arguments,
        results=traced.results,
        inputs_in_tuple=call.inputs.in_tuple,
        fingerprint=fingerprint(module),
        format=format,
        device=device_here(call.examples[0].device),
        versions=_versions(),
        machine=machine_here(),
    )
    _write(traced.program, manifest, file)
    return file_digest(file)


# --- What the user passed ---

_ASKED = ("inputs", "baselines", "target", "additional_forward_args")
# Arguments that are about how the model is called, and the one value that fits a single call.
_ONLY = {
    "internal_batch_size": None,
    "perturbations_per_eval": None,
    "show_progress": False,
}
_LEFT_OUT = (*_ONLY, "return_convergence_delta")
_ONE_NUMBER = (Saliency, InputXGradient, IntegratedGradients)


def _check_path(path: str | os.PathLike[str]) -> Path:
    check(isinstance(path, str | os.PathLike), "path", "a path", type(path).__name__)
    file = Path(path)
    check(file.suffix == ".pt2", "path", "a name that ends in .pt2", repr(str(path)))
    check(file.parent.is_dir(), "path", "a directory that exists", repr(str(file.parent)))
    fine = os.access(file if file.exists() else file.parent, os.W_OK) and not file.is_dir()
    check(fine, "path", "a file that can be written", repr(str(path)))
    return file


def _check_module(explainer: Any) -> nn.Module:
    names = ", ".join(kind.__name__ for kind in _PROGRAMS)
    check(type(explainer) in _PROGRAMS, "explainer", "one of {}", type(explainer).__name__, names)
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
        call = signature(explainer.attribute).bind(inputs, **arguments)
    except TypeError as error:
        raise ArgumentError(f"{explainer.get_name()}: {error}") from error
    call.apply_defaults()
    options = dict(call.arguments)
    unknown = options.pop("kwargs", {})
    check(not unknown, next(iter(unknown), ""), "no such argument", "one")
    for name, only in _ONLY.items():
        if name in options:
            expected = f"{only}, as a package asks the model about all rows in one call"
            check(options[name] is only, name, expected, options[name])
    return {k: v for k, v in options.items() if k not in _LEFT_OUT}


class _Call:
    """The tensors that a call of the program takes, and how a question comes of them."""

    def __init__(self, explainer: Any, module: nn.Module, inputs: Any, options: dict[str, Any]):
        self.module = _frozen_copy(module)
        differentiates = explainer._differentiates
        self.inputs = check_inputs(inputs, differentiates)
        batch = self.inputs.batch
        check(batch > 0, "example_inputs", "at least one row", self.inputs.tensors[0].shape)
        self.baselines = check_baselines(options.get("baselines"), self.inputs)
        self.inputs = self.inputs.in_dtypes_of(self.baselines)
        extra = options.get("additional_forward_args")
        self.forward_args = check_forward_args(extra, differentiates)
        self.target = _check_target(options.get("target"), batch)
        in_tuple = self.inputs.in_tuple
        named = [
            *self._named("inputs", self.inputs.tensors, in_tuple),
            *self._named("target", (self.target,), False),
            *self._named("baselines", self.baselines, in_tuple),
            *self._named("additional_forward_args", self.forward_args, True),
        ]
        self.examples = [_some_rows(tensor) for _, tensor in named]
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
        return isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == batch > 1

    def question(self, tensors: Sequence[Tensor]) -> Question:
        """The question that a call with these tensors asks; what is built in comes with it."""
        given = iter(tensors)

        def filled(values: Sequence[Any]) -> tuple[Any, ...]:
            return tuple(next(given) if self._is_of_rows(v) else v for v in values)

        inputs = tuple(next(given) for _ in self.inputs.tensors)
        (target,) = filled((self.target,))
        baselines, forward_args = filled(self.baselines), filled(self.forward_args)
        of_rows = tuple(map(self._is_of_rows, self.forward_args))
        return Question(self.module, inputs, baselines, forward_args, of_rows, target)

    def check_outputs(self) -> Tensor:
        """The outputs at the examples, [B, *C]; one for each row, that the target is among."""
        question = self.question(self.examples)
        with torch.no_grad():
            outputs = question.outputs(*question.inputs)
        got = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        of_rows = isinstance(outputs, Tensor) and outputs.shape[:1] == (question.batch,)
        check(of_rows, "forward_func", "a tensor with one entry for each of {} rows", got, _BATCH)
        target = self.target
        if target is TOP:
            check(outputs.dim() == 2, "target", "outputs [B, C] to find the largest of", got)
        elif target is not None:
            # Raises if it is out of range.
            Target(target if isinstance(target, tuple) else (0,) * _width(target), 1).select(
                outputs, 1, slice(0, _BATCH)
            )
        return outputs


def _check_target(target: Any, batch: int) -> Any:
    """As :class:`Question` has it."""
    if isinstance(target, str):
        check(target == TOP, "target", "an int, a tuple, a tensor or {!r}", repr(target), TOP)
        return TOP
    checked = Target(target, batch)
    if checked.each is None:
        return checked.everywhere or None
    if batch == 1:  # one row says nothing of others
        return tuple(checked.each[0].tolist())
    return checked.each[:, 0] if checked.each.shape[1] == 1 else checked.each


def _width(target: Tensor) -> int:
    return 1 if target.dim() == 1 else target.shape[1]


def _frozen_copy(module: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(module).requires_grad_(False)
    except Exception as error:
        raise ArgumentError(f"explainer: its model cannot be copied: {error}") from error


def _some_rows(tensor: Tensor) -> Tensor:
    """The rows again and again, as many as a program is traced with."""
    rows = torch.arange(_BATCH, device=tensor.device) % tensor.shape[0]
    return tensor.detach()[rows].contiguous()


def _described(name: str, tensor: Tensor, batch: int) -> Argument:
    rows = tensor.shape[0] // batch
    return Argument(name, tuple(tensor.shape[1:]), str(tensor.dtype).removeprefix("torch."), rows)


def _in_words(value: Any) -> str:
    tensors = value if isinstance(value, tuple) else (value,)
    if not any(isinstance(t, Tensor) for t in tensors):
        return repr(value)
    words = (f"tensor {tuple(t.shape)}" if isinstance(t, Tensor) else repr(t) for t in tensors)
    return ", ".join(words)


# --- The methods ---


def _saliency(explainer: Saliency, question: Question, abs: bool) -> Program:
    return partial(programs.saliency, abs=abs)


def _input_x_gradient(explainer: InputXGradient, question: Question) -> Program:
    return programs.input_x_gradient


def _integrated_gradients(
    explainer: IntegratedGradients, question: Question, n_steps: int, method: str
) -> Program:
    alphas, weights = quadrature.rule(method, n_steps, question.inputs[0].device)
    return partial(
        programs.integrated_gradients,
        alphas=alphas,
        weights=weights,
        multiply_by_inputs=explainer.multiplies_by_inputs,
    )


_PROGRAMS: dict[type, Callable[..., Program]] = {
    Saliency: _saliency,
    InputXGradient: _input_x_gradient,
    IntegratedGradients: _integrated_gradients,
}


# --- From a program to a file ---


@dataclass(frozen=True)
class _Traced:
    program: torch.export.ExportedProgram
    results: tuple[Argument, ...]


def _trace(program: Program, call: _Call) -> _Traced:
    names: list[str] = []

    def run(*tensors: Tensor) -> tuple[Tensor, ...]:
        named = _named_results(program(call.question(tensors)), call.inputs)
        names[:] = named
        return tuple(named.values())

    dynamic = tuple({0: torch.export.Dim("batch", min=1)} for _ in call.examples)
    try:
        with torch.no_grad():
            graph = _graph(run, call.examples)
            exported = torch.export.export(graph, tuple(call.examples), dynamic_shapes=dynamic)
            results = run(*call.examples)
    except (ArgumentError, IndexError):
        raise
    except Exception as error:
        raise ArgumentError(
            "explainer: expected a model that can be traced for any number of rows: no Python "
            f"branches on the values or the number of rows, no numpy. {type(error).__name__}: "
            f"{str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        ) from error
    _check_trace(exported, run, call.examples)
    described = (_described(n, r, _BATCH) for n, r in zip(names, results, strict=True))
    return _Traced(exported, tuple(described))


def _graph(run: Callable[..., Any], examples: list[Tensor]) -> torch.fx.GraphModule:
    """The operations on tensors, with the number of rows left open."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.fx.experimental.symbolic_shapes import (
        DimDynamic,
        ShapeEnv,
        StatelessSymbolicContext,
    )

    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    fakes = [
        mode.from_tensor(
            example,
            symbolic_context=StatelessSymbolicContext(
                [DimDynamic.DUCK] + [DimDynamic.STATIC] * (example.dim() - 1)
            ),
        )
        for example in examples
    ]
    return make_fx(run, tracing_mode="symbolic", _allow_non_fake_inputs=True)(*fakes)


def _check_trace(
    exported: torch.export.ExportedProgram, run: Callable[..., Any], examples: list[Tensor]
) -> None:
    """For another number of rows, and one alone, the trace must say what was traced."""
    module = exported.module()
    for rows in (1, _BATCH - 1):
        tensors = [e[:rows].contiguous() for e in examples]
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


def _write(program: torch.export.ExportedProgram, manifest: Manifest, file: Path) -> None:
    """Writes beside the file first, so that it is never there in part."""
    draft = file.with_name(f".{file.stem}.{os.getpid()}.pt2")
    extra = {ENTRY: manifest.to_json()}
    try:
        if manifest.format == "torch":
            torch.export.save(program, draft, extra_files=extra)
        else:
            _compile(program, draft, extra)
        os.replace(draft, file)
    finally:
        draft.unlink(missing_ok=True)


def _compile(program: torch.export.ExportedProgram, file: Path, extra: dict[str, str]) -> None:
    from torch._inductor import aot_compile
    from torch.export.pt2_archive._package import package_pt2

    arguments, keywords = program.example_inputs
    options = {"aot_inductor.package": True}
    files = aot_compile(program.module(check_guards=False), arguments, keywords, options=options)
    package_pt2(str(file), aoti_files={"model": files}, extra_files=extra)  # type: ignore[dict-item]


def _versions() -> dict[str, str]:
    from fastxai import __version__

    return {
        "fastxai": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
