"""System calls per request, counted by strace in runs of their own: it slows down what it watches."""

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import table
from bench import Bench, Section
from load import Generator, Load
from processes import Place
from servers import Server, installed

CASES = ((1, 1, 10_000), (50, 1, 20_000), (50, 16, 100_000))
"""Connections, pipeline, requests: so many that to open the connections hardly counts."""

OFTEN = 0.01
"""A call that is made less often per request is only in the sum."""

LINE = re.compile(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$", re.MULTILINE)
"""A line of `strace -c`: share, seconds, microseconds a call, calls, perhaps errors, name."""


@dataclass
class Counted:
    """The table of system calls, and the calls by name for the JSON."""

    section: Section
    figures: list[dict[str, object]] = field(default_factory=list)


def count(servers: Sequence[Server], generator: Generator, bench: Bench, flags: tuple[str, ...]) -> Counted:
    """Counts the calls of each server in each of `CASES`; the first server is the yardstick."""
    section = Section(
        "System calls of the server per GET", ["connections × pipeline", *(s.name for s in servers)], []
    )
    counted = Counted(section)
    strace = installed("strace")
    if strace is None or not bench.settings.strace:
        section.notes.append("SKIPPED: " + ("strace is not installed." if strace is None else "--no-strace."))
        return counted
    for connections, pipeline, requests in CASES:
        label = f"{connections} × {pipeline}"
        cells = []
        for server in servers:
            load = Load("get", [server.address], connections, pipeline, protocol=server.protocol, flags=flags)
            calls = _traced(strace, server, generator, bench, replace(load, requests=requests))
            cells.append(_described(calls, requests) if calls else table.NONE)
            counted.figures.append({"row": label, "name": server.name, "requests": requests, "calls": calls})
        section.rows.append([label, *cells])
    if not any(figure["calls"] for figure in counted.figures):
        section.notes.append("SKIPPED: strace may not watch processes here.")
    section.notes.append("Counted by `strace -c -f` in runs of their own, the opening of connections included.")
    return counted


def _traced(strace: str, server: Server, generator: Generator, bench: Bench, load: Load) -> dict[str, int]:
    """Calls by name while `load` ran; none if strace was not let."""
    command = [strace, "-c", "-f", "-p", str(server.process.pid)]
    tracer = bench.processes.start("strace", command, Place())
    if tracer.await_line(r"attached|Operation not permitted|Could not attach|ptrace")[0] != "attached":
        bench.processes.end([tracer])
        return {}
    generator.run(load)
    tracer.popen.send_signal(signal.SIGINT)
    tracer.popen.wait(30)
    named = {name: int(calls) for calls, name in LINE.findall(tracer.log.read_text())}
    named.pop("total", None)
    return named


def _described(calls: dict[str, int], requests: int) -> str:
    """All calls per request, and those that are made often."""
    each = {name: count / requests for name, count in calls.items()}
    often = sorted((name for name in each if each[name] >= OFTEN), key=lambda name: -each[name])
    return f"{sum(each.values()):.3f} ({', '.join(f'{name} {each[name]:.2f}' for name in often)})"
