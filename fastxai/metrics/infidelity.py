"""Infidelity: how well attributions foretell what a perturbation does to the output."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..core import engine
from ..core.checks import TensorOrTuple, check
from ..core.engine.inputs import Inputs, check_baselines, check_forward_args, check_inputs
from ..core.engine.model import Model
from ..core.engine.outputs import one_output_per_row
from ..core.engine.rows import InputRows, PerturbedRows
from ..core.flags import flags_checked
from ..core.spans import length
from ._perturb import (
    by_repeat,
    check_each,
    check_perturbed,
    check_sizes,
    for_function,
    interleaved,
    warn_unless_finite,
)


@flags_checked
def infidelity(
    forward_func: Callable[..., Any],
    perturb_func: Callable[..., Any],
    inputs: TensorOrTuple,
    attributions: TensorOrTuple,
    baselines: Any = None,
    additional_forward_args: Any = None,
    target: Any = None,
    n_perturb_samples: int = 10,
    max_examples_per_batch: int | None = None,
    normalize: bool = False,
) -> Tensor:
    """The mean squared error of attributions as a forecast of what perturbations do.

    With F the chosen output, φ the attributions of a row x, and perturbations I that lead from x to
    x_I, the infidelity of the row is

        E_I [(Iᵀ φ − (F(x) − F(x_I)))²].

    It is zero for attributions that tell the output's change exactly, as a linear model's do. With
    ``normalize`` φ is first multiplied by the number that makes the error least, so that it does
    not depend on the scale of the attributions.

    Source: Yeh, Hsieh, Suggala, Inouye and Ravikumar, "On the (in)fidelity and sensitivity of
    explanations" (2019).

    Args:
        forward_func: a module or any callable that takes the inputs (then the extra arguments) and
            returns one tensor with the rows first.
        perturb_func: takes inputs [B · r, *F], in which each example comes r times in succession,
            and the baselines if there are any; returns the perturbations I and the perturbed inputs
            x_I, both of that shape, or tuples of them for a tuple of inputs. A function that
            returns x_I only is to be decorated with :func:`infidelity_perturb_func_decorator`.
        inputs: a tensor [B, *F], or a tuple of tensors [B, *F_i].
        attributions: of the inputs' form and shapes. Of output per unit of input for perturbations
            in units of the input; contributions (already multiplied by the input) for perturbations
            that say which share of it is taken away.
        baselines: what perturb_func gets as its second argument, as it is; a tensor with B rows is
            repeated along with the inputs.
        additional_forward_args: one extra argument of forward_func, or a tuple of them. Tensors
            whose first dimension is B are repeated along with the rows; others pass through.
        target: which output the attributions explain, as for ``attribute``.
        n_perturb_samples: perturbations of each example. Memory does not grow with it.
        max_examples_per_batch: rows a model call at most; None to choose for speed. perturb_func
            sees all examples in each call, so that there are never fewer rows than B.
        normalize: whether to rescale the attributions of each row to the least error.

    Returns:
        [B]: float64 if attributions or outputs are, otherwise float32.

    Raises:
        ArgumentError: an argument, or what perturb_func returns, is not as above.
        IndexError: the target is out of range.
    """
    for name, function in (("forward_func", forward_func), ("perturb_func", perturb_func)):
        check(callable(function), name, "a callable", repr(function))
    x = check_inputs(inputs, differentiable=False)
    values = attributions if isinstance(attributions, tuple) else (attributions,)
    check_each(values, x.tensors, "attributions", "values", one_row=False)
    references = _references(baselines, x)
    count, limit = check_sizes(n_perturb_samples, max_examples_per_batch)
    forward_args = check_forward_args(additional_forward_args, differentiable=False)
    dims = [t.dim() for t in x.tensors]
    model = Model(forward_func, x.batch, target, forward_args, dims=dims)

    at_inputs = one_output_per_row(
        engine.values(model, InputRows(x.tensors, x.batch), limit, to_come=count)[0]
    )
    exact = any(t.dtype == torch.float64 for t in (*values, at_inputs))
    forecast = at_inputs = at_inputs.double()  # [B]; later the forecast is of the rows at hand
    sums = at_inputs.new_zeros(3 if normalize else 1, x.batch)

    def perturb(repeats: slice) -> tuple[Tensor, ...]:
        nonlocal forecast
        perturbations, rows = _perturbed(perturb_func, x, references, length(repeats))
        pairs = zip(perturbations, values, strict=True)
        forecast = torch.stack([_products(i, phi) for i, phi in pairs]).sum(0)  # [r, B]
        return by_repeat(rows, x.batch)

    def visit(outputs: Tensor, repeats: slice, examples: slice) -> None:
        nonlocal sums
        change = at_inputs - one_output_per_row(outputs.flatten(0, 1)).double().reshape(
            forecast.shape
        )
        if normalize:
            terms = torch.stack([forecast.square(), forecast * change, change.square()])
        else:
            terms = (forecast - change).square()[None]
        sums = sums + terms.sum(1)

    engine.stream(model, PerturbedRows(x.tensors, count, perturb), visit, limit)
    error = sums[0]
    if normalize:  # the least error is with φ times E[Iᵀφ · change] / E[(Iᵀφ)²]
        of_forecast, of_both, of_change = sums
        explained = of_both.square() / torch.where(of_forecast == 0, 1, of_forecast)
        error = (of_change - explained).clamp(min=0)
    warn_unless_finite(error, "infidelity", "outputs or attributions")
    return (error / count).to(torch.float64 if exact else torch.float32)


@flags_checked
def infidelity_perturb_func_decorator(
    multiply_by_inputs: bool = True,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Makes a function that perturbs inputs into one that :func:`infidelity` takes.

    The decorated function takes the inputs and optionally the baselines x', and returns two tuples:
    the perturbations and the perturbed inputs x_I.

    Args:
        multiply_by_inputs: whether the attributions are contributions, which have been multiplied
            by x − x'. The perturbation is then the share (x − x_I) / (x − x') that is taken away,
            with x' zero if there are no baselines, and x − x_I where x = x'. Otherwise it is
            x − x_I.
    """

    def decorator(perturb_func: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(perturb_func)
        def with_perturbations(
            inputs: TensorOrTuple, baselines: Any = None
        ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
            found = perturb_func(inputs) if baselines is None else perturb_func(inputs, baselines)
            x = inputs if isinstance(inputs, tuple) else (inputs,)
            rows = check_perturbed(found, x)
            changes = tuple(a - b for a, b in zip(x, rows, strict=True))
            if not multiply_by_inputs:
                return changes, rows
            start = (0,) * len(x) if baselines is None else baselines
            start = start if isinstance(start, tuple) else (start,)
            spans = (a - b for a, b in zip(x, start, strict=True))
            pairs = zip(changes, spans, strict=True)
            return tuple(c / torch.where(span == 0, 1, span) for c, span in pairs), rows

        return with_perturbations

    return decorator


def _references(baselines: Any, inputs: Inputs) -> tuple[Any, ...] | None:
    """The baselines as the user gave them, one for each input, once they are known to fit."""
    if baselines is None:
        return None
    check_baselines(baselines, inputs)
    return baselines if isinstance(baselines, tuple) else (baselines,)


def _perturbed(
    perturb_func: Callable[..., Any],
    inputs: Inputs,
    references: tuple[Any, ...] | None,
    repeats: int,
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:  # each [B * r, *F_i]
    """Perturbations and perturbed inputs, interleaved."""
    x = tuple(interleaved(t, repeats) for t in inputs.tensors)
    arguments = [for_function(x)]
    if references is not None:
        pairs = zip(references, inputs.tensors, strict=True)
        arguments.append(for_function(tuple(_along(b, t, repeats) for b, t in pairs)))
    found = perturb_func(*arguments)
    check(
        isinstance(found, tuple | list) and len(found) == 2,
        "perturb_func",
        "it to return a pair, perturbations and perturbed inputs (decorate one that returns only "
        "the latter with infidelity_perturb_func_decorator)",
        type(found).__name__,
    )
    perturbations, rows = found
    perturbations = perturbations if isinstance(perturbations, tuple) else (perturbations,)
    check_each(perturbations, x, "perturb_func", "it to return perturbations", one_row=True)
    pairs = zip(perturbations, x, strict=True)
    return tuple(i.expand(t.shape) for i, t in pairs), check_perturbed(rows, x)


def _along(baseline: Any, x: Tensor, repeats: int) -> Any:
    of_rows = isinstance(baseline, Tensor) and baseline.dim() == x.dim() and len(baseline) > 1
    return interleaved(baseline, repeats) if of_rows else baseline


def _products(perturbations: Tensor, phi: Tensor) -> Tensor:  # [B * r, *F], [B, *F] -> [r, B]
    """Iᵀφ of every row, in float64; a complex number is a point of the plane."""
    batch, features = phi.shape[0], phi.shape[1:].numel()
    repeats = perturbations.shape[0] // batch
    wide = torch.promote_types(torch.promote_types(perturbations.dtype, phi.dtype), torch.float32)
    changes = perturbations.reshape(batch, repeats, features).to(wide)
    phi = phi.reshape(batch, features).to(wide)
    if wide.is_complex:
        changes, phi = (torch.view_as_real(t).flatten(-2) for t in (changes, phi))
    with torch.autocast(phi.device.type, enabled=False):  # which is for the user's model
        return torch.bmm(changes, phi[..., None])[..., 0].T.double()
