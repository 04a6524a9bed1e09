"""The command line of `scripts/bench.sh`: one mode, run and reported.

Exit status: 0 all is well; 1 something failed; 2 wrong usage; 130 or 143 when it was ended.
"""

import json
import os
import resource
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import churn
import fairness
import local
import machine
import memory
import network
import table
from arguments import read_arguments
from bench import Bench, Result, Settings
from failure import Failure
from machine import Watch
from processes import Processes
from servers import Programs

ROOT = Path(__file__).resolve().parents[2]

MODES: dict[str, Callable[[Bench], Result]] = {
    "local": local.run,
    "network": network.run,
    "churn": churn.run,
    "fairness": fairness.run,
    "memory": memory.run,
}


def find_programs() -> Programs:
    """The programs that the environment names, or else the release build."""
    named = {name: os.environ.get(name) for name in ("DHT_SERVER", "DHT_LOAD")}
    if not all(named.values()):
        build = ["cargo", "build", "--release", "--bin", "dht-server", "--bin", "dht-load"]
        if subprocess.run(build, cwd=ROOT).returncode != 0:
            raise Failure(f"`{shlex.join(build)}` failed")
    release = ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "release"
    server = Path(named["DHT_SERVER"] or release / "dht-server")
    load = Path(named["DHT_LOAD"] or release / "dht-load")
    for program in (server, load):
        if not os.access(program, os.X_OK) or not program.is_file():
            raise Failure(f"{program} is no program")
    return Programs(server.resolve(), load.resolve())


def raise_open_files() -> None:
    """As many descriptors as the system lets us have: 500 connections, and 32 nodes with theirs."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def report(settings: Settings, result: Result, watch: Watch) -> None:
    """Prints all that was found."""
    described = machine.described()
    print(f"# bench.sh {shlex.join(sys.argv[1:])}\n")
    print(
        f"{time.strftime('%Y-%m-%d %H:%M')}, {described['cpu']}, {described['cores']} cores, Linux {described['kernel']}"
    )
    print(f"Medians of {settings.rounds} rounds, quartiles in brackets; runs of {settings.seconds:g} s.")
    print(watch.verdict())
    for section in result.sections:
        print(f"\n## {section.title}\n")
        if section.rows:
            print(table.markdown(section.head, section.rows))
        for note in section.notes:
            print(f"\n{note}")
    for series in result.series:
        if warned := sum(1 for outcome in series.outcomes if outcome.raw["warnings"]):
            where, runs = f"{series.row}, {series.name}", len(series.outcomes)
            print(f"\n{where}: dht-load warned in {warned} of {runs} runs, see `warnings` in the JSON.")
    print(f"\n{'FAILED' if result.failures else 'No failures.'}")
    for failure in result.failures:
        print(f"- {failure}")


def written(path: Path, settings: Settings, result: Result, watch: Watch) -> None:
    """Writes the report as JSON."""
    whole_report = {
        "mode": settings.mode,
        "command": ["scripts/bench.sh", *sys.argv[1:]],
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "machine": machine.described(),
        "watch": watch.as_json(),
        "settings": {name: value for name, value in vars(settings).items() if name != "json"},
        "failures": result.failures,
        "figures": result.figures,
        "series": [series.as_json() for series in result.series],
    }
    path.write_text(json.dumps(whole_report, indent=1, ensure_ascii=False) + "\n")


def perform(settings: Settings) -> int:
    programs = find_programs()
    raise_open_files()
    with tempfile.TemporaryDirectory(prefix="dht-bench.") as directory, Processes(Path(directory)) as processes:
        watch = Watch(processes)
        result = MODES[settings.mode](Bench(settings, programs, processes, watch))
    report(settings, result, watch)
    if settings.json is not None:
        written(settings.json, settings, result, watch)
    return 1 if result.failures else 0


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return perform(read_arguments())
    except (Failure, OSError) as error:
        print(f"bench.sh: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


sys.exit(main())
