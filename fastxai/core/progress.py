"""The progress bar."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def bar(title: str | None, total: int) -> Iterator[Callable[[int], object]]:
    """A tqdm bar on stderr while the context is open; gives the function that moves it on.

    Args:
        title: what it is about; None for no bar.
        total: rows that the model is to see.
    """
    if title is None:
        yield lambda count: None
        return
    try:
        from tqdm import tqdm
    except ImportError:
        warnings.warn("show_progress: no progress bar without tqdm: pip install tqdm", stacklevel=4)
        yield lambda count: None
        return
    with tqdm(total=total, desc=title, unit=" rows", unit_scale=True) as shown:
        yield shown.update
