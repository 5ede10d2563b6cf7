"""One typed function for every kernel.

Each calls the native library where one was built, else its twin in :mod:`.reference`. Both check
their arguments and raise :class:`RuntimeError` that names the argument, what was expected and what
came. For ``torch.compile`` each is one operation, of ``torch.ops.fastxai``, which is empty before
the first call.
"""

import torch
from torch import Tensor

from . import native

__all__ = [
    "ablate_one",
    "coalition_gram",
    "coalition_rhs",
    "coalitions",
    "group_linear",
    "lasso",
    "noisy_points",
    "noisy_reduce",
    "path_points",
    "path_reduce",
    "perturb",
]


def _backend() -> native.Backend:
    """The compiled library or the reference; what torch.compile takes where it traces."""
    if torch.compiler.is_dynamo_compiling():
        from . import traced

        return traced.ops
    return native.backend()


def path_points(
    input: Tensor,  # [B, *F]
    baseline: Tensor,  # [B, *F] or [1, *F]
    alphas: Tensor,  # [S] float64
) -> Tensor:  # [S, B, *F]
    """Points on the straight path from ``baseline`` to ``input``.

    ``points[s] = baseline + alphas[s] * (input - baseline)``, computed in float32 (float64 for
    float64) and rounded once. Differentiable in all three arguments; its adjoint in ``input`` is
    :func:`path_reduce`.

    Args:
        input: where the path ends; float16, bfloat16, float32 or float64.
        baseline: where it starts, one for each row or one for all, in ``input``'s dtype.
        alphas: positions on the path, 0 at the baseline and 1 at the input.

    Returns:
        A new contiguous tensor in ``input``'s dtype.

    Raises:
        RuntimeError: an argument has the wrong dtype, shape or device.
        fastxai.ops.native.LibraryLoadError: a library was built but cannot be loaded here.
    """
    return _backend().path_points(input, baseline, alphas)


def path_reduce(
    acc: Tensor | None,  # [B, *F]
    grads: Tensor,  # [S, B, *F]
    weights: Tensor,  # [S] float64
) -> Tensor:  # [B, *F]
    """The weighted sum of gradients along a path, added to ``acc``.

    ``acc + sum_s weights[s] * grads[s]``, kept in float32 (float64 for float64 ``grads``). The
    CPU kernel adds step after step, so the sum does not depend on how the steps were cut into
    chunks, to the last bit.

    Args:
        acc: the sum so far, float32 (float64 for float64 ``grads``), or None for zero.
        grads: gradients at each point; float16, bfloat16, float32 or float64, of any strides.
        weights: the quadrature weight of each step.

    Returns:
        A new contiguous tensor in ``acc``'s dtype.

    Raises:
        RuntimeError: an argument has the wrong dtype, shape or device.
        fastxai.ops.native.LibraryLoadError: a library was built but cannot be loaded here.
    """
    return _backend().path_reduce(acc, grads, weights)


def perturb(
    input: Tensor,  # [B, *F]
    baseline: Tensor,  # [B, K, *F] or [1, K, *F]
    bits: Tensor,  # [N, W] int64
    mask: Tensor,  # [B, *F] or [1, *F] int32
    first: int,
    last: int,
) -> Tensor:  # [last - first, B, *F]
    """Rows in which the players of a coalition keep their values and all others are replaced.

    Row ``r = n * K + k`` stands for coalition ``n`` and background row ``k``: feature ``f`` of
    example ``b`` is ``input[b, f]`` where player ``mask[b, f]`` is in the coalition, else
    ``baseline[b, k, f]``. Values are copied, so every bit of them is kept, NaNs included. Not
    differentiable: the rows never require a gradient.

    Args:
        input: the examples, of any dtype.
        baseline: K background rows for each example or for all, in ``input``'s dtype.
        bits: N coalitions. Bit ``j`` (of 64, the lowest is 0) of word ``w`` is player
            ``64 * w + j``.
        mask: the player that each feature belongs to, for each example or for all; ids from 0 to
            ``64 * W - 1``.
        first: the first row to write.
        last: where to stop, ``0 <= first <= last <= N * K``.

    Returns:
        Rows ``first`` to ``last - 1``, a new contiguous tensor in ``input``'s dtype.

    Raises:
        RuntimeError: an argument has the wrong dtype, shape, device or value. The CUDA kernel does
            not look for ids out of range: their features get the baseline.
        fastxai.ops.native.LibraryLoadError: a library was built but cannot be loaded here.
    """
    return _backend().perturb(input, baseline, bits, mask, first, last)


