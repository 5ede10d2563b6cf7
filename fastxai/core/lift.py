"""DeepLift's backward pass: the gradients of a lifted function are multipliers.

A multiplier m of an operation y = f(x) satisfies m · (x − x') = y − y' for the operation's values x
at the input and x' at the baseline; multipliers follow the chain rule as gradients do. So the
baselines run first, and what comes to each non-linear operation is kept; then the inputs run, and
each of these operations is replaced by one with the same value and its multipliers for a gradient.

Linear operations are left to autograd. The rules for the others:

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

import types
import warnings
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .affine import transformation
from .footprint import is_watched
from .inputs import ArgumentError
from .rules import Function, Substituted, in_place, spellings

_ROUNDING = 8  # units in the last place that equal values may differ by in calls of other sizes


class Lifted:
    """Calls a function on inputs and baselines: its gradients for the inputs are multipliers.

    Args:
        forward_func: takes n inputs, then extra arguments.
        count: n. The call takes n inputs [N, *F_i], n baselines [R, *F_i], then the extra
            arguments; baseline r belongs to the N / R inputs from r · N / R on.
        eps: how far input and baseline must be apart for the Rescale rule; the gradient is used
            for what is closer.
    """

    def __init__(self, forward_func: Function, count: int, eps: float):
        self.forward_func, self.count, self.eps = forward_func, count, eps
        self._shares = True  # whether a baseline's values can be told from those of others
        self._copies = False  # whether values must be copied, as the function writes to them

    def __call__(self, *tensors: Any) -> Any:
        inputs = tensors[: self.count]
        baselines = tensors[self.count : 2 * self.count]
        extra = tensors[2 * self.count :]
        each = inputs[0].shape[0] // baselines[0].shape[0]
        plain = all(a is None or isinstance(a, int | float | str) for a in extra)
        if each > 1 and plain and self._shares:
            try:
                return self._with_copies_if_needed(inputs, baselines, extra, each)
            except (_Unlike, Exception):  # or a model that knows how many rows there are
                self._shares = False
        if each > 1:
            baselines = tuple(b.repeat_interleave(each, 0) for b in baselines)
        try:
            return self._with_copies_if_needed(inputs, baselines, extra, 1)
        except _Unlike as error:
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

    def _run(
        self, inputs: tuple[Tensor, ...], baselines: tuple[Tensor, ...], extra: Any, each: int
    ) -> Any:
        # Clones, as the function may write to them.
        kept: deque[_Kept] = deque()
        with torch.no_grad(), _AtBaselines(kept, self._copies):
            self.forward_func(*(b.clone() for b in baselines), *extra)
        with _AtInputs(kept, baselines[0].shape[0], each, self.eps):
            output = self.forward_func(*(x.clone() for x in inputs), *extra)
        if kept:
            raise _Unlike(kept[0].func.__name__)
        return output


class _Unlike(BaseException):
    """The two passes cannot be compared. Not an Exception, lest the model takes it for its own."""


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


@dataclass
class _Call:
    """A non-linear operation on the inputs, and what the baselines' pass kept of it."""

    func: Function
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    operands: list[Tensor]
    references: list[Tensor]
    result: Any  # for the references
    like: Callable[[Tensor, Tensor], Tensor]  # rows of baselines brought to those of inputs
    eps: float
    writes: bool  # whether it writes its result to its first argument

    def argument(self, place: int, name: str, default: Any = None) -> Any:
        return self.args[place] if place < len(self.args) else self.kwargs.get(name, default)

    def of(self, *operands: Tensor) -> Any:
        """The operation on other operands; it may write to them."""
        names = iter(operands)
        known = {id(x): next(names) for x in self.operands}
        args = tuple(known.get(id(a), a) for a in self.args)
        return self.func(*args, **{k: known.get(id(a), a) for k, a in self.kwargs.items()})


@dataclass(frozen=True)
class _Rule:
    apply: Callable[[_Call], Any]
    operands: tuple[tuple[int, str], ...] = ((0, "input"),)
    along: bool = False  # whether it is only for calls that name dimensions

    def find(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor] | None:
        """The operands; None where the operation is linear in what is not a weight."""
        if self.along and not isinstance(
            args[1] if len(args) > 1 else kwargs.get("dim"), int | tuple
        ):
            return None
        found: list[Tensor] = []
        for i, name in reversed(self.operands):  # weights come last
            x = args[i] if i < len(args) else kwargs.get(name)
            if not isinstance(x, Tensor) or _is_weight(x) or not x.is_floating_point():
                return None
            found.insert(0, x)
        return found


