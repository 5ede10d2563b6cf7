"""Maximum sensitivity: how far an explanation may move when its input moves a little."""

from __future__ import annotations

import math
import numbers
import sys
from collections.abc import Callable
from inspect import signature
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core import engine
from ..core.checks import TensorOrTuple, check, check_number, check_seed, name_of
from ..core.engine.inputs import Inputs, check_inputs
from ..core.engine.model import Model
from ..core.engine.rows import PerturbedRows
from ..core.spans import length
from ._perturb import (
    by_repeat,
    check_perturbed,
    check_sizes,
    for_function,
    interleaved,
    warn_unless_finite,
)


def sensitivity_max(
    explanation_func: Callable[..., Any],
    inputs: TensorOrTuple,
    perturb_func: Callable[..., Any] | None = None,
    perturb_radius: float = 0.02,
    n_perturb_samples: int = 10,
    norm_ord: float | str = "fro",
    max_examples_per_batch: int | None = None,
    *,
    seed: int | None = None,
    **kwargs: Any,
) -> Tensor:
    """The largest change of an explanation among perturbations of its input.

    With Φ the explanation, the sensitivity of a row x is the greatest of

        ‖Φ(x_p) − Φ(x)‖ / ‖Φ(x)‖

    over n_perturb_samples perturbed inputs x_p. Where Φ(x) is zero the change is not divided.

    Source: Yeh, Hsieh, Suggala, Inouye and Ravikumar, "On the (in)fidelity and sensitivity of
    explanations" (2019).

    Args:
        explanation_func: takes inputs, in the form given here, and kwargs; returns their
            explanations, rows first: a tensor or several. ``attribute`` of any method, for one.
        inputs: a tensor [B, *F], or a tuple of tensors [B, *F_i].
        perturb_func: takes inputs [B · r, *F], in which each example comes r times in succession,
            and perturb_radius if it has a second parameter; returns perturbed inputs in their
            shapes. None: uniform in the L∞ ball with that radius around the input.
        perturb_radius: the ball's radius.
        n_perturb_samples: perturbations of each example. Memory does not grow with it.
        norm_ord: which vector norm: "fro" (or "nuc", for a vector the same) for the Euclidean
            one, or a number p, also ±inf, for the p-norm.
        max_examples_per_batch: rows in a call of explanation_func at most; None to choose for
            speed. All examples are in each call, so that there are never fewer rows than B.
        seed: decides the default perturbations; None draws one from torch's default generator. A
            seed for the explanation itself goes into ``functools.partial(attribute, seed=...)``.
        kwargs: passed to explanation_func. Of ``target``, ``additional_forward_args``,
            ``baselines`` and ``feature_mask``, what has one entry for each of the B rows is
            repeated along with them.

    Returns:
        [B]: float64 if the explanations are, otherwise float32.

    Raises:
        ArgumentError: an argument, or what a function returns, is not as above; and whatever
            explanation_func raises.
    """
    check(callable(explanation_func), "explanation_func", "a callable", repr(explanation_func))
    x = check_inputs(inputs, differentiable=False)
    count, limit = check_sizes(n_perturb_samples, max_examples_per_batch)
    order = _order(norm_ord)
    perturb: Callable[[slice], tuple[Tensor, ...]]
    if perturb_func is None:
        perturb = _InBall(x, perturb_radius, count, check_seed(seed))
    else:
        check(callable(perturb_func), "perturb_func", "a callable", repr(perturb_func))
        perturb = _ByUser(x, perturb_func, perturb_radius)
    model = Model(_Explanations(explanation_func, x, kwargs), x.batch)

    if x.batch == 0:
        return _wide(x.tensors[0]).new_zeros(0)
    once = PerturbedRows(x.tensors, 1, lambda repeats: tuple(t.clone() for t in x.tensors))
    expected = _wide(engine.values(model, once, limit, to_come=count)[0])  # [B, E]
    size = torch.linalg.vector_norm(expected, order, dim=1)  # [B]
    size = torch.where(size == 0, 1, size)
    worst = torch.zeros_like(size)

    def visit(explanations: Tensor, repeats: slice, examples: slice) -> None:
        nonlocal worst
        change = torch.linalg.vector_norm(_wide(explanations) - expected, order, dim=2)  # [r, B]
        worst = torch.maximum(worst, change.amax(0) / size)

    engine.stream(model, PerturbedRows(x.tensors, count, perturb), visit, limit)
    warn_unless_finite(worst, "sensitivity_max", "explanations")
    return worst


