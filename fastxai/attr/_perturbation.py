"""What methods that compare outputs for changed inputs share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..core import engine
from ..core.engine import interaction
from ..core.engine.progress import Bar
from ..core.engine.request import Request, check_no_nan
from ..core.engine.rows import InputRows, Rows
from ._base import Attribution

# Multiplications for each number of a row that a function outside torch is taken to do.
_GUESSED_WORK = 3000


class PerturbationAttribution(Attribution):
    """An attribution method that compares the model's outputs for changed inputs.

    The forward function may give one number a row, many, or one answer for the batch as a whole.
    """

    _row_by_row = False

    @property
    def multiplies_by_inputs(self) -> bool:
        return True

    def __init__(
        self,
        forward_func: Callable[..., Any],
        *,
        affine_prefix: bool = True,
        output: str | int | None = None,
    ):
        super().__init__(forward_func, affine_prefix=affine_prefix, output=output)
        self._work_a_row: dict[object, float] = {}  # by shapes and dtypes of one row

    def _outputs_at_inputs(
        self, request: Request, limit: int | None, to_come: int, divided: bool = False
    ) -> Tensor:
        """f(x), [B, *C]; tells whether the model answers for the batch, and so comes first.

        Args:
            request: the request.
            limit: rows a call at most; None to choose for speed.
            to_come: about how many rows of each example will be asked afterwards.
            divided: whether examples are to be asked about apart from each other: then it is found
                out whether they can be.
        """
        at_least_two = None if limit is None else max(2, limit)  # or it would not be told
        given = InputRows(request.inputs.tensors, request.inputs.batch)
        outputs = engine.values(request.model, given, at_least_two, to_come=to_come)[0]
        check_no_nan(outputs[None], 0, request)
        if divided:
            absent = request.baselines
            if request.background is not None:
                absent = tuple(rows[:1] for rows in request.background)
            interaction.settle_parts(request.model, absent, limit)
        return outputs

    def _multiplications(self, request: Request) -> float:
        """The model's for one row, counted once; a guess by the row's size where it cannot be."""
        model, x = request.model, request.inputs.tensors
        guess = _GUESSED_WORK * sum(a.shape[1:].numel() for a in x)
        is_opaque = model.cost is not None and model.cost.is_opaque
        if is_opaque or model.whole_batch or model.mixes_rows or request.inputs.batch == 0:
            return guess
        key = tuple((a.shape[1:], a.dtype, a.device) for a in x)
        if key not in self._work_a_row:
            self._work_a_row[key] = engine.multiplications(model, x)
        return self._work_a_row[key] or guess

    @staticmethod
    def _outputs(request: Request, tensors: tuple[Tensor, ...]) -> Tensor:
        """The outputs at each row, [B, *C]."""
        return engine.values(request.model, InputRows(tensors, request.inputs.batch))[0]

    def _stream(
        self,
        request: Request,
        rows: Rows,
        visit: Callable[[Tensor, slice, slice], None],
        limit: int | None = None,
        progress: str | Bar | None = None,
    ) -> None:
        """Shows ``visit`` the outputs [r, b, *C], of a float dtype, for every block of rows."""

        def look(outputs: Tensor, repeats: slice, examples: slice) -> None:
            if request.model.whole_batch:  # its answer's first dimension stands for the examples
                examples = slice(0, outputs.shape[1])
            check_no_nan(outputs, examples.start, request)
            if not outputs.is_floating_point():
                outputs = outputs.to(torch.float64)
            visit(outputs, repeats, examples)

        engine.stream(request.model, rows, look, limit, progress)

    def _values_of(
        self,
        request: Request,
        rows: Rows,
        limit: int | None = None,
        progress: str | Bar | None = None,
    ) -> Tensor:
        """The outputs for all rows, [R, B, *C]."""
        outputs = engine.values(request.model, rows, limit, progress)
        check_no_nan(outputs, 0, request)
        return outputs

    def _at_baselines(self, request: Request, limit: int | None) -> Tensor:
        """f(baseline), [B, *C]."""
        rows = InputRows(request.baselines, request.inputs.batch)
        return self._values_of(request, rows, limit)[0]

    def _title(self, show_progress: bool) -> str | None:
        """What the progress bar is about; None for no bar."""
        return f"{self.get_name()} attribution" if show_progress else None
