"""What an explanation asks of the model, in a table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace


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
        titles = ("rows", "number", "calls", "affine prefix", "expanded at", "cost")
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


def merged_runs(runs: list[Run]) -> tuple[Run, ...]:
    """Runs that did the same as one, in the order in which they came."""
    found: dict[object, Run] = {}
    for run in runs:
        key = run.rows, tuple(run.followed), tuple(run.stopped), run.by_prefix > 0
        before = found.get(key)
        found[key] = run if before is None else before.and_also(run)
    return tuple(found.values())


@dataclass
class Run:
    """What became of some rows in the model."""

    rows: str  # their kind
    count: int  # R · B
    blocks: list[int] = field(default_factory=list)  # how many rows each had
    by_prefix: int = 0  # rows that stayed affine at first
    slices: int = 0  # of examples, each with anchors of its own
    followed: list[str] = field(default_factory=list)  # the operations done on anchors
    stopped: list[str] = field(default_factory=list)  # those that had the rows made
    spared: float = 0  # multiplications for each of these rows, which anchors took instead
    anchored: float = 0  # and how many those took for a slice
    anchors: int = 0  # how many examples that had
    width: int = 0  # numbers of a row where it was made
    mixed: float = 1  # anchors that are added up in it

    def and_also(self, other: Run) -> Run:
        """Both as one: sums, and means of what is told for a row or a slice."""
        rows, slices = self.by_prefix + other.by_prefix, self.slices + other.slices

        def of_rows(one: float, another: float) -> float:
            return (self.by_prefix * one + other.by_prefix * another) / max(1, rows)

        anchored = self.slices * self.anchored + other.slices * other.anchored
        return replace(
            self,
            count=self.count + other.count,
            blocks=self.blocks + other.blocks,
            by_prefix=rows,
            slices=slices,
            spared=of_rows(self.spared, other.spared),
            anchored=anchored / max(1, slices),
            mixed=of_rows(self.mixed, other.mixed),
        )
