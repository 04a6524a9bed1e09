"""Rounds: the compared servers run one after the other in each round; the report has the medians of all rounds.

The machine's speed changes with time. So each figure is divided by the figure of the baseline in
the same round, and the median of these ratios is what counts.
"""

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles

from load import Figure, Outcome
from machine import Watch


@dataclass(frozen=True)
class Spread:
    """The median and the quartiles of some numbers."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, numbers: Sequence[float]) -> "Spread":
        known = [number for number in numbers if math.isfinite(number)]
        if not known:
            return cls(math.nan, math.nan, math.nan)
        if len(known) == 1:
            return cls(known[0], known[0], known[0])
        low, _, high = quantiles(known, n=4, method="inclusive")
        return cls(median(known), low, high)


@dataclass
class Series:
    """The outcomes of one load on one server, one for each round."""

    row: str
    """The load."""
    name: str
    """The server or the phase."""
    outcomes: list[Outcome] = field(default_factory=list)

    def spread(self, figure: Figure) -> Spread:
        return Spread.of([figure(outcome) for outcome in self.outcomes])

    def ratio(self, other: "Series", figure: Figure) -> Spread:
        """This series divided by `other`, round by round."""
        pairs = zip(self.outcomes, other.outcomes, strict=True)
        return Spread.of([_divided(figure(own), figure(theirs)) for own, theirs in pairs])

    def failed(self) -> int:
        """The number of failed requests."""
        return sum(outcome.failures for outcome in self.outcomes)

    def success(self) -> float:
        """The fraction of all requests that got the right answer."""
        right = sum(outcome.answers for outcome in self.outcomes)
        return right / max(1, right + self.failed())

    def problems(self) -> list[str]:
        """One sentence for each round with a failed request or without any answer."""
        found = []
        for number, outcome in enumerate(self.outcomes, start=1):
            where = f"{self.row}, {self.name}, round {number}"
            if outcome.failures:
                found.append(f"{where}: {outcome.failures} failures ({outcome.errors()})")
            elif outcome.answers == 0:
                found.append(f"{where}: no answer")
        return found

    def as_json(self) -> dict[str, object]:
        return {"row": self.row, "name": self.name, "runs": [outcome.raw for outcome in self.outcomes]}


@dataclass
class Trial(Series):
    """A series that gets one outcome in each round, from `run`."""

    run: Callable[[], Outcome] = field(kw_only=True)


def problems_of(series: Iterable[Series]) -> list[str]:
    """The problems of all `series`."""
    return [problem for one in series for problem in one.problems()]


def _divided(number: float, by: float) -> float:
    return number / by if by > 0 else math.nan


def interleave(rows: Sequence[Sequence[Trial]], rounds: int, watch: Watch) -> None:
    """Runs every trial once in each round, row by row; each round starts a row with its next trial."""
    for number in range(rounds):
        with watch.round():
            for row in rows:
                first = number % len(row)
                for trial in [*row[first:], *row[:first]]:
                    watch.probe()
                    trial.outcomes.append(trial.run())
        print(f"bench.sh: finished round {number + 1} of {rounds}", file=sys.stderr, flush=True)
