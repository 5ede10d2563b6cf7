"""LIME: a simple model fitted to the outputs near an input."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from ..core import engine
from ..core.budget import check_budget
from ..core.designs import foldover_hadamard, unpack
from ..core.inputs import (
    FeatureGroups,
    Inputs,
    TensorOrTuple,
    check,
    check_choice,
    check_count,
    check_feature_mask,
    check_limit,
    check_number,
    check_seed,
    warn,
)
from ..core.linear_fits import Lasso, LinearFit, LocalRegression, fit_rows, is_wide
from ..core.progress import Bar, bar
from ..core.rows import part, row_bytes
from ._base import (
    Found,
    PerturbationAttribution,
    Query,
    arranged,
    captum_compatible,
    check_groups_for_batch,
    check_ids,
    check_numbers,
    coalition_rows,
    result_dtype,
)
from ._players import counted, groups_that_vary
from ._sampling import Sampled, by_players, in_rounds

_BYTES_KEPT = 1 << 26  # of perturbed inputs that custom functions made, at a time
_FIRST_SAMPLES, _MOST_SAMPLES = 5, 100  # for each group, if the errors decide how many


@dataclass(frozen=True)
class ExpKernel:
    """A similarity of exp(−d² / (2 width²)), d a distance between model inputs as flat vectors.

    It may be called as any ``similarity_func``; :class:`Lime` knows it, and works the distances
    out from the coalitions.

    Args:
        distance_mode: "cosine", one minus the cosine of the angle; or "euclidean".
        kernel_width: the width, in units of the distance.

    Raises:
        ArgumentError: the mode is another, or the width is not above zero.
    """

    distance_mode: str = "cosine"
    kernel_width: float = 1.0

    def __post_init__(self) -> None:
        check_choice(self.distance_mode, "distance_mode", ("cosine", "euclidean"))
        width = check_number(self.kernel_width, "kernel_width", "a width above 0", positive=True)
        object.__setattr__(self, "kernel_width", width)

    def __call__(
        self, original: TensorOrTuple, perturbed: TensorOrTuple, interpretable: Any, **kwargs: Any
    ) -> float:
        x, p = _flat(original), _flat(perturbed)
        if self.distance_mode == "cosine":
            distance = _cosine_distance(
                *(_products(a, b).sum() for a, b in ((x, p), (x, x), (p, p)))
            )
        else:
            distance = _squares(x - p).sum().sqrt()
        return float(self.of_distance(distance))

    def of_distance(self, distance: Tensor) -> Tensor:
        return (distance.square() / (-2 * self.kernel_width**2)).exp()


def get_exp_kernel_similarity_function(
    distance_mode: str = "cosine", kernel_width: float = 1.0
) -> ExpKernel:
    """A similarity function for :class:`Lime` and :class:`LimeBase`: :class:`ExpKernel`."""
    return ExpKernel(distance_mode, kernel_width)


class LimeBase(PerturbationAttribution):
    """A simple model fitted to the model's outputs for samples near an input, weighted by nearness.

    All of it is yours: how samples are drawn, in which space, how they weigh, what is fitted.
    :class:`Lime` is the usual choice. For B > 1 rows the forward function must give one number for
    the batch.

    Source: Ribeiro, Singh and Guestrin, "'Why should I trust you?' Explaining the predictions of
    any classifier" (2016).

    Args:
        forward_func: as for every method.
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
    ):
        super().__init__(forward_func, affine_prefix=affine_prefix)
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
    ) -> Any:
        """Fits the interpretable model.

        Args:
            inputs: a tensor [B, *F] of any dtype, or a tuple of tensors [B, *F_i].
            target: which output is explained, as for :class:`IntegratedGradients`.
            additional_forward_args: as for :class:`FeatureAblation`.
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
        query = self._query(inputs, None, target, additional_forward_args)
        found = self._find(query, False, n_samples, perturbations_per_eval, show_progress, **kwargs)
        return found.values[0]

    def _find(  # type: ignore[override]
        self,
        query: Query,
        detailed: bool,
        n_samples: int,
        perturbations_per_eval: int | None,
        show_progress: bool,
        **kwargs: Any,
    ) -> Found:
        n = check_count(n_samples, "n_samples")
        limit = check_limit(perturbations_per_eval, query.inputs.batch)
        with self._progress(show_progress, n * query.inputs.batch) as advance:
            samples = self._evaluate(query, self.perturb_func, kwargs, n, limit, advance)
        answers = samples.values[0].numel()
        batch = query.inputs.batch
        check(
            answers == 1 or batch == 1 or query.model.whole_batch,
            "forward_func",
            "one number for the batch of {} rows (Lime explains every row)",
            f"{answers} numbers",
            batch,
        )
        check(answers == 1, "target", "one that leaves one number a sample", f"{answers} numbers")
        outputs = self._outputs_at_inputs(query, limit, 0) if detailed else None
        if not isinstance(self.interpretable_model, LinearFit):
            return Found((self._represent(samples, samples.values[:, 0]),), outputs)
        coefficients = fit_rows(self.interpretable_model, *samples.in_float64())
        return Found((coefficients.T.to(result_dtype(samples.values)),), outputs)

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
        query: Query,
        perturb: Callable[..., Any],
        kwargs: dict[str, Any],
        n: int,
        limit: int | None,
        advance: Callable[[int], object],
    ) -> _Samples:
        """Draws n samples for one example, or one batch, and asks the model about them."""
        batch = query.inputs.batch
        fitting = _BYTES_KEPT // max(1, row_bytes(query.inputs.tensors) * batch)
        at_once = max(1, min(1024, fitting), (limit or 0) // max(1, batch))
        interpretable, weights, values = [], [], []
        with torch.no_grad():
            samples = itertools.islice(self._draw(query.inputs, perturb, kwargs), n)
            while block := list(itertools.islice(samples, at_once)):
                # Samples of one shape after another go into one call.
                for _, alike in itertools.groupby((rows for rows, _, _ in block), _shapes):
                    perturbed = _Perturbed(query.inputs, list(alike))
                    outputs = engine.values(query.model, perturbed, limit)
                    check_numbers(outputs, 0, query)
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


class Lime(LimeBase):
    """The coefficients of a linear model that is fitted to the outputs near the input.

    Every group of features keeps the input's values or takes the baseline's, each with a chance of
    one half; outputs weigh by how near the coalition's row is to the input; the groups' presence, 0
    or 1, is what the linear model knows. A group whose features equal the baseline has exactly zero
    and no part in that model; M below counts the others. Examples of the batch with as many of them
    share the coalitions. These are not independent coins but balanced, rows of Hadamard matrices
    and their complements: the same coefficients with far less chance in them. Most so where
    ``n_samples`` fills blocks of 2^(d+1), d the binary digits of M - 1 for M groups: 64 for 17 to
    32 groups. For up to 12 groups 2^M of them are all there are.

    Source: Ribeiro, Singh and Guestrin, "'Why should I trust you?' Explaining the predictions of
    any classifier" (2016).

    Args:
        forward_func: as for every method.
        interpretable_model: as for :class:`LimeBase`; None: ``Lasso(alpha=0.01)``.
        similarity_func: as for :class:`LimeBase`; None:
            ``get_exp_kernel_similarity_function("cosine", kernel_width=1.0)``. What that function
            returns is worked out for all samples at once; any other is called for each.
        perturb_func: as for :class:`LimeBase`, for samples [1, num_interp_features] of zeros and
            ones; None for the balanced coalitions.
        affine_prefix: whether affine operations at the model's beginning may be done on a row
            for each group rather than for each coalition.

    The two functions are called for one example at a time, with the keywords ``baselines``,
    ``feature_mask`` (ids from 0 on) and ``num_interp_features``. With neither of them, fits with
    :class:`Lasso`, :class:`Ridge` and :class:`LeastSquares` keep no samples, and :meth:`explain`
    has standard errors (but for more than 4096 groups and fewer samples): HC3, each pair of
    coalitions one observation. As these take coalitions for independent they are too large, by
    some √(n / (n - 2 M)) for n samples and M groups. Those of a lasso take it as given which
    coefficients are zero.

    Raises:
        ArgumentError: one of them is not what is documented.
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        interpretable_model: Any = None,
        similarity_func: Callable[..., Any] | None = None,
        perturb_func: Callable[..., Any] | None = None,
        *,
        affine_prefix: bool = True,
    ):
        super().__init__(
            forward_func,
            Lasso(alpha=0.01) if interpretable_model is None else interpretable_model,
            ExpKernel() if similarity_func is None else similarity_func,
            fair_coins if perturb_func is None else perturb_func,
            True,
            at_coalition,
            None,
            affine_prefix=affine_prefix,
        )

    @captum_compatible
    def attribute(  # type: ignore[override]
        self,
        inputs: TensorOrTuple,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        feature_mask: Any = None,
        n_samples: int | str = 25,
        perturbations_per_eval: int | None = None,
        return_input_shape: bool = True,
        show_progress: bool = False,
        *,
        tolerance: float = 0.01,
        max_samples: int | None = None,
        seed: int | None = None,
    ) -> Any:
        """Attributes the chosen output to the groups of features.

        Args:
            inputs: a tensor [B, *F] of any dtype, or a tuple of tensors [B, *F_i].
            baselines: what stands for an absent feature, as for :class:`FeatureAblation`.
            target: as for :class:`FeatureAblation`.
            additional_forward_args: as for :class:`FeatureAblation`.
            feature_mask: as for :class:`FeatureAblation`.
            n_samples: coalitions to evaluate for each example; or "auto": as many as ``tolerance``
                takes, 5 for each group at least. That needs the standard errors, see above.
            perturbations_per_eval: at most so many rows in one call of the model; None to choose
                for speed.
            return_input_shape: False for one number for each group rather than for each feature.
            show_progress: whether to show a tqdm bar on stderr.
            tolerance: with "auto", the largest standard error to end with, as a share of the range
                of the example's coefficients and zero.
            max_samples: with "auto", how many coalitions to take at most; None for 100 for each
                group that differs from the baseline. If they are not enough, a warning tells.
            seed: decides the coalitions; None takes one from torch's default generator. A
                ``perturb_func`` of your own decides for itself.

        Returns:
            Attributions in the form of the inputs, float64 for outputs in float64, otherwise
            float32, without a graph: [B, *F_i] for one output a row, [B, *C, *F_i] for several,
            [1, *F_i] for one output for the batch. With ``return_input_shape=False`` one tensor
            [B, *C, greatest id − least id + 1].

        Raises:
            ArgumentError, IndexError: as :class:`FeatureAblation` and :class:`LimeBase`; or all
                weights of an example are zero.
        """
        query = self._query(inputs, baselines, target, additional_forward_args)
        found = self._find(
            query,
            False,
            feature_mask,
            n_samples,
            perturbations_per_eval,
            return_input_shape,
            show_progress,
            tolerance,
            max_samples,
            seed,
        )
        return query.inputs.pack(found.values) if return_input_shape else found.values[0]

    def _find(  # type: ignore[override]
        self,
        query: Query,
        detailed: bool,
        feature_mask: Any,
        n_samples: int | str,
        perturbations_per_eval: int | None,
        return_input_shape: bool,
        show_progress: bool,
        tolerance: float,
        max_samples: int | None,
        seed: int | None,
    ) -> Found:
        groups = check_feature_mask(feature_mask, query.inputs)
        amount = (n_samples, tolerance, max_samples)
        budget = check_budget(*amount, _MOST_SAMPLES * groups.count)
        limit = check_limit(perturbations_per_eval)
        drawn = self.perturb_func is fair_coins
        is_known = drawn and isinstance(self.similarity_func, ExpKernel)
        if not (is_known and return_input_shape):
            check_ids(groups)
        if drawn or seed is not None:
            seed = check_seed(seed)
        is_linear = isinstance(self.interpretable_model, LinearFit)
        check(
            not budget.is_open
            or (is_known and is_linear and not is_wide(budget.most, groups.count)),
            "n_samples",
            "a number: standard errors are not known for functions of your own, nor for that many "
            "groups",
            repr(n_samples),
        )
        # What is the user's own may want to see all groups.
        varies = groups_that_vary(query, groups) if is_known and is_linear else None

        rows = lambda m: check_budget(*amount, _MOST_SAMPLES * m).most  # noqa: E731
        divided = varies is not None or budget.is_open or not is_known
        outputs = self._outputs_at_inputs(query, limit, budget.most, divided)  # [B, *C]
        check_groups_for_batch(query, groups)
        start = _by_problem(outputs[None], query)[0]  # [P, C]

        def sample(query: Query, groups: FeatureGroups, start: Tensor, progress: Bar) -> Sampled:
            m = groups.count
            budget = check_budget(*amount, _MOST_SAMPLES * m)
            if is_known and is_linear and not is_wide(budget.most, m):
                assert seed is not None
                near = _Near(self, groups, start, limit, seed, keeps=detailed or budget.is_open)
                return in_rounds(near, query, start, budget, _FIRST_SAMPLES * m, progress)
            n = budget.most
            bits = foldover_hadamard(m, n, check_seed(seed)) if drawn else None
            if is_known and bits is not None:
                found = self._fit_coalitions(query, groups, bits, start, limit, progress)
            else:
                found = self._fit_samples(query, groups, bits, n, start, limit, progress)
            return Sampled(found, torch.full((len(start),), n))

        title = self._title(show_progress)
        sampled = by_players(query, groups, varies, start, sample, rows, title, budget.tolerance)

        def arrange(values: Tensor | None) -> Any:  # [M, P, C]
            if values is None:
                return None
            return arranged(values.movedim(0, -1), outputs, groups, return_input_shape)

        if not detailed:
            return Found(arrange(sampled.values))
        return Found(
            arrange(sampled.values),
            outputs,
            self._at_baselines(query, limit),
            standard_errors=arrange(sampled.errors),
            samples=sampled.samples,
            players=counted(query, varies, len(start), groups.count) if drawn else None,
            reached=sampled.reached,
        )

    def _fit_coalitions(
        self,
        query: Query,
        groups: FeatureGroups,
        bits: Tensor,  # [N, W]
        start: Tensor,  # [P, C]: about how large the values are
        limit: int | None,
        progress: Bar,
    ) -> Tensor:  # [M, P, C]
        """The coefficients, from values that are all kept."""
        start = start.to(groups.masks[0].device, torch.float64)
        local = LocalRegression(
            bits, groups.count, _weigher(self.similarity_func, query, groups), start
        )
        kept = start.new_empty(len(bits), *start.shape)

        def add(values: Tensor, repeats: slice, examples: slice) -> None:
            problems = slice(0, 1) if query.model.whole_batch else examples
            kept[repeats, problems] = _by_problem(values, query).to(kept)

        self._stream(query, coalition_rows(query, groups, bits), add, limit, progress)
        z = unpack(bits, groups.count).to(start.device)
        found = [
            self._coefficients(_Samples(z, local.weights(slice(p, p + 1))[:, 0], kept[:, p]))
            for p in range(len(start))
        ]
        return torch.stack(found, 1) if found else start.new_empty(groups.count, *start.shape)

    def _fit_samples(
        self,
        query: Query,
        groups: FeatureGroups,
        bits: Tensor | None,  # [N, W]; None where perturb_func draws
        n: int,
        start: Tensor,  # [P, C]: of the outputs' shape
        limit: int | None,
        progress: Bar,
    ) -> Tensor:  # [M, P, C]
        """The coefficients, with samples drawn or weighed one by one by functions of the user."""
        check(
            not query.model.rows_interact,
            "similarity_func" if self.perturb_func is fair_coins else "perturb_func",
            "None, or a forward_func with rows that do not influence one another, as functions of "
            "your own are called for one example at a time",
            "a function",
        )
        device = query.inputs.tensors[0].device
        ids = _shifted_ids(groups, device)
        perturb = self.perturb_func
        if bits is not None:
            drawn = groups.by_id(unpack(bits, groups.count).to(device).long())[:, None]
            perturb = lambda inputs, **kwargs: (z for z in drawn)  # noqa: E731
        found = torch.empty(groups.count, *start.shape, dtype=torch.float64, device=device)
        for p in range(len(start)):
            one = query if len(start) == 1 else query.of(slice(p, p + 1))
            masks = tuple(ids[part(mask, slice(p, p + 1)).long()] for mask in groups.masks)
            kwargs = {
                "baselines": query.inputs.pack(one.baselines),
                "feature_mask": query.inputs.pack(masks),
                "num_interp_features": int(ids[-1]) + 1,
            }
            samples = self._evaluate(one, perturb, kwargs, n, limit, progress)
            found[:, p] = self._coefficients(samples)[ids]
        return found

    def _coefficients(self, samples: _Samples) -> Tensor:  # [M, C] float64
        if isinstance(self.interpretable_model, LinearFit):
            return fit_rows(self.interpretable_model, *samples.in_float64())
        columns, wanted = [], samples.interpretable.shape[1]
        for values in samples.values.unbind(1):
            found = torch.as_tensor(self._represent(samples, values))
            fits = found.numel() == wanted
            expected = "a representation of {} coefficients"
            check(fits, "interpretable_model", expected, found.shape, wanted)
            columns.append(found.detach().flatten().to(samples.values.device, torch.float64))
        return torch.stack(columns, 1)


