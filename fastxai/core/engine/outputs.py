"""What may come back from the model, and checks of it."""

from __future__ import annotations

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
