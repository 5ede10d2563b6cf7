"""What the user's functions are called with, and what they give back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..core.checks import check, check_count, check_dense, check_limit, name_of, short_list, warn


def for_function(tensors: tuple[Any, ...]) -> Any:
    """A tuple as a perturb_func takes it: what is alone comes by itself, as in Captum."""
    return tensors[0] if len(tensors) == 1 else tensors


def interleaved(x: Tensor, repeats: int) -> Tensor:  # [B, *F] -> [B * r, *F]
    """The repeats of each example together, which is what a perturb_func sees."""
    return x.repeat_interleave(repeats, dim=0)


def by_repeat(rows: tuple[Tensor, ...], batch: int) -> tuple[Tensor, ...]:
    """Interleaved rows [B * r, *F_i] in the engine's order [r * B, *F_i], in new memory."""
    return tuple(
        x.unflatten(0, (batch, -1))
        .transpose(0, 1)
        .clone(memory_format=torch.contiguous_format)
        .flatten(0, 1)
        for x in rows
    )


def check_perturbed(found: Any, originals: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What a perturb_func made of the originals, in their shapes and floating-point dtypes."""
    rows = found if isinstance(found, tuple) else (found,)
    check_each(rows, originals, "perturb_func", "it to return perturbed inputs", one_row=False)
    pairs = zip(rows, originals, strict=True)
    return tuple(row.to(x.dtype) if x.is_floating_point() else row for row, x in pairs)


def check_each(
    tensors: tuple[Any, ...], like: tuple[Tensor, ...], argument: str, what: str, one_row: bool
) -> None:
    """Checks that these are tensors of the shapes of others; one row may stand for all."""
    wanted = len(like)
    check(
        len(tensors) == wanted,
        argument,
        "{}, one for each of {} inputs",
        len(tensors),
        what,
        wanted,
    )
    for i, (tensor, x) in enumerate(zip(tensors, like, strict=True)):
        name = name_of(argument, i, wanted > 1)
        is_tensor = isinstance(tensor, Tensor)
        check(is_tensor, name, "{}, as tensors", type(tensor).__name__, what)
        check_dense(tensor, name)
        fits = tensor.shape == x.shape or (one_row and tensor.shape == (1, *x.shape[1:]))
        check(fits, name, "{} of shape {}", tensor.shape, what, tuple(x.shape))
        same = tensor.device == x.device
        check(same, name, "{} on the input's device, {}", tensor.device, what, x.device)


def warn_unless_finite(scores: Tensor, metric: str, of: str) -> None:  # [B]
    """That there is no score for some rows."""
    # Only where looking is free: on an accelerator it would make the call wait for the device.
    if scores.device.type != "cpu" or scores.isfinite().all():
        return
    rows = (~scores.isfinite()).nonzero()[:, 0].tolist()
    warn(
        f"{metric}: NaN or infinite for rows {short_list(rows)}, as {of} are; other rows are not "
        "affected"
    )


def check_sizes(n_perturb_samples: Any, max_examples_per_batch: Any) -> tuple[int, int | None]:
    """How many perturbations of each example, and how many rows in a call at most."""
    count = check_count(n_perturb_samples, "n_perturb_samples")
    return count, check_limit(max_examples_per_batch, argument="max_examples_per_batch")
