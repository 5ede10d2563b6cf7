"""Every kernel beside its twin in torch, on arguments that hypothesis makes up.

An op has a strategy for its arguments, valid or not, and a measure of how far the two may differ.
Where the reference raises an error, the kernel must raise the same one.
"""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastxai.ops import reference
from fastxai.ops.reference.checks import accumulation_dtype
from tests.ops.conftest import COPIED_DTYPES, DTYPES, need_native

SIZES = [0, 1, 2, 3, 5, 8, 17, 63, 64, 65]
LARGE = [1023, 1025, 4097]  # on either side of a tile
MOST = 20_000  # elements
SEEDS = st.integers(-(2**63), 2**63 - 1)
Draw = Callable[[st.SearchStrategy], object]


def one_of(draw: Draw, *values):
    return draw(st.sampled_from(values))


def rarely(draw: Draw) -> bool:
    return draw(st.integers(0, 29)) == 17


def draw_size(draw: Draw, large: bool = False) -> int:
    return one_of(draw, *SIZES, *(LARGE if large else ()))


def draw_features(draw: Draw, rows: int) -> list[int]:
    """*F for so many rows, or for four baselines: up to three dimensions, some of them large."""
    shape: list[int] = []
    for _ in range(draw(st.integers(0, 3))):
        size = draw_size(draw, large=True)
        if max(rows, 4) * math.prod(shape) * size <= MOST:
            shape.append(size)
    return shape


# Values


def random_values(draw: Draw, shape: list[int], dtype: torch.dtype, extreme: bool) -> Tensor:
    """Normal numbers; some not finite, subnormal or zero and, where `extreme`, the largest ones."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    normal = torch.randn(shape, generator=generator, dtype=torch.float64)
    if dtype.is_complex:
        return torch.complex(normal, normal.flip(0) if shape else normal).to(dtype)
    if not dtype.is_floating_point:
        return (normal * 30).abs().long().to(dtype)
    values = normal.to(dtype)
    finite = torch.finfo(dtype)
    special = [0.0, -0.0, finite.smallest_normal / 8, 1.0]
    kind = one_of(draw, "normal", "zeros", "mixed", "not finite")
    if kind == "zeros":
        special = [0.0, -0.0]
    elif kind == "not finite":
        special += [math.nan, math.inf, -math.inf]
        special += [finite.max, finite.min] if extreme else []
    if kind != "normal":
        picks = torch.randint(len(special), shape, generator=generator)
        replaced = torch.rand(shape, generator=generator) < one_of(draw, 0.02, 0.5)
        values = torch.where(replaced, torch.tensor(special, dtype=dtype)[picks], values)
    return values


def random_ids(draw: Draw, shape: list[int], low: int, high: int) -> Tensor:
    """Whole numbers from low to high - 1, one of them out of range now and then."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    ids = torch.randint(low, max(high, low + 1), shape, generator=generator)
    if ids.numel() and rarely(draw):
        wrong = one_of(draw, low - 1, high, -(2**31), 2**31 - 1, -(2**63), 2**63 - 1)
        ids.view(-1)[draw(st.integers(0, ids.numel() - 1))] = wrong
    return ids


def random_bits(draw: Draw, rows: int, words: int) -> Tensor:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    fill = one_of(draw, None, None, 0, -1)
    if fill is not None:
        return torch.full((rows, words), fill)
    return torch.randint(-(2**63), 2**63 - 1, (rows, words), generator=generator)


# Views


def a_view(draw: Draw, values: Tensor) -> Tensor:
    """A tensor equal to `values`, or to one part of it expanded, that lies elsewhere in memory."""
    kind = one_of(draw, "plain", "offset", "transposed", "strided", "expanded", "lazy", "gradient")
    if values.dim() == 0 or values.numel() == 0:
        return values
    if kind == "offset":
        return torch.cat([values.new_zeros(3), values.flatten()])[3:].view(values.shape)
    if kind == "transposed":
        order = draw(st.permutations(range(values.dim())))
        inverse = [order.index(i) for i in range(values.dim())]
        return values.permute(order).contiguous().permute(inverse)
    if kind == "strided":
        return torch.stack([values, values], -1)[..., 1]
    if kind == "expanded":
        dim = draw(st.integers(0, values.dim() - 1))
        return values.narrow(dim, 0, 1).expand(values.shape)
    if kind == "lazy" and values.is_complex():
        return values.conj().resolve_conj().conj()
    if kind == "lazy" and values.is_floating_point():
        return torch._neg_view(-values)
    if kind == "gradient" and values.is_floating_point():
        return values.requires_grad_()
    return values


