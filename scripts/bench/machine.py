"""The machine that is measured on: what it is, and whether others were at work on it."""

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from processes import Processes

BUSY_SHARE = 0.05
"""Others that use more than this part of all cores, in the median round, disturb what is measured."""

BUSY_LOAD = 0.5
"""More processes than this, for each core, that wanted to run in the minute before the start."""


def core_count() -> int:
    return len(os.sched_getaffinity(0))


def described() -> dict[str, str | int]:
    """Who reads the figures later wants to know this."""
    cpu = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.split(":", 1)[1].strip()
            break
    return {"cpu": cpu, "cores": core_count(), "kernel": platform.release(), "python": platform.python_version()}


def _all_cpu_seconds() -> float:
    """CPU time that anybody used since the machine started, with what its host took from it."""
    user, nice, system, _idle, _wait, irq, softirq, steal = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    )
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


@dataclass
class Watch:
    """Looks, round by round, at the CPU time that was not used by what the run started."""

    processes: Processes
    load_average: float = field(default_factory=lambda: os.getloadavg()[0])
    others: list[float] = field(default_factory=list)
    """Of each round: cores that others used, in the mean."""

    @contextmanager
    def round(self) -> Iterator[None]:
        began, all_then, ours_then = time.monotonic(), _all_cpu_seconds(), self.processes.cpu_seconds()
        yield
        took = max(time.monotonic() - began, 1e-3)
        ours = self.processes.cpu_seconds() - ours_then
        self.others.append(max(0.0, (_all_cpu_seconds() - all_then - ours) / took))

    def is_busy(self) -> bool:
        crowded = self.load_average > BUSY_LOAD * core_count()
        return crowded or (bool(self.others) and median(self.others) > BUSY_SHARE * core_count())

    def verdict(self) -> str:
        """One sentence on how far the figures may be trusted."""
        words = f"load average at the start {self.load_average:.2f}"
        if self.others:
            used = f"{median(self.others):.2f} of {core_count()} cores in the median round, {max(self.others):.2f} at most"
            words = f"others used {used}; {words}"
        if self.is_busy():
            advice = "Ratios within a round suffer less than absolute figures; trust neither far."
            return f"**THE MACHINE WAS BUSY: {words}. {advice}**"
        return f"The machine was quiet: {words}."

    def as_json(self) -> dict[str, object]:
        return {"is_busy": self.is_busy(), "load_average": self.load_average, "others_cores": self.others}
