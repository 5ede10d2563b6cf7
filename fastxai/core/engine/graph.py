"""What torch records of a call of the model, and the gradients that it tells."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from .model import Model
from .outputs import one_output_per_row
from .targets import Target


class Unused(RuntimeError):
    """The outputs do not depend on one of the tensors that they are differentiated by."""

    def __init__(self, position: int):
        super().__init__(
            f"inputs[{position}]: forward_func's output does not depend on it in a way that can be "
            "differentiated, as there are no derivatives of quantised layers, rounding or detached "
            "tensors; if it is not to depend on it, pass it in additional_forward_args"
        )
        self.position = position


def numbers(model: Model, output: Tensor) -> Tensor:
    """One number a row, or one for the batch."""
    return one_output_per_row(output.reshape(1, -1) if model.whole_batch else output)


@torch.enable_grad()
def recorded(
    model: Model,
    leaves: tuple[Tensor, ...],  # each [r * b, *F_i]
    repeats: int,
    examples: slice,
    only_one: bool = True,
) -> Tensor:
    """The model's chosen outputs, with a graph that leads back to these rows.

    Args:
        model: the bound model.
        leaves: the rows.
        repeats: r.
        examples: which.
        only_one: whether there must be one number a row, [r * b]; otherwise [r * b, *C].
    """
    choose = partial(numbers, model) if only_one else _all
    if not model.writes_to_rows:
        try:
            return choose(model(leaves, repeats, examples))
        except RuntimeError as error:
            if "leaf Variable that requires grad" not in str(error):
                raise
        model.writes_to_rows = True
    # The model writes to its input. That is allowed to anything but a leaf of the graph.
    return choose(model(tuple(leaf.clone() for leaf in leaves), repeats, examples))


def _all(output: Tensor) -> Tensor:
    return output


@torch.enable_grad()
def gradients_of_each(
    model: Model,
    targets: Sequence[Target],
    ask: Callable[[], Tensor],
    leaves: tuple[Tensor, ...],
    repeats: int,
    examples: slice,
) -> Iterator[tuple[Tensor, ...]]:
    """The gradients of several outputs of a block, one output after the other.

    The model is asked once, and its graph kept for all outputs but the last. Where it cannot be
    kept (compiled code may use its memory for something else), the model is asked for each output.

    Args:
        model: the bound model, which chooses no output.
        targets: which outputs.
        ask: asks it about the block.
        leaves: what outputs are differentiated by.
        repeats: those of the block.
        examples: those of the block.
    """
    output: Tensor | None = None
    for i, target in enumerate(targets):
        if output is None:
            output = ask()
        chosen = numbers(model, model.choose(target, output, repeats, examples))
        is_kept = not model.uses_up_graphs and i < len(targets) - 1
        try:
            found = gradients_of(chosen, leaves, is_kept)
        except RuntimeError as error:
            if not is_kept or "retain_graph" not in str(error):
                raise
            model.uses_up_graphs, is_kept = True, False
            chosen = numbers(model, model.choose(target, ask(), repeats, examples))
            found = gradients_of(chosen, leaves)
        output = output if is_kept else None
        del chosen  # and with it the graph, before what is found is made use of
        yield found


def gradients_of(
    output: Tensor,  # [n]
    leaves: tuple[Tensor, ...] | tuple[GradientEdge, ...],
    keep_graph: bool = False,
) -> tuple[Tensor, ...]:
    """Those of the sum of the outputs, for each of the leaves.

    Args:
        output: one number a row.
        leaves: tensors or points of the graph.
        keep_graph: whether another gradient will be taken of it.

    Raises:
        RuntimeError: the outputs depend on nothing that can be differentiated.
        Unused: they do not depend on one of the leaves.
    """
    if not output.requires_grad:
        raise RuntimeError(
            "forward_func: its output does not depend on inputs in a way that can be "
            "differentiated: is it detached, computed under no_grad, or rounded to integers?"
        )
    along = torch.ones_like(output)
    found = torch.autograd.grad(output, leaves, along, retain_graph=keep_graph, allow_unused=True)
    for i, gradient in enumerate(found):
        if gradient is None:
            raise Unused(i)
    return found
