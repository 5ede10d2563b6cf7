"""Programs as graphs of operations on tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..checks import ArgumentError, check, name_of
from ..engine.inputs import Inputs
from ..prefix.deltas import NotAffine
from .call import BATCH, Argument, Call, described
from .copies import mapped, one_by_one
from .program import Answer, Program

_TRACED = {  # by whether the number of rows is fixed
    False: "any number of rows: no Python branches on the values or the number of rows",
    True: "these shapes: no Python branches on the values",
}


@dataclass(frozen=True)
class Traced:
    program: torch.export.ExportedProgram
    results: tuple[Argument, ...]
    magnitude: bool


def trace(program: Program, call: Call) -> Traced:
    names: list[str] = []

    def run(*tensors: Tensor) -> tuple[Tensor, ...]:
        answer = program(call.request(tensors))
        named = _named_results(answer, call.inputs)
        names[:] = named
        more = () if answer.magnitude is None else (answer.magnitude,)
        return (*named.values(), *more)

    batch = torch.export.Dim("batch", min=1)
    shapes = None
    if not call.fixed:
        shapes = tuple({0: batch} if example.dim() else {} for example in call.examples)
    try:
        with torch.no_grad():
            if call.prefix:
                run(*call.some_rows(1))  # whether rows can stay affine, and it pays
            graph = _graph(run, call.examples, call.fixed)
            exported = torch.export.export(graph, tuple(call.examples), dynamic_shapes=shapes)
            results = run(*call.examples)
        _check_trace(exported, run, call)
    except NotAffine:
        call.prefix = False
        return trace(program, call)
    except ArgumentError:
        raise
    except Exception as error:
        if call.apart is mapped:  # which has no rule for some operations, and few in Python
            call.apart = one_by_one
            return trace(program, call)
        raise ArgumentError(
            f"explainer: expected a model that can be traced for {_TRACED[call.fixed]}, no numpy. "
            f"{type(error).__name__}: "
            f"{str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        ) from error
    found = [described(n, r, call.rows) for n, r in zip(names, results, strict=False)]
    return Traced(exported, tuple(found), len(results) > len(names))


def _graph(run: Callable[..., Any], examples: list[Tensor], fixed: bool) -> torch.fx.GraphModule:
    """The operations on tensors, with the number of rows left open unless it is fixed."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.fx.experimental.symbolic_shapes import (
        DimDynamic,
        ShapeEnv,
        StatelessSymbolicContext,
    )

    rows = DimDynamic.STATIC if fixed else DimDynamic.DUCK
    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    fakes = [
        mode.from_tensor(
            example,
            symbolic_context=StatelessSymbolicContext(
                [rows][: example.dim()] + [DimDynamic.STATIC] * (example.dim() - 1)
            ),
        )
        for example in examples
    ]
    return make_fx(run, tracing_mode="symbolic", _allow_non_fake_inputs=True)(*fakes)


def calls_our_ops(program: torch.export.ExportedProgram) -> bool:
    return any(str(node.target).startswith("fastxai") for node in program.graph.nodes)


def _check_trace(
    exported: torch.export.ExportedProgram, run: Callable[..., Any], call: Call
) -> None:
    """For another number of rows, and one alone, the trace must say what was traced."""
    module = exported.module()
    for rows in (call.rows,) if call.fixed else (1, BATCH - 1):
        tensors = call.some_rows(rows)
        with torch.no_grad():
            got, expected = module(*tensors), run(*tensors)
        for one, other in zip(got, expected, strict=True):
            close = torch.allclose(one, other, rtol=1e-3, atol=1e-5, equal_nan=True)
            same = one.shape == other.shape and close
            check(
                same,
                "explainer",
                "a model that always says the same of a row",
                f"one that says something else of {rows} rows when it is traced",
            )


def _named_results(answer: Answer, inputs: Inputs) -> dict[str, Tensor]:
    def several(name: str, tensors: tuple[Tensor, ...] | None) -> dict[str, Tensor]:
        in_tuple = inputs.in_tuple and len(tensors or ()) == len(inputs.tensors)
        return {name_of(name, i, in_tuple): t for i, t in enumerate(tensors or ())}

    delta = answer.convergence_delta
    return {
        "outputs": answer.outputs,
        **several("attributions", answer.attributions),
        **({} if delta is None else {"convergence_delta": delta}),
        **several("standard_errors", answer.standard_errors),
    }
