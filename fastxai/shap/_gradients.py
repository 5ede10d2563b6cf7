"""Explainers of torch modules by their gradients."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..attr import deep_lift_shap, gradient_shap
from ..attr.layer_deep_lift import LayerDeepLift, LayerDeepLiftShap
from ..attr.layer_gradient_shap import LayerGradientShap
from ..core import engine
from ..core.checks import check, check_choice, check_count, check_number
from ..core.engine.model import Model
from ..core.engine.rows import InputRows
from ..interop.models import eval_mode, place_of
from ..interop.tables import Table, as_array, checked_names, is_frame, names_of
from ._explanation import Explanation
from ._game import draw_seed

# Attributions to each input, or a layer's, for each target, of rows.
Attribute = Callable[[tuple[Tensor, ...], list[Any]], list[Any]]

_ORDERS: dict[str, Callable[[Tensor], Tensor]] = {
    "max": lambda y: y,
    "min": lambda y: -y,
    "max_abs": lambda y: y.abs(),
}


class _ModuleExplainer:
    """What both have in common: a module, a background, and the outputs there."""

    def __init__(self, model: Any, data: Any, feature_names: Any, output_names: Any):
        self.model = model
        in_pair = isinstance(model, tuple | list)
        expected = "a torch module, or a pair of one and its layer"
        parts = model if in_pair else (model, None)
        fine = len(parts) == 2 and isinstance(parts[0], nn.Module)
        fine = fine and (isinstance(parts[1], nn.Module) or not in_pair)
        check(fine, "model", expected, type(model).__name__)
        self._module: nn.Module = parts[0]
        self._layer: nn.Module | None = parts[1]
        self._dtype, self._device = place_of(self._module)
        self._several = isinstance(data, list | tuple) and not _is_rows(data)
        self.data = self._tensors(data, "data", None)
        check(len(self.data[0]) > 0, "data", "at least one row", "none")
        self._names = names_of(data) if is_frame(data) else None
        if feature_names is not None:
            width = self.data[0].shape[-1]
            self._names = tuple(checked_names(feature_names, width, "feature_names") or ())
        at_background = self._outputs(self.data)  # [K, C] or [K]
        check(at_background.dim() <= 2, "model", "outputs [n] or [n, C]", at_background.shape)
        self._has_columns = at_background.dim() == 2
        columns = at_background if self._has_columns else at_background[:, None]
        mean = columns.mean(0).cpu()
        self.expected_value = (mean.float() if mean.dtype == torch.bfloat16 else mean).numpy()
        count = columns.shape[1]
        names = [f"Output {i}" for i in range(count)] if output_names is None else output_names
        self.output_names = checked_names(names, count, "output_names")

    def _tensors(self, data: Any, argument: str, like: tuple[Tensor, ...] | None) -> Any:
        """Rows for each input, of the module's dtype where they are not integers, on its device."""
        parts = list(data) if self._several and isinstance(data, list | tuple) else [data]
        if like is not None:
            expected = "a list of rows for each of {} inputs" if self._several else "rows"
            fits = len(parts) == len(like)
            check(fits, argument, expected, f"{len(parts)} of them", len(like))
        tensors = []
        for i, part in enumerate(parts):
            name = f"{argument}[{i}]" if self._several else argument
            if not isinstance(part, Tensor | np.ndarray):
                part = Table.of(part, name)[1]
            rows = torch.as_tensor(part).detach()
            real = rows.is_floating_point()
            rows = rows.to(self._device, self._dtype if real else None)
            if like is not None:
                shape = tuple(like[i].shape[1:])
                fits = rows.dim() > 0 and tuple(rows.shape[1:]) == shape
                check(fits, name, "rows [B, *F] with F {}", rows.shape, shape)
            check(rows.dim() > 0, name, "rows [n, *F]", "one number")
            tensors.append(rows)
        for i, rows in enumerate(tensors):
            count = len(tensors[0])
            expected = "as many rows as {}[0] has, {}"
            check(len(rows) == count, f"{argument}[{i}]", expected, rows.shape, argument, count)
        return tuple(tensors)

    def _outputs(self, rows: tuple[Tensor, ...]) -> Tensor:  # [n, *C]
        with eval_mode(self._module):
            model = Model(self._module, len(rows[0]))
            return engine.values(model, InputRows(rows, len(rows[0])))[0]

    def _explain(
        self, X: Any, attribute: Attribute, ranked_outputs: Any, output_rank_order: str
    ) -> tuple[list[np.ndarray], Tensor | None]:  # each [B, *F_i, C], [B, k]
        x = self._tensors(X, "X", self.data)
        batch, count = len(x[0]), len(self.expected_value)
        order = _ORDERS[check_choice(output_rank_order, "output_rank_order", _ORDERS)]
        targets: list[Any] = [None] if not self._has_columns else list(range(count))
        ranks = None
        if ranked_outputs is not None:
            k = min(check_count(ranked_outputs, "ranked_outputs"), count)
            ranks = torch.zeros(batch, k, dtype=torch.int64)
            if self._has_columns and count > 1:
                outputs = order(self._outputs(x))
                ranks = outputs.argsort(dim=1, descending=True, stable=True)[:, :k].cpu()
                targets = list(ranks.unbind(1))
        with eval_mode(self._module):
            found = [_as_tuple(values) for values in attribute(x, targets)]
        by_input = zip(*found, strict=True)
        values = [torch.stack(each, -1).detach().to("cpu", torch.float64) for each in by_input]
        return [v.numpy() for v in values], ranks

    def _explanation(self, X: Any, values: Any, seconds: float) -> Any:
        several = isinstance(values, list)
        base = self.expected_value.astype(np.float64)

        def of(found: np.ndarray, rows: Any) -> Explanation:
            width = found.shape[-2] if found.ndim > 2 else 0
            names = self._names if self._names and len(self._names) == width else None
            default = [f"Feature {i}" for i in range(width)] if found.ndim == 3 else None
            return Explanation(
                found,
                np.broadcast_to(base, (len(found), len(base))).copy(),
                None if self._layer is not None else as_array(rows),
                feature_names=default if names is None else list(names),
                output_names=self.output_names,
                compute_time=seconds,
            )

        if not several:
            return of(values, X)
        return [of(v, rows) for v, rows in zip(values, X, strict=False)]

    def _packed(self, values: list[np.ndarray]) -> Any:
        return values if self._several and self._layer is None else values[0]


