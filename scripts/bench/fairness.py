"""`bench.sh fairness`: whether one client that never stops is paid for by those that hardly ask.

A hundred quiet clients, a GET at a time at a low rate, are measured alone and beside one client
that pipelines the largest PUTs as fast as it can. Latency counts from when a GET was due.
"""

import os
from dataclasses import replace

import table
from bench import Bench, Result, Section
from load import LATENCIES, Generator, Load, Outcome, latency_us
from processes import Place
from rounds import Series, Trial, failures_of, interleave

QUIET_CLIENTS = 100

LOUD_VALUE = 65_495
"""The largest value: with header and fields a frame of 64 KiB."""

LOUD_PIPELINE = 4
"""As many as a quarter of a MiB: where the generators share a core, the kernel takes that from the loud one in
one piece, and the quiet one's clock stands still meanwhile, which is not the server's doing."""
LOUD_KEYS = 100
OTHER_KEYS = ("--seed", "2")
"""What the loud client writes, nobody reads."""

HEAD_START = 1.0
"""Seconds that the loud client runs longer than the quiet ones, warm-up included: it is there all the time."""

LOUD_NICE = 10
"""How much the loud client yields to the quiet one's generator where they share a core."""

GOAL = 2.0


def run(bench: Bench) -> Result:
    server_place, quiet_place = bench.pinned()
    loud_place = _loud_place(quiet_place)
    server = bench.starter(server_place).dht("dht-server", ["durability = none"])
    quiet = Load("get", [server.address], QUIET_CLIENTS, rate=bench.settings.rate)
    loud = Load(
        "put",
        [server.address],
        1,
        LOUD_PIPELINE,
        value=LOUD_VALUE,
        keys=LOUD_KEYS,
        flags=OTHER_KEYS,
        pids=[server.process.pid],
    )
    generator, loud_generator = bench.generator(quiet_place), bench.generator(loud_place)
    generator.prepare(replace(quiet, rate=None), 1000)
    quiet = replace(quiet, seconds=bench.settings.seconds)
    loud = replace(loud, seconds=bench.settings.seconds + HEAD_START)
    noise = Series("64-KiB PUTs", "loud client")

    def beside() -> Outcome:
        return _beside(generator, quiet, loud_generator, loud, noise)

    alone = Trial("100 quiet clients", "alone", run=lambda: generator.run(quiet))
    disturbed = Trial("100 quiet clients", "beside the loud client", run=beside)
    interleave([[alone, disturbed]], bench.settings.rounds, bench.watch)
    section = _section(bench, alone, disturbed, noise, loud_place)
    return Result([section], [alone, disturbed, noise], {}, failures_of([alone, disturbed, noise]))


def _loud_place(quiet: Place) -> Place:
    """A core of its own if there is a third; else the quiet clients' core, where it yields to them."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 2:
        return replace(quiet, core=cores[2])
    return replace(quiet, nice=LOUD_NICE)


def _beside(generator: Generator, quiet: Load, loud_generator: Generator, loud: Load, noise: Series) -> Outcome:
    """The quiet clients' outcome; the loud one's is added to `noise`."""
    running = loud_generator.start(loud)
    outcome = generator.run(quiet)
    noise.outcomes.append(running.finish())
    return outcome


def _section(bench: Bench, alone: Trial, disturbed: Trial, noise: Series, loud: Place) -> Section:
    head = ["quiet clients", *(f"{name.replace('_', '.')} µs" for name in LATENCIES)]
    lines = []
    for trial in (alone, disturbed):
        lines.append([trial.name, *(table.spread(trial.spread(latency_us(name))) for name in LATENCIES)])
    ratios = [table.ratio(disturbed.ratio(alone, latency_us(name))) for name in LATENCIES]
    lines.append(["ratio within a round", *ratios])
    rate = noise.spread(lambda outcome: outcome.rate * LOUD_VALUE / 1e6)
    core = noise.spread(lambda outcome: 100 * outcome.cpu_us * outcome.rate / 1e6)
    notes = [
        f"{QUIET_CLIENTS} connections, {bench.settings.rate} GETs a second in all; goal: p99 at most {GOAL:g} × what it was. "
        "`durability = none`: on this one core the thread that writes to disk would be a third party.",
        f"The loud client, one connection with {LOUD_PIPELINE} PUTs in flight, wrote {table.spread(rate)} MB/s; "
        f"the server used {table.spread(core)} % of its core then.",
    ]
    if loud.nice:
        notes.append("There is no third core: the loud client shares one with the quiet ones, and yields to them.")
    return Section("Quiet clients beside a loud one", head, lines, notes)
