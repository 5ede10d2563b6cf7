"""Checks what the user passed and brings it into one form, before the model is called."""

from __future__ import annotations

import math
import numbers
import sys
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

TensorOrTuple = Tensor | tuple[Tensor, ...]

_NO_LIMIT = 1 << 62  # rows of a call: so many never are
_OURS = ("fastxai.", "contextlib")  # modules between the user and a warning


class ArgumentError(AssertionError, ValueError):
    """An argument is not what the method takes; the message names it.

    It is a ``ValueError``, and also the ``AssertionError`` that Captum raises in these cases, so
    that code written for either goes on working.
    """


def check(condition: bool, argument: str, expected: str, got: object, *values: object) -> None:
    """Raises an :class:`ArgumentError` that names the argument unless the condition holds.

    ``values`` fill the gaps in ``expected``: nothing is formatted where nothing is wrong.
    """
    if condition:
        return
    got = f"shape {tuple(got)}" if isinstance(got, torch.Size) else got
    raise ArgumentError(f"{argument}: expected {expected.format(*values)}, got {got}")


def warn(message: str) -> None:
    """Warns at the line of the user's that called into fastxai."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals["__name__"].startswith(_OURS):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


@dataclass(frozen=True)
class Inputs:
    """The rows to be explained."""

    tensors: tuple[Tensor, ...]  # each [B, *F_i], detached
    in_tuple: bool  # whether the user passed a tuple, and so expects one back

    @property
    def batch(self) -> int:
        return self.tensors[0].shape[0]

    def in_dtypes_of(self, others: tuple[Tensor, ...]) -> Inputs:
        pairs = zip(self.tensors, others, strict=True)
        return Inputs(tuple([x.to(other.dtype) for x, other in pairs]), self.in_tuple)

    def pack(self, results: Sequence[Tensor]) -> TensorOrTuple:
        """Tensor in, tensor out; tuple in, tuple out."""
        return tuple(results) if self.in_tuple else results[0]


def name_of(argument: str, index: int, in_tuple: bool) -> str:
    return f"{argument}[{index}]" if in_tuple else argument


def check_inputs(
    inputs: TensorOrTuple, differentiable: bool, floating: bool = True, argument: str = "inputs"
) -> Inputs:
    """Checks the inputs: one tensor or a tuple of tensors with one batch size and one device.

    Args:
        inputs: a tensor [B, *F], or a tuple of tensors [B, *F_i].
        differentiable: whether the method takes gradients, which needs tensors that were not made
            in inference mode, and
        floating: whether with respect to them, which needs floating-point tensors.
        argument: what the user calls them.

    Raises:
        ArgumentError: naming the tensor at fault.
    """
    in_tuple = isinstance(inputs, tuple)
    tensors = inputs if isinstance(inputs, tuple) else (inputs,)
    check(len(tensors) > 0, argument, "at least one tensor", "an empty tuple")
    if not _are_fine(tensors, differentiable, floating):
        _check_each(tensors, argument, in_tuple, differentiable, floating)
    detached = tuple([x.detach() for x in tensors])
    for i, x in enumerate(detached):
        _warn_unless_finite(x, argument, i, in_tuple)
    return Inputs(detached, in_tuple)


def _are_fine(tensors: tuple[Any, ...], differentiable: bool, floating: bool) -> bool:
    """What :func:`_check_each` checks, at once."""
    for x in tensors:
        if not isinstance(x, Tensor) or not _is_plain(x) or x.dim() == 0:
            return False
        if x.shape[0] != tensors[0].shape[0] or x.device != tensors[0].device:
            return False
        if differentiable and (x.is_inference() or not (x.is_floating_point() or not floating)):
            return False
    return True


def _check_each(
    tensors: tuple[Any, ...], argument: str, in_tuple: bool, differentiable: bool, floating: bool
) -> None:
    for i, x in enumerate(tensors):
        name = name_of(argument, i, in_tuple)
        if not isinstance(x, Tensor):
            expected = "a torch.Tensor" if in_tuple else "a torch.Tensor or a tuple of them"
            raise ArgumentError(f"{name}: expected {expected}, got a {type(x).__name__}")
        check_dense(x, name)
        check(x.dim() > 0, name, "a batch dimension first", "a tensor without dimensions")
        check(
            x.shape[0] == tensors[0].shape[0],
            name,
            f"the batch size of {argument}[0], {{}}",
            x.shape,
            tensors[0].shape[0],
        )
        check(
            x.device == tensors[0].device,
            name,
            f"the device of {argument}[0], {{}}",
            x.device,
            tensors[0].device,
        )
        check(not x.is_meta, name, "a tensor with values", "one on the meta device")
        if differentiable:
            check(
                x.is_floating_point() or not floating,
                name,
                "floating-point values to differentiate (pass indices and the like in "
                "additional_forward_args)",
                x.dtype,
            )
            check_not_inference(x, name)


def _is_plain(x: Tensor) -> bool:
    return x.layout == torch.strided and not (x.is_nested or x.is_quantized or x.is_meta)


def check_dense(x: Tensor, name: str) -> None:
    kind = "nested" if x.is_nested else "quantised" if x.is_quantized else x.layout
    check(kind == torch.strided, name, "a dense tensor", kind)


def check_baselines(
    baselines: Any, inputs: Inputs, argument: str = "baselines"
) -> tuple[Tensor, ...]:
    """Brings the baselines into the form [B, *F_i] or [1, *F_i], in the inputs' dtype and device.

    Integer inputs and fractional baselines come in the dtype that holds both.

    Args:
        baselines: None (zeros), a number, a tensor of the input's shape or that broadcasts to it,
            or a tuple of those, one for each input.
        inputs: the checked inputs.
        argument: what the user calls them.

    Raises:
        ArgumentError: naming the baseline at fault.
    """
    if baselines is None:
        return tuple([x.new_zeros(1, *x.shape[1:]) for x in inputs.tensors])
    if not isinstance(baselines, tuple):
        baselines = (baselines,)
    check(
        len(baselines) == len(inputs.tensors),
        argument,
        "one for each of the {} inputs",
        len(baselines),
        len(inputs.tensors),
    )
    pairs = zip(baselines, inputs.tensors, strict=True)
    return tuple(
        _check_baseline(b, x, name_of(argument, i, inputs.in_tuple))
        for i, (b, x) in enumerate(pairs)
    )


def _check_baseline(baseline: Any, x: Tensor, name: str) -> Tensor:
    one_row = (1, *x.shape[1:])
    if isinstance(baseline, numbers.Number | np.generic):
        return _check_number(baseline, x, name).expand(one_row).clone()
    check(isinstance(baseline, Tensor), name, "a number or a torch.Tensor", type(baseline).__name__)
    check_dense(baseline, name)
    check(baseline.device == x.device, name, "the input's device, {}", baseline.device, x.device)
    check_not_inference(baseline, name)
    lead = x.dim() - baseline.dim()
    shape = (*[1] * lead, *baseline.shape)
    check(
        lead >= 0 and all(b in (1, n) for b, n in zip(shape, x.shape, strict=True)),
        name,
        "the input's shape {}, or one that broadcasts to it, as one row {} does",
        baseline.shape,
        tuple(x.shape),
        one_row,
    )
    _check_real(baseline, x, name)
    baseline = baseline.detach().reshape(shape).expand(shape[0], *x.shape[1:])
    _warn_unless_finite(baseline, name)
    return baseline.to(_dtype_for(baseline, x))


def _check_number(number: Any, x: Tensor, name: str) -> Tensor:
    """A number as a tensor without dimensions."""
    if isinstance(number, np.generic):
        number = number.item()
    if isinstance(number, numbers.Integral) and not isinstance(number, bool | int):
        number = int(number)
    try:
        if isinstance(number, int) and not isinstance(number, bool) and x.is_floating_point():
            number = float(number)  # torch takes integers of 64 bits only
        return torch.full((), number, dtype=_dtype_for(number, x), device=x.device)
    except (OverflowError, RuntimeError, TypeError, ValueError) as error:
        dtype = str(x.dtype).removeprefix("torch.")
        raise ArgumentError(
            f"{name}: expected a number that {dtype} can hold, got {number!r}"
        ) from error


def _check_real(values: Tensor, x: Tensor, name: str) -> None:
    """Complex numbers can stand for complex numbers, not for real ones."""
    fits = not (values.is_complex() and x.is_floating_point())
    check(fits, name, "real values, as the input's", values.dtype)


def _dtype_for(baseline: Any, x: Tensor) -> torch.dtype:
    """The input's dtype; if that is of integers and the baseline is not, one that holds both."""
    if x.is_floating_point() or x.is_complex():
        return x.dtype
    value = torch.as_tensor(baseline)
    held = torch.equal(value.to(x.dtype).to(value.dtype), value)
    return x.dtype if held else torch.result_type(x, baseline)


