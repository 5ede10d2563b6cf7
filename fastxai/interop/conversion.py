"""Arguments as people bring them, as the tensors that methods take; and their answers back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..core.checks import ArgumentError, check
from ..core.modules import modules_of
from .calls import by_keyword, on_arrays, on_table
from .models import place_of
from .tables import Table, as_array, as_numpy, is_frame, is_series, is_sparse

_PLAIN = (Tensor, int, float, bool, type(None))
PLAIN = frozenset(_PLAIN)
# What is brought into the form of the inputs, and what is of whole numbers.
_LIKE_INPUTS, _MASK, _EXTRA = ("baselines", "background"), "feature_mask", "additional_forward_args"
_WEIGHTS = "background_weights"


def is_plain(value: Any) -> bool:
    """Whether methods take it as it is: tensors, numbers, tuples of them."""
    if type(value) is tuple:
        return PLAIN.issuperset(map(type, value))
    return type(value) in PLAIN


@dataclass
class Conversion:
    """A call with tensors in the place of what the user brought.

    Args:
        function: the model, which takes those tensors.
        arguments: by name.
        to_numpy: whether answers are to be numpy arrays, as the inputs were.
        keys: of inputs in a dict, all of which are explained.
        data: the inputs as arrays; None where they came as tensors.
        feature_names: of the columns of a DataFrame.
        output_names: of the classes of a classifier.
    """

    function: Callable[..., Any]
    arguments: dict[str, Any]
    to_numpy: bool = False
    keys: tuple[Any, ...] | None = None
    data: Any = None
    feature_names: list[str] | None = None
    output_names: list[str] | None = None

    def back(self, values: Any) -> Any:
        """Attributions, with a convergence delta perhaps, in the form of the inputs."""
        if self.to_numpy:
            values = tree_map(lambda v: as_numpy(v) if isinstance(v, Tensor) else v, values)
        if self.keys is None or not isinstance(values, tuple):
            return values
        if isinstance(values[0], tuple):  # those of all inputs, and the delta
            return (dict(zip(self.keys, values[0], strict=True)), *values[1:])
        return dict(zip(self.keys, values, strict=True))


@dataclass(frozen=True)
class Asks:
    """What a method asks of its model.

    Args:
        differentiates: whether it takes gradients, or adds noise, so that inputs must be floats.
        of_inputs: whether it is about the inputs, and not about a layer.
        takes_tensors: whether the model must take tensors, as it is differentiated.
    """

    differentiates: bool
    of_inputs: bool
    takes_tensors: bool


def convert(model: Any, arguments: Mapping[str, Any], asks: Asks) -> Conversion:
    """Takes a call of a method with arguments in any form.

    A module is given tensors on its device, numbers with a fraction in its dtype. Any other
    function is given what the user brought, arrays or a DataFrame, unless gradients are asked for:
    those are known of tensors only.

    Args:
        model: a function, a module, or an estimator with ``predict_proba`` or ``predict``.
        arguments: of the method, by name, ``inputs`` among them.
        asks: what the method asks of the model.

    Raises:
        ArgumentError: naming the argument, and the column of a DataFrame, at fault.
    """
    inputs = arguments["inputs"]
    if isinstance(inputs, Mapping) and not is_sparse(inputs):
        return _of_mapping(model, arguments, asks)
    if any(map(_is_table, (inputs, arguments.get("background")))):
        return _of_table(model, arguments, asks)
    into = _Into(model, asks)
    tensors = into.tensors(inputs, "inputs")
    came_as_tensors = all(isinstance(x, Tensor) for x in _each(inputs))
    converted = {**arguments, "inputs": tensors}
    for name in _LIKE_INPUTS:
        if not callable(arguments.get(name)) and name in arguments:
            converted[name] = into.tensors(arguments[name], name)
    _convert_masks(converted, into.device)
    first = next(iter(_each(tensors)), None)
    batch = first.shape[0] if isinstance(first, Tensor) and first.dim() else 0
    extra, are_arrays = into.extra(arguments.get(_EXTRA), batch)
    if _EXTRA in arguments:
        converted[_EXTRA] = extra
    function = model
    if not callable(model) or not (into.module or asks.takes_tensors or came_as_tensors):
        function = on_arrays(model, are_arrays)
    elif any(are_arrays) and not into.module:
        raise ArgumentError(
            f"{_EXTRA}: expected tensors, as the inputs are tensors, got a numpy.ndarray"
        )
    data = None if came_as_tensors else into.arrays(inputs)
    return Conversion(function, converted, not came_as_tensors, data=data)


class _Into:
    """Brings arrays into tensors for a model."""

    def __init__(self, model: Any, asks: Asks):
        modules = modules_of(model)
        self.module = modules[0] if modules else None
        self.dtype, self.device = (
            (None, torch.device("cpu")) if self.module is None else place_of(self.module)
        )
        # Integers cannot be differentiated.
        self._to_floats = asks.differentiates and asks.of_inputs

    def tensors(self, values: Any, argument: str) -> Any:
        """A tensor for an array or a list of numbers; in a tuple for those in a tuple."""
        if isinstance(values, tuple):
            pairs = enumerate(values)
            return tuple(self._tensor(v, f"{argument}[{i}]") for i, v in pairs)
        return self._tensor(values, argument)

    def arrays(self, values: Any) -> Any:
        """Copies, as the user may write to his own."""
        if isinstance(values, tuple):
            return tuple(map(self.arrays, values))
        array = as_array(values)
        return np.array(array, dtype=_in_torch(array, "inputs"))

    def extra(self, values: Any, batch: int) -> tuple[Any, list[bool]]:
        """Extra arguments with tensors for the arrays that have a row for each example."""
        if values is None:
            return None, []
        each = values if isinstance(values, tuple) else (values,)
        own = [isinstance(v, np.ndarray) and v.ndim > 0 and len(v) == batch for v in each]
        return tuple(
            self._tensor(v, f"{_EXTRA}[{i}]", any_dtype=True) if is_own else v
            for i, (v, is_own) in enumerate(zip(each, own, strict=True))
        ), own

    def _tensor(self, value: Any, argument: str, any_dtype: bool = False) -> Any:
        if isinstance(value, (_PLAIN, np.generic)):
            return value
        if is_series(value) or is_frame(value):
            value = value.to_numpy()
        value = value.toarray() if is_sparse(value) else value
        is_list = isinstance(value, list)
        is_array = is_list or isinstance(value, np.ndarray) or hasattr(value, "__array__")
        if not is_array or (is_list and any(isinstance(v, Tensor) for v in value)):
            return value  # which the method's own checks refuse by name
        try:
            array = as_array(value)
        except ValueError as error:
            raise ArgumentError(f"{argument}: expected rows of one length, got others") from error
        fits = array.dtype.kind in "biufc"
        check(fits, argument, "numbers", f"values such as {_first(array)!r}")
        # A copy, as arrays may be read-only, or run backwards.
        tensor = torch.from_numpy(np.array(array, dtype=_in_torch(array, argument)))
        if any_dtype and self.module is None:
            return tensor
        is_of_floats = tensor.is_floating_point() or (self._to_floats and not tensor.is_complex())
        if is_of_floats and (self.module is not None or not tensor.is_floating_point()):
            tensor = tensor.to(self.dtype or torch.get_default_dtype())
        return tensor.to(self.device)


def _of_table(model: Any, arguments: Mapping[str, Any], asks: Asks) -> Conversion:
    """A call with a DataFrame, a column of it, or a sparse matrix."""
    inputs, background = arguments["inputs"], arguments.get("background")
    shape: Any = background if _is_table(background) and not is_series(background) else inputs
    if is_series(shape):
        shape = shape.to_frame().T.infer_objects()
    table, _ = Table.of(shape, "inputs" if shape is inputs else "background")
    taken = table.take(inputs, "inputs")
    table = taken.table
    converted = {**arguments, "inputs": taken.numbers}
    of_words = next((c for c in table.columns if c.values is not None), None)
    text = None if of_words is None else of_words.name
    for name in _LIKE_INPUTS:
        value = arguments.get(name)
        if isinstance(value, np.ndarray | np.generic) and value.ndim == 0:
            converted[name] = value = value.item()
        if name in arguments and not (value is None or isinstance(value, int | float)):
            # Of one more category, say.
            rows = table.take(value, name)
            table, converted[name] = rows.table, rows.numbers
    modules = modules_of(model)
    if modules or asks.differentiates:
        expected = "columns of numbers, as the method or the model takes no other"
        got = "" if of_words is None else f"column {text!r} of {of_words.dtype}"
        check(of_words is None, "inputs", expected, got)
    if modules or asks.takes_tensors:
        dtype, device = place_of(modules[0]) if modules else (None, torch.device("cpu"))
        dtype = dtype or torch.get_default_dtype()
        names = [n for n in ("inputs", *_LIKE_INPUTS) if isinstance(converted.get(n), Tensor)]
        converted.update({n: converted[n].to(device, dtype) for n in names})
        function = model
    else:
        if text is not None and arguments.get("background") is None and "baselines" in arguments:
            has_rows = isinstance(converted["baselines"], Tensor)
            expected = "rows to take the place of absent features, as column {!r} is not of numbers"
            check(has_rows, "baselines", expected, repr(converted["baselines"]), text)
        table = table.without_integers() if asks.differentiates else table
        device, function = torch.device("cpu"), on_table(model, table)
    _convert_masks(converted, device)
    columns = None if table.names is None else list(table.names)
    to_numpy = not isinstance(inputs, Tensor)
    return Conversion(
        function, converted, to_numpy, None, _shown(inputs, taken.numbers, text), columns
    )


def _shown(rows: Any, numbers: Tensor, text: Any) -> Any:  # [n, M]
    """Rows as an explanation shows them: numbers, or objects where a column has words."""
    if text is None:
        return numbers.numpy().copy()
    shown = (rows.to_frame().T if is_series(rows) else rows).astype(object)
    return np.where(shown.isna(), np.nan, shown.to_numpy())


def _of_mapping(model: Any, arguments: Mapping[str, Any], asks: Asks) -> Conversion:
    """A call with a dict, as tokenizers return: the model is called with its entries by name."""
    given, name = dict(arguments["inputs"]), "inputs"
    check(len(given) > 0, name, "at least one tensor", "an empty dict")
    for key, value in given.items():
        check(isinstance(key, str), name, "names of the model's arguments as keys", repr(key))
        given[key] = _rows_of_numbers(value, f"{name}[{key!r}]")
    beside = arguments.get(_EXTRA) is None
    check(beside, _EXTRA, "None, as inputs in a dict have those arguments too", "some")
    main = _main_input(model, given)
    explained = [main] if main is not None else [k for k, v in given.items() if _is_rows(v)]
    check(len(explained) > 0, name, "at least one tensor", f"none among {', '.join(given)}")
    others = [key for key in given if key not in explained]
    function = by_keyword(model, [*explained, *others])
    aligned = {n: v for n, v in arguments.items() if n in (*_LIKE_INPUTS, _MASK)}
    for argument, value in aligned.items():
        if isinstance(value, Mapping):
            unknown = [key for key in value if key not in explained]
            expected = f"entries of {', '.join(map(str, explained))}"
            check(not unknown, argument, expected, f"{unknown[:1]}")
            missing = [key for key in explained if key not in value and argument != "baselines"]
            check(not missing, argument, "an entry for each input", f"none for {missing[:1]}")
            aligned[argument] = tuple(value.get(key, 0) for key in explained)
            if main is not None:
                (aligned[argument],) = aligned[argument]
    inputs = given[main] if main is not None else tuple(given[key] for key in explained)
    extra = tuple(given[key] for key in others) or None
    plain = {**arguments, **aligned, "inputs": inputs, _EXTRA: extra}
    found = convert(function, plain, asks)
    if main is None and asks.of_inputs:
        found.keys = tuple(explained)
    return found


def _main_input(model: Any, given: Mapping[str, Any]) -> str | None:
    """The entry that is explained, where the others are about it, as an attention mask is."""
    owner = getattr(model, "__self__", model)
    modules = owner.modules() if isinstance(owner, nn.Module) else ()
    names = [getattr(m, "main_input_name", None) for m in modules]
    known = [n for n in (*names, "input_ids", "inputs_embeds", "pixel_values") if n in given]
    return known[0] if known else None


def _convert_masks(arguments: dict[str, Any], device: torch.device) -> None:
    """Has tensors for a mask, and for weights, in arrays or lists."""
    mask, weights = arguments.get(_MASK), arguments.get(_WEIGHTS)
    if weights is not None and not isinstance(weights, Tensor):
        array = np.asarray(weights)
        check(array.dtype.kind in "biuf", _WEIGHTS, "numbers", array.dtype)
        arguments[_WEIGHTS] = torch.from_numpy(array.astype(np.float64)).to(device)
    if mask is None:
        return

    def tensor(value: Any) -> Any:
        if isinstance(value, list) or (
            hasattr(value, "__array__") and not isinstance(value, Tensor)
        ):
            array = np.asarray(value)
            check(array.dtype.kind in "iu", _MASK, "whole numbers", array.dtype)
            return torch.from_numpy(array.astype(np.int64)).to(device)
        return value

    arguments[_MASK] = tuple(map(tensor, mask)) if isinstance(mask, tuple) else tensor(mask)


def _rows_of_numbers(value: Any, argument: str) -> Any:
    """An array for a DataFrame or a list of numbers, as tokenizers return; all else as it is."""
    if is_frame(value) or is_series(value):
        return value.to_numpy()
    if not isinstance(value, list):
        return value
    try:
        array = np.asarray(value)
    except ValueError as error:
        expected = "rows of one length (padding=True makes them so)"
        raise ArgumentError(f"{argument}: expected {expected}, got others") from error
    return array if array.dtype.kind in "biuf" else value


def _is_table(value: Any) -> bool:
    return is_frame(value) or is_series(value) or is_sparse(value)


def _is_rows(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray) and value.ndim > 0


def _each(values: Any) -> Sequence[Any]:
    return values if isinstance(values, tuple) else (values,)


def _in_torch(array: np.ndarray, argument: str) -> np.dtype:
    """The dtype that torch computes with for an array's."""
    dtype: np.dtype = array.dtype.newbyteorder("=")
    if dtype.kind == "u" and dtype.itemsize > 1:
        fits = array.size == 0 or int(array.max()) < 2**63
        check(fits, argument, "integers below 2^63", array.max() if array.size else 0)
        return np.dtype(np.int32 if dtype.itemsize == 2 else np.int64)
    if dtype.kind in "fc" and dtype.itemsize > 8 * (1 + (dtype.kind == "c")):  # long double
        return np.dtype(np.float64 if dtype.kind == "f" else np.complex128)
    return dtype


def _first(array: np.ndarray) -> Any:
    return array.flat[0] if array.size else array.dtype