def ablate_one(
    input: Tensor,  # [B, *F]
    baseline: Tensor,  # [R, *F]
    source: Tensor,  # [G, B] or [1, B] int64
    positions: Tensor,  # [B, P] or [1, P] int64
    offsets: Tensor,  # [B, G + 1] or [1, G + 1] int64
    first: int,
    last: int,
) -> Tensor:  # [last - first, B, *F]
    """Rows in which one group of features is replaced, group after group.

    Row ``g`` is the input, but for the features of group ``g``: example ``b`` has row
    ``source[g, b]`` of ``baseline`` there. They are the flat positions
    ``positions[b, offsets[b, g] : offsets[b, g + 1]]`` in an example. Groups may overlap
    (sliding windows), and a baseline may be another example (permutation of a feature within the
    batch). Values are copied, so every bit of them is kept. Not differentiable: the rows never
    require a gradient.

    Args:
        input: the examples, of any dtype.
        baseline: rows to take the replacements from, in ``input``'s dtype.
        source: the row of ``baseline`` for each example, in each group or in all.
        positions: the features of all groups, one group after the other, for each example or for
            all.
        offsets: where each group begins in ``positions``, and where the last one ends, for each
            example or for all. A group whose end is not after its beginning is empty.
        first: the first group.
        last: where to stop, ``0 <= first <= last <= G``.

    Returns:
        Rows ``first`` to ``last - 1``, a new contiguous tensor in ``input``'s dtype.

    Raises:
        RuntimeError: an argument has the wrong dtype, shape, device or value; values are looked at
            where they are used. The CUDA kernel does not look for values out of range: it leaves
            their features as they are.
        fastxai.ops.native.LibraryLoadError: a library was built but cannot be loaded here.
    """
    return _backend().ablate_one(input, baseline, source, positions, offsets, first, last)


def group_linear(
    values: Tensor,  # [B, P]
    positions: Tensor,  # [B, P] or [1, P] int64
    offsets: Tensor,  # [B, G + 1] or [1, G + 1] int64
    weight: Tensor,  # [H, F]
) -> Tensor:  # [G, B, H]
    """A linear layer of rows that are zero but in one group of features, group after group.

    ``out[g, b]`` is ``weight @ row`` for the row [F] that has ``values[b, i]`` at position
    ``positions[b, i]``, for ``i`` from ``offsets[b, g]`` to ``offsets[b, g + 1] - 1``, and zeros
    elsewhere: the sum of ``values[b, i] * weight[:, positions[b, i]]``. Groups may overlap, and a
    position may be named twice: its values add up. Columns of ``weight`` that are not named are
    not read, whatever they hold. No row is made, and the cost does not grow with the number of
    groups where they share out the features.

    Sums are kept in float32 (float64 for float64 ``values``) and rounded once. On CPU they do not
    depend on the number of threads, to the last bit. Not differentiable: the result never requires
    a gradient.

    Args:
        values: what stands at the positions; float16, bfloat16, float32 or float64.
        positions: the features of all groups, one group after the other, for each example or for
            all; from 0 to F - 1.
        offsets: where each group begins in ``positions``, and where the last one ends, for each
            example or for all. A group whose end is not after its beginning is empty: zeros.
        weight: the layer's weight, in ``values``' dtype, as ``torch.nn.Linear`` keeps it.

    Returns:
        A new contiguous tensor in ``values``' dtype.

    Raises:
        RuntimeError: an argument has the wrong dtype, shape, device or value; positions are looked
            at where they are used. The CUDA kernel does not look for values out of range: it
            leaves out what they name.
        fastxai.ops.native.LibraryLoadError: a library was built but cannot be loaded here.
    """
    return _backend().group_linear(values, positions, offsets, weight)


