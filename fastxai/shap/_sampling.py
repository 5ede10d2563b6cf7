"""SamplingExplainer."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.checks import check, check_count
from ..core.estimate.sampling import permutations, prefixes
from ..interop.tables import Taken
from ._background import Background
from ._black_box import BlackBox
from ._coalitions import gains_of_pairs
from ._explanation import Explanation
from ._game import draw_seed

_EACH = 1000  # differences for each feature


class SamplingExplainer:
    """Shapley values of any function from random orders, each beside one row of the background.

    Has shap's interface. An order and its reverse have a row of the background together; the rows
    take turns by their weights. What the outputs for the rows that had a turn are off from their
    mean over the background is given to the features in proportion to the variances of their
    samples, so that values add up.

    Source: Štrumbelj and Kononenko, "Explaining prediction models and individual predictions with
    feature contributions" (2014).

    Args:
        model: as for :class:`KernelExplainer`.
        data: as for :class:`KernelExplainer`.
        feature_names: one for each feature.
        link: "identity", as in shap.
        output_names: one for each output.
        batch_size: at most so many rows in a call of the model; None to choose for speed.
        seed: decides the orders; None takes one from numpy's global generator at every call.
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
        background = Background.of(data, warns=False)
        self._box = BlackBox(model, background, link, feature_names, output_names, batch_size)
        check(self._box.link.is_identity, "link", "'identity'; others by KernelExplainer", link)
        self.model, self.data, self._seed = model, data, seed
        self.expected_value = self._box.expected_value

    def __call__(
        self, X: Any, y: Any = None, nsamples: int | str = 2000, *, silent: bool = True
    ) -> Explanation:
        """Explains rows; ``y`` is ignored, as in shap, and there is no progress bar."""
        started = time.perf_counter()
        values, errors, taken = self._sampled(X, nsamples)
        return self._box._explained(X, taken, values, errors, started)

    def shap_values(
        self, X: Any, nsamples: int | str = "auto", *, silent: bool = True
    ) -> np.ndarray:
        """The values of rows.

        Args:
            X: rows [n, M], or one row [M], in any form.
            nsamples: how many differences of two model rows each row may take; "auto" for 1,000
                for each feature. At least one order and its reverse are taken.
            silent: there is no progress bar.

        Returns:
            As for :class:`KernelExplainer`.
        """
        values, _, taken = self._sampled(X, nsamples)
        return values[0] if taken.is_single else values

    def _sampled(self, X: Any, nsamples: int | str) -> tuple[np.ndarray, np.ndarray | None, Taken]:
        given = None if nsamples == "auto" else check_count(nsamples, "nsamples")
        background, game = self._box.background, self._box.game
        taken = background.table.take(X, "X")
        varies = background.varies(taken.numbers)  # [n, P]
        who = varies.any(0).nonzero()[:, 0]
        outputs = game.expected.shape
        values = torch.zeros(*varies.shape, outputs.numel(), dtype=torch.float64)
        errors = None
        if len(who):
            differences = _EACH * len(who) if given is None else given
            count = max(1, round(differences / max(1, len(who) - 1)))
            at_x = game.at(taken.numbers, taken.table)
            samples = self._samples(taken, at_x, who, count, draw_seed(self._seed))
            samples *= varies[:, who, None]  # the others gain nothing but rounding
            values[:, who] = samples.mean(0)
            # By neighbours, as samples beside the same row come one after another: what differs
            # between rows is no error where each has its turns.
            squares = samples.diff(dim=0).square().mean(0) / 2
            spread = squares.sqrt() if count > 1 else samples[0].abs()
            total = at_x - game.expected.reshape(-1)
            values[:, who] += _shared(total - values.sum(1), spread.square(), varies[:, who])
            if count > 1:
                errors = torch.zeros_like(values)
                errors[:, who] = spread / count**0.5
        shape = (*varies.shape, *outputs)
        told = None if errors is None else errors.reshape(shape).numpy()
        return values.reshape(shape).numpy(), told, taken

    def _samples(
        self,
        taken: Taken,
        at_x: Tensor,  # [n, C]
        who: Tensor,  # [m] int64
        count: int,
        seed: int,
    ) -> Tensor:  # [count, n, m, C]
        """What each of the groups ``who`` gains in an order and its reverse, on the mean."""
        game, x, m = self._box.game, taken.numbers, len(who)
        orders = permutations(m, 2 * count, seed).unflatten(0, (count, 2))
        at_background = game.at_background.reshape(len(game.at_background), -1)  # [K, C]
        beside = _in_turn(self._box.background.weights, count, seed)
        found = at_x.new_zeros(count, len(x), m, at_x.shape[1])
        for row in beside.unique().tolist():
            mine = (beside == row).nonzero()[:, 0]
            both = orders[mine].flatten(0, 1)  # [2 p, m]
            bits, which = prefixes(both).unique(dim=0, return_inverse=True)
            v = torch.cat(
                [
                    game.worths(x, taken.table, bits, who, row),
                    at_background[row].expand(1, *at_x.shape),
                    at_x[None],
                ]
            )
            steps = torch.nn.functional.pad(which.view(len(both), m - 1), (1, 1))
            steps[:, 0], steps[:, -1] = len(v) - 2, len(v) - 1
            found[mine] = gains_of_pairs(v, steps, both)
        return found


def _in_turn(weights: Tensor, count: int, seed: int) -> Tensor:  # [K] -> [count] int64
    """Rows by their weights: each as often as it weighs, but for less than one."""
    places = (np.arange(count) + np.random.default_rng(seed).random()) / count
    rows = torch.searchsorted(weights.cumsum(0), torch.from_numpy(places), right=True)
    return rows.clamp(max=len(weights) - 1)


def _shared(rest: Tensor, variances: Tensor, varies: Tensor) -> Tensor:
    """What is left of the sum, [n, C], for each group, [n, m, C], in proportion to variances."""
    total = variances.sum(1, keepdim=True)
    equal = varies[..., None] / varies.sum(1).clamp(min=1)[:, None, None]
    shares = torch.where(total > 0, variances / total.clamp(min=1e-300), equal)
    return rest[:, None] * shares
