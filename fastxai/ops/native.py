"""Finds and loads the native library on the first op that is called, and says what was found."""

import functools
import json
import os
import platform
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import torch
from torch import Tensor

from .._version import __version__
from . import reference

LIBRARY = Path(__file__).parent.parent / "_C.so"
BUILD = LIBRARY.with_name("_build.json")  # written by setup.py beside the library, or instead of it

_lock = threading.Lock()
_backend: Any = None


class Backend(Protocol):
    """What has every op as an attribute."""

    def __getattr__(self, op: str) -> Callable[..., Tensor]: ...


class LibraryLoadError(RuntimeError):
    """A native library was built but cannot be loaded here."""


@dataclass(frozen=True)
class BuildInfo:
    """What runs here, and why. ``print`` it into a bug report."""

    fastxai: str
    python: str
    torch: str
    native: bool  # True where the compiled kernels run, False where the pure-torch reference does
    reason: str  # why: the library's path, or what stands in its way
    built_with: str  # the torch the library was compiled beside
    compiler: str
    cpu: str  # the instruction sets it was built for, and the one this CPU runs
    cuda: str  # toolkit and architectures, or why there are no CUDA kernels
    threads: int

    def __str__(self) -> str:
        rows = {
            "fastxai": self.fastxai,
            "python": self.python,
            "torch": f"{self.torch}, {self.threads} threads",
            "native": f"{'yes' if self.native else 'no'}, {self.reason}",
            "built with": self.built_with,
            "compiler": self.compiler,
            "cpu kernels": self.cpu,
            "cuda kernels": self.cuda,
        }
        return "\n".join(f"{name:<13} {value}" for name, value in rows.items())


def build_info() -> BuildInfo:
    """Tells versions, whether the native kernels run and why, and what they were built for."""
    build = _read_build()
    try:
        native, reason = backend() is not reference, _reason()
    except LibraryLoadError as error:
        native, reason = False, str(error)
    no_cuda = build.get("no_cuda", "none")
    return BuildInfo(
        fastxai=__version__,
        python=platform.python_version(),
        torch=torch.__version__,
        native=native,
        reason=reason,
        built_with=f"torch {build['torch']}" if "torch" in build else "none",
        compiler=build.get("compiler", "none"),
        cpu=torch.ops.fastxai.cpu_clones() if native else "none",
        cuda=f"CUDA {build['cuda']} for {build['cuda_archs']}" if "cuda" in build else no_cuda,
        threads=torch.get_num_threads(),
    )


def backend() -> Backend:
    """The ops: the loaded library, or the reference.

    Raises:
        LibraryLoadError: a library is there but cannot be loaded.
    """
    if _backend is None:
        _find_backend()
    found: Backend = _backend
    return found


def _find_backend() -> None:
    global _backend
    with _lock:
        if _backend is not None:
            return
        if os.environ.get("FASTXAI_NATIVE") == "0" or not LIBRARY.exists():
            _backend = reference
        else:
            _backend = _load()


def _load() -> SimpleNamespace:
    try:
        torch.ops.load_library(LIBRARY)
    except OSError as error:
        raise LibraryLoadError(_explain(error)) from error

    from . import registrations

    registrations.register()
    ops: SimpleNamespace = registrations.overloads()
    ops.path_points, ops.path_reduce = _light(ops.path_points), _light(ops.path_reduce)
    return ops


def _light(op: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Passes autograd by where no gradient is recorded: its Python half costs more than the op."""

    @functools.wraps(op)
    def call(*args: Tensor | None) -> Tensor:
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return op(*args)
        with torch._C._AutoDispatchBelowAutograd():
            return op(*args)

    return call


def _read_build() -> dict[str, str]:
    return json.loads(BUILD.read_text()) if BUILD.exists() else {}


def _reason() -> str:
    if _backend is not reference:
        return f"loaded {LIBRARY}"
    if os.environ.get("FASTXAI_NATIVE") == "0":
        return "FASTXAI_NATIVE=0"
    why = _read_build().get("no_library", "run `make build` or `pip install`")
    return f"no library was built: {why}"


def _explain(error: OSError) -> str:
    build = _read_build()
    built_for = f"{build.get('platform', 'an unknown platform')}, torch >= 2.11"
    here = f"{platform.system().lower()}-{platform.machine()}, torch {torch.__version__}"
    return (
        f"the native library {LIBRARY} cannot be loaded. It was built for {built_for} "
        f"(beside torch {build.get('torch', 'unknown')}, CUDA kernels: "
        f"{build.get('cuda_archs', 'none')}); here is {here}. "
        f"The loader says: {error.__cause__ or error}. "
        "Reinstall fastxai here, or set FASTXAI_NATIVE=0 to run the pure-torch fallback."
    )
