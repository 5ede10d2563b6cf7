"""LIME: a simple model fitted to the outputs near an input."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, overload

import torch
from torch import Tensor

from ..core.checks import Form, TensorOrTuple, check, check_count, check_limit, check_seed
from ..core.coalition_bits import unpack
from ..core.engine.groups import FeatureGroups, check_feature_mask, check_id_range
from ..core.engine.inputs import Inputs, packed
from ..core.engine.progress import Bar
from ..core.engine.request import Request
from ..core.estimate import hadamard
from ..core.estimate.budget import check_budget
from ..core.estimate.hadamard import foldover_hadamard
from ..core.estimate.linear_fits import Lasso, LinearFit, fit_rows, is_wide
from ..core.estimate.local_regression import LocalRegression
from ..core.estimate.similarity import ExpKernel
from ..core.program.program import Program
from ..core.spans import part
from ..ops import native, reference
from ._base import captum_compatible
from ._coalition_program import by_id, coalitions_replaced, groups_for_all, players_present
from ._coalitions import arranged, check_groups_for_batch, coalition_rows
from ._explanation import Result
from ._lime_base import LimeBase, _Samples, at_coalition, by_problem, fair_coins
from ._lime_program import lime
from ._lime_weights import weigher
from ._players import counted, groups_that_vary
from ._rounds import Sampled, by_players, in_rounds

_FIRST_SAMPLES, _MOST_SAMPLES = 5, 100  # for each group, if the errors decide how many


def get_exp_kernel_similarity_function(
    distance_mode: str = "cosine", kernel_width: float = 1.0
) -> ExpKernel:
    """A similarity function for :class:`Lime` and :class:`LimeBase`: :class:`ExpKernel`."""
    return ExpKernel(distance_mode, kernel_width)


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
        forward_func: a model, as for :class:`Attribution`.
        interpretable_model: what is fitted, as for :class:`LimeBase`; None: ``Lasso(alpha=0.01)``.
        similarity_func: what samples weigh, as for :class:`LimeBase`; None:
            ``get_exp_kernel_similarity_function("cosine", kernel_width=1.0)``. What that function
            returns is worked out for all samples at once; any other is called for each.
        perturb_func: draws samples [1, num_interp_features] of 0 and 1; None: balanced coalitions.
        affine_prefix, output: as for :class:`Attribution`.

    The two functions are called for one example at a time, with the keywords ``baselines``,
    ``feature_mask`` (ids from 0 on) and ``num_interp_features``. With neither of them, fits with
    :class:`Lasso`, :class:`Ridge` and :class:`LeastSquares` keep no samples, and :meth:`explain`
    has standard errors (but for more than 4096 groups and fewer samples): HC3, each pair of
    coalitions one observation. As these take coalitions for independent they are too large, by
    some √(n / (n - 2 M)) for n samples and M groups. Those of a lasso take it as given which
    coefficients are zero.

    Raises:
        ArgumentError: an argument is not as above; the message names it.
    """

    _has_standard_errors = _draws_design = True

    def __init__(
        self,
        forward_func: Callable[..., Any],
        interpretable_model: Any = None,
        similarity_func: Callable[..., Any] | None = None,
        perturb_func: Callable[..., Any] | None = None,
        *,
        affine_prefix: bool = True,
        output: str | int | None = None,
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
            output=output,
        )

    @overload  # type: ignore[override]
    def attribute(
        self,
        inputs: Form,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        feature_mask: Any = None,
        n_samples: int | str = 25,
        perturbations_per_eval: int | None = None,
        return_input_shape: Literal[True] = True,
        show_progress: bool = False,
        *,
        tolerance: float = 0.01,
        max_samples: int | None = None,
        seed: int | None = None,
    ) -> Form: ...
    @overload
    def attribute(
        self,
        inputs: TensorOrTuple,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        feature_mask: Any = None,
        n_samples: int | str = 25,
        perturbations_per_eval: int | None = None,
        *,
        return_input_shape: Literal[False],
        show_progress: bool = False,
        tolerance: float = 0.01,
        max_samples: int | None = None,
        seed: int | None = None,
    ) -> Tensor: ...
    @captum_compatible
    def attribute(
        self,
        inputs: Form,
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
    ) -> Form | Tensor:
        """Attributes the chosen output to the groups of features.

        Args:
            inputs: a tensor [B, *F] of any dtype, or a tuple of tensors [B, *F_i].
            baselines: what stands for an absent feature, as for :class:`FeatureAblation`.
            target: which output is explained, as for :class:`FeatureAblation`.
            additional_forward_args: extra arguments, as for :class:`FeatureAblation`.
            feature_mask: ids that group features, as for :class:`FeatureAblation`.
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
            ArgumentError: an argument, or what a function returns, is not as above, an output is
                NaN, or all weights of an example are zero.
            IndexError: the target is out of range.
        """
        request = self._query(inputs, baselines, target, additional_forward_args)
        found = self._find(
            request,
            detailed=False,
            feature_mask=feature_mask,
            n_samples=n_samples,
            perturbations_per_eval=perturbations_per_eval,
            return_input_shape=return_input_shape,
            show_progress=show_progress,
            tolerance=tolerance,
            max_samples=max_samples,
            seed=seed,
        )
        return packed(found.values, inputs) if return_input_shape else found.values[0]

    def _find(
        self,
        request: Request,
        detailed: bool,
        feature_mask: Any,
        n_samples: int | str,
        perturbations_per_eval: int | None,
        return_input_shape: bool,
        show_progress: bool,
        tolerance: float,
        max_samples: int | None,
        seed: int | None,
    ) -> Result:
        groups = check_feature_mask(feature_mask, request.inputs)
        amount = (n_samples, tolerance, max_samples)
        budget = check_budget(*amount, _MOST_SAMPLES * groups.count)
        limit = check_limit(perturbations_per_eval)
        drawn = self.perturb_func is fair_coins
        is_known = drawn and isinstance(self.similarity_func, ExpKernel)
        if not (is_known and return_input_shape):
            check_id_range(groups)
        if drawn or seed is not None:
            seed = check_seed(seed)
        is_linear = isinstance(self.interpretable_model, LinearFit)
        check(
            not budget.is_adaptive
            or (is_known and is_linear and not is_wide(budget.most, groups.count)),
            "n_samples",
            "a number: standard errors are not known for functions of your own, nor for that many "
            "groups",
            repr(n_samples),
        )
        # What is the user's own may want to see all groups.
        varies = groups_that_vary(request, groups) if is_known and is_linear else None

        rows = lambda m: check_budget(*amount, _MOST_SAMPLES * m).most  # noqa: E731
        divided = varies is not None or budget.is_adaptive or not is_known
        outputs = self._outputs_at_inputs(request, limit, budget.most, divided)  # [B, *C]
        check_groups_for_batch(request, groups)
        start = by_problem(outputs[None], request)[0]  # [P, C]

        def sample(
            request: Request, groups: FeatureGroups, start: Tensor, progress: Bar
        ) -> Sampled:
            m = groups.count
            budget = check_budget(*amount, _MOST_SAMPLES * m)
            if is_known and is_linear and not is_wide(budget.most, m):
                assert seed is not None
                near = _Near(self, groups, start, limit, seed, keeps=detailed or budget.is_adaptive)
                return in_rounds(
                    near,
                    request,
                    outputs=start,
                    budget=budget,
                    first=_FIRST_SAMPLES * m,
                    progress=progress,
                )
            n = budget.most
            bits = foldover_hadamard(m, n, check_seed(seed)) if drawn else None
            if is_known and bits is not None:
                found = self._fit_coalitions(
                    request, groups, bits=bits, start=start, limit=limit, progress=progress
                )
            else:
                found = self._fit_samples(
                    request, groups, bits=bits, n=n, start=start, limit=limit, progress=progress
                )
            return Sampled(found, torch.full((len(start),), n))

        title = self._title(show_progress)
        sampled = by_players(
            request,
            groups,
            varies=varies,
            outputs=start,
            sample=sample,
            rows=rows,
            title=title,
            tolerance=budget.tolerance,
        )

        def arrange(values: Tensor | None) -> Any:  # [M, P, C]
            if values is None:
                return None
            return arranged(values.movedim(0, -1), outputs, groups, return_input_shape)

        if not detailed:
            return Result(arrange(sampled.values))
        return Result(
            arrange(sampled.values),
            outputs,
            self._at_baselines(request, limit),
            standard_errors=arrange(sampled.errors),
            samples=sampled.samples,
            players=counted(request, varies, len(start), groups.count) if drawn else None,
            reached=sampled.reached,
        )

    def _fit_coalitions(
        self,
        request: Request,
        groups: FeatureGroups,
        bits: Tensor,  # [N, W]
        start: Tensor,  # [P, C]: about how large the values are
        limit: int | None,
        progress: Bar,
    ) -> Tensor:  # [M, P, C]
        """The coefficients, from values that are all kept."""
        start = start.to(groups.masks[0].device, torch.float64)
        local = LocalRegression(
            bits, groups.count, weigher(self.similarity_func, request, groups), start
        )
        kept = start.new_empty(len(bits), *start.shape)

        def add(values: Tensor, repeats: slice, examples: slice) -> None:
            problems = slice(0, 1) if request.model.whole_batch else examples
            kept[repeats, problems] = by_problem(values, request).to(kept)

        self._stream(request, coalition_rows(request, groups, bits), add, limit, progress)
        z = unpack(bits, groups.count).to(start.device)
        found = [
            self._coefficients(_Samples(z, local.weights(slice(p, p + 1))[:, 0], kept[:, p]))
            for p in range(len(start))
        ]
        return torch.stack(found, 1) if found else start.new_empty(groups.count, *start.shape)

    def _fit_samples(
        self,
        request: Request,
        groups: FeatureGroups,
        bits: Tensor | None,  # [N, W]; None where perturb_func draws
        n: int,
        start: Tensor,  # [P, C]: of the outputs' shape
        limit: int | None,
        progress: Bar,
    ) -> Tensor:  # [M, P, C]
        """The coefficients, with samples drawn or weighed one by one by functions of the user."""
        check(
            not request.model.rows_interact,
            "similarity_func" if self.perturb_func is fair_coins else "perturb_func",
            "None, or a forward_func with rows that do not influence one another, as functions of "
            "your own are called for one example at a time",
            "a function",
        )
        device = request.inputs.tensors[0].device
        ids = _shifted_ids(groups, device)
        perturb = self.perturb_func
        if bits is not None:
            drawn = groups.by_id(unpack(bits, groups.count).to(device).long())[:, None]
            perturb = lambda inputs, **kwargs: (z for z in drawn)  # noqa: E731
        found = torch.empty(groups.count, *start.shape, dtype=torch.float64, device=device)
        for p in range(len(start)):
            one = request if len(start) == 1 else request.of(slice(p, p + 1))
            masks = tuple(ids[part(mask, slice(p, p + 1)).long()] for mask in groups.masks)
            kwargs = {
                "baselines": request.inputs.pack(one.baselines),
                "feature_mask": request.inputs.pack(masks),
                "num_interp_features": int(ids[-1]) + 1,
            }
            samples = self._evaluate(
                one, perturb, kwargs=kwargs, n=n, limit=limit, advance=progress
            )
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

    def _program(
        self,
        inputs: Inputs,
        feature_mask: Any,
        n_samples: int,
        return_input_shape: bool,
        seed: int | None,
        standard_errors: bool = False,
    ) -> Program:
        kernel, fit = self.similarity_func, self.interpretable_model
        known = isinstance(kernel, ExpKernel)
        check(known, "similarity_func", "get_exp_kernel_similarity_function's", kernel)
        fair = self.perturb_func is fair_coins
        check(fair, "perturb_func", "None, fair coins", self.perturb_func)
        linear = isinstance(fit, LinearFit)
        check(linear, "interpretable_model", "a Lasso, Ridge or LeastSquares", fit)
        lasso = isinstance(fit, Lasso) and fit.alpha > 0
        check(
            not lasso or native.backend() is not reference,
            "interpretable_model",
            "a Ridge or LeastSquares where there is no compiled library, which has the lasso",
            fit,
        )
        groups = groups_for_all(feature_mask, inputs, return_input_shape)
        n = check_count(n_samples, "n_samples")
        check(not is_wide(n, groups.count), "feature_mask", "fewer groups", groups.count)
        bits = hadamard.foldover_hadamard(groups.count, n, check_seed(seed))
        present = players_present(bits, groups, inputs)
        return partial(
            lime,
            rows=coalitions_replaced(present, groups, inputs),
            present=present,
            groups=groups,
            kernel=kernel,
            fit=fit,
            standard_errors=standard_errors,
            spread=groups.spread if return_input_shape else by_id(groups),
        )


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
        self._lime, self.groups_for_all, self._limit, self._seed = lime, groups, limit, seed
        self._start = start.to(groups.masks[0].device, torch.float64)
        # All values so far, for the errors and for the next round, [n, P, C].
        self._kept = self._start.new_empty(0, *start.shape) if keeps else None
        self._fit: LocalRegression

    def ask(self, request: Request, taken: slice, problems: Tensor, progress: Bar) -> None:
        m, groups = self.groups_for_all.count, self.groups_for_all.of(problems)
        bits = foldover_hadamard(m, taken.stop, self._seed)
        weigh = weigher(self._lime.similarity_func, request, groups)
        self._fit = LocalRegression(bits, m, weigh, self._start[problems], request.rows)
        new = self._start.new_empty(0)
        if self._kept is not None:
            if taken.start:
                known = slice(0, taken.start), slice(0, len(problems))
                self._fit.add(self._kept[:, problems], *known)
            new = self._start.new_empty(
                taken.stop - taken.start, len(problems), self._start.shape[1]
            )

        def add(values: Tensor, repeats: slice, examples: slice) -> None:
            some = slice(0, 1) if request.model.whole_batch else examples
            values = by_problem(values, request)
            rows = slice(taken.start + repeats.start, taken.start + repeats.stop)
            self._fit.add(values, rows, some)
            if self._kept is not None:
                new[repeats, some] = values.to(new)

        rows = coalition_rows(request, groups, bits[taken])
        self._lime._stream(request, rows, add, self._limit, progress)
        if self._kept is not None:
            all_new = self._start.new_empty(len(new), *self._start.shape)
            all_new[:, problems] = new
            self._kept = torch.cat([self._kept, all_new])

    def estimate(
        self, request: Request, n: int, problems: Tensor
    ) -> tuple[Tensor, Tensor | None]:  # [M, k, C]
        model = self._lime.interpretable_model
        found = self._fit.solve(model)  # [k, M, C]
        if self._kept is None:
            return found.transpose(0, 1), None
        errors = self._fit.standard_errors(model, found, self._kept[:, problems])
        return found.transpose(0, 1), errors.transpose(0, 1)


def _shifted_ids(groups: FeatureGroups, device: torch.device) -> Tensor:  # [M] int64
    """The user's ids, the least of them 0, as Captum has them."""
    if groups.ids is None:
        return torch.arange(groups.count, device=device)
    return (groups.ids - groups.ids[0]).to(device)
