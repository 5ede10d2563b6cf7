"""examples/cpp_inference: the same answers from a program without Python."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

import fastxai
from fastxai import IntegratedGradients, Lime
from fastxai.ops import native, reference

from ..models import mlp
from .test_gradient_methods import CLOSE, randn

SOURCE = Path(__file__).parents[2] / "examples" / "cpp_inference"
pytestmark = pytest.mark.skipif(
    not (SOURCE.exists() and shutil.which("cmake") and shutil.which("c++")),
    reason="needs CMake and a C++ compiler",
)


@pytest.fixture(scope="module")
def explain(tmp_path_factory):
    """The program, built; called with arguments and rows it gives back what it wrote."""
    build = tmp_path_factory.mktemp("build")
    where = f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}"
    run(["cmake", "-S", str(SOURCE), "-B", str(build), where])
    run(["cmake", "--build", str(build)])

    def call(*arguments, text):
        # Nothing of Python is in its environment.
        environment = {"OMP_NUM_THREADS": "1", "PATH": "/nowhere"}
        return subprocess.run(
            [str(build / "explain"), *map(str, arguments)],
            input=text,
            capture_output=True,
            text=True,
            env=environment,
        )

    return call


def run(command):
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stdout + done.stderr


def as_text(rows):
    return "\n".join(" ".join(repr(float(v)) for v in row) for row in rows) + "\n"


def answers(text):
    """The outputs and the attributions of every line."""
    pairs = [line.split("|") for line in text.splitlines()]
    columns = zip(*pairs, strict=True)
    return [torch.tensor([[float(w) for w in part.split()] for part in c]) for c in columns]


def test_integrated_gradients(native_package, explain):
    explainer, path = IntegratedGradients(mlp()), native_package
    for count in (1, 5):
        x = randn(count, [(7,)])
        done = explain(path, text=as_text(x))
        assert done.returncode == 0, done.stderr
        outputs, attributions = answers(done.stdout)
        expected = explainer.forward_func(x).detach()
        torch.testing.assert_close(outputs, expected, **CLOSE)
        expected = explainer.attribute(x, target=expected.argmax(1), n_steps=8)
        torch.testing.assert_close(attributions, expected, **CLOSE)
    for text, message in (
        ("", "no rows"),
        ("1 2 x\n", "not a number in line 1"),
        ("1 2\n3\n", "another number of features in line 2"),
    ):
        done = explain(path, text=text)
        assert done.returncode == 1 and message in done.stderr and done.stdout == ""


@pytest.mark.slow
@pytest.mark.skipif(native.backend() is reference, reason="the lasso is in the compiled library")
def test_a_package_that_calls_the_library(tmp_path, explain):
    explainer, path = Lime(mlp()), tmp_path / "package.pt2"
    options = {"target": 1, "n_samples": 30, "seed": 1}
    fastxai.export(explainer, randn(2, [(7,)]), path, **options)
    x = randn(3, [(7,)])
    done = explain(path, native.LIBRARY, text=as_text(x))
    assert done.returncode == 0, done.stderr
    _, attributions = answers(done.stdout)
    torch.testing.assert_close(attributions, explainer.attribute(x, **options), **CLOSE)
