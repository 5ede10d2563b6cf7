"""What an explainer draws: bins by their frequencies, and values within them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..core.checks import check
from ..core.engine.threads import threads

_NEXT_TO_NONE = 1e-11  # a deviation that stands for that of a bin with a single value
_GENERATORS = (np.random.RandomState, np.random.Generator)
_FEW = 6  # things, of which each is looked at
_SMALLEST, _LARGEST = 1e-300, 1 - 2.0**-53  # uniform draws, whose quantiles are finite


def checked_state(random_state: Any) -> Any:
    """What numpy calls a random state, if it is one."""
    is_integer = isinstance(random_state, int | np.integer) and not isinstance(random_state, bool)
    fine = random_state is None or isinstance(random_state, _GENERATORS)
    fine = fine or (is_integer and bool(random_state >= 0))
    expected = "None, an integer of at least 0, or a RandomState or Generator of numpy"
    check(fine, "random_state", expected, repr(random_state))
    return random_state


def seed_of(random_state: Any) -> int:
    """The seed for one call: an integer itself, or drawn from another random state."""
    checked_state(random_state)
    if random_state is None:  # as users of lime seed numpy's global generator
        return int(np.random.randint(2**31 - 1))  # noqa: NPY002
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(2**31 - 1))
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(2**31 - 1))
    return int(random_state)


def uniforms(columns: int, n: int, seed: int) -> np.ndarray:  # [M, n]
    """Numbers in [0, 1)."""
    return np.random.default_rng(seed).random((columns, n))


class Frequencies:
    """Draws of one of k things by their frequencies.

    Args:
        frequencies: at least 0, [k].
    """

    def __init__(self, frequencies: np.ndarray):
        ends = np.cumsum(frequencies)
        ends /= ends[-1]
        ends[np.flatnonzero(frequencies)[-1] :] = 1.0  # whatever rounding has left
        self._ends, self.starts = ends, np.append(0.0, ends)[:-1]
        self.widths = np.where(ends > self.starts, ends - self.starts, 1.0)

    def which(self, u: np.ndarray) -> np.ndarray:  # [n] -> [n] int64
        """Which thing each of some uniform numbers stands for: where it is in its span is left."""
        if len(self._ends) > _FEW:
            return np.searchsorted(self._ends, u, side="right")
        found = np.zeros(len(u), dtype=np.int64)
        for end in self._ends[:-1]:  # faster, as no branch has to be guessed
            found += u >= end
        return found


def normal_quantiles(p: np.ndarray) -> np.ndarray:
    """The standard normal values below which these shares of it lie; shares are overwritten."""
    np.clip(p, _SMALLEST, _LARGEST, out=p)
    with threads(1):
        return np.asarray(torch.special.ndtri(torch.from_numpy(p)).numpy())


def _normal_shares(z: np.ndarray) -> np.ndarray:
    with threads(1):
        # torch.special.ndtr is 1 + erf and has no digits in the tail.
        return np.asarray(torch.special.erfc(torch.from_numpy(z) / -np.sqrt(2)).numpy() / 2)


class TruncatedNormals:
    """Normal distributions within bounds, one for each bin of a column, by their quantiles.

    Args:
        means: of the normal distributions, [k].
        deviations: theirs, [k].
        lows: lower bounds, [k].
        highs: upper bounds, [k].
    """

    def __init__(
        self,
        means: Any,
        deviations: Any,
        lows: Any,
        highs: Any,
    ):
        low, high, mean, std = (
            np.array(a, dtype=np.float64) for a in (lows, highs, means, deviations)
        )
        spread = np.maximum(std, _NEXT_TO_NONE)
        # From the side where the tail is, as shares next to 1 have no digits left.
        side = np.where(low > mean, -1.0, 1.0)
        ends = np.stack([low, high]) - mean
        ends = np.where(side < 0, -ends[::-1], ends) / spread
        below, above = _normal_shares(ends)
        fixed = (std <= _NEXT_TO_NONE) | (above <= below)  # at its mean, or the bound next to it
        self._below, self._width = np.where(fixed, 0.5, below), np.where(fixed, 0, above - below)
        self._mean, self._scale = mean, np.where(fixed, 0, side * std)
        self._low, self._high = low, high

    def lines(self, drawn: Frequencies) -> tuple[np.ndarray, np.ndarray]:  # [k], [k]
        """Shares as offset + slope u of the uniform numbers by which bins are drawn."""
        slope = self._width / drawn.widths
        return self._below - slope * drawn.starts, slope

    def shares(self, which: np.ndarray, inside: np.ndarray) -> np.ndarray:  # both [n]
        """The shares of the standard normal distribution for places in (0, 1) of some bins."""
        return np.asarray(self._below[which] + inside * self._width[which])

    def values(self, which: np.ndarray, normal: np.ndarray) -> np.ndarray:  # both [n]
        """The values for quantiles of those shares."""
        values: np.ndarray = self._scale.take(which) * normal
        values += self._mean.take(which)
        return np.clip(values, self._low.take(which), self._high.take(which), out=values)
