"""DeepLift's backward pass: the gradients of a lifted function are multipliers.

A multiplier m of an operation y = f(x) satisfies m · (x − x') = y − y' for the operation's values x
at the input and x' at the baseline; multipliers follow the chain rule as gradients do. So the
baselines run first, and what comes to each non-linear operation is kept; then the inputs run, and
each of these operations is replaced by one with the same value and its multipliers for a gradient.

Linear operations are left to autograd. The rules for the others, in ``multipliers``:

* one number to one: Δy / Δx, the Rescale rule (Shrikumar, Greenside and Kundaje, 2017);
* a product, matrix product or any other bilinear operation f(a, b): f(Δa, (b + b') / 2) +
  f((a + a') / 2, Δb), Shapley's split between the two (Lundberg and Lee, 2017, and their DeepLift
  in shap); this is the gradient half-way between baseline and input;
* log Σ exp: a sum between two Rescale rules. softmax is exp(x − log Σ exp x), so that there is
  nothing that could overflow;
* norms of layers, groups and instances: centring is linear, a square is a product, 1 / √ rescales,
  and what is centred is multiplied with that;
* max pooling: with the greater of both maxima as a stop on the way from y' to y, the first part
  goes to the input's place of the maximum, the second to the baseline's, as in Captum.

Each satisfies Σ m · (x − x') = y − y' exactly, and so does all of the network.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..checks import ArgumentError
from ..engine.independence import differ
from ..engine.outputs import tensor_of
from ..modules import transformation
from .checkpoints import without_checkpoints
from .multipliers.calls import Call, Place, Rule, Unlike
from .multipliers.table import COMPOSITES, RULES, has_no_rule, in_python
from .relu import Function, in_place


class Lifted:
    """Calls a function on inputs and baselines: its gradients for the inputs are multipliers.

    Args:
        forward_func: takes n inputs, then extra arguments.
        count: n. The call takes n inputs [N, *F_i], n baselines [R, *F_i], then the extra
            arguments; baseline r belongs to the N / R inputs from r · N / R on.
        eps: how far input and baseline must be apart for the Rescale rule; the gradient is used
            for what is closer.
        at_baselines: what to call with the baselines, if not forward_func.
        shares: whether one row may stand for a baseline of several inputs, as rows do not influence
            one another; None to find out.
        writes: whether the function may write to what it is called with.

    Attributes:
        reference: what the latest call gave for the baselines.
        unruled: operations that may be other than linear and kept their gradients, in order.
    """

    def __init__(
        self,
        forward_func: Function,
        count: int,
        eps: float,
        at_baselines: Function | None = None,
        shares: bool | None = None,
        writes: bool = True,
    ):
        self.forward_func, self.count, self.eps = forward_func, count, eps
        self.at_baselines = at_baselines or forward_func
        self.reference: Any = None
        self.unruled: dict[Function, None] = {}
        self._shares, self._writes = shares, writes
        self._copies = False  # whether values must be copied, as the function writes to them

    def __call__(self, *tensors: Any) -> Any:
        inputs = tensors[: self.count]
        baselines = tensors[self.count : 2 * self.count]
        extra = tensors[2 * self.count :]
        each = inputs[0].shape[0] // baselines[0].shape[0]
        plain = all(a is None or isinstance(a, int | float | str) for a in extra)
        if each > 1 and plain and self._shares is not False:
            try:
                twice = None if self._shares else self._at_baselines_twice(baselines, extra)
                output = self._with_copies_if_needed(inputs, baselines, extra, each)
                if twice is not None:
                    once = self.reference.repeat_interleave(2, 0)
                    self._shares = not differ(once, twice)
                if self._shares:
                    return output
            except (Unlike, Exception):  # or a model that knows how many rows there are
                self._shares = False
        if each > 1:
            baselines = tuple(b.repeat_interleave(each, 0) for b in baselines)
        try:
            return self._with_copies_if_needed(inputs, baselines, extra, 1)
        except Unlike as error:
            raise ArgumentError(
                "forward_func: expected the same operations for inputs and baselines, got other "
                f"ones from {error} on"
            ) from None

    def _with_copies_if_needed(self, inputs: Any, baselines: Any, extra: Any, each: int) -> Any:
        if not self._copies:
            try:
                return self._run(inputs, baselines, extra, each)
            except _Overwritten:
                self._copies = True
        return self._run(inputs, baselines, extra, each)

    def _at_baselines_twice(self, baselines: tuple[Tensor, ...], extra: Any) -> Any:
        """The outputs at the baselines, each twice in a call: if rows interact, they are others."""
        with torch.no_grad():
            twice = self.at_baselines(*(b.repeat_interleave(2, 0) for b in baselines), *extra)
            return twice if isinstance(twice, Tensor) else tensor_of(twice)

    def _run(
        self, inputs: tuple[Tensor, ...], baselines: tuple[Tensor, ...], extra: Any, each: int
    ) -> Any:
        if self._writes:
            inputs = tuple([x.clone() for x in inputs])
        kept: deque[_Kept] = deque()
        with without_checkpoints():
            with torch.no_grad(), _AtBaselines(kept, self._copies):
                reference = self.at_baselines(*(b.clone() for b in baselines), *extra)
                is_one = isinstance(reference, Tensor)
                self.reference = reference if is_one else tensor_of(reference)
            with _AtInputs(self, kept, baselines[0].shape[0], each):
                output = self.forward_func(*inputs, *extra)
        if kept:
            raise Unlike(kept[0].func.__name__)
        return output if isinstance(output, Tensor) else tensor_of(output)


class _Overwritten(BaseException):
    """The model wrote to what was kept of the baselines' pass."""


