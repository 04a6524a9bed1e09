"""`bench.sh churn N`: what clients see while nodes die and come back.

GETs and PUTs run at a fixed rate against a few nodes that are never killed; their latency counts
from the moment when a request was due. Before, during and after the churn. In it, every few
seconds one node is killed as by a crash, and the one killed before it is started again on what it
had kept on disk.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import nodes
import table
from bench import Bench, Result, Section
from load import LATENCIES, Generator, Load, Outcome, latency_us
from nodes import Network, Node
from rounds import Series, failures_of

ASKED = 3
"""Nodes that clients talk to. They are never killed, and the founder is one of them."""

NODES_MIN = 12
"""Three hold each value then, of whom one may be dead and another not yet back."""

VALUE = 100
KEYS = 1000
CONNECTIONS = 16
PUT_PART = 10
"""One PUT to so many GETs."""

PHASES = ("before", "during", "after")

LOOK_SECONDS = 0.05


@dataclass
class Reaper:
    """Kills the nodes in turn, and starts each again when the next one is killed."""

    victims: Sequence[Node]
    network: Network
    every: float
    """Seconds from one death to the next."""
    deaths: int = 0
    dead: Node | None = None
    due: float = field(default_factory=time.monotonic)

    def strike(self) -> None:
        """Kills one if it is time to."""
        if time.monotonic() < self.due:
            return
        self.due += self.every
        victim = self.victims[self.deaths % len(self.victims)]
        self.deaths += 1
        victim.running().kill()
        self.revive()
        self.dead = victim

    def revive(self) -> None:
        """Starts the one that is dead."""
        if self.dead is not None:
            self.dead.start(self.network.starter)
            self.dead = None


def run(bench: Bench) -> Result:
    network = nodes.start(bench, bench.settings.nodes)
    asked, victims = network.nodes[:ASKED], network.nodes[ASKED:]
    generator = bench.generator()
    loads = _loads(bench, network, asked, generator)
    series = {(phase, load.operation): Series(load.operation.upper(), phase) for load in loads for phase in PHASES}
    deaths = 0
    for _ in range(bench.settings.rounds):
        with bench.watch.round():
            for phase in PHASES:
                reaper = Reaper(victims, network, bench.settings.every) if phase == "during" else None
                for load, outcome in _phase(loads, generator, reaper):
                    series[phase, load.operation].outcomes.append(outcome)
                deaths += reaper.deaths if reaper is not None else 0
    calm = [one for (phase, _), one in series.items() if phase != "during"]
    measured = list(series.values())
    return Result([_section(bench, network, measured, deaths)], measured, {"deaths": deaths}, failures_of(calm))


def _phase(loads: Sequence[Load], generator: Generator, reaper: Reaper | None) -> list[tuple[Load, Outcome]]:
    """All loads side by side, and the reaper at work until they are over; then all nodes are there again."""
    running = [(load, generator.start(load)) for load in loads]
    while reaper is not None and any(run.process.runs() for _, run in running):
        reaper.strike()
        time.sleep(LOOK_SECONDS)
    outcomes = [(load, run.finish()) for load, run in running]
    if reaper is not None:
        reaper.revive()
        for victim in reaper.victims:
            victim.await_settled()
    return outcomes


def _loads(bench: Bench, network: Network, asked: Sequence[Node], generator: Generator) -> list[Load]:
    """The GETs ask for what nobody writes meanwhile; the PUTs have keys of their own."""
    flags = ("--replication", str(network.replication), "--ttl", "65535")
    kept, written = (network.keys_file(name, KEYS, asked) for name in ("kept", "written"))
    gets = Load(
        operation="get",
        addresses=[node.api for node in asked],
        connections=CONNECTIONS,
        seconds=bench.settings.seconds,
        value=VALUE,
        keys=kept,
        rate=bench.settings.rate,
        flags=(*flags, "--verify"),
    )
    generator.prepare(replace(gets, rate=None, flags=flags), KEYS)
    slower = max(1, bench.settings.rate // PUT_PART)
    return [gets, replace(gets, operation="put", keys=written, rate=slower, flags=(*flags, "--confirm"))]


def _section(bench: Bench, network: Network, measured: Sequence[Series], deaths: int) -> Section:
    head = ["load", "phase", "success", "failures", *(f"{name.replace('_', '.')} ms" for name in LATENCIES)]
    lines = []
    for one in measured:
        failed = sum(outcome.failures for outcome in one.outcomes)
        latencies = [table.spread(one.spread(latency_us(name)), 1e-3) for name in LATENCIES]
        lines.append([one.row, one.name, table.percent(one.success()), str(failed), *latencies])
    settings, count = bench.settings, len(network.nodes)
    note = (
        f"{count} nodes, replication {network.replication}, values of {VALUE} bytes; {settings.rate} GETs and "
        f"{max(1, settings.rate // PUT_PART)} PUTs a second at {ASKED} nodes that stay and hold none of the keys; the "
        f"others were killed (SIGKILL) {deaths} times in {settings.rounds} rounds, one every {settings.every:g} s, "
        f"and each started again when the next died. Latency counts from the moment when a request was due."
    )
    return Section(f"{count} nodes before, during and after churn", head, lines, [note])
