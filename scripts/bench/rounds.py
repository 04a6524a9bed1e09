"""Rounds: what is compared runs in turn, and what is told is the middle of many rounds.

Absolute figures drift with the machine; so each server is divided by the yardstick that ran beside
it in the same round, and the median of these ratios is what counts.
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
    """The median of some numbers, and the quartiles around it."""

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
    """What one thing gave, round by round."""

    row: str
    """What was done."""
    name: str
    """By whom."""
    outcomes: list[Outcome] = field(default_factory=list)

    def spread(self, figure: Figure) -> Spread:
        return Spread.of([figure(outcome) for outcome in self.outcomes])

    def ratio(self, other: "Series", figure: Figure) -> Spread:
        """This one divided by `other`, within each round."""
        pairs = zip(self.outcomes, other.outcomes, strict=True)
        return Spread.of([_divided(figure(own), figure(theirs)) for own, theirs in pairs])

    def success(self) -> float:
        """The part of all requests that was answered rightly."""
        right = sum(outcome.answers for outcome in self.outcomes)
        return right / max(1, right + sum(outcome.failures for outcome in self.outcomes))

    @property
    def failures(self) -> list[str]:
        """One sentence for each round in which not all answers were right, or none came."""
        said = []
        for number, outcome in enumerate(self.outcomes, start=1):
            if outcome.failures:
                said.append(
                    f"{self.row}, {self.name}, round {number}: {outcome.failures} failures ({outcome.errors})"
                )
            elif outcome.answers == 0:
                said.append(f"{self.row}, {self.name}, round {number}: no answer")
        return said

    def as_json(self) -> dict[str, object]:
        return {"row": self.row, "name": self.name, "runs": [outcome.raw for outcome in self.outcomes]}


@dataclass
class Trial(Series):
    """A series that is measured by one run in each round."""

    run: Callable[[], Outcome] = field(kw_only=True)


def failures_of(series: Iterable[Series]) -> list[str]:
    """All that failed in any of them."""
    return [said for one in series for said in one.failures]


def _divided(number: float, by: float) -> float:
    return number / by if by > 0 else math.nan


def interleave(rows: Sequence[Sequence[Trial]], rounds: int, watch: Watch) -> None:
    """Runs every trial once in each round; those of one row follow each other, another first each time."""
    for number in range(rounds):
        with watch.round():
            for row in rows:
                first = number % len(row)
                for trial in [*row[first:], *row[:first]]:
                    watch.probe()
                    trial.outcomes.append(trial.run())
        print(f"bench.sh: round {number + 1} of {rounds} is over", file=sys.stderr, flush=True)