@dataclass(frozen=True)
class FeatureGroups:
    """Which features of the inputs are present and absent together: the players of a game."""

    masks: tuple[Tensor, ...]  # each [B, *F_i] or [1, *F_i] int32: a feature's group, 0..count-1
    count: int  # M
    ids: Tensor | None  # [M] int64, the user's ids in order; None if they are 0..M-1

    @property
    def one_for_all(self) -> bool:
        """Whether all rows of the batch are grouped alike."""
        return all(mask.shape[0] == 1 for mask in self.masks)

    def of(self, examples: slice | Tensor) -> FeatureGroups:
        """The groups of some examples of the batch, a slice or [k] int64."""
        if self.one_for_all:
            return self
        chosen = (mask if mask.shape[0] == 1 else mask[examples] for mask in self.masks)
        return FeatureGroups(tuple(chosen), self.count, self.ids)

    def spread(self, values: Tensor) -> tuple[Tensor, ...]:  # [B, *C, M]
        """Every group's value at each of its features, [B, *C, *F_i] for each input."""
        return tuple(_spread(values, mask) for mask in self.masks)

    def by_id(self, values: Tensor) -> Tensor:  # [B, *C, M]
        """Values arranged by the user's ids from the least on, zero where there is none.

        [B, *C, greatest id − least id + 1], as Captum has it.
        """
        if self.ids is None:
            return values
        place = (self.ids - self.ids[0]).to(values.device)
        out = values.new_zeros(*values.shape[:-1], int(place[-1]) + 1)
        out[..., place] = values
        return out


