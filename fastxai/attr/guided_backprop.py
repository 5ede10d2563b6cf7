"""Gradients that let only positive signals through the ReLUs: GuidedBackprop and Deconvolution."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from ..core.checks import Form
from ..core.engine.inputs import packed
from ..core.engine.request import Request
from ..core.intercept.relu import RectifiedBackward, check_eager
from ._base import GradientAttribution, captum_compatible
from .saliency import gradient


class _RectifiedGradient(GradientAttribution):
    _row_by_row = False
    _gate: bool

    def __init__(
        self,
        model: Callable[..., Any],
        *,
        output: str | int | None = None,
    ):
        super().__init__(model, affine_prefix=False, output=output)
        self.model = model

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
            The modified gradients, in the form, shapes and dtypes of the inputs, without a graph.

        Raises:
            ArgumentError: an argument is not as above, or the model is scripted or compiled.
            IndexError: the target is out of range.
            RuntimeError: the output does not depend on an input.
        """
        request = self._query(inputs, None, target, additional_forward_args)
        return packed(self._values(request), inputs)

    def _values(self, request: Request) -> tuple[Tensor, ...]:
        check_eager(self.forward_func, request.model.modules)
        wrap = partial(RectifiedBackward, gate=self._gate)
        return gradient(Request(request.inputs, request.baselines, request.model.through(wrap)))


class GuidedBackprop(_RectifiedGradient):
    """The gradient, where every ReLU passes only positive gradients back, to positive inputs.

    Every ReLU of the model counts: ``nn.ReLU``, ``F.relu``, ``torch.relu``, ``Tensor.relu`` and
    their in-place forms, modules used several times too. Other non-linearities, also those that
    can express a ReLU (``clamp``, ``relu6``), keep their gradients. Source: Springenberg,
    Dosovitskiy, Brox and Riedmiller, "Striving for simplicity: the all convolutional net" (2014).

    Args:
        model: a module or any callable that takes the inputs (then the extra arguments) and returns
            one tensor with the rows first; neither scripted nor compiled.
    """

    _gate = True


class Deconvolution(_RectifiedGradient):
    """The gradient, where every ReLU passes only positive gradients back, whatever its input was.

    Which operations are ReLUs is as for :class:`GuidedBackprop`. Source: Zeiler and Fergus,
    "Visualizing and understanding convolutional networks" (2014).

    Args:
        model: a module or any callable that takes the inputs (then the extra arguments) and returns
            one tensor with the rows first; neither scripted nor compiled.
    """

    _gate = False
