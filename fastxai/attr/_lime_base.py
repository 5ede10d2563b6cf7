"""LimeBase: linear fits with functions of the user's own."""

from __future__ import annotations

import contextlib
import inspect
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from ..core import engine
from ..core.checks import TensorOrTuple, check, check_count, check_limit, warn
from ..core.engine.inputs import Inputs
from ..core.engine.outputs import result_dtype
from ..core.engine.progress import bar
from ..core.engine.request import Request, check_no_nan
from ..core.engine.rows import row_bytes
from ..core.estimate.linear_fits import LinearFit, fit_rows
from ._base import captum_compatible
from ._explanation import Result
from ._perturbation import PerturbationAttribution

_BYTES_KEPT = 1 << 26  # of perturbed inputs that custom functions made, at a time


class LimeBase(PerturbationAttribution):
    """A simple model fitted to the model's outputs for samples near an input, weighted by nearness.

    All of it is yours: how samples are drawn, in which space, how they weigh, what is fitted.
    :class:`Lime` is the usual choice. For B > 1 rows the forward function must give one number for
    the batch.

    Source: Ribeiro, Singh and Guestrin, "'Why should I trust you?' Explaining the predictions of
    any classifier" (2016).

    Args:
        forward_func: a module or any callable that returns one tensor, as for every method.
        interpretable_model: :class:`Lasso`, :class:`Ridge`, :class:`LeastSquares`, or an object
            with ``fit(dataloader)``, whose one batch is (interpretable inputs [N, M], outputs [N],
            weights [N]) in float32, and ``representation()``. Its latest fit is left in it.
        similarity_func: takes (inputs, perturbed inputs, interpretable sample [1, M], **kwargs),
            returns the sample's weight.
        perturb_func: takes (inputs, **kwargs), returns one sample, or a generator of samples.
        perturb_interpretable_space: whether samples are interpretable, [1, M], or model inputs.
        from_interp_rep_transform: takes (interpretable sample, inputs, **kwargs), returns the model
            inputs it stands for, which may have other lengths than the inputs but as many rows.
            Needed for samples in the interpretable space.
        to_interp_rep_transform: takes (perturbed inputs, inputs, **kwargs), returns their
            interpretable form [1, M]. Needed for samples of model inputs.
        affine_prefix: whether affine operations at the model's beginning may be done on a row
            for each group rather than for each coalition.
        output: which of several outputs is explained, as for :class:`Attribution`.

    Raises:
        ArgumentError: one of them is not what is documented.
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        interpretable_model: Any,
        similarity_func: Callable[..., Any],
        perturb_func: Callable[..., Any],
        perturb_interpretable_space: bool,
        from_interp_rep_transform: Callable[..., Any] | None,
        to_interp_rep_transform: Callable[..., Any] | None,
        *,
        affine_prefix: bool = True,
        output: str | int | None = None,
    ):
        super().__init__(forward_func, affine_prefix=affine_prefix, output=output)
        if perturb_interpretable_space:
            needed, name = from_interp_rep_transform, "from_interp_rep_transform"
        else:
            needed, name = to_interp_rep_transform, "to_interp_rep_transform"
        _check_callable(similarity_func, "similarity_func")
        _check_callable(perturb_func, "perturb_func")
        _check_callable(needed, name)
        fits = isinstance(interpretable_model, LinearFit) or all(
            callable(getattr(interpretable_model, part, None)) for part in ("fit", "representation")
        )
        check(
            fits,
            "interpretable_model",
            "Lasso, Ridge, LeastSquares or an object with fit(dataloader) and representation()",
            repr(interpretable_model),
        )
        self.interpretable_model = interpretable_model
        self.similarity_func: Any = similarity_func
        self.perturb_func = perturb_func
        self.perturb_interpretable_space = perturb_interpretable_space
        self.from_interp_rep_transform: Any = from_interp_rep_transform
        self.to_interp_rep_transform: Any = to_interp_rep_transform

    @property
    def multiplies_by_inputs(self) -> bool:
        return False  # as in Captum

    @captum_compatible
    def attribute(
        self,
        inputs: TensorOrTuple,
        target: Any = None,
        additional_forward_args: Any = None,
        n_samples: int = 50,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
        **kwargs: Any,
    ) -> Tensor:
        """Fits the interpretable model.

        Args:
            inputs: a tensor [B, *F] of any dtype, or a tuple of tensors [B, *F_i].
            target: which output is explained, as for :class:`IntegratedGradients`.
            additional_forward_args: extra arguments, as for :class:`FeatureAblation`.
            n_samples: how many samples; fewer, with a warning, if a generator ends before.
            perturbations_per_eval: at most so many samples (of B rows) in one call of the model;
                None to choose for speed.
            show_progress: whether to show a tqdm bar on stderr.
            **kwargs: given to the functions that draw, transform and weigh samples.

        Returns:
            What the interpretable model's ``representation()`` is; the coefficients [1, M] of a
            :class:`Lasso`, :class:`Ridge` or :class:`LeastSquares`, float64 for outputs in float64,
            otherwise float32.

        Raises:
            ArgumentError: an argument is not what is documented, a function returned what cannot be
                used, or the output is NaN or not one number for a sample.
            IndexError: a target is out of the output's range.
        """
        request = self._query(inputs, None, target, additional_forward_args)
        found = self._fitted(
            request, False, n_samples, perturbations_per_eval, show_progress, **kwargs
        )
        return found.values[0]

    def _find(self, request: Request, detailed: bool, *options: Any, **named: Any) -> Result:
        return self._fitted(request, detailed, *options, **named)

    def _fitted(
        self,
        request: Request,
        detailed: bool,
        n_samples: int,
        perturbations_per_eval: int | None,
        show_progress: bool,
        **kwargs: Any,
    ) -> Result:
        n = check_count(n_samples, "n_samples")
        limit = check_limit(perturbations_per_eval, request.inputs.batch)
        with self._progress(show_progress, n * request.inputs.batch) as advance:
            samples = self._evaluate(
                request, self.perturb_func, kwargs=kwargs, n=n, limit=limit, advance=advance
            )
        answers = samples.values[0].numel()
        batch = request.inputs.batch
        check(
            answers == 1 or batch == 1 or request.model.whole_batch,
            "forward_func",
            "one number for the batch of {} rows (Lime explains every row)",
            f"{answers} numbers",
            batch,
        )
        check(answers == 1, "target", "one that leaves one number a sample", f"{answers} numbers")
        outputs = self._outputs_at_inputs(request, limit, 0) if detailed else None
        if not isinstance(self.interpretable_model, LinearFit):
            return Result((self._represent(samples, samples.values[:, 0]),), outputs)
        coefficients = fit_rows(self.interpretable_model, *samples.in_float64())
        return Result((coefficients.T.to(result_dtype(samples.values)),), outputs)

    def _represent(self, samples: _Samples, values: Tensor) -> Any:  # [N]
        """What the user's model is after a fit to the samples, with these outputs."""
        columns = (samples.interpretable, values, samples.weights)
        dataset = TensorDataset(*(column.to(torch.float32) for column in columns))
        # A loader draws a seed even where it shuffles nothing: not from the global generator.
        apart = torch.Generator().manual_seed(0)
        with torch.no_grad():
            loader = DataLoader(dataset, batch_size=len(values), generator=apart)
            self.interpretable_model.fit(loader)
            return self.interpretable_model.representation()

    def _evaluate(
        self,
        request: Request,
        perturb: Callable[..., Any],
        kwargs: dict[str, Any],
        n: int,
        limit: int | None,
        advance: Callable[[int], object],
    ) -> _Samples:
        """Draws n samples for one example, or one batch, and asks the model about them."""
        batch = request.inputs.batch
        fitting = _BYTES_KEPT // max(1, row_bytes(request.inputs.tensors) * batch)
        at_once = max(1, min(1024, fitting), (limit or 0) // max(1, batch))
        interpretable, weights, values = [], [], []
        with torch.no_grad():
            samples = itertools.islice(self._draw(request.inputs, perturb, kwargs), n)
            while block := list(itertools.islice(samples, at_once)):
                # Samples of one shape after another go into one call.
                for _, alike in itertools.groupby((rows for rows, _, _ in block), _shapes):
                    perturbed = _Perturbed(request.inputs, list(alike))
                    outputs = engine.values(request.model, perturbed, limit)
                    check_no_nan(outputs, 0, request)
                    values.append(outputs.reshape(perturbed.repeats, -1).to(perturbed.device))
                interpretable += [z for _, z, _ in block]
                weights += [weight for _, _, weight in block]
                advance(len(block) * batch)
        check(len(values) > 0, "perturb_func", "at least one sample", "none")
        if len(weights) < n:
            warn(f"perturb_func: its generator ended after {len(weights)} of {n} samples")
        return _Samples(torch.cat(interpretable), torch.cat(weights), torch.cat(values))

    def _draw(
        self, inputs: Inputs, perturb: Callable[..., Any], kwargs: dict[str, Any]
    ) -> Iterator[tuple[tuple[Tensor, ...], Tensor, Tensor]]:
        """Samples without end: model inputs, their interpretable form [1, M], their weight [1]."""
        given = inputs.pack(inputs.tensors)
        for sample in _endless(perturb, given, kwargs):
            if self.perturb_interpretable_space:
                z = _check_interpretable(sample, "perturb_func")
                perturbed = self.from_interp_rep_transform(sample, given, **kwargs)
                rows = _check_perturbed(perturbed, inputs, "from_interp_rep_transform")
            else:
                perturbed = sample
                rows = _check_perturbed(sample, inputs, "perturb_func")
                z = self.to_interp_rep_transform(sample, given, **kwargs)
                z = _check_interpretable(z, "to_interp_rep_transform")
            weight = self.similarity_func(given, perturbed, z, **kwargs)
            yield rows, z, _check_weight(weight, rows[0].device)

    def _progress(
        self, show: bool, total: int
    ) -> contextlib.AbstractContextManager[Callable[[int], object]]:
        return bar(self._title(show), total)


def fair_coins(inputs: TensorOrTuple, *, num_interp_features: int, **kwargs: Any) -> Tensor:
    """A coalition [1, M] that every group joins by a fair coin.

    :class:`Lime` itself, seeing this function, draws balanced coalitions of the same chance.
    """
    device = inputs.device if isinstance(inputs, Tensor) else inputs[0].device
    return torch.randint(2, (1, num_interp_features), device=device)


def at_coalition(
    sample: Tensor,  # [1, M]
    inputs: Any,  # [B, *F], or a tuple of them, as the two that follow
    *,
    feature_mask: Any,  # [B, *F] or [1, *F]
    baselines: Any,  # [B, *F] or [1, *F]
    **kwargs: Any,
) -> TensorOrTuple:
    """The input where the sample is not zero, the baseline elsewhere."""
    present = sample[0].bool()
    if not isinstance(inputs, tuple):
        return torch.where(present[feature_mask], inputs, baselines)
    triples = zip(feature_mask, inputs, baselines, strict=True)
    return tuple(torch.where(present[mask], x, b) for mask, x, b in triples)


@dataclass(frozen=True)
class _Samples:
    interpretable: Tensor  # [N, M]
    weights: Tensor  # [N] float64
    values: Tensor  # [N, C]

    def in_float64(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.interpretable, self.weights, self.values.to(torch.float64)


class _Perturbed:
    """Rows that a function of the user's made: every repeat is of all examples."""

    kind = "samples"
    together = True

    def __init__(self, inputs: Inputs, samples: list[tuple[Tensor, ...]]):  # each [B, *F_i]
        self.inputs, self.samples = inputs.tensors, samples
        self.repeats, self.batch = len(samples), inputs.batch
        self.row_bytes, self.device = row_bytes(inputs.tensors), inputs.tensors[0].device

    def block(self, repeats: slice, examples: slice) -> tuple[Tensor, ...]:
        return tuple(torch.cat(parts) for parts in zip(*self.samples[repeats], strict=True))


def _check_callable(value: Any, name: str) -> None:
    check(callable(value), name, "a callable", repr(value))


def _endless(
    function: Callable[..., Any], inputs: TensorOrTuple, kwargs: dict[str, Any]
) -> Iterator[Any]:
    """What the function returns, call after call; or what the generator yields that it returns."""
    first = function(inputs, **kwargs)
    if inspect.isgenerator(first):
        return first
    return itertools.chain((first,), (function(inputs, **kwargs) for _ in itertools.count()))


def _shapes(rows: tuple[Tensor, ...]) -> list[torch.Size]:
    return [x.shape for x in rows]


def _check_perturbed(perturbed: Any, inputs: Inputs, source: str) -> tuple[Tensor, ...]:
    """Model inputs with as many rows; these may be of other shapes, as where words are left out."""
    tensors = perturbed if isinstance(perturbed, tuple) else (perturbed,)
    got = [tuple(t.shape) if isinstance(t, Tensor) else type(t).__name__ for t in tensors]
    wanted, batch = len(inputs.tensors), inputs.batch
    fine = len(tensors) == wanted and all(
        isinstance(t, Tensor) and t.shape[:1] == (batch,) for t in tensors
    )
    check(fine, source, "{} model inputs of {} rows", got, wanted, batch)
    return tuple(t.detach() for t in tensors)


def _check_interpretable(z: Any, source: str) -> Tensor:  # [1, M]
    is_tensor = isinstance(z, Tensor)
    fits = is_tensor and z.dim() == 2 and z.shape[0] == 1
    got = z.shape if is_tensor else type(z).__name__
    check(fits, source, "an interpretable sample [1, M]", got)
    sample: Tensor = z.detach()
    return sample


def _check_weight(weight: Any, device: torch.device) -> Tensor:  # [1] float64
    numbers = torch.as_tensor(weight, dtype=torch.float64, device=device).detach().flatten()
    check(numbers.numel() == 1, "similarity_func", "one number", f"{numbers.numel()} numbers")
    return numbers


def by_problem(values: Tensor, request: Request) -> Tensor:  # [n, b, *C] -> [n, p, C]
    """Outputs by example; if the model answers for the batch, all of them for one problem."""
    if request.model.whole_batch:
        return values.flatten(1)[:, None]
    return values.reshape(*values.shape[:2], values.shape[2:].numel())