def random_tensor(draw: Draw, shape: list[int], dtype: torch.dtype, extreme: bool = False):
    if rarely(draw):
        dtype = one_of(draw, torch.int32, *DTYPES)
    if shape and rarely(draw):
        shape = [*shape[:-1], shape[-1] + 1]
    return a_view(draw, random_values(draw, shape, dtype, extreme))


def span(draw: Draw, count: int) -> tuple[int, int]:
    """0 <= first <= last <= count, or something else now and then."""
    if rarely(draw):
        return draw(st.integers(-2, count + 2)), draw(st.integers(-2, count + 2))
    first = draw(st.integers(0, count))
    return first, draw(st.integers(first, count))


# Arguments of each op


def path_points(draw: Draw) -> tuple:
    rows, dtype = draw_size(draw), one_of(draw, *DTYPES)
    shape = [rows, *draw_features(draw, rows)]
    input = random_tensor(draw, shape, dtype, extreme=True)
    baseline = random_tensor(draw, [one_of(draw, 1, rows), *shape[1:]], dtype, extreme=True)
    alphas = random_tensor(draw, [one_of(draw, 0, 1, 2, 5)], torch.float64)
    return input, baseline, alphas


def path_reduce(draw: Draw) -> tuple:
    rows, dtype = draw_size(draw), one_of(draw, *DTYPES)
    shape = [rows, *(draw_features(draw, rows) if rows or not rarely(draw) else [2**40])]
    steps = one_of(draw, 0, 1, 3, 4, 5, 9)
    wide = accumulation_dtype(dtype)
    acc = one_of(draw, None, random_tensor(draw, shape, wide))
    grads = random_tensor(draw, [steps, *shape], dtype)
    return acc, grads, random_tensor(draw, [steps], torch.float64)


def perturb(draw: Draw) -> tuple:
    rows, dtype = draw_size(draw), one_of(draw, *COPIED_DTYPES)
    shape = [rows, *draw_features(draw, rows)]
    backgrounds, coalitions, words = draw(st.tuples(*[st.integers(0, 4)] * 3))
    words = one_of(draw, words, 40)
    baseline = [one_of(draw, 1, rows), backgrounds, *shape[1:]]
    mask = random_ids(draw, [one_of(draw, 1, rows), *shape[1:]], 0, 64 * words).to(torch.int32)
    return (
        random_tensor(draw, shape, dtype, extreme=True),
        random_tensor(draw, baseline, dtype, extreme=True),
        a_view(draw, random_bits(draw, coalitions, words)),
        a_view(draw, mask),
        *span(draw, backgrounds * coalitions),
    )


def tables(draw: Draw, rows: int, features: int) -> tuple[Tensor, Tensor]:
    """Positions and offsets of groups, some of which overlap, are empty or run backwards."""
    entries, groups = draw_size(draw), one_of(draw, 0, 1, 2, 5)
    positions = random_ids(draw, [one_of(draw, 1, rows), entries], 0, features)
    offsets = random_ids(draw, [one_of(draw, 1, rows), groups + 1], 0, entries + 1)
    if draw(st.booleans()):
        offsets = offsets.sort(1)[0]
    return a_view(draw, positions), a_view(draw, offsets)


def ablate_one(draw: Draw) -> tuple:
    rows, dtype = draw_size(draw), one_of(draw, *COPIED_DTYPES)
    shape = [rows, *draw_features(draw, rows)]
    baselines = draw(st.integers(0, 3))
    positions, offsets = tables(draw, rows, math.prod(shape[1:]))
    groups = offsets.shape[1] - 1
    source = random_ids(draw, [one_of(draw, 1, groups), rows], 0, baselines)
    return (
        random_tensor(draw, shape, dtype, extreme=True),
        random_tensor(draw, [baselines, *shape[1:]], dtype, extreme=True),
        a_view(draw, source),
        positions,
        offsets,
        *span(draw, groups),
    )


def group_linear(draw: Draw) -> tuple:
    rows, dtype = draw_size(draw), one_of(draw, *DTYPES)
    outputs, features = draw_size(draw), one_of(draw, *SIZES, 1025)
    positions, offsets = tables(draw, rows, features)
    values = random_tensor(draw, [rows, positions.shape[1]], dtype)
    return values, positions, offsets, random_tensor(draw, [outputs, features], dtype)


