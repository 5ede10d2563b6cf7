"""Layers in a lifted function: what they have in both of DeepLift's passes, and where to read
their multipliers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from ..engine.rows import BaselinePairRows
from ..spans import length
from .deep_lift import Lifted
from .layers import Layers, Recorded, Watched, on_graph, point_of, reached
from .relu import Function


class LayerPairs:
    """What layers have for pairs of an example and a baseline, kept while multipliers are found.

    Args:
        layers: which layers.
        pairs: the pairs of the inputs, R × B.
        unused: whether a layer may make no difference.

    Attributes:
        adds_up: whether all that inputs do to the output they do by way of the layers, and no layer
            by way of another, as far as the graph of the latest call tells.
    """

    def __init__(self, layers: Layers, pairs: BaselinePairRows, unused: bool):
        self.layers, self.pairs, self.unused = layers, pairs, unused
        self._both: list[list[Tensor]] = []

    def lifted(self, function: Function, eps: float, shares: bool | None) -> Lifted:
        """The model lifted, and watched in both passes."""
        self._recorded = _Recorded(function, self.layers, len(self.pairs.inputs), self.unused)
        self._watched = _Watched(function, self.layers)
        count, at_baselines = len(self.pairs.inputs), self._watched
        lifted = Lifted(self._recorded, count, eps, at_baselines, shares)
        self._recorded.forget = lifted.unruled.clear
        return lifted

    def points(self) -> tuple[GradientEdge, ...]:
        """What to differentiate the latest output by: the tensors that have rows."""
        repeats, examples = self.pairs.latest
        r, b = length(repeats), length(examples)
        at_inputs = self._recorded.flat
        at_baselines = self._watched.alike(self._recorded)
        both = [[at_inputs[i], at_baselines[i]] for i in self._recorded.with_rows]
        of_block = [[t.reshape(r, b, *t.shape[1:]) for t in pair] for pair in both]
        if r * b == self.pairs.repeats * self.pairs.batch:
            self._both = of_block
        else:
            shape = self.pairs.repeats, self.pairs.batch
            if not self._both:
                self._both = [[t.new_empty(*shape, *t.shape[1:]) for t in pair] for pair in both]
            for kept, now in zip(self._both, of_block, strict=True):
                for of_all, t in zip(kept, now, strict=True):
                    of_all[repeats, examples] = t
        flat = [point for points in self._recorded.points for point in points]
        return tuple(flat[i] for i in self._recorded.with_rows)

    @property
    def adds_up(self) -> bool:
        return self._recorded.adds_up

    def compared(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """What the layers have at the inputs and at the baselines, each [R, B, *S_i]."""
        return tuple(y for y, _ in self._both), tuple(start for _, start in self._both)

    def layer_of(self, position: int) -> int:
        """Of which layer that point is."""
        return self._recorded.layer_of(self._recorded.with_rows[position])

    def packed(self, values: Sequence[Tensor]) -> Any:  # each [B, *S_i]
        """Values by layer, with zeros for tensors that have no rows and make no difference."""
        rest = dict(zip(self._recorded.with_rows, values, strict=True))
        batch = self.pairs.batch
        return self._recorded.packed(
            [
                rest[i] if i in rest else t.new_zeros(batch, *t.shape[1:])
                for i, t in enumerate(self._recorded.flat)
            ]
        )


class _Watched(Watched):
    """In the baselines' pass."""

    def _look(self, i: int, tensors: list[Tensor]) -> list[Tensor]:
        return super()._look(i, tensors if self.calls[i] else _with_rows(tensors, self.count))

    def alike(self, recorded: _Recorded) -> list[Tensor]:
        """What was found, with as many rows as in the inputs' pass."""
        each = recorded.count // self.count
        found = []
        for i, (here, there) in enumerate(zip(self.found, recorded.found, strict=True)):
            self.layers.check_number(i, len(here), len(there))
            for reference, y in zip(here, there, strict=True):
                is_of_rows = y.shape[:1] == (recorded.count,)
                if is_of_rows and reference.shape[:1] == (self.count,) and each > 1:
                    reference = reference.repeat_interleave(each, 0)
                if is_of_rows:
                    self.layers.check_shape(i, reference.shape, y.shape)
                found.append(reference)
        return found


class _Recorded(Recorded):
    """In the inputs' pass.

    Attributes:
        forget: is called when the first layer is met, as what came before does not matter.
        with_rows: which of all tensors have a row for each of the model's.
    """

    def __init__(self, function: Function, layers: Layers, inputs: int, unused: bool):
        super().__init__(function, layers, unused)
        self._inputs = inputs
        self.forget: Callable[[], None] = lambda: None
        self.with_rows: list[int] = []
        self.adds_up = False
        self._own: list[list[GradientEdge]] = []  # by layer: points before others stand in

    def __call__(self, *args: Any) -> Any:
        self._own = [[] for _ in self.layers.modules]
        # So that the graph tells whether they are used besides.
        inputs = tuple(map(on_graph, args[: self._inputs]))
        starts = [get_gradient_edge(x) for x in inputs if x.requires_grad]
        output = super().__call__(*inputs, *args[self._inputs :])
        self.with_rows = [i for i in range(len(self.flat)) if self.has_rows(i)]
        if isinstance(output, Tensor) and output.requires_grad:
            self._check_rows(output)
            self.adds_up = len(starts) == self._inputs and self._is_cut(output, starts)
        return output

    def _look(self, i: int, tensors: list[Tensor]) -> list[Tensor]:
        if not any(self.points):
            self.forget()
        if self.calls[i] == 0:  # a single row in one of several calls is none for all
            tensors = _with_rows(tensors, self.count)
        if len(tensors) == 1 and tensors[0].shape[:1] != (self.count,):
            raise self.layers.not_of_rows(i, tensors[0], self.count)
        tensors = super()._look(i, tensors)
        self._own[i] = list(self.points[i])
        return tensors

    def _check_rows(self, output: Tensor) -> None:
        """Raises an error for a tensor without rows, unless it makes no difference."""
        if len(self.with_rows) == len(self.flat):
            return
        used = reached([point_of(output)])
        for i, (points, tensors) in enumerate(zip(self._own, self.found, strict=True)):
            for point, t in zip(points, tensors, strict=True):
                if t.shape[:1] != (self.count,) and (point.node, point.output_nr) in used:
                    raise self.layers.not_of_rows(i, t, self.count)

    def _is_cut(self, output: Tensor, starts: list[GradientEdge]) -> bool:
        """Whether every way on the graph leads through one point, and one alone."""
        points = [(p.node, p.output_nr) for ps in self.points for p in ps]
        cut = set(points)
        if len(cut) < len(points):  # the layer takes one tensor twice, say
            return False
        if not cut.isdisjoint(reached([before for p, _ in cut for before in p.next_functions])):
            return False
        return reached([point_of(output)], cut).isdisjoint({(p.node, p.output_nr) for p in starts})


def _with_rows(tensors: list[Tensor], count: int) -> list[Tensor]:
    """With a row for each of the model's, where a layer has one row for all of them."""
    if count == 1 or len(tensors) > 1 or tensors[0].shape[:1] != (1,):
        return tensors
    (only,) = tensors
    return [only.expand(count, *only.shape[1:]).clone()]
