"""Who plays: a group of features that equals the baseline has no say, and nobody need ask for it.

The examples of a batch differ in how many groups do. Those with as many are asked about together,
as one game of these players alone; what is found for them is put in its place among all groups,
and the others have exactly zero. Where examples cannot be asked about apart from each other, a
group plays if it does in any of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.engine.coalition_rows import MaskPieces, Pieces
from ..core.engine.groups import FeatureGroups
from ..core.engine.request import Request
from ..core.engine.windows import Windows

_NUMBERS = 1 << 22  # of examples × features, at a time


@dataclass(frozen=True)
class Part:
    """Examples with as many players, and who these are."""

    request: Request  # about these examples
    problems: Tensor | None = None  # [k] int64: which of all problems they are; None for all
    who: Tensor | None = None  # [k, m] or [1, m] int64: each player's group; None for all groups

    def of(self, outputs: Tensor) -> Tensor:  # [P, *] -> [k, *]
        """Those of these problems."""
        return outputs if self.problems is None else outputs[self.problems]

    def count(self, groups: int) -> int:
        """How many players there are, of so many groups."""
        return groups if self.who is None else self.who.shape[1]

    def players(self, groups: FeatureGroups) -> FeatureGroups:
        """The groups that play, numbered in their order. Features of the others are anybody's."""
        groups = groups if self.problems is None else groups.of(self.problems)
        if self.who is None:
            return groups
        count = self.who.shape[1]
        order = torch.arange(count, dtype=torch.int32, device=self.who.device)
        number = order.new_zeros(len(self.who), groups.count)
        number.scatter_(1, self.who, order.expand(len(self.who), -1))
        masks = tuple(_renumbered(mask, number) for mask in groups.masks)
        return FeatureGroups(masks, count, None)

    def mask_pieces(self, groups: FeatureGroups) -> tuple[Pieces, ...]:
        """The features of each player, for each input."""
        players = self.players(groups)
        return tuple(MaskPieces(mask, players.count) for mask in players.masks)

    def window_pieces(self, windows: Sequence[Windows]) -> tuple[Pieces, ...]:
        """The features of each window that plays, for each input."""
        return tuple(windows) if self.who is None else tuple(w.only(self.who) for w in windows)


def parts(request: Request, varies: Tensor | None) -> list[Part]:  # [B, M] bool
    """The examples by their number of players, the most first; those without any are left out.

    Args:
        request: about all examples, of which the model has been asked: only then it is known
            whether they can be asked about apart from each other.
        varies: which groups differ from the baseline; None if all do.
    """
    if varies is None:
        return [Part(request)]
    if request.is_indivisible:
        together = varies.any(0).nonzero()[:, 0]
        return [Part(request, None, together[None])] if len(together) else []
    found = []
    counts = varies.sum(1).cpu()
    for count in counts.unique().flip(0).tolist():
        if count == 0:
            continue
        problems = (counts == count).nonzero()[:, 0]
        who: Tensor | None = None
        if count < varies.shape[1]:
            who = varies[problems].nonzero()[:, 1].view(-1, count)
            who = who[:1] if (who == who[0]).all() else who
        if len(problems) == len(varies):
            found.append(Part(request, None, who))
        else:
            found.append(Part(request.of(problems), problems, who))
    return found


def total_rows(parts: Sequence[Part], groups: int, rows: Callable[[int], int]) -> int:
    """Of the model for all examples, if there are so many for one with so many players."""
    return sum(rows(part.count(groups)) * part.request.inputs.batch for part in parts)


def is_whole(parts: Sequence[Part]) -> bool:
    """Whether all groups play in all examples, which is the usual case."""
    return len(parts) == 1 and parts[0].problems is None and parts[0].who is None


