"""Builds fastxai and, where there is a C++ compiler, its one shared library fastxai/_C.so.

The library uses torch's stable ABI and no Python ABI: one binary serves every Python, and every
torch from TORCH_TARGET on. What was built, or why nothing was, goes to fastxai/_build.json, where
fastxai.build_info() finds it. Everything else about the package stands in pyproject.toml.

Environment:
    FASTXAI_NATIVE  0: no library; 1: fail where it cannot be built; unset: install without it.
    FASTXAI_CUDA    0: no CUDA kernels; 1: fail without nvcc; unset or auto: where nvcc is found and
                    torch was built with CUDA, as another torch has no use for them.
    FASTXAI_WERROR  1: compiler warnings are errors.
    FASTXAI_SANITIZE  which of the compiler's sanitizers watch the CPU kernels (make sanitize).
    TORCH_CUDA_ARCH_LIST, CXX, MAX_JOBS: as in torch.utils.cpp_extension.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
from glob import glob
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

try:
    from torch.utils import cpp_extension
except ImportError:
    cpp_extension = None

TORCH_TARGET, TORCH_TARGET_VERSION = "2.11", "0x020b000000000000"
RELEASE_ARCHS = "7.5;8.0;8.6;9.0;10.0+PTX"


class NoLibrary(Exception):
    """Why no library can be built here."""


def find_cuda() -> Path | None:
    nvcc = shutil.which("nvcc")
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    homes += [str(Path(nvcc).resolve().parent.parent)] if nvcc else []
    return next((Path(home) for home in homes if home and Path(home, "bin/nvcc").exists()), None)


def version_of(compiler: str) -> list[str]:
    told = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout
    return told.strip().splitlines() or ["unknown"]


def describe_build() -> dict[str, object]:
    """Decides what to build, and checks that it can be."""
    if os.environ.get("FASTXAI_NATIVE") == "0":
        raise NoLibrary("FASTXAI_NATIVE=0 when it was installed")
    if sys.platform != "linux":
        raise NoLibrary(f"the build supports Linux only, not {sys.platform}")
    if cpp_extension is None:
        raise NoLibrary("torch was not there when it was installed (use --no-build-isolation)")
    compiler = cpp_extension.get_cxx_compiler()
    if shutil.which(compiler) is None:
        raise NoLibrary(f"no C++ compiler: {compiler!r} was not found (set CXX)")

    import torch

    build: dict[str, object] = {
        "torch": torch.__version__,
        "torch_target": TORCH_TARGET,
        "platform": f"{sys.platform}-{platform.machine()}",
        "compiler": version_of(compiler)[0],
    }
    if os.environ.get("FASTXAI_CUDA") == "0":
        return build | {"no_cuda": "FASTXAI_CUDA=0 when it was built"}
    if torch.version.cuda is None and os.environ.get("FASTXAI_CUDA") != "1":
        reason = f"torch {torch.__version__} has no CUDA (FASTXAI_CUDA=1 compiles them for others)"
        return build | {"no_cuda": reason}
    home = find_cuda()
    if home is None and os.environ.get("FASTXAI_CUDA") == "1":
        raise RuntimeError("FASTXAI_CUDA=1, but nvcc was not found (set CUDA_HOME)")
    if home is None:
        return build | {"no_cuda": "nvcc was not found when it was built"}
    toolkit = version_of(f"{home}/bin/nvcc")[-1].removeprefix("Build cuda_").split(".r")[0]
    archs = os.environ.get("TORCH_CUDA_ARCH_LIST") or RELEASE_ARCHS
    return build | {"cuda": toolkit, "cuda_archs": archs, "cuda_home": str(home)}


def sanitizer_flags() -> list[str]:
    """What stops the process at the first error, and shows the line; repeated in tests/native."""
    if not (kinds := os.environ.get("FASTXAI_SANITIZE")):
        return []
    # Python has its modules compiled with -fwrapv, under which no overflow is an error.
    return [f"-fsanitize={kinds}", "-fno-sanitize-recover=all", "-fno-wrapv", "-O1", "-g"]


def configure(extension: Extension, build: dict[str, object]) -> None:
    """Sources and flags; the names that torch's BuildExtension compiles and links with."""
    common = ["-std=c++20", "-O3", f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}"]
    common += [part for path in cpp_extension.include_paths() for part in ("-isystem", path)]
    cxx = [*common, "-g0", "-fvisibility=hidden", "-Wall", "-Wextra"]
    cxx += ["-ffp-contract=off", "-fno-math-errno"]  # the same bits everywhere; sqrt vectorises
    nvcc = [*common, "--fmad=false", "-Xcompiler=-fvisibility=hidden"]
    if os.environ.get("FASTXAI_WERROR") == "1":
        cxx += ["-Werror"]
        nvcc += ["-Werror=all-warnings"]
    cxx += (sanitizers := sanitizer_flags())
    extension.sources = sorted(glob("csrc/*.cpp") + glob("csrc/cpu/*.cpp"))
    extension.extra_compile_args = {"cxx": cxx, "nvcc": nvcc}
    extension.library_dirs = cpp_extension.library_paths()
    extension.libraries = ["c10", "torch_cpu"]
    # Needed though nothing is used from it: it brings in CUDA's part of torch where there is one.
    extension.extra_link_args = ["-Wl,--no-as-needed", "-ltorch", "-Wl,--exclude-libs,ALL"]
    extension.extra_link_args += sanitizers
    if "cuda" not in build:
        return
    home = cpp_extension.CUDA_HOME = build.pop("cuda_home")  # None under CPU-only torch
    os.environ["TORCH_CUDA_ARCH_LIST"] = str(build["cuda_archs"])
    extension.sources += sorted(glob("csrc/cuda/*_cuda.cu"))
    extension.library_dirs += [f"{home}/lib64"]
    extension.extra_link_args += ["-l:libcudart_static.a", "-ldl", "-lrt", "-lpthread"]


class BuildLibrary(cpp_extension.BuildExtension if cpp_extension else build_ext):
    """Compiles the library, or records why there is none."""

    def run(self) -> None:
        self.force = True  # ninja knows better than file times what is up to date
        folders = {Path(self.build_lib, "fastxai")} | ({Path("fastxai")} if self.inplace else set())
        try:
            build = describe_build()
            configure(self.extensions[0], build)
            super().run()
        except Exception as error:
            if "1" in (os.environ.get("FASTXAI_NATIVE"), os.environ.get("FASTXAI_CUDA")):
                raise
            reason = str(error) if isinstance(error, NoLibrary) else f"the build failed: {error}"
            build = {"no_library": reason}
            self.extensions = []
            for folder in folders:
                (folder / "_C.so").unlink(missing_ok=True)
        print("fastxai:", "; ".join(f"{name}: {value}" for name, value in build.items()))
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "_build.json").write_text(json.dumps(build, indent=2) + "\n")

    def get_ext_filename(self, fullname: str) -> str:
        return fullname.replace(".", "/") + ".so"  # loaded by torch, not imported: no Python tag

    def get_export_symbols(self, ext: Extension) -> list[str]:
        return []


class TagWheel(bdist_wheel):
    """One wheel for every Python; for every platform where no library was built."""

    def get_tag(self) -> tuple[str, str, str]:
        self.root_is_pure = not self.get_finalized_command("build_ext").extensions
        return "py3", "none", "any" if self.root_is_pure else super().get_tag()[2]


setup(
    ext_modules=[Extension("fastxai._C", sources=[])],
    cmdclass={"build_ext": BuildLibrary, "bdist_wheel": TagWheel},
)
