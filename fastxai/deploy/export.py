"""Writes an explanation and its model into one file."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from ..attr import Attribution
from ..core.checks import TensorOrTuple, check
from . import programs
from .call import (
    ASKED,
    ONE_NUMBER,
    Call,
    check_has_errors,
    in_words,
    method_of,
    name_of_method,
    options_of,
)
from .manifest import (
    ENTRY,
    FORMATS,
    Manifest,
    PackageError,
    device_here,
    file_digest,
    fingerprint,
    machine_here,
)
from .methods import PROGRAMS, check_module
from .tracing import calls_our_ops, trace


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
    module = check_module(explainer)
    options = options_of(explainer, example_inputs, attribute_arguments)
    call = Call(explainer, module, example_inputs, options, fixed)
    options = {k: v for k, v in options.items() if k not in ASKED}
    if standard_errors is not None:
        check_has_errors(explainer, standard_errors)
        options["standard_errors"] = standard_errors
    program = PROGRAMS[type(explainer)](explainer, call.inputs, **options)

    outputs = call.check_outputs()
    if isinstance(method_of(explainer), ONE_NUMBER):
        programs.check_one_number(call.question(call.examples), outputs)
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
    from .. import __version__

    return {
        "fastxai": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
