"""Fields cut by the same places: axes that have names, and whose places may have names too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .checks import ArgumentError

Place = Any  # an int, a slice, or places in a list, [k] int64


def places(
    key: Any, axes: Sequence[str], sizes: Sequence[int], names: Sequence[Sequence[str] | None]
) -> list[Place]:
    """One place for each axis, from what stands in brackets: names and masks as numbers.

    Args:
        key: an index or a tuple of them: ints, slices, masks, lists or tensors of places, names
            or lists of them, and an ellipsis.
        axes: what each axis is about, "row" or "feature".
        sizes: the length of each.
        names: those of the places along each, if they have any.

    Raises:
        IndexError: there is no such place, or there are too many indices.
        ArgumentError: there is no such name, or several.
    """
    keys = list(key) if isinstance(key, tuple) else [key]
    dots = [i for i, k in enumerate(keys) if k is Ellipsis]
    room = len(axes) - (len(keys) - len(dots))
    if len(dots) > 1 or room < 0:
        listed = f" ({', '.join(axes)})" if axes else ""
        raise IndexError(f"expected at most {len(axes)} indices{listed}, got {len(keys)}")
    at = dots[0] if dots else len(keys)
    keys[at : at + len(dots)] = [slice(None)] * room
    return [_place(*of) for of in zip(keys, axes, sizes, names, strict=True)]


def _place(key: Any, axis: str, size: int, names: Sequence[str] | None) -> Place:
    if isinstance(key, str):
        return _named(key, names, axis)
    if isinstance(key, slice):
        _, _, step = key.indices(size)
        return np.arange(size)[key].copy() if step < 0 else key  # tensors take no steps back
    if isinstance(key, list | tuple | range):
        key = [_named(k, names, axis) if isinstance(k, str) else k for k in key]
    if isinstance(key, Tensor):
        key = key.detach().cpu().numpy()
    found = np.asarray(key)
    if found.size == 0 and isinstance(key, list | tuple | range):
        return np.zeros(0, dtype=np.int64)
    fine = found.dtype.kind in "iu" or (found.dtype.kind == "b" and found.ndim == 1)
    if not fine or found.ndim > 1:
        what = f"{found.dtype} values of shape {found.shape}" if found.ndim else repr(key)
        raise IndexError(f"expected places, a mask or names of the {axis}s, got {what}")
    if found.dtype.kind == "b":
        if len(found) != size:
            raise IndexError(f"expected a mask of the {size} {axis}s, got {len(found)} values")
        return found.nonzero()[0]
    if found.size and (found.min() < -size or found.max() >= size):
        raise IndexError(f"expected places of {size} {axis}s, got {found.max() if size else key}")
    found = found.astype(np.int64) % max(size, 1)
    return int(found) if found.ndim == 0 else found


def _named(key: str, names: Sequence[str] | None, axis: str) -> int:
    known = [] if names is None else [str(n) for n in names]
    if key not in known:
        listed = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
        expected = (
            f"one of the {axis}s {listed}" if known else f"a number, as {axis}s have no names"
        )
        raise ArgumentError(f"index: expected {expected}, got {key!r}")
    if known.count(key) > 1:
        expected = f"a number, as several {axis}s are called so"
        raise ArgumentError(f"index: expected {expected}, got {key!r}")
    return known.index(key)


def cut(field: Any, index: Sequence[Place]) -> Any:
    """What is at these places of an array, a tensor, or a list of names.

    Lists of places do not pair up, as they do in numpy: each is for its own axis.
    """
    if isinstance(field, list | tuple):
        array = names_array(field) if len(index) < 2 else np.asarray(field, dtype=object)
        found = array[tuple(index)]
        return found if isinstance(found, str) else list(found)
    for axis in reversed(range(len(index))):  # from the last, as an int takes its axis away
        key = index[axis]
        if isinstance(key, slice) and key == slice(None):
            continue
        if isinstance(key, np.ndarray) and isinstance(field, Tensor):
            key = torch.from_numpy(key).to(field.device)
        field = field[(slice(None),) * axis + (key,)]
    return field


def names_array(names: Sequence[Any]) -> Any:  # [n] of objects
    """Names as an array, which never takes them for numbers or for rows of letters."""
    array = np.empty(len(names), dtype=object)
    array[:] = list(names)
    return array
