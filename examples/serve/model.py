"""A package in a process of its own.

A call of compiled code holds Python's lock until it is done: in the service's process nothing else
would be answered meanwhile, health checks among it. And a crash in it is not the service's.
"""

from __future__ import annotations

import logging
import multiprocessing
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from schema import Manifest

log = logging.getLogger(__name__)


class ModelError(RuntimeError):
    """What the model's process could not do."""


class ModelProcess:
    """A package that another process loads and calls. If that dies, the next call starts it again.

    Calls must come one at a time.

    Args:
        path: the file.
        sha256: what it must have.

    Attributes:
        manifest: the package's.

    Raises:
        ModelError: the package cannot be loaded.
    """

    def __init__(self, path: Path, sha256: str | None = None):
        self._source = (path, sha256)
        self.manifest = self._start()

    def __call__(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """One array for each of the manifest's arguments in, one for each of its results out."""
        if not self._process.is_alive():
            self._start_again()
        return self._answer(arrays)

    def close(self) -> None:
        """Ends the process, whatever it does."""
        self._process.kill()
        self._process.join()
        self._connection.close()

    def _start(self) -> Manifest:
        context = multiprocessing.get_context("spawn")  # threads and GPUs do not survive a fork
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, *self._source))
        self._process.start()
        theirs.close()  # so that its end is noticed here
        try:
            return Manifest.model_validate_json(self._answer())
        except BaseException:
            self.close()
            raise

    def _start_again(self) -> None:
        log.error("the model's process died (%s): starting it again", self._process.exitcode)
        self.close()
        if self._start() != self.manifest:
            self.close()
            raise ModelError(f"{self._source[0]} is another package now")

    def _answer(self, arrays: list[np.ndarray] | None = None) -> Any:
        try:
            if arrays is not None:
                self._connection.send(arrays)
            fine, found = self._connection.recv()
        except (EOFError, OSError) as error:
            self._process.join()
            raise ModelError(f"the model's process died: {self._process.exitcode}") from error
        if not fine:
            raise ModelError(found)
        return found


def _work(connection: Connection, path: Path, sha256: str | None) -> None:
    # Torch is for that process alone: the service starts sooner without it, and is smaller.
    import worker

    worker.work(connection, path, sha256)