def coalitions(
    players: int,  # M
    sizes: Tensor,  # [N] int64
    ranks: Tensor,  # [N] int64
    seed: int,
) -> Tensor:  # [N, W] int64
    """Random coalitions of given sizes, without replacement.

    Row ``n`` is subset number ``ranks[n]``, in an order that the seed sets, of all subsets of
    ``sizes[n]`` players: rows of one size and different ranks below C(M, size) are different
    subsets, and each is any of them with the same probability over the seeds. A row is a function
    of its size, its rank, the players and the seed alone, the same on every device.

    Where C(M, size) is at least 2**62, ranks name independent draws instead, which repeat about
    as often as never; so they do for size -1, where every player is in the coalition or not by a
    fair coin.

    The orders are Feistel networks with cycle walking (Black and Rogaway, 2002) on numbers of
    subsets in colexicographic order; the draws are Floyd's (Bentley and Floyd, 1987); all random
    bits come from Philox4x32-10 (Salmon et al., 2011).

    Args:
        players: how many players there are, 1 to 16777216.
        sizes: the number of players in each row, 0 to ``players``, or -1 for fair coins.
        ranks: which subset of that size, from 0 to C(M, size) - 1.
        seed: any int64.

    Returns:
        W = ceil(M / 64) words for each row. Bit ``j`` (of 64, the lowest is 0) of word ``w`` is
        player ``64 * w + j``; bits beyond the last player are 0.

    Raises:
        RuntimeError: an argument has the wrong dtype, shape, device or value. On CUDA values are
            not looked at: sizes out of range count as the nearest, ranks modulo C(M, size).
        fastxai.ops.native.LibraryLoadError: a library was built but cannot be loaded here.
    """
    return _backend().coalitions(players, sizes, ranks, seed)


def coalition_gram(
    bits: Tensor,  # [N, W] int64
    players: int,  # M
    weights: Tensor,  # [N] float64
) -> Tensor:  # [M, M] float64
    """The weighted Gram matrix of coalitions: how much weight each pair of players shares.

    ``gram[i, j]`` is the sum of the weights of the rows that hold both ``i`` and ``j``. Rows of
    equal weight are counted together as whole numbers, and weights are added in rising order: on
    CPU the result does not depend on the order of the rows or the number of threads, to the last
    bit. Not differentiable.

    Args:
        bits: N coalitions, as :func:`coalitions` packs them.
        players: how many players there are, 1 to 16777216; bits beyond them are ignored.
        weights: the weight of each row, finite. Few different weights are fastest.

    Returns:
        A new symmetric matrix.

    Raises:
        RuntimeError: an argument has the wrong dtype, shape, device or value.
        fastxai.ops.native.LibraryLoadError: a library was built but cannot be loaded here.
    """
    return _backend().coalition_gram(bits, players, weights)


def coalition_rhs(
    bits: Tensor,  # [N, W] int64
    players: int,  # M
    weights: Tensor,  # [N] float64
    values: Tensor,  # [N, C]
) -> Tensor:  # [M, C] float64
    """The weighted sum of the values of the coalitions that each player is in.

    ``rhs[j, c]`` is the sum over the rows that hold ``j`` of ``weights[n] * values[n, c]``, in
    float64. Rows are added in blocks that depend on the shapes alone, so that the number of threads
    changes nothing. Not differentiable.

    Args:
        bits: N coalitions, as :func:`coalitions` packs them.
        players: how many players there are, 1 to 16777216; bits beyond them are ignored.
        weights: the weight of each row.
        values: what the model said for each row, C numbers; float16, bfloat16, float32 or float64.

    Returns:
        A new contiguous tensor.

    Raises:
        RuntimeError: an argument has the wrong dtype, shape, device or value.
        fastxai.ops.native.LibraryLoadError: a library was built but cannot be loaded here.
    """
    return _backend().coalition_rhs(bits, players, weights, values)


