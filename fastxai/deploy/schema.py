"""What a manifest in JSON must look like, so that nothing that is read from it surprises later."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import torch

# In the order in which a program takes them.
ARGUMENTS = ("inputs", "target", "baselines", "additional_forward_args", "seed")
_RESULTS = ("outputs", "attributions", "convergence_delta", "standard_errors")
_NAME = re.compile(r"([a-z_]+)(\[[0-9]{1,4}\])?")
_DEVICE = re.compile(r"[a-z]+(, compute capability [0-9]{1,3}\.[0-9]{1,3})?")
_RELEASE = re.compile(r"[0-9]{1,6}\.[0-9]{1,6}")


def parsed(text: str, version: int, argument: Callable[..., Any]) -> dict[str, Any]:
    """The fields of a manifest, of the kinds that :class:`Manifest` documents.

    Args:
        text: the JSON.
        version: of the manifest.
        argument: makes an :class:`Argument` of its fields.

    Raises:
        ValueError: something else wrote it.
    """
    try:
        said = json.loads(text, object_pairs_hook=_object, parse_constant=_no_number)
    except RecursionError as error:
        raise ValueError("its manifest is nested too deeply") from error
    _expect(isinstance(said, dict), "an object", said)
    found = said.pop("fastxai_package", None)
    if type(found) is not int or found != version:
        raise ValueError(f"expected version {version} of the manifest, got {found!r}")
    missing, more = _FIELDS.keys() - said.keys(), said.keys() - _FIELDS.keys()
    if missing or more:
        raise ValueError(f"its manifest lacks {sorted(missing)} and has {sorted(more)} besides")
    for name, fits in _FIELDS.items():
        _expect(fits(said[name]), f"a manifest with another {name}", said[name])
    for name, known in (("arguments", ARGUMENTS), ("results", _RESULTS)):
        _check_names([entry["name"] for entry in said[name]], name, known)
        said[name] = tuple(argument(**{**e, "shape": tuple(e["shape"])}) for e in said[name])
    _check_structure(said)
    fields: dict[str, Any] = said
    return fields


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name comes twice in its manifest")
    return found


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} in its manifest")


def _expect(fits: bool, expected: str, got: object) -> None:
    if not fits:
        raise ValueError(f"expected {expected}, got {repr(got)[:80]}")


def _check_names(names: list[str], of: str, known: tuple[str, ...]) -> None:
    stems = [name.split("[")[0] for name in names]
    fine = len(set(names)) == len(names) and set(stems) <= set(known)
    _expect(fine and stems[:1] == [known[0]], f"{of} of known names", names)
    order = [known.index(stem) for stem in stems]
    _expect(order == sorted(order), f"{of} in another order", names)


def _check_structure(said: dict[str, Any]) -> None:
    arguments, results = said["arguments"], said["results"]
    inputs = sum(a.name.startswith("inputs") for a in arguments)
    _expect(said["inputs_in_tuple"] or inputs == 1, "one input, or a tuple", inputs)
    of_rows = all(a.rows == (0 if a.name == "seed" else 1) for a in arguments)
    _expect(of_rows and all(r.rows > 0 for r in results), "a row for each example", arguments)
    alone = [r.name for r in results if r.name.startswith(("outputs", "convergence_delta"))]
    _expect(len(alone) <= 2 and not any("[" in name for name in alone), "one tensor each", alone)
    _expect(any(r.name.startswith("attributions") for r in results), "attributions", results)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_truth(value: Any) -> bool:
    return isinstance(value, bool)


def _is_words(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(word, str) for word in value.values())


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_dtype(value: Any) -> bool:
    return isinstance(value, str) and isinstance(getattr(torch, value, None), torch.dtype)


def _are_arguments(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_argument, value))


def _is_argument(value: Any) -> bool:
    if not isinstance(value, dict) or value.keys() != {"name", "shape", "dtype", "rows"}:
        return False
    name, shape = value["name"], value["shape"]
    return (
        isinstance(name, str)
        and _NAME.fullmatch(name) is not None
        and isinstance(shape, list)
        and all(map(_is_count, shape))
        and _is_dtype(value["dtype"])
        and _is_count(value["rows"])
    )


def _is_format(value: Any) -> bool:
    return value in ("aoti", "torch", "cuda graph")


def _is_device(value: Any) -> bool:
    if not isinstance(value, str) or _DEVICE.fullmatch(value) is None:
        return False
    try:
        return torch.device(value.split(",")[0]).index is None
    except RuntimeError:
        return False


def _are_versions(value: Any) -> bool:
    return _is_words(value) and _RELEASE.match(value.get("torch", "")) is not None


def _is_machine(value: Any) -> bool:
    return _is_words(value) and {"system", "processor", "extensions"} <= value.keys()


_FIELDS: dict[str, Callable[[Any], bool]] = {
    "method": _is_text,
    "options": _is_words,
    "arguments": _are_arguments,
    "results": _are_arguments,
    "magnitude": _is_truth,
    "rows_interact": _is_truth,
    "affine_prefix": _is_truth,
    "inputs_in_tuple": _is_truth,
    "fingerprint": _is_text,
    "needs_library": _is_truth,
    "format": _is_format,
    "device": _is_device,
    "versions": _are_versions,
    "machine": _is_machine,
}
