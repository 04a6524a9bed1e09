"""Counts the instructions of a GET and of a PUT, and fails if they have grown since the last record.

On a shared machine time varies from run to run; instruction counts do not. A node without peers runs
under callgrind twice, with different numbers of requests. The difference, divided by the number of
additional requests, is what one request takes in the node: from the wait for the socket to the
write of the answer, without the kernel.

`instructions.json` holds the recorded counts, and names the compiler of the counted program. Another
compiler produces other counts, so the script then only warns.

Exit status: 0 not grown, another compiler, or skipped; 1 grown or failed; 2 wrong usage.
"""

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
from processes import ANY_CORE, FreePorts, Processes
from servers import Programs, Starter

RECORD = Path(__file__).with_name("instructions.json")
GROWTH_MAX = 1.05
KINDS = ("get", "put")
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
    """Sends `requests` and waits for the values of the `answers` GETs in it."""
    connection.sendall(requests)
    missing = answers * (36 + len(VALUE))
    while missing > 0:
        received = len(connection.recv(1 << 16))
        if received == 0:
            raise Failure("the node closed the connection")
        missing -= received


def send(connection: socket.socket, kind: str, count: int) -> None:
    """Sends the first `count` requests of a fixed random sequence in batches, and waits for the end of each batch."""
    draw = random.Random(1)
    for _ in range(count // BATCH):
        numbers = [draw.randrange(KEYS) for _ in range(BATCH)]
        if kind == "get":
            exchange(connection, b"".join(map(get, numbers)), BATCH)
        else:
            exchange(connection, b"".join(map(put, numbers)) + get(numbers[-1]), 1)


def run(program: Path, directory: Path, kind: str, count: int) -> int:
    """All instructions of a node that stores `KEYS` records and answers `count` requests."""
    profile = directory / "profile"
    valgrind = ("valgrind", "-q", "--tool=callgrind", f"--callgrind-out-file={profile}")
    with Processes(directory) as processes:
        starter = Starter(Programs(program, program), processes, FreePorts(), ANY_CORE, valgrind)
        host, port = starter.dht("node", ["durability = none"]).address.split(":")
        with socket.create_connection((host, int(port)), ANSWER_SECONDS_MAX) as connection:
            for first in range(0, KEYS, BATCH):
                numbers = range(first, min(first + BATCH, KEYS))
                exchange(connection, b"".join(map(put, numbers)) + get(first), 1)
            send(connection, kind, count)
    found = re.search(r"^totals: (\d+)", profile.read_text(), re.MULTILINE)
    if found is None:
        raise Failure(f"no totals in {profile}")
    return int(found[1])


def count_instructions(program: Path) -> dict[str, int]:
    """The instructions of one request of each kind."""
    with tempfile.TemporaryDirectory(prefix="dht-instructions-") as name:
        directory = Path(name)
        run(program, directory, "get", 0)  # creates the node's key, which takes a random number of instructions
        counts = {}
        for kind in KINDS:
            once, twice = (run(program, directory, kind, times * REQUESTS) for times in (1, 2))
            counts[kind] = round((twice - once) / REQUESTS)
        return counts


def compiler_of(program: Path) -> str:
    """The compiler that the program names in its ELF section `.comment`, as `rustc --version` prints it."""
    found = re.search(rb"rustc version ([^\0]+)", program.read_bytes())
    return f"rustc {found[1].decode()}" if found else "an unknown compiler"


def compare(counts: dict[str, int], compiler: str, record: dict[str, int | str]) -> int:
    """Prints the counts beside the record; returns the exit status."""
    grown = []
    for kind in KINDS:
        growth = counts[kind] / record[kind]
        print(f"{kind}: {counts[kind]} instructions, {record[kind]} on record ({growth - 1:+.1%})")
        if growth > GROWTH_MAX:
            grown.append(kind)
    if compiler != record["compiler"]:
        warning = f"built by {compiler}, but the record is of {record['compiler']}: the counts are not compared"
        print(f"WARNING: {warning}", file=sys.stderr)
        return 0
    for kind in grown:
        print(f"FAILED: a {kind} takes over {GROWTH_MAX - 1:.0%} more instructions than on record", file=sys.stderr)
    return 1 if grown else 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("server", type=Path, help="dht-server, built with --release")
    parser.add_argument("--record", action="store_true", help="write the counts and the compiler to instructions.json")
    options = parser.parse_args(arguments)
    if shutil.which("valgrind") is None:
        print("SKIPPED: valgrind is not installed, so no instructions were counted", file=sys.stderr)
        return 0
    try:
        compiler = compiler_of(options.server)
        counts = count_instructions(options.server)
    except (Failure, OSError) as error:
        print(f"instructions.py: {error}", file=sys.stderr)
        return 1
    status = compare(counts, compiler, json.loads(RECORD.read_text()))
    if options.record:
        RECORD.write_text(json.dumps({"compiler": compiler, **counts}, indent=1) + "\n")
        return 0
    return status


if __name__ == "__main__":
    sys.exit(main())
