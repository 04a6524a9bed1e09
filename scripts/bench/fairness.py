"""`bench.sh fairness`: how much one heavy client slows down 100 light clients.

The light clients send GETs at a low rate. They are measured alone, and beside one heavy client that
sends the largest PUTs as fast as it can. Latency counts from when a GET was due.
"""

from dataclasses import replace

import table
from bench import Bench, Result, Section
from load import LATENCIES, Generator, Load, Outcome, cpu_us, latency_us, rate
from processes import Scheduling, available_cores
from rounds import Series, Trial, interleave, problems_of

LIGHT_CLIENTS = 100

HEAVY_VALUE = 65_495
"""The largest value: a PUT of it is a frame of 64 KiB."""

HEAVY_PIPELINE = 4
"""Together 256 KiB. Where both generators share a core, the kernel copies such a batch in one piece, and the light
clients' generator waits meanwhile; a larger batch would look like latency of the server."""

HEAVY_KEYS = 100
OTHER_KEYS = ("--seed", "2")
"""The light clients do not read what the heavy client writes."""

HEAD_START = 1.0
"""Seconds that the heavy client measures longer, so that it runs while the light clients warm up and measure."""

HEAVY_NICE = 10
"""Nice value of the heavy client's generator where it shares a core with the light clients' generator."""

GOAL = 2.0


def run(bench: Bench) -> Result:
    server_core, light_core = bench.pinned()
    heavy_core = _heavy_scheduling(light_core)
    generator, heavy_generator = bench.generator(light_core), bench.generator(heavy_core)
    server = bench.starter(server_core).dht("dht-server", ["durability = none"])
    light = Load(
        "get", [server.address], LIGHT_CLIENTS, seconds=bench.settings.seconds, rate=bench.settings.rate
    )
    heavy = Load(
        "put",
        [server.address],
        1,
        HEAVY_PIPELINE,
        seconds=bench.settings.seconds + HEAD_START,
        value=HEAVY_VALUE,
        keys=HEAVY_KEYS,
        flags=OTHER_KEYS,
        pids=[server.process.pid],
    )
    generator.prepare(light, 1000)
    writes = Series("64-KiB PUTs", "heavy client")

    def beside() -> Outcome:
        running = heavy_generator.start(heavy)
        outcome = generator.run(light)
        writes.outcomes.append(running.finish())
        return outcome

    alone = Trial("100 light clients", "alone", run=lambda: generator.run(light))
    disturbed = Trial("100 light clients", "beside the heavy client", run=beside)
    interleave([[alone, disturbed]], bench.settings.rounds, bench.watch)
    section = _section(bench, alone, disturbed, writes, heavy_core)
    return Result([section], [alone, disturbed, writes], {}, problems_of([alone, disturbed, writes]))


def _heavy_scheduling(light: Scheduling) -> Scheduling:
    """The third core; on a machine without one, the light clients' core at a lower priority."""
    cores = available_cores()
    return Scheduling(cores[2]) if len(cores) > 2 else replace(light, nice=HEAVY_NICE)


def _section(bench: Bench, alone: Trial, disturbed: Trial, writes: Series, heavy: Scheduling) -> Section:
    head = ["light clients", *table.latency_head("µs")]
    lines = [[trial.name, *table.latency_cells(trial)] for trial in (alone, disturbed)]
    ratios = [table.ratio(disturbed.ratio(alone, latency_us(name))) for name in LATENCIES]
    lines.append(["ratio within a round", *ratios])
    written = writes.spread(lambda outcome: rate(outcome) * HEAVY_VALUE / 1e6)
    core = writes.spread(lambda outcome: 100 * cpu_us(outcome) * rate(outcome) / 1e6)
    notes = [
        f"{LIGHT_CLIENTS} connections, {bench.settings.rate} GETs per second in total. Goal: p99 at most {GOAL:g} × "
        "the p99 alone. `durability = none`: otherwise the thread that writes to disk would use the same core.",
        f"The heavy client, one connection with {HEAVY_PIPELINE} PUTs in flight, wrote {table.spread(written)} MB/s; "
        f"the server used {table.spread(core)} % of its core.",
    ]
    if heavy.nice:
        notes.append(
            "There is no third core: the heavy client shares one with the light clients, at a lower priority."
        )
    return Section("Light clients beside a heavy one", head, lines, notes)
