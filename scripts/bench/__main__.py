"""`scripts/bench.sh`: runs one mode and prints its report.

Exit status: 0 success; 1 failure; 2 wrong usage; 130 or 143 ended by SIGINT or SIGTERM.
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
import persistence
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
    "persistence": persistence.run,
}


def find_programs() -> Programs:
    """The programs that the environment names; builds the release programs if it does not name both."""
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
            raise Failure(f"{program} is not an executable file")
    return Programs(server.resolve(), load.resolve())


def raise_open_files() -> None:
    """Allows as many open files as the system permits: 500 connections, or 32 nodes with their connections."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def print_report(settings: Settings, result: Result, watch: Watch) -> None:
    about = machine.described()
    print(f"# bench.sh {shlex.join(sys.argv[1:])}\n")
    print(f"{time.strftime('%Y-%m-%d %H:%M')}, {about['cpu']}, {about['cores']} cores, Linux {about['kernel']}")
    print(f"{settings.rounds} rounds, runs of {settings.seconds:g} s. Figures are medians, with quartiles in parentheses.")
    print(watch.verdict())
    for section in result.sections:
        print(f"\n## {section.title}\n")
        print(table.markdown(section.head, section.rows))
        for note in section.notes:
            print(f"\n{note}")
    for series in result.series:
        if warned := sum(1 for outcome in series.outcomes if outcome.raw["warnings"]):
            runs = f"{warned} of {len(series.outcomes)} runs"
            print(f"\n{series.row}, {series.name}: dht-load warned in {runs}, see `warnings` in the JSON.")
    print(f"\n{'FAILED' if result.failures else 'No failures.'}")
    for failure in result.failures:
        print(f"- {failure}")


def write_json(path: Path, settings: Settings, result: Result, watch: Watch) -> None:
    report = {
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
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")


def run(settings: Settings) -> int:
    """Runs one mode; returns the exit status."""
    programs = find_programs()
    raise_open_files()
    with tempfile.TemporaryDirectory(prefix="dht-bench.") as directory, Processes(Path(directory)) as processes:
        watch = Watch(processes)
        result = MODES[settings.mode](Bench(settings, programs, processes, watch))
    print_report(settings, result, watch)
    if settings.json is not None:
        write_json(settings.json, settings, result, watch)
    return 1 if result.failures else 0


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return run(read_arguments())
    except (Failure, OSError) as error:
        print(f"bench.sh: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


sys.exit(main())
