"""KernelExplainer."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..attr.kernel_shap import KernelShap
from ..core.checks import check, check_count
from ._background import Background
from ._black_box import BlackBox, Method, shows
from ._explanation import Explanation
from ._game import draw_seed
from ._selection import Rule, rule_of

_AUTO, _AUTO_EACH = 2048, 2  # coalitions, and further ones for each player
_ENDS = 2  # nobody and everybody are extra


class KernelExplainer:
    """Shapley values of any function by weighted least squares over coalitions.

    Has shap's interface over :class:`fastxai.KernelShap`. Absent features are taken from the rows
    of a background, and outputs averaged over them; a link is taken of the mean. As there the
    values of a row add up to link f(x) − expected_value, but by default none of them is forced to
    be zero: what shap does by ``l1_reg="num_features(10)"`` is done if it is asked for.

    Args:
        model: a function of rows, which are given to it as the background came (arrays in float64,
            DataFrames of its columns and dtypes, sparse matrices), that returns [n] or [n, C]; a
            torch module; or an estimator with ``predict_proba`` or ``predict``.
        data: the background: rows [K, M] in any form, one row, or weighted rows by :func:`kmeans`.
        feature_names: one for each feature, or group of features.
        link: "identity", "logit" or a link.
        output_names: one for each output.
        batch_size: at most so many rows in a call of the model; None to choose for speed.
        seed: decides the samples; None takes one from numpy's global generator at every call.

    Raises:
        ArgumentError: an argument is not as above; the message names it.
    """

    def __init__(
        self,
        model: Any,
        data: Any,
        feature_names: Any = None,
        link: Any = "identity",
        *,
        output_names: Any = None,
        batch_size: int | None = None,
        seed: int | None = None,
    ):
        background = Background.of(data)
        self._box = BlackBox(model, background, link, feature_names, output_names, batch_size)
        self.model, self.link, self.data, self._seed = model, self._box.link, data, seed
        self.expected_value = self._box.expected_value

    def __call__(
        self, X: Any, l1_reg: Any = False, silent: bool = False, *, nsamples: int | str = "auto"
    ) -> Explanation:
        """Explains rows.

        Args:
            X: rows [n, M], or one row [M], in any form.
            l1_reg: as for :meth:`shap_values`.
            silent: True for no progress bar.
            nsamples: as for :meth:`shap_values`.
        """
        rule = rule_of(l1_reg)
        return self._box.explanation(X, self._method(nsamples, rule, silent), rule)

    def shap_values(
        self,
        X: Any,
        nsamples: int | str = "auto",
        l1_reg: Any = False,
        silent: bool = False,
        gc_collect: bool = False,
    ) -> np.ndarray:
        """The values of rows.

        Args:
            X: rows [n, M], or one row [M], in any form.
            nsamples: coalitions to evaluate for each row, beside nobody and everybody; "auto" for
                2,048 and two for each feature. From 2^M − 2 on the result is exact.
            l1_reg: False or 0 for all features; "num_features(r)" for those of r steps of lars; a
                number for those that a lasso of this penalty keeps; "aic" or "bic" for those of the
                penalty that this criterion chooses, which evaluates coalitions once more and needs
                scikit-learn.
            silent: True for no progress bar.
            gc_collect: ignored, as nothing is left to collect.

        Returns:
            float64, [n, M] for outputs [n], [n, M, C] for outputs [n, C], without n for one row.
        """
        rule = rule_of(l1_reg)
        return self._box.values(X, self._method(nsamples, rule, silent), rule)

    def _method(self, nsamples: int | str, rule: Rule, silent: bool) -> Method:
        check(
            not isinstance(nsamples, str) or nsamples == "auto",
            "nsamples",
            "'auto' or a number",
            repr(nsamples),
        )
        count = None if nsamples == "auto" else check_count(nsamples, "nsamples")

        def method(players: int) -> tuple[Any, dict[str, Any]]:
            asked = _AUTO + _AUTO_EACH * players if count is None else count
            return KernelShap, {
                "n_samples": asked + _ENDS,
                "tier": None if rule is None else "fast",
                "seed": draw_seed(self._seed),
                "show_progress": shows(silent),
            }

        return method
