"""The machine that is measured on: what it is, and whether it was left alone and kept its speed."""

import os
import platform
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles

from processes import Processes

BUSY_SHARE = 0.05
"""Others that use more than this part of all cores, in the median round, disturb what is measured."""

UNSTEADY_RATIO = 1.2
"""A machine is not steady if it takes so much longer for the same work at a slow time (the third
quartile) as at a quick one (the first)."""

WORK = random.Random(0).sample(range(1_000_000), 100_000)
"""What is sorted to see how quick the machine is: some 30 ms, of arithmetic and of memory."""


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
    """Looks, round by round, at the CPU time that was not used by what the run started, and at the
    machine's speed: a guest is not told when its host has less to give."""

    processes: Processes
    others: list[float] = field(default_factory=list)
    """Of each round: cores that others used, in the mean."""
    probes: list[float] = field(default_factory=list)
    """CPU milliseconds that the same work took, time and again."""

    def probe(self) -> None:
        """Does the work that tells how quick the machine is now."""
        began = time.process_time()
        sorted(WORK)
        self.probes.append((time.process_time() - began) * 1000)

    @contextmanager
    def round(self) -> Iterator[None]:
        self.probe()
        began, all_then, ours_then = time.monotonic(), _all_cpu_seconds(), self.processes.cpu_seconds()
        yield
        took = max(time.monotonic() - began, 1e-3)
        ours = self.processes.cpu_seconds() - ours_then
        self.others.append(max(0.0, (_all_cpu_seconds() - all_then - ours) / took))

    def is_busy(self) -> bool:
        return bool(self.others) and median(self.others) > BUSY_SHARE * core_count()

    def is_unsteady(self) -> bool:
        if len(self.probes) < 2:
            return False
        quick, _, slow = quantiles(self.probes, n=4, method="inclusive")
        return slow > UNSTEADY_RATIO * quick

    def faults(self) -> list[str]:
        """What to hold against the figures, in a word each."""
        found = {"busy": self.is_busy(), "unsteady": self.is_unsteady()}
        return [fault for fault, is_so in found.items() if is_so]

    def verdict(self) -> str:
        """How far the figures may be trusted."""
        told = []
        if self.others:
            used = f"{median(self.others):.2f} of {core_count()} cores in the median round, {max(self.others):.2f} at most"
            told.append(f"others used {used}")
        if self.probes:
            took = f"{median(self.probes):.1f} ms of CPU in the median, {min(self.probes):.1f} to {max(self.probes):.1f}"
            told.append(f"the same work took {took}")
        words = "; ".join(told) or "nothing was looked at"
        if faults := self.faults():
            advice = "Ratios within a round suffer less than absolute figures; trust neither far."
            return f"**THE MACHINE WAS {' AND '.join(faults).upper()}: {words}. {advice}**"
        return f"The machine was quiet: {words}."

    def as_json(self) -> dict[str, object]:
        return {"faults": self.faults(), "others_cores": self.others, "probes_ms": self.probes}