class _Explanations:
    """The explanation function as a forward function: rows in, [rows, E] numbers out."""

    def __init__(self, function: Callable[..., Any], inputs: Inputs, kwargs: dict[str, Any]):
        self.function, self.inputs, self.kwargs = function, inputs, dict(kwargs)
        if isinstance(kwargs.get("target"), np.ndarray):
            self.kwargs["target"] = torch.from_numpy(kwargs["target"])

    def __call__(self, *rows: Tensor) -> Tensor:
        count, batch = rows[0].shape[0], self.inputs.batch
        found = self.function(self.inputs.pack(rows), **self._repeated(count // batch))
        parts = found if isinstance(found, tuple | list) else (found,)
        for part in parts:
            check(
                isinstance(part, Tensor) and part.shape[:1] == (count,),
                "explanation_func",
                "it to return a tensor or several, each with {} rows for {} rows of input (without "
                "return_convergence_delta, for one)",
                part.shape if isinstance(part, Tensor) else type(part).__name__,
                count,
                count,
            )
        return torch.cat([part.detach().reshape(count, part[0].numel()) for part in parts], 1)

    def _repeated(self, repeats: int) -> dict[str, Any]:
        kwargs = dict(self.kwargs)
        # A baseline or mask with fewer dimensions than the inputs is for all rows.
        whole = {x.dim() for x in self.inputs.tensors}
        for name, dims in (
            ("additional_forward_args", None),
            ("baselines", whole),
            ("feature_mask", whole),
            ("target", None),
        ):
            if name in kwargs:
                kwargs[name] = self._of_rows(kwargs[name], repeats, dims)
        target = kwargs.get("target")
        if isinstance(target, list) and len(target) == self.inputs.batch:
            kwargs["target"] = target * repeats
        return kwargs

    def _of_rows(self, value: Any, repeats: int, dims: set[int] | None) -> Any:
        if isinstance(value, tuple):
            return tuple(self._of_rows(v, repeats, dims) for v in value)
        of_rows = (
            isinstance(value, Tensor)
            and value.shape[:1] == (self.inputs.batch,)
            and (dims is None or value.dim() in dims)
        )
        if not of_rows or repeats == 1:
            return value
        if value.layout != torch.strided:
            rows = torch.cat([value.to_sparse_coo()] * repeats)
            is_coo = value.layout == torch.sparse_coo
            return rows if is_coo else rows.to_sparse(layout=value.layout)
        return value.repeat(repeats, *[1] * (value.dim() - 1))


class _ByUser:
    """Rows as the user's function perturbs them."""

    def __init__(self, inputs: Inputs, function: Callable[..., Any], radius: Any):
        self.inputs = inputs
        self.more = (radius,) if len(signature(function).parameters) > 1 else ()
        self.function = function

    def __call__(self, repeats: slice) -> tuple[Tensor, ...]:
        x = tuple(interleaved(t, length(repeats)) for t in self.inputs.tensors)
        found = self.function(for_function(x), *self.more)
        return by_repeat(check_perturbed(found, x), self.inputs.batch)


class _InBall:
    """Rows uniform in the L∞ ball around the inputs: those of a repeat depend on the seed alone."""

    def __init__(self, inputs: Inputs, radius: Any, count: int, seed: int):
        radius = check_number(radius, "perturb_radius", "a finite number of at least 0")
        for i, x in enumerate(inputs.tensors):
            name = name_of("inputs", i, inputs.in_tuple)
            floating = "floating-point values to perturb (or a perturb_func of your own)"
            check(x.is_floating_point(), name, floating, x.dtype)
        self.inputs, self.radius = inputs, radius
        self.seeds = torch.randint(2**63 - 1, (count,), generator=_generator(seed), device="cpu")

    def __call__(self, repeats: slice) -> tuple[Tensor, ...]:
        made = [self._one(_generator(seed)) for seed in self.seeds[repeats].tolist()]
        return tuple(torch.cat(rows) for rows in zip(*made, strict=True))

    def _one(self, generator: torch.Generator) -> list[Tensor]:
        rows = []
        for x in self.inputs.tensors:
            wide = torch.promote_types(x.dtype, torch.float32)
            noise = torch.empty(x.shape, dtype=wide, device="cpu")  # the same for every device
            noise.uniform_(-self.radius, self.radius, generator=generator)
            rows.append((x + noise.to(x.device)).to(x.dtype))
        return rows


def _generator(seed: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


def _order(norm_ord: Any) -> float:
    if isinstance(norm_ord, str) and norm_ord in ("fro", "nuc"):
        return 2.0
    is_number = isinstance(norm_ord, numbers.Real) and not isinstance(norm_ord, bool)
    held = is_number and (abs(norm_ord) == math.inf or abs(norm_ord) <= sys.float_info.max)
    check(held, "norm_ord", '"fro", "nuc" or a number', repr(norm_ord))
    return float(norm_ord)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
