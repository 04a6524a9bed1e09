"""`bench.sh local`: one server on one core, with the load generator on another core.

Every round measures the baseline (the echo), dht-server, and Redis and memcached if they are
installed. The report divides each figure by the echo's.
"""

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import table
from bench import Bench, Result, Section
from load import LASTING, Figure, Generator, Load, cpu_us, latency_us, rate
from rounds import Trial, interleave, problems_of
from servers import Server, version


@dataclass(frozen=True)
class Row:
    """A load, and dht-server's goals for it, divided by the echo."""

    label: str
    connections: int
    pipeline: int
    rate_goal: float
    cpu_goal: float = math.nan
    value: int = 64
    keys: int = 10_000
    seed: int = 1
    """The seed of the keys. Rows with another value size have another seed, to not overwrite each other's values."""
    operation: str = "get"
    durability: str = "none"
    flags: tuple[str, ...] = ()

    def common_flags(self) -> tuple[str, ...]:
        """The flags of every run with these keys."""
        return (*LASTING, "--seed", str(self.seed))

    def load(self, server: Server, seconds: float) -> Load:
        """The echo always gets GETs: it has no PUT, and shows the cost of the frames alone."""
        return Load(
            operation="get" if server.name == "echo" else self.operation,
            addresses=[server.address],
            connections=self.connections,
            pipeline=self.pipeline,
            seconds=seconds,
            value=self.value,
            keys=self.keys,
            protocol=server.protocol,
            pids=[server.process.pid],
            flags=(*self.common_flags(), *self.flags),
        )


BYTES_MIN = 0.9
"""The least fraction of the expected bytes: the generator does not count all answers at the ends of a run."""

SMALL = 64
BIG = 60_000
"""Sizes of values. An echo has one size only."""

ROWS = (
    Row("1 × 1", 1, 1, 0.92, 1.10),
    Row("50 × 1", 50, 1, 0.95, 1.10),
    Row("500 × 1", 500, 1, 0.92, 1.10),
    Row("50 × 16", 50, 16, 0.75, 1.40),
    Row("500 × 16", 500, 16, 0.75, 1.40),
    Row("connect, GET, close (50)", 50, 1, 0.98, 1.14, flags=("--connect-each",)),
    Row("50 × 1, 60 000-byte values", 50, 1, 0.90, value=BIG, keys=200, seed=2),
    Row("50 × 16, PUT", 50, 16, 0.47, operation="put"),
    Row("50 × 16, PUT, interval", 50, 16, 0.08, operation="put", durability="interval"),
)

HEAD = "connections × in flight"

NOTES = [
    "Values of 64 bytes, so answers of 100, and 10 000 keys; the row of 60 000-byte values has 200 keys.",
    "PUT: 10 000 existing keys, `durability = none` or `interval`; SET for Redis and memcached. Only PUTs count; the "
    "answer to a GET after each batch shows that the batch is done. The echo answers GETs instead: it has no PUT.",
]


@dataclass(frozen=True)
class Servers:
    """All servers, running, with their values stored."""

    echo: Server
    big_echo: Server
    dht: Server
    dht_interval: Server
    others: list[Server]
    versions: dict[str, str]

    def of(self, row: Row) -> list[Server]:
        """The servers of `row`: the echo first, then dht-server."""
        echo = self.big_echo if row.value == BIG else self.echo
        if row.durability == "interval":
            return [echo, self.dht_interval]
        return [echo, self.dht, *self.others]


def run(bench: Bench) -> Result:
    server_core, generator_core = bench.pinned()
    generator = bench.generator(generator_core)
    servers, notes = _start(bench)
    _prepare(servers, generator)
    seconds = bench.settings.seconds
    rows = [(row, [_trial(row, server, generator, seconds) for server in servers.of(row)]) for row in ROWS]
    interleave([trials for _, trials in rows], bench.settings.rounds, bench.watch)
    cores = f"Servers run on core {server_core.core}, the generator on core {generator_core.core}."
    sections = [_rates(rows, servers), _cpu(rows, servers), _absolute(rows)]
    sections[0].notes = [*NOTES, cores, *notes]
    measured = [trial for _, trials in rows for trial in trials]
    return Result(sections, measured, {"versions": servers.versions}, problems_of(measured) + _expect_bytes(measured))


