"""Counts the instructions of a local GET and PUT, and fails where they have grown.

Time is not repeatable on a shared machine; instructions are. A node alone runs under callgrind and
is sent two runs of requests that differ in their number alone, so that the difference is what the
requests took: everything from the wait for the socket to the write of the answer, but for what the
kernel does. The figures that hold are in `instructions.json` beside this file.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import socket
import struct
import sys
import tempfile
from pathlib import Path

from failure import Failure
from processes import Processes
from servers import LISTENING

RECORD = Path(__file__).with_name("instructions.json")
GROWTH_MAX = 1.05
KEYS = 10_000
BATCH = 16
REQUESTS = 48_000
VALUE = b"v" * 100
ANSWER_SECONDS_MAX = 60.0


def key(number: int) -> bytes:
    return b"key:%028d" % number


def get(number: int) -> bytes:
    return struct.pack(">HH", 36, 651) + key(number)


def put(number: int) -> bytes:
    return struct.pack(">HHHBB", 40 + len(VALUE), 650, 3600, 1, 0) + key(number) + VALUE


def exchange(connection: socket.socket, requests: bytes, answers: int) -> None:
    """Sends `requests` and waits for the values of `answers` GETs among them."""
    connection.sendall(requests)
    missing = answers * (36 + len(VALUE))
    while missing > 0:
        got = len(connection.recv(1 << 16))
        if got == 0:
            raise Failure("the node closed the connection")
        missing -= got


def load(connection: socket.socket, kind: str, count: int) -> None:
    """Sends `count` requests, the same ones every time, in batches whose last answer is awaited."""
    draw = random.Random(1)
    for _ in range(count // BATCH):
        numbers = [draw.randrange(KEYS) for _ in range(BATCH)]
        if kind == "get":
            exchange(connection, b"".join(map(get, numbers)), BATCH)
        else:
            exchange(connection, b"".join(map(put, numbers)) + get(numbers[-1]), 1)


def instructions(server: Path, home: Path, kind: str, count: int) -> int:
    """All instructions of a node that holds `KEYS` records and is sent `count` requests."""
    config, profile = home / "config.ini", home / "profile"
    lines = ["api_address = 127.0.0.1:0", "p2p_address = 127.0.0.1:0", f"data_dir = {home / 'data'}", "durability = none"]
    config.write_text("\n".join(["[dht]", *lines]) + "\n")
    command = ["valgrind", "-q", "--tool=callgrind", f"--callgrind-out-file={profile}", str(server), "-c", str(config)]
    with Processes(home) as processes:
        node = processes.start("node", command)
        host, port = node.await_line(LISTENING)[1].split(":")
        with socket.create_connection((host, int(port)), ANSWER_SECONDS_MAX) as connection:
            for first in range(0, KEYS, BATCH):
                numbers = range(first, min(first + BATCH, KEYS))
                exchange(connection, b"".join(map(put, numbers)) + get(first), 1)
            load(connection, kind, count)
    found = re.search(r"^totals: (\d+)", profile.read_text(), re.MULTILINE)
    if found is None:
        raise Failure(f"no totals in {profile}")
    return int(found[1])


def per_request(server: Path, home: Path, kind: str) -> float:
    once = instructions(server, home, kind, REQUESTS)
    twice = instructions(server, home, kind, 2 * REQUESTS)
    return (twice - once) / REQUESTS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("server", type=Path, help="dht-server, built with --release")
    parser.add_argument("--record", action="store_true", help="take what is counted for what holds from now on")
    options = parser.parse_args()
    if shutil.which("valgrind") is None:
        print("SKIPPED: valgrind is not installed, so no instructions were counted", file=sys.stderr)
        return 0
    held = json.loads(RECORD.read_text())
    counted = {}
    with tempfile.TemporaryDirectory(prefix="dht-instructions-") as home:
        # The first start makes the node's key, which takes a different time each time.
        instructions(options.server, Path(home), "get", 0)
        for kind in ("get", "put"):
            counted[kind] = round(per_request(options.server, Path(home), kind))
            growth = counted[kind] / held[kind]
            print(f"{kind}: {counted[kind]} instructions, {held[kind]} on record ({growth - 1:+.1%})")
    if options.record:
        RECORD.write_text(json.dumps(counted) + "\n")
        return 0
    grown = [kind for kind in counted if counted[kind] > held[kind] * GROWTH_MAX]
    for kind in grown:
        print(f"FAILED: a {kind} takes more than {GROWTH_MAX - 1:.0%} more than on record", file=sys.stderr)
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())
