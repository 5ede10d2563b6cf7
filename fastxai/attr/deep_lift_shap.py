"""DeepLiftShap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, overload

import torch
from torch import Tensor

from ..core.checks import Form, TensorOrTuple, check, check_not_inference
from ..core.engine.inputs import Inputs, baselines_of, check_background, packed
from ..core.engine.request import Request
from ..core.engine.rows import BaselinePairRows
from ..core.intercept.relu import check_eager
from ..core.modules import modules_of
from ..core.program.program import Answer, Program, TracedRequest, check_rows_built_in
from ._base import captum_compatible
from ._explanation import Result
from .deep_lift import Combine, DeepLift, contributions, multipliers_of, sums_of


class DeepLiftShap(DeepLift):
    """DeepLift against each of several baselines, averaged: an estimate of SHAP values.

    The attributions of a row add up to F(x) less the mean output over the baselines. A baseline
    passes through the model once, and is there for all inputs. Source: Lundberg and Lee, "A unified
    approach to interpreting model predictions" (2017). Operations are as for :class:`DeepLift`.

    Args:
        model: a module or any callable, as for :class:`DeepLift`.
        multiply_by_inputs: whether to multiply by x − x'. Without it: mean multipliers.
        output: which of several outputs is explained, as for :class:`Attribution`.
    """

    _draws_baselines = True

    def __init__(
        self,
        model: Callable[..., Any],
        multiply_by_inputs: bool = True,
        *,
        output: str | int | None = None,
    ):
        super().__init__(model, multiply_by_inputs, output=output)

    @overload  # type: ignore[override]
    def attribute(
        self,
        inputs: Form,
        baselines: Any,
        target: Any = None,
        additional_forward_args: Any = None,
        return_convergence_delta: Literal[False] = False,
        custom_attribution_func: Combine | None = None,
    ) -> Form: ...
    @overload
    def attribute(
        self,
        inputs: Form,
        baselines: Any,
        target: Any = None,
        additional_forward_args: Any = None,
        *,
        return_convergence_delta: Literal[True],
        custom_attribution_func: Combine | None = None,
    ) -> tuple[Form, Tensor]: ...
    @captum_compatible
    def attribute(
        self,
        inputs: Form,
        baselines: Any,
        target: Any = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        custom_attribution_func: Combine | None = None,
    ) -> Form | tuple[Form, Tensor]:
        """Attributes the chosen output to the inputs.

        Args:
            inputs: a floating-point tensor [B, *F], or a tuple of tensors [B, *F_i].
            baselines: at least two rows: a tensor [K, *F], or a tuple of tensors [K, *F_i]; or a
                function of the inputs, or of nothing, that returns them.
            target: which output is explained, as for :class:`IntegratedGradients`.
            additional_forward_args: extra arguments, as for :class:`IntegratedGradients`.
            return_convergence_delta: whether to return the convergence deltas as well.
            custom_attribution_func: makes attributions of multipliers, as for :class:`DeepLift`,
                with one row for each pair of an input and a baseline, [B · K, *F_i], input by
                input.

        Returns:
            The attributions, in the form, shapes and dtypes of the inputs, without a graph. With
            ``return_convergence_delta`` a pair: the attributions, and Σ attributions −
            (F(x) − F(x')) of each pair of an input and a baseline, [B · K], input by input.

        Raises:
            ArgumentError: an argument is not as above; the message names it.
            IndexError: the target is out of range.
            RuntimeError: the output does not depend on an input.
        """
        request = self._query(inputs, baselines, target, additional_forward_args)
        of_pairs = self._of_pairs(request, custom_attribution_func)
        result = packed([a.mean(1) for a in of_pairs], inputs)
        if not return_convergence_delta:
            return result
        sums = torch.stack([a.flatten(2).sum(2) if a.dim() > 2 else a for a in of_pairs]).sum(0)
        outputs = self._outputs(request, request.inputs.tensors)[:, None]
        changes = outputs - self._at_baselines(request)  # [B, K]
        return result, (sums - changes.to(sums.dtype)).flatten()

    def compute_convergence_delta(self, *args: Any, **kwargs: Any) -> Tensor:
        return DeepLift(self.model).compute_convergence_delta(*args, **kwargs)

    compute_convergence_delta.__doc__ = DeepLift.compute_convergence_delta.__doc__

    def _query(
        self,
        inputs: TensorOrTuple,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        **named: Any,
    ) -> Request:
        request = super()._query(inputs, None, target, additional_forward_args, **named)
        baselines = baselines_of(baselines, inputs)
        for rows in baselines if isinstance(baselines, tuple) else (baselines,):
            several = isinstance(rows, Tensor) and rows.dim() > 0 and rows.shape[0] > 1
            got = rows.shape if isinstance(rows, Tensor) else repr(rows)
            check(several, "baselines", "a tensor of two rows or more; DeepLift takes one", got)
            check_not_inference(rows, "baselines")
        try:
            background = check_background(baselines, request.inputs)
        except AssertionError as error:
            raise type(error)(str(error).replace("background", "baselines", 1)) from None
        return replace(request, background=background)

    def _find(self, request: Request, detailed: bool, *options: Any, **named: Any) -> Result:
        values = tuple(a.mean(1) for a in self._of_pairs(request, *options, **named))
        return Result(
            values, baseline_outputs=self._at_baselines(request).mean(1) if detailed else None
        )

    def _of_pairs(
        self, request: Request, custom_attribution_func: Combine | None
    ) -> list[Tensor]:  # each [B, K, *F_i]
        combine = self._combination(custom_attribution_func)
        x, baselines = request.inputs.tensors, request.background
        assert baselines is not None
        batch, count = request.inputs.batch, baselines[0].shape[0]
        lift = self._lift(request, BaselinePairRows(x, baselines, count))
        of_pairs = tuple(m.transpose(0, 1).flatten(0, 1) for m in lift.multipliers)
        compared = (
            tuple(t.repeat_interleave(count, 0) for t in x),
            tuple(b.repeat(batch, *[1] * (b.dim() - 1)) for b in baselines),
        )
        found = combine(of_pairs, *compared)
        lift.check(found if combine is contributions else contributions(of_pairs, *compared))
        return [a.reshape(batch, count, *a.shape[1:]) for a in found]

    def _at_baselines(self, request: Request) -> Tensor:  # [B, K]
        assert request.background is not None
        rows = zip(*(b.split(1) for b in request.background), strict=True)
        return torch.stack([self._outputs(request, one) for one in rows], 1)

    def _program(
        self, inputs: Inputs, custom_attribution_func: Any, background: Any = None
    ) -> Program:
        check_eager(self.model, modules_of(self.model))
        background = check_rows_built_in(background, inputs)
        check(len(background[0]) > 1, "baselines", "two rows or more; DeepLift takes one", "one")
        return partial(
            deep_lift_shap,
            background=background,
            combine=self._combination(custom_attribution_func),
            eps=self.eps,
        )


def of_each_output(
    model: Callable[..., Any],
    inputs: tuple[Tensor, ...],  # each [B, *F_i]
    baselines: tuple[Tensor, ...],  # each [K, *F_i]
    targets: Sequence[Any],
) -> list[tuple[Tensor, ...]]:  # each [B, *F_i]
    """What :class:`DeepLiftShap` attributes to inputs, or DeepLift if K is 1, for each target."""
    method = DeepLift(model) if len(baselines[0]) == 1 else DeepLiftShap(model)
    return method._of_each_output(method._query(inputs, baselines), targets)


def deep_lift_shap(
    request: TracedRequest,
    background: tuple[Tensor, ...],  # each [K, *F_i]
    combine: Combine,
    eps: float,
) -> Answer:
    """The mean over the background, and for each pair how far its sum is from F(x) − F(x')."""
    count, batch = background[0].shape[0], request.batch
    x = tuple(a.repeat(count, *[1] * (a.dim() - 1)) for a in request.inputs)  # [K * B, *F_i]
    against = background
    if request.apart is not None:
        each = (b[:, None].expand(-1, batch, *[-1] * (b.dim() - 1)) for b in background)
        against = tuple(b.flatten(0, 1) for b in each)
    every, chosen, multipliers = multipliers_of(request, x, against, eps)
    outputs = every[-batch:]
    i = torch.arange(batch * count, device=outputs.device)
    order = i % count * batch + i // count  # by example, and then by baseline
    baselines = tuple(b[i % count] for b in background)
    found = combine(tuple(m[order] for m in multipliers), tuple(a[order] for a in x), baselines)
    at_baselines = request.choice(outputs)(request.outputs(*(b[i // batch] for b in background)))
    delta = sums_of(found) - (chosen - at_baselines).reshape(-1)[order]
    return Answer(outputs, tuple(a.unflatten(0, (batch, count)).mean(1) for a in found), delta)
