"""What ops refuse, in the words of the compiled library."""

import torch
from torch import Tensor

FLOATING_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that sums are kept in: float32, or float64 for float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def coalition_words(players: int) -> int:
    """How many words of 64 bits a coalition takes."""
    return -(-players // 64)


def check_players(op: str, players: int) -> None:
    if not 1 <= players <= 16777216:
        raise RuntimeError(f"{op}: expected players from 1 to 16777216, got {players}")


def check_bits(op: str, bits: Tensor, players: int) -> None:
    check_dtype(op, "bits", bits, torch.int64)
    words = coalition_words(players)
    if bits.dim() != 2 or bits.shape[1] != words:
        raise RuntimeError(f"{op}: expected bits of shape [N, {words}], got {list(bits.shape)}")


def check_row_weights(op: str, weights: Tensor, bits: Tensor) -> None:
    check_dtype(op, "weights", weights, torch.float64)
    check_device(op, "weights", weights, "bits", bits)
    check_shape(op, "weights", weights, [bits.shape[0]])


def check_steps(op: str, name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    check_dtype(op, name, value, torch.float64)
    check_device(op, name, value, other_name, other)
    if value.dim() != 1:
        raise RuntimeError(f"{op}: expected {name} of shape [S], got {list(value.shape)}")


def check_floating(op: str, name: str, value: Tensor) -> None:
    if value.dtype not in FLOATING_DTYPES:
        raise RuntimeError(
            f"{op}: expected {name} of dtype float16, bfloat16, float32 or float64, "
            f"got {_dtype_name(value.dtype)}"
        )


def check_dim(op: str, name: str, value: Tensor, least: int, layout: str) -> None:
    if value.dim() < least:
        raise RuntimeError(f"{op}: expected {name} of shape {layout}, got {list(value.shape)}")


def check_dtype(op: str, name: str, value: Tensor, dtype: torch.dtype) -> None:
    if value.dtype != dtype:
        raise RuntimeError(
            f"{op}: expected {name} of dtype {_dtype_name(dtype)}, got {_dtype_name(value.dtype)}"
        )


def check_device(op: str, name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    if value.device != other.device:
        raise RuntimeError(
            f"{op}: expected {name} on {other.device} like {other_name}, got {value.device}"
        )


def check_shape(op: str, name: str, value: Tensor, shape: list[int]) -> None:
    if list(value.shape) != shape:
        raise RuntimeError(f"{op}: expected {name} of shape {shape}, got {list(value.shape)}")


def check_matrix(op: str, name: str, value: Tensor, layout: str) -> None:
    if value.dim() != 2:
        raise RuntimeError(f"{op}: expected {name} of shape {layout}, got {list(value.shape)}")


def check_one_or_each(op: str, name: str, value: Tensor, count: int, shape: list[int]) -> None:
    """One for all or one for each: the leading dimension is 1 or ``count``."""
    each, one, got = [count, *shape], [1, *shape], list(value.shape)
    if got not in (each, one):
        raise RuntimeError(f"{op}: expected {name} of shape {each} or {one}, got {got}")


def check_range(op: str, first: int, last: int, count: int) -> None:
    if not 0 <= first <= last <= count:
        raise RuntimeError(
            f"{op}: expected 0 <= first <= last <= {count}, got first {first} and last {last}"
        )


def check_ids(op: str, name: str, ids: Tensor, count: int) -> None:
    wrong = ids[(ids < 0) | (ids >= count)]
    if wrong.numel() > 0:
        raise RuntimeError(f"{op}: expected {name} in [0, {count}), got {wrong[0].item()}")


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
