"""The ops in plain PyTorch: what every kernel must agree with, and what runs without a library.

Same names, arguments and errors as the native ops in ``csrc/library.cpp``.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from .checks import (
    _check_ids,
    _check_subsets,
    accumulation_dtype,
    check_ablate_one,
    check_coalition_gram,
    check_coalition_rhs,
    check_coalitions,
    check_group_linear,
    check_lasso,
    check_noisy,
    check_noisy_reduce,
    check_path_points,
    check_path_reduce,
    check_perturb,
    coalition_words,
)
from .draws import _WORD, _all_players, _coalitions_of_size, _noisy_ends, noisy_draws


def path_points(
    input: Tensor,  # [B, *F]
    baseline: Tensor,  # [B, *F] or [1, *F]
    alphas: Tensor,  # [S] float64
) -> Tensor:  # [S, B, *F]
    check_path_points(input, baseline, alphas)
    dtype = accumulation_dtype(input.dtype)
    start = baseline.to(dtype)
    steps = alphas.to(dtype).reshape(-1, *[1] * input.dim())
    points = steps * (input.to(dtype) - start) + start
    return points.to(input.dtype).contiguous()


def path_reduce(
    acc: Tensor | None,  # [B, *F]
    grads: Tensor,  # [S, B, *F]
    weights: Tensor,  # [S] float64
) -> Tensor:  # [B, *F]
    check_path_reduce(acc, grads, weights)
    dtype = accumulation_dtype(grads.dtype)
    with torch.autocast(grads.device.type, enabled=False):  # which is for the user's model
        total: Tensor = torch.tensordot(weights.to(dtype), grads.to(dtype), dims=1)
    return total if acc is None else (acc + total).contiguous()


def perturb(
    input: Tensor,  # [B, *F]
    baseline: Tensor,  # [B, K, *F] or [1, K, *F]
    bits: Tensor,  # [N, W] int64
    mask: Tensor,  # [B, *F] or [1, *F] int32
    first: int,
    last: int,
) -> Tensor:  # [last - first, B, *F]
    check_perturb(input, baseline, bits, mask, first, last)
    if last == first or input.numel() == 0:
        return input.new_empty([last - first, *input.shape])
    _check_ids("perturb", "mask", mask, 64 * bits.shape[1])
    repeats = torch.arange(first, last, device=input.device)
    n = repeats.div(baseline.shape[1], rounding_mode="floor")
    k = repeats.remainder(baseline.shape[1])
    players = bits[n].unsqueeze(2) >> torch.arange(64, device=input.device)  # [rows, W, 64]
    present = (players & 1).bool().flatten(1)[:, mask.long()]
    absent = baseline.detach()[:, k].movedim(1, 0)
    return torch.where(present, input.detach(), absent).contiguous()


def ablate_one(
    input: Tensor,  # [B, *F]
    baseline: Tensor,  # [R, *F]
    source: Tensor,  # [G, B] or [1, B] int64
    positions: Tensor,  # [B, P] or [1, P] int64
    offsets: Tensor,  # [B, G + 1] or [1, G + 1] int64
    first: int,
    last: int,
) -> Tensor:  # [last - first, B, *F]
    check_ablate_one(input, baseline, source, positions, offsets, first, last)
    rows = input.new_empty([last - first, *input.shape]).copy_(input.detach())
    if rows.numel() == 0:
        return rows
    op, batch = "ablate_one", input.shape[0]
    if source.shape[0] > 1:
        source = source[first:last]
    _check_ids(op, "source", source, baseline.shape[0])
    row, example, at = _group_entries(op, positions, offsets[:, first : last + 1], batch)
    group = row.div(batch, rounding_mode="floor")
    position = positions.expand(batch, -1)[example, at]
    features = rows[0, 0].numel()
    _check_ids(op, "positions", position, features)
    values = baseline.detach().reshape(-1, features)
    drawn = source.expand(last - first, -1)[group, example]
    rows.view(-1, features)[row, position] = values[drawn, position]
    return rows


@torch.no_grad()
def noisy_points(
    input: Tensor,  # [B, *F]
    baseline: Tensor | None,  # [K, *F]
    stdev: float,
    seed: int,
    stream: int,
    samples: int,
    example: int,
    first: int,
    last: int,
    position: float | None,
) -> Tensor:  # [last - first, B, *F]
    op, places = "noisy_points", (stream, samples, example, first, last)
    check_noisy(op, input, baseline, stdev, *places)
    rows = _noisy_ends(input, stdev, seed, *places)
    if baseline is not None and rows.numel() > 0:
        picks, alphas = noisy_draws(input, baseline, seed, *places[1:])
        start = baseline.to(rows.dtype)[picks]  # [S, B, *F]
        if position is not None:
            alphas = torch.full_like(alphas, position)
        alphas = alphas.to(rows.dtype).reshape(*alphas.shape, *[1] * (input.dim() - 1))
        rows = alphas * (rows - start) + start
    return rows.to(input.dtype).contiguous()


@torch.no_grad()
def noisy_reduce(
    acc: Tensor | None,  # [B, *F]
    grads: Tensor,  # [last - first, B, *F]
    input: Tensor,  # [B, *F]
    baseline: Tensor | None,  # [K, *F]
    stdev: float,
    seed: int,
    stream: int,
    samples: int,
    example: int,
    first: int,
    last: int,
) -> Tensor:  # [B, *F]
    places = (stream, samples, example, first, last)
    check_noisy_reduce(acc, grads, input, baseline, stdev, *places)
    differences = _noisy_ends(input, stdev, seed, *places)
    if baseline is not None and differences.numel() > 0:
        picks, _ = noisy_draws(input, baseline, seed, *places[1:])
        differences = differences - baseline.to(differences.dtype)[picks]
    total = (differences * grads.to(differences.dtype)).sum(0)
    return total.contiguous() if acc is None else (acc + total).contiguous()


@torch.no_grad()
def group_linear(
    values: Tensor,  # [B, P]
    positions: Tensor,  # [B, P] or [1, P] int64
    offsets: Tensor,  # [B, G + 1] or [1, G + 1] int64
    weight: Tensor,  # [H, F]
) -> Tensor:  # [G, B, H]
    check_group_linear(values, positions, offsets, weight)
    op, batch, groups = "group_linear", values.shape[0], offsets.shape[1] - 1
    outputs, features = weight.shape
    sums = values.new_zeros(groups * batch, outputs)
    if sums.numel() == 0:
        return sums.view(groups, batch, outputs)
    row, example, at = _group_entries(op, positions, offsets, batch)
    position = positions.expand(batch, -1)[example, at]
    _check_ids(op, "positions", position, features)
    dtype = accumulation_dtype(values.dtype)
    factors = values[example, at].to(dtype)
    bounds = torch.searchsorted(row, torch.arange(groups * batch + 1, device=row.device))
    first = 0
    for block in weight.split(_rows_in_block(max(features, 1))):
        columns = block.to(dtype).t().contiguous()
        sums[:, first : first + len(block)] = torch.nn.functional.embedding_bag(
            position,
            columns,
            bounds,
            mode="sum",
            per_sample_weights=factors,
            include_last_offset=True,
        )
        first += len(block)
    return sums.view(groups, batch, outputs)


def coalitions(
    players: int,  # M
    sizes: Tensor,  # [N] int64
    ranks: Tensor,  # [N] int64
    seed: int,
) -> Tensor:  # [N, W] int64
    check_coalitions(players, sizes, ranks)
    if sizes.device.type == "cpu":
        _check_subsets(players, sizes, ranks)
    key = (seed & _WORD, seed >> 32 & _WORD)
    sizes = sizes.clamp(-1, players)
    bits = sizes.new_empty(sizes.shape[0], coalition_words(players))
    for size in sizes.unique().tolist():
        of_size = (sizes == size).nonzero()[:, 0]
        for rows in of_size.split(_rows_in_block(players)):
            bits[rows] = _coalitions_of_size(players, size, ranks[rows], key)
    return bits & _all_players(players, sizes.device)


@torch.no_grad()
def coalition_gram(
    bits: Tensor,  # [N, W] int64
    players: int,  # M
    weights: Tensor,  # [N] float64
) -> Tensor:  # [M, M] float64
    check_coalition_gram(bits, players, weights)
    gram = weights.new_zeros(players, players)
    classes, counts = weights.unique(return_counts=True)
    of_class = weights.argsort().split(counts.tolist())
    for weight, rows in zip(classes, of_class, strict=True):
        count = torch.zeros_like(gram)
        for z in _unpack_in_blocks(bits[rows], players, players):
            count += z.T @ z  # whole numbers: exact
        gram += weight * count
    return gram


@torch.no_grad()
def coalition_rhs(
    bits: Tensor,  # [N, W] int64
    players: int,  # M
    weights: Tensor,  # [N] float64
    values: Tensor,  # [N, C]
) -> Tensor:  # [M, C] float64
    check_coalition_rhs(bits, players, weights, values)
    total = weights.new_zeros(players, values.shape[1])
    first = 0
    for z in _unpack_in_blocks(bits, players, max(players, values.shape[1])):
        rows = slice(first, first + z.shape[0])
        total += _sum_of_held(z, weights[rows, None] * values[rows].double())
        first += z.shape[0]
    return total


def _sum_of_held(z: Tensor, terms: Tensor) -> Tensor:  # [N, M], [N, C] -> [M, C]
    """The sum over the rows that hold each player, whatever stands in the others."""
    if terms.isfinite().all():
        return z.T @ terms
    # As a factor of 0 would make NaNs of those, they are counted and put in afterwards.
    sums = z.T @ terms.where(terms.isfinite(), 0)
    for special in (torch.inf, -torch.inf):
        sums += torch.where(z.T @ (terms == special).double() > 0, special, 0.0)
    return sums.masked_fill(z.T @ terms.isnan().double() > 0, torch.nan)


@torch.no_grad()
def lasso(
    gram: Tensor,  # [P, M, M] float64
    rhs: Tensor,  # [P, M, C] float64
    alpha: float,
    tolerance: float,
    max_sweeps: int,
) -> Tensor:  # [P, M, C] float64
    check_lasso(gram, rhs, alpha, tolerance, max_sweeps)
    coefficients = torch.zeros_like(rhs, memory_format=torch.contiguous_format)
    if rhs.numel() == 0:
        return coefficients
    gradient = rhs.clone()  # of the smooth part, its sign turned: rhs - gram @ coefficients
    scale = gram.diagonal(dim1=1, dim2=2).clamp(min=0).sqrt()[..., None]  # [P, M, 1]
    limit = tolerance * torch.where(scale > 0, rhs.abs() / scale, 0).amax(1)  # [P, C]
    running = torch.ones_like(limit, dtype=torch.bool)
    for _ in range(max_sweeps):
        largest = torch.zeros_like(limit)
        for j in range(rhs.shape[1]):
            square = gram[:, j, j, None]
            pull = gradient[:, j] + square * coefficients[:, j]
            target = pull.sign() * (pull.abs() - alpha).clamp(min=0) / square
            step = torch.where(running & (square > 0), target - coefficients[:, j], 0)
            coefficients[:, j] += step
            gradient -= gram[:, j, :, None] * step[:, None]
            largest = torch.maximum(largest, scale[:, j] * step.abs())
        running &= largest > limit
        if not running.any():
            break
    return coefficients


def _group_entries(
    op: str, positions: Tensor, offsets: Tensor, batch: int
) -> tuple[Tensor, Tensor, Tensor]:  # [E] each
    """One entry for every feature of every group: row of [G, B], example, place in P."""
    _check_ids(op, "offsets", offsets, positions.shape[1] + 1)
    offsets = offsets.expand(batch, -1).t()
    begins, lengths = offsets[:-1].flatten(), (offsets[1:] - offsets[:-1]).clamp(min=0).flatten()
    row = torch.repeat_interleave(lengths)
    within = torch.arange(len(row), device=row.device) - (lengths.cumsum(0) - lengths)[row]
    return row, row.remainder(batch), begins[row] + within


def _rows_in_block(width: int) -> int:
    """So many rows that `width` numbers for each take 16 MiB."""
    return max(1, 2**21 // width)


def _unpack_in_blocks(bits: Tensor, players: int, width: int) -> Iterator[Tensor]:
    """Blocks [n, M] float64 of all rows, few enough for `width` numbers a row."""
    shifts = torch.arange(64, device=bits.device)
    for block in bits.split(_rows_in_block(width)):
        yield (block[..., None] >> shifts & 1).flatten(1)[:, :players].double()
