"""What an explanation asks of the model, in a table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .model import Run


@dataclass(frozen=True)
class Plan:
    """What an explanation asks of the model.

    Attributes:
        method: the method's name.
        runs: what became of each kind of rows.
        multiplications: those of the whole model for one row, in its matrix products and
            convolutions.
    """

    method: str
    runs: tuple[Run, ...]
    multiplications: int

    def cost(self, run: Run) -> float:
        """The multiplications of a run, as a share of the model's for as many rows."""
        if not (run.spared and self.multiplications and run.by_prefix):
            return 1.0
        anchors = run.anchored * run.slices + run.by_prefix * (run.mixed - 1) * run.width
        spared = run.by_prefix * run.spared - anchors
        return 1 - spared / (run.count * self.multiplications)

    def __str__(self) -> str:
        total = sum(run.count for run in self.runs)
        cost = sum(run.count * self.cost(run) for run in self.runs) / max(1, total)
        head = f"{self.method}: {total:,} rows of the model at {cost:.2f} of their cost"
        titles = ("rows", "number", "calls", "on a few for all", "made for", "cost")
        lines = [titles, *(self._line(run) for run in self.runs)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(titles))]
        table = (
            "  ".join(word.ljust(n) for word, n in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )
        return "\n".join((head, *table))

    def _line(self, run: Run) -> tuple[str, ...]:
        calls = f"{len(run.blocks)} of {max(run.blocks, default=0):,}"
        followed = ", ".join(_counted(run.followed)) if run.spared and run.by_prefix else "-"
        stopped = ", ".join(_counted(run.stopped)) if followed != "-" else "the model"
        return run.rows, f"{run.count:,}", calls, followed, stopped, f"{self.cost(run):.2f}"


def _counted(names: list[str]) -> Iterator[str]:
    for name in dict.fromkeys(names):
        n = names.count(name)
        yield name if n == 1 else f"{n} {name}"


def together(runs: list[Run]) -> tuple[Run, ...]:
    """Runs that did the same as one, in the order in which they came."""
    found: dict[object, Run] = {}
    for run in runs:
        key = run.rows, tuple(run.followed), tuple(run.stopped), run.by_prefix > 0
        before = found.get(key)
        found[key] = run if before is None else before.and_also(run)
    return tuple(found.values())
