"""The load generator `dht-load`: the arguments of a run, and its report."""

import json
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from failure import Failure
from processes import Output, Process, Processes, Scheduling

GRACE_SECONDS = 120.0
"""What a run may take beyond the time that it measures: it stores its keys and waits for lost answers."""

LATENCIES = ("p50", "p90", "p99", "p99_9", "max")

LASTING = ("--ttl", "65535")
"""Flags of values that must not expire during a run."""


@dataclass(frozen=True)
class Load:
    """The arguments of one run. Its length is either `seconds` or `requests`."""

    operation: str
    addresses: Sequence[str]
    connections: int = 1
    pipeline: int = 1
    seconds: float | None = None
    requests: int | None = None
    value: int = 64
    """Size of the values."""
    keys: int | Path = 10_000
    """The number of keys, or a file of keys."""
    protocol: str = "dht"
    pids: Sequence[int] = ()
    rate: int | None = None
    flags: Sequence[str] = ()
    """Other arguments, such as --confirm."""

    def arguments(self) -> list[str]:
        words = [self.operation, "--json", "-a", ",".join(self.addresses)]
        words += ["-c", str(self.connections), "--value", str(self.value), "--protocol", self.protocol]
        if "--connect-each" not in self.flags:
            words += ["-p", str(self.pipeline)]
        words += ["--keys-from" if isinstance(self.keys, Path) else "--keys", str(self.keys)]
        if self.seconds is not None:
            words += ["-t", f"{self.seconds:g}"]
        if self.requests is not None:
            words += ["-n", str(self.requests)]
        if self.pids:
            words += ["--pid", ",".join(map(str, self.pids))]
        if self.rate is not None:
            words += ["--rate", str(self.rate)]
        return words + list(self.flags)


@dataclass(frozen=True)
class Outcome:
    """The report of one run: `raw` is what `dht-load --json` printed, with its `warnings` added."""

    raw: dict[str, object]

    def number(self, name: str) -> float:
        """A figure of the report; NaN if it was not measured."""
        found = self.raw[name]
        return float(found) if isinstance(found, (int, float)) else float("nan")

    @property
    def answers(self) -> int:
        """The number of right answers."""
        return int(self.number("answers"))

    @property
    def failures(self) -> int:
        return int(self.number("failures"))

    def errors(self) -> str:
        """The kinds of failures, each with its count."""
        errors = self.raw["errors"]
        named = errors.items() if isinstance(errors, dict) else ()
        return ", ".join(f"{count} {name}" for name, count in named if count)


Figure = Callable[[Outcome], float]
"""One figure of an outcome."""


def rate(outcome: Outcome) -> float:
    """Right answers per second."""
    return outcome.number("answers_per_second")


def cpu_us(outcome: Outcome) -> float:
    """CPU time of all servers per right answer, in microseconds."""
    return outcome.number("server_cpu_ns_per_answer") / 1e3


def latency_us(name: str) -> Figure:
    """The latency `name`, one of `LATENCIES`, in microseconds."""

    def figure(outcome: Outcome) -> float:
        latencies = outcome.raw["latency_us"]
        found = latencies[name] if isinstance(latencies, dict) else None
        return float(found) if found is not None else float("nan")

    return figure


@dataclass
class Running:
    """A run that has been started."""

    process: Process
    processes: Processes
    timeout: float
    """In seconds."""

    def finish(self) -> Outcome:
        """Waits for the end. A run with failed requests has an outcome too; without a report it is a `Failure`."""
        try:
            printed, _ = self.process.popen.communicate(timeout=self.timeout)
        except subprocess.TimeoutExpired as error:
            raise Failure(f"{self.process.name} has not ended after {self.timeout:.0f} s") from error
        self.processes.end([self.process])
        log = self.process.log_text()
        if not printed.startswith("{"):
            raise Failure(f"{self.process.name} printed no report: {log.strip()}")
        self.process.log.unlink()
        return Outcome(json.loads(printed) | {"warnings": [line for line in log.splitlines() if "warning: " in line]})


@dataclass
class Generator:
    """`dht-load`, and the core that it uses."""

    program: Path
    processes: Processes
    scheduling: Scheduling

    def start(self, load: Load) -> Running:
        command = [str(self.program), *load.arguments()]
        process = self.processes.start("dht-load", command, self.scheduling, Output.PIPE)
        return Running(process, self.processes, GRACE_SECONDS + (load.seconds or 0.0))

    def run(self, load: Load) -> Outcome:
        return self.start(load).finish()

    def prepare(self, load: Load, count: int) -> None:
        """Stores all keys of `load`, then verifies every byte of `count` GETs."""
        flags = ("--preload", "--verify", *load.flags)
        get = replace(load, operation="get", requests=count, seconds=None, rate=None, pids=(), flags=flags)
        outcome = self.run(get)
        if outcome.failures:
            raise Failure(f"{load.addresses[0]} does not return the values that were stored: {outcome.errors()}")
