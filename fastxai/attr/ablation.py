"""What the output loses without a feature: FeatureAblation, Occlusion, FeaturePermutation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..core.checks import Form, TensorOrTuple, check, check_limit, check_seed, warn
from ..core.engine.coalition_rows import AblationRows, MaskPieces, Pieces
from ..core.engine.groups import FeatureGroups, check_feature_mask
from ..core.engine.inputs import Inputs, packed
from ..core.engine.outputs import result_dtype
from ..core.engine.progress import bar
from ..core.engine.request import Request
from ..core.engine.rows import PermutedRows, Rows
from ..core.engine.windows import Windows, check_windows
from ..core.prefix.mixing import OneDeltaMixing
from ..core.program.program import Answer, Program, Replaced, TracedRequest, magnitude_of, values_of
from ._base import captum_compatible
from ._coalition_program import device_of, groups_for_all, positions_of
from ._coalitions import check_groups_for_batch
from ._explanation import Result
from ._perturbation import PerturbationAttribution
from ._players import (
    Part,
    by_group,
    counted,
    groups_that_vary,
    is_whole,
    parts,
    total_rows,
    windows_that_vary,
)
from ._ragged import RaggedRequest, is_ragged

_NO_SEED = "None, as perm_func decides the permutations"


class FeatureAblation(PerturbationAttribution):
    """How much the output falls when a feature, or a group of them, is set to its baseline.

    f(x) − f(x with the group at its baseline): one model row for each group that differs from its
    baseline. For the others it is zero.
    """

    _takes_ragged = True  # whether the inputs' first dimensions may differ

    @captum_compatible
    def attribute(
        self,
        inputs: Form,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        feature_mask: Any = None,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
        **kwargs: Any,
    ) -> Form:
        """Attributes the chosen output to the groups of features.

        Args:
            inputs: a tensor [B, *F] of any dtype, or a tuple of tensors [B, *F_i]. If their first
                dimensions differ, [n_i, *F_i], as those of a batch and of a list of indices, the
                function is called as with the whole of them, and a feature is one for all n_i rows.
            baselines: what stands for an absent feature: None (zeros), a number, a tensor of the
                input's shape or that broadcasts to it (one row, one value for each channel), or a
                tuple of those, one for each input.
            target: which output is explained, as for :class:`IntegratedGradients`; None explains
                every output.
            additional_forward_args: extra arguments for the forward function, a tuple or a single
                one. Tensors whose first dimension is B are repeated along with the rows.
            feature_mask: integer ids that group features, in the input's shape or one that
                broadcasts to it: with one row for all examples or one for each. Ids are shared by
                the tensors of a tuple; gaps do no harm. None: every feature by itself.
            perturbations_per_eval: at most so many groups (times B rows) in one call of the model;
                None to choose for speed. There is one if first dimensions differ.
            show_progress: whether to show a tqdm bar on stderr.
            **kwargs: ignored with a warning, as Captum's are.

        Returns:
            Attributions in the form of the inputs and the dtype of the outputs, without a graph:
            [B, *F_i] for one output a row; [B·C, *F_i] for C outputs a row; [1, *F_i] for one
            output for the batch. If first dimensions differ, [A, *F_i] for an output of A numbers;
            but [n_i, *F_i] for a tensor with a mask of n_i rows: row by row if the output has n_i
            rows, otherwise with the drops of the sum of the outputs, of which there must be one in
            all, or one for each row of some input.

        Raises:
            ArgumentError: an argument is not what is documented, or an output is NaN.
            IndexError: a target is out of the output's range.
        """
        if kwargs:
            self._ignore(kwargs)
        request = self._query(inputs, baselines, target, additional_forward_args)
        found = self._without_each(
            request,
            detailed=False,
            feature_mask=feature_mask,
            perturbations_per_eval=perturbations_per_eval,
            show_progress=show_progress,
        )
        return packed(found.values, inputs)

    def _find(self, request: Request, detailed: bool, *options: Any, **named: Any) -> Result:
        return self._without_each(request, detailed, *options, **named)

    def _without_each(
        self,
        request: Request,
        detailed: bool,
        feature_mask: Any,
        perturbations_per_eval: int | None,
        show_progress: bool,
        **ignored: Any,
    ) -> Result:
        ragged = request if isinstance(request, RaggedRequest) else None
        asked = request.inputs if ragged is None else ragged.given
        given = check_feature_mask(feature_mask, asked)
        groups = given if ragged is None else ragged.lifted(given)
        varies = groups_that_vary(request, groups)
        outputs, drops = self._drops(
            request,
            varies,
            count=groups.count,
            rows=lambda part: _one_off(part, part.count(groups.count), part.mask_pieces(groups)),
            perturbations_per_eval=perturbations_per_eval,
            show_progress=show_progress,
            groups=groups,
        )
        players = counted(request, varies, len(outputs), groups.count) if detailed else None
        if ragged is not None:
            return Result(ragged.spread(drops, given), outputs, players=players)
        return Result(flatten_outputs(groups.spread(drops), outputs), outputs, players=players)

    def _query(self, inputs: TensorOrTuple, *arguments: Any, **named: Any) -> Request:
        if isinstance(inputs, tuple) and self._takes_ragged and is_ragged(inputs):
            return RaggedRequest.of_call(self.forward_func, inputs, *arguments, **named)
        return super()._query(inputs, *arguments, **named)

    def _ignore(self, kwargs: dict[str, Any]) -> None:
        warn(f"{self.get_name()} ignores {', '.join(kwargs)}")

    def _drops(
        self,
        request: Request,
        varies: Tensor | None,  # [B, G] bool: which groups differ from the baseline
        count: int,  # G
        rows: Callable[[Part], Rows],
        perturbations_per_eval: int | None,
        show_progress: bool,
        groups: FeatureGroups | None = None,
    ) -> tuple[Tensor, Tensor]:
        """f(x), [B, *C], and how much it falls without each group, [B, *C, G]."""
        limit = check_limit(perturbations_per_eval, request.inputs.batch)
        outputs = self._outputs_at_inputs(request, limit, count, varies is not None)
        if groups is not None:
            check_groups_for_batch(request, groups)
        # A truth value or an unsigned number, but they may rise.
        signed = (lambda y: y) if outputs.dtype.is_signed else Tensor.long
        outputs = signed(outputs)
        asked = parts(request, varies)
        title = self._title(show_progress)
        total = 0 if title is None else total_rows(asked, count, lambda players: players)
        with bar(title, total) as progress:
            drops = [
                part.of(outputs)
                - signed(self._values_of(part.request, rows(part), limit, progress))
                for part in asked
            ]
        if is_whole(asked):
            return outputs, drops[0].movedim(0, -1)
        none = outputs.new_zeros(count, *outputs.shape)
        return outputs, by_group(asked, drops, none).movedim(0, -1)

    def _program(self, inputs: Inputs, feature_mask: Any) -> Program:
        groups = groups_for_all(feature_mask, inputs)
        count = groups.count + 1  # the last is of no feature

        def kept() -> tuple[Tensor, ...]:
            numbers = torch.arange(count, device=device_of(inputs))
            return tuple(
                mask != numbers.reshape(-1, *[1] * (mask.dim() - 1)) for mask in groups.masks
            )

        pieces = (MaskPieces(mask, count) for mask in groups.masks)
        return partial(
            feature_ablation,
            rows=Replaced(kept, positions_of(pieces, count), OneDeltaMixing(count)),
            groups=groups,
        )


class Occlusion(FeatureAblation):
    """How much the output falls when a window that slides over the input is set to its baseline.

    A feature gets the mean over the windows that cover it.

    Source: Zeiler and Fergus, "Visualizing and understanding convolutional networks" (2014).
    """

    _takes_ragged = False

    @captum_compatible
    def attribute(  # type: ignore[override]
        self,
        inputs: Form,
        sliding_window_shapes: Any,
        strides: Any = None,
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
    ) -> Form:
        """Attributes the chosen output to the features.

        Args:
            inputs: a tensor [B, *F] of any dtype, or a tuple of tensors [B, *F_i].
            sliding_window_shapes: the window's extent in each feature dimension, (3, 16, 16) for
                images [B, 3, H, W]; a tuple of those for a tuple of inputs, which are occluded one
                by one.
            strides: the window's steps: an int, or a tuple with one for each dimension; a tuple of
                either for a tuple of inputs. None: 1. The last window is cut off at the end.
            baselines: what stands for an absent feature, as for :class:`FeatureAblation`.
            target: which output is explained, as for :class:`FeatureAblation`.
            additional_forward_args: extra arguments, as for :class:`FeatureAblation`.
            perturbations_per_eval: at most so many windows (times B rows) in one call of the model;
                None to choose for speed.
            show_progress: whether to show a tqdm bar on stderr.

        Returns:
            Attributions in the form of the inputs, as for :class:`FeatureAblation`, but in float64
            for outputs in float64, otherwise float32.

        Raises:
            ArgumentError: an argument is not as above, an output is NaN, or a window is larger than
                the input, or its stride larger than the window.
            IndexError: the target is out of range.
        """
        request = self._query(inputs, baselines, target, additional_forward_args)
        found = self._find(
            request,
            detailed=False,
            sliding_window_shapes=sliding_window_shapes,
            strides=strides,
            perturbations_per_eval=perturbations_per_eval,
            show_progress=show_progress,
        )
        return packed(found.values, inputs)

    def _find(
        self,
        request: Request,
        detailed: bool,
        sliding_window_shapes: Any,
        strides: Any,
        perturbations_per_eval: int | None,
        show_progress: bool,
    ) -> Result:
        windows = check_windows(sliding_window_shapes, strides, request.inputs)
        count = windows[-1].first + windows[-1].count
        varies = windows_that_vary(request, windows)
        outputs, drops = self._drops(
            request,
            varies,
            count=count,
            rows=lambda part: _one_off(part, part.count(count), part.window_pieces(windows)),
            perturbations_per_eval=perturbations_per_eval,
            show_progress=show_progress,
        )
        each = drops.to(result_dtype(outputs)).split([w.count for w in windows], dim=-1)
        values = tuple(w.spread(drop) for w, drop in zip(windows, each, strict=True))
        players = counted(request, varies, len(outputs), count) if detailed else None
        return Result(flatten_outputs(values, outputs), outputs, players=players)

    def _program(
        self,
        inputs: Inputs,
        feature_mask: Any = None,
        sliding_window_shapes: Any = None,
        strides: Any = None,
    ) -> Program:
        windows = check_windows(sliding_window_shapes, strides, inputs)
        count = windows[-1].first + windows[-1].count + 1  # the last is of no feature
        positions = positions_of(windows, count)
        kept = tuple(
            _left_by(window, *found) for window, found in zip(windows, positions, strict=True)
        )
        return partial(
            occlusion,
            rows=Replaced(lambda: kept, positions, OneDeltaMixing(count)),
            windows=windows,
        )


class FeaturePermutation(FeatureAblation):
    """How much the output falls when a feature's values are shuffled among the examples.

    The tensors that share a group are shuffled alike. Meant for a batch; for a single example
    there is nothing to shuffle, and the attributions are zero. If first dimensions differ, a group
    is shuffled among the rows of each tensor that it has a part in; with a part in a tensor of
    fewer than two rows it has zero.

    Source: Breiman, "Random forests" (2001); Fisher, Rudin and Dominici, "All models are wrong, but
    many are useful" (2019).

    Args:
        forward_func: a module or any callable that returns one tensor, as for every method.
        perm_func: takes the inputs [B, *F] and a boolean mask of the features in question, [1, *F]
            or [B, *F], and returns the inputs with these shuffled. None: a random permutation other
            than the identity.
        output: which of several outputs is explained, as for :class:`Attribution`.
    """

    def _has_program(self) -> bool:  # it permutes, and not as FeatureAblation
        return False

    def __init__(
        self,
        forward_func: Callable[..., Any],
        perm_func: Callable[[Tensor, Tensor], Tensor] | None = None,
        *,
        output: str | int | None = None,
    ):
        super().__init__(forward_func, output=output)
        fine = perm_func is None or callable(perm_func)
        check(fine, "perm_func", "a callable or None", repr(perm_func))
        self.perm_func = perm_func

    @captum_compatible
    def attribute(  # type: ignore[override]
        self,
        inputs: Form,
        target: Any = None,
        additional_forward_args: Any = None,
        feature_mask: Any = None,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
        *,
        seed: int | None = None,
        **kwargs: Any,
    ) -> Form:
        """Attributes the chosen output to the groups of features.

        Args:
            inputs: a tensor [B, *F] of any dtype, or tensors, as for :class:`FeatureAblation`.
            target: which output is explained, as for :class:`FeatureAblation`.
            additional_forward_args: extra arguments, as for :class:`FeatureAblation`.
            feature_mask: ids that group features, as for :class:`FeatureAblation`.
            perturbations_per_eval: at most so many groups in one call of the model, as for
                :class:`FeatureAblation`.
            show_progress: whether to show a tqdm bar on stderr.
            seed: decides the permutations; None takes one from torch's default generator.
            **kwargs: ignored with a warning, as Captum's are.

        Returns:
            Attributions in the form of the inputs, as for :class:`FeatureAblation`.

        Raises:
            ArgumentError: an argument is not as above, or an output is NaN.
            IndexError: the target is out of range.
        """
        if kwargs:
            self._ignore(kwargs)
        request = self._query(inputs, None, target, additional_forward_args)
        found = self._find(
            request,
            detailed=False,
            feature_mask=feature_mask,
            perturbations_per_eval=perturbations_per_eval,
            show_progress=show_progress,
            seed=seed,
        )
        return packed(found.values, inputs)

    def _find(
        self,
        request: Request,
        detailed: bool,
        feature_mask: Any,
        perturbations_per_eval: int | None,
        show_progress: bool,
        seed: int | None,
        **ignored: Any,
    ) -> Result:
        if isinstance(request, RaggedRequest):
            check(self.perm_func is None or seed is None, "seed", _NO_SEED, seed)
            draw = partial(_shuffles, seed=check_seed(seed))
            request = request.shuffled(feature_mask, draw, self.perm_func)
            return self._without_each(
                request, False, feature_mask, perturbations_per_eval, show_progress
            )
        x, batch = request.inputs.tensors, request.inputs.batch
        groups = check_feature_mask(feature_mask, request.inputs)
        rows: Rows
        if self.perm_func is None:
            shuffled = _shuffles(groups.count, batch, check_seed(seed)).to(x[0].device)
            pieces = tuple(MaskPieces(mask, groups.count) for mask in groups.masks)
            rows = AblationRows(x, x, (shuffled,) * len(x), pieces, groups.count)
        else:
            check(seed is None, "seed", _NO_SEED, seed)
            rows = PermutedRows(x, groups.masks, groups.count, self.perm_func)
        if batch == 1:
            warn(
                f"{self.get_name()}: one example has none to be shuffled with; its attributions "
                "are zero"
            )
            outputs = self._outputs_at_inputs(
                request, check_limit(perturbations_per_eval, batch), 0
            )
            nothing = outputs.new_zeros(*outputs.shape, groups.count)
            return Result(flatten_outputs(groups.spread(nothing), outputs), outputs)
        outputs, drops = self._drops(
            request,
            None,
            count=groups.count,
            rows=lambda part: rows,
            perturbations_per_eval=perturbations_per_eval,
            show_progress=show_progress,
            groups=groups,
        )
        return Result(flatten_outputs(groups.spread(drops), outputs), outputs)


def _one_off(part: Part, count: int, pieces: tuple[Pieces, ...]) -> AblationRows:
    """The part's inputs without each of these groups of features."""
    request = part.request
    own = tuple(_own_row(b, request.inputs) for b in request.baselines)
    return AblationRows(request.inputs.tensors, request.baselines, own, pieces, count)


