"""Which fit to the coalitions' values is worth its work."""

from __future__ import annotations

from typing import Any

import torch

from ..checks import check

TIERS = ("fast", "shared", "accurate")

_WORTH = 0.1  # A fit may take so much of the model's work.
_ACCURATE_UP_TO = 800  # samples
_ON_GPU = 100  # The fits are done on the CPU: so many times as slow.


def check_tier(tier: Any) -> str | None:
    """Checks the name of a tier, or None for the one that is worth its work."""
    known = tier is None or (isinstance(tier, str) and tier in TIERS)
    check(known, "tier", "None or one of {}", repr(tier), ", ".join(TIERS))
    return None if tier is None else str(tier)


def best_tier(
    players: int,
    n_samples: int,
    outputs: int,
    rows: int,
    work_a_row: float,
    device: torch.device,
) -> str:
    """The most accurate fit that takes at most a tenth of the model's work for one example.

    Args:
        players: M.
        n_samples: coalitions.
        outputs: of the model for each row.
        rows: of the model for all coalitions.
        work_a_row: the model's multiplications for a row.
        device: where the model is.
    """
    if n_samples < 2 * players + 6 or n_samples >> players:
        return "fast"
    slower = 1 if device.type == "cpu" else _ON_GPU
    most = _WORTH * rows * work_a_row / slower
    # Measured, see benchmarks/bench_kriging.py, as multiplications of a model in the same time.
    pairs = n_samples // 2
    factorisation = 25.0 * pairs**3
    if n_samples <= _ACCURATE_UP_TO and outputs * (6e7 + factorisation) <= most:
        return "accurate"
    shared = 1e7 + factorisation + 4.0 * outputs * players * pairs**2
    return "shared" if shared <= most else "fast"
