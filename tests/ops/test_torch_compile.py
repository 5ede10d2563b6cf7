"""Compiled functions take every op as a whole: no graph breaks, the same numbers."""

import os
import subprocess
import sys

import pytest
import torch

from fastxai import ops
from fastxai.ops import native

BITS = torch.tensor([[1], [6], [31], [0], [9]])
POSITIONS, OFFSETS = torch.tensor([[0, 1, 4, 2, 3]]), torch.tensor([[0, 2, 3, 5]])


def arguments(name, rows, draw):
    """Of one call of the op, whose first or only sizes are ``rows``."""
    x, baseline, features = draw(rows, 5), draw(1, 5), torch.arange(5, dtype=torch.int32)
    weights = torch.rand(5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return {
        "path_points": lambda: (x, baseline, weights),
        "path_reduce": lambda: (None, draw(5, rows, 5), weights),
        "perturb": lambda: (x, baseline[:, None], BITS, features[None], 1, 4),
        "ablate_one": lambda: (
            x,
            draw(2, 5),
            torch.arange(rows)[None] % 2,
            POSITIONS,
            OFFSETS,
            0,
            3,
        ),
        "group_linear": lambda: (x, POSITIONS, OFFSETS, draw(2, 5)),
        "coalitions": lambda: (5, torch.arange(rows) % 6, torch.arange(rows) * 0, 7),
        "coalition_gram": lambda: (BITS[[0] * rows], 5, weights[[0] * rows]),
        "coalition_rhs": lambda: (BITS, 5, weights, draw(5, rows)),
        "lasso": lambda: (torch.eye(4).double()[None], draw(1, 4, rows).double(), 0.1),
        "noisy_points": lambda: (x, draw(3, 5), 0.5, 1, 0, 8, 0, 2, 6),
        "noisy_reduce": lambda: (None, draw(4, rows, 5), x, None, 0.5, 1, 0, 8, 0, 2, 6),
    }[name]()


def test_every_op_is_here(draw):
    for name in ops.__all__:
        arguments(name, 2, draw)


@pytest.mark.parametrize("name", ops.__all__)
def test_one_graph_for_any_number_of_rows(name, draw):
    def call(*args):
        return getattr(ops, name)(*args) + 1

    def backend(graph, examples):
        targets.extend(str(node.target) for node in graph.graph.nodes)
        return aot_eager(graph, examples)

    targets = []
    aot_eager = torch._dynamo.lookup_backend("aot_eager")
    torch.compiler.reset()
    compiled = torch.compile(call, backend=backend, fullgraph=True, dynamic=True)
    for rows in (9, 11, 16):
        args = arguments(name, rows, draw)
        with torch.compiler.set_stance("default" if rows == 9 else "fail_on_recompile"):
            got = compiled(*args)
        torch.testing.assert_close(got, call(*args), rtol=0, atol=0)
    assert f"fastxai.{name}.default" in targets


def test_gradients(draw):
    def loss(x, baseline, alphas):
        points = ops.path_points(x, baseline, alphas)
        return ops.path_reduce(None, points.sin(), alphas).square().sum()

    torch.compiler.reset()
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    ends = [draw(3, 5).requires_grad_(), draw(1, 5).requires_grad_()]
    alphas = torch.rand(4, dtype=torch.float64)
    expected = torch.autograd.grad(loss(*ends, alphas), ends)
    got = torch.autograd.grad(compiled(*ends, alphas), ends)
    torch.testing.assert_close(got, expected)


def test_what_is_wrong_is_said_when_it_is_traced(draw):
    torch.compiler.reset()
    compiled = torch.compile(ops.path_points, backend="aot_eager", fullgraph=True)
    with pytest.raises(Exception, match="path_points: expected alphas of dtype float64"):
        compiled(draw(3, 5), draw(1, 5), draw(4))


FIRST_CALL = """
import sys, torch
from fastxai import ops

assert not any(name.startswith("torch._dynamo") for name in sys.modules), "imports are light"

@torch.compile(backend="eager", fullgraph=True)
def call(gram, rhs):
    return ops.lasso(gram, rhs, 0.25) + 1

gram, rhs = torch.eye(2).double()[None], torch.tensor([[[1.0], [0.125]]]).double()
assert call(gram, rhs).flatten().tolist() == [1.75, 1.0], call(gram, rhs)
direct = torch.compile(torch.ops.fastxai.lasso.default, backend="eager", fullgraph=True)
assert torch.equal(direct(gram, rhs, 0.25, 1e-10, 9), ops.lasso(gram, rhs, 0.25))
"""


def in_a_new_process(code, **env):
    return subprocess.run(
        [sys.executable, "-c", code], env=os.environ | env, capture_output=True, text=True
    )


@pytest.mark.library  # both ways, each in a new process
@pytest.mark.parametrize("env", [{}, {"FASTXAI_NATIVE": "0"}])
def test_the_first_call_of_all_is_compiled(env):
    done = in_a_new_process(FIRST_CALL, **env)
    assert done.returncode == 0, done.stderr


@pytest.mark.library
def test_a_library_that_does_not_load_says_so(tmp_path):
    path = tmp_path / "_C.so"
    path.write_bytes(b"no library")
    elsewhere = f"""
from pathlib import Path
from fastxai.ops import native
native.LIBRARY = Path({str(path)!r})
"""
    done = in_a_new_process(elsewhere + FIRST_CALL, FASTXAI_NATIVE="1")
    assert done.returncode != 0
    assert "cannot be loaded. It was built for" in done.stderr


@pytest.mark.library
def test_native_code_around_the_ops(draw):
    def explain(x, baseline, alphas):
        points = ops.path_points(x, baseline, alphas)
        return (x - baseline) * ops.path_reduce(None, points.cos(), alphas) * 2

    torch.compiler.reset()
    compiled = torch.compile(explain, fullgraph=True)
    alphas = torch.rand(4, dtype=torch.float64)
    for rows in (3, 5):
        args = (draw(rows, 5), draw(1, 5), alphas)
        torch.testing.assert_close(compiled(*args), explain(*args))


def test_the_reference_declares_the_ops_as_the_library_does():
    if native.backend() is native.reference:
        pytest.skip("no native library")
    for name in ops.__all__:
        inferred = torch.library.infer_schema(getattr(native.reference, name), mutates_args=())
        declared = str(getattr(torch.ops.fastxai, name).default._schema)
        # A whole number that is no size is "int" in the library, which infer_schema cannot tell.
        assert declared.replace("SymInt", "int") == f"fastxai::{name}" + inferred.replace(
            "SymInt", "int"
        )
