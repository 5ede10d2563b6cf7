"""Plain gradients: Saliency and InputXGradient."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from ..core import engine
from ..core.checks import Form
from ..core.engine.inputs import Inputs, packed
from ..core.engine.request import Request
from ..core.engine.rows import InputRows
from ..core.program.program import Answer, Program, TracedRequest, gradients_of
from ._base import GradientAttribution, captum_compatible


class OfGradient(GradientAttribution):
    """An attribution method that is a function of gradient and input, feature by feature."""

    _row_by_row = False

    def _values(self, request: Request, *options: Any, **named: Any) -> tuple[Tensor, ...]:
        pairs = zip(gradient(request), request.inputs.tensors, strict=True)
        return tuple([self.of_gradient(g, x, *options, **named) for g, x in pairs])

    def of_gradient(self, gradient: Tensor, x: Tensor, *options: Any, **named: Any) -> Tensor:
        """The attributions; writes to neither. The other arguments are those of ``attribute``."""
        raise NotImplementedError


class Saliency(OfGradient):
    """The gradient of the chosen output with respect to the input, or its absolute value.

    Source: Simonyan, Vedaldi and Zisserman, "Deep inside convolutional networks" (2013).
    """

    _gives_one_number = True

    @captum_compatible
    def attribute(
        self,
        inputs: Form,
        target: Any = None,
        abs: bool = True,
        additional_forward_args: Any = None,
    ) -> Form:
        """Attributes the chosen output to the inputs.

        Args:
            inputs: a floating-point tensor [B, *F], or a tuple of tensors [B, *F_i].
            target: which output is explained, as for :class:`IntegratedGradients`.
            abs: whether to return absolute values.
            additional_forward_args: extra arguments, as for :class:`IntegratedGradients`.

        Returns:
            The gradients, in the form, shapes and dtypes of the inputs, without a graph.

        Raises:
            ArgumentError: an argument is not as above; the message names it.
            IndexError: the target is out of range.
            RuntimeError: the output does not depend on an input.
        """
        request = self._query(inputs, None, target, additional_forward_args)
        return packed(self._values(request, abs=abs), inputs)

    def of_gradient(self, gradient: Tensor, x: Tensor, abs: bool) -> Tensor:
        return gradient.abs() if abs else gradient

    def _program(self, inputs: Inputs, abs: bool) -> Program:
        return partial(saliency, abs=abs)


class InputXGradient(OfGradient):
    """The input times the gradient of the chosen output: exact contributions for a linear model.

    Source: Shrikumar, Greenside and Kundaje, "Not just a black box" (2016).
    """

    _gives_one_number = True

    @captum_compatible
    def attribute(
        self, inputs: Form, target: Any = None, additional_forward_args: Any = None
    ) -> Form:
        """Attributes the chosen output to the inputs.

        Args:
            inputs: a floating-point tensor [B, *F], or a tuple of tensors [B, *F_i].
            target: which output is explained, as for :class:`IntegratedGradients`.
            additional_forward_args: extra arguments, as for :class:`IntegratedGradients`.

        Returns:
            Input times gradient, in the form, shapes and dtypes of the inputs, without a graph.

        Raises:
            ArgumentError: an argument is not as above; the message names it.
            IndexError: the target is out of range.
            RuntimeError: the output does not depend on an input.
        """
        request = self._query(inputs, None, target, additional_forward_args)
        return packed(self._values(request), inputs)

    def of_gradient(self, gradient: Tensor, x: Tensor) -> Tensor:
        return gradient * x

    @property
    def multiplies_by_inputs(self) -> bool:
        return True

    def _program(self, inputs: Inputs) -> Program:
        return input_x_gradient


def gradient(request: Request) -> tuple[Tensor, ...]:
    """∂F/∂x at the inputs, each [B, *F_i], in the inputs' dtypes."""
    rows = InputRows(request.inputs.tensors, request.inputs.batch)
    return tuple([g[0] for g in engine.gradients(request.model, rows)])


def saliency(request: TracedRequest, abs: bool) -> Answer:
    """∂F/∂x, or its absolute value."""
    outputs, _, gradients = gradients_of(request, request.inputs, slice(None))
    return Answer(outputs, tuple(g.abs() for g in gradients) if abs else gradients)


def input_x_gradient(request: TracedRequest) -> Answer:
    """x ∘ ∂F/∂x."""
    outputs, _, gradients = gradients_of(request, request.inputs, slice(None))
    pairs = zip(gradients, request.inputs, strict=True)
    return Answer(outputs, tuple(g * x for g, x in pairs))
