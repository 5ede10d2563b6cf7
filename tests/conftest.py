import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import fastxai

from .models import mlp

HERE = Path(__file__).parent
# What the second pass, without the library, leaves out: CONTRIBUTING tells why.
ONCE = (
    "interop",
    "native",
    "plot",
    "test_build.py",
    "test_contributing.py",
    "test_import.py",
    "test_methods.py",
    "test_public.py",
    "test_readme.py",
    "test_stress.py",
    "attr/test_bad_input.py",
    "attr/test_budgets.py",
    "attr/test_checkpoints.py",
    "attr/test_explain.py",
    "attr/test_explanation.py",
    "attr/test_explanation_file.py",
    "attr/test_explanation_html.py",
    "attr/test_perturbation_bad_input.py",
    "core/estimate/test_budget.py",
    "core/engine/test_groups.py",
    "core/engine/test_interaction.py",
    "core/engine/test_state.py",
    "core/intercept/test_deep_lift.py",
    "core/intercept/test_multipliers.py",
    "core/estimate/test_quadrature.py",
    "core/engine/test_windows.py",
    "deploy/test_compiled.py",
    "deploy/test_cpp_inference.py",
    "deploy/test_damaged.py",
    "deploy/test_package.py",
    "deploy/test_serve.py",
    "deploy/test_serve_batching.py",
    "parity/test_visualization.py",
)
# Tests of ops compare them with the reference, or have it as a parameter; the rest compile.
FIXTURES = {"ops", "native_ops", "native_package"}
EVERY_OP = "ops"  # what is left there is about each op; elsewhere every fifth case is enough
EXPORTING = "deploy"  # where two of three cases beyond the first few are for make test-all
FEW = 3
WRITTEN = {"tmp_path", "wide_package"}  # what is a file there; the others are variants of it
# What takes long, and the first that compile what others use.
FIRST = (
    "native/test_ablate_one.py",
    "deploy",
    "test_build.py",
    "test_readme.py",
    "test_stress.py",
    "test_zoo.py",
)


def place(item: pytest.Item) -> int:
    path = item.path.relative_to(HERE).as_posix()
    return next((i for i, first in enumerate(FIRST) if path.startswith(first)), len(FIRST))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ours = [item for item in items if item.path.is_relative_to(HERE)]
    ours.sort(key=place)
    items[:] = ours + [item for item in items if not item.path.is_relative_to(HERE)]
    tests: dict[tuple[Path, str], list[pytest.Item]] = {}
    for item in ours:
        tests.setdefault((item.path.relative_to(HERE), item.originalname), []).append(item)
    for (path, _), cases in tests.items():
        if mark := cases[0].get_closest_marker("thin"):
            thin(cases, *mark.args)
        often = [case for case in cases if not case.get_closest_marker("slow")]
        for number, case in enumerate(often):
            if (
                path.as_posix() in ONCE
                or path.parts[0] in ONCE
                or FIXTURES & set(case.fixturenames)
                or (path.parts[0] != EVERY_OP and number % 5)
                or (path.parts[0] == EXPORTING and not WRITTEN & set(case.fixturenames))
            ):
                case.add_marker("once")
            if path.parts[0] == EXPORTING and number >= FEW and number % 3:
                case.add_marker("slow")


def thin(cases: list[pytest.Item], argument: str) -> None:
    """With each choice of the other arguments one value of this is often, in turn."""
    columns = {
        name: tuple(case.callspec.indices[name] for case in cases)
        for name in cases[0].callspec.indices
    }
    mine = columns[argument]
    others = set(columns.values()) - {mine}  # as names that are given together have one
    for case, index, *rest in zip(cases, mine, *others, strict=True):
        if index != sum(rest) % (max(mine) + 1):
            case.add_marker("slow")


@pytest.fixture
def independent_rows(monkeypatch):
    """Rows are known to be independent: for tests that count the calls of the model."""
    monkeypatch.setattr("fastxai.core.engine.model.is_row_by_row", lambda *of: True)


@pytest.fixture(autouse=True)
def one_thread():
    """The tests' models are tiny: threads would only make them wait on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def native_package(tmp_path_factory) -> Path:
    """Integrated Gradients of mlp() to its largest output in 8 steps, compiled to native code."""

    def export(path):
        fastxai.export(
            fastxai.IntegratedGradients(mlp()),
            torch.randn(2, 7),
            path,
            target="argmax",
            n_steps=8,
        )

    return made_once(tmp_path_factory, "native.pt2", export)


def made_once(tmp_path_factory, name: str, make: Callable[[Path], None]) -> Path:
    """A file that all processes of the run share; compiling it takes half a minute."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    path = folder / name
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            make(path)
    return path