def flatten_outputs(values: tuple[Tensor, ...], outputs: Tensor) -> tuple[Tensor, ...]:
    """[B, *C, *F_i] as [B·C, *F_i], Captum's form for these methods."""
    return tuple(v.flatten(0, outputs.dim() - 1) for v in values)


def _own_row(baseline: Tensor, inputs: Inputs) -> Tensor:  # [1, B]
    """Which row of the baseline is each example's."""
    if baseline.shape[0] == 1:
        return torch.zeros(1, inputs.batch, dtype=torch.int64, device=baseline.device)
    return torch.arange(inputs.batch, device=baseline.device)[None]


def _shuffles(count: int, batch: int, seed: int) -> Tensor:  # [count, B] int64
    """Random permutations of the examples, none of them the identity where that can be had."""
    generator = torch.Generator().manual_seed(seed)
    identity = torch.arange(batch)
    orders = identity.repeat(count, 1)
    while batch > 1 and (same := (orders == identity).all(1)).any():
        draw = torch.rand(int(same.sum()), batch, generator=generator, dtype=torch.float64)
        orders[same] = draw.argsort(1)
    return orders


def feature_ablation(
    request: TracedRequest,
    rows: Replaced,  # by one group after the other
    groups: FeatureGroups,
) -> Answer:
    """f(x) − f(x without a group), for every group."""
    outputs, values = values_of(request, rows)
    found = flatten_outputs(groups.spread(_drops(values)), values[-1])
    return Answer(outputs, found, magnitude=magnitude_of(values))