class _Near:
    """Coalitions of fair coins, and a linear fit to the outputs for them near each example."""

    def __init__(
        self,
        lime: Lime,
        groups: FeatureGroups,
        start: Tensor,  # [P, C]: about how large the values are
        limit: int | None,
        seed: int,
        keeps: bool,
    ):
        self._lime, self._groups, self._limit, self._seed = lime, groups, limit, seed
        self._start = start.to(groups.masks[0].device, torch.float64)
        # All values so far, for the errors and for the next round, [n, P, C].
        self._kept = self._start.new_empty(0, *start.shape) if keeps else None
        self._fit: LocalRegression

    def ask(self, query: Query, taken: slice, problems: Tensor, progress: Bar) -> None:
        m, groups = self._groups.count, self._groups.of(problems)
        bits = foldover_hadamard(m, taken.stop, self._seed)
        weigh = _weigher(self._lime.similarity_func, query, groups)
        self._fit = LocalRegression(bits, m, weigh, self._start[problems], query.rows)
        new = self._start.new_empty(0)
        if self._kept is not None:
            if taken.start:
                known = slice(0, taken.start), slice(0, len(problems))
                self._fit.add(self._kept[:, problems], *known)
            new = self._start.new_empty(
                taken.stop - taken.start, len(problems), self._start.shape[1]
            )

        def add(values: Tensor, repeats: slice, examples: slice) -> None:
            some = slice(0, 1) if query.model.whole_batch else examples
            values = _by_problem(values, query)
            rows = slice(taken.start + repeats.start, taken.start + repeats.stop)
            self._fit.add(values, rows, some)
            if self._kept is not None:
                new[repeats, some] = values.to(new)

        rows = coalition_rows(query, groups, bits[taken])
        self._lime._stream(query, rows, add, self._limit, progress)
        if self._kept is not None:
            all_new = self._start.new_empty(len(new), *self._start.shape)
            all_new[:, problems] = new
            self._kept = torch.cat([self._kept, all_new])

    def estimate(
        self, query: Query, n: int, problems: Tensor
    ) -> tuple[Tensor, Tensor | None]:  # [M, k, C]
        model = self._lime.interpretable_model
        found = self._fit.solve(model)  # [k, M, C]
        if self._kept is None:
            return found.transpose(0, 1), None
        errors = self._fit.standard_errors(model, found, self._kept[:, problems])
        return found.transpose(0, 1), errors.transpose(0, 1)


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


