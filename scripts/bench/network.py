"""`bench.sh network N`: N processes on loopback that speak TLS, asked at nodes that do not hold the values.

Two nodes are asked: one believes the first holder (`read_quorum = 1`), one is as shipped. The
quorum is a matter of the node that asks, so one network serves both, in the same rounds.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import nodes
import table
from bench import Bench, Result, Section
from load import Generator, Load, cpu_us, latency_us, rate
from nodes import Network, Node
from processes import Process
from rounds import Spread, Trial, failures_of, interleave

ASKERS = {"read_quorum = 1": ["read_quorum = 1"], "the shipped default": []}

NODES_MIN = len(ASKERS) + 1
"""Somebody who is not asked must hold the values."""

VALUE = 100
KEYS = 1000


@dataclass(frozen=True)
class Row:
    """A kind of load."""

    label: str
    operation: str
    connections: int


ROWS = (
    Row("GET, one at a time", "get", 1),
    Row("GET, 32 in flight", "get", 32),
    Row("PUT, one at a time", "put", 1),
    Row("PUT, 32 in flight", "put", 32),
)

GOALS = [
    "Goals with 32 nodes, `read_quorum = 1`: GET p50 ≤ 0.15 ms one at a time, ≤ 0.09 ms CPU, ≥ 15 750/s; PUT ≤ 0.60 ms "
    "CPU, ≥ 4 785/s. As shipped: GET p50 ≤ 0.30 ms, ≤ 0.18 ms CPU, ≥ 10 500/s.",
]


def run(bench: Bench) -> Result:
    network = nodes.start(bench, bench.settings.nodes, list(ASKERS.values()))
    lone = bench.starter().dht("lone", []).process
    idle = _idle(network, lone, bench.settings.idle_seconds)
    generator = bench.generator()
    askers = dict(zip(ASKERS, network.nodes[-len(ASKERS) :], strict=True))
    rows = _rows(network, askers, generator, bench.settings.seconds)
    interleave(rows, bench.settings.rounds, bench.watch)
    after = _memory([node.running() for node in network.nodes])
    trials = [trial for row in rows for trial in row]
    table_of_idle = _idle_section(idle, after, len(network.nodes))
    figures = {"idle": idle.as_json(), "rss_kib_after_load": after}
    failures = failures_of(trials) + _expect_remote(bench, askers)
    return Result([_section(network, trials), table_of_idle], trials, figures, failures)


def _expect_remote(bench: Bench, askers: dict[str, Node]) -> list[str]:
    """Ends the asked nodes, which then say how many GETs they answered out of their own memory: none may be."""
    said = []
    for name, node in askers.items():
        process = node.running()
        bench.processes.end([process])
        local = process.await_line(r"gets_local=(\d+)")[1]
        if local != "0":
            said.append(f"the node with {name} held {local} of the values that it was asked for")
    return said


def _rows(network: Network, askers: dict[str, Node], generator: Generator, seconds: float) -> list[list[Trial]]:
    """Stores the keys through the nodes that are not asked, and has them asked."""
    others = [node.api for node in network.nodes if node not in askers.values()]
    keys = network.keys_file("keys", KEYS, list(askers.values()))
    flags = ("--replication", str(network.replication), "--ttl", "65535")
    generator.prepare(Load("get", others, len(others), 1, value=VALUE, keys=keys, flags=flags), KEYS)

    def trial(row: Row, name: str, node: Node) -> Trial:
        load = Load(
            operation=row.operation,
            addresses=[node.api],
            connections=row.connections,
            seconds=seconds,
            value=VALUE,
            keys=keys,
            pids=network.pids,
            flags=(*flags, "--confirm" if row.operation == "put" else "--verify"),
        )
        return Trial(row.label, name, run=lambda: generator.run(load))

    return [[trial(row, name, node) for name, node in askers.items()] for row in ROWS]


def _section(network: Network, trials: Sequence[Trial]) -> Section:
    head = ["load", "asked node", "p50 ms", "p99 ms", "requests/s", "CPU ms per request, all nodes", "success"]
    lines = []
    for trial in trials:
        lines.append(
            [
                trial.row,
                trial.name,
                table.spread(trial.spread(latency_us("p50")), 1e-3),
                table.spread(trial.spread(latency_us("p99")), 1e-3),
                table.spread(trial.spread(rate)),
                table.spread(trial.spread(cpu_us), 1e-3),
                table.percent(trial.success()),
            ]
        )
    count = len(network.nodes)
    notes = [
        f"{count} nodes, one process each, TLS on loopback; values of {VALUE} bytes, {KEYS} keys, replication "
        f"{network.replication}; the asked nodes are not among the {network.replication + network.margin} nearest to a key."
    ]
    return Section(f"A network of {count} nodes", head, lines, notes + GOALS)


@dataclass(frozen=True)
class Idle:
    """What processes used while nobody asked them anything."""

    seconds: float
    shares: list[float]
    """CPU of each node of the network, as a part of a core."""
    lone_share: float
    rss_kib: list[int]
    lone_rss_kib: int

    def as_json(self) -> dict[str, object]:
        return vars(self)


def _memory(processes: Sequence[Process]) -> list[int]:
    return [process.rss_kib() for process in processes]


def _idle(network: Network, lone: Process, seconds: float) -> Idle:
    """The length of the wait is what is measured: nothing is waited for."""
    processes = [*(node.running() for node in network.nodes), lone]
    began, before = time.monotonic(), [process.cpu_seconds() for process in processes]
    time.sleep(seconds)
    took = time.monotonic() - began
    shares = [(process.cpu_seconds() - then) / took for process, then in zip(processes, before, strict=True)]
    rss = _memory(processes)
    return Idle(took, shares[:-1], shares[-1], rss[:-1], rss[-1])


def _idle_section(idle: Idle, after: Sequence[int], count: int) -> Section:
    def mebibytes(kib: Sequence[int]) -> str:
        least, middle, most = min(kib) / 1024, Spread.of(list(map(float, kib))).median / 1024, max(kib) / 1024
        return f"{least:.2f} / {middle:.2f} / {most:.2f}"

    def percent(shares: Sequence[float]) -> str:
        middle = Spread.of(shares).median
        return f"{100 * min(shares):.3f} / {100 * middle:.3f} / {100 * max(shares):.3f}"

    head = ["node", "CPU, % of a core", "RSS, MiB", "RSS after the load, MiB", "goal"]
    lines = [
        [
            f"of {count}",
            percent(idle.shares),
            mebibytes(idle.rss_kib),
            mebibytes(after),
            "≤ 0.1 %, ≤ 6 MiB (32 nodes)",
        ],
        ["alone", f"{100 * idle.lone_share:.3f}", f"{idle.lone_rss_kib / 1024:.2f}", table.NONE, "≤ 3.3 MiB"],
    ]
    note = f"Least / median / most over the nodes, {table.number(idle.seconds)} s without requests, begun when all had settled."
    return Section("Settled and idle", head, lines, [note])
