"""Ways to explain: the model alone, Captum, shap, and fastxai with and without kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.util import find_spec
from typing import TYPE_CHECKING
from unittest import mock

import torch
from interleave import Competitor, fastest_chunk, record
from torch import Tensor, nn

import fastxai
from fastxai.ops import native, reference

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

ALL_ROWS = "without affine prefix"


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
    all_rows = fastxai.IntegratedGradients(model, affine_prefix=False)
    return [
        *competitors,
        Competitor(ALL_ROWS, lambda: all_rows.attribute(inputs, target=target, n_steps=n_steps)),
        *with_and_without_kernels(lambda: ours.attribute(inputs, target=target, n_steps=n_steps)),
    ]


def with_and_without_kernels(explain: Callable[[], Tensor]) -> list[Competitor]:
    """fastxai's fallback and, where it was built, its library."""
    fallback = lambda: mock.patch.object(native, "backend", lambda: reference)  # noqa: E731
    competitors = [Competitor("fastxai fallback", explain, fallback)]
    if is_native():
        competitors.append(Competitor("fastxai native", explain))
    return competitors


def compare(
    benchmark: BenchmarkFixture,
    case: str,
    yardstick: Competitor,
    others: list[Competitor],
    ours: Callable[[], Tensor],
) -> None:
    """The yardstick, which is bare, the others, and fastxai with and without its kernels."""
    record(
        benchmark,
        [yardstick, *others, *with_and_without_kernels(ours)],
        case=case,
        target=fastxai_name(),
        reference="bare",
        tolerance=1e-4,
    )


def bare_forward(model: nn.Module, like: Tensor, count: int) -> Callable[[int], None]:
    """The yardstick of methods without gradients: the model's forward pass over so many rows.

    Takes the rows a call. The rows are there before it is timed.
    """
    rows = torch.randn(count, *like.shape[1:], device=like.device)
    if not like.is_floating_point():  # ids, say
        rows = like[torch.arange(count, device=like.device) % len(like)]

    @torch.no_grad()
    def run(chunk: int) -> None:
        for part in rows.split(chunk):
            model(part)

    return run


def perturbation(
    model: nn.Module,
    inputs: Tensor,
    rows: int,
    ours: Callable[[], Tensor],
    theirs: Callable[[int], Tensor] | None = None,
    their_chunks: Iterable[int] = (),
    same_numbers: bool = True,
    parts: Iterable[int] = (1, 2, 4, 8, 16, 64, 256),
    all_rows: Callable[[], Tensor] | None = None,
) -> list[Competitor]:
    """Everyone who can run here, the best chunks searched for: bare first, fastxai last.

    Args:
        model: the model.
        inputs: what is explained.
        rows: how many model rows everyone needs.
        ours: explains with fastxai at its defaults.
        theirs: explains with Captum, with so many perturbations a call; None to leave it out.
        their_chunks: which to search for the best.
        same_numbers: whether Captum's result must equal ours; else (it draws other samples) it is
            only held to the same target, within half of the largest attribution.
        parts: into how many chunks to cut the bare model's rows, of which the best is taken.
        all_rows: explains as ours, without the affine prefix; None to leave it out.
    """
    run = bare_forward(model, inputs, rows)
    chunks = sorted({-(-rows // count) for count in parts})
    best = fastest_chunk(lambda chunk: lambda: run(chunk), chunks)
    competitors = [Competitor("bare", lambda: run(best))]
    if theirs is not None and find_spec("captum"):
        expected, got = ours(), theirs(max(their_chunks))
        loose = 1e-4 if same_numbers else 0.5
        worst = (expected - got).abs().max() / expected.abs().max()
        assert worst <= loose, f"Captum is off by {worst:.1e}"
        tuned = fastest_chunk(lambda chunk: lambda: _no_result(theirs, chunk), their_chunks)
        competitors += [
            Competitor("Captum", lambda: _no_result(theirs, 1)),
            Competitor("Captum tuned", lambda: _no_result(theirs, tuned)),
        ]
    if all_rows is not None:
        competitors.append(Competitor(ALL_ROWS, all_rows))
    return competitors + with_and_without_kernels(ours)


def _no_result(explain: Callable[[int], Tensor], chunk: int) -> None:
    explain(chunk)


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
