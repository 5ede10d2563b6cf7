"""The user's callable with its target and extra arguments: rows in, chosen outputs out."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from ..checks import ArgumentError, check
from ..footprint import RowCost
from ..modules import modules_of
from .independence import is_row_by_row
from .outputs import NotRowByRow, WrongBlock, tensor_of
from .plan import Run
from .state import LAYERS, Loans, State, behind
from .targets import Target
from .threads import threads


class Model:
    """Calls the user's forward function on blocks of rows.

    Args:
        forward_func: a module or any callable that takes the inputs, then the extra arguments, and
            returns one tensor with the rows first.
        batch: the number of examples B.
        target: see :class:`Target`.
        forward_args: extra arguments. Tensors whose first dimension is B belong to the examples,
            and are repeated along with the rows; others pass through.
        row_by_row: whether every row must have an output of its own.
        prefix: whether the function may be called with rows that stay affine.
        dims: how many dimensions each input has, with the batch's; if that is not told, rows are
            never known beforehand to be independent.

    Attributes:
        modules: those of the function.
        behind: all modules that it may use, those behind closures and attributes too.
        is_chain: whether the function is a module and its modules a chain of layers, all of them
            known, that treat rows one by one.
        mixes_rows: whether rows share statistics (batch norm in train mode).
        rows_interact: whether a row's outputs depend on which others are in the call, so that every
            call must have each example once; None if that is not known yet.
        cut: how many examples were seen to have the same outputs apart from the others; 0 if that
            is not known, None if any have.
        alone: the inputs, or another copy of the batch, each [B, *F_i], and the outputs at them,
            [B, *C], in a call of their own; None if they are not known.
        whole_batch: whether the function answers for the batch as a whole (with a mean loss, say)
            rather than row by row: it must then see every example just once in each call, and its
            answer, of any shape, stands where the outputs of the rows would.
        cost: of a row; None if not known yet.
        affine_prefix: whether the function is called with rows that stay affine; None if that is
            not known yet.
        runs: what became of the rows so far.
        writes_to_rows: whether the function was seen to write to its inputs.
        uses_up_graphs: whether the function's graphs were seen to be good for one gradient only.
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        batch: int,
        target: Any = None,
        forward_args: tuple[Any, ...] = (),
        row_by_row: bool = True,
        prefix: Prefix | None = None,
        dims: Sequence[int] = (),
    ):
        self.forward_func = forward_func
        self.row_by_row = row_by_row
        self.batch = batch
        self.target = Target(target, batch)
        self.forward_args = forward_args
        self.modules = modules_of(forward_func)
        own = [m for m in self.modules if not type(m).__module__.startswith(LAYERS)]
        only_layers = bool(self.modules) and not own
        self.behind, objects = (self.modules, []) if only_layers else behind(forward_func)
        norms = [m for m in self.behind if isinstance(m, _NORMS)]
        self.mixes_rows = any(map(_uses_batch_statistics, norms))
        is_known = is_row_by_row(forward_func, self.modules, dims, forward_args)
        self.is_chain = is_known and isinstance(forward_func, torch.nn.Module)
        self.rows_interact: bool | None = False if is_known else None
        self.cut: int | None = None if is_known else 0
        self.alone: tuple[tuple[Tensor, ...], Tensor] | None = None
        self.whole_batch = False
        self.cost: RowCost | None = None
        self.prefix = prefix or Prefix()
        self.affine_prefix: bool | None = None
        self.runs: list[Run] = []
        self.writes_to_rows = self.uses_up_graphs = False  # as far as is known
        self._threads: int | None = None  # for calls, where torch has one between them
        self._loans = Loans() if forward_args else None
        self._state = State.of(self.behind, objects)
        self._examples: slice | Tensor | None = None  # which of the batch it is asked about, or all
        self._row_shape: torch.Size | None = None  # of the raw output of a row, or of the batch
        self._batch_shape: torch.Size | None = None  # of the raw output for all examples, once

    def __call__(
        self,
        rows: tuple[Tensor, ...],
        repeats: int,
        examples: slice,
    ) -> Tensor:
        """The chosen outputs [r * b, *C] for a block of rows, each [r * b, *F_i].

        The whole answer, [*C], of a function that answers for the batch; a number is one of one.
        """
        count, asked = rows[0].shape[0], examples.stop - examples.start
        if count != repeats * asked:
            raise WrongBlock(rows, repeats, asked)
        if self._state is not None:
            self._state.restore()  # every call finds what the first one found
        which = examples if self._examples is None else _among(self._examples, examples)
        extra = [self._repeat(a, repeats, which) for a in self.forward_args]
        with NOTHING_CHANGES if self._threads is None else threads(self._threads):
            output = self.forward_func(*rows, *extra)
        if not isinstance(output, Tensor):
            output = tensor_of(output, rows[0].device)
        if self._batch_shape is None and repeats == 1 and count == self.batch:
            self._batch_shape = output.shape
        if output.dim() == 0 and (count == 1 or self.whole_batch):
            output = output.reshape(1)
        if self.whole_batch:
            check(
                self.target.each is None,
                "target",
                "one for the batch, as forward_func gives one answer for it",
                "one for each row",
            )
        elif output.dim() == 0 or output.shape[0] != count:
            raise NotRowByRow(output.shape, count)
        self._check_shape(output.shape if self.whole_batch else output.shape[1:])
        return self.target.select(output, repeats, which)

    def choose(self, target: Target, output: Tensor, repeats: int, examples: slice) -> Tensor:
        """What another target chooses of outputs [r * b, *C] of which none was chosen yet."""
        which = examples if self._examples is None else _among(self._examples, examples)
        return target.select(output, repeats, which)

    def choosing(self, target: Target) -> Model:
        """The same question about another output."""
        other = copy.copy(self)
        other.target, other.alone = target, None
        return other

    def of(self, examples: slice | Tensor) -> Model:
        """The same question about some examples of the batch, [k] int64; the first of them is 0."""
        other = copy.copy(self)
        other._examples, other.alone, other.cut = examples, None, None  # as some were asked apart
        return other

    def calling(self, forward_func: Callable[..., Any], forward_args: tuple[Any, ...]) -> Model:
        """The same question asked of a function that calls this one, with other arguments."""
        other = copy.copy(self)
        other.forward_func, other.forward_args, other.alone = forward_func, forward_args, None
        other._loans = Loans() if forward_args else None
        other.cut = None if self.cut is None else 0
        return other

    @property
    def is_unsettled(self) -> bool:
        """Whether rows may interact, as far as is known."""
        return self.rows_interact is None and not (self.whole_batch or self.mixes_rows)

    @property
    def is_together(self) -> bool:
        """Whether every call must have all examples, as far as is known."""
        return self.whole_batch or self.mixes_rows or self.rows_interact is not False

    def through(self, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Model:
        """The same question to the function in a wrapper, which sees all rows as they are."""
        function, count, state = self.forward_func, len(self.forward_args), self._state

        def afresh(*args: Any) -> Any:
            """For a wrapper that calls the function several times."""
            if state is not None:
                state.restore()
            first = len(args) - count
            return function(*args[:first], *map(Loans().of, args[first:]))

        changes = count > 0 or state is not None
        other = self.calling(wrap(afresh if changes else function), self.forward_args)
        other.prefix = Prefix(wanted=False)
        return other

    def may_answer_for_batch(self, error: NotRowByRow) -> bool:
        """Whether what was not row by row may be the batch's answer."""
        is_known_otherwise = self._batch_shape not in (None, error.shape)
        return not (self.row_by_row or self.whole_batch or is_known_otherwise)

    def take_for_whole_batch(self, error: NotRowByRow) -> None:
        """From here on, what was not row by row is the batch's answer; the error, if it is not."""
        if not self.may_answer_for_batch(error):
            raise error
        self.whole_batch, self._row_shape = True, None

    def _check_shape(self, shape: torch.Size) -> None:
        first = self._row_shape = shape if self._row_shape is None else self._row_shape
        if shape != first:
            raise ArgumentError(
                f"forward_func: expected outputs of one shape from every call, {tuple(first)} "
                f"after the rows as in the first, got {tuple(shape)}"
            )

    def _repeat(self, argument: Any, repeats: int, examples: slice | Tensor) -> Any:
        """An extra argument for so many copies of these examples, which the model may write to."""
        of_examples = isinstance(argument, Tensor) and argument.dim() > 0
        assert self._loans is not None
        if not of_examples or argument.size(0) != self.batch:
            return self._loans.of(argument)
        everyone = isinstance(examples, slice) and examples == slice(0, self.batch)
        if everyone and repeats == 1:
            return self._loans.of(argument)
        if argument.is_nested:
            raise RuntimeError("additional_forward_args: nested tensors are for whole batches only")
        if argument.layout != torch.strided:
            return _sparse_rows(argument, repeats, None if everyone else examples)
        rows = argument[examples]
        rows = rows.repeat(repeats, *[1] * (rows.dim() - 1)) if repeats > 1 else rows.clone()
        return rows.requires_grad_() if argument.requires_grad else rows

    @contextlib.contextmanager
    def alone_on_cores(self) -> Iterator[None]:
        """Has torch work in one thread between calls of the function, which does not use it.

        Threads of OpenMP that have worked wait for more without sleeping, for some 20 ms: as long
        they would have a core that the function has threads of its own for.
        """
        self._threads = torch.get_num_threads()
        try:
            with threads(1):
                yield
        finally:
            self._threads = None

    def statistics_kept(self) -> contextlib.AbstractContextManager[None]:
        """Puts what calls change in the model's modules back as it was: running statistics, say."""
        return NOTHING_CHANGES if self._state is None else self._state.kept()


def _among(chosen: slice | Tensor, examples: slice) -> slice | Tensor:
    if isinstance(chosen, Tensor):
        return chosen[examples]
    return slice(chosen.start + examples.start, chosen.start + examples.stop)


_NORMS = (_BatchNorm, torch.jit.ScriptModule)
NOTHING_CHANGES = contextlib.nullcontext()


def _uses_batch_statistics(module: torch.nn.Module) -> bool:
    scripted = not isinstance(module, _BatchNorm)  # then it is not of its class any more
    if scripted and not (hasattr(module, "running_mean") and "Batch" in str(module.original_name)):
        return False
    return bool(module.training) or module.running_mean is None


def _sparse_rows(argument: Tensor, repeats: int, examples: slice | Tensor | None) -> Tensor:
    """Some rows of a sparse tensor, or all, so many times."""
    rows: Tensor = argument.to_sparse_coo()
    if examples is not None:
        index = torch.arange(argument.size(0), device=argument.device)[examples]
        rows = rows.index_select(0, index)
    if repeats > 1:
        rows = torch.cat([rows] * repeats)
    return rows if argument.layout == torch.sparse_coo else rows.to_sparse(layout=argument.layout)


@dataclass
class Prefix:
    """Whether a function may be called with rows that stay affine; of one explanation."""

    wanted: bool = True
    refused: bool = False  # it did what they cannot follow: it is not asked again