def _spread(values: Tensor, mask: Tensor) -> Tensor:
    if mask.shape[0] == 1:
        flat = values.index_select(-1, mask.flatten())
        return flat.reshape(*values.shape[:-1], *mask.shape[1:])
    outputs = values.shape[1:-1]
    index = mask.long().reshape(mask.shape[0], *[1] * len(outputs), mask.shape[1:].numel())
    index = index.expand(values.shape[0], *outputs, -1)
    return values.gather(-1, index).reshape(*values.shape[:-1], *mask.shape[1:])


def check_feature_mask(feature_mask: Any, inputs: Inputs) -> FeatureGroups:
    """Brings a feature mask into one form; without one, every feature is a group.

    Args:
        feature_mask: None, a tensor of whole numbers that broadcasts to the input, with one row for
            all or one for each, or a tuple of them, one for each input. Features with the same id
            belong together, across the tensors of a tuple too; ids may have gaps.
        inputs: the checked inputs.

    Raises:
        ArgumentError: naming the mask at fault.
    """
    if feature_mask is None:
        return _each_feature(inputs)
    masks = feature_mask if isinstance(feature_mask, tuple) else (feature_mask,)
    wanted = len(inputs.tensors)
    check(len(masks) == wanted, "feature_mask", "one for each of the {} inputs", len(masks), wanted)
    names = [name_of("feature_mask", i, isinstance(feature_mask, tuple)) for i in range(wanted)]
    triples = zip(masks, inputs.tensors, names, strict=True)
    aligned = [_check_mask(mask, x, name) for mask, x, name in triples]
    flat = torch.cat([mask.flatten() for mask in aligned])
    if inputs.batch == 0 and flat.numel() == 0:  # masks for each of no examples
        return _each_feature(inputs)
    check(flat.numel() > 0, "feature_mask", "at least one feature", "none")
    ids, players = torch.unique(flat, return_inverse=True)
    parts = players.to(torch.int32).split([mask.numel() for mask in aligned])
    numbered = (p.reshape(mask.shape) for p, mask in zip(parts, aligned, strict=True))
    full = tuple(
        mask.expand(mask.shape[0], *x.shape[1:]).contiguous()
        for mask, x in zip(numbered, inputs.tensors, strict=True)
    )
    count = ids.numel()
    return FeatureGroups(full, count, None if int(ids[-1]) == count - 1 else ids)


