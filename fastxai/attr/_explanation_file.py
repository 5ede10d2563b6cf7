"""The file of an explanation: tensors as safetensors has them, and the rest as JSON beside them.

Nothing in it can run. It comes from anywhere, so that everything is checked before it is believed.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from torch import Tensor

from ..core.checks import ArgumentError, check

_ENTRY = "fastxai_explanation"  # of the header
_VERSION = 1
_TENSORS = (  # the fields with tensors; of the target, what has any
    *("values", "outputs", "baseline_outputs", "convergence_delta", "standard_errors"),
    *("samples", "players", "reached", "data", "target"),
)
_WORDS = ("method", "seconds", "tier", "feature_names", "output_names", "is_row", "is_numpy")
_KEYS = {"version", "forms", *_WORDS}
_OF_OUTPUTS = ("baseline_outputs", "convergence_delta")  # and in their form
_DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)
_DEEPEST = 4  # tuples and lists within one another

Fields = dict[str, Any]


def write(path: str | os.PathLike[str], fields: Fields) -> None:
    """Writes the fields of an explanation; what was at the path stays if that fails."""
    save = _safetensors("safetensors.torch", "save").save
    tensors: dict[str, Tensor] = {}
    header = {name: fields[name] for name in _WORDS}
    for name in ("feature_names", "output_names"):
        header[name] = None if fields[name] is None else list(fields[name])
    header["forms"] = {name: _taken_apart(fields[name], name, tensors) for name in _TENSORS}
    header["version"] = _VERSION
    said = json.dumps(header)
    try:
        _check(fields)
    except _Wrong as error:
        raise ArgumentError(f"explanation: {error}") from error
    content = save(tensors, {_ENTRY: said})
    path = Path(path)
    draft = path.with_name(f".{path.name[:200]}.{uuid4().hex}")
    try:
        with draft.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def read(path: str | os.PathLike[str]) -> Fields:
    """The fields that :func:`write` wrote."""
    open_file = _safetensors("safetensors", "load").safe_open
    with Path(path).open("rb"):  # an OSError of the usual kind
        pass
    try:
        with open_file(os.fspath(path), framework="pt", device="cpu") as file:
            header = _header((file.metadata() or {}).get(_ENTRY))
            # Copies: what is mapped would change with the file.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        return _fields(header, tensors)
    except OSError:
        raise
    except Exception as error:  # of many kinds, as files may be broken in many ways
        raise ArgumentError(
            f"path: expected a file that Explanation.save of this version wrote, got {path}: "
            f"{str(error) or type(error).__name__}"
        ) from error


def _safetensors(module: str, verb: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(
            f"Explanation.{verb} needs safetensors: pip install fastxai[save], or safetensors"
        ) from error


def _taken_apart(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """The form of a field, whose tensors are put among the others."""
    if isinstance(value, Tensor):
        check(value.dtype in _DTYPES, name, "real numbers or truth values", value.dtype)
        tensors[name] = value.detach().cpu().contiguous().clone()  # views would be shared
        return "tensor"
    if isinstance(value, np.ndarray):
        cells = [_of_object(cell, name) for cell in value.ravel().tolist()]
        return {"objects": [list(value.shape), cells]}
    if isinstance(value, tuple | list):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_taken_apart(v, f"{name}.{i}", tensors) for i, v in enumerate(value)]}
    known = value is None or (name.startswith("target") and type(value) in (int, str))
    check(known, name, "tensors, tuples or lists of them, or None", type(value).__name__)
    return None if value is None else {"is": value}


def _of_object(value: Any, name: str) -> Any:
    """An object as JSON has it; None for NaN."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, float) and not math.isfinite(value):
        check(math.isnan(value), name, "words, truth values and finite numbers", value)
        return None
    expected = "words, truth values and numbers"
    check(isinstance(value, str | bool | int | float), name, expected, type(value).__name__)
    return value


class _Wrong(ValueError):
    """A file is not as :func:`write` writes them."""


def _expect(fits: bool, expected: str, got: object) -> None:
    if not fits:
        raise _Wrong(f"expected {expected}, got {repr(got)[:80]}")


def _header(text: Any) -> Fields:
    _expect(isinstance(text, str), f"{_ENTRY} in its header", text)
    try:
        said = json.loads(text, object_pairs_hook=_object, parse_constant=_no_number)
    except RecursionError as error:
        raise _Wrong("its header is nested too deeply") from error
    _expect(isinstance(said, dict), "an object in its header", said)
    version = said.get("version")
    _expect(type(version) is int and version == _VERSION, f"version {_VERSION}", version)
    _expect(said.keys() == _KEYS, f"a header of {sorted(_KEYS)}", sorted(said))
    forms = said["forms"]
    fine = isinstance(forms, dict) and forms.keys() == {*_TENSORS}
    _expect(fine, f"forms of {sorted(_TENSORS)}", forms)
    return {str(name): value for name, value in said.items()}


def _object(pairs: list[tuple[str, Any]]) -> Fields:
    found = dict(pairs)
    _expect(len(found) == len(pairs), "each name once", [name for name, _ in pairs])
    return found


def _no_number(text: str) -> Any:
    raise _Wrong(f"{text} in its header")


def _fields(header: Fields, tensors: dict[str, Tensor]) -> Fields:
    forms = header["forms"]
    fields = {name: _put_together(forms[name], name, tensors, _DEEPEST) for name in _TENSORS}
    _expect(not tensors, "no other tensors", sorted(tensors))
    for name in _WORDS:
        fields[name] = header[name]
    _check(fields)
    for name in ("feature_names", "output_names"):
        fields[name] = None if fields[name] is None else tuple(fields[name])
    fields["seconds"] = float(fields["seconds"])
    return fields


