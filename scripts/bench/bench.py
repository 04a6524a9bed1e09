"""What every mode gets, and what it returns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from load import Generator
from machine import Watch
from processes import ANY_CORE, FreePorts, Processes, Scheduling, available_cores
from rounds import Series
from servers import Programs, Starter


@dataclass(frozen=True)
class Settings:
    """The command line. A mode has the fields without a default, and some of the others."""

    mode: str
    rounds: int
    seconds: float
    json: Path | None
    nodes: int = 0
    idle_seconds: float = 0.0
    rate: int = 0
    every: float = 0.0
    records: int = 0
    value: int = 0


@dataclass
class Section:
    """One table of the report."""

    title: str
    head: Sequence[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)


@dataclass
class Result:
    """The figures of a mode."""

    sections: list[Section]
    series: Sequence[Series]
    figures: Mapping[str, object] = field(default_factory=dict)
    """Figures for the JSON that are in no series."""
    failures: list[str] = field(default_factory=list)
    """The reasons why the run failed, one sentence each."""


@dataclass
class Bench:
    """A run of one mode."""

    settings: Settings
    programs: Programs
    processes: Processes
    watch: Watch
    ports: FreePorts = field(default_factory=FreePorts)

    def pinned(self) -> tuple[Scheduling, Scheduling]:
        """One core for servers and another for the generator; both get the same if there is only one."""
        cores = available_cores()
        return Scheduling(cores[0]), Scheduling(cores[min(1, len(cores) - 1)])

    def starter(self, scheduling: Scheduling = ANY_CORE) -> Starter:
        return Starter(self.programs, self.processes, self.ports, scheduling)

    def generator(self, scheduling: Scheduling = ANY_CORE) -> Generator:
        return Generator(self.programs.load, self.processes, scheduling)
