"""What an explanation holds beside the attributions."""

from __future__ import annotations

import math
import numbers
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ..core.checks import TensorOrTuple, check
from ..core.named_axes import cut, names_array, places
from ..interop.tables import as_numpy


@dataclass(frozen=True)
class Result:
    """What a method has to tell. What it does not know by itself is None."""

    values: tuple[Tensor, ...]  # each [B, *C, *F_i], or as attribute documents it
    outputs: Tensor | None = None  # [B, *C]
    baseline_outputs: Tensor | None = None  # [B, *C]
    convergence_delta: Tensor | None = None  # [B, *C]
    standard_errors: tuple[Tensor, ...] | None = None  # as values
    samples: Tensor | None = None  # [B] int64
    players: Tensor | None = None  # [B] int64
    reached: Tensor | None = None  # [B] float64
    tier: str | None = None
    form: Callable[[Sequence[Tensor]], Any] | None = None  # of what is returned, if not the inputs'


@dataclass(frozen=True, eq=False)  # what is equal, tensors must be asked
class Explanation:
    """What :meth:`Attribution.explain` found.

    ``e[3]`` is about one row, without the dimension for rows; ``e[:5]``, ``e[mask]`` and
    ``e[[2, 0]]`` are about some; ``e[:, "age"]`` is about one feature and ``e[..., "cat"]`` about
    one of several outputs. Indices come in shap's order: rows, features, outputs, wherever
    ``values`` has the outputs. Explanations of several inputs or layers have no axis of features.
    For inputs as numpy arrays or DataFrames it has arrays where tensors are said below.
    ``len(e)`` counts the rows. Two are equal if all fields are, NaN being equal to NaN, on whatever
    devices they are; none can be a key of a dict. Notebooks show a table, or a picture.

    Attributes:
        values: the attributions, as :meth:`Attribution.attribute` returns them: a tensor [B, *F],
            or [B, *C, *F] where several outputs are explained at once; a tuple of them for a tuple
            of inputs; by layer for a method of layers.
        outputs: the explained output for each input, [B], or [B, *C] where a method explains
            several at once.
        baseline_outputs: the same at the baselines, or its mean over the background; None for a
            method without baselines.
        convergence_delta: Σ attributions − (output − baseline output): how far the attributions
            are from adding up, each feature group counted once. None for a method that does not
            promise to.
        standard_errors: how far the values may be off because not all coalitions were evaluated,
            one standard deviation, in the values' form; None for a method that does not sample.
        method: the method's name, "Integrated Gradients".
        seconds: wall time of the attribution.
        samples: how many samples each example took, [B] int64; None for a method that does not
            sample.
        players: how many groups of features (or windows) of each example differ from the baseline,
            [B] int64. The others have exactly zero, and cost no samples. None for a method that
            does not put baselines in the place of groups.
        reached: the largest standard error of each example, as a share of the range of its values
            and zero, [B] float64; None where standard errors are not known.
        tier: how the values were found from the outputs, where there are several ways:
            :class:`KernelShap` tells which. With samples by tolerance it is that of the last round;
            if examples with fewer players have a simpler one, the most accurate.
        data: the inputs, a tensor [B, *F] or a tuple of them; a copy; for a DataFrame with words an
            array of objects. None where attributions are
            those of layers or groups.
        feature_names: a name for each feature of a row, in order, those of several inputs one after
            the other; or for each place along the last dimension of a row.
        output_names: a name for each of the explained outputs C, or of the model's classes.
        target: what was explained: None, an int, a tensor or list with one for each row, ...
        is_row: whether it is about one row and has no dimension for rows, as ``e[3]``.
    """

    values: Any
    outputs: Tensor
    baseline_outputs: Tensor | None
    convergence_delta: Tensor | None
    standard_errors: TensorOrTuple | None
    method: str
    seconds: float
    samples: Tensor | None = None
    players: Tensor | None = None
    reached: Tensor | None = None
    tier: str | None = None
    data: TensorOrTuple | None = None
    feature_names: Sequence[str] | None = None
    output_names: Sequence[str] | None = None
    target: Any = None
    is_row: bool = False

    def __post_init__(self) -> None:
        for field in ("feature_names", "output_names"):
            names = getattr(self, field)
            if names is not None:
                is_text = isinstance(names, str)
                check(not is_text, field, "a sequence of names", "one string")
                object.__setattr__(self, field, tuple(map(str, names)))

    @property
    def _has_arrays(self) -> bool:
        """Whether it holds numpy arrays, as the inputs were."""
        return any(isinstance(leaf, np.ndarray) for leaf in tree_leaves(self.values))

    def __len__(self) -> int:
        sizes = _Axes(with_rows(self)).sizes[int(self.is_row) :]
        if not sizes:
            raise TypeError("an explanation of one row has no length without one axis of features")
        return sizes[0]

    def __getitem__(self, key: Any) -> Explanation:
        given = key if isinstance(key, tuple) else (key,)
        part = _Axes(with_rows(self)).part((0, *given) if self.is_row else given)
        return as_arrays(part) if self._has_arrays else part

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Explanation):
            return NotImplemented
        return all(_equal(getattr(self, f.name), getattr(other, f.name)) for f in fields(self))

    __hash__ = None  # type: ignore[assignment]  # tensors may change

    def to_shap(
        self, feature_names: Sequence[str] | None = None, output_names: Sequence[str] | None = None
    ) -> Any:
        """Makes a ``shap.Explanation``, which all of shap's plots take. Needs shap.

        Its arrays are float64. Values are [N, F], or [N, F, C] where several outputs are explained;
        features of more dimensions keep them unless all have names. Several inputs become one:
        the features of all of them, one after the other, so that they still add up. Base values
        are the outputs at the baselines; for a method without baselines, what the attributions
        leave over of the output. Data that has not the values' form (of layers, of groups as
        ``return_input_shape=False`` gives them) is left out.

        Args:
            feature_names: one for each feature; None for those of the explanation, or "Feature 0".
            output_names: one for each output; None for those of the explanation.

        Returns:
            A ``shap.Explanation``.

        Raises:
            ImportError: shap is not installed.
            ArgumentError: there are as many names as something else; or the values are those of a
                list of layers.

        Example:
            >>> found = fastxai.KernelShap(model).explain(x)
            >>> shap.plots.waterfall(found[3].to_shap(feature_names=names))
        """
        from ._explanation_to_shap import to_shap

        whole = with_rows(self)
        return to_shap(whole, targets_of(whole), self.is_row, feature_names, output_names)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a file for :meth:`load`. Needs safetensors.

        It is one of safetensors, with the rest as JSON in its header: no code. It is written whole
        or not at all, and replaces what was there. Tensors come back on the CPU.

        Args:
            path: where to; its folder must exist.

        Raises:
            ImportError: safetensors is not installed.
            ArgumentError: something cannot be written: a complex tensor, or a target that is none.
        """
        from ._explanation_file import write

        whole = as_tensors(self)
        held = {f.name: getattr(whole, f.name) for f in fields(self)}
        write(path, held | {"is_numpy": self._has_arrays})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Explanation:
        """Reads what :meth:`save` wrote; a file from elsewhere can do no harm. Needs safetensors.

        Args:
            path: the file.

        Returns:
            The explanation, which is equal to the one that was saved.

        Raises:
            ImportError: safetensors is not installed.
            OSError: there is no such file.
            ArgumentError: it is damaged, something else wrote it, or another version did.
        """
        from ._explanation_file import read

        held = read(path)
        is_numpy = held.pop("is_numpy")
        found = cls(**held)
        return as_arrays(found) if is_numpy else found

    def _repr_html_(self) -> str:
        """What notebooks show."""
        from ._explanation_html import page

        whole = with_rows(self)
        return page(whole, targets_of(whole), repr(self))

    def __repr__(self) -> str:
        found = as_tensors(self)
        shapes = ", ".join(str(tuple(v.shape)) for v in tree_leaves(found.values))
        delta = found.convergence_delta
        worst = (
            f", convergence_delta up to {delta.abs().max():.2g}"
            if delta is not None and delta.numel()
            else ""
        )
        sampled = ""
        if found.samples is not None and found.samples.numel():
            sampled = f", {found.samples.max():,} samples"
        if found.players is not None and found.players.numel():
            least, most = found.players.min(), found.players.max()
            sampled += f", {least:,} to {most:,} players" if least < most else f", {most:,} players"
        if found.reached is not None and found.reached.numel():
            sampled += f", standard errors up to {found.reached.max():.2%}"
        if found.tier is not None:
            sampled += f", {found.tier} tier"
        milliseconds = f"{self.seconds * 1e3:.3g} ms"
        return f"Explanation({self.method}: values {shapes}{worst}{sampled}, {milliseconds})"


def as_tensors(explanation: Explanation) -> Explanation:
    """The same with tensors for arrays of numbers; data may be of words as well."""

    def tensor(value: Any) -> Any:
        is_words = isinstance(value, np.ndarray) and value.dtype == object
        return value if is_words else torch.as_tensor(value)

    if not explanation._has_arrays:
        return explanation
    changed = {name: mapped(tensor, getattr(explanation, name)) for name in _BY_ROW}
    return replace(explanation, **changed)


def as_arrays(explanation: Explanation) -> Explanation:
    """The same with numpy arrays for tensors."""

    def array(value: Any) -> Any:
        return as_numpy(value) if isinstance(value, Tensor) else value

    changed = {name: mapped(array, getattr(explanation, name)) for name in _BY_ROW}
    return replace(explanation, **changed)


def with_rows(explanation: Explanation) -> Explanation:
    """The same with a dimension for rows first and, in all values, one for each of the outputs.

    It has tensors, even if the explanation has arrays.
    """
    found = as_tensors(explanation)
    if found.is_row:
        changed = {f: mapped(lambda t: t[None], getattr(found, f)) for f in _BY_ROW}
        target = found.target[None] if isinstance(found.target, Tensor) else found.target
        found = replace(found, **changed, target=target, is_row=False)
    outputs, first = found.outputs, tree_leaves(found.values)[0]
    targets = tuple(outputs.shape[1:])
    if not targets or tuple(first.shape[1 : 1 + len(targets)]) == targets:
        return found
    if math.prod(targets) == 1:  # some methods leave it out, others say it
        rows = {f: mapped(lambda t: t.flatten(), getattr(found, f)) for f in _OF_OUTPUTS}
        return replace(found, **rows)
    if len(first) == outputs.numel():  # the outputs of an example one after the other, as Captum
        shape = tuple(outputs.shape)
        apart = {
            f: mapped(lambda t: t.unflatten(0, shape), getattr(found, f))
            for f in ("values", "standard_errors")
        }
        return replace(found, **apart)
    return found


_OF_OUTPUTS = ("outputs", "baseline_outputs", "convergence_delta")
_BY_ROW = ("values", "standard_errors", "data", *_OF_OUTPUTS, "samples", "players", "reached")


def targets_of(explanation: Explanation) -> tuple[int, ...]:
    """C of values [B, *C, *F], for an explanation :func:`with_rows`."""
    targets = tuple(explanation.outputs.shape[1:])
    first = tree_leaves(explanation.values)[0]
    return targets if tuple(first.shape[1 : 1 + len(targets)]) == targets else ()


class _Axes:
    """The axes that an explanation :func:`with_rows` is indexed by."""

    def __init__(self, whole: Explanation):
        self.whole = whole
        self.targets = targets_of(whole)
        self.features: tuple[int, ...] = ()
        if isinstance(whole.values, Tensor):
            self.features = tuple(whole.values.shape[1 + len(self.targets) :])
        rows = max([len(leaf) for leaf in tree_leaves(whole.values)], default=0)
        self.sizes = (rows, *self.features, *self.targets)

    def part(self, key: tuple[Any, ...]) -> Explanation:
        whole, f, c = self.whole, len(self.features), len(self.targets)
        axes = ("row", *["feature"] * f, *["output"] * c)
        names = [None, *_names_along(whole.feature_names, self.features)]
        names += _names_along(whole.output_names, self.targets)
        row, *rest = places(key, axes, self.sizes, names)
        features, outputs = rest[:f], rest[f:]

        def rows_of(value: Any, *others: Any) -> Any:
            if len(value) != self.sizes[0]:  # it is about the whole batch
                return cut(value[0] if isinstance(row, int) else value, ())
            return cut(value, (row, *others))

        def of_outputs(value: Tensor) -> Any:
            return rows_of(value, *(outputs if value.dim() > c else ()))

        def data(value: Tensor) -> Any:
            if len(value) != self.sizes[0]:
                return value
            fits = isinstance(whole.values, Tensor) and tuple(value.shape[1:]) == self.features
            found = rows_of(value, *(features if fits else ()))
            # A cell of an array of words is a word.
            return found if isinstance(found, Tensor) else np.asarray(found, dtype=object)

        changed = {f: mapped(of_outputs, getattr(whole, f)) for f in _OF_OUTPUTS}
        changed |= {
            f: mapped(rows_of, getattr(whole, f)) for f in ("samples", "players", "reached")
        }
        for name in ("values", "standard_errors"):
            value = getattr(whole, name)
            changed[name] = mapped(lambda t: rows_of(t, *outputs, *features), value)
        target = whole.target
        if isinstance(target, list) and len(target) == self.sizes[0]:
            target = cut_list(target, row)
        elif isinstance(target, Tensor) and target.shape[:1] == self.sizes[:1]:
            target = cut(target, (row,))
        return replace(
            whole,
            **changed,
            data=mapped(data, whole.data),
            feature_names=_names_at(whole.feature_names, self.features, features),
            output_names=_names_at(whole.output_names, self.targets, outputs),
            target=target,
            is_row=isinstance(row, int),
        )


def mapped(function: Callable[[Tensor], Any], value: Any) -> Any:
    """The same form with other tensors."""
    if value is None:
        return None
    if isinstance(value, tuple | list):
        parts = [mapped(function, part) for part in value]
        return tuple(parts) if isinstance(value, tuple) else parts
    return function(value)


def _names_along(names: Sequence[str] | None, sizes: tuple[int, ...]) -> list[Any]:
    """The names along each axis: the last one has them, if there are as many."""
    fits = bool(names is not None and sizes and len(names) == sizes[-1])
    return [names if fits and i == len(sizes) - 1 else None for i in range(len(sizes))]


def _names_at(names: Sequence[str] | None, sizes: tuple[int, ...], index: Sequence[Any]) -> Any:
    if names is None or not sizes:
        return names
    array = names_array(names)
    if len(names) == math.prod(sizes):
        array = cut(array.reshape(sizes), index)
    elif len(names) == sizes[-1]:
        array = cut(array, index[-1:])
    return [array] if isinstance(array, str) else array.reshape(-1).tolist()


def cut_list(values: list[Any], place: Any) -> Any:
    """What is at a place of a list, or a list of what is at several."""
    if isinstance(place, int | slice):
        return values[place]
    return [values[int(i)] for i in place]


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        if one.dtype != other.dtype or one.shape != other.shape:
            return False
        return bool(((one == other) | ((one != one) & (other != other))).all())
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        if one.shape != other.shape or one.dtype != other.dtype:
            return False
        a, b = one.detach().cpu(), other.detach().cpu()
        return bool(((a == b) | ((a != a) & (b != b))).all())
    if type(one) is not type(other):
        return False
    if isinstance(one, tuple | list):
        pairs = zip(one, other, strict=False)
        return len(one) == len(other) and all(_equal(a, b) for a, b in pairs)
    return bool(one == other)


def kept(value: Any) -> Any:
    """A copy of what the user passed, who may go on to change it, with numbers as Python's."""

    def one(part: Any) -> Any:
        if isinstance(part, Tensor | np.ndarray):
            return torch.as_tensor(part).detach().clone()
        is_integer = isinstance(part, numbers.Integral) and not isinstance(part, bool)
        return int(part) if is_integer else part

    return mapped(one, value)


def only_one(values: Sequence[Tensor]) -> Tensor:
    return values[0]


def convergence_delta(
    values: tuple[Tensor, ...], outputs: Tensor, baseline_outputs: Tensor
) -> Tensor:
    total = torch.stack([v.detach().flatten(1).sum(1) if v.dim() > 1 else v for v in values]).sum(0)
    if len(outputs) == 1:  # it may be the batch's
        total = total.sum(0, keepdim=True)
    return total - (outputs.to(total.dtype) - baseline_outputs.to(total.dtype))
