"""What the native ops need beside their kernels: other devices, fake tensors, gradients, vmap.

path_points and path_reduce are each other's adjoints, so their gradients are themselves, and so to
any order. torch.autograd and torch.vmap go through them; torch.func.grad does not, for want of
support in torch.library.register_autograd. No other op has a gradient.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from . import checks, reference

NAMES = (
    "path_points",
    "path_reduce",
    "perturb",
    "ablate_one",
    "group_linear",
    "noisy_points",
    "noisy_reduce",
    "coalitions",
    "coalition_gram",
    "coalition_rhs",
    "lasso",
)

# Results that never require a gradient. A Library takes its kernels along when it goes.
_without_gradients = torch.library.Library("fastxai", "IMPL", "Autograd")


def register() -> None:
    """Registers with the loaded library; to be called once."""
    points, reduce = "fastxai::path_points", "fastxai::path_reduce"
    torch.library.register_fake(points, _fake_path_points)
    torch.library.register_fake(reduce, _fake_path_reduce)
    torch.library.register_autograd(
        points, _path_points_backward, setup_context=_path_points_context
    )
    torch.library.register_autograd(
        reduce, _path_reduce_backward, setup_context=_path_reduce_context
    )
    torch.library.register_vmap(points, _vmap_path_points)
    torch.library.register_vmap(reduce, _vmap_path_reduce)
    # Devices that the library has no kernels for, CUDA among them if it was built without nvcc.
    torch.library.impl(points, "default", reference.path_points)
    torch.library.impl(reduce, "default", reference.path_reduce)
    fakes: dict[str, Callable[..., Tensor]] = {
        "coalitions": _fake_coalitions,
        "coalition_gram": _fake_coalition_gram,
        "coalition_rhs": _fake_coalition_rhs,
        "lasso": _fake_lasso,
        "perturb": _fake_perturb,
        "ablate_one": _fake_ablate_one,
        "group_linear": _fake_group_linear,
        "noisy_points": _fake_noisy_points,
        "noisy_reduce": _fake_noisy_reduce,
    }
    for name, fake in fakes.items():
        torch.library.register_fake(f"fastxai::{name}", fake)
        _without_gradients.impl(name, torch.library.fallthrough_kernel)
        torch.library.impl(f"fastxai::{name}", "default", getattr(reference, name))


def overloads() -> Any:
    """The ops of the loaded library, as torch calls them."""
    return SimpleNamespace(**{name: getattr(torch.ops.fastxai, name).default for name in NAMES})


def _fake_path_points(input: Tensor, baseline: Tensor, alphas: Tensor) -> Tensor:
    checks.check_path_points(input, baseline, alphas)
    return input.new_empty([alphas.shape[0], *input.shape])


def _fake_path_reduce(acc: Tensor | None, grads: Tensor, weights: Tensor) -> Tensor:
    checks.check_path_reduce(acc, grads, weights)
    return grads.new_empty(grads.shape[1:], dtype=checks.accumulation_dtype(grads.dtype))


def _fake_coalitions(players: int, sizes: Tensor, ranks: Tensor, seed: int) -> Tensor:
    checks.check_coalitions(players, sizes, ranks)
    return sizes.new_empty([sizes.shape[0], checks.coalition_words(players)])


def _fake_coalition_gram(bits: Tensor, players: int, weights: Tensor) -> Tensor:
    checks.check_coalition_gram(bits, players, weights)
    return weights.new_empty([players, players])


def _fake_coalition_rhs(bits: Tensor, players: int, weights: Tensor, values: Tensor) -> Tensor:
    checks.check_coalition_rhs(bits, players, weights, values)
    return weights.new_empty([players, values.shape[1]])


def _fake_lasso(
    gram: Tensor, rhs: Tensor, alpha: float, tolerance: float, max_sweeps: int
) -> Tensor:
    checks.check_lasso(gram, rhs, alpha, tolerance, max_sweeps)
    return rhs.new_empty(rhs.shape)


def _fake_perturb(
    input: Tensor, baseline: Tensor, bits: Tensor, mask: Tensor, first: int, last: int
) -> Tensor:
    checks.check_perturb(input, baseline, bits, mask, first, last)
    return input.new_empty([last - first, *input.shape])


def _fake_ablate_one(
    input: Tensor,
    baseline: Tensor,
    source: Tensor,
    positions: Tensor,
    offsets: Tensor,
    first: int,
    last: int,
) -> Tensor:
    checks.check_ablate_one(input, baseline, source, positions, offsets, first, last)
    return input.new_empty([last - first, *input.shape])


def _fake_group_linear(
    values: Tensor, positions: Tensor, offsets: Tensor, weight: Tensor
) -> Tensor:
    checks.check_group_linear(values, positions, offsets, weight)
    return values.new_empty([offsets.shape[1] - 1, values.shape[0], weight.shape[0]])


def _fake_noisy_points(
    input: Tensor,
    baseline: Tensor | None,
    stdev: float,
    seed: int,
    stream: int,
    samples: int,
    example: int,
    first: int,
    last: int,
    position: float | None,
) -> Tensor:
    places = (stream, samples, example, first, last)
    checks.check_noisy("noisy_points", input, baseline, stdev, *places)
    return input.new_empty([last - first, *input.shape])


def _fake_noisy_reduce(
    acc: Tensor | None,
    grads: Tensor,
    input: Tensor,
    baseline: Tensor | None,
    stdev: float,
    seed: int,
    stream: int,
    samples: int,
    example: int,
    first: int,
    last: int,
) -> Tensor:
    places = (stream, samples, example, first, last)
    checks.check_noisy_reduce(acc, grads, input, baseline, stdev, *places)
    return input.new_empty(input.shape, dtype=checks.accumulation_dtype(input.dtype))


def _path_points_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _path_points_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    input, baseline, alphas = ctx.saved_tensors
    need_input, need_baseline, need_alphas = ctx.needs_input_grad
    grad_input = grad_baseline = grad_alphas = None
    path_reduce = torch.ops.fastxai.path_reduce
    if need_input:
        grad_input = path_reduce(None, grad, alphas).to(input.dtype)
    if need_baseline:
        grad_baseline = path_reduce(None, grad, 1 - alphas)
        if baseline.shape != input.shape:
            grad_baseline = grad_baseline.sum(0, keepdim=True)
        grad_baseline = grad_baseline.to(baseline.dtype)
    if need_alphas:
        dtype = checks.accumulation_dtype(input.dtype)
        difference = input.to(dtype) - baseline.to(dtype)
        grad_alphas = (grad.to(dtype) * difference).flatten(1).sum(1).to(alphas.dtype)
    return grad_input, grad_baseline, grad_alphas


def _path_reduce_context(
    ctx: Any, inputs: tuple[Tensor | None, Tensor, Tensor], output: Tensor
) -> None:
    ctx.save_for_backward(*inputs[1:])


def _path_reduce_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    grads, weights = ctx.saved_tensors
    need_acc, need_grads, need_weights = ctx.needs_input_grad
    grad_grads = grad_weights = None
    if need_grads:
        origin = torch.zeros_like(grad[:1])
        grad_grads = torch.ops.fastxai.path_points(grad, origin, weights).to(grads.dtype)
    if need_weights:
        grad_weights = (grads.to(grad.dtype) * grad).flatten(1).sum(1).to(weights.dtype)
    return grad if need_acc else None, grad_grads, grad_weights


def _vmap_path_points(
    info: Any, in_dims: tuple[int | None, ...], input: Tensor, baseline: Tensor, alphas: Tensor
) -> tuple[Tensor, int]:
    in_input, in_baseline, in_alphas = in_dims
    path_points = torch.ops.fastxai.path_points
    if in_alphas is not None:
        return _one_by_one(path_points, info, in_dims, (input, baseline, alphas))
    input = _to_front(input, in_input, info.batch_size)
    baseline = _to_front(baseline, in_baseline, info.batch_size).expand_as(input)
    points = path_points(input.flatten(0, 1), baseline.flatten(0, 1), alphas)
    return points.unflatten(1, input.shape[:2]), 1


def _vmap_path_reduce(
    info: Any, in_dims: tuple[int | None, ...], acc: Tensor | None, grads: Tensor, weights: Tensor
) -> tuple[Tensor, int]:
    in_acc, in_grads, in_weights = in_dims
    path_reduce = torch.ops.fastxai.path_reduce
    if in_weights is not None:
        return _one_by_one(path_reduce, info, in_dims, (acc, grads, weights))
    grads = _to_front(grads, in_grads, info.batch_size).transpose(0, 1)
    if acc is not None:
        acc = _to_front(acc, in_acc, info.batch_size).flatten(0, 1)
    return path_reduce(acc, grads.flatten(1, 2), weights).unflatten(0, grads.shape[1:3]), 0


def _to_front(tensor: Tensor, in_dim: int | None, size: int) -> Tensor:
    if in_dim is None:
        return tensor.expand(size, *tensor.shape)
    return tensor.movedim(in_dim, 0)


def _one_by_one(
    op: Any, info: Any, in_dims: tuple[int | None, ...], args: tuple[Tensor | None, ...]
) -> tuple[Tensor, int]:
    """Steps that differ from sample to sample leave nothing to share."""

    def pick(arg: Tensor | None, in_dim: int | None, index: int) -> Tensor | None:
        return arg if arg is None or in_dim is None else arg.select(in_dim, index)

    samples = [
        op(*(pick(arg, in_dim, index) for arg, in_dim in zip(args, in_dims, strict=True)))
        for index in range(info.batch_size)
    ]
    return torch.stack(samples), 0
