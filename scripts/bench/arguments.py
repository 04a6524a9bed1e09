"""The command line: understood completely, or refused with what was found and what was expected."""

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import churn
import network
from bench import Settings

if TYPE_CHECKING:
    Modes = argparse._SubParsersAction[argparse.ArgumentParser]

NODES_MAX = 256
"""As many as one machine has room for."""


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
    """What the command line says; on wrong usage, says so and ends with status 2."""
    parser = argparse.ArgumentParser(
        prog="bench.sh",
        description="Measures dht-server. Prints Markdown tables with medians and quartiles over rounds.",
        epilog="DHT_SERVER and DHT_LOAD name the programs to use; without them the release build is made and used.",
        allow_abbrev=False,
    )
    modes: "Modes" = parser.add_subparsers(dest="mode", required=True, metavar="MODE")
    local_of(modes)
    network_of(modes)
    churn_of(modes)
    fairness_of(modes)
    memory_of(modes)
    return Settings(**vars(parser.parse_args()))


def mode_of(
    modes: "Modes", name: str, about: str, rounds: int, seconds: float, meaning: str
) -> argparse.ArgumentParser:
    """A mode, with what all modes have."""
    mode = modes.add_parser(name, help=about, description=about, allow_abbrev=False)
    count, span = whole(1, 1000), decimal(0.05, 600)
    mode.add_argument("--rounds", type=count, default=rounds, metavar="N", help=f"interleaved rounds ({rounds})")
    mode.add_argument("--seconds", type=span, default=seconds, metavar="S", help=f"{meaning} ({seconds:g})")
    mode.add_argument("--json", type=Path, metavar="FILE", help="write everything that was found there")
    return mode


def local_of(modes: "Modes") -> None:
    about = "one server on one core, beside a bare echo, Redis and memcached"
    mode_of(modes, "local", about, 9, 1.0, "of each run")


def network_of(modes: "Modes") -> None:
    mode = mode_of(modes, "network", "N nodes, asked at nodes that do not hold the values", 9, 1.0, "of each run")
    nodes_of(mode, network.NODES_MIN)
    idle = "watch idle nodes for so long (20)"
    mode.add_argument("--idle-seconds", type=decimal(0.1, 3600), default=20.0, metavar="S", help=idle)


def churn_of(modes: "Modes") -> None:
    about = "what clients of N nodes see while others are killed and started"
    mode = mode_of(modes, "churn", about, 3, 10.0, "of each phase")
    nodes_of(mode, churn.NODES_MIN)
    rate_of(mode, 1000, "GETs a second, and a tenth as many PUTs")
    pause = "from one death to the next (2)"
    mode.add_argument("--every", type=decimal(0.5, 600), default=2.0, metavar="S", help=pause)


def fairness_of(modes: "Modes") -> None:
    about = "100 quiet clients, alone and beside one that never stops"
    mode = mode_of(modes, "fairness", about, 9, 5.0, "of each run")
    rate_of(mode, 200, "GETs a second of all quiet clients")


def memory_of(modes: "Modes") -> None:
    about = "what records cost, and what it costs that many expire at once"
    mode = mode_of(modes, "memory", about, 1, 3.0, "before many expire")
    rate_of(mode, 1000, "GETs a second while records expire")
    usual, records = 1_000_000, whole(1000, 10_000_000)
    mode.add_argument(
        "--records", type=records, default=usual, metavar="N", help=f"records that are held ({usual})"
    )


def nodes_of(mode: argparse.ArgumentParser, least: int) -> None:
    usual = 32
    mode.add_argument(
        "nodes",
        nargs="?",
        type=whole(least, NODES_MAX),
        default=usual,
        metavar="N",
        help=f"how many nodes ({usual})",
    )


def rate_of(mode: argparse.ArgumentParser, usual: int, meaning: str) -> None:
    mode.add_argument("--rate", type=whole(1, 1_000_000), default=usual, metavar="R", help=f"{meaning} ({usual})")