class DeepExplainer(_ModuleExplainer):
    """SHAP values of a torch module by DeepLIFT against every row of a background.

    Has shap's interface over :class:`fastxai.DeepLiftShap`, whose rules hold for functional calls,
    reused modules, attention and recurrent ones too. That the values of each row add up is always
    checked, relative to the outputs: where it is missed, a warning names the operations.

    Args:
        model: a torch module that returns [n] or [n, C], which is explained in eval mode; or a pair
            of one and a layer of it, whose input is explained.
        data: the background, rows [K, *F] in any form; a list of them for several inputs.
        session: ignored.
        learning_phase_flags: ignored.
        feature_names: one for each feature.
        output_names: one for each output.

    Attributes:
        expected_value: the mean outputs over the background, [C] in the module's dtype, or numpy's
            next wider one.
    """

    def __init__(
        self,
        model: Any,
        data: Any,
        session: Any = None,
        learning_phase_flags: Any = None,
        *,
        feature_names: Any = None,
        output_names: Any = None,
    ):
        super().__init__(model, data, feature_names, output_names)

    def __call__(self, X: Any) -> Any:
        """Explains rows; a list of explanations for several inputs."""
        started = time.perf_counter()
        values = self.shap_values(X)
        return self._explanation(X, values, time.perf_counter() - started)

    def shap_values(
        self,
        X: Any,
        ranked_outputs: int | None = None,
        output_rank_order: str = "max",
        check_additivity: bool = True,
    ) -> Any:
        """The values of rows.

        Args:
            X: rows [B, *F] in any form; a list of them for several inputs.
            ranked_outputs: how many outputs of each row to explain; None for all.
            output_rank_order: which come first: "max", "min" or "max_abs".
            check_additivity: taken as shap takes it; the check is made for nothing anyway, and
                what it finds is a warning.

        Returns:
            float64 [B, *F, C]; a list of these for several inputs. With ``ranked_outputs`` a pair:
            [B, *F, k], and which outputs these are, a tensor [B, k] int64.
        """
        found, ranks = self._explain(X, self._attribute, ranked_outputs, output_rank_order)
        values = self._packed(found)
        return values if ranks is None else (values, ranks)

    def _attribute(self, x: tuple[Tensor, ...], targets: list[Any]) -> list[Any]:
        if self._layer is None:
            return deep_lift_shap.of_each_output(self._module, x, self.data, targets)
        kind = LayerDeepLift if len(self.data[0]) == 1 else LayerDeepLiftShap
        method = kind(self._module, self._layer)
        return [
            method.attribute(x, self.data, target=target, attribute_to_layer_input=True)
            for target in targets
        ]


