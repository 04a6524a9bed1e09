"""`bench.sh persistence`: a server that writes to disk, beside Redis with an append-only file.

In each round and for each row, every server is started with an empty directory. The generator stores random keys
as fast as the server takes them. Then the server is stopped and started again with what it has written. Before
that, the script makes Redis rewrite its file, and waits until dht-server, which rewrites its files while it gets no
requests, writes nothing more.
"""

import shutil
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import table
from bench import Bench, Result, Section
from failure import Failure
from load import LASTING, Load, Outcome, cpu_us, latency_us, rate
from rounds import Spread, Trial, interleave, problems_of
from servers import Server, version

REWRITE_SECONDS_MAX = 60.0
"""What a server may take to rewrite its files."""

SETTLED_SECONDS = 2.0
"""A server that has written nothing for this time has rewritten its files."""

MEMORY = "storage_bytes_max = 8192 MiB"


@dataclass(frozen=True)
class Row:
    """A load, and the setting of durability of dht-server and of Redis."""

    label: str
    durability: str
    appendfsync: str
    connections: int
    pipeline: int
    confirm: bool
    rate_goal: float
    """At least this fraction of the rate of Redis."""


ROWS = (
    Row("interval, 4 × 64", "interval", "everysec", 4, 64, False, 0.95),
    Row("interval, 50 × 1, confirmed", "interval", "everysec", 50, 1, True, 0.9),
    Row("always, 50 × 1, confirmed", "always", "always", 50, 1, True, 0.9),
)

P99_GOAL = 1.5
START_GOAL = 0.8
DISK_GOAL = 1.3
"""At most these multiples of what Redis takes. Those of the start and of the disk hold for the first row."""


@dataclass
class Costs:
    """What a server has written, one number for each round."""

    written_each: list[float] = field(default_factory=list)
    """Bytes that the process has written for each PUT."""
    disk_bytes: list[float] = field(default_factory=list)
    rss_each: list[float] = field(default_factory=list)
    """Bytes of memory for each PUT."""
    start_seconds: list[float] = field(default_factory=list)


@dataclass
class Measured(Trial):
    """The outcomes of a row on a server, and its costs."""

    costs: Costs = field(default_factory=Costs)


def run(bench: Bench) -> Result:
    redis = shutil.which("redis-server")
    rows = []
    for row in ROWS:
        trials = [_measured(bench, row, "dht-server", lambda home, row=row: _dht(bench, row, home))]
        if redis:
            trials.append(_measured(bench, row, "redis", lambda home, row=row: _redis(bench, row, redis, home)))
        rows.append((row, trials))
    interleave([trials for _, trials in rows], bench.settings.rounds, bench.watch)
    sections = [_rates(rows), _costs(rows)]
    sections[0].notes.append(
        f"Values of {bench.settings.value} bytes. The first row makes {bench.settings.records:,} PUTs without "
        f"confirmations, each of a random one of as many keys, so 63 % of the keys are stored; the others run for "
        f"{bench.settings.seconds:g} s."
    )
    sections[0].notes.append(version(redis) if redis else "redis-server is not installed, so there are no ratios.")
    measured = [trial for _, trials in rows for trial in trials]
    costs = {f"{trial.row}, {trial.name}": vars(trial.costs) for trial in measured}
    return Result(sections, measured, {"costs": costs}, problems_of(measured))


def _dht(bench: Bench, row: Row, home: str) -> Server:
    return bench.starter().dht(home, [f"durability = {row.durability}", MEMORY])


def _redis(bench: Bench, row: Row, program: str, home: str) -> Server:
    directory = bench.processes.directory / f"home-{home}"
    directory.mkdir(exist_ok=True)
    return bench.starter().redis(program, directory, ["--appendonly", "yes", "--appendfsync", row.appendfsync])


def _measured(bench: Bench, row: Row, name: str, start: Callable[[str], Server]) -> Measured:
    costs, rounds = Costs(), iter(range(bench.settings.rounds))

    def measure() -> Outcome:
        home = f"{row.durability}-{row.pipeline}-{name}-{next(rounds)}"
        directory = bench.processes.directory / f"home-{home}"
        server = start(home)
        outcome = bench.generator().run(_load(bench, row, server))
        if not row.confirm:
            _note_costs(costs, bench, server, directory)
        bench.processes.end([server.process])
        if not row.confirm:
            costs.disk_bytes.append(_bytes_in(directory))
            began = time.monotonic()
            again = start(home)
            costs.start_seconds.append(time.monotonic() - began)
            bench.processes.end([again.process])
        shutil.rmtree(directory)
        return outcome

    return Measured(row.label, name, run=measure, costs=costs)


