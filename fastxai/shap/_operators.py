"""What can be done with explanations as with arrays, and chains of it that are still to be done."""

from __future__ import annotations

import copy
import operator
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.checks import ArgumentError, check, check_count

if TYPE_CHECKING:
    from typing_extensions import Self

# What stands on the class for a chain, as in Explanation.abs.mean(0).
_CHAINED = ("abs", "argsort", "flip", "max", "mean", "min", "percentile", "sample", "sum")


class Chain:
    """Operations in a row, which ``apply`` does to an explanation.

    Args:
        steps: the name of each, and its arguments if it is called.
    """

    def __init__(self, steps: tuple[tuple[str, tuple[Any, ...] | None, dict[str, Any]], ...] = ()):
        self._steps = steps

    def apply(self, explanation: Any) -> Any:
        """What is left of an explanation after all of them."""
        for name, args, named in self._steps:
            found = getattr(explanation, name)
            explanation = found if args is None else found(*args, **named)
        return explanation

    def __getattr__(self, name: str) -> Chain:
        if name.startswith("_"):
            raise AttributeError(name)
        return Chain((*self._steps, (name, None, {})))

    def __call__(self, *args: Any, **named: Any) -> Chain:
        if not self._steps:
            raise TypeError("there is no operation to call")
        return Chain((*self._steps[:-1], (self._steps[-1][0], args, named)))

    def __getitem__(self, key: Any) -> Chain:
        return Chain((*self._steps, ("__getitem__", (key,), {})))


class Chains(type):
    """The class of classes on which operations are the beginning of chains.

    Where shap is in use they are its own, as its plots take no others.
    """


def _beginning(name: str) -> property:
    def begin(cls: Any) -> Any:
        theirs = getattr(sys.modules.get("shap"), "Explanation", None)
        if theirs is None:
            return getattr(Chain(), name)
        return getattr(theirs if hasattr(type(theirs), name) else theirs.identity, name)

    return property(begin)


for _name in _CHAINED:
    setattr(Chains, _name, _beginning(_name))


