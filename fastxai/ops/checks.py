"""What the ops refuse, in the words of the compiled library."""

from __future__ import annotations

import torch
from torch import Tensor

FLOATING_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that sums are kept in: float32, or float64 for float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def coalition_words(players: int) -> int:
    """How many words of 64 bits a coalition takes."""
    return -(-players // 64)


_COUNTABLE = 2**62  # so many subsets of one size can be numbered in an int64


def _count_subsets(players: int, size: int) -> int:
    """C(players, size) where it is less than _COUNTABLE, else something that is not."""
    count = 1
    for k in range(min(size, players - size)):
        count = count * (players - k) // (k + 1)
        if count >= _COUNTABLE:
            break
    return count


def check_path_points(input: Tensor, baseline: Tensor, alphas: Tensor) -> None:
    op = "path_points"
    _check_floating(op, "input", input)
    _check_dim(op, "input", input, 1, "[B, *F]")
    _check_dtype(op, "baseline", baseline, input.dtype)
    _check_device(op, "baseline", baseline, "input", input)
    shape, one = list(input.shape), [1, *input.shape[1:]]
    if list(baseline.shape) not in (shape, one):
        expected = f"{shape} or {one}"
        raise RuntimeError(
            f"{op}: expected baseline of shape {expected}, got {list(baseline.shape)}"
        )
    _check_steps(op, "alphas", alphas, "input", input)


def check_path_reduce(acc: Tensor | None, grads: Tensor, weights: Tensor) -> None:
    op = "path_reduce"
    _check_floating(op, "grads", grads)
    _check_dim(op, "grads", grads, 2, "[S, B, *F]")
    _check_steps(op, "weights", weights, "grads", grads)
    _check_shape(op, "weights", weights, [grads.shape[0]])
    if acc is not None:
        _check_dtype(op, "acc", acc, accumulation_dtype(grads.dtype))
        _check_device(op, "acc", acc, "grads", grads)
        _check_shape(op, "acc", acc, list(grads.shape[1:]))


def check_perturb(
    input: Tensor, baseline: Tensor, bits: Tensor, mask: Tensor, first: int, last: int
) -> None:
    op = "perturb"
    _check_dim(op, "input", input, 1, "[B, *F]")
    _check_dtype(op, "baseline", baseline, input.dtype)
    _check_device(op, "baseline", baseline, "input", input)
    _check_dim(op, "baseline", baseline, 2, "[B, K, *F] or [1, K, *F]")
    backgrounds, features = baseline.shape[1], list(input.shape[1:])
    _check_one_or_each(op, "baseline", baseline, input.shape[0], [backgrounds, *features])
    _check_dtype(op, "bits", bits, torch.int64)
    _check_device(op, "bits", bits, "input", input)
    _check_matrix(op, "bits", bits, "[N, W]")
    _check_dtype(op, "mask", mask, torch.int32)
    _check_device(op, "mask", mask, "input", input)
    _check_one_or_each(op, "mask", mask, input.shape[0], features)
    _check_range(op, first, last, bits.shape[0] * backgrounds)


def check_ablate_one(
    input: Tensor,
    baseline: Tensor,
    source: Tensor,
    positions: Tensor,
    offsets: Tensor,
    first: int,
    last: int,
) -> None:
    op = "ablate_one"
    _check_dim(op, "input", input, 1, "[B, *F]")
    _check_dtype(op, "baseline", baseline, input.dtype)
    _check_device(op, "baseline", baseline, "input", input)
    _check_dim(op, "baseline", baseline, 1, "[R, *F]")
    _check_shape(op, "baseline", baseline, [baseline.shape[0], *input.shape[1:]])
    for name, value, layout in (
        ("source", source, "[G, B] or [1, B]"),
        ("positions", positions, "[B, P] or [1, P]"),
        ("offsets", offsets, "[B, G + 1] or [1, G + 1]"),
    ):
        _check_dtype(op, name, value, torch.int64)
        _check_device(op, name, value, "input", input)
        _check_matrix(op, name, value, layout)
    batch, groups = input.shape[0], max(offsets.shape[1], 1) - 1
    _check_one_or_each(op, "positions", positions, batch, [positions.shape[1]])
    _check_one_or_each(op, "offsets", offsets, batch, [groups + 1])
    _check_one_or_each(op, "source", source, groups, [batch])
    _check_range(op, first, last, groups)


def check_group_linear(values: Tensor, positions: Tensor, offsets: Tensor, weight: Tensor) -> None:
    op = "group_linear"
    _check_floating(op, "values", values)
    _check_matrix(op, "values", values, "[B, P]")
    batch, entries = values.shape
    for name, table, layout in (
        ("positions", positions, "[B, P] or [1, P]"),
        ("offsets", offsets, "[B, G + 1] or [1, G + 1]"),
    ):
        _check_dtype(op, name, table, torch.int64)
        _check_device(op, name, table, "values", values)
        _check_matrix(op, name, table, layout)
    _check_one_or_each(op, "positions", positions, batch, [entries])
    _check_one_or_each(op, "offsets", offsets, batch, [max(offsets.shape[1], 1)])
    _check_dtype(op, "weight", weight, values.dtype)
    _check_device(op, "weight", weight, "values", values)
    _check_matrix(op, "weight", weight, "[H, F]")


def check_noisy(
    op: str,
    input: Tensor,
    baseline: Tensor | None,
    stdev: float,
    stream: int,
    samples: int,
    example: int,
    first: int,
    last: int,
) -> None:
    _check_floating(op, "input", input)
    _check_dim(op, "input", input, 1, "[B, *F]")
    if baseline is not None:
        _check_dtype(op, "baseline", baseline, input.dtype)
        _check_device(op, "baseline", baseline, "input", input)
        _check_dim(op, "baseline", baseline, 1, "[K, *F]")
        shape = [max(1, baseline.shape[0]), *input.shape[1:]]
        _check_shape(op, "baseline", baseline, shape)
    if not stdev >= 0:  # written out only then, as a number that is traced has no digits
        raise RuntimeError(f"{op}: expected stdev of at least 0, got {stdev:g}")
    for fine, expected, got in (
        (0 <= stream < 65536, "stream from 0 to 65535", stream),
        (0 <= example < 2**62, "example from 0 to 4611686018427387903", example),
        (0 <= samples < 2**31, "samples from 0 to 2147483647", samples),
    ):
        if not fine:
            raise RuntimeError(f"{op}: expected {expected}, got {got}")
    _check_range(op, first, last, samples)


def check_noisy_reduce(
    acc: Tensor | None,
    grads: Tensor,
    input: Tensor,
    baseline: Tensor | None,
    stdev: float,
    stream: int,
    samples: int,
    example: int,
    first: int,
    last: int,
) -> None:
    op = "noisy_reduce"
    check_noisy(op, input, baseline, stdev, stream, samples, example, first, last)
    _check_dtype(op, "grads", grads, input.dtype)
    _check_device(op, "grads", grads, "input", input)
    _check_shape(op, "grads", grads, [last - first, *input.shape])
    if acc is not None:
        _check_dtype(op, "acc", acc, accumulation_dtype(input.dtype))
        _check_device(op, "acc", acc, "input", input)
        _check_shape(op, "acc", acc, list(input.shape))


def check_coalitions(players: int, sizes: Tensor, ranks: Tensor) -> None:
    op = "coalitions"
    _check_players(op, players)
    _check_dtype(op, "sizes", sizes, torch.int64)
    if sizes.dim() != 1:
        raise RuntimeError(f"{op}: expected sizes of shape [N], got {list(sizes.shape)}")
    _check_dtype(op, "ranks", ranks, torch.int64)
    _check_device(op, "ranks", ranks, "sizes", sizes)
    _check_shape(op, "ranks", ranks, list(sizes.shape))


def _check_subsets(players: int, sizes: Tensor, ranks: Tensor) -> None:
    op = "coalitions"
    wrong = ((sizes < -1) | (sizes > players)).nonzero()
    if len(wrong):
        row = int(wrong[0])
        raise RuntimeError(
            f"{op}: expected sizes from -1 to {players}, got {int(sizes[row])} in row {row}"
        )
    most = torch.full_like(sizes, 2**63 - 1)
    for size in sizes.unique().tolist():
        if size >= 0 and (count := _count_subsets(players, size)) < _COUNTABLE:
            most[sizes == size] = count - 1
    wrong = ((ranks < 0) | (ranks > most)).nonzero()
    if len(wrong):
        row = int(wrong[0])
        raise RuntimeError(
            f"{op}: expected ranks from 0 to {int(most[row])} for size {int(sizes[row])}, "
            f"got {int(ranks[row])} in row {row}"
        )


def check_coalition_gram(bits: Tensor, players: int, weights: Tensor) -> None:
    op = "coalition_gram"
    _check_players(op, players)
    _check_bits(op, bits, players)
    _check_row_weights(op, weights, bits)


def check_coalition_rhs(bits: Tensor, players: int, weights: Tensor, values: Tensor) -> None:
    op = "coalition_rhs"
    _check_players(op, players)
    _check_bits(op, bits, players)
    _check_row_weights(op, weights, bits)
    _check_floating(op, "values", values)
    _check_device(op, "values", values, "bits", bits)
    if values.dim() != 2 or values.shape[0] != bits.shape[0]:
        raise RuntimeError(
            f"{op}: expected values of shape [{bits.shape[0]}, C], got {list(values.shape)}"
        )


def check_lasso(gram: Tensor, rhs: Tensor, alpha: float, tolerance: float, max_sweeps: int) -> None:
    op = "lasso"
    _check_dtype(op, "gram", gram, torch.float64)
    if gram.dim() != 3 or gram.shape[1] != gram.shape[2]:
        raise RuntimeError(f"{op}: expected gram of shape [P, M, M], got {list(gram.shape)}")
    _check_dtype(op, "rhs", rhs, torch.float64)
    _check_device(op, "rhs", rhs, "gram", gram)
    if rhs.dim() != 3 or rhs.shape[:2] != gram.shape[:2]:
        expected = f"[{gram.shape[0]}, {gram.shape[1]}, C]"
        raise RuntimeError(f"{op}: expected rhs of shape {expected}, got {list(rhs.shape)}")
    for name, value in (("alpha", alpha), ("tolerance", tolerance), ("max_sweeps", max_sweeps)):
        if not value >= 0:
            raise RuntimeError(f"{op}: expected {name} of at least 0, got {value:g}")


def _check_players(op: str, players: int) -> None:
    if not 1 <= players <= 16777216:
        raise RuntimeError(f"{op}: expected players from 1 to 16777216, got {players}")


def _check_bits(op: str, bits: Tensor, players: int) -> None:
    _check_dtype(op, "bits", bits, torch.int64)
    words = coalition_words(players)
    if bits.dim() != 2 or bits.shape[1] != words:
        raise RuntimeError(f"{op}: expected bits of shape [N, {words}], got {list(bits.shape)}")


def _check_row_weights(op: str, weights: Tensor, bits: Tensor) -> None:
    _check_dtype(op, "weights", weights, torch.float64)
    _check_device(op, "weights", weights, "bits", bits)
    _check_shape(op, "weights", weights, [bits.shape[0]])


def _check_steps(op: str, name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    _check_dtype(op, name, value, torch.float64)
    _check_device(op, name, value, other_name, other)
    if value.dim() != 1:
        raise RuntimeError(f"{op}: expected {name} of shape [S], got {list(value.shape)}")


def _check_floating(op: str, name: str, value: Tensor) -> None:
    if value.dtype not in FLOATING_DTYPES:
        raise RuntimeError(
            f"{op}: expected {name} of dtype float16, bfloat16, float32 or float64, "
            f"got {_dtype_name(value.dtype)}"
        )


def _check_dim(op: str, name: str, value: Tensor, least: int, layout: str) -> None:
    if value.dim() < least:
        raise RuntimeError(f"{op}: expected {name} of shape {layout}, got {list(value.shape)}")


def _check_dtype(op: str, name: str, value: Tensor, dtype: torch.dtype) -> None:
    if value.dtype != dtype:
        raise RuntimeError(
            f"{op}: expected {name} of dtype {_dtype_name(dtype)}, got {_dtype_name(value.dtype)}"
        )


def _check_device(op: str, name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    if value.device != other.device:
        raise RuntimeError(
            f"{op}: expected {name} on {other.device} like {other_name}, got {value.device}"
        )


def _check_shape(op: str, name: str, value: Tensor, shape: list[int]) -> None:
    if list(value.shape) != shape:
        raise RuntimeError(f"{op}: expected {name} of shape {shape}, got {list(value.shape)}")


def _check_matrix(op: str, name: str, value: Tensor, layout: str) -> None:
    if value.dim() != 2:
        raise RuntimeError(f"{op}: expected {name} of shape {layout}, got {list(value.shape)}")


def _check_one_or_each(op: str, name: str, value: Tensor, count: int, shape: list[int]) -> None:
    """One for all or one for each: the leading dimension is 1 or ``count``."""
    each, one, got = [count, *shape], [1, *shape], list(value.shape)
    if got not in (each, one):
        raise RuntimeError(f"{op}: expected {name} of shape {each} or {one}, got {got}")


def _check_range(op: str, first: int, last: int, count: int) -> None:
    if not 0 <= first <= last <= count:
        raise RuntimeError(
            f"{op}: expected 0 <= first <= last <= {count}, got first {first} and last {last}"
        )


def _check_ids(op: str, name: str, ids: Tensor, count: int) -> None:
    wrong = ids[(ids < 0) | (ids >= count)]
    if wrong.numel() > 0:
        raise RuntimeError(f"{op}: expected {name} in [0, {count}), got {wrong[0].item()}")


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