class _Watching(TorchFunctionMode):
    def __torch_function__(
        self, func: Function, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        composite = _COMPOSITES.get(func)
        if composite is not None:
            with self:
                return composite(*args, **kwargs)
        rule = _RULES.get(func)
        operands = None if rule is None else rule.find(args, kwargs)
        if rule is None or operands is None:
            self.pass_on(func, args)
            return func(*args, **kwargs)
        return self.meet(rule, func, args, kwargs, operands)

    def pass_on(self, func: Function, args: Any) -> None:
        pass

    def meet(self, rule: _Rule, func: Function, args: Any, kwargs: Any, operands: Any) -> Any:
        raise NotImplementedError


class _AtBaselines(_Watching):
    def __init__(self, kept: deque[_Kept], copies: bool):
        super().__init__()
        self.kept, self.copies = kept, copies

    def pass_on(self, func: Function, args: Any) -> None:
        if func == _DATA and not self.copies:  # which may be written to unnoticed
            raise _Overwritten

    def meet(self, rule: _Rule, func: Function, args: Any, kwargs: Any, operands: Any) -> Any:
        copies = self.copies or in_place(func, args, kwargs)
        # Tensors made in inference mode do not tell whether they were written to.
        before = [x.clone() if copies or x.is_inference() else x for x in operands]
        result = func(*args, **kwargs)
        copied = self.copies and isinstance(result, Tensor)
        self.kept.append(_Kept(func, before, result.clone() if copied else result))
        return result


class _AtInputs(_Watching):
    def __init__(self, kept: deque[_Kept], baselines: int, each: int, eps: float):
        super().__init__()
        self.kept, self.baselines, self.each, self.eps = kept, baselines, each, eps

    def pass_on(self, func: Function, args: Any) -> None:
        if func in _WITHOUT_RULE and any(isinstance(a, Tensor) and a.requires_grad for a in args):
            warnings.warn(
                f"DeepLift has no rule for {func.__name__}: its gradient is used instead, and the "
                "attributions may not add up",
                stacklevel=2,
            )

    def meet(self, rule: _Rule, func: Function, args: Any, kwargs: Any, operands: Any) -> Any:
        if not self.kept or self.kept[0].func is not func:
            raise _Unlike(func.__name__)
        kept = self.kept.popleft()
        kept.check()
        inside = transformation() is not None
        for x, reference in zip(operands, kept.operands, strict=True):
            if reference.shape != x.shape:
                self._like(reference, x)  # or raises
            elif inside and _unwrapped(reference).shape != _unwrapped(x).shape:
                raise _Unlike("an operation inside torch.func.vmap")
        # Inside a transformation tensors do not tell whether a gradient is wanted outside of it.
        wanted = inside or any(x.requires_grad for x in operands)
        if not (torch.is_grad_enabled() and wanted):
            return func(*args, **kwargs)
        references, result = kept.operands, kept.result
        writes = in_place(func, args, kwargs)
        call = _Call(func, args, kwargs, operands, references, result, self._like, self.eps, writes)
        y = rule.apply(call)
        return args[0].copy_(y) if writes else y

    def _like(self, reference: Tensor, x: Tensor) -> Tensor:
        if reference.shape == x.shape:
            return reference
        pairs = enumerate(zip(reference.shape, x.shape, strict=False))
        apart = [i for i, (a, b) in pairs if a != b]
        rows = self.baselines, self.baselines * self.each
        if reference.dim() != x.dim() or len(apart) != 1:
            raise _Unlike("an operation that mixes rows")
        (dim,) = apart
        if (reference.shape[dim], x.shape[dim]) != rows:
            raise _Unlike("an operation that mixes rows")
        return reference if rows[0] == 1 else reference.repeat_interleave(self.each, dim)


def _unwrapped(tensor: Tensor) -> Tensor:
    """With the dimensions that torch.func.vmap hides."""
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor


class _Valued(torch.autograd.Function):
    """A value with the gradient of something else."""

    @classmethod
    def apply(cls, surrogate: Tensor, value: list[Tensor]) -> Any:
        if transformation() is not None:
            return Substituted.apply(surrogate, value[0])
        return super().apply(surrogate, value)

    @staticmethod
    def forward(ctx: Any, surrogate: Tensor, value: list[Tensor]) -> Tensor:
        return value[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class _Scaled(torch.autograd.Function):
    """A value with a multiplier for its gradient, both from a rule."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, call: _Call, rule: Callable[[_Call], tuple[Tensor, Tensor]]
    ) -> Tensor:
        value, multiplier = rule(call)
        ctx.save_for_backward(multiplier)
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (multiplier,) = ctx.saved_tensors
        return gradient * multiplier, None, None


def _relu(call: _Call) -> tuple[Tensor, Tensor]:
    (x,), (reference,) = call.operands, call.references
    y = x.relu()
    apart = x - call.like(reference, x)
    ratio = (y - call.like(call.result, x)).div_(apart)
    return y, torch.where(apart.abs_() < call.eps, y.sign(), ratio)


def _rescale(call: _Call) -> tuple[Tensor, Tensor]:
    (x,), (reference,) = call.operands, call.references
    y = call.of(x.clone()) if call.writes else call.func(*call.args, **call.kwargs)
    apart = x - call.like(reference, x)
    multiplier = (y - call.like(call.result, y)).div_(apart)
    close = x.abs().mul_(_ROUNDING * torch.finfo(x.dtype).eps).clamp_(min=call.eps)
    is_close = apart.abs_() < close
    # A gradient that nobody needs is not taken where looking is free: no accelerator, no trace.
    looks = x.device.type == "cpu" and not is_watched() and transformation() is None
    if not looks or is_close.any():
        multiplier = torch.where(is_close, _gradient_of(call, x), multiplier)
    return y, multiplier


def _scaled_by(rule: Callable[[_Call], tuple[Tensor, Tensor]]) -> Callable[[_Call], Tensor]:
    return lambda call: (
        _Scaled.apply(call.operands[0], call, rule)
        if transformation() is None
        else _scaled_inside(call.operands[0], call, rule)
    )


def _scaled_inside(x: Tensor, call: _Call, rule: Callable[[_Call], tuple[Tensor, Tensor]]) -> Any:
    """The same inside torch.func.vmap."""
    with torch.no_grad():
        value, multiplier = rule(call)
    return Substituted.apply(x * multiplier, value)


def _gradient_of(call: _Call, x: Tensor) -> Tensor:
    """The derivative of an operation of one number to one."""
    if transformation() is not None:
        y, pull, *_ = torch.func.vjp(lambda t: call.of(t.clone()), x.detach())
        return pull(torch.ones_like(y))[0]
    leaf = x.detach().requires_grad_()
    with torch.enable_grad():
        y = call.of(leaf.clone())
        (gradient,) = torch.autograd.grad(y, leaf, torch.ones_like(y))
    return gradient


def _product(call: _Call) -> Tensor:
    with torch.no_grad():
        value = call.of(*(x.clone() if call.writes else x for x in call.operands))
    half_way = [
        x + (call.like(reference, x) - x).detach() / 2
        for x, reference in zip(call.operands, call.references, strict=True)
    ]
    if call.operands[0] is call.operands[1]:
        half_way[1] = half_way[0]
    return _Valued.apply(call.of(*half_way), [value])


def _mean_of_exp(a: Tensor, b: Tensor) -> Tensor:
    """(eᵃ − eᵇ) / (a − b), which is eᵃ where they are equal."""
    apart = (a - b).abs()
    return torch.maximum(a, b).exp() * torch.where(apart > 0, -torch.expm1(-apart) / apart, 1.0)


def _logsumexp(x: Tensor, reference: Tensor, dims: Any) -> tuple[Tensor, Tensor, Tensor]:
    """What has the multipliers of log Σ exp, and its value at the inputs and the baselines."""
    with torch.no_grad():
        total, at_baseline = (t.logsumexp(dims, keepdim=True) for t in (x, reference))
        top = torch.maximum(total, at_baseline)
        share = _mean_of_exp(x - top, reference - top)
        share /= _mean_of_exp(total - top, at_baseline - top)
    return (share * x).sum(dims, keepdim=True), total, at_baseline


def _softmax(call: _Call) -> Tensor:
    (x,), dim = call.operands, call.argument(1, "dim")
    with torch.no_grad():
        value = call.of(x)
    x, reference = (t.to(value.dtype) for t in (x, call.like(call.references[0], x)))
    if dim is None:
        dim = 0 if x.dim() in (0, 1, 3) else 1  # as torch chooses
    log_sum, total, at_baseline = _logsumexp(x, reference, dim)
    surrogate = x - log_sum
    if "log" not in call.func.__name__:
        with torch.no_grad():
            slope = _mean_of_exp(x - total, reference - at_baseline)
        surrogate = surrogate * slope
    return _Valued.apply(surrogate, [value])


def _log_of_sum(call: _Call) -> Tensor:
    (x,), dims = call.operands, call.argument(1, "dim")
    with torch.no_grad():
        value = call.of(x)
    surrogate, _, _ = _logsumexp(x, call.like(call.references[0], x), dims)
    return _Valued.apply(surrogate.reshape(value.shape), [value])


def _normalised(x: Tensor, reference: Tensor, dims: Any, eps: float, centred: bool) -> Tensor:
    """What has the multipliers of u / √(mean u² + eps), where u is x less its mean if centred."""
    u = x - x.mean(dims, keepdim=True) if centred else x
    with torch.no_grad():
        u_ref = reference - reference.mean(dims, keepdim=True) if centred else reference
        scale, at_baseline = ((v * v).mean(dims, keepdim=True).add(eps).rsqrt() for v in (u, u_ref))
        middle = (u + u_ref) / 2
        slope = -(scale**2) * at_baseline**2 / (scale + at_baseline)  # Δ scale / Δ mean u²
    change = slope * (2 * middle * u).mean(dims, keepdim=True)
    return (scale + at_baseline) / 2 * u + middle * change


def _layer_norm(call: _Call) -> Tensor:
    (x,), centred = call.operands, "rms" not in call.func.__name__
    shape, weight = call.argument(1, "normalized_shape"), call.argument(2, "weight")
    eps = call.argument(4, "eps", 1e-5) if centred else call.argument(3, "eps")
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    dims = tuple(range(-len(shape), 0)) if not isinstance(shape, int) else (-1,)
    surrogate = _normalised(x, call.like(call.references[0], x), dims, eps, centred)
    return _affine(call, surrogate, weight)


def _group_norm(call: _Call) -> Tensor:
    (x,), groups = call.operands, call.argument(1, "num_groups")
    weight, eps = call.argument(2, "weight"), call.argument(4, "eps", 1e-5)
    reference = call.like(call.references[0], x)
    x_part, ref_part = (t.reshape(*t.shape[:1], groups, -1) for t in (x, reference))
    surrogate = _normalised(x_part, ref_part, -1, eps, True).reshape(x.shape)
    return _affine(call, surrogate, _by_channel(weight, x))


def _instance_norm(call: _Call) -> Tensor:
    (x,), dims = call.operands, tuple(range(2, call.operands[0].dim()))
    weight, eps = call.argument(3, "weight"), call.argument(7, "eps", 1e-5)
    if not call.argument(5, "use_input_stats", True):
        return call.of(x)
    surrogate = _normalised(x, call.like(call.references[0], x), dims, eps, True)
    return _affine(call, surrogate, _by_channel(weight, x))


def _by_channel(weight: Tensor | None, x: Tensor) -> Tensor | None:
    return None if weight is None else weight.reshape(-1, *[1] * (x.dim() - 2))


def _affine(call: _Call, surrogate: Tensor, weight: Tensor | None) -> Tensor:
    with torch.no_grad():
        value = call.of(*call.operands)
    surrogate = surrogate if weight is None else surrogate * weight
    return _Valued.apply(surrogate, [value])


def _split(
    call: _Call, x: Tensor, reference: Tensor, best: Iterable[Tensor], best_ref: Iterable[Tensor]
) -> Tensor:
    """Maxima along x's last dimension, [*, P] of [*, n], and their places, so for the baselines."""
    (y, place), (y_ref, place_ref) = best, best_ref
    with torch.no_grad():
        apart, stop = x - reference, torch.maximum(y, y_ref)
        parts = ((stop - y_ref, place, 1.0), (y - stop, place_ref.expand(place.shape), 0.0))
        steps = [(step, p, tie, apart.gather(-1, p)) for step, p, tie in parts]
        multipliers = [
            (p, torch.where(there.abs() < call.eps, tie, step / there))
            for step, p, tie, there in steps
        ]
    return sum((x.gather(-1, p) * m for p, m in multipliers), torch.zeros_like(y))


def _greatest(call: _Call) -> Any:
    (x,), dims = call.operands, call.argument(1, "dim")
    dims = (dims,) if isinstance(dims, int) else tuple(dims)
    reference = call.like(call.references[0], x)
    last = tuple(range(-len(dims), 0))
    rows, ref_rows = (t.movedim(dims, last).flatten(-len(dims)) for t in (x, reference))
    with torch.no_grad():
        value = call.of(x)
        best, best_ref = (t.max(-1, keepdim=True) for t in (rows, ref_rows))
    surrogate = _split(call, rows, ref_rows, best, best_ref)
    if isinstance(value, Tensor):
        return _Valued.apply(surrogate.reshape(value.shape), [value])
    values = _Valued.apply(surrogate.reshape(value.values.shape), [value.values])
    return torch.return_types.max((values, value.indices))


def _max_pool(call: _Call) -> Any:
    (x,), name = call.operands, call.func.__name__
    pool, dims, most = _POOLS[call.func]
    options = {k: v for k, v in call.kwargs.items() if k not in ("input", "return_indices")}

    def flat(t: Tensor) -> Tensor:
        return t.reshape(*t.shape[:-dims], -1)

    reference = call.like(call.references[0], x)
    with torch.no_grad():
        y, index = pool(x, *call.args[1:most], **options)
        found = pool(call.references[0], *call.args[1:most], **options)
        y_ref, index_ref = (call.like(t, y) for t in found)
    best, best_ref = ([flat(t) for t in pair] for pair in ((y, index), (y_ref, index_ref)))
    surrogate = _split(call, flat(x), flat(reference), best, best_ref)
    out = _Valued.apply(surrogate.reshape(y.shape), [y])
    wants_index = name.endswith("indices") or call.argument(most, "return_indices", False)
    return (out, index) if wants_index else out


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if enable_gqa:
        times = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(times, -3), value.repeat_interleave(times, -3)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = query @ key.transpose(-2, -1) * scale
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.device).tril()
    if attn_mask is not None:
        hidden = attn_mask.dtype == torch.bool
        scores = scores.masked_fill(~attn_mask, -torch.inf) if hidden else scores + attn_mask
    weights = scores.softmax(-1)
    return (F.dropout(weights, dropout_p) if dropout_p > 0 else weights) @ value


def _div(input: Tensor, other: Any, *, rounding_mode: str | None = None) -> Tensor:
    if not isinstance(other, Tensor) or _is_weight(other) or rounding_mode is not None:
        with torch._C.DisableTorchFunction():
            return torch.div(input, other, rounding_mode=rounding_mode)
    return input * other.reciprocal()


def _div_(input: Tensor, other: Any, *, rounding_mode: str | None = None) -> Tensor:
    return input.copy_(_div(input, other, rounding_mode=rounding_mode))


def _normalize(
    input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: None = None
) -> Tensor:
    return input / _norm(input, p, dim, True).clamp_min(eps)


def _cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    return (_normalize(x1, 2, dim, eps) * _normalize(x2, 2, dim, eps)).sum(dim)


def _norm(
    input: Tensor, p: Any = 2.0, dim: Any = None, keepdim: bool = False, **others: Any
) -> Tensor:
    if others.get("ord", p) not in (2, "fro", None):
        with torch._C.DisableTorchFunction():
            return torch.norm(input, others.get("ord", p), dim, keepdim)
    return (input * input).sum(dim, keepdim=keepdim).sqrt()


def _var(
    input: Tensor,
    dim: Any = None,
    unbiased: bool = True,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Tensor:
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    dims = tuple(range(input.dim())) if dim is None else dim
    apart = input - input.mean(dims, keepdim=True)
    total = (apart * apart).sum(dims, keepdim=keepdim)
    less = float(unbiased) if correction is None else correction
    return total / (input.numel() / max(1, total.numel()) - less)


def _std(*args: Any, **kwargs: Any) -> Tensor:
    return _var(*args, **kwargs).sqrt()


def _maximum(input: Tensor, other: Tensor) -> Tensor:
    return input + (other - input).relu()


def _minimum(input: Tensor, other: Tensor) -> Tensor:
    return input - (input - other).relu()


def _glu(input: Tensor, dim: int = -1) -> Tensor:
    passed, gate = input.chunk(2, dim)
    return passed * gate.sigmoid()


def _opened(function: Any) -> Function:
    """A function of torch's in Python, whose operations are seen one by one."""
    names = {**function.__globals__, "has_torch_function": lambda tensors: False}
    opened = types.FunctionType(
        function.__code__, names, function.__name__, function.__defaults__, function.__closure__
    )
    opened.__kwdefaults__ = function.__kwdefaults__
    return opened


def _is_weight(tensor: Tensor) -> bool:
    root = tensor if tensor._base is None else tensor._base
    plain = type(root) is Tensor  # which is quicker to ask
    return (not plain and isinstance(root, torch.nn.Parameter)) or tensor.dim() == 0


def _for_all(functions: Iterable[Function], rule: Any) -> dict[Function, Any]:
    return dict.fromkeys(functions, rule)


_ONE_TO_ONE = """
    relu6 leaky_relu elu celu selu silu gelu sigmoid tanh softplus hardtanh hardswish hardsigmoid
    mish exp expm1 exp2 log log1p log2 log10 abs absolute sqrt rsqrt reciprocal pow __pow__ __rpow__
    square logsigmoid log_sigmoid clamp clip clamp_min clamp_max threshold _threshold softsign
    tanhshrink hardshrink softshrink prelu rrelu erf erfc expit sin cos tan sinh cosh asin acos atan
    asinh acosh atanh arctan sign logit sinc
"""
_UNRULED = """
    lstm gru rnn_tanh rnn_relu lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell topk sort cumprod prod
    amax amin max min median kthvalue logcumsumexp fractional_max_pool2d fractional_max_pool3d
    lp_pool1d lp_pool2d atan2 fmod cdist
"""
_BILINEAR = {
    ((0, "input"), (1, "other")): "mul multiply matmul __rmatmul__ outer",
    ((0, "input"), (1, "mat2")): "bmm mm mv dot",
    ((0, "input"), (1, "weight")): "linear conv1d conv2d conv3d",
    ((1, "batch1"), (2, "batch2")): "baddbmm addbmm",
    ((1, "mat1"), (2, "mat2")): "addmm",
    ((1, "tensor1"), (2, "tensor2")): "addcmul",
    ((1, "a"), (2, "b")): "einsum",
}
_POOLS: dict[Function, tuple[Function, int, int]] = {}  # with indices, dimensions, arguments
for _dims in (1, 2, 3):
    for _kind, _most in (("max_pool", 6), ("adaptive_max_pool", 2)):
        _with_indices = getattr(F, f"{_kind}{_dims}d_with_indices")
        for _function in {*spellings(f"{_kind}{_dims}d"), _with_indices}:
            _POOLS[_function] = _with_indices, _dims, _most

_RULES: dict[Function, _Rule] = {
    **_for_all(spellings(*_ONE_TO_ONE.split()), _Rule(_scaled_by(_rescale))),
    **_for_all(spellings("relu"), _Rule(_scaled_by(_relu))),
    **_for_all(spellings("softmax", "log_softmax"), _Rule(_softmax)),
    **_for_all(spellings("logsumexp"), _Rule(_log_of_sum)),
    **_for_all(spellings("layer_norm", "rms_norm"), _Rule(_layer_norm)),
    **_for_all(spellings("group_norm"), _Rule(_group_norm)),
    **_for_all(spellings("instance_norm"), _Rule(_instance_norm)),
    **_for_all(_POOLS, _Rule(_max_pool)),
    **_for_all(spellings("amax", "max"), _Rule(_greatest, along=True)),
}
for _places, _names in _BILINEAR.items():
    _RULES.update(_for_all(spellings(*_names.split()), _Rule(_product, _places)))
_COMPOSITES: dict[Function, Function] = {
    F.multi_head_attention_forward: _opened(F.multi_head_attention_forward),
    F.softmin: lambda x, dim=None, *_, **__: F.softmax(-x, dim),
    **_for_all(spellings("scaled_dot_product_attention"), _attention),
    **_for_all({torch.div, Tensor.div, torch.true_divide, Tensor.true_divide}, _div),
    **_for_all({Tensor.div_, Tensor.true_divide_}, _div_),
    **_for_all({Tensor.__rdiv__, Tensor.__rtruediv__}, lambda x, other: x.reciprocal() * other),
    **_for_all({F.normalize}, _normalize),
    **_for_all(spellings("cosine_similarity"), _cosine_similarity),
    **_for_all({torch.norm, Tensor.norm, torch.linalg.vector_norm}, _norm),
    **_for_all(spellings("var"), _var),
    **_for_all(spellings("std"), _std),
    **_for_all(spellings("maximum"), _maximum),
    **_for_all(spellings("minimum"), _minimum),
    **_for_all(spellings("glu"), _glu),
}
_DATA = Tensor.data.__get__  # type: ignore[attr-defined]
_WITHOUT_RULE = spellings(*_UNRULED.split())