def _put_together(form: Any, name: str, tensors: dict[str, Tensor], depth: int) -> Any:
    """A field of this form, whose tensors are taken away."""
    if form is None:
        return None
    if form == "tensor":
        _expect(name in tensors, f"a tensor {name}", sorted(tensors))
        tensor = tensors.pop(name)
        _expect(tensor.dtype in _DTYPES, f"{name} of real numbers or truth values", tensor.dtype)
        return tensor
    fine = isinstance(form, dict) and len(form) == 1 and depth > 0
    _expect(fine, f"the form of {name}", form)
    ((kind, parts),) = form.items()
    if kind == "is":
        plain = type(parts) is str or (type(parts) is int and abs(parts) < 2**63)
        _expect(plain and name.startswith("target"), f"the form of {name}", form)
        return parts
    _expect(
        kind in ("tuple", "list", "objects") and isinstance(parts, list),
        f"the form of {name}",
        form,
    )
    if kind == "objects":
        _expect(name.split(".")[0] == "data", f"the form of {name}", form)
        return _objects(parts, name)
    found = (_put_together(p, f"{name}.{i}", tensors, depth - 1) for i, p in enumerate(parts))
    return tuple(found) if kind == "tuple" else list(found)


def _objects(parts: list[Any], name: str) -> Any:  # [B, M], or [M] or [] for one row
    """An array of objects, from its shape and its cells."""
    expected = f"the shape and the cells, words and numbers, of {name}"
    fine = len(parts) == 2 and all(isinstance(part, list) for part in parts)
    _expect(fine, expected, parts)
    shape, cells = parts
    fine = len(shape) <= 2 and all(type(n) is int and 0 <= n < 2**31 for n in shape)
    fine = fine and math.prod(shape) == len(cells)
    fine = fine and all(v is None or isinstance(v, str | bool | int | float) for v in cells)
    _expect(fine, expected, parts)
    found = np.empty(len(cells), dtype=object)
    found[:] = [np.nan if cell is None else cell for cell in cells]
    return found.reshape(shape)


def _leaves(value: Any) -> Iterator[Any]:
    """The tensors of a field, and what else is in their place."""
    if isinstance(value, tuple | list):
        for part in value:
            yield from _leaves(part)
    else:
        yield value


def _form(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return type(value), [_form(part) for part in value]
    return None if value is None else value.shape


def _check(fields: Fields) -> None:
    """Raises ValueError unless the fields are those of an explanation."""
    for name, fits in _FIELDS.items():
        _expect(fits(fields[name]), f"another {name}", _told(fields[name]))
    least = 0 if fields["is_row"] else 1  # dimensions
    for name in ("values", "standard_errors", "data"):
        leaves = [] if fields[name] is None else list(_leaves(fields[name]))
        _expect(fields[name] is None or bool(leaves), f"some {name}", "none")
        for leaf in leaves:
            is_data = name == "data" and isinstance(leaf, np.ndarray)
            fine = (is_data or isinstance(leaf, Tensor)) and leaf.ndim >= least
            _expect(fine, f"tensors of rows in {name}", _told(leaf))
    # What is about rows has as many as the values, or one for the whole batch.
    outputs = fields["outputs"]
    _expect(outputs.dim() >= least, "outputs of rows", outputs.shape)
    rows = {len(leaf) for leaf in _leaves(fields["values"])} if least else set()
    counts = {1, len(outputs), *rows} if least else set()
    by_row = (*_OF_OUTPUTS, "samples", "players", "reached")
    for name in by_row:
        value = fields[name]
        if value is None:
            continue
        # Of outputs they are [B, *C], and [B] otherwise.
        others = outputs.shape[least:] if name in _OF_OUTPUTS else ()
        fine = value.dim() >= least and tuple(value.shape[least:]) == tuple(others)
        _expect(fine and (not least or len(value) in counts), f"{name} of rows", value.shape)
    if least:
        fine = rows <= {1, len(outputs), outputs.numel()}
        _expect(fine or len(outputs) == 1, "values of rows of outputs", rows)
    errors = fields["standard_errors"]
    same = errors is None or _form(errors) == _form(fields["values"])
    _expect(same, "standard_errors in the values' form", "others")


def _told(value: Any) -> Any:
    return tuple(value.shape) if isinstance(value, Tensor) else value


def _is_numbers(value: Any) -> bool:
    return isinstance(value, Tensor)


def _may_be(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or fits(value)


def _is_counts(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.int64


def _is_shares(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_names(value: Any) -> bool:
    return isinstance(value, tuple | list) and all(isinstance(name, str) for name in value)


def _is_time(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < math.inf


_FIELDS: dict[str, Callable[[Any], bool]] = {
    "values": lambda value: isinstance(value, Tensor | tuple | list),
    "outputs": _is_numbers,
    "baseline_outputs": _may_be(_is_numbers),
    "convergence_delta": _may_be(lambda value: _is_numbers(value) and value.dtype != torch.bool),
    "standard_errors": _may_be(lambda value: isinstance(value, Tensor | tuple | list)),
    "samples": _may_be(_is_counts),
    "players": _may_be(_is_counts),
    "reached": _may_be(_is_shares),
    "data": _may_be(lambda value: isinstance(value, Tensor | tuple | np.ndarray)),
    "target": lambda value: True,  # the form tells
    "method": _is_text,
    "seconds": _is_time,
    "tier": _may_be(_is_text),
    "feature_names": _may_be(_are_names),
    "output_names": _may_be(_are_names),
    "is_row": lambda value: isinstance(value, bool),
    "is_numpy": lambda value: isinstance(value, bool),
}
