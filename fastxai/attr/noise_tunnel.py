"""NoiseTunnel: SmoothGrad, SmoothGrad squared and VarGrad over any attribution method."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Generic, Literal, cast, overload

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten
from typing_extensions import TypeVar

from ..core import engine
from ..core.checks import (
    Form,
    TensorOrTuple,
    check,
    check_choice,
    check_count,
    check_limit,
)
from ..core.engine import interaction
from ..core.engine.inputs import Inputs, check_stdevs
from ..core.engine.model import Model
from ..core.engine.plan import Plan
from ..core.engine.rows import InputRows
from ..core.flags import check_flags, flags_of
from ..core.program.call import ASKED, options_of
from ..core.program.program import (
    Answer,
    Program,
    TracedRequest,
    check_library,
    check_rows_built_in,
    dtype_of_sums,
)
from ..core.spans import length
from ._base import Attribution, captum_compatible
from ._explanation import Explanation, kept
from ._layer import LayerAttribution
from ._smoothing import TYPES, Samples, Smoothing, by_sample
from .saliency import OfGradient

Method = TypeVar("Method", covariant=True, default=Any)


class NoiseTunnel(Attribution, Generic[Method]):
    """Attributions at noisy copies of the input: their mean, mean square or variance.

    With A the attributions of any method, x the input, σ the standard deviation of the noise and
    ε_n standard normal, the samples A(x + σ ε_n) of each example become

    - ``smoothgrad``: their mean (Smilkov et al., "SmoothGrad: removing noise by adding noise",
      2017);
    - ``smoothgrad_sq``: the mean of their squares (Hooker et al., "A benchmark for interpretability
      methods in deep neural networks", 2019);
    - ``vargrad``: their variance, the mean square less the squared mean (Adebayo et al., "Sanity
      checks for saliency maps", 2018).

    The noise of a sample is a function of the seed, the sample and the example's place in the batch
    alone.

    What :meth:`plan` tells is what the method asks for the samples that it is given at once.

    Args:
        attribution_method: what is smoothed: any attribution method, of fastxai or with Captum's
            interface.

    Raises:
        ArgumentError: if it is not an attribution method.
    """

    _of_gradients = True  # or of what method it may be
    _differentiates = _stacks_rows = _draws_per_call = True

    def __init__(self, attribution_method: Method):
        is_method = callable(getattr(attribution_method, "attribute", None))
        check(
            is_method and hasattr(attribution_method, "forward_func"),
            "attribution_method",
            "an attribution method, such as Saliency(model)",
            type(attribution_method).__name__,
        )
        method: Any = attribution_method
        super().__init__(method.forward_func)
        self.attribution_method = method
        self._flags = flags_of(method.attribute)  # the method's, passed by name
        if isinstance(method, NoiseTunnel):
            self._flags += method._flags

    def _over(self, forward_func: Callable[..., Any]) -> Attribution:
        method: Any = self.attribution_method
        if isinstance(method, Attribution):
            return type(self)(cast(Method, method._over(forward_func)))
        inner = copy.copy(method)  # with Captum's interface
        inner.forward_func = forward_func
        return type(self)(inner)

    @overload
    def attribute(
        self: NoiseTunnel[LayerAttribution],
        inputs: TensorOrTuple,
        nt_type: str = "smoothgrad",
        nt_samples: int = 5,
        nt_samples_batch_size: int | None = None,
        stdevs: float | tuple[float, ...] = 1.0,
        draw_baseline_from_distrib: bool = False,
        *,
        seed: int | None = None,
        **kwargs: Any,
    ) -> Any: ...
    @overload
    def attribute(
        self,
        inputs: Form,
        nt_type: str = "smoothgrad",
        nt_samples: int = 5,
        nt_samples_batch_size: int | None = None,
        stdevs: float | tuple[float, ...] = 1.0,
        draw_baseline_from_distrib: bool = False,
        *,
        seed: int | None = None,
        return_convergence_delta: Literal[False] = False,
        **kwargs: Any,
    ) -> Form: ...
    @overload
    def attribute(
        self,
        inputs: Form,
        nt_type: str = "smoothgrad",
        nt_samples: int = 5,
        nt_samples_batch_size: int | None = None,
        stdevs: float | tuple[float, ...] = 1.0,
        draw_baseline_from_distrib: bool = False,
        *,
        seed: int | None = None,
        return_convergence_delta: Literal[True],
        **kwargs: Any,
    ) -> tuple[Form, Tensor]: ...
    @captum_compatible
    def attribute(
        self,
        inputs: TensorOrTuple,
        nt_type: str = "smoothgrad",
        nt_samples: int = 5,
        nt_samples_batch_size: int | None = None,
        stdevs: float | tuple[float, ...] = 1.0,
        draw_baseline_from_distrib: bool = False,
        *,
        seed: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Attributes with the method at noisy inputs, and smooths what it finds.

        The method is given several samples at once as one batch, unless rows influence one another.
        Of its arguments, what belongs to the examples is repeated along: targets, extra arguments,
        baselines and feature masks whose first dimension is B.

        Args:
            inputs: a floating-point tensor [B, *F], or a tuple of tensors [B, *F_i].
            nt_type: ``smoothgrad``, ``smoothgrad_sq`` or ``vargrad``.
            nt_samples: how many samples N of each example. Memory does not grow with it.
            nt_samples_batch_size: how many of them the method is given at once, at most; None to
                choose for speed.
            stdevs: standard deviation σ of the noise, one for all inputs or a tuple with one each.
            draw_baseline_from_distrib: whether ``baselines`` are K rows [K, *F], of which every
                sample gets one at random.
            seed: the same seed gives the same samples; None draws one from torch's generator. A
                method that takes a seed is given one that this one sets, the same at every call, so
                that all samples share its coalitions, say.
            **kwargs: arguments of the method's ``attribute``.

        Returns:
            What the method returns for the inputs, smoothed, without a graph. If it was asked for
            its convergence delta as well, a pair: that, and the delta of every sample [B · N],
            those of an example together.

        Raises:
            ArgumentError: an argument is not as above; the message names it.
            Exception: what the method raises.
        """
        check_flags(self._flags, (), kwargs)
        check_choice(nt_type, "nt_type", TYPES)
        samples = Samples(
            inputs,
            nt_samples,
            stdevs=stdevs,
            draw_baseline_from_distrib=draw_baseline_from_distrib,
            seed=seed,
            arguments=kwargs,
        )
        limit = check_limit(nt_samples_batch_size, argument="nt_samples_batch_size")
        with torch.inference_mode(False), torch.no_grad():
            if isinstance(self.attribution_method, OfGradient) and samples.batch > 0:
                return self._streamed(self.attribution_method, samples, nt_type, limit)
            return self._smoothed(samples, nt_type, limit or samples.in_a_call())

    def _explain(self, *args: Any, **kwargs: Any) -> Explanation:
        options = self._options(*args, **kwargs)
        started = time.perf_counter()
        values = self.attribute(**options)
        seconds = time.perf_counter() - started
        asked = (options.get(name) for name in ("target", "additional_forward_args"))
        request = self._query(options["inputs"], None, *asked)
        return Explanation(
            values=values,
            outputs=engine.values(
                request.model, InputRows(request.inputs.tensors, request.inputs.batch)
            )[0],
            baseline_outputs=None,
            convergence_delta=None,
            standard_errors=None,
            method=self.get_name(),
            seconds=seconds,
            data=kept(request.inputs.pack(request.inputs.tensors)),
            target=kept(options.get("target")),
        )

    def _plan(self, *args: Any, **kwargs: Any) -> Plan:
        """What the method asks of the model for the samples that it is given at once."""
        options = self._options(*args, **kwargs)
        del options["nt_type"]
        limit = options.pop("nt_samples_batch_size")
        own = ("inputs", "nt_samples", "stdevs", "draw_baseline_from_distrib", "seed")
        given = {name: options.pop(name) for name in own}
        samples = Samples(**given, arguments=options)
        span = slice(0, min(samples.count, limit or samples.in_a_call()))
        x, arguments = samples.block(span, self.attribution_method)
        plan: Plan = self.attribution_method.plan(x, **arguments)
        return plan

    def _check_flags(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Checks its own flags and the method's, one of which :meth:`_options` drops."""
        check_flags(flags_of(self.attribute), args, kwargs)
        check_flags(self._flags, (), kwargs)

    def _streamed(
        self, method: OfGradient, samples: Samples, nt_type: str, limit: int | None
    ) -> Any:
        """Without ever holding the attributions of more than a block of rows."""
        x = samples.inputs
        options = method._options(None, **samples.arguments)
        del options["inputs"]
        asked = (options.pop(name) for name in ("target", "additional_forward_args"))
        request = method._query(x.pack(x.tensors), None, *asked)
        smoothing = Smoothing(nt_type, samples.batch)

        def add(sums: list[Tensor], found: engine.Gradients) -> list[Tensor]:
            pairs = zip(found.each, found.rows, strict=True)
            values = [method.of_gradient(g, rows, **options) for g, rows in pairs]
            return smoothing.add(sums, values, found.examples, found.repeats.start == 0)

        most = None if limit is None else limit * samples.batch
        sums = engine.gradient_sum(request.model, samples.noisy, add, most)
        return x.pack(smoothing.result(list(sums), samples.count))

    def _model(self, samples: Samples) -> Model:
        asked = (samples.arguments.get(name) for name in ("target", "additional_forward_args"))
        x = samples.inputs
        return self._query(x.pack(x.tensors), None, *asked).model

    @staticmethod
    def _may_stack(model: Model, samples: Samples) -> bool:
        """Whether the model has the same outputs for several copies of the batch in a call."""
        try:
            interaction.settle(model, samples.noisy, differentiable=True)
        except Exception:  # the method may know how the model is to be called
            return False
        return not (model.whole_batch or model.rows_interact)

    def _smoothed(self, samples: Samples, nt_type: str, size: int) -> Any:
        method = self.attribution_method
        has_delta = samples.arguments.get("return_convergence_delta") and (
            method.has_convergence_delta()
        )
        smoothing: Smoothing | None = None
        sums: list[Tensor] = []
        deltas: list[Tensor] = []
        # What methods return: a tensor, a tuple, or for several layers a list of either.
        form: TreeSpec | None = None
        attribute = getattr(method.attribute, "__wrapped__", None)  # which warns of no rows
        attribute = method.attribute if attribute is None else partial(attribute, method)
        model, first = self._model(samples), 0
        while first < samples.count:
            if (
                model.is_unsettled
                and size > 1
                and first == 1
                and not self._may_stack(model, samples)
            ):
                size = 1
            # The first sample comes alone, so that a bad argument is told before all else.
            count = 1 if model.is_unsettled and first == 0 else size
            span = slice(first, min(first + count, samples.count))
            x, arguments = samples.block(span, method)
            found = attribute(x, **arguments)
            values, delta = found if has_delta else (found, None)
            leaves, form = tree_flatten(values)
            each = [v.detach() for v in leaves]
            rows = samples.batch * length(span)
            if length(span) > 1 and any(v.shape[0] % max(1, rows) for v in each):
                size = 1  # the model answers for the batch as a whole
                continue
            each_sample = [by_sample(v, samples.batch, length(span)) for v in each]
            everyone = slice(0, max(v.shape[1] for v in each_sample))
            smoothing = smoothing or Smoothing(nt_type, everyone.stop)
            sums = smoothing.add(sums, each_sample, everyone, first == 0)
            if delta is not None:
                shape = length(span), samples.batch, delta.numel() // max(1, rows)
                deltas.append(delta.detach().reshape(shape).transpose(0, 1))
            first = span.stop
        assert smoothing is not None and form is not None
        result = tree_unflatten(smoothing.result(sums, samples.count), form)
        return (result, torch.cat(deltas, 1).flatten()) if has_delta else result

    @property
    def _smoothed_method(self) -> Any:
        return self.attribution_method

    def _check_program(self) -> None:
        super()._check_program()
        method = self.attribution_method
        fine = isinstance(method, Attribution) and not isinstance(method, NoiseTunnel)
        fine = fine and method._has_program() and not method._draws_design
        expected = "a NoiseTunnel over a method that can be exported and draws no coalitions"
        check(fine, "explainer", expected, f"one over {type(method).__name__}")

    def _program_options(self, options: dict[str, Any], rest: dict[str, Any]) -> dict[str, Any]:
        """Its own, and as ``arguments`` its method's; what a request is made of among its own."""
        of_method = options_of(self.attribution_method, options["inputs"], rest)
        of_method.pop("seed", None)
        asked = {name: of_method.pop(name) for name in ASKED if name in of_method}
        draws = options.pop("draw_baseline_from_distrib")
        background = asked.pop("baselines", None) if draws else None
        return options | asked | {"background": background, "arguments": of_method}

    def has_convergence_delta(self) -> bool:
        return bool(self.attribution_method.has_convergence_delta())

    @property
    def multiplies_by_inputs(self) -> bool:
        return bool(self.attribution_method.multiplies_by_inputs)

    def _program(
        self,
        inputs: Inputs,
        nt_type: str,
        nt_samples: int,
        stdevs: Any,
        background: Any,
        arguments: dict[str, Any],
        seed: int | None,
    ) -> Program:
        check_library("which draws the noise")
        check(nt_type in TYPES, "nt_type", f"one of {', '.join(TYPES)}", repr(nt_type))
        method = self.attribution_method
        if background is not None:
            background = check_rows_built_in(background, inputs)
        return partial(
            noise_tunnel,
            method=method._program(inputs, **arguments),
            nt_type=nt_type,
            stdevs=check_stdevs(stdevs, inputs),
            samples=check_count(nt_samples, "nt_samples"),
            background=background,
        )


def noise_tunnel(
    request: TracedRequest,
    method: Program,
    nt_type: str,
    stdevs: tuple[float, ...],
    samples: int,
    background: tuple[Tensor, ...] | None,  # each [K, *F_i], to draw the method's baselines from
) -> Answer:
    """The mean, mean square or variance of a method's attributions at noisy inputs."""
    outputs = request.outputs(*(x.clone() for x in request.inputs))  # it may write to them
    block = slice(0, samples), slice(0, request.batch)

    rows = request.noisy(None, stdevs, samples).block(*block)
    drawn = None
    if background is not None:
        drawn = request.noisy(background, stdevs, samples).starts().block(*block)
    answer = method(request.of_samples(samples, rows, drawn, outputs))
    each = (a.unflatten(0, (samples, request.batch)) for a in answer.attributions)
    smoothed = tuple(_smoothed(nt_type, a) for a in each)
    magnitude, delta = answer.magnitude, answer.convergence_delta
    if magnitude is not None:
        magnitude = magnitude.unflatten(0, (samples, request.batch)).amax(0)
    if delta is not None:  # by example, and then by sample
        own = delta.shape[0] // outputs.shape[0] // samples
        delta = delta.reshape(samples, -1, own).transpose(0, 1).flatten()
    return Answer(outputs, smoothed, delta, magnitude=magnitude)


def _smoothed(nt_type: str, values: Tensor) -> Tensor:  # [N, B, *F] -> [B, *F]
    wide = values.to(dtype_of_sums(values))
    if nt_type == "smoothgrad":
        found = wide.mean(0)
    elif nt_type == "smoothgrad_sq":
        found = wide.square().mean(0)
    else:  # of numbers around zero
        apart = wide - wide[:1]
        found = (apart.square().mean(0) - apart.mean(0).square()).clamp(min=0)
    return found.to(values.dtype)
