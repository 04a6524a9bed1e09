"""`bench.sh churn N`: GETs and PUTs of clients while nodes are killed and started again.

Clients send GETs and PUTs at a fixed rate to a few nodes that are never killed. Latency counts from
when a request was due. There are three phases: before, during and after the churn. During the
churn, one node is killed (SIGKILL) every few seconds, and the node that was killed before it starts
again from its data directory.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import nodes
import table
from bench import Bench, Result, Section
from load import Generator, Load, Outcome
from nodes import Network, Node
from rounds import Series, problems_of

ENTRIES = 3
"""The number of entry nodes, which the clients talk to. They are never killed. The founder is one of them."""

NODES_MIN = 12
"""With 12 nodes three hold each value. At most two of them are away: one dead, one starting."""

VALUE = 100
KEYS = 1000
CONNECTIONS = 16
GETS_PER_PUT = 10

PHASES = ("before", "during", "after")

LOOK_SECONDS = 0.05


@dataclass
class Killer:
    """Kills one node after the other, and restarts each when the next one is killed."""

    victims: Sequence[Node]
    network: Network
    every: float
    """Seconds from one kill to the next."""
    kills: int = 0
    dead: Node | None = None
    due: float = field(default_factory=time.monotonic)

    def kill_if_due(self) -> None:
        if time.monotonic() < self.due:
            return
        self.due += self.every
        victim = self.victims[self.kills % len(self.victims)]
        self.kills += 1
        victim.running().kill()
        self.restart()
        self.dead = victim

    def restart(self) -> None:
        """Starts the node that is dead, if any."""
        if self.dead is not None:
            self.dead.start(self.network.starter)
            self.dead = None


def run(bench: Bench) -> Result:
    network = nodes.start(bench, bench.settings.nodes)
    # Entries that are near one another are far from the same keys; entries anywhere might be near every key.
    founder = network.nodes[0]
    nearest = sorted(network.nodes, key=lambda node: node.id ^ founder.id)
    entries, victims = nearest[:ENTRIES], nearest[ENTRIES:]
    generator = bench.generator()
    loads = _loads(bench, network, entries, generator)
    series = {(phase, load.operation): Series(load.operation.upper(), phase) for load in loads for phase in PHASES}
    kills = 0
    for _ in range(bench.settings.rounds):
        with bench.watch.round():
            for phase in PHASES:
                killer = Killer(victims, network, bench.settings.every) if phase == "during" else None
                for load, outcome in _phase(loads, generator, killer):
                    series[phase, load.operation].outcomes.append(outcome)
                kills += killer.kills if killer is not None else 0
    without_churn = [one for (phase, _), one in series.items() if phase != "during"]
    measured = list(series.values())
    return Result([_section(bench, network, measured, kills)], measured, {"kills": kills}, problems_of(without_churn))


def _phase(loads: Sequence[Load], generator: Generator, killer: Killer | None) -> list[tuple[Load, Outcome]]:
    """Runs all loads at the same time, with `killer` until they end. All nodes run and have settled afterwards."""
    running = [(load, generator.start(load)) for load in loads]
    while killer is not None and any(run.process.runs() for _, run in running):
        killer.kill_if_due()
        time.sleep(LOOK_SECONDS)
    outcomes = [(load, run.finish()) for load, run in running]
    if killer is not None:
        killer.restart()
        for victim in killer.victims:
            victim.await_settled()
    return outcomes


def _put_rate(bench: Bench) -> int:
    return max(1, bench.settings.rate // GETS_PER_PUT)


def _loads(bench: Bench, network: Network, entries: Sequence[Node], generator: Generator) -> list[Load]:
    """GETs of keys that are stored before the run, and PUTs of other keys."""
    read, written = (network.keys_file(name, KEYS, entries) for name in ("read", "written"))
    stored = Load(
        operation="get",
        addresses=[node.api for node in entries],
        connections=CONNECTIONS,
        seconds=bench.settings.seconds,
        value=VALUE,
        keys=read,
        flags=network.flags,
    )
    generator.prepare(stored, KEYS)
    gets = replace(stored, rate=bench.settings.rate, flags=(*network.flags, "--verify"))
    puts = replace(
        stored, operation="put", keys=written, rate=_put_rate(bench), flags=(*network.flags, "--confirm")
    )
    return [gets, puts]


def _section(bench: Bench, network: Network, measured: Sequence[Series], kills: int) -> Section:
    head = ["load", "phase", "success", "failures", *table.latency_head("ms")]
    lines = [
        [one.row, one.name, table.percent(one.success()), str(one.failed()), *table.latency_cells(one, 1e-3)]
        for one in measured
    ]
    settings, count = bench.settings, len(network.nodes)
    note = (
        f"{count} nodes, replication {network.replication}, values of {VALUE} bytes. Clients sent {settings.rate} GETs "
        f"and {_put_rate(bench)} PUTs per second to {ENTRIES} nodes that were never killed and held none of the keys. "
        f"The other nodes were killed (SIGKILL) {kills} times in {settings.rounds} rounds, one every "
        f"{settings.every:g} s; each started again at the next kill. Latency counts from when a request was due."
    )
    return Section(f"{count} nodes before, during and after churn", head, lines, [note])
