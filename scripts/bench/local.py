"""`bench.sh local`: one server on one core, asked from another core.

Beside each other in every round: the echo, which is the yardstick, dht-server, and Redis and
memcached where they are installed. What is told is each one divided by the echo.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import table
from bench import Bench, Result, Section
from load import Figure, Generator, Load, cpu_us, latency_us, rate
from rounds import Trial, failures_of, interleave
from servers import Server, installed, version


@dataclass(frozen=True)
class Row:
    """A kind of load, and what dht-server is to reach with it, both divided by the echo."""

    label: str
    connections: int
    pipeline: int
    rate_goal: float
    cpu_goal: float = math.nan
    value: int = 64
    keys: int = 10_000
    seed: int = 1
    """What the keys follow from: another one for values of another size, or each would replace the other."""
    operation: str = "get"
    durability: str = "none"
    flags: tuple[str, ...] = ()

    def keeping(self) -> tuple[str, ...]:
        """What every run about these keys says: no value expires while it is asked for."""
        return ("--ttl", "65535", "--seed", str(self.seed))

    def load(self, server: Server, seconds: float) -> Load:
        """The echo is always asked for values: it has no PUT, and shows what so many frames cost."""
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
            flags=(*self.keeping(), *self.flags),
        )


WHOLE = 0.9
"""The part of the expected bytes that must have come: those at the ends of a run are not all counted."""

SMALL = 64
BIG = 60_000
"""Bytes of values, of which an echo knows one size each."""

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

NOTES = [
    "Rows: connections × requests in flight on each. Values of 64 bytes, so answers of 100, and 10 000 keys; the row of "
    "60 000-byte values has 200 keys.",
    "PUT: 10 000 keys that exist, `durability = none` or `interval`, Redis and memcached SET; counted are PUTs, and the "
    "answer to a GET behind each batch ends its time. Beside it the echo answers GETs, for it has no PUT.",
]


@dataclass(frozen=True)
class Stand:
    """All servers, running and filled."""

    echo: Server
    big_echo: Server
    dht: Server
    dht_interval: Server
    others: list[Server]
    versions: dict[str, str]

    def of(self, row: Row) -> list[Server]:
        """Who runs in `row`; the echo is the first, dht-server the second."""
        echo = self.big_echo if row.value == BIG else self.echo
        if row.durability == "interval":
            return [echo, self.dht_interval]
        return [echo, self.dht, *self.others]


def run(bench: Bench) -> Result:
    server_place, generator_place = bench.pinned()
    generator = bench.generator(generator_place)
    stand = _start(bench)
    _prepare(stand, generator)
    rows = [
        (row, [_trial(row, server, generator, bench.settings.seconds) for server in stand.of(row)]) for row in ROWS
    ]
    interleave([trials for _, trials in rows], bench.settings.rounds, bench.watch)
    sections = [_rates(rows, stand), _cpu(rows, stand), _absolute(rows)]
    sections[0].notes = NOTES + [
        f"Servers run on core {server_place.core}, the generator on core {generator_place.core}."
    ]
    sections[0].notes += [f"Versions: {'; '.join(stand.versions.values())}."] if stand.versions else []
    sections[0].notes += [f"{name} is not installed, so it is not in the table." for name in _missing()]
    measured = [trial for _, trials in rows for trial in trials]
    return Result(sections, measured, {"versions": stand.versions}, failures_of(measured) + _expect_whole(measured))


def _expect_whole(measured: Sequence[Trial]) -> list[str]:
    """Answers are only known by their keys while time is taken; so many bytes must have come at least."""
    said = []
    for trial in measured:
        gets = [outcome for outcome in trial.outcomes if outcome.raw["op"] == "get"]
        if any(outcome.bytes_in < WHOLE * outcome.answers * outcome.value_bytes for outcome in gets):
            said.append(f"{trial.row}, {trial.name}: the values were not of the size that was stored")
    return said


def _missing() -> list[str]:
    return [name for name in ("redis-server", "memcached") if installed(name) is None]


def _start(bench: Bench) -> Stand:
    starter = bench.starter(bench.pinned()[0])
    others, versions = [], {}
    if redis := installed("redis-server"):
        others.append(starter.redis(redis))
        versions["redis"] = version(redis, "--version")
    if memcached := installed("memcached"):
        others.append(starter.memcached(memcached))
        versions["memcached"] = version(memcached, "--version")
    return Stand(
        echo=starter.echo(SMALL),
        big_echo=starter.echo(BIG),
        dht=starter.dht("dht-server", ["durability = none"]),
        dht_interval=starter.dht("dht-server interval", ["durability = interval"]),
        others=others,
        versions=versions,
    )


def _prepare(stand: Stand, generator: Generator) -> None:
    """Stores the values of all rows, and has each server prove that it gives them back."""
    fillings = {(row.value, row.keys, row.durability): row for row in ROWS}
    for row in fillings.values():
        for server in stand.of(row)[1:]:
            load = replace(row.load(server, seconds=0), operation="get", connections=4, flags=row.keeping())
            generator.prepare(load, min(row.keys, 1000))


def _trial(row: Row, server: Server, generator: Generator, seconds: float) -> Trial:
    load = row.load(server, seconds)
    return Trial(row.label, server.name, run=lambda: generator.run(load))


Rows = Sequence[tuple[Row, list[Trial]]]


def _head(stand: Stand, figure: str) -> list[str]:
    return [
        "connections × pipeline",
        f"echo, {figure}",
        "dht-server",
        *(server.name for server in stand.others),
        "goal",
    ]


def _rates(rows: Rows, stand: Stand) -> Section:
    lines = [_beside_echo(stand, row, trials, rate, f"≥ {row.rate_goal:.2f}") for row, trials in rows]
    return Section("Answers per second, divided by the echo's", _head(stand, "answers/s"), lines)


def _cpu(rows: Rows, stand: Stand) -> Section:
    def goal(row: Row) -> str:
        return table.NONE if math.isnan(row.cpu_goal) else f"≤ {row.cpu_goal:.2f}"

    lines = [_beside_echo(stand, row, trials, cpu_us, goal(row)) for row, trials in rows]
    return Section("Server CPU per answer, divided by the echo's", _head(stand, "µs"), lines)


def _beside_echo(stand: Stand, row: Row, trials: Sequence[Trial], figure: Figure, goal: str) -> list[str]:
    """A line of a table: the echo as it was, and the others divided by it."""
    echo, *others = trials
    ratios = [table.ratio(trial.ratio(echo, figure)) for trial in others]
    ratios += [table.NONE] * (1 + len(stand.others) - len(ratios))
    return [row.label, table.spread(echo.spread(figure)), *ratios, goal]


def _absolute(rows: Rows) -> Section:
    head = ["connections × pipeline", "server", "answers/s", "CPU µs", "p50 µs", "p99 µs", "p99.9 µs", "failures"]
    figures = [rate, cpu_us, latency_us("p50"), latency_us("p99"), latency_us("p99_9")]
    lines = []
    for row, trials in rows:
        for trial in trials:
            failed = sum(outcome.failures for outcome in trial.outcomes)
            spreads = [table.spread(trial.spread(figure)) for figure in figures]
            lines.append([row.label, trial.name, *spreads, str(failed)])
    return Section("All figures, as they were on this machine", head, lines)