def coalitions(draw: Draw) -> tuple:
    players = one_of(draw, 1, 2, 3, 20, 63, 64, 65, 130, 1000, 32767, 32768)
    players = one_of(draw, 0, 16777216) if rarely(draw) else players
    rows = draw_size(draw) if players < 1000 else one_of(draw, 0, 1, 2)
    few = players if players < 200 else 6
    sizes, ranks = [], []
    for _ in range(rows):
        size = draw(st.integers(-1, few))
        size = players - size if size >= 0 and draw(st.booleans()) else size
        count = math.comb(players, size) if size >= 0 else 2**63
        most = (count if count < 2**62 else 2**63) - 1
        ranks.append(one_of(draw, 0, most, draw(st.integers(0, most))))
        sizes.append(size)
    if rows and rarely(draw):
        sizes[-1] = one_of(draw, -2, players + 1, 2**63 - 1)
    if rows and rarely(draw):
        ranks[-1] = one_of(draw, -1, min(ranks[-1] * 2 + 1, 2**63 - 1), -(2**63))
    as_tensor = [
        a_view(draw, torch.tensor(numbers, dtype=torch.int64)) for numbers in (sizes, ranks)
    ]
    return players, *as_tensor, draw(SEEDS)


def coalition_gram(draw: Draw) -> tuple:
    players, rows = one_of(draw, 1, 7, 8, 9, 63, 64, 65, 130), one_of(draw, *SIZES, 300)
    bits = a_view(draw, random_bits(draw, rows, (players + 63) // 64))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    kinds = one_of(draw, 1, 3, 200)
    weights = torch.randn(kinds, generator=generator, dtype=torch.float64)
    if draw(st.booleans()):
        weights[0] = one_of(draw, 0.0, -0.0, 1e-300, 1e200)
    weights = weights[torch.randint(kinds, (rows,), generator=generator)]
    return bits, players, a_view(draw, weights)


def coalition_rhs(draw: Draw) -> tuple:
    players, rows = one_of(draw, 1, 7, 64, 65, 1000), one_of(draw, *SIZES, 1025, 2500)
    bits = a_view(draw, random_bits(draw, rows, (players + 63) // 64))
    weights = random_tensor(draw, [rows], torch.float64)
    values = random_tensor(draw, [rows, one_of(draw, 0, 1, 2, 4, 5, 17)], one_of(draw, *DTYPES))
    return bits, players, weights, values


def lasso(draw: Draw) -> tuple:
    problems, players, outputs = draw(st.tuples(*[st.integers(0, 3)] * 3))
    players = one_of(draw, players, 20)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    x = torch.randn(problems, 2 * players, players, generator=generator, dtype=torch.float64)
    if draw(st.booleans()):  # a player that changes nothing, and two that are the same
        x[..., :1] = 0
        x[..., -1:] = x[..., -2:-1] if players > 1 else 0
    y = torch.randn(problems, 2 * players, outputs, generator=generator, dtype=torch.float64)
    gram = x.mT @ x / max(2 * players, 1)
    alpha = one_of(draw, 0.0, 0.05, 1.0, math.inf, -1.0)
    sweeps = draw(st.integers(0, 30))
    return a_view(draw, gram), a_view(draw, x.mT @ y), alpha, one_of(draw, 0.0, 1e-12), sweeps


def noisy(draw: Draw) -> tuple:
    rows, dtype = one_of(draw, 0, 1, 2, 3, 17), one_of(draw, *DTYPES)
    shape = [rows, *draw_features(draw, rows * 4)]
    baselines = one_of(draw, None, 0, 1, 2, 3, 20)
    samples = one_of(draw, 0, 1, 2, 9, 1000, 2**31 - 1)
    first = one_of(draw, 0, samples // 2, max(samples - 2, 0))
    return (
        random_tensor(draw, shape, dtype),
        None if baselines is None else random_tensor(draw, [baselines, *shape[1:]], dtype),
        one_of(draw, 0.0, 0.3, 1e-300, 1e300, math.inf, math.nan, -1.0),
        draw(SEEDS),
        one_of(draw, 0, 1, 65535, 65536),
        samples,
        one_of(draw, 0, 5, 2**32 - 1, 2**62, 2**63 - 1, -1),
        *((first, min(samples, first + 3)) if not rarely(draw) else (3, 1)),
    )


def noisy_points(draw: Draw) -> tuple:
    return *noisy(draw), one_of(draw, None, None, 0.0, 1.0, 0.3, math.nan)


def noisy_reduce(draw: Draw) -> tuple:
    arguments = noisy(draw)
    input, (first, last) = arguments[0], arguments[-2:]
    wide = accumulation_dtype(input.dtype)
    acc = one_of(draw, None, random_tensor(draw, list(input.shape), wide))
    shape = [max(0, last - first), *input.shape]
    return acc, random_tensor(draw, shape, input.dtype), *arguments


# Comparisons


def exactly(arguments: tuple, expected: Tensor) -> Tensor | float:
    return 0.0


def magnitudes(*arguments):
    """The same arguments without signs, in float64, and 0 where they are not finite."""
    return [
        torch.nan_to_num(a.detach().double().abs(), 0, 0, 0)
        if isinstance(a, Tensor) and a.is_floating_point()
        else a
        for a in arguments
    ]


def sums(op: str) -> Callable:
    """Sums of many terms: as far apart as rounding may bring them, by the sum of magnitudes."""

    def allowed(arguments: tuple, expected: Tensor) -> Tensor:
        scale = getattr(reference, op)(*magnitudes(*arguments))
        terms = sum(a.numel() for a in arguments if isinstance(a, Tensor)) ** 0.5 + 8
        wide = torch.finfo(accumulation_dtype(expected.dtype))
        narrow = torch.finfo(expected.dtype)
        rounding = narrow.eps * expected.double().abs() + narrow.smallest_normal
        return terms * wide.eps * scale + rounding

    return allowed


def noisy_sums(arguments: tuple, expected: Tensor) -> Tensor:
    acc, grads, input, baseline, stdev, *_ = arguments
    acc, grads, input, baseline = magnitudes(acc, grads, input, baseline)
    if math.isinf(stdev) or stdev > 1e30:
        return torch.full_like(expected, math.inf)
    length = input + 7 * stdev + (baseline.amax(0) if baseline is not None and len(baseline) else 0)
    total = (length * grads).sum(0) + (0 if acc is None else acc)
    return 32 * torch.finfo(expected.dtype).eps * (total + 1e-30)


def coefficients(arguments: tuple, expected: Tensor) -> Tensor | float:
    return 1e-6


OPS = {
    "ablate_one": (ablate_one, exactly),
    "coalition_gram": (coalition_gram, sums("coalition_gram")),
    "coalition_rhs": (coalition_rhs, sums("coalition_rhs")),
    "coalitions": (coalitions, exactly),
    "group_linear": (group_linear, sums("group_linear")),
    "lasso": (lasso, coefficients),
    "noisy_points": (noisy_points, exactly),
    "noisy_reduce": (noisy_reduce, noisy_sums),
    "path_points": (path_points, exactly),
    "path_reduce": (path_reduce, sums("path_reduce")),
    "perturb": (perturb, exactly),
}


def outcome(op: Callable, arguments: tuple) -> Tensor | str:
    try:
        return op(*arguments)
    except RuntimeError as error:
        return str(error)


def compare(op: str, arguments: tuple) -> None:
    native = outcome(getattr(need_native("cpu"), op), arguments)
    expected = outcome(getattr(reference, op), arguments)
    if isinstance(expected, str) or isinstance(native, str):
        assert native == expected
        return
    assert native.dtype == expected.dtype
    assert native.shape == expected.shape
    assert native.is_contiguous()
    native, expected = native.detach(), expected.detach()
    if not native.dtype.is_floating_point:
        assert torch.equal(native.resolve_conj(), expected.resolve_conj())
        return
    apart = (native.double() - expected.double()).abs()
    same = (native == expected) | (native.isnan() & expected.isnan())
    allowed = OPS[op][1](arguments, expected)
    assert (same | (apart <= allowed)).all(), (apart, allowed)


def fuzz(op: str, examples: int, repeatable: bool) -> None:
    @settings(
        max_examples=examples,
        derandomize=repeatable,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def run(data: st.DataObject) -> None:
        compare(op, OPS[op][0](data.draw))

    run()


@pytest.mark.parametrize("op", OPS)
def test_equals_reference(op):
    need_native("cpu")
    fuzz(op, 30, repeatable=True)


@pytest.mark.slow
@pytest.mark.parametrize("op", OPS)
def test_equals_reference_on_many(op):
    need_native("cpu")
    fuzz(op, 1000, repeatable=False)
