"""Programs as native code."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from .manifest import PackageError


def compile_package(
    program: torch.export.ExportedProgram, file: Path, extra: dict[str, str]
) -> None:
    from torch.export.pt2_archive._package import package_pt2

    with TemporaryDirectory(prefix="fastxai-") as folder:
        files = native_code(program, folder, for_package=True)
        package_pt2(str(file), aoti_files={"model": files}, extra_files=extra)


def native_code(program: torch.export.ExportedProgram, folder: str, for_package: bool) -> Any:
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