def _by_problem(values: Tensor, query: Query) -> Tensor:  # [n, b, *C] -> [n, p, C]
    """Outputs by example; if the model answers for the batch, all of them for one problem."""
    if query.model.whole_batch:
        return values.flatten(1)[:, None]
    return values.reshape(*values.shape[:2], values.shape[2:].numel())


def _weigher(
    kernel: ExpKernel, query: Query, groups: FeatureGroups
) -> Callable[[Tensor, slice], Tensor]:
    """How much coalitions z [n, M] weigh for each of these problems p: (z, p) -> [n, p].

    A row is the input in some groups and the baseline in the others: its distance from the input
    follows from sums over each group.
    """

    def sums(product: Callable[[Tensor, Tensor], Tensor]) -> Tensor:  # [P, M] float64
        total = query.inputs.tensors[0].new_zeros(
            query.inputs.batch, groups.count, dtype=torch.float64
        )
        for x, b, mask in zip(query.inputs.tensors, query.baselines, groups.masks, strict=True):
            values = product(_wide(x), _wide(b)).expand(x.shape)
            rows = (len(x), x.shape[1:].numel())
            players = mask.long().reshape(len(mask), rows[1]).expand(rows)
            total.scatter_add_(1, players, values.reshape(rows))
        return total.sum(0, keepdim=True) if query.model.whole_batch else total

    if kernel.distance_mode == "euclidean":
        apart = sums(lambda x, b: _squares(x - b))
        return lambda z, p: kernel.of_distance(((1 - z) @ apart[p].T).sqrt())

    xx, bb = sums(lambda x, b: _squares(x)), sums(lambda x, b: _squares(b))
    xb = sums(_products)

    def weigh(z: Tensor, p: slice) -> Tensor:
        product = z @ (xx - xb)[p].T + xb[p].sum(1)
        square = z @ (xx - bb)[p].T + bb[p].sum(1)
        return kernel.of_distance(_cosine_distance(product, xx[p].sum(1), square))

    return weigh


