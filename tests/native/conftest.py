import importlib.util
import os
import shutil
import subprocess
import sysconfig
from pathlib import Path
from types import ModuleType

import pytest

from ..conftest import made_once

ROOT = Path(__file__).parents[2]
HARNESS = Path(__file__).with_name("harness.cpp")


@pytest.fixture(scope="session")
def harness(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The torch-free headers of csrc/, compiled with the library's own flags."""
    pybind11 = pytest.importorskip("pybind11")
    compiler = os.environ.get("CXX", "c++")
    if shutil.which(compiler) is None:
        pytest.skip(f"no C++ compiler: {compiler!r} was not found (set CXX)")
    flags = ["-std=c++20", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fvisibility=hidden"]
    flags += ["-fPIC", "-shared", "-Wall", "-Wextra", "-Werror", f"-I{ROOT / 'csrc'}"]
    if kinds := os.environ.get("FASTXAI_SANITIZE"):
        flags += [f"-fsanitize={kinds}", "-fno-sanitize-recover=all", "-O1", "-g"]
    includes = ["-isystem", pybind11.get_include(), "-isystem", sysconfig.get_path("include")]

    def compile(library):
        command = [compiler, *flags, *includes, str(HARNESS), "-o", str(library)]
        built = subprocess.run(command, capture_output=True, text=True)
        assert built.returncode == 0, built.stderr

    library = made_once(tmp_path_factory, "fastxai_harness.so", compile)
    spec = importlib.util.spec_from_file_location("fastxai_harness", library)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