class _Kept:
    """A non-linear operation of the baselines' pass."""

    def __init__(self, func: Function, operands: list[Tensor], result: Any):
        self.func, self.operands, self.result = func, operands, result
        self._versions = [t._version for t in self._tensors()]

    def check(self) -> None:
        """Raises _Overwritten unless its tensors are as they were."""
        if [t._version for t in self._tensors()] != self._versions:
            raise _Overwritten

    def _tensors(self) -> list[Tensor]:
        return [*self.operands, self.result] if isinstance(self.result, Tensor) else self.operands


class _Watching(TorchFunctionMode):
    def __torch_function__(
        self, func: Function, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        written_out = COMPOSITES.get(func) or in_python(func)
        if written_out is not None:
            with self:
                result = written_out(*args, **kwargs)
            if result is not NotImplemented:
                return result
        rule = RULES.get(func)
        if rule is not None and rule.and_more and isinstance(args[1], tuple | list):
            args = (args[0], *args[1])
        found = None if rule is None else rule.find(args, kwargs)
        if rule is None or found is None:
            self.pass_on(func, args)
            return func(*args, **kwargs)
        return self.meet(rule, func, args, kwargs, *found)

    def pass_on(self, func: Function, args: Any) -> None:
        pass

    def meet(
        self,
        rule: Rule,
        func: Function,
        args: Any,
        kwargs: Any,
        places: list[Place],
        operands: list[Tensor],
    ) -> Any:
        raise NotImplementedError


class _AtBaselines(_Watching):
    def __init__(self, kept: deque[_Kept], copies: bool):
        super().__init__()
        self.kept, self.copies = kept, copies

    def pass_on(self, func: Function, args: Any) -> None:
        if func == _DATA and not self.copies:  # which may be written to unnoticed
            raise _Overwritten

    def meet(
        self,
        rule: Rule,
        func: Function,
        args: Any,
        kwargs: Any,
        places: list[Place],
        operands: list[Tensor],
    ) -> Any:
        copies = self.copies or in_place(func, args, kwargs)
        # Tensors made in inference mode do not tell whether they were written to.
        before = [x.clone() if copies or x.is_inference() else x for x in operands]
        result = func(*args, **kwargs)
        copied = self.copies and isinstance(result, Tensor)
        self.kept.append(_Kept(func, before, result.clone() if copied else result))
        return result


class _AtInputs(_Watching):
    def __init__(self, lifted: Lifted, kept: deque[_Kept], baselines: int, each: int):
        super().__init__()
        self.kept, self.baselines, self.each = kept, baselines, each
        self.eps, self.unruled = lifted.eps, lifted.unruled

    def pass_on(self, func: Function, args: Any) -> None:
        if has_no_rule(func) and func not in self.unruled and _are_differentiated(args):
            self.unruled[func] = None

    def meet(
        self,
        rule: Rule,
        func: Function,
        args: Any,
        kwargs: Any,
        places: list[Place],
        operands: list[Tensor],
    ) -> Any:
        if not self.kept or self.kept[0].func is not func:
            raise Unlike(func.__name__)
        kept = self.kept.popleft()
        kept.check()
        inside = transformation() is not None
        for x, reference in zip(operands, kept.operands, strict=True):
            if reference.shape != x.shape:
                self._dim_of_rows(reference, x)  # or raises
            elif inside and _unwrapped(reference).shape != _unwrapped(x).shape:
                raise Unlike("an operation inside torch.func.vmap")
        # Inside a transformation tensors do not tell whether a gradient is wanted outside of it.
        wanted = inside or any(x.requires_grad for x in operands)
        if not (torch.is_grad_enabled() and wanted):
            return func(*args, **kwargs)
        references, result = kept.operands, kept.result
        writes = in_place(func, args, kwargs)
        by_row = self._like, self._less
        call = Call(
            func, args, kwargs, places, operands, references, result, *by_row, self.eps, writes
        )
        y = rule.apply(call)
        return args[0].copy_(y) if writes else y

    def _like(self, reference: Tensor, x: Tensor) -> Tensor:
        if self.baselines == 1 or reference.shape == x.shape:
            return reference
        dim = self._dim_of_rows(reference, x)
        return reference.repeat_interleave(self.each, dim)

    def _less(self, x: Tensor, reference: Tensor) -> Tensor:
        """``x - self._like(reference, x)``, without a copy."""
        if self.baselines == 1 or reference.shape == x.shape:
            return x - reference
        dim = self._dim_of_rows(reference, x)
        by_baseline = x.unflatten(dim, (self.baselines, self.each))
        apart: Tensor = by_baseline - reference.unsqueeze(dim + 1)
        return apart.flatten(dim, dim + 1)

    def _dim_of_rows(self, reference: Tensor, x: Tensor) -> int:
        """In which dimension x has a row for each input, and the reference for each baseline."""
        rows = self.baselines, self.baselines * self.each
        theirs, ours = reference.shape, x.shape
        if theirs[1:] == ours[1:] and rows == (theirs[0], ours[0]):  # as in most models
            return 0
        apart = [i for i, (a, b) in enumerate(zip(theirs, ours, strict=False)) if a != b]
        if reference.dim() != x.dim() or len(apart) != 1:
            raise Unlike("an operation that mixes rows")
        (dim,) = apart
        if (reference.shape[dim], x.shape[dim]) != rows:
            raise Unlike("an operation that mixes rows")
        return dim


def _unwrapped(tensor: Tensor) -> Tensor:
    """With the dimensions that torch.func.vmap hides."""
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor


def _are_differentiated(args: Any) -> bool:
    return any(
        _are_differentiated(a)
        if isinstance(a, tuple | list)
        else getattr(a, "requires_grad", False)
        for a in args
    )


_DATA = Tensor.data.__get__  # type: ignore[attr-defined]