def _cosine_distance(product: Tensor, square: Tensor, other_square: Tensor) -> Tensor:
    """One minus the cosine of the angle between two vectors; 1 if one is zero."""
    lengths = (s.clamp(min=0).sqrt().clamp(min=1e-8) for s in (square, other_square))
    return 1 - product / math.prod(lengths)


def _flat(tensors: TensorOrTuple) -> Tensor:
    """[*] float64, or complex128 if one is complex."""
    parts = tensors if isinstance(tensors, tuple) else (tensors,)
    return torch.cat([_wide(p.detach().flatten()) for p in parts])


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.complex128 if x.is_complex() else torch.float64)


# Terms of squared distances and of inner products. A complex number is a point of the plane; what
# is NaN, which models take for missing, is left out.


def _squares(x: Tensor) -> Tensor:
    return _products(x, x)


def _products(x: Tensor, other: Tensor) -> Tensor:
    product = (x * other.conj()).real if x.is_complex() else x * other
    return torch.where(x.isnan() | other.isnan(), 0, product)


def _shifted_ids(groups: FeatureGroups, device: torch.device) -> Tensor:  # [M] int64
    """The user's ids, the least of them 0, as Captum has them."""
    if groups.ids is None:
        return torch.arange(groups.count, device=device)
    return (groups.ids - groups.ids[0]).to(device)


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
    return z.detach()


def _check_weight(weight: Any, device: torch.device) -> Tensor:  # [1] float64
    weight = torch.as_tensor(weight, dtype=torch.float64, device=device).detach().flatten()
    check(weight.numel() == 1, "similarity_func", "one number", f"{weight.numel()} numbers")
    return weight