class Operators(metaclass=Chains):
    """Operations on values [*S], with all that goes with them."""

    # numpy's numbers and arrays leave it to what stands here how they add to an explanation.
    __array_priority__ = 1000.0

    values: Any
    base_values: Any
    data: Any
    display_data: Any
    feature_names: Any
    output_names: Any
    clustering: Any
    standard_errors: Any
    _axes: tuple[str, ...]

    def __len__(self) -> int:
        if np.ndim(self.values) == 0:
            raise TypeError("a single value has no length")
        return int(np.shape(self.values)[0])

    def __iter__(self) -> Iterator[Self]:
        return (self[i] for i in range(len(self)))

    def __float__(self) -> float:
        return float(self.values)

    def __getitem__(self, key: Any) -> Self:
        raise NotImplementedError

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False and dtype not in (None, np.asarray(self.values).dtype):
            raise ValueError("values in another dtype are a copy")
        return np.array(self.values, dtype=dtype, copy=copy is not False)

    def _like(self, **changed: Any) -> Self:
        """The same with other fields."""
        other = copy.copy(self)
        for name, value in changed.items():
            setattr(other, name, value)
        return other

    def _alone(self, values: Any, axes: tuple[str, ...], **kept: Any) -> Self:
        """Values of other axes, with what is kept."""
        return type(self)(values, axes=axes, **kept)  # type: ignore[call-arg]

    @property
    def identity(self) -> Self:
        return self

    @property
    def abs(self) -> Self:
        """The sizes of values; what they are of stays as it is."""
        return self._like(values=np.abs(self.values), **_NO_BOUNDS)

    @property
    def argsort(self) -> Self:
        """The places of the last axis, in the order of their values."""
        return self._alone(np.argsort(self.values), self._axes)

    @property
    def flip(self) -> Self:
        """All axes the other way around, with their names."""
        return self[(slice(None, None, -1),) * len(self._axes)]

    def mean(self, axis: int | None = None) -> Self:
        """Means along an axis, or over all values."""
        return self._reduced(np.mean, axis)

    def sum(self, axis: int | None = None) -> Self:
        """Sums along an axis, or over all values."""
        return self._reduced(np.sum, axis)

    def max(self, axis: int | None = None) -> Self:
        """The largest along an axis, or of all values."""
        return self._reduced(np.max, axis)

    def min(self, axis: int | None = None) -> Self:
        """The smallest along an axis, or of all values."""
        return self._reduced(np.min, axis)

    def percentile(self, q: float, axis: int | None = None) -> Self:
        """The value that ``q`` percent along an axis, or of all values, are at most."""
        return self._reduced(lambda x, axis: np.percentile(x, q, axis=axis), axis)

    def sample(self, max_samples: int, replace: bool = False, random_state: int = 0) -> Self:
        """Some of the rows by chance, or all if they are fewer: the same as shap's.

        Args:
            max_samples: how many.
            replace: whether a row may come more than once.
            random_state: decides which.
        """
        count = min(check_count(max_samples, "max_samples"), len(self))
        random = np.random.RandomState(random_state)
        return self[random.choice(len(self), size=count, replace=replace)]

    def hstack(self, other: Any) -> Self:
        """The features of two explanations of the same rows side by side.

        Raises:
            ArgumentError: they are not of the same rows, outputs or base values.
        """
        check(type(other) is type(self), "other", "an explanation", type(other).__name__)
        check(other._axes == self._axes, "other", "axes {}", other._axes, self._axes)
        count = self._axes.count("feature")
        check(count == 1, "other", "one axis of features in both", count)
        place = self._axes.index("feature")
        sizes = [(*s[:place], *s[place + 1 :]) for s in map(np.shape, (other.values, self.values))]
        check(sizes[0] == sizes[1], "other", "{} but for the features", *sizes)
        bases = self.base_values, other.base_values
        same = all(b is None for b in bases) or (
            None not in map(_none, bases) and np.allclose(*bases, atol=1e-6)
        )
        check(same, "other", "the same base values", "others")

        def both(name: str, axis: int) -> Any:
            own, added = getattr(self, name), getattr(other, name)
            if own is None or added is None or np.ndim(own) <= axis or np.ndim(added) <= axis:
                return None
            return np.concatenate([np.asarray(own), np.asarray(added)], axis)

        names = self.feature_names, other.feature_names
        return self._like(
            values=both("values", place),
            data=both("data", place),
            display_data=both("display_data", place),
            feature_names=None if None in map(_none, names) else [*names[0], *names[1]],
            standard_errors=both("standard_errors", place),
            main_effects=both("main_effects", place),
            **_NO_BOUNDS | {"clustering": None, "hierarchical_values": None},
        )

    def _reduced(self, function: Callable[..., Any], axis: int | None) -> Self:
        values = np.asarray(self.values)
        if axis is None:
            return self._alone(function(values, axis=None), ())
        place = range(values.ndim)[axis]  # an IndexError names nothing else
        name = self._axes[place]
        axes = (*self._axes[:place], *self._axes[place + 1 :])
        kept = {
            "feature_names": None if name == "feature" else self.feature_names,
            "output_names": None if name == "output" else self.output_names,
        }
        if name == "row":
            kept["data"] = _over_rows(function, self.data)
            kept["clustering"] = _one_tree(self.clustering)
            if self.base_values is not None:
                outputs = [
                    n for n, a in zip(values.shape, self._axes, strict=True) if a == "output"
                ]
                base = np.asarray(self.base_values)
                of_rows = base.ndim > len(outputs) or (base.ndim == 1 and [len(base)] != outputs)
                each = base if of_rows else np.broadcast_to(base, (len(values), *base.shape))
                kept["base_values"] = function(each, axis=0)
        elif name == "output":
            kept |= {"data": self.data, "display_data": self.display_data}
            if np.ndim(self.base_values):
                kept["base_values"] = function(np.asarray(self.base_values), axis=-1)
        return self._alone(function(values, axis=place), axes, **kept)

    def _with(self, other: Any, does: Callable[[Any, Any], Any], scales: bool = False) -> Self:
        """Values and base values with a number's or another explanation's, other values alone."""
        if isinstance(other, Operators):
            check(
                np.shape(other.values) == np.shape(self.values) and other._axes == self._axes,
                "other",
                "values of shape {}",
                np.shape(other.values),
                np.shape(self.values),
            )
            bases = self.base_values, other.base_values
            base = None if None in map(_none, bases) else does(*map(np.asarray, bases))
            data = self.data if _are_same(self.data, other.data) else None
            return self._like(
                values=does(self.values, other.values), base_values=base, data=data, **_NO_ERRORS
            )
        if not np.isscalar(other) and not isinstance(other, np.ndarray):
            return NotImplemented  # type: ignore[no-any-return]
        values = does(np.asarray(self.values), other)
        if np.shape(values) != np.shape(self.values):
            raise ArgumentError(
                f"other: expected a number, or values that fit {np.shape(self.values)}, got shape "
                f"{np.shape(other)}"
            )
        if np.ndim(other):
            return self._like(values=values, base_values=None, **_NO_ERRORS)
        base = None if self.base_values is None else does(np.asarray(self.base_values), other)
        errors = self.standard_errors
        if errors is not None and scales:
            errors = np.abs(does(np.asarray(errors), other))
        return self._like(
            values=values, base_values=base, **_NO_ERRORS | {"standard_errors": errors}
        )

    def __add__(self, other: Any) -> Self:
        return self._with(other, operator.add)

    def __radd__(self, other: Any) -> Self:
        return self._with(other, operator.add)

    def __sub__(self, other: Any) -> Self:
        return self._with(other, operator.sub)

    def __rsub__(self, other: Any) -> Self:
        return self._with(other, lambda own, its: its - own)

    def __mul__(self, other: Any) -> Self:
        return self._with(other, operator.mul, scales=True)

    def __rmul__(self, other: Any) -> Self:
        return self._with(other, operator.mul, scales=True)

    def __truediv__(self, other: Any) -> Self:
        return self._with(other, operator.truediv, scales=True)

    def __neg__(self) -> Self:
        return self * -1.0


# Fields that hold for the values as they were alone.
_NO_BOUNDS: dict[str, Any] = {"lower_bounds": None, "upper_bounds": None, "error_std": None}
_NO_ERRORS = _NO_BOUNDS | {
    "standard_errors": None,
    "main_effects": None,
    "hierarchical_values": None,
}


def _none(value: Any) -> Any:
    """None for None, and something that can be compared for all else."""
    return None if value is None else True


def _are_same(one: Any, other: Any) -> bool:
    if one is None or other is None or np.shape(one) != np.shape(other):
        return False
    one, other = np.asarray(one), np.asarray(other)
    return bool(((one == other) | ((one != one) & (other != other))).all())


def _over_rows(function: Callable[..., Any], data: Any) -> Any:
    """What stands for rows of data; None where they are not numbers."""
    try:
        return None if data is None else function(np.asarray(data, dtype=np.float64), axis=0)
    except (TypeError, ValueError):
        return None


def _one_tree(trees: Any) -> Any:
    """The tree of features that all rows have, if it is one."""
    if np.ndim(trees) != 3 or not len(trees):
        return trees if np.ndim(trees) == 2 else None
    return trees[0] if (np.asarray(trees) == trees[0]).all() else None
