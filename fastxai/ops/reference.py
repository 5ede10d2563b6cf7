"""The ops in plain PyTorch: what every kernel must agree with, and what runs without a library.

Same names, arguments and errors as the native ops in ``csrc/library.cpp``.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

FLOATING_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


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
        total = torch.tensordot(weights.to(dtype), grads.to(dtype), dims=1)
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


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that sums are kept in: float32, or float64 for float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def coalition_words(players: int) -> int:
    """How many words of 64 bits a coalition takes."""
    return -(-players // 64)


_WORD = 0xFFFFFFFF  # philox works on words of 32 bits
# The last word of a counter tells what the draw is for; subsets beyond counting use their size.
_COINS, _ROUND_KEYS = 0xFFFFFFFF, 0xFFFFFFFE
_COUNTABLE = 2**62  # so many subsets of one size can be numbered in an int64


def _philox(
    counter: tuple[Tensor | int, Tensor | int, Tensor | int, Tensor | int], key: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10 (Salmon et al. 2011) on int64 tensors that hold words of 32 bits."""
    a, b, c, d = (torch.as_tensor(word) for word in counter)
    for i in range(10):
        key0, key1 = (key[0] + i * 0x9E3779B9) & _WORD, (key[1] + i * 0xBB67AE85) & _WORD
        high0, low0 = _multiply(a, 0xD2511F53)
        high1, low1 = _multiply(c, 0xCD9E8D57)
        a, b, c, d = high1 ^ b ^ key0, low1, high0 ^ d ^ key1, low0
    return a, b, c, d


