"""What may come back from the model, and checks of it."""

from __future__ import annotations

import contextlib
import numbers
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checks import ArgumentError


class WrongBlock(ArgumentError):
    """A description has made a block of another size than it was asked for."""

    def __init__(self, block: tuple[Tensor, ...], repeats: int, examples: int):
        super().__init__(
            f"rows: expected a block with {repeats} × {examples} rows, repeats × examples, "
            f"got one with {block[0].shape[0]}"
        )


class NotRowByRow(ArgumentError):
    """The output has not one entry for each row of the input."""

    def __init__(self, shape: torch.Size, rows: int):
        super().__init__(
            f"forward_func: expected an output with {rows} rows for {rows} rows of input, "
            f"got shape {tuple(shape)}"
        )
        self.shape = shape


def one_output_per_row(output: Tensor) -> Tensor:
    """One number a row, [n], of outputs [n, 1, ...]; an error that asks for a target otherwise."""
    if output.numel() != output.shape[0]:
        raise ArgumentError(
            "target: expected one that leaves one number a row, got "
            f"{tuple(output.shape[1:])} numbers a row; choose one of them with target"
        )
    return output if output.dim() == 1 else output.reshape(-1)


def result_dtype(outputs: Tensor) -> torch.dtype:
    """float64 for outputs in float64, otherwise float32."""
    return torch.float64 if outputs.dtype == torch.float64 else torch.float32


def tensor_of(output: Any, device: torch.device | None = None) -> Tensor:
    """The tensor in what a model returned.

    Args:
        output: a tensor; a number; an array, or a column or table of pandas; or a tuple, list, dict
            or dataclass with ``logits`` or no more than one tensor in it, as the models of
            Hugging Face return.
        device: where numbers go.

    Raises:
        ArgumentError: if there is none, or several.
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, numbers.Real):
        exact = torch.int64 if isinstance(output, numbers.Integral) else torch.float64
        return torch.tensor(output, dtype=exact, device=device)
    if not isinstance(output, np.ndarray) and hasattr(output, "to_numpy"):
        output = output.to_numpy()
    if isinstance(output, np.ndarray):
        return _of_array(output)
    found = _tensors(output)
    if "logits" in found:
        return found["logits"]
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        raise ArgumentError(
            f"forward_func: expected it to return one torch.Tensor, got a {type(output).__name__} "
            f"with several; choose one with output={' or '.join(map(repr, found))}"
        )
    raise ArgumentError(
        f"forward_func: expected it to return one torch.Tensor, got a {type(output).__name__}; "
        "wrap it in a function that returns the tensor to explain"
    )


def entry(output: Any, name: str | int) -> Tensor:
    """One of several outputs, by its name or place.

    Raises:
        ArgumentError: if there is none such, or it is no tensor.
    """
    entries = _entries(output)
    if isinstance(name, int) and not entries.keys() & {name}:
        named = dict(enumerate(entries.values()))
        entries = {**named, **{i - len(named): value for i, value in named.items()}}
    found = entries.get(name)
    if not isinstance(found, Tensor | np.ndarray):
        known = ", ".join(map(repr, _tensors(output)))
        got = f"{known or 'none'} in a {type(output).__name__}"
        raise ArgumentError(f"output: expected a tensor called {name!r}, got {got}")
    return tensor_of(found)


def _tensors(output: Any) -> dict[Any, Tensor]:
    """Those in an output, and arrays as tensors, by name or place."""
    entries = _entries(output).items()
    return {
        name: tensor_of(value)
        for name, value in entries
        if isinstance(value, Tensor)
        or (isinstance(value, np.ndarray) and value.dtype.kind in "biuf")
    }


def _entries(output: Any) -> dict[Any, Any]:
    """What is in an output, by name or place."""
    if isinstance(output, Mapping):
        return dict(output)
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return dict(zip(output._fields, output, strict=True))
    if isinstance(output, tuple | list):
        return dict(enumerate(output))
    slots = [n for kind in type(output).__mro__ for n in _names(vars(kind).get("__slots__", ()))]
    found = {n: getattr(output, n) for n in slots if hasattr(output, n)}
    return {**found, **getattr(output, "__dict__", {})}


def _names(slots: Any) -> Any:
    return (slots,) if isinstance(slots, str) else slots


def of_numbers(output: np.ndarray, argument: str) -> np.ndarray | None:
    """An array of numbers, of objects that are numbers too; None for words and the like.

    Raises:
        ArgumentError: some are masked.
    """
    if output.dtype == object and not any(isinstance(v, str) for v in output.flat):
        with contextlib.suppress(TypeError, ValueError):
            output = output.astype(np.float64)
    if output.dtype.kind not in "biufc":
        return None
    if isinstance(output, np.ma.MaskedArray):
        if np.ma.is_masked(output):
            raise ArgumentError(f"{argument}: expected outputs that are numbers, got masked ones")
        output = output.data
    return output


def _of_array(output: np.ndarray) -> Tensor:
    found = of_numbers(output, "forward_func")
    if found is None:
        first = repr(output.flat[0]) if output.size else output.dtype
        raise ArgumentError(
            f"forward_func: expected outputs that are numbers, got {first}; explain probabilities "
            "rather than labels"
        )
    output = found
    dtype = output.dtype.newbyteorder("=")
    if dtype.kind in "f" and dtype.itemsize > 8:  # long double, which torch has not
        dtype = np.dtype(np.float64)
    # A copy: the model may write to its own again.
    return torch.from_numpy(np.array(output, dtype=dtype))
