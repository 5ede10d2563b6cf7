"""The progress bar."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from ..checks import warn


class Bar:
    """A bar that moves on as it is called with a number of rows; or nothing, for want of one."""

    def __init__(self, shown: Any = None):  # a tqdm
        self._shown = shown

    def __call__(self, count: int) -> None:
        if self._shown is not None:
            self._shown.update(count)

    def tell(self, text: str) -> None:
        """Shows a few words at its end."""
        if self._shown is not None:
            self._shown.set_postfix_str(text)


@contextlib.contextmanager
def bar(title: str | Bar | None, total: int) -> Iterator[Bar]:
    """A tqdm bar on stderr while the context is open.

    Args:
        title: what it is about; None for no bar; a bar that is open already to go on with.
        total: rows that the model is to see.
    """
    if title is None or isinstance(title, Bar):
        yield title or Bar()
        return
    try:
        from tqdm import tqdm
    except ImportError:
        warn("show_progress: no progress bar without tqdm: pip install tqdm")
        yield Bar()
        return
    with tqdm(total=total, desc=title, unit=" rows", unit_scale=True) as shown:
        yield Bar(shown)
