"""What every mode works with, and what it hands back."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from load import Generator
from machine import Watch
from processes import ANYWHERE, FreePorts, Place, Processes
from rounds import Series
from servers import Programs, Starter


@dataclass(frozen=True)
class Settings:
    """What the command line says, of each mode what it has."""

    mode: str
    rounds: int
    seconds: float
    json: Path | None
    nodes: int = 0
    idle_seconds: float = 0.0
    rate: int = 0
    every: float = 0.0
    records: int = 0


@dataclass
class Section:
    """One table of the report."""

    title: str
    head: Sequence[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)


@dataclass
class Result:
    """What a mode found."""

    sections: list[Section]
    series: Sequence[Series]
    figures: Mapping[str, object] = field(default_factory=dict)
    """What is in no series, for the JSON."""
    failures: list[str] = field(default_factory=list)
    """Whatever makes the run a failure, in a sentence each."""


@dataclass
class Bench:
    """A run of one mode: its settings, programs, processes, and its eye on the machine."""

    settings: Settings
    programs: Programs
    processes: Processes
    watch: Watch
    ports: FreePorts = field(default_factory=FreePorts)

    def pinned(self) -> tuple[Place, Place]:
        """A core for servers and one for the generator: the first two, or the only one twice."""
        cores = sorted(os.sched_getaffinity(0))
        return Place(cores[0]), Place(cores[min(1, len(cores) - 1)])

    def starter(self, place: Place = ANYWHERE) -> Starter:
        return Starter(self.programs, self.processes, self.ports, place)

    def generator(self, place: Place = ANYWHERE) -> Generator:
        return Generator(self.programs.load, self.processes, place)
