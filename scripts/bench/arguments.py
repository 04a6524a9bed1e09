"""The command line. A wrong argument ends the program with what was found and what was expected."""

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import churn
import network
from bench import Settings

NODES_MAX = 256
"""The most nodes that fit on one machine."""


def whole(least: int, most: int) -> Callable[[str], int]:
    """Reads a whole number within bounds."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"found `{text}`, expected a number from {least} to {most}")
        return int(text)

    return read


def decimal(least: float, most: float) -> Callable[[str], float]:
    """Reads a number within bounds."""

    def read(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(f"found `{text}`, expected a number from {least:g} to {most:g}")
        return number

    return read


def read_arguments() -> Settings:
    """The settings of the command line; on wrong usage, explains it and ends with status 2."""
    parser = argparse.ArgumentParser(
        prog="bench.sh",
        description="Measures dht-server. Prints Markdown tables with the medians and quartiles of all rounds.",
        epilog="DHT_SERVER and DHT_LOAD name the programs to use. Without them the script builds the release programs.",
        allow_abbrev=False,
    )
    modes = parser.add_subparsers(dest="mode", required=True, metavar="MODE")

    def mode(name: str, about: str, rounds: int, seconds: int, span: str) -> argparse.ArgumentParser:
        """A mode, with the arguments that all modes have."""
        added = modes.add_parser(name, help=about, description=about, allow_abbrev=False)
        option(added, "--rounds", whole(1, 1000), rounds, "N", "interleaved rounds")
        option(added, "--seconds", decimal(0.05, 600), seconds, "S", span)
        added.add_argument("--json", type=Path, metavar="FILE", help="also write all figures to FILE")
        return added

    mode("local", "one server on one core, compared with a bare echo, Redis and memcached", 9, 1, "length of each run")

    about = "N nodes; clients ask nodes that do not hold the values"
    added = mode("network", about, 9, 1, "length of each run")
    option(added, "nodes", whole(network.NODES_MIN, NODES_MAX), 32, "N", "number of nodes", nargs="?")
    option(added, "--idle-seconds", decimal(0.1, 3600), 20, "S", "time to measure idle nodes")

    about = "clients of N nodes while other nodes are killed and restarted"
    added = mode("churn", about, 3, 10, "length of each phase")
    option(added, "nodes", whole(churn.NODES_MIN, NODES_MAX), 32, "N", "number of nodes", nargs="?")
    option(added, "--rate", whole(1, 1_000_000), 1000, "R", "GETs per second; there are a tenth as many PUTs")
    option(added, "--every", decimal(0.5, 600), 2, "S", "time from one kill to the next")

    added = mode("fairness", "100 light clients, alone and beside one heavy client", 9, 5, "length of each run")
    option(added, "--rate", whole(1, 1_000_000), 200, "R", "GETs per second of all light clients together")

    about = "memory of a record, and latency while many records expire"
    added = mode("memory", about, 1, 3, "time to measure before records expire")
    option(added, "--rate", whole(1, 1_000_000), 1000, "R", "GETs per second while records expire")
    option(added, "--records", whole(1000, 10_000_000), 1_000_000, "N", "records to store")

    about = "a server that writes to disk, compared with Redis and its append-only file"
    added = mode("persistence", about, 5, 5, "length of the runs with confirmations")
    option(added, "--records", whole(1000, 10_000_000), 1_000_000, "N", "PUTs without confirmations, and keys")
    option(added, "--value", whole(1, 65_000), 100, "N", "bytes of a value")

    return Settings(**vars(parser.parse_args()))


def option(
    mode: argparse.ArgumentParser,
    name: str,
    kind: Callable[[str], float],
    default: int,
    metavar: str,
    about: str,
    **more: str,
) -> None:
    """Adds an argument with a default."""
    mode.add_argument(name, type=kind, default=default, metavar=metavar, help=f"{about} ({default})", **more)
