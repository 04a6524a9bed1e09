"""`bench.sh network N`: N processes on loopback that speak TLS; clients ask nodes that do not hold the values.

Clients talk to two entry nodes: one with `read_quorum = 1`, one with the shipped defaults. Only the
entry node applies the read quorum, so both are measured in the same network and the same rounds.
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
from rounds import Spread, Trial, interleave, problems_of

ENTRIES = {"read_quorum = 1": ["read_quorum = 1"], "the shipped default": []}
"""The entry nodes with their settings."""

NODES_MIN = len(ENTRIES) + 1
"""The entry nodes do not hold the values, so there must be another node."""

VALUE = 100
KEYS = 1000


@dataclass(frozen=True)
class Row:
    """A load."""

    label: str
    operation: str
    connections: int


ROWS = (
    Row("GET, one at a time", "get", 1),
    Row("GET, 32 in flight", "get", 32),
    Row("PUT, one at a time", "put", 1),
    Row("PUT, 32 in flight", "put", 32),
)

GOALS = (
    "Goals with 32 nodes, `read_quorum = 1`: GET p50 ≤ 0.15 ms one at a time, ≤ 0.09 ms CPU, ≥ 15 750/s; PUT ≤ 0.60 ms "
    "CPU, ≥ 4 785/s. As shipped: GET p50 ≤ 0.30 ms, ≤ 0.18 ms CPU, ≥ 10 500/s."
)


def run(bench: Bench) -> Result:
    network = nodes.start(bench, bench.settings.nodes, list(ENTRIES.values()))
    lone = bench.starter().dht("lone", []).process
    idle = _idle(network, lone, bench.settings.idle_seconds)
    entries = dict(zip(ENTRIES, network.nodes[-len(ENTRIES) :], strict=True))
    rows = _rows(network, entries, bench.generator(), bench.settings.seconds)
    interleave(rows, bench.settings.rounds, bench.watch)
    after = [node.running().rss_kib() for node in network.nodes]
    trials = [trial for row in rows for trial in row]
    sections = [_section(network, trials), _idle_section(idle, after, len(network.nodes))]
    figures = {"idle": vars(idle), "rss_kib_after_load": after}
    return Result(sections, trials, figures, problems_of(trials) + _expect_remote(bench, entries))


def _expect_remote(bench: Bench, entries: dict[str, Node]) -> list[str]:
    """Ends the entry nodes, which then log how many GETs they answered from their own storage: it must be 0."""
    problems = []
    for name, node in entries.items():
        process = node.running()
        bench.processes.end([process])
        local = process.await_line(r"gets_local=(\d+)")[1]
        if local != "0":
            problems.append(f"the node with {name} answered {local} GETs from its own storage")
    return problems


def _rows(network: Network, entries: dict[str, Node], generator: Generator, seconds: float) -> list[list[Trial]]:
    """Stores the keys through the other nodes; the trials then ask the entry nodes."""
    others = [node.api for node in network.nodes if node not in entries.values()]
    keys = network.keys_file("keys", KEYS, list(entries.values()))
    generator.prepare(Load("get", others, len(others), value=VALUE, keys=keys, flags=network.flags), KEYS)

    def trial(row: Row, name: str, node: Node) -> Trial:
        load = Load(
            operation=row.operation,
            addresses=[node.api],
            connections=row.connections,
            seconds=seconds,
            value=VALUE,
            keys=keys,
            pids=network.pids,
            flags=(*network.flags, "--confirm" if row.operation == "put" else "--verify"),
        )
        return Trial(row.label, name, run=lambda: generator.run(load))

    return [[trial(row, name, node) for name, node in entries.items()] for row in ROWS]


def _section(network: Network, trials: Sequence[Trial]) -> Section:
    head = ["load", "entry node", "p50 ms", "p99 ms", "requests/s", "CPU ms per request, all nodes", "success"]
    lines = [
        [
            trial.row,
            trial.name,
            table.spread(trial.spread(latency_us("p50")), 1e-3),
            table.spread(trial.spread(latency_us("p99")), 1e-3),
            table.spread(trial.spread(rate)),
            table.spread(trial.spread(cpu_us), 1e-3),
            table.percent(trial.success()),
        ]
        for trial in trials
    ]
    count, close = len(network.nodes), network.replication + network.margin
    note = (
        f"{count} nodes, one process each, TLS on loopback; values of {VALUE} bytes, {KEYS} keys, replication "
        f"{network.replication}. The entry nodes are not among the {close} closest to any key."
    )
    return Section(f"A network of {count} nodes", head, lines, [note, GOALS])


@dataclass(frozen=True)
class Idle:
    """CPU time and memory of nodes without requests."""

    seconds: float
    shares: list[float]
    """For each node of the network: the fraction of a core that it used."""
    lone_share: float
    rss_kib: list[int]
    lone_rss_kib: int


def _idle(network: Network, lone: Process, seconds: float) -> Idle:
    """Measures the nodes for `seconds` without requests."""
    processes = [*(node.running() for node in network.nodes), lone]
    began, before = time.monotonic(), [process.cpu_seconds() for process in processes]
    time.sleep(seconds)
    took = time.monotonic() - began
    shares = [(process.cpu_seconds() - then) / took for process, then in zip(processes, before, strict=True)]
    rss = [process.rss_kib() for process in processes]
    return Idle(took, shares[:-1], shares[-1], rss[:-1], rss[-1])


def _idle_section(idle: Idle, after: Sequence[int], count: int) -> Section:
    def range_of(figures: Sequence[float], scale: float, digits: int) -> str:
        middle = Spread.of(figures).median
        return " / ".join(f"{scale * figure:.{digits}f}" for figure in (min(figures), middle, max(figures)))

    head = ["node", "CPU, % of a core", "RSS, MiB", "RSS after the load, MiB", "goal"]
    rss = [range_of(kib, 1 / 1024, 2) for kib in (idle.rss_kib, after)]
    lone_rss = f"{idle.lone_rss_kib / 1024:.2f}"
    lines = [
        [f"of {count}", range_of(idle.shares, 100, 3), *rss, "≤ 0.1 %, ≤ 6 MiB (32 nodes)"],
        ["alone", f"{100 * idle.lone_share:.3f}", lone_rss, table.NONE, "≤ 3.3 MiB"],
    ]
    seconds = table.number(idle.seconds)
    note = f"Minimum / median / maximum of the nodes over {seconds} s without requests, after all had settled."
    return Section("Settled and idle", head, lines, [note])
