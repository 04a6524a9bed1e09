"""`bench.sh memory`: the memory of a record, and the latency of GETs while many records expire at once.

A node without peers stores a million records of 100 bytes. Then a tenth of them, at most 100 000,
is PUT with a short life, and GETs at a fixed rate continue while these expire. Latency counts from
when a GET was due, so the longest latency bounds the node's longest turn.
"""

import time
from dataclasses import dataclass, field, replace

import table
from bench import Bench, Result, Section
from load import LASTING, Load
from rounds import Series, problems_of
from servers import Server

VALUE = 100
CONNECTIONS = 16
EXPIRING_MAX = 100_000

LIFE_SECONDS = 4
"""Life of the records that expire: a little longer than storing them takes."""

AFTER_EXPIRY_SECONDS = 3.0
"""Time that the GETs continue after the last record may have expired."""

GOAL_BYTES = 300
GOAL_STALL_MS = 5


@dataclass(frozen=True)
class Cost:
    """The memory of a node without and with its records."""

    records: int
    before_kib: int
    after_kib: int

    @property
    def bytes_each(self) -> float:
        return (self.after_kib - self.before_kib) * 1024 / self.records


@dataclass
class Figures:
    """The figures of all rounds."""

    costs: list[Cost] = field(default_factory=list)
    baseline: Series = field(default_factory=lambda: Series("GET", "nothing expires"))
    expiry: Series = field(default_factory=lambda: Series("GET", "records expire"))
    failures: list[str] = field(default_factory=list)


def run(bench: Bench) -> Result:
    figures = Figures()
    server_core, _ = bench.pinned()
    settings = ["durability = none", "storage_bytes_max = 8192 MiB"]
    for number in range(bench.settings.rounds):
        with bench.watch.round():
            server = bench.starter(server_core).dht(f"dht-server {number}", settings)
            _measure(bench, server, figures)
            bench.processes.end([server.process])
    series = [figures.baseline, figures.expiry]
    sections = [_cost_section(figures.costs), _expiry_section(series, _expiring(bench.settings.records))]
    costs = [vars(cost) for cost in figures.costs]
    return Result(sections, series, {"costs": costs}, problems_of(series) + figures.failures)


def _measure(bench: Bench, server: Server, figures: Figures) -> None:
    """One round; `server` is empty."""
    generator = bench.generator(bench.pinned()[1])
    settings, empty = bench.settings, server.process.rss_kib()
    lasting = Load("get", [server.address], value=VALUE, keys=settings.records, flags=LASTING)
    generator.prepare(lasting, 1000)
    figures.costs.append(Cost(settings.records, empty, server.process.rss_kib()))
    gets = replace(lasting, connections=CONNECTIONS, rate=settings.rate)
    figures.baseline.outcomes.append(generator.run(replace(gets, seconds=settings.seconds)))

    short = replace(lasting, keys=_expiring(settings.records), flags=("--ttl", str(LIFE_SECONDS), "--seed", "2"))
    began = time.monotonic()
    generator.prepare(short, 1)
    stored_in = time.monotonic() - began
    figures.expiry.outcomes.append(generator.run(replace(gets, seconds=LIFE_SECONDS + AFTER_EXPIRY_SECONDS)))
    figures.failures += _expect_expiry(stored_in, generator.run(replace(short, requests=100)).answers)


def _expect_expiry(stored_in: float, found: int) -> list[str]:
    """The figures are valid only if all records expired, and none before the GETs began."""
    problems = []
    if stored_in >= LIFE_SECONDS:
        problems.append(
            f"storing the records that expire took {stored_in:.1f} s, so some expired before the GETs began"
        )
    if found > 0:
        problems.append(f"{found} of 100 GETs found records that should have expired")
    return problems


def _expiring(records: int) -> int:
    """How many records expire."""
    return min(EXPIRING_MAX, records // 10)


def _cost_section(costs: list[Cost]) -> Section:
    head = ["records of 100 bytes", "RSS without them, MiB", "RSS with them, MiB", "bytes per record", "goal"]
    lines = [
        [
            table.number(cost.records),
            f"{cost.before_kib / 1024:.1f}",
            f"{cost.after_kib / 1024:.1f}",
            f"{cost.bytes_each:.0f}",
            f"≤ {GOAL_BYTES}",
        ]
        for cost in costs
    ]
    note = "The bytes per record include the 32 bytes of its key and the 100 bytes of its value."
    return Section("Memory of a record", head, lines, [note])


def _expiry_section(series: list[Series], count: int) -> Section:
    head = ["GETs while", *table.latency_head("µs"), "goal"]
    lines = [[one.name, *table.latency_cells(one), f"≤ {GOAL_STALL_MS} ms more"] for one in series]
    note = f"{count} records were stored as fast as the node accepts them, with a life of {LIFE_SECONDS} s each."
    return Section("Many records expire at once", head, lines, [note])
