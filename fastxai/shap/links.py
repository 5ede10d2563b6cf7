"""Link functions: in which unit values add up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.checks import ArgumentError

_NEAREST = 1e-15  # of a probability to 0 and 1
_ROUNDING = 1e-3  # of probabilities in float16


@dataclass(frozen=True)
class Link:
    """A function of the model's outputs, and its inverse."""

    f: Callable[[Any], Any]
    finv: Callable[[Any], Any]
    name: str = "link"

    def __call__(self, x: Any) -> Any:
        return self.f(x)

    def inverse(self, x: Any) -> Any:
        """The output for a value in the link's unit."""
        return self.finv(x)

    def __str__(self) -> str:
        return self.name

    @property
    def is_identity(self) -> bool:
        return self is identity


def _logit(p: Any) -> Any:
    p = np.asarray(p)
    wrong = (p < -_ROUNDING) | (p > 1 + _ROUNDING)
    if wrong.any():
        expected = "probabilities from the model for 'logit'"
        raise ArgumentError(f"link: expected {expected}, got {p[wrong].flat[0]:.6g}")
    p = np.clip(p, _NEAREST, 1 - _NEAREST)
    return np.log(p / (1 - p))


def _logistic(x: Any) -> Any:
    return 1 / (1 + np.exp(-np.asarray(x)))


identity = Link(lambda x: x, lambda x: x, "identity")
logit = Link(_logit, _logistic, "logit")
_BY_NAME = {"identity": identity, "logit": logit}


def link_of(link: Any) -> Link:
    """The link that is meant by a name, an object with ``f`` and ``finv``, or a function."""
    if isinstance(link, Link):
        return link
    if isinstance(link, str) and link in _BY_NAME:
        return _BY_NAME[link]
    name = getattr(link, "__name__", str(link))
    if name in _BY_NAME and (getattr(link, "__module__", "") or "").startswith("shap."):
        return _BY_NAME[name]
    if callable(getattr(link, "f", None)):
        return Link(link.f, getattr(link, "finv", identity.f), name)
    if callable(link):
        return Link(link, getattr(link, "inverse", identity.f), name)
    raise ArgumentError(f"link: expected 'identity', 'logit' or a link, got {link!r}")