def _multiply(x: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """The high and the low word of a product of two words, without ever leaving int64."""
    low = (x & 0xFFFF) * factor
    high = (x >> 16) * factor + (low >> 16)
    return high >> 16, (high & 0xFFFF) << 16 | (low & 0xFFFF)


# What noisy rows are drawn for, as the last word of a counter; noise uses the number of the input.
_JITTER, _ORDER, _COARSE, _FINE = 0xFFFFFFFF, 0xFFFFFFFE, 0xFFFFFFFD, 0xFFFFFFFC
_LANE = (
    16  # element i of a row takes its noise from lane i / 16 % 4 of counter i / 64 * 16 + i % 16
)


def noisy_draws(
    input: Tensor,  # [B, *F]
    baseline: Tensor,  # [K, *F]
    seed: int,
    samples: int,
    example: int,
    first: int,
    last: int,
) -> tuple[Tensor, Tensor]:  # [last - first, B] int64, float64
    """The baseline and the position on the path of every row.

    Samples go through the baselines in rounds, in an order of the example's own. The positions are
    stratified twice: those of one baseline have a coarse stratum each, those of different baselines
    in it a fine one each. Every single draw is uniform: baseline and position are independent.
    """
    key, count = (seed & _WORD, seed >> 32 & _WORD), baseline.shape[0]
    n = torch.arange(first, last, device=input.device)[:, None]
    e = torch.arange(example, example + input.shape[0], device=input.device)

    def words(a: Tensor | int, purpose: int) -> tuple[Tensor, ...]:
        return _philox((a, e & _WORD, e >> 32, purpose), key)

    place, turn = n % count, n // count
    turns, places = -(-samples // count), min(samples, count)
    stratum = _shuffled(turn, turns, *words(place, _COARSE)[:2])
    within = _shuffled(place, places, *words(stratum, _FINE)[:2])
    jitter = (words(n, _JITTER)[0].double() + 0.5) * 2.0**-32
    alphas = (stratum.double() * places + within.double() + jitter) / (float(turns) * places)
    return _shuffled(place, count, *words(0, _ORDER)[:2]), alphas


def _shuffled(i: Tensor, count: int, key: Tensor, shift: Tensor) -> Tensor:
    """Where number i of 0, ..., count - 1 goes in an order that the key sets.

    The shift makes every place equally likely for each number; the key scatters neighbours. The
    numbers beyond count walk on until they fall below (see _permute).
    """
    bits = (count - 1).bit_length()
    mask, half = (1 << bits) - 1, 1 if bits < 2 else bits // 2

    def scramble(x: Tensor) -> Tensor:
        for turn in range(0, 32, 8):
            turned = (key >> turn | key << (32 - turn)) & _WORD
            x = _multiply(x ^ turned, 0x846CA68B)[1] & mask
            x = x ^ x >> half
        return x

    place = scramble(i)
    while (beyond := place >= count).any():
        place = torch.where(beyond, scramble(place), place)
    return (place + shift) % count


def _noisy_ends(
    input: Tensor,
    stdev: float,
    seed: int,
    stream: int,
    samples: int,
    example: int,
    first: int,
    last: int,
) -> Tensor:  # [last - first, B, *F]
    """input + stdev * noise, in the dtype of sums."""
    ends = input.to(accumulation_dtype(input.dtype)).expand(last - first, *input.shape)
    if stdev == 0 or ends.numel() == 0:
        return ends
    key, features = (seed & _WORD, seed >> 32 & _WORD), input[0].numel()
    n = torch.arange(first, last, device=input.device)[:, None, None]
    e = torch.arange(example, example + input.shape[0], device=input.device)[:, None]
    counters = torch.arange(-(-features // (4 * _LANE)) * _LANE, device=input.device)
    words = _philox((counters, n, e & _WORD, stream), key)  # each [S, B, counters]
    lanes = (*_box_muller(words[0], words[1]), *_box_muller(words[2], words[3]))
    noise = torch.stack([lane.unflatten(2, (-1, _LANE)) for lane in lanes], 3)
    noise = noise.flatten(2)[..., :features].reshape(ends.shape)
    return stdev * noise.to(ends.dtype) + ends


def _box_muller(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Two independent standard normals, float32, from two random words (Box and Muller, 1958).

    The first word is the radius; the second a quarter of the circle (2 bits) and the angle within
    it (24 bits), whose sine and cosine are the polynomials of Cephes for |angle| <= pi / 4.
    """
    uniform = ((first >> 8) + 1).float() * 2.0**-24
    # torch's float32 square root is not the nearest number everywhere; this is.
    radius = (_logarithm(uniform) * -2.0).double().sqrt().float()
    signed = second.to(torch.int32)  # wraps around
    turn = (signed >> 8).float() * 2.0**-23
    angle = turn * 0.78539816339744831
    z = angle * angle
    sine = _horner(z, -1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1) * z * angle + angle
    cosine = _horner(z, 2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2)
    cosine = cosine * z * z - z * 0.5 + 1.0
    quarter, half = (second & 1).bool(), (second & 2).bool()
    x, y = torch.where(quarter, -sine, cosine), torch.where(quarter, cosine, sine)
    sign = 1.0 - 2.0 * half.float()
    return radius * (x * sign), radius * (y * sign)


def _logarithm(value: Tensor) -> Tensor:
    """The natural logarithm of normal positive float32, with Cephes' polynomial.

    Not torch's, which differs from device to device in the last bit.
    """
    apart = value.view(torch.int32) - 0x3F3504F3
    e = (apart >> 23).float()
    x = ((apart & 0x7FFFFF) + 0x3F3504F3).view(torch.float32) - 1.0
    z = x * x
    y = _horner(
        x, 7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1,
        -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
    )  # fmt: skip
    y = y * x * z - e * 2.12194440e-4
    y = y - z * 0.5
    return x + y + e * 0.693359375


def _horner(x: Tensor, first: float, *others: float) -> Tensor:
    """A polynomial, coefficients from the highest power down, rounded after every operation."""
    y = torch.full_like(x, first)
    for coefficient in others:
        y = y * x + coefficient
    return y


def _coalitions_of_size(players: int, size: int, ranks: Tensor, key: tuple[int, int]) -> Tensor:
    if size < 0:
        return _flip_coins(players, ranks, key)
    fewer = min(size, players - size)  # the subset or its complement, whichever is smaller
    count = _count_subsets(players, size)
    if count < _COUNTABLE:
        members = _unrank(players, fewer, _permute(ranks, count, size, players, key))
    else:
        members = _draw_subsets(players, fewer, ranks, size, key)
    return _pack(members) if fewer == size else ~_pack(members)


def _count_subsets(players: int, size: int) -> int:
    """C(players, size) where it is less than _COUNTABLE, else something that is not."""
    count = 1
    for k in range(min(size, players - size)):
        count = count * (players - k) // (k + 1)
        if count >= _COUNTABLE:
            break
    return count


def _row_words(ranks: Tensor, count: int, stream: int, key: tuple[int, int]) -> Tensor:
    """At least count random words of 32 bits for each row, [N, 4 * blocks]."""
    blocks = torch.arange(-(-count // 4), device=ranks.device)
    counter = ((ranks & _WORD)[:, None], (ranks >> 32 & _WORD)[:, None], blocks, stream)
    return torch.stack(_philox(counter, key), 2).flatten(1)


def _flip_coins(players: int, ranks: Tensor, key: tuple[int, int]) -> Tensor:  # [N, W]
    count = coalition_words(players)
    words = _row_words(ranks, 2 * count, _COINS, key)
    return (words[:, ::2] | words[:, 1::2] << 32)[:, :count]


def _permute(ranks: Tensor, count: int, size: int, players: int, key: tuple[int, int]) -> Tensor:
    """A permutation of 0, ..., count - 1 that the key sets.

    A Feistel network on the least number of bits, whose results beyond count walk on through it
    until they fall below (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002).
    """
    bits = (count - 1).bit_length()
    low_bits = bits // 2
    low_mask, high_mask = (1 << low_bits) - 1, (1 << (bits - low_bits)) - 1
    rounds = 64 if bits < 12 else 8  # short halves mix slowly
    counter = (size, players, torch.arange(rounds // 4), _ROUND_KEYS)
    keys = torch.stack(_philox(counter, key), 1).flatten().tolist()

    def scramble(x: Tensor) -> Tensor:
        low, high = x & low_mask, x >> low_bits
        for even, odd in zip(keys[::2], keys[1::2], strict=True):
            high = high ^ _mix(low ^ even) & high_mask
            low = low ^ _mix(high ^ odd) & low_mask
        return high << low_bits | low

    number = scramble(ranks.remainder(count))
    while (beyond := number >= count).any():
        number[beyond] = scramble(number[beyond])
    return number


def _mix(x: Tensor) -> Tensor:
    """A bijection of words in which every bit in moves every bit out: Wellons' lowbias32."""
    x = x ^ x >> 16
    x = _multiply(x, 0x7FEB352D)[1]
    x = x ^ x >> 15
    x = _multiply(x, 0x846CA68B)[1]
    return x ^ x >> 16


def _unrank(players: int, size: int, ranks: Tensor) -> Tensor:  # [N, M] bool
    """Subsets of one size by their number in colexicographic order."""
    binomials = [torch.ones(players + 1, dtype=torch.int64, device=ranks.device)]  # [k][n]
    for _ in range(size):
        binomials.append(torch.nn.functional.pad(binomials[-1][:-1].cumsum(0), (1, 0)))
    members = torch.zeros(ranks.shape[0], players, dtype=torch.bool, device=ranks.device)
    rest = ranks
    for k in range(size, 0, -1):
        last = torch.searchsorted(binomials[k], rest, right=True) - 1
        members.scatter_(1, last[:, None], True)
        rest = rest - binomials[k][last]
    return members


def _draw_subsets(
    players: int, size: int, ranks: Tensor, stream: int, key: tuple[int, int]
) -> Tensor:  # [N, M] bool
    """Floyd's algorithm (Bentley and Floyd, "A sample of brilliance", 1987).

    Each pick is uniform but for a share of players / 2**32.
    """
    members = torch.zeros(ranks.shape[0], players, dtype=torch.bool, device=ranks.device)
    words = _row_words(ranks, size, stream, key)
    for draw in range(size):
        last = players - size + draw
        pick = (words[:, draw] * (last + 1) >> 32)[:, None]
        members.scatter_(1, torch.where(members.gather(1, pick), last, pick), True)
    return members


def _pack(members: Tensor) -> Tensor:  # [N, M] bool -> [N, W] int64
    rows, players = members.shape
    words = coalition_words(players)
    padded = torch.nn.functional.pad(members.long(), (0, 64 * words - players))
    shifts = torch.arange(64, device=members.device)
    return (padded.view(rows, words, 64) << shifts).sum(2)


def _all_players(players: int, device: torch.device) -> Tensor:  # [W]
    mask = torch.full((coalition_words(players),), -1, device=device)
    if players % 64:
        mask[-1] = (1 << players % 64) - 1
    return mask


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
