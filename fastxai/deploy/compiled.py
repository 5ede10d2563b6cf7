"""An explanation and its model compiled for one shape, in this process and without a file."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from ..core.checks import ArgumentError, TensorOrTuple, check
from ..core.program.call import Method
from .export import prepared
from .native_code import native_code
from .package import Package, Run

_WARM_UP = 3  # calls before a recording, in which libraries allocate and choose


def compile(
    explainer: Method,
    example_inputs: TensorOrTuple,
    standard_errors: bool | None,
    arguments: dict[str, Any],
) -> Package:
    """What :meth:`Attribution.compile` documents; the arguments are those of ``attribute``."""
    program, manifest = prepared(
        explainer, example_inputs, arguments, standard_errors, "aoti", fixed=True
    )
    examples = program.example_inputs[0]
    device = examples[0].device
    check(device.type in ("cpu", "cuda"), "example_inputs", "tensors on a CPU or CUDA GPU", device)
    if device.type == "cuda":
        manifest = replace(manifest, format="cuda graph")
        return Package(manifest, _recording(program, examples), len(examples[0]))
    return Package(manifest, _library(program), len(examples[0]))


def _library(program: torch.export.ExportedProgram) -> Run:
    from torch._C import _aoti

    # The loaded code needs its file no more: what is left of that goes with the process.
    with TemporaryDirectory(prefix="fastxai-") as folder:
        path = native_code(program, folder, for_package=False)
        return _aoti.AOTIModelContainerRunnerCpu(path, 1).run


def _recording(program: torch.export.ExportedProgram, examples: Sequence[Tensor]) -> Run:
    try:
        return _CudaGraph(program.module(check_guards=False), examples)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise ArgumentError(
            "explainer: expected a model and a method that a CUDA graph can hold, which never wait "
            f"for the GPU. {error}"
        ) from error


class _CudaGraph:
    """The kernels of one call, to be launched again at once. Threads and streams take turns."""

    def __init__(self, program: torch.nn.Module, examples: Sequence[Tensor]):
        self._device = examples[0].device
        self._lock = threading.Lock()
        self._inputs = [example.clone() for example in examples]
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self._device), torch.no_grad():
            current, beside = torch.cuda.current_stream(), torch.cuda.Stream()
            beside.wait_stream(current)
            with torch.cuda.stream(beside):
                for _ in range(_WARM_UP):
                    program(*self._inputs)
            current.wait_stream(beside)
            # Other threads may use the GPU meanwhile.
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                self._outputs = program(*self._inputs)
            self._done = torch.cuda.Event()
            self._done.record()

    def __call__(self, tensors: list[Tensor]) -> list[Tensor]:
        with self._lock, torch.cuda.device(self._device):
            # The buffers are still in use by the call before, which may be of another stream.
            torch.cuda.current_stream().wait_event(self._done)
            for buffer, tensor in zip(self._inputs, tensors, strict=True):
                buffer.copy_(tensor)
            self._graph.replay()
            results = [output.clone() for output in self._outputs]
            self._done.record()
        return results
