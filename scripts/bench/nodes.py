"""A network of nodes on loopback, one process each, and keys that some of the nodes do not hold."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from bench import Bench
from failure import Failure
from load import LASTING
from processes import Process
from servers import LISTENING, NODE_ID, Starter

ID_BITS = 32
"""The bits of a node's id that its log shows: enough to distinguish 256 nodes."""

KEY_SIZE = 32
KEY_TRIES_MAX = 1_000_000

REPLICATION_MAX, REPLICATION_DIVISOR = 8, 4
"""A quarter of all nodes hold each value, at most 8, so that most nodes do not hold it."""

MARGIN_MAX, MARGIN_DIVISOR = 4, 8
"""The nodes next in distance after the replicas. No entry node is among them: they may get a copy during the run."""


@dataclass
class Node:
    """A node. It keeps its ports and its directory when its process is started again."""

    number: int
    home: Path
    api_port: int
    p2p_port: int
    settings: list[str]
    process: Process | None = None
    id: int = 0
    """The first `ID_BITS` of its id."""

    @property
    def api(self) -> str:
        return f"127.0.0.1:{self.api_port}"

    @property
    def p2p(self) -> str:
        return f"127.0.0.1:{self.p2p_port}"

    def running(self) -> Process:
        if self.process is None or not self.process.runs():
            raise Failure(f"node {self.number} ended unexpectedly")
        return self.process

    def start(self, starter: Starter) -> None:
        """Starts or restarts the node; does not wait until it listens."""
        lines = [f"api_address = {self.api}", f"p2p_address = {self.p2p}", *self.settings]
        self.process = starter.node(f"node-{self.number}", self.home, lines)

    def await_listening(self) -> None:
        self.running().await_line(LISTENING)
        self.id = int(self.running().await_line(NODE_ID)[1], 16)

    def await_settled(self) -> None:
        """Waits until the node has joined and settled. The founder has no bootstrap and does not join."""
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

    @property
    def flags(self) -> tuple[str, ...]:
        """Flags of `dht-load` for values in this network."""
        return ("--replication", str(self.replication), *LASTING)

    def keys_file(self, name: str, count: int, entries: Sequence[Node]) -> Path:
        """Writes `count` keys that no node of `entries` is close enough to hold, for `dht-load --keys-from`."""
        path = self.starter.processes.directory / name
        path.write_text("".join(f"{key.hex()}\n" for key in self._keys(count, entries)))
        return path

    def _keys(self, count: int, entries: Sequence[Node]) -> list[bytes]:
        found: list[bytes] = []
        for _ in range(KEY_TRIES_MAX):
            key = self.random.randbytes(KEY_SIZE)
            start = int.from_bytes(key[: ID_BITS // 8], "big")
            close = sorted(self.nodes, key=lambda node: node.id ^ start)[: self.replication + self.margin]
            if not any(entry in close for entry in entries):
                found.append(key)
            if len(found) == count:
                return found
        raise Failure(f"found only {len(found)} of {count} keys that {len(entries)} nodes do not hold")


def start(bench: Bench, count: int, entries: Sequence[Sequence[str]] = ()) -> Network:
    """Starts `count` nodes and waits until all have settled. `entries` are extra settings of the last nodes."""
    starter = bench.starter()
    replication = max(1, min(REPLICATION_MAX, count // REPLICATION_DIVISOR))
    network = Network([], starter, replication, min(MARGIN_MAX, count // MARGIN_DIVISOR))
    common = [f"replication_min = {min(3, replication)}"]
    for number, extra in enumerate([*[()] * (count - len(entries)), *entries], start=1):
        home = bench.processes.directory / f"node-{number}"
        bootstraps = {node.p2p for node in [*network.nodes[:1], *network.nodes[-1:]]}
        joins = [f"bootstrap = {', '.join(sorted(bootstraps))}"] if bootstraps else []
        network.nodes.append(Node(number, home, bench.ports.take(), bench.ports.take(), [*common, *extra, *joins]))
    founder, *others = network.nodes
    founder.start(starter)
    founder.await_listening()
    for node in others:
        node.start(starter)
    for node in others:
        node.await_listening()
    for node in others:
        node.await_settled()
    return network
