"""The machine that the benchmark runs on: its description, and whether it was idle and at a constant speed."""

import os
import platform
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles

from processes import Processes, available_cores

BUSY_FRACTION = 0.05
"""The machine is busy if other processes use more than this fraction of all cores in the median round."""

UNSTEADY_RATIO = 1.2
"""The speed is unsteady if the third quartile of the probes is more than this ratio of the first quartile."""

PROBE_DATA = random.Random(0).sample(range(1_000_000), 100_000)
"""Sorting this list is the probe of the machine's speed: about 30 ms of arithmetic and memory accesses."""


def described() -> dict[str, str | int]:
    """The facts that a reader of the figures needs."""
    cpu = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.split(":", 1)[1].strip()
            break
    cores = len(available_cores())
    return {"cpu": cpu, "cores": cores, "kernel": platform.release(), "python": platform.python_version()}


def _all_cpu_seconds() -> float:
    """CPU time of all processes since the machine started, and the time that its host took (steal)."""
    user, nice, system, _idle, _wait, irq, softirq, steal = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    )
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


@dataclass
class Watch:
    """Measures what other processes use, round by round, and the speed of the machine.

    The speed needs a probe because a virtual machine cannot see that its host slows it down.
    """

    processes: Processes
    others: list[float] = field(default_factory=list)
    """For each round: the number of cores that other processes used on average."""
    probes: list[float] = field(default_factory=list)
    """CPU milliseconds of each probe."""

    def probe(self) -> None:
        """Measures the speed of the machine now."""
        began = time.process_time()
        sorted(PROBE_DATA)
        self.probes.append((time.process_time() - began) * 1000)

    @contextmanager
    def round(self) -> Iterator[None]:
        self.probe()
        began, all_before, ours_before = time.monotonic(), _all_cpu_seconds(), self.processes.cpu_seconds()
        yield
        seconds = max(time.monotonic() - began, 1e-3)
        ours = self.processes.cpu_seconds() - ours_before
        self.others.append(max(0.0, (_all_cpu_seconds() - all_before - ours) / seconds))

    def faults(self) -> list[str]:
        """What makes the figures unreliable, one word each."""
        found = []
        if self.others and median(self.others) > BUSY_FRACTION * len(available_cores()):
            found.append("busy")
        if len(self.probes) > 1:
            fast, _, slow = quantiles(self.probes, n=4, method="inclusive")
            if slow > UNSTEADY_RATIO * fast:
                found.append("unsteady")
        return found

    def verdict(self) -> str:
        """How reliable the figures are."""
        seen = []
        if self.others:
            cores = len(available_cores())
            used = f"{median(self.others):.2f} of {cores} cores in the median round, {max(self.others):.2f} at most"
            seen.append(f"other processes used {used}")
        if self.probes:
            took = f"{median(self.probes):.1f} ms of CPU (median), {min(self.probes):.1f} to {max(self.probes):.1f}"
            seen.append(f"the speed probe took {took}")
        words = "; ".join(seen) or "not measured"
        if faults := self.faults():
            advice = "Ratios within a round are more reliable than absolute figures; do not rely on either."
            return f"**THE MACHINE WAS {' AND '.join(faults).upper()}: {words}. {advice}**"
        return f"The machine was idle and steady: {words}."

    def as_json(self) -> dict[str, object]:
        return {"faults": self.faults(), "others_cores": self.others, "probes_ms": self.probes}