def by_group(
    parts: Sequence[Part],
    values: Sequence[Tensor],  # each [m, k, *C]
    out: Tensor,  # [M, P, *C]
) -> Tensor:
    """Puts the values of the parts' players into their places."""
    every = torch.arange(out.shape[1], device=out.device)
    for part, value in zip(parts, values, strict=True):
        problems = every if part.problems is None else part.problems.to(out.device)
        if part.who is None:
            out[:, problems] = value
        else:
            out[part.who.T.to(out.device), problems] = value
    return out


def by_problem(
    parts: Sequence[Part],
    values: Sequence[Tensor],  # each [k, *]
    out: Tensor,  # [P, *]
) -> Tensor:
    """Puts what is known of the parts' problems into their places."""
    for part, value in zip(parts, values, strict=True):
        out[slice(None) if part.problems is None else part.problems] = value
    return out


def counted(request: Request, varies: Tensor | None, problems: int, groups: int) -> Tensor:
    """How many players each problem has, of so many groups, [P] int64."""
    if varies is None:
        return torch.full((problems,), groups, device="cpu")
    if request.is_indivisible:
        return varies.any(0).sum().cpu().repeat(problems)
    return varies.sum(1).cpu()


def groups_that_vary(request: Request, groups: FeatureGroups) -> Tensor | None:
    """Which groups differ from the baseline, [B, M] bool; None if all groups of all examples do."""
    different = _different(request)
    if different is None:
        return None
    batch, count = request.inputs.batch, groups.count
    varies = torch.zeros(batch, count + 1, dtype=torch.bool, device=different[0].device)
    for there, mask in zip(different, groups.masks, strict=True):
        features = mask.shape[1:].numel()
        step = max(1, _NUMBERS // max(1, features))
        ids = mask.reshape(len(mask), features).expand(batch, -1)
        for some, flat, own in zip(
            varies.split(step),
            there.reshape(batch, features).split(step),
            ids.split(step),
            strict=True,
        ):
            some.scatter_(1, torch.where(flat, own, count).long(), True)  # the last is nobody
    return _unless_all(varies[:, :count])


def most_players(request: Request, varies: Tensor | None, groups: int) -> int:
    """The largest number of players, as far as is known before the model is called."""
    if varies is None:
        return groups
    return int(varies.any(0).sum() if request.is_indivisible else varies.sum(1).max())


def windows_that_vary(request: Request, windows: Sequence[Windows]) -> Tensor | None:
    """Which windows hold a feature that differs from the baseline, [B, W] bool; None if all do."""
    different = _different(request)
    if different is None:
        return None
    pairs = zip(windows, different, strict=True)
    return _unless_all(torch.cat([window.any(there) for window, there in pairs], 1))


def _different(request: Request) -> list[Tensor] | None:
    """Which features differ from some row that stands for absent ones, each [B, *F_i] bool.

    None if all do. Zeros of either sign are equal, and so is one NaN to another.
    """
    found, everywhere = [], True
    absent = request.baselines if request.background is None else request.background
    for x, rows in zip(request.inputs.tensors, absent, strict=True):
        if request.background is None:
            there = _unequal(x, rows)
        else:
            there = _unequal(x, rows[:1]) | _unequal(rows, rows[:1]).any(0)
        everywhere = everywhere and bool(there.all())
        found.append(there)
    return None if everywhere else found


def _unequal(x: Tensor, other: Tensor) -> Tensor:
    unequal = x != other
    if torch.equal(other, other):  # it has no NaN
        return unequal
    return unequal & ~(x.isnan() & other.isnan())


def _unless_all(varies: Tensor) -> Tensor | None:
    return None if varies.all() else varies


def _renumbered(mask: Tensor, number: Tensor) -> Tensor:  # [b, *F], [k, M] -> [k or 1, *F] int32
    rows = max(len(mask), len(number))
    flat = mask.reshape(len(mask), mask.shape[1:].numel()).long()
    found = number.expand(rows, -1).gather(1, flat.expand(rows, -1))
    return found.reshape(rows, *mask.shape[1:])
