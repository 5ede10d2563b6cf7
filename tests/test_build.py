"""Builds wheels from a copy of the sources and uses them as a user would."""

import json
import os
import runpy
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import setuptools
import torch

ROOT = Path(__file__).parents[1]
SOURCES = ["pyproject.toml", "setup.py", "README.md", "LICENSE", "MANIFEST.in", "csrc", "fastxai"]
TORCH_LIBRARIES = Path(torch.__file__).parent / "lib"
CALL_AN_OP = """
import torch, fastxai.ops
x = torch.ones(1, 3)
alphas = torch.tensor([0.5], dtype=torch.float64)
print(fastxai.ops.path_points(x, torch.zeros(1, 3), alphas).tolist())
"""


def run(*command, env=None, cwd=None, check=True):
    variables = {name: value for name, value in os.environ.items() if name[:8] != "FASTXAI_"}
    variables |= {"PIP_DISABLE_PIP_VERSION_CHECK": "1"} | (env or {})
    command = [str(part) for part in command]
    done = subprocess.run(command, env=variables, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0 or not check, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            built = shutil.ignore_patterns("*.so", "_build.json", "__pycache__")
            shutil.copytree(ROOT / name, folder / name, ignore=built)
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


def build_wheel(sources, folder, **env):
    command = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps"]
    run(*command, "-w", folder, sources, env=env)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(sources, tmp_path_factory):
    """The wheel with CPU kernels only: what CUDA adds is checked by `make cuda-symbols`."""
    if shutil.which(os.environ.get("CXX", "c++")) is None:
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp("wheel")
    hasty = folder / "c++"  # the same files and names in a third of the time
    hasty.write_text(f'#!/bin/sh\nexec {os.environ.get("CXX", "c++")} "$@" -O0\n')
    hasty.chmod(0o755)
    return build_wheel(sources, folder, FASTXAI_NATIVE="1", FASTXAI_CUDA="0", CXX=str(hasty))


@pytest.fixture(scope="module")
def pure_wheel(sources, tmp_path_factory):
    return build_wheel(sources, tmp_path_factory.mktemp("pure"), CXX="/nowhere/c++")


@pytest.fixture
def installed(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    return tmp_path


def test_wheel_is_for_every_python(wheel):
    assert wheel.name.endswith("-py3-none-linux_x86_64.whl")


def test_wheel_contents(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {"fastxai/_C.so", "fastxai/_build.json", "fastxai/py.typed"} <= set(names)
    assert {Path(name).parts[0].split("-")[0] for name in names} == {"fastxai"}
    assert not [name for name in names if name.endswith((".cpp", ".h", ".cu"))]


def test_wheel_records_what_it_was_built_with(wheel):
    build = json.loads(zipfile.ZipFile(wheel).read("fastxai/_build.json"))
    assert build["torch"] == torch.__version__
    assert build["torch_target"] == "2.11"
    assert build["no_cuda"] == "FASTXAI_CUDA=0 when it was built"


def test_library_uses_the_stable_abi(installed):
    pytest.importorskip("torch_abi_audit")
    script = Path(sys.executable).with_name("torch-abi-audit")
    report = run(script, "--check", "torch", installed / "fastxai" / "_C.so").stdout
    assert "STABLE" in report
    assert "2.11" in report


def test_library_knows_no_python(installed):
    if shutil.which("nm") is None:
        pytest.skip("no nm")
    symbols = run("nm", "-D", installed / "fastxai" / "_C.so").stdout.split()
    assert not [symbol for symbol in symbols if symbol.lstrip("_").startswith(("Py", "PyInit"))]


def test_installed_package_is_native(installed):
    report = run(sys.executable, "-m", "fastxai", cwd=installed).stdout
    assert f"loaded {installed / 'fastxai' / '_C.so'}" in report
    assert run(sys.executable, "-c", CALL_AN_OP, cwd=installed).stdout == "[[[0.5, 0.5, 0.5]]]\n"


def test_devices_without_kernels_get_the_reference(installed):
    script = (
        CALL_AN_OP
        + """
for op in ("path_points", "path_reduce"):
    for device in ("CPU", "CUDA", "XPU", "MPS"):
        name = f"fastxai::{op}"
        has_own = torch._C._dispatch_has_kernel_for_dispatch_key(name, device)
        assert has_own == (device == "CPU"), device
        assert torch._C._dispatch_has_computed_kernel_for_dispatch_key(name, device), device
"""
    )
    run(sys.executable, "-c", script, cwd=installed)


def test_fallback_can_be_forced(installed):
    env = {"FASTXAI_NATIVE": "0"}
    report = run(sys.executable, "-m", "fastxai", cwd=installed, env=env).stdout
    assert "no, FASTXAI_NATIVE=0" in report
    done = run(sys.executable, "-c", CALL_AN_OP, cwd=installed, env=env)
    assert done.stdout == "[[[0.5, 0.5, 0.5]]]\n"


def test_broken_library_is_a_typed_error(installed):
    library = installed / "fastxai" / "_C.so"
    library.write_bytes(library.read_bytes()[:30])
    done = run(sys.executable, "-c", CALL_AN_OP, cwd=installed, check=False)
    assert done.returncode == 1
    error = done.stderr.strip().splitlines()[-1]
    assert error.startswith("fastxai.ops.native.LibraryLoadError: ")
    for part in ("torch >= 2.11", f"torch {torch.__version__}", "linux-x86_64", "FASTXAI_NATIVE=0"):
        assert part in error
    assert "file too short" in error  # the loader's own words
    assert "file too short" in run(sys.executable, "-m", "fastxai", cwd=installed).stdout
    env = {"FASTXAI_NATIVE": "0"}
    assert run(sys.executable, "-c", CALL_AN_OP, cwd=installed, env=env).stdout


def test_importing_loads_nothing(installed):
    (installed / "fastxai" / "_C.so").write_bytes(b"not a library")
    run(sys.executable, "-c", "import fastxai, fastxai.ops", cwd=installed)


def test_install_without_a_compiler(pure_wheel, tmp_path):
    assert pure_wheel.name.endswith("-py3-none-any.whl")
    target = ["--no-deps", "--no-index", "--target", tmp_path]
    run(sys.executable, "-m", "pip", "install", *target, pure_wheel)
    report = run(sys.executable, "-m", "fastxai", cwd=tmp_path).stdout
    reason = "no library was built: no C++ compiler: '/nowhere/c++' was not found (set CXX)"
    assert reason in report
    assert run(sys.executable, "-c", CALL_AN_OP, cwd=tmp_path).stdout == "[[[0.5, 0.5, 0.5]]]\n"


def test_failed_compile_falls_back_unless_native_is_demanded(sources, tmp_path):
    command = [sys.executable, "setup.py", "build_ext", "--build-lib", tmp_path / "lib"]
    command += ["--build-temp", tmp_path / "temp"]
    env = {"CXX": shutil.which("false"), "FASTXAI_CUDA": "0"}
    run(*command, cwd=sources, env=env)
    build = json.loads((tmp_path / "lib" / "fastxai" / "_build.json").read_text())
    assert build["no_library"].startswith("the build failed: ")
    assert not (tmp_path / "lib" / "fastxai" / "_C.so").exists()
    demanded = run(*command, cwd=sources, env=env | {"FASTXAI_NATIVE": "1"}, check=False)
    assert demanded.returncode != 0


NO_NVCC = "nvcc was not found when it was built"


@pytest.mark.parametrize(
    ("asked", "of_torch", "nvcc", "no_cuda"),
    [
        (None, "13.0", True, None),
        ("auto", "13.0", True, None),
        (None, "13.0", False, NO_NVCC),
        (None, None, True, f"torch {torch.__version__} has no CUDA (FASTXAI_CUDA=1 compiles"),
        (None, None, False, f"torch {torch.__version__} has no CUDA (FASTXAI_CUDA=1 compiles"),
        ("1", None, True, None),
        ("0", "13.0", True, "FASTXAI_CUDA=0 when it was built"),
    ],
)
def test_cuda_kernels_are_for_a_torch_with_cuda(monkeypatch, asked, of_torch, nvcc, no_cuda):
    monkeypatch.setattr(setuptools, "setup", lambda **_: None)
    describe_build = runpy.run_path(str(ROOT / "setup.py"))["describe_build"]
    found = {"find_cuda": lambda: Path("/cuda") if nvcc else None, "version_of": lambda _: ["13.0"]}
    for name, function in found.items():
        monkeypatch.setitem(describe_build.__globals__, name, function)
    monkeypatch.setattr(torch.version, "cuda", of_torch)
    monkeypatch.delenv("FASTXAI_NATIVE", raising=False)
    monkeypatch.delenv("FASTXAI_CUDA", raising=False)
    monkeypatch.setenv("CXX", sys.executable)
    if asked is not None:
        monkeypatch.setenv("FASTXAI_CUDA", asked)
    build = describe_build()
    assert ("cuda" in build) == (no_cuda is None)
    assert build.get("no_cuda", "").startswith(no_cuda or "")


def find_python312():
    found = sorted(Path.home().glob(".pyenv/versions/3.12*/bin/python"))
    candidates = [*found, shutil.which("python3.12")]
    return next((python for python in candidates if python and Path(python).exists()), None)


def test_wheel_works_on_another_python(wheel, tmp_path):
    """Installs on Python 3.12, where there may be no torch, and calls an op through torch's C API.

    torch's C++ libraries know no Python version either: the test's own are loaded.
    """
    python = find_python312()
    if python is None or sys.version_info[:2] == (3, 12):
        pytest.skip("no second Python 3.12")
    target = ["--no-deps", "--no-index", "--target", tmp_path]
    run(python, "-m", "pip", "install", *target, wheel)
    script = ROOT / "tests" / "native" / "call_without_torch.py"
    library = tmp_path / "fastxai" / "_C.so"
    done = run(python, "-I", script, TORCH_LIBRARIES, library)
    assert json.loads(done.stdout) == [[[10.0, 20.0]], [[5.5, 11.0]], [[1.0, 2.0]]]
