"""Writes an explanation and its model into one file."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from .._version import __version__
from ..core.checks import TensorOrTuple, check
from ..core.program.call import (
    ASKED,
    Call,
    Method,
    check_has_errors,
    in_words,
    name_of_method,
    options_of,
)
from ..core.program.program import check_one_number
from ..core.program.trace import calls_our_ops, trace
from .manifest import ENTRY, FORMATS, Manifest, device_here, file_digest, fingerprint, machine_here
from .native_code import compile_package


def export(
    explainer: Method,
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
    explainer has ``affine_prefix=False``. The model's weights are copied into the file. If the rows
    of a call influence one another, which is found out here, each copy of the batch is kept apart
    from the others, and the manifest says so.

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
    program, manifest = prepared(
        explainer, example_inputs, attribute_arguments, standard_errors, format
    )
    return _write(program, manifest, file)


def prepared(
    explainer: Method,
    example_inputs: TensorOrTuple,
    attribute_arguments: dict[str, Any],
    standard_errors: bool | None,
    format: str,
    fixed: bool = False,
) -> tuple[torch.export.ExportedProgram, Manifest]:
    """The explanation as operations on tensors, and what it is."""
    module = _check_module(explainer)
    options = options_of(explainer, example_inputs, attribute_arguments)
    call = Call(explainer, module, example_inputs, options, fixed)
    options = {k: v for k, v in options.items() if k not in ASKED}
    if standard_errors is not None:
        check_has_errors(explainer, standard_errors)
        options["standard_errors"] = standard_errors
    assert explainer._program is not None
    program = explainer._program(call.inputs, **options)

    outputs = call.check_outputs()
    if explainer._smoothed_method._gives_one_number:
        check_one_number(call.request(call.examples), outputs)
    call.keep_apart()
    traced = trace(program, call)
    manifest = Manifest(
        method=name_of_method(explainer),
        options={k: in_words(v) for k, v in attribute_arguments.items()},
        arguments=call.arguments,
        results=traced.results,
        magnitude=traced.magnitude,
        rows_interact=call.apart is not None,
        affine_prefix=call.prefix,
        inputs_in_tuple=call.inputs.in_tuple,
        fingerprint=fingerprint(module),
        needs_library=calls_our_ops(traced.program),
        format=format,
        device=device_here(call.examples[0].device),
        versions=_versions(),
        machine=machine_here(),
    )
    return traced.program, manifest


def _check_path(path: str | os.PathLike[str]) -> Path:
    check(isinstance(path, str | os.PathLike), "path", "a path", type(path).__name__)
    file = Path(path)
    check(file.suffix == ".pt2", "path", "a name that ends in .pt2", repr(str(path)))
    check(file.parent.is_dir(), "path", "a directory that exists", repr(str(file.parent)))
    writable = os.access(file.parent, os.W_OK) and (not file.exists() or os.access(file, os.W_OK))
    fine = writable and not file.is_dir()
    check(fine, "path", "a file that can be written", repr(str(path)))
    return file


def _write(program: torch.export.ExportedProgram, manifest: Manifest, file: Path) -> str:
    """Writes beside the file first, so that it is never there in part; tells the SHA-256."""
    extra = {ENTRY: manifest.to_json()}
    with TemporaryDirectory(prefix=".fastxai-", dir=file.parent) as folder:
        draft = Path(folder, file.name)
        if manifest.format == "torch":
            torch.export.save(program, draft, extra_files=extra)
        else:
            compile_package(program, draft, extra)
        sha256 = file_digest(draft)  # the file's may be another's by the time that it is there
        os.replace(draft, file)
    return sha256


def _versions() -> dict[str, str]:
    return {
        "fastxai": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _check_module(explainer: Method) -> Any:  # torch.nn.Module
    is_method = hasattr(explainer, "_check_program")
    expected = "an attribution method of fastxai"
    check(is_method, "explainer", expected, type(explainer).__name__)
    explainer._check_program()
    module: Any = explainer.forward_func
    check(
        isinstance(module, nn.Module),
        "explainer",
        "one over a torch.nn.Module, whose weights can be exported",
        f"a {type(module).__name__} as its forward_func",
    )
    training = [name or "the model" for name, m in module.named_modules() if m.training]
    check(not training, "explainer", "a model in eval mode", f"{training[:1]} in train mode")
    return module
