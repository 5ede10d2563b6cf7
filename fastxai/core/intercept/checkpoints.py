"""Models that save memory by torch.utils.checkpoint, called without it.

A checkpointed part runs again in the backward pass, where nothing of what holds for the call is
in force any more: no other rules for operations, and no layers that are told or replaced. So for as
long as such a call lasts, the calling thread's checkpoints do nothing: all activations are kept.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.utils import checkpoint as torch_checkpoint

_changing = threading.Lock()  # held while torch's classes are covered or uncovered
_threads: Counter[int] = Counter()  # those whose checkpoints do nothing, and how often they say so
_REENTRANT, _HOOK = torch_checkpoint.CheckpointFunction, torch_checkpoint._checkpoint_hook


@contextmanager
def without_checkpoints() -> Iterator[None]:
    """Has this thread's checkpointed functions run like any others."""
    thread = threading.get_ident()
    with _changing:
        if not _threads:
            setattr(_REENTRANT, "apply", _apply)  # noqa: B010
            setattr(_HOOK, "__enter__", _enter)  # noqa: B010
            setattr(_HOOK, "__exit__", _exit)  # noqa: B010
        _threads[thread] += 1
    try:
        yield
    finally:
        with _changing:
            _threads[thread] -= 1
            if not _threads[thread]:
                del _threads[thread]
            if not _threads:
                del _REENTRANT.apply, _HOOK.__enter__, _HOOK.__exit__


def _apply(function: Any, preserve_rng_state: bool, *args: Any) -> Any:
    if threading.get_ident() in _threads:
        return function(*args)
    reentrant: Any = super(_REENTRANT, _REENTRANT)
    return reentrant.apply(function, preserve_rng_state, *args)


def _enter(hook: Any) -> Any:
    hook.is_idle = threading.get_ident() in _threads
    return None if hook.is_idle else super(_HOOK, hook).__enter__()


def _exit(hook: Any, *error: Any) -> Any:
    was_idle = getattr(hook, "is_idle", False)  # not known if it was entered before the covering
    return None if was_idle else super(_HOOK, hook).__exit__(*error)
