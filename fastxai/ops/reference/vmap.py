"""What torch.vmap needs."""

from typing import Any

import torch
from torch import Tensor


def to_front(tensor: Tensor, in_dim: int | None, size: int) -> Tensor:
    if in_dim is None:
        return tensor.expand(size, *tensor.shape)
    return tensor.movedim(in_dim, 0)


def one_by_one(
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
