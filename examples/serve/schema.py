"""What a request must look like, from a package's manifest; and how it becomes arrays."""

from __future__ import annotations

import secrets
from itertools import groupby
from typing import Annotated, Any

import numpy as np
from annotated_types import Len
from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError, create_model

Arrays = list[np.ndarray]  # each [rows, ...]


class Argument(BaseModel):
    """A tensor that goes into a package, or comes out of it; as in fastxai.deploy."""

    name: str  # "inputs[0]", "target", ...
    shape: tuple[int, ...]  # after the batch
    dtype: str
    rows: int  # for each example; 0 for one number that a whole call has, its seed

    @property
    def field(self) -> str:
        """The name in requests and answers."""
        return self.name.split("[")[0]

    @property
    def in_list(self) -> bool:
        return "[" in self.name


class Manifest(BaseModel):
    """What a package says of itself. As in fastxai.deploy; here is what the service looks at."""

    model_config = ConfigDict(extra="allow")

    method: str
    arguments: tuple[Argument, ...]
    results: tuple[Argument, ...]
    rows_interact: bool = False


class Unanswerable(ValueError):
    """A request that is not as the manifest wants it. ``malformed``: it is not even JSON."""

    def __init__(self, message: str, malformed: bool = False):
        super().__init__(message)
        self.malformed = malformed


class Schema:
    """The requests that a package can answer: its call's arguments as nested lists of numbers.

    ``{"inputs": [[0.5, 1.0], ...], "target": [1, ...]}``: a list with an entry for each row. Where
    the manifest has "inputs[0]" and so on, "inputs" is a list of such lists. A seed is one number,
    and drawn for requests that bring none.

    Args:
        manifest: the package's.
        max_rows: of one request.

    Attributes:
        model: what pydantic checks requests with.
    """

    def __init__(self, manifest: Manifest, max_rows: int):
        self._arguments = manifest.arguments
        fields: dict[str, Any] = {}
        for name, group in groupby(manifest.arguments, lambda argument: argument.field):
            arguments = list(group)
            if arguments[0].rows == 0:
                fields[name] = (_SEED, Field(default_factory=lambda: secrets.randbits(63)))
                continue
            kinds = tuple(_rows(a, manifest, max_rows) for a in arguments)
            fields[name] = tuple[kinds] if arguments[0].in_list else kinds[0]
        config = ConfigDict(extra="forbid", strict=True)
        self.model: type[BaseModel] = create_model("Question", __config__=config, **fields)

    def parse(self, body: bytes) -> Arrays:
        """One array for each of the manifest's arguments.

        Raises:
            Unanswerable: and where it is wrong: "inputs[3][7]" is row 3, column 7.
        """
        try:
            question = self.model.model_validate_json(body)
        except ValidationError as error:
            raise _in_words(error) from None
        values = [
            value
            for name in self.model.model_fields
            for value in _as_tuple(getattr(question, name))
        ]
        rows = len(values[0])
        for argument, value in zip(self._arguments, values, strict=True):
            if argument.rows and len(value) != rows:
                first = self._arguments[0].name
                raise Unanswerable(
                    f"{argument.name}: expected {rows} rows, as {first} has, got {len(value)}"
                )
        return [
            np.array(value, _numpy_dtype(argument))
            for argument, value in zip(self._arguments, values, strict=True)
        ]

    def alike(self, rows: int) -> Arrays:
        """Rows that are all the same: ones, or zeros where ones might be out of range."""
        return [
            np.full((rows, *a.shape)[a.rows == 0 :], "float" in a.dtype, _numpy_dtype(a))
            for a in self._arguments
        ]


_SEED = Annotated[int, Field(ge=0, lt=1 << 63)]


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _rows(argument: Argument, manifest: Manifest, max_rows: int) -> Any:
    """A pydantic type: a list of rows of the argument's shape."""
    if argument.name == "target" and argument.shape:  # an index for each dimension of the outputs
        kinds = tuple(_index(size) for size in manifest.results[0].shape)
        kind: Any = tuple[kinds]
    elif argument.name == "target":
        kind = _index(manifest.results[0].shape[0])
    else:
        kind = _number(argument)
        for size in reversed(argument.shape):
            kind = Annotated[list[kind], Len(size, size), FailFast()]
    return Annotated[list[kind], Len(1, max_rows), FailFast()]


def _index(size: int) -> Any:
    return Annotated[int, Field(ge=-size, lt=size)]


def _number(argument: Argument) -> Any:
    if argument.dtype == "bool":
        return bool
    if argument.dtype == "bfloat16":
        most = float.fromhex("0x1.fep127")
    elif "float" in argument.dtype:
        most = float(np.finfo(argument.dtype).max)
    elif "int" in argument.dtype:
        limits = np.iinfo(argument.dtype)
        return Annotated[int, Field(ge=int(limits.min), le=int(limits.max))]
    else:
        raise ValueError(f"{argument.name} is {argument.dtype}, which JSON has no numbers for")
    return Annotated[float, Field(ge=-most, le=most, allow_inf_nan=False)]


def _numpy_dtype(argument: Argument) -> str:
    # Numpy has no bfloat16; float32 holds it exactly.
    return "float32" if argument.dtype == "bfloat16" else argument.dtype


def _in_words(error: ValidationError) -> Unanswerable:
    first = error.errors(include_url=False, include_context=False)[0]
    if first["type"] == "json_invalid":
        return Unanswerable(first["msg"], malformed=True)
    name, *places = first["loc"] or ("the body",)
    where = str(name) + "".join(f"[{place}]" for place in places)
    return Unanswerable(f"{where}: {first['msg']}")
