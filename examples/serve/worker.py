"""What the model's process does: it loads a package, and calls it with what comes."""

from __future__ import annotations

import signal
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

import fastxai
from fastxai.deploy import Package


def work(connection: Connection, path: Path, sha256: str | None) -> None:
    """Until the other end is closed, or its owner dies: then nothing is left behind.

    Sends the package's manifest, and then an answer to each list of arrays: (True, what was found),
    or (False, what was wrong).
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to all processes: requests go on
        signal.signal(number, signal.SIG_IGN)
    with suppress(EOFError, BrokenPipeError):
        try:
            package = fastxai.load(path, sha256=sha256)
        except Exception as error:
            connection.send((False, str(error)))
            return
        connection.send((True, package.manifest.to_json()))
        while True:
            connection.send(answer(package, connection.recv()))


def answer(package: Package, arrays: list[np.ndarray]) -> tuple[bool, Any]:
    try:
        return True, explain(package, arrays)
    except Exception as error:  # as text: not every exception can be sent
        return False, f"{type(error).__name__}: {error}"


def explain(package: Package, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Calls a package with one array for each of the manifest's arguments.

    Numpy has no bfloat16; it travels as float32, which holds it exactly.

    Returns:
        One array for each of the manifest's results.
    """
    manifest = package.manifest
    device = manifest.device.split(",")[0]
    given: dict[str, Any] = {}
    for argument, array in zip(manifest.arguments, arrays, strict=True):
        if argument.rows == 0:
            given[argument.name] = int(array)
            continue
        tensor = torch.from_numpy(array).to(device, getattr(torch, argument.dtype))
        name, several, _ = argument.name.partition("[")
        given[name] = (*given.get(name, ()), tensor) if several else tensor
    found = package(**given)
    tensors = [
        tensor
        for value in found
        if value is not None
        for tensor in (value if isinstance(value, tuple) else (value,))
    ]
    return [(t.float() if t.dtype is torch.bfloat16 else t).cpu().numpy() for t in tensors]