def _each_feature(inputs: Inputs) -> FeatureGroups:
    sizes = [x.shape[1:].numel() for x in inputs.tensors]
    count = sum(sizes)
    check(count > 0, "inputs", "at least one feature", inputs.tensors[0].shape)
    every = torch.arange(count, dtype=torch.int32, device=inputs.tensors[0].device)
    pairs = zip(every.split(sizes), inputs.tensors, strict=True)
    return FeatureGroups(tuple(p.reshape(1, *x.shape[1:]) for p, x in pairs), count, None)


def _check_mask(mask: Any, x: Tensor, name: str) -> Tensor:
    check(isinstance(mask, Tensor), name, "an integer torch.Tensor", type(mask).__name__)
    check_dense(mask, name)
    check(not mask.is_meta, name, "a tensor with values", "one on the meta device")
    check(not mask.is_complex() and mask.dtype != torch.bool, name, "integer ids", mask.dtype)
    lead = x.dim() - mask.dim()
    shape = (*[1] * lead, *mask.shape)
    fits = lead >= 0 and all(m in (1, n) for m, n in zip(shape, x.shape, strict=True))
    check(fits, name, "a shape that broadcasts to the input's, {}", mask.shape, tuple(x.shape))
    mask = mask.detach()
    if mask.is_floating_point():  # as zeros_like makes one of an input
        whole = mask.isfinite().all() and bool((mask == mask.round()).all())
        small = mask.numel() == 0 or bool(mask.abs().max() < 2**31)
        check(bool(whole), name, "whole numbers", "others")
        check(small, name, "ids below 2**31", "greater ones")
    mask = mask.to(x.device, torch.int64).reshape(shape)
    if mask.numel() > 0:
        least, greatest = (int(i) for i in mask.aminmax())
        check(least >= 0, name, "ids of at least 0", least)
        check(greatest < 2**31, name, "ids below 2**31", greatest)
    return mask


def check_background(
    background: Any, inputs: Inputs, argument: str = "background"
) -> tuple[Tensor, ...]:
    """Brings several rows that stand for absent features into the inputs' dtype.

    Args:
        background: a tensor [K, *F], or a tuple of tensors [K, *F_i], one for each input.
        inputs: the checked inputs.
        argument: what the user calls it.

    Raises:
        ArgumentError: naming the tensor at fault.
    """
    in_tuple = isinstance(background, tuple)
    tensors = background if isinstance(background, tuple) else (background,)
    wanted = len(inputs.tensors)
    check(len(tensors) == wanted, argument, "one for each of {} inputs", len(tensors), wanted)
    for i, (rows, x) in enumerate(zip(tensors, inputs.tensors, strict=True)):
        name = name_of(argument, i, in_tuple)
        check(isinstance(rows, Tensor), name, "a torch.Tensor", type(rows).__name__)
        check_dense(rows, name)
        check(rows.device == x.device, name, "the input's device, {}", rows.device, x.device)
        _check_real(rows, x, name)
        k = tensors[0].shape[0] if tensors[0].dim() > 0 else 0
        wide = rows.dim() > 0 and rows.shape[1:] == x.shape[1:] and rows.shape[0] == k and k > 0
        shape = tuple(x.shape[1:])
        check(
            wide, name, "at least one row, as many for each input, of shape {}", rows.shape, shape
        )
    pairs = zip(tensors, inputs.tensors, strict=True)
    return tuple(rows.detach().to(_dtype_for(rows, x)) for rows, x in pairs)


