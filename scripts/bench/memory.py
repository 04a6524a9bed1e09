"""`bench.sh memory`: what a record costs, and how long the others wait when many expire at once.

A lone node takes a great many records of 100 bytes. Then a part of them is PUT with a short life,
and GETs at a fixed rate go on while these all expire; their longest latency, from when they were
due, bounds what the longest turn of the node took.
"""

import time
from dataclasses import dataclass, field, replace

import table
from bench import Bench, Result, Section
from load import LATENCIES, Load, latency_us
from rounds import Series, failures_of
from servers import Server

VALUE = 100
CONNECTIONS = 16
EXPIRING_MAX = 100_000

LIFE_SECONDS = 4
"""Of those that expire: longer than it takes to store them, but not much."""

PATIENCE_SECONDS = 3.0
"""How long the GETs go on after the last moment at which a record may expire."""

GOAL_BYTES = 300
GOAL_STALL_MS = 5


@dataclass(frozen=True)
class Cost:
    """What one node held, and what it took for that."""

    records: int
    before_kib: int
    after_kib: int

    @property
    def bytes_each(self) -> float:
        return (self.after_kib - self.before_kib) * 1024 / self.records


@dataclass
class Found:
    """What all rounds gave."""

    costs: list[Cost] = field(default_factory=list)
    calm: Series = field(default_factory=lambda: Series("GET", "nothing expires"))
    storm: Series = field(default_factory=lambda: Series("GET", "records expire"))
    failures: list[str] = field(default_factory=list)


def run(bench: Bench) -> Result:
    found = Found()
    for number in range(bench.settings.rounds):
        with bench.watch.round():
            place, _ = bench.pinned()
            settings = ["durability = none", "storage_bytes_max = 8192 MiB"]
            server = bench.starter(place).dht(f"dht-server {number}", settings)
            _measure(bench, server, found)
            bench.processes.end([server.process])
    series = [found.calm, found.storm]
    sections = [_cost_section(found.costs), _stall_section(series, expiring(bench.settings.records))]
    costs = [vars(cost) for cost in found.costs]
    return Result(sections, series, {"costs": costs}, failures_of(series) + found.failures)


def _measure(bench: Bench, server: Server, found: Found) -> None:
    """One round, with a server that holds nothing yet."""
    generator = bench.generator(bench.pinned()[1])
    settings, empty = bench.settings, server.process.rss_kib()
    held = Load("get", [server.address], value=VALUE, keys=settings.records, flags=("--ttl", "65535"))
    generator.prepare(held, 1000)
    found.costs.append(Cost(settings.records, empty, server.process.rss_kib()))
    gets = replace(held, connections=CONNECTIONS, rate=settings.rate)
    found.calm.outcomes.append(generator.run(replace(gets, seconds=settings.seconds)))

    brief = replace(held, keys=expiring(settings.records), flags=("--ttl", str(LIFE_SECONDS), "--seed", "2"))
    began = time.monotonic()
    generator.prepare(brief, 1)
    stored = time.monotonic() - began
    found.storm.outcomes.append(generator.run(replace(gets, seconds=LIFE_SECONDS + PATIENCE_SECONDS)))
    found.failures += _expect_storm(stored, generator.run(replace(brief, requests=100)).answers)


def _expect_storm(stored: float, lasting: int) -> list[str]:
    """That the records did expire, and all while the GETs went on, is what the figures rest on."""
    said = []
    if stored >= LIFE_SECONDS:
        said.append(
            f"the records that expire took {stored:.1f} s to store, so some had expired before the GETs began"
        )
    if lasting > 0:
        said.append(f"{lasting} of 100 GETs found records that should have expired")
    return said


def expiring(records: int) -> int:
    """How many expire: at most a tenth of all."""
    return min(EXPIRING_MAX, records // 10)


def _cost_section(costs: list[Cost]) -> Section:
    head = ["records of 100 bytes", "RSS before, MiB", "RSS with them, MiB", "bytes a record", "goal"]
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
    return Section(
        "What a record costs", head, lines, ["The 32 bytes of its key and the 100 of its value are in it."]
    )


def _stall_section(series: list[Series], count: int) -> Section:
    head = ["GETs while", *(f"{name.replace('_', '.')} µs" for name in LATENCIES), "goal"]
    lines = [
        [
            one.name,
            *(table.spread(one.spread(latency_us(name))) for name in LATENCIES),
            f"≤ {GOAL_STALL_MS} ms more",
        ]
        for one in series
    ]
    note = f"{count} records were stored as fast as they are taken, with a life of {LIFE_SECONDS} s each."
    return Section("Many records expire at once", head, lines, [note])
