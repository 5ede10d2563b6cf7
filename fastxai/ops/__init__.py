"""One typed function for every kernel.

Each calls the native library where one was built, else its twin in :mod:`.reference`. Both check
their arguments and raise :class:`RuntimeError` that names the argument, what was expected and what
came.
"""

from torch import Tensor

from fastxai.ops import native

__all__ = ["path_points", "path_reduce"]


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
    return native.backend().path_points(input, baseline, alphas)


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
    return native.backend().path_reduce(acc, grads, weights)