def lasso(
    gram: Tensor,  # [P, M, M] float64
    rhs: Tensor,  # [P, M, C] float64
    alpha: float,
    tolerance: float = 1e-10,
    max_sweeps: int = 10_000,
) -> Tensor:  # [P, M, C] float64
    """Least squares with an L1 penalty, from the normal equations.

    Minimises ``b @ gram @ b / 2 - b @ rhs + alpha * abs(b).sum()`` over the coefficients ``b`` of
    each problem and output. With ``gram = X.T @ X / n`` and ``rhs = X.T @ y / n`` of centred
    columns this is scikit-learn's ``Lasso(alpha)``. Not differentiable.

    Cyclic coordinate descent on the Gram matrix (Friedman, Hastie and Tibshirani, "Regularization
    paths for generalized linear models via coordinate descent", 2010), from zero.

    Args:
        gram: a symmetric positive semidefinite matrix for each problem.
        rhs: the right-hand sides of each problem's C outputs.
        alpha: the penalty, at least 0.
        tolerance: when to stop: no coefficient moved by more than this share of its scale in a
            sweep. In units where ``gram`` has a unit diagonal, the scale is the largest ``rhs``.
        max_sweeps: when to stop at the latest.

    Returns:
        A new contiguous tensor. Where a diagonal entry of ``gram`` is not positive, the
        coefficient is 0.

    Raises:
        RuntimeError: an argument has the wrong dtype, shape, device or value.
        fastxai.ops.native.LibraryLoadError: a library was built but cannot be loaded here.
    """
    return _backend().lasso(gram, rhs, alpha, tolerance, max_sweeps)


def noisy_points(
    input: Tensor,  # [B, *F]
    baseline: Tensor | None,  # [K, *F]
    stdev: float,
    seed: int,
    stream: int,
    samples: int,  # N
    example: int,
    first: int,
    last: int,
    position: float | None = None,
) -> Tensor:  # [last - first, B, *F]
    """Noisy inputs, or random points on the paths to them from baselines drawn at random.

    Sample n of an example is ``start + alpha * (input + stdev * noise - start)``, or without
    ``baseline`` just ``input + stdev * noise``. The noise is standard normal, ``alpha`` uniform
    between 0 and 1, and ``start`` a row of ``baseline``, each as likely: all a function of (seed,
    sample, example) alone, whatever the number of threads, the device or the block. For the
    samples of an example, baselines come in turn and positions are stratified, over all samples
    and over those of each baseline; every single sample is uniform all the same.

    Args:
        input: the examples; float16, bfloat16, float32 or float64.
        baseline: where paths may start, in ``input``'s dtype.
        stdev: of the noise, whose normals are of float32 precision.
        seed: any int64.
        stream: noise of different streams is independent, for the tensors of a tuple; baselines
            and positions are the same, where they have as many baselines.
        samples: how many there are of an example in all.
        example: the number of ``input``'s first row among all examples.
        first: the first sample wanted.
        last: one beyond the last sample wanted.
        position: the ``alpha`` of all rows, instead of a random one.

    Returns:
        A new contiguous tensor in ``input``'s dtype. No gradient is recorded.

    Raises:
        RuntimeError: an argument has the wrong dtype, shape, device or range.
        fastxai.ops.native.LibraryLoadError: a library was built but cannot be loaded here.
    """
    return _backend().noisy_points(
        input, baseline, stdev, seed, stream, samples, example, first, last, position
    )


def noisy_reduce(
    acc: Tensor | None,  # [B, *F]
    grads: Tensor,  # [last - first, B, *F]
    input: Tensor,  # [B, *F]
    baseline: Tensor | None,  # [K, *F]
    stdev: float,
    seed: int,
    stream: int,
    samples: int,  # N
    example: int,
    first: int,
    last: int,
) -> Tensor:  # [B, *F]
    """Gradients at :func:`noisy_points` times the lengths of their paths, added up.

    ``acc + sum_n (input + stdev * noise - start) * grads[n]``, with the noise and the start that
    noisy_points draws for the same arguments, drawn anew; kept in float32 (float64 for float64).
    The CPU kernel adds sample after sample, so that blocks change no bit.

    Args:
        acc: the sum so far, float32 (float64 for float64 ``input``), or None for zero.
        grads: gradients at samples first to last - 1, in ``input``'s dtype, of any strides.
        input: as for noisy_points, and so all others.

    Returns:
        A new contiguous tensor in ``acc``'s dtype. No gradient is recorded.

    Raises:
        RuntimeError: an argument has the wrong dtype, shape, device or range.
        fastxai.ops.native.LibraryLoadError: a library was built but cannot be loaded here.
    """
    return _backend().noisy_reduce(
        acc, grads, input, baseline, stdev, seed, stream, samples, example, first, last
    )
