"""The load generator, `dht-load`: what a run is asked for, and what it found."""

import json
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from failure import Failure
from processes import Output, Place, Process, Processes

GRACE_SECONDS = 120.0
"""What a run may take beyond the time that it measures: storing its keys, waiting for lost answers."""

LATENCIES = ("p50", "p90", "p99", "p99_9", "max")


@dataclass(frozen=True)
class Load:
    """The arguments of one run. Either `seconds` or `requests` says how long it is."""

    operation: str
    addresses: Sequence[str]
    connections: int = 1
    pipeline: int = 1
    seconds: float | None = None
    requests: int | None = None
    value: int = 64
    keys: int | Path = 10_000
    """How many of its own, or a file of them."""
    protocol: str = "dht"
    pids: Sequence[int] = ()
    rate: int | None = None
    flags: Sequence[str] = ()
    """Such as --confirm, or --ttl and its value."""

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
    """The report of one run; `raw` is as `dht-load --json` wrote it, and the `warnings` that it gave."""

    raw: dict[str, object]

    def _number(self, name: str) -> float:
        found = self.raw[name]
        return float(found) if isinstance(found, (int, float)) else float("nan")

    @property
    def answers(self) -> int:
        return int(self._number("answers"))

    @property
    def failures(self) -> int:
        return int(self._number("failures"))

    @property
    def rate(self) -> float:
        """Right answers in a second."""
        return self._number("answers_per_second")

    @property
    def bytes_in(self) -> int:
        """What the generator read."""
        return int(self._number("bytes_in"))

    @property
    def value_bytes(self) -> int:
        return int(self._number("value_bytes"))

    @property
    def cpu_us(self) -> float:
        """CPU time of the servers for one right answer, in microseconds; NaN if it was not measured."""
        return self._number("server_cpu_ns_per_answer") / 1e3

    def latency_us(self, name: str) -> float:
        """One of `LATENCIES`."""
        latency = self.raw["latency_us"]
        found = latency[name] if isinstance(latency, dict) else None
        return float(found) if found is not None else float("nan")

    @property
    def errors(self) -> str:
        """The kinds of failures, with how many of each."""
        errors = self.raw["errors"]
        named = errors.items() if isinstance(errors, dict) else ()
        return ", ".join(f"{count} {name}" for name, count in named if count)


Figure = Callable[[Outcome], float]
"""One of the figures of a run."""


def rate(outcome: Outcome) -> float:
    """Right answers in a second."""
    return outcome.rate


def cpu_us(outcome: Outcome) -> float:
    """CPU time of all servers for one right answer, in microseconds."""
    return outcome.cpu_us


def latency_us(name: str) -> Figure:
    """The latency of one of `LATENCIES`, in microseconds."""
    return lambda outcome: outcome.latency_us(name)


@dataclass
class Running:
    """A run that goes on."""

    process: Process
    processes: Processes
    patience: float
    """Seconds that it may take."""

    def finish(self) -> Outcome:
        """Waits for its end. A run with failures has an outcome too; one without a report has none."""
        try:
            printed, _ = self.process.popen.communicate(timeout=self.patience)
        except subprocess.TimeoutExpired as error:
            raise Failure(f"{self.process.name} has not ended after {self.patience:.0f} s") from error
        self.processes.end([self.process])
        if not printed.startswith("{"):
            log = self.process.log.read_text(errors="replace").strip()
            raise Failure(f"{self.process.name} reported nothing: {log}")
        said = self.process.log.read_text(errors="replace").splitlines()
        warnings = [line for line in said if "warning: " in line]
        self.process.log.unlink()
        return Outcome(json.loads(printed) | {"warnings": warnings})


@dataclass
class Generator:
    """`dht-load`, and where it runs."""

    program: Path
    processes: Processes
    place: Place

    def start(self, load: Load) -> Running:
        command = [str(self.program), *load.arguments()]
        process = self.processes.start("dht-load", command, self.place, Output.READ)
        return Running(process, self.processes, GRACE_SECONDS + (load.seconds or 0.0))

    def run(self, load: Load) -> Outcome:
        return self.start(load).finish()

    def prepare(self, load: Load, count: int) -> None:
        """Stores all keys of `load`, and sees that so many GETs find the right values, byte for byte."""
        flags = ("--preload", "--verify", *load.flags)
        checked = replace(load, operation="get", requests=count, seconds=None, pids=(), flags=flags)
        outcome = self.run(checked)
        if outcome.failures:
            raise Failure(f"{load.addresses[0]} does not give back what was stored: {outcome.errors}")
