"""A network of nodes on loopback, one process each, and keys that some of them do not hold."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from bench import Bench
from failure import Failure
from processes import Process
from servers import LISTENING, NODE_ID, Starter

ID_BITS = 32
"""A node's log has so many bits of its id: enough to tell some hundred nodes apart."""

KEY_SIZE = 32
KEY_TRIES_MAX = 1_000_000

REPLICATION_MAX, REPLICATION_PART = 8, 4
"""A quarter of all nodes hold each value, but not more than this: most must be left that do not."""

MARGIN_MAX, MARGIN_PART = 4, 8
"""Nodes next behind the holders, which do not ask either: one of them might hold a copy meanwhile."""


@dataclass
class Node:
    """One of them; its ports and its directory outlive its process."""

    number: int
    home: Path
    api_port: int
    p2p_port: int
    settings: list[str]
    process: Process | None = None
    id: int = 0
    """The first `ID_BITS` of it."""

    @property
    def api(self) -> str:
        return f"127.0.0.1:{self.api_port}"

    @property
    def p2p(self) -> str:
        return f"127.0.0.1:{self.p2p_port}"

    def running(self) -> Process:
        if self.process is None or not self.process.runs():
            raise Failure(f"node {self.number} has ended by itself")
        return self.process

    def start(self, starter: Starter) -> None:
        """Starts it, for the first time or again; it may not listen yet."""
        lines = [f"api_address = {self.api}", f"p2p_address = {self.p2p}", *self.settings]
        self.process = starter.node(f"node-{self.number}", self.home, lines)

    def await_listening(self) -> None:
        self.running().await_line(LISTENING)
        self.id = int(self.running().await_line(NODE_ID)[1], 16)

    def await_settled(self) -> None:
        """It has joined, and takes part; who has no one to join through has at once."""
        if self.number > 1:
            self.running().await_line(r"joined contacts=")
            self.running().await_line(r"settled records=")


@dataclass
class Network:
    """All nodes; the first is the founder."""

    nodes: list[Node]
    starter: Starter
    replication: int
    margin: int
    random: Random = field(default_factory=lambda: Random(1))

    @property
    def pids(self) -> list[int]:
        return [node.running().pid for node in self.nodes]

    def keys(self, count: int, askers: Sequence[Node]) -> list[bytes]:
        """Keys that none of `askers` is near enough to hold."""
        near = self.replication + self.margin
        found: list[bytes] = []
        for _ in range(KEY_TRIES_MAX):
            key = self.random.randbytes(KEY_SIZE)
            place = int.from_bytes(key[: ID_BITS // 8], "big")
            nearest = sorted(self.nodes, key=lambda node: node.id ^ place)[:near]
            if not any(asker in nearest for asker in askers):
                found.append(key)
            if len(found) == count:
                return found
        raise Failure(f"only {len(found)} of {count} keys were found that {len(askers)} askers do not hold")

    def keys_file(self, name: str, count: int, askers: Sequence[Node]) -> Path:
        """Such keys as a file for `dht-load --keys-from`."""
        path = self.starter.processes.directory / name
        path.write_text("".join(f"{key.hex()}\n" for key in self.keys(count, askers)))
        return path


def start(bench: Bench, count: int, askers: Sequence[Sequence[str]] = ()) -> Network:
    """Starts `count` nodes and waits until all have settled; the last ones have the settings `askers`."""
    starter = bench.starter()
    replication = max(1, min(REPLICATION_MAX, count // REPLICATION_PART))
    network = Network([], starter, replication, min(MARGIN_MAX, count // MARGIN_PART))
    common = [f"replication_min = {min(3, replication)}"]
    for number in range(1, count + 1):
        own = list(askers[number - 1 - count + len(askers)]) if number > count - len(askers) else []
        home = bench.processes.directory / f"node-{number}"
        bootstraps = {node.p2p for node in [*network.nodes[:1], *network.nodes[-1:]]}
        joins = [f"bootstrap = {', '.join(sorted(bootstraps))}"] if bootstraps else []
        ports = bench.ports.take(), bench.ports.take()
        network.nodes.append(Node(number, home, *ports, [*common, *own, *joins]))
    network.nodes[0].start(starter)
    network.nodes[0].await_listening()
    for node in network.nodes[1:]:
        node.start(starter)
    for node in network.nodes[1:]:
        node.await_listening()
    for node in network.nodes[1:]:
        node.await_settled()
    return network