def occlusion(
    request: TracedRequest,
    rows: Replaced,  # by one window after the other
    windows: tuple[Windows, ...],
) -> Answer:
    """For every feature the mean of f(x) − f(x without a window) over the windows that cover it."""
    outputs, values = values_of(request, rows)
    drops = _drops(values).to(result_dtype(values)).split([w.count for w in windows], dim=-1)
    spread = tuple(w.spread(drop) for w, drop in zip(windows, drops, strict=True))
    return Answer(outputs, flatten_outputs(spread, values[-1]), magnitude=magnitude_of(values))


def _drops(values: Tensor) -> Tensor:  # [N + 1, B, *C] -> [B, *C, N]
    """How much lower the values are than the last."""
    if not values.dtype.is_signed:  # a truth value or an unsigned number, but they may rise
        values = values.long()
    return (values[-1] - values[:-1]).movedim(0, -1)


def _left_by(windows: Windows, positions: Tensor, offsets: Tensor) -> Tensor:  # [N, *F] bool
    """Which features of one input each window leaves."""
    count = offsets.shape[1] - 1
    window = torch.arange(count, device=windows.device).repeat_interleave(offsets[0].diff())
    features = torch.Size(windows.shape).numel()
    kept = torch.ones(count, features, dtype=torch.bool, device=windows.device)
    kept[window, positions[0]] = False
    by_window: Tensor = kept.unflatten(1, windows.shape)
    return by_window
