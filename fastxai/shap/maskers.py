"""Maskers, as shap has them: what stands for absent features."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from ..core.checks import check, check_choice, check_count, warn
from ..interop.tables import Table
from ._background import sample

_METRICS = ("correlation", "cosine", "euclidean", "sqeuclidean", "cityblock", "hamming")


class Independent:
    """Rows that absent features are taken from, each feature by itself.

    Args:
        data: rows [K, M] in any form.
        max_samples: of more rows so many are taken, and a warning tells.
    """

    clustering: np.ndarray | None = None  # of features, as scipy writes trees, [M − 1, 4]

    def __init__(self, data: Any, max_samples: int = 100):
        most = check_count(max_samples, "max_samples")
        rows = data if hasattr(data, "shape") else np.asarray(data)
        if len(rows.shape) == 2 and rows.shape[0] > most:
            warn(f"masker: of its {rows.shape[0]} rows {most} are taken, as shap does")
            rows = sample(rows, most)
        self.data = rows

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.data.shape)


class Partition(Independent):
    """The same, with a tree of features: explainers over it tell Owen values along the tree.

    Args:
        data: rows [K, M] in any form.
        max_samples: of more rows so many are taken, and a warning tells.
        clustering: the tree, as scipy writes it, [M − 1, 4]; or the name of a distance of scipy's,
            by which features are clustered as shap does: those first that are nearest (single
            linkage), in the rows that are taken. That needs scipy.
    """

    def __init__(self, data: Any, max_samples: int = 100, clustering: Any = "correlation"):
        super().__init__(data, max_samples)
        width = self.shape[-1]
        if isinstance(clustering, str):
            metric = check_choice(clustering, "clustering", _METRICS)
            clustering = _clustered(self.data, metric)
        tree = np.asarray(clustering, dtype=np.float64)
        wanted = (width - 1, 4)
        check(tree.shape == wanted, "clustering", "a tree, shape {}", tree.shape, wanted)
        parts = tree[:, :2].ravel()
        whole = sorted(parts.tolist()) == list(range(2 * width - 2))
        later = bool((tree[:, :2].max(1, initial=0) < width + np.arange(width - 1)).all())
        check(whole and later, "clustering", "each cluster once, in one made after it", parts)
        self.clustering = tree


def _clustered(data: Any, metric: str) -> np.ndarray:
    try:
        hierarchy = import_module("scipy.cluster.hierarchy")
        distance = import_module("scipy.spatial.distance")
    except ImportError as error:
        raise ImportError("Partition needs scipy: pip install scipy") from error
    width = data.shape[-1]
    rows = Table("array", width).take(data, "data").numbers.numpy()
    if width == 1:
        return np.zeros((0, 4))
    present = ~np.isnan(rows)
    means = np.where(present, rows, 0).sum(0) / np.maximum(present.sum(0), 1)
    rows = np.where(present, rows, means)
    if metric == "correlation":
        rows = rows - rows[0]  # what is constant becomes exactly so, rather than rounding about it
    # What is constant is not correlated with anything; shap adds noise, so that chance decides.
    apart = np.nan_to_num(distance.pdist(rows.T, metric=metric), nan=1.0)
    return np.asarray(hierarchy.single(apart))
