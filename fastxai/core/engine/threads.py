"""How many threads torch's operations take, for the calling thread alone."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Has torch's operations take so many threads for the time being.

    Unlike ``torch.set_num_threads`` it says nothing to other threads. It does nothing where torch
    was built without OpenMP.
    """
    before = torch.get_num_threads()
    set_threads = _set_threads()
    if set_threads is None or count == before:
        yield
        return
    set_threads(count)
    try:
        yield
    finally:
        set_threads(before)


@cache
def _set_threads() -> Callable[[int], None] | None:
    """OpenMP's own function, from the library that torch is linked with."""
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        function: Callable[[int], None] = ctypes.CDLL(str(library)).omp_set_num_threads
    except (OSError, AttributeError):
        return None
    return function
