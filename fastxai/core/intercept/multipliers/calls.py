"""Non-linear operations as DeepLift meets them, and values with multipliers for gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...footprint import is_watched
from ...modules import transformation
from ..relu import Function, Substituted

ROUNDING = 8  # units in the last place that equal values may differ by in calls of other sizes
Place = int | str  # of an argument: its number or its name


class Unlike(BaseException):
    """The two passes cannot be compared. Not an Exception, lest the model takes it for its own."""


@dataclass
class Call:
    """A non-linear operation on the inputs, and what the baselines' pass kept of it."""

    func: Function
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    places: list[Place]  # of the operands among the arguments
    operands: list[Tensor]
    references: list[Tensor]
    result: Any  # for the references
    like: Callable[[Tensor, Tensor], Tensor]  # rows of baselines brought to those of inputs
    less: Callable[[Tensor, Tensor], Tensor]  # what inputs have, less what baselines have
    eps: float
    writes: bool  # whether it writes its result to its first argument

    def argument(self, place: int, name: str, default: Any = None) -> Any:
        return self.args[place] if place < len(self.args) else self.kwargs.get(name, default)

    def of(self, *operands: Tensor) -> Any:
        """The operation on other operands, which are left as they are."""
        args, kwargs = list(self.args), dict(self.kwargs)
        for place, x in zip(self.places, operands, strict=True):
            if isinstance(place, int):
                args[place] = x
            else:
                kwargs[place] = x
        if self.writes:
            args[0] = args[0].clone()
        return self.func(*args, **kwargs)

    @property
    def alike(self) -> list[Tensor]:
        """The references, each with as many rows as its operand."""
        pairs = zip(self.references, self.operands, strict=True)
        return [self.like(reference, x) for reference, x in pairs]

    @property
    def looks(self) -> bool:
        """Whether values may be looked at for free: on no accelerator, in no trace, not in vmap."""
        is_free = self.operands[0].device.type == "cpu" and not is_watched()
        return is_free and transformation() is None

    def has_gradient(self, x: Tensor) -> bool:
        """Whether a gradient of the operand is wanted, as far as can be told."""
        if transformation() is not None:
            return x.is_floating_point() or x.is_complex()
        return x.requires_grad


@dataclass(frozen=True)
class Rule:
    """How an operation is replaced.

    Attributes:
        apply: the operation with multipliers for its gradient.
        operands: the places and names of what it is applied to; weights and numbers are none.
        and_more: whether every further positional argument is an operand.
        linear: whether it is linear in each operand, so that one alone needs no rule.
        masks: whether operands may be of integers and booleans, beside one that is not.
        along: whether it is only for calls that name dimensions.
    """

    apply: Callable[[Call], Any]
    operands: tuple[tuple[int, str], ...] = ((0, "input"),)
    and_more: bool = False
    linear: bool = False
    masks: bool = False
    along: bool = False

    def find(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[list[Place], list[Tensor]] | None:
        """The operands and their places; None where the operation needs no rule."""
        if self.along and not isinstance(
            args[1] if len(args) > 1 else kwargs.get("dim"), int | tuple | list
        ):
            return None
        if self.linear and len(self.operands) == 2 and not self.masks:  # weights come last
            i, name = self.operands[1]
            x = args[i] if i < len(args) else kwargs.get(name)
            if isinstance(x, Tensor) and is_weight(x):
                return None
        places: list[Place] = []
        found: list[Tensor] = []
        count = 0  # of those that multipliers are for
        for i, name in self.operands:
            place: Place = i if i < len(args) else name
            x = args[i] if i < len(args) else kwargs.get(name)
            if not isinstance(x, Tensor) or is_weight(x):
                continue
            has_multipliers = x.is_floating_point() or x.is_complex()
            if has_multipliers or self.masks:
                count += has_multipliers
                places.append(place)
                found.append(x)
        if self.and_more:
            for i in range(self.operands[-1][0] + 1, len(args)):
                x = args[i]
                if isinstance(x, Tensor) and not is_weight(x) and x.is_floating_point():
                    count += 1
                    places.append(i)
                    found.append(x)
        if not count or (self.linear and len(found) == 1):
            return None
        return places, found


def is_weight(tensor: Tensor) -> bool:
    root = tensor if tensor._base is None else tensor._base
    plain = type(root) is Tensor  # which is quicker to ask
    return (not plain and isinstance(root, torch.nn.Parameter)) or tensor.dim() == 0


def are_equal(x: Tensor, reference: Tensor) -> bool:
    """Whether an operand is what its reference is, which may be one row for all."""
    if reference.shape != x.shape:
        reference = reference.expand_as(x)
    return torch.equal(x, reference)


def bounded(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """With numbers that are as good as infinite at a bound that changes can be counted to.

    A score that a mask hides at one end changes without bound, and what a softmax or a maximum
    makes of that is finite: multipliers are infinite here and zero there unless both take the same
    bound for it, that of the dtype. Exponentials of it are zero.
    """
    if not x.is_floating_point():
        return x
    bound = min(1e9, torch.finfo(dtype or x.dtype).max ** 0.5)
    return x.clamp(-bound, bound)


def valued(surrogate: Tensor, value: Tensor) -> Tensor:
    """A value with the gradient of something else."""
    found: Tensor
    if transformation() is not None:
        found = Substituted.apply(surrogate, value)
    else:
        found = _Valued.apply(surrogate, [value])
    return found


class _Valued(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, surrogate: Tensor, value: list[Tensor]) -> Tensor:
        return value[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class Pulled(torch.autograd.Function):
    """A value, and what a rule makes of the gradient that comes to it.

    It takes ``[value], pull, count, *operands, *kept``: so many operands, and what is kept for
    ``pull``, which takes the gradient and that, and returns a gradient for each operand. What only
    the gradient needs is left to it. It may be used inside torch.func.vmap.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        value: list[Tensor], pull: Callable[..., tuple[Tensor, ...]], count: int, *tensors: Tensor
    ) -> Tensor:
        return value[0] if transformation() is None else value[0].clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.pull, ctx.count, *tensors = inputs
        ctx.unpulled = len(tensors) - ctx.count
        ctx.save_for_backward(*tensors[ctx.count :])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        found = ctx.pull(gradient, *ctx.saved_tensors)
        return None, None, None, *found, *[None] * ctx.unpulled


class Scaled(torch.autograd.Function):
    """A value with a multiplier for its gradient, both from a rule."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, call: Call, rule: Callable[[Call], tuple[Tensor, Tensor]]
    ) -> Tensor:
        value, multiplier = rule(call)
        ctx.save_for_backward(multiplier)
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (multiplier,) = ctx.saved_tensors
        return gradient * multiplier.conj(), None, None
