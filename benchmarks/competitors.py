"""Ways to integrate gradients: the model alone, Captum, and fastxai with and without kernels."""

from __future__ import annotations

from importlib.util import find_spec
from unittest import mock

import torch
from interleave import Competitor, fastest_chunk
from torch import Tensor, nn

import fastxai
from fastxai.ops import native, reference


def chunk_sizes(batch: int, n_steps: int) -> dict[int, int]:
    """Number of equal chunks -> rows in each; a chunk holds whole steps, as Captum's do."""
    return {count: batch * -(-n_steps // count) for count in (1, 2, 3, 5, 10, 25, 50)}


class Bare:
    """The yardstick: the model's own forward and backward pass over the rows of a path."""

    def __init__(self, model: nn.Module, inputs: Tensor, target: Tensor, n_steps: int) -> None:
        alphas = torch.linspace(0, 1, n_steps, device=inputs.device)
        alphas = alphas.view(-1, *[1] * inputs.ndim)
        self.model = model
        self.rows = (alphas * inputs).flatten(0, 1)  # [S * B, *F]
        self.target = target.repeat(n_steps)  # [S * B]

    def __call__(self, chunk: int) -> None:
        for rows, target in zip(self.rows.split(chunk), self.target.split(chunk), strict=True):
            rows = rows.detach().requires_grad_()
            output = self.model(rows).gather(1, target[:, None]).sum()
            torch.autograd.grad(output, rows)


def is_native() -> bool:
    """Whether the compiled library is in use in this process."""
    return native.backend() is not reference


def fastxai_name() -> str:
    """The competitor that is fastxai as it runs here."""
    return "fastxai native" if is_native() else "fastxai fallback"


def integrated_gradients(
    model: nn.Module, inputs: Tensor, target: Tensor, n_steps: int = 50
) -> list[Competitor]:
    """Everyone who can run here, the best chunks searched for: bare first, fastxai last."""
    chunks = set(chunk_sizes(len(inputs), n_steps).values())
    bare = Bare(model, inputs, target, n_steps)
    best = fastest_chunk(lambda chunk: lambda: bare(chunk), chunks)
    competitors = [Competitor("bare", lambda: bare(best))]
    if find_spec("captum"):
        competitors += captum_integrated_gradients(model, inputs, target, n_steps, chunks)
    ours = fastxai.IntegratedGradients(model)

    def explain() -> Tensor:
        return ours.attribute(inputs, target=target, n_steps=n_steps)

    competitors.append(
        Competitor(
            "fastxai fallback",
            explain,
            lambda: mock.patch.object(native, "backend", lambda: reference),
        )
    )
    if is_native():
        competitors.append(Competitor("fastxai native", explain))
    return competitors


def captum_integrated_gradients(
    model: nn.Module, inputs: Tensor, target: Tensor, n_steps: int, chunks: set[int]
) -> list[Competitor]:
    from captum.attr import IntegratedGradients

    theirs = IntegratedGradients(model)

    def explain(chunk: int | None) -> Tensor:
        return theirs.attribute(inputs, target=target, n_steps=n_steps, internal_batch_size=chunk)

    best = fastest_chunk(lambda chunk: lambda: explain(chunk), chunks)
    return [
        Competitor("Captum", lambda: explain(None)),
        Competitor("Captum tuned", lambda: explain(best)),
    ]
