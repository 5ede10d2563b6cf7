"""A package in a process of its own.

A call of compiled code holds Python's lock until it is done: in the service's process nothing else
would be answered meanwhile, health checks among it. And a crash in it is not the service's.
"""

from __future__ import annotations

import logging
import multiprocessing
import signal
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

import fastxai
from fastxai.deploy import Argument, Manifest, Package, PackageError

Arrays = list[np.ndarray]  # each [rows, ...]

log = logging.getLogger(__name__)


def field_of(argument: Argument) -> str:
    """Which argument of a package's call a tensor belongs to: "inputs" for "inputs[0]"."""
    return argument.name.split("[")[0]


def in_tuple(argument: Argument) -> bool:
    return "[" in argument.name


def explain(package: Package, arrays: Arrays) -> Arrays:
    """Calls a package with one array for each of the manifest's arguments.

    Numpy has no bfloat16; it travels as float32, which holds it exactly.

    Returns:
        One array for each of the manifest's results.
    """
    manifest = package.manifest
    device = manifest.device.split(",")[0]
    given: dict[str, Any] = {}
    for argument, array in zip(manifest.arguments, arrays, strict=True):
        tensor = torch.from_numpy(array).to(device, getattr(torch, argument.dtype))
        name = field_of(argument)
        given[name] = (*given.get(name, ()), tensor) if in_tuple(argument) else tensor
    found = package(**given)
    tensors = [
        tensor
        for value in found
        if value is not None
        for tensor in (value if isinstance(value, tuple) else (value,))
    ]
    return [(t.float() if t.dtype is torch.bfloat16 else t).cpu().numpy() for t in tensors]


class ModelProcess:
    """A package that is loaded and called in another process, which is started again if it dies.

    Calls must come one at a time.

    Attributes:
        manifest: the package's.
    """

    def __init__(self, path: Path, sha256: str | None):
        self._source = (path, sha256)
        self.manifest = self._start()

    def _start(self) -> Manifest:
        # Not forked: threads and GPUs do not survive that.
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, *self._source), daemon=True)
        self._process.start()
        theirs.close()  # so that its end is noticed here
        try:
            answer = self._connection.recv()
        except EOFError:
            raise PackageError(f"{self._source[0]}: its process died while loading it") from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def __call__(self, arrays: Arrays) -> Arrays:
        """As :func:`explain`; raises what that raises."""
        if not self._process.is_alive():
            self._start_again()
        try:
            self._connection.send(arrays)
            answer = self._connection.recv()
        except (EOFError, OSError) as error:
            self._process.join()
            raise RuntimeError(f"the model's process died: {self._process.exitcode}") from error
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _start_again(self) -> None:
        log.error("the model's process died (%s): starting it again", self._process.exitcode)
        self._connection.close()
        if self._start() != self.manifest:
            raise PackageError(f"{self._source[0]}: it is another package now; start again")

    def close(self) -> None:
        self._connection.close()
        self._process.join()


def _work(connection: Connection, path: Path, sha256: str | None) -> None:
    """What the process does until the other end of the connection is closed, or its owner dies."""
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to all processes: requests go on
        signal.signal(number, signal.SIG_IGN)
    with suppress(EOFError, BrokenPipeError):  # the owner is gone
        try:
            package = fastxai.load(path, sha256=sha256)
        except Exception as error:
            connection.send(PackageError(str(error)))
            return
        connection.send(package.manifest)
        while True:
            connection.send(_answer(package, connection.recv()))


def _answer(package: Package, arrays: Arrays) -> Arrays | Exception:
    try:
        return explain(package, arrays)
    except Exception as error:  # as text: not every exception can be sent
        return RuntimeError(f"{type(error).__name__}: {error}")