def _load(bench: Bench, row: Row, server: Server) -> Load:
    settings = bench.settings
    # Only the protocol of dht-server has lives and confirmations.
    flags = (*LASTING, *(("--confirm",) if row.confirm else ())) if server.protocol == "dht" else ()
    load = Load(
        "put",
        [server.address],
        row.connections,
        row.pipeline,
        value=settings.value,
        keys=settings.records,
        protocol=server.protocol,
        pids=[server.process.pid],
        flags=flags,
    )
    return replace(load, seconds=settings.seconds) if row.confirm else replace(load, requests=settings.records)


def _note_costs(costs: Costs, bench: Bench, server: Server, directory: Path) -> None:
    records = bench.settings.records
    costs.written_each.append(server.process.written_bytes() / records)
    costs.rss_each.append(server.process.rss_kib() * 1024 / records)
    if server.protocol == "redis":
        _rewrite(server.address)
    else:
        _await_settled(server)


def _await_settled(server: Server) -> None:
    """Waits until the server writes nothing."""
    written, since = server.process.written_bytes(), time.monotonic()
    deadline = since + REWRITE_SECONDS_MAX
    while time.monotonic() < min(deadline, since + SETTLED_SECONDS):
        time.sleep(0.1)
        if (now := server.process.written_bytes()) != written:
            written, since = now, time.monotonic()
    if time.monotonic() >= deadline:
        raise Failure(f"{server.process.name} still writes after {REWRITE_SECONDS_MAX:.0f} s")


def _rewrite(address: str) -> None:
    """Makes Redis rewrite its file, and waits for the end."""
    host, port = address.split(":")
    deadline = time.monotonic() + REWRITE_SECONDS_MAX
    with socket.create_connection((host, int(port)), timeout=REWRITE_SECONDS_MAX) as client:
        client.sendall(b"BGREWRITEAOF\r\n")
        client.recv(4096)
        while time.monotonic() < deadline:
            client.sendall(b"INFO persistence\r\n")
            told = client.recv(65536)
            if b"aof_rewrite_in_progress:0" in told and b"aof_rewrite_scheduled:0" in told:
                return
            time.sleep(0.02)
    raise Failure(f"redis has not rewritten its file within {REWRITE_SECONDS_MAX:.0f} s")


def _bytes_in(directory: Path) -> int:
    """The space that the files in `directory` take."""
    return sum(path.stat().st_blocks * 512 for path in directory.rglob("*") if path.is_file())


def _rates(rows: Sequence[tuple[Row, list[Measured]]]) -> Section:
    head = ["durability, connections × in flight", "server", "PUT/s", "p99 ms", "CPU µs"]
    head += ["rate / Redis", "p99 / Redis", "goals"]
    lines = []
    for row, trials in rows:
        for trial in trials:
            line = [row.label, trial.name, table.spread(trial.spread(rate))]
            line += [table.spread(trial.spread(latency_us("p99")), 1e-3), table.spread(trial.spread(cpu_us))]
            if trial is trials[0] and len(trials) > 1:
                line += [table.ratio(trial.ratio(trials[1], figure)) for figure in (rate, latency_us("p99"))]
                line.append(f"≥ {row.rate_goal:g}, ≤ {P99_GOAL:g}")
            lines.append(line + [table.NONE] * (len(head) - len(line)))
    return Section("Records stored beside Redis", head, lines)


def _costs(rows: Sequence[tuple[Row, list[Measured]]]) -> Section:
    head = ["server", "bytes written per PUT", "MB on disk at the end"]
    head += ["RSS per PUT, bytes", "start, s", "goals, / Redis"]
    lines = []
    for row, trials in rows:
        for trial in trials if not row.confirm else []:
            costs = trial.costs
            line = [trial.name, table.spread(Spread.of(costs.written_each))]
            line += [table.spread(Spread.of(costs.disk_bytes), 1e-6), table.spread(Spread.of(costs.rss_each))]
            line.append(table.spread(Spread.of(costs.start_seconds)))
            line.append(f"disk ≤ {DISK_GOAL:g}, start ≤ {START_GOAL:g}" if trial is trials[0] else table.NONE)
            lines.append(line)
    notes = ["The time of a start ends when the server accepts requests. The files are in the cache of the system."]
    return Section("What the first row costs", head, lines, notes)