def _expect_bytes(measured: Sequence[Trial]) -> list[str]:
    """While it measures, the generator compares only the keys of answers. Their bytes show the size of the values."""
    problems = []
    for trial in measured:
        gets = [outcome for outcome in trial.outcomes if outcome.raw["op"] == "get"]
        if any(get.number("bytes_in") < BYTES_MIN * get.answers * get.number("value_bytes") for get in gets):
            problems.append(f"{trial.row}, {trial.name}: the values are not of the size that was stored")
    return problems


def _start(bench: Bench) -> tuple[Servers, list[str]]:
    """Starts all servers; also returns notes about the programs of other projects."""
    starter = bench.starter(bench.pinned()[0])

    def redis(program: str) -> Server:
        return starter.redis(program, bench.processes.directory)

    starts: dict[str, Callable[[str], Server]] = {"redis-server": redis, "memcached": starter.memcached}
    others, versions, notes = [], {}, []
    for name, start in starts.items():
        if program := shutil.which(name):
            others.append(start(program))
            versions[name] = version(program)
        else:
            notes.append(f"{name} is not installed, so the table has no column for it.")
    if versions:
        notes.append(f"Versions: {'; '.join(versions.values())}.")
    servers = Servers(
        echo=starter.echo(SMALL),
        big_echo=starter.echo(BIG),
        dht=starter.dht("dht-server", ["durability = none"]),
        dht_interval=starter.dht("dht-server interval", ["durability = interval"]),
        others=others,
        versions=versions,
    )
    return servers, notes


def _prepare(servers: Servers, generator: Generator) -> None:
    """Stores the values of all rows on each server and verifies them."""
    contents = {(row.value, row.keys, row.durability): row for row in ROWS}
    for row in contents.values():
        for server in servers.of(row)[1:]:
            load = replace(row.load(server, seconds=0), connections=4, flags=row.common_flags())
            generator.prepare(load, min(row.keys, 1000))


def _trial(row: Row, server: Server, generator: Generator, seconds: float) -> Trial:
    load = row.load(server, seconds)
    return Trial(row.label, server.name, run=lambda: generator.run(load))


Rows = Sequence[tuple[Row, list[Trial]]]


def _head(servers: Servers, unit: str) -> list[str]:
    return [HEAD, f"echo, {unit}", "dht-server", *(server.name for server in servers.others), "goal"]


def _rates(rows: Rows, servers: Servers) -> Section:
    lines = [_beside_echo(servers, row, trials, rate, f"≥ {row.rate_goal:.2f}") for row, trials in rows]
    return Section("Answers per second, divided by the echo's", _head(servers, "answers/s"), lines)


def _cpu(rows: Rows, servers: Servers) -> Section:
    def goal(row: Row) -> str:
        return table.NONE if math.isnan(row.cpu_goal) else f"≤ {row.cpu_goal:.2f}"

    lines = [_beside_echo(servers, row, trials, cpu_us, goal(row)) for row, trials in rows]
    return Section("Server CPU per answer, divided by the echo's", _head(servers, "µs"), lines)


def _beside_echo(servers: Servers, row: Row, trials: Sequence[Trial], figure: Figure, goal: str) -> list[str]:
    """A line of a table: the echo's figure, and the others divided by it."""
    echo, *others = trials
    ratios = [table.ratio(trial.ratio(echo, figure)) for trial in others]
    ratios += [table.NONE] * (1 + len(servers.others) - len(ratios))
    return [row.label, table.spread(echo.spread(figure)), *ratios, goal]


def _absolute(rows: Rows) -> Section:
    head = [HEAD, "server", "answers/s", "CPU µs", "p50 µs", "p99 µs", "p99.9 µs", "failures"]
    figures = [rate, cpu_us, latency_us("p50"), latency_us("p99"), latency_us("p99_9")]
    lines = [
        [row.label, trial.name, *(table.spread(trial.spread(figure)) for figure in figures), str(trial.failed())]
        for row, trials in rows
        for trial in trials
    ]
    return Section("Absolute figures", head, lines)