def check_forward_args(additional_forward_args: Any, differentiable: bool) -> tuple[Any, ...]:
    """The extra arguments as a tuple: None is none, anything but a tuple is one argument."""
    if additional_forward_args is None:
        return ()
    in_tuple = isinstance(additional_forward_args, tuple)
    arguments = additional_forward_args if in_tuple else (additional_forward_args,)
    for i, argument in enumerate(arguments):
        if differentiable and isinstance(argument, Tensor):
            check_not_inference(argument, name_of("additional_forward_args", i, in_tuple))
    return tuple(arguments)


def check_count(value: Any, argument: str, at_least: int = 1, below: int | None = 2**31) -> int:
    """Checks a number of steps, rows or samples; one that is but a limit may be of any size."""
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    fine = is_integer and value >= at_least
    check(fine, argument, "an integer of at least {}", _in_words(value), at_least)
    check(below is None or value < below, argument, "an integer below {:,}", value, below)
    return int(value)


def check_number(value: Any, argument: str, expected: str, *, positive: bool = False) -> float:
    """Checks a finite number of at least 0, or above 0 if it is to be positive."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    fine = is_number and 0 <= value <= sys.float_info.max and not (positive and value == 0)
    check(fine, argument, expected, _in_words(value))
    return float(value)


def check_choice(value: Any, argument: str, choices: Iterable[str]) -> str:
    """Checks one of some words."""
    known = list(choices)
    fine = isinstance(value, str) and value in known
    check(fine, argument, "one of {}", _in_words(value), ", ".join(known))
    return str(value)


def _in_words(value: Any) -> Any:
    """What a message says was got: of a tensor not its numbers."""
    if isinstance(value, Tensor | np.ndarray):
        return f"a {type(value).__name__}"
    return repr(value) if isinstance(value, str) else value


def check_limit(value: Any, batch: int = 1, argument: str = "perturbations_per_eval") -> int | None:
    """Rows a call at most, if what is counted is of so many rows; None for None."""
    if value is None:
        return None
    return min(check_count(value, argument, below=None), _NO_LIMIT) * max(1, batch)


def check_stdevs(stdevs: Any, inputs: Inputs) -> tuple[float, ...]:
    """The standard deviation of the noise for each input, from one number or a tuple of them.

    Raises:
        ArgumentError: if one is negative, not finite or not a number, or there are too few or many.
    """
    in_tuple = isinstance(stdevs, tuple)
    each = stdevs if in_tuple else (stdevs,) * len(inputs.tensors)
    wanted = len(inputs.tensors)
    check(len(each) == wanted, "stdevs", "one for each of the {} inputs", len(each), wanted)
    for i, stdev in enumerate(each):
        check_number(stdev, name_of("stdevs", i, in_tuple), "a finite number of at least 0")
    return tuple(map(float, each))


def check_seed(seed: Any) -> int:
    """The seed as an integer in [0, 2**63); None draws one from torch's default CPU generator."""
    if seed is None:
        return int(torch.randint(2**63 - 1, (), device="cpu"))
    fine = isinstance(seed, numbers.Integral) and not isinstance(seed, bool)
    check(fine, "seed", "an integer or None", seed)
    return int(seed) % 2**63


def check_not_inference(tensor: Tensor, name: str) -> None:
    check(
        not tensor.is_inference(),
        name,
        "a tensor that autograd can use",
        "one made under torch.inference_mode(), which cannot be differentiated: clone() it outside",
    )


def _warn_unless_finite(tensor: Tensor, name: str, index: int = 0, in_tuple: bool = False) -> None:
    # Only where looking is free: on an accelerator it would make every call wait for the device.
    if tensor.device.type != "cpu" or not tensor.is_floating_point() or tensor.is_inference():
        return
    if math.isfinite(tensor.sum()):  # one cheap pass; one that overflows looks again
        return
    bad = ~torch.isfinite(tensor.reshape(tensor.shape[0], -1))
    rows = bad.any(1).nonzero().flatten().tolist()
    if rows:
        name = name_of(name, index, in_tuple)
        warn(
            f"{name}: NaN or infinite values in rows {short_list(rows)}; their attributions may not"
            " be finite, other rows are not affected"
        )


def short_list(rows: list[int]) -> str:
    return ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")