class GradientExplainer(_ModuleExplainer):
    """SHAP values of a torch module by expected gradients.

    Has shap's interface over :class:`fastxai.GradientShap`, whose samples are spread evenly.

    Args:
        model: as for :class:`DeepExplainer`.
        data: as for :class:`DeepExplainer`.
        session: ignored.
        batch_size: ignored: memory does not grow with the samples.
        local_smoothing: standard deviation of noise on the rows that are explained.
        feature_names: one for each feature.
        output_names: one for each output.

    Attributes:
        expected_value: the mean outputs over the background, [C] in the module's dtype, or numpy's
            next wider one.
    """

    def __init__(
        self,
        model: Any,
        data: Any,
        session: Any = None,
        batch_size: int = 50,
        local_smoothing: float = 0,
        *,
        feature_names: Any = None,
        output_names: Any = None,
    ):
        super().__init__(model, data, feature_names, output_names)
        expected = "a finite number of at least 0"
        self._smoothing = check_number(local_smoothing, "local_smoothing", expected)

    def __call__(self, X: Any, nsamples: int = 200) -> Any:
        """Explains rows; a list of explanations for several inputs."""
        started = time.perf_counter()
        values = self.shap_values(X, nsamples)
        return self._explanation(X, values, time.perf_counter() - started)

    def shap_values(
        self,
        X: Any,
        nsamples: int = 200,
        ranked_outputs: int | None = None,
        output_rank_order: str = "max",
        rseed: int | None = None,
        return_variances: bool = False,
    ) -> Any:
        """The values of rows.

        Args:
            X: rows [B, *F] in any form; a list of them for several inputs.
            nsamples: how many samples of each row; all outputs have the same.
            ranked_outputs: how many outputs of each row to explain; None for all.
            output_rank_order: which come first: "max", "min" or "max_abs".
            rseed: decides the samples; None takes one from numpy's global generator.
            return_variances: whether to return the variances of the values as well, which are those
                of a mean of so many samples: as samples are spread evenly, it is rather less.

        Returns:
            float64 [B, *F, C]; a list of these for several inputs. With ``return_variances`` they
            are followed by a list by output of variances [B, *F], or of lists of these; with
            ``ranked_outputs``, whose values are [B, *F, k], by which outputs these are, a tensor
            [B, k] int64.
        """
        expected = "False for a layer, whose variances are not known"
        check(not (return_variances and self._layer), "return_variances", expected, True)
        samples, seed = check_count(nsamples, "nsamples"), draw_seed(rseed)

        variances: list[Any] = []

        def attribute(x: tuple[Tensor, ...], targets: list[Any]) -> list[Any]:
            if self._layer is not None:
                method = LayerGradientShap(self._module, self._layer)
                options: dict[str, Any] = {
                    "stdevs": self._smoothing,
                    "attribute_to_layer_input": True,
                }
                return [
                    method.attribute(x, self.data, samples, target=target, seed=seed, **options)
                    for target in targets
                ]
            asked = self._module, x, self.data, targets, samples, self._smoothing, seed
            if not return_variances:
                return list(gradient_shap.of_each_output(*asked))
            means = []
            for mean, spread in gradient_shap.means_and_variances(*asked):
                means.append(mean)
                each = [v.cpu().double().numpy() for v in spread]
                variances.append(each if self._several else each[0])
            return means

        found, ranks = self._explain(X, attribute, ranked_outputs, output_rank_order)
        returned = [self._packed(found)]
        returned += [variances] if return_variances else []
        returned += [] if ranks is None else [ranks]
        return returned[0] if len(returned) == 1 else tuple(returned)


def _as_tuple(found: Any) -> tuple[Tensor, ...]:
    return found if isinstance(found, tuple) else (found,)


def _is_rows(data: list[Any] | tuple[Any, ...]) -> bool:
    """Whether a list is of rows of numbers rather than of inputs."""
    return not any(isinstance(part, Tensor | np.ndarray) or is_frame(part) for part in data)
