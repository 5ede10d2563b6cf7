"""Random numbers as the kernels draw them."""

import torch
from torch import Tensor

from .checks import accumulation_dtype, coalition_words

COUNTABLE = 2**62  # so many subsets of one size can be numbered in an int64


def count_subsets(players: int, size: int) -> int:
    """C(players, size) where it is less than COUNTABLE, else something that is not."""
    count = 1
    for k in range(min(size, players - size)):
        count = count * (players - k) // (k + 1)
        if count >= COUNTABLE:
            break
    return count


WORD = 0xFFFFFFFF  # philox works on words of 32 bits


# The last word of a counter tells what the draw is for; subsets beyond counting use their size.
_COINS, _ROUND_KEYS = 0xFFFFFFFF, 0xFFFFFFFE


def _philox(
    counter: tuple[Tensor | int, Tensor | int, Tensor | int, Tensor | int], key: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10 (Salmon et al. 2011) on int64 tensors that hold words of 32 bits."""
    a, b, c, d = (torch.as_tensor(word) for word in counter)
    for i in range(10):
        key0, key1 = (key[0] + i * 0x9E3779B9) & WORD, (key[1] + i * 0xBB67AE85) & WORD
        high0, low0 = _multiply(a, 0xD2511F53)
        high1, low1 = _multiply(c, 0xCD9E8D57)
        a, b, c, d = high1 ^ b ^ key0, low1, high0 ^ d ^ key1, low0
    return a, b, c, d


def _multiply(x: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """The high and the low word of a product of two words, whose 64 bits an int64 holds."""
    product = x * factor  # wraps around
    return product >> 32 & WORD, product & WORD


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
    key, count = (seed & WORD, seed >> 32 & WORD), baseline.shape[0]
    n = torch.arange(first, last, device=input.device)[:, None]
    e = torch.arange(example, example + input.shape[0], device=input.device)
    # Only so many samples have a place of their own: those after them are in another turn.
    place, turn = n[:count] % count, n // count
    turns, places = -(-samples // count), min(samples, count)
    own = _philox(
        (
            torch.cat([n, place]),
            e & WORD,
            e >> 32,
            torch.cat([torch.full_like(n, _JITTER), torch.full_like(place, _COARSE)]),
        ),
        key,
    )
    jitter, again = own[0][: len(n)], torch.arange(last - first, device=n.device) % len(place)
    of_place = [word[len(n) :][again] for word in own[:2]]
    stratum = _shuffled(turn, turns, *of_place)
    words = _philox((stratum, e & WORD, e >> 32, _FINE), key)[:2]
    within = _shuffled(place[again], places, *words)
    jitter = (jitter.double() + 0.5) * 2.0**-32
    alphas = (stratum.double() * places + within.double() + jitter) / (float(turns) * places)
    return drawn_baselines(input, baseline, seed, example, first, last), alphas


def drawn_baselines(
    input: Tensor,  # [B, *F]
    baseline: Tensor,  # [K, *F]
    seed: int,
    example: int,
    first: int,
    last: int,
) -> Tensor:  # [last - first, B] int64
    """The baseline of every row alone."""
    key, count = (seed & WORD, seed >> 32 & WORD), baseline.shape[0]
    e = torch.arange(example, example + input.shape[0], device=input.device)
    n = torch.arange(first, min(last, first + count), device=input.device)[:, None]
    order = _philox((0, e & WORD, e >> 32, _ORDER), key)[:2]
    picks = _shuffled(n % count, count, *order)
    if last - first <= count:
        return picks
    return picks[torch.arange(last - first, device=input.device) % count]


def _shuffled(i: Tensor, count: int, key: Tensor, shift: Tensor) -> Tensor:
    """Where number i of 0, ..., count - 1 goes in an order that the key sets.

    The shift makes every place equally likely for each number; the key scatters neighbours. The
    numbers beyond count walk on until they fall below (see _permute).
    """
    bits = (count - 1).bit_length()
    mask, half = (1 << bits) - 1, 1 if bits < 2 else bits // 2

    # The lowest bits of a product depend on the lowest bits alone.
    keys = [(key >> turn | key << (32 - turn)) & mask for turn in range(0, 32, 8)]

    def scramble(x: Tensor, keys: list[Tensor]) -> Tensor:
        for turned in keys:
            x = (x ^ turned) * (0x846CA68B & mask) & mask
            x = x ^ x >> half
        return x

    place = scramble(i, keys)
    beyond = (place >= count).flatten().nonzero()[:, 0]
    if len(beyond):
        flat, walking = place.flatten(), [turned.expand(place.shape).flatten() for turned in keys]
        while len(beyond):
            found = scramble(flat[beyond], [turned[beyond] for turned in walking])
            flat[beyond] = found
            beyond = beyond[found >= count]
        place = flat.view(place.shape)
    return (place + shift) % count


def noisy_ends(
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
    key, features = (seed & WORD, seed >> 32 & WORD), input[0].numel()
    n = torch.arange(first, last, device=input.device)[:, None, None]
    e = torch.arange(example, example + input.shape[0], device=input.device)[:, None]
    counters = torch.arange(-(-features // (4 * _LANE)) * _LANE, device=input.device)
    words = _philox((counters, n, e & WORD, stream), key)  # each [S, B, counters]
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


def coalitions_of_size(players: int, size: int, ranks: Tensor, key: tuple[int, int]) -> Tensor:
    if size < 0:
        return _flip_coins(players, ranks, key)
    fewer = min(size, players - size)  # the subset or its complement, whichever is smaller
    count = count_subsets(players, size)
    if count < COUNTABLE:
        members = _unrank(players, fewer, _permute(ranks, count, size, players, key))
    else:
        members = _draw_subsets(players, fewer, ranks, size, key)
    return _pack(members) if fewer == size else ~_pack(members)


def _row_words(ranks: Tensor, count: int, stream: int, key: tuple[int, int]) -> Tensor:
    """At least count random words of 32 bits for each row, [N, 4 * blocks]."""
    blocks = torch.arange(-(-count // 4), device=ranks.device)
    counter = ((ranks & WORD)[:, None], (ranks >> 32 & WORD)[:, None], blocks, stream)
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


def all_players(players: int, device: torch.device) -> Tensor:  # [W]
    mask = torch.full((coalition_words(players),), -1, device=device)
    if players % 64:
        mask[-1] = (1 << players % 64) - 1
    return mask
