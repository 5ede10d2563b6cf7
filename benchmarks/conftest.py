"""What was measured on what: versions, processor, threads and command go into the JSON."""

from __future__ import annotations

import shlex
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pytest
import torch

import fastxai


def version_or_none(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def pytest_benchmark_update_machine_info(
    config: pytest.Config, machine_info: dict[str, object]
) -> None:
    packages = ("torch", "captum", "shap", "numpy")
    machine_info["packages"] = {
        "fastxai": fastxai.__version__,
        **{package: version_or_none(package) for package in packages},
    }
    machine_info["threads"] = torch.get_num_threads()
    machine_info["command"] = shlex.join(["pytest", *config.invocation_params.args])


def pytest_benchmark_update_json(output_json: dict[str, Any]) -> None:
    """Keeps the JSON small enough to commit: the statistics, without every single time."""
    for entry in output_json["benchmarks"]:
        entry["stats"].pop("data", None)
