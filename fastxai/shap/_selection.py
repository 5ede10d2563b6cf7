"""Which features shap's ``l1_reg`` keeps, and what those that go leave to the others.

With y the outputs for all coalitions, weighted as for Shapley values, the least-squares problem of
shap's lasso has the Gram matrix a I + b 11ᵀ, and its solution without penalty is the Shapley
values. Both are all that a lasso needs to know.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from ..core.checks import ArgumentError, check_number, warn
from ..core.estimate.lasso import lasso

# At most so many features; a penalty; "aic" or "bic"; or all of them.
Rule = int | float | str | None
# Which of the players ``own`` of some rows the criterion keeps, [r, m, C] bool.
ByCriterion = Callable[[Tensor, Tensor], Tensor]

_EXPECTED = "False, 0, 'num_features(10)', 'aic', 'bic' or a penalty"


def rule_of(l1_reg: Any) -> Rule:
    """What is asked for by ``l1_reg``."""
    if l1_reg is False or l1_reg is None or (not isinstance(l1_reg, str) and l1_reg == 0):
        return None
    if isinstance(l1_reg, str):
        found = re.fullmatch(r"num_features\(\s*(\d+)\s*\)", l1_reg)
        if l1_reg == "auto":
            return None
        if l1_reg in ("aic", "bic"):
            if find_spec("sklearn") is None:
                raise ImportError(f"l1_reg={l1_reg!r} needs scikit-learn: pip install scikit-learn")
            return l1_reg
        if found is None or int(found[1]) == 0:
            raise ArgumentError(f"l1_reg: expected {_EXPECTED}, got {l1_reg!r}")
        return int(found[1])
    return check_number(l1_reg, "l1_reg", _EXPECTED)


def select(
    phi: Tensor,  # [n, M] or [n, M, C]
    varies: Tensor,  # [n, M] bool
    rule: Rule,
    coalitions: int,
    by_criterion: ByCriterion,
) -> Tensor:
    """The values of the features that are kept; they add up to what all did.

    Args:
        phi: the values of all.
        varies: which of them have any.
        rule: which are kept.
        coalitions: how many were asked for: a penalty is for their mean, as sklearn's.
        by_criterion: finds those that are kept by "aic" or "bic".
    """
    if rule is None:
        return phi
    if phi.dim() == 2:
        return select(phi[..., None], varies, rule, coalitions, by_criterion)[..., 0]
    found = torch.zeros_like(phi)
    for players in varies.unique(dim=0):  # rows with the same players are one problem
        rows = (varies == players).all(1).nonzero()[:, 0]
        own = players.nonzero()[:, 0]
        if len(own) < 2:
            found[rows] = phi[rows]
            continue
        part = phi[rows][:, own]  # [r, m, C]
        named = isinstance(rule, str)
        kept = by_criterion(rows, own) if named else _kept(part, rule, coalitions)
        total, count = part.sum(1, keepdim=True), kept.sum(1, keepdim=True)
        if bool((count == 0).any()):
            warn("l1_reg: no feature is worth the penalty; all get an equal share of the sum")
            kept, count = kept | (count == 0), torch.where(count == 0, len(own), count)
        left = (total - torch.where(kept, part, 0).sum(1, keepdim=True)) / count
        found[rows[:, None], own] = torch.where(kept, part + left, 0)
    return found


def _gram(m: int) -> Tensor:  # [m, m] float64
    """Σ w z zᵀ of shap's problem for all coalitions of m players, of whole weight as there."""
    sizes = torch.arange(1, m, dtype=torch.float64)
    own = (1 / (sizes * (m - sizes)) * 2 * sizes * (m - sizes) / m).sum()
    both = (sizes.new_full((m - 1,), (m - 2) / (m * (m - 1)))).sum()
    gram = torch.full((m, m), float(both), dtype=torch.float64)
    gram.fill_diagonal_(float(own))
    return gram / (1 / (sizes * (m - sizes))).sum()


def kept_by_criterion(
    gains: Tensor,  # [N, r, C]: what coalitions are worth less what nobody is
    full: Tensor,  # [r, C]: and all
    present: Tensor,  # [N, m] bool
    weights: Tensor,  # [N]
    criterion: str,
) -> Tensor:  # [r, m, C] bool
    """The features that scikit-learn's lasso keeps by an information criterion, as in shap.

    Each coalition is there twice: as what joined nobody, and as what left all.
    """
    from sklearn.linear_model import LassoLarsIC
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    z, size = present.double(), present.sum(1)
    m = present.shape[1]
    root = torch.cat([weights * (m - size), weights * size]).sqrt()
    rows = (torch.cat([z, z - 1]) * root[:, None]).numpy()
    kept = torch.zeros(full.shape[0], m, full.shape[1], dtype=torch.bool)
    for r in range(full.shape[0]):
        for c in range(full.shape[1]):
            y = torch.cat([gains[:, r, c], gains[:, r, c] - full[r, c]]) * root
            fit = make_pipeline(StandardScaler(with_mean=False), LassoLarsIC(criterion=criterion))
            kept[r, :, c] = torch.from_numpy(fit.fit(rows, y.numpy())[1].coef_ != 0)
    return kept


def _kept(phi: Tensor, rule: Rule, coalitions: int) -> Tensor:  # [r, m, C], and so bool
    m = phi.shape[1]
    gram = _gram(m)
    rhs = torch.einsum("ij,rjc->ric", gram, phi)
    if isinstance(rule, int):
        return _first(gram, rhs, min(rule, m))
    rows = 2 * min(2.0**m - 2, coalitions)  # each coalition is there twice, from both ends
    return lasso(gram.expand(len(phi), m, m), rhs, float(rule or 0) * rows) != 0


def _first(gram: Tensor, rhs: Tensor, count: int) -> Tensor:
    """Those in the model after so many steps of the path of lars with the lasso's rule."""
    problems, m, outputs = rhs.shape
    pull = rhs.movedim(1, -1).reshape(-1, m)  # [q, m]
    q = len(pull)
    active = torch.zeros(q, m, dtype=torch.bool)
    beta = torch.zeros_like(pull)
    eye = torch.eye(m, dtype=torch.float64)
    blocked = torch.zeros_like(active)
    for _ in range(count):
        slope = pull - beta @ gram
        size = slope.abs().masked_fill(active | blocked, -1)
        top, joins = size.max(1)
        usable = top > 1e-13 * pull.abs().amax(1)
        active[usable, joins[usable]] = True
        blocked = torch.zeros_like(active)
        level = torch.where(active, slope.abs(), 0).amax(1)  # the common correlation
        signs = torch.where(active, slope.sign(), 0)
        both = active[:, :, None] & active[:, None, :]
        step = torch.linalg.solve(torch.where(both, gram, eye), signs[..., None])[..., 0]
        step = torch.where(active, step, 0)
        along = step @ gram
        level_, slope_ = level[:, None], slope
        gains = torch.stack([(level_ - slope_) / (1 - along), (level_ + slope_) / (1 + along)])
        gains = torch.where((gains > 1e-14) & ~active, gains, torch.inf).amin((0, 2))
        length = torch.minimum(gains, level)
        crossing = torch.where(active & (step != 0), -beta / step, torch.inf)
        crossing = torch.where(crossing > 1e-14, crossing, torch.inf)
        first, who = crossing.min(1)
        leaves = first < length
        beta = beta + torch.minimum(length, first)[:, None] * step
        beta[leaves, who[leaves]] = 0
        active[leaves, who[leaves]] = False
        blocked[leaves, who[leaves]] = True
    return (active & (beta != 0)).view(problems, outputs, m).movedim(-1, 1)
