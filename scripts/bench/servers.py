"""The servers that are compared, each started in the form that suits the comparison."""

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from failure import Failure
from processes import FreePorts, Place, Process, Processes

LISTENING = r"listening api=(\S+)"
"""What dht-server and the echo say when they can be asked."""

NODE_ID = r"listening api=\S+ p2p=\S+ id=([0-9a-f]{8})"
"""The first eight digits of a node's id."""


@dataclass(frozen=True)
class Server:
    """One that runs and can be asked."""

    name: str
    protocol: str
    address: str
    process: Process


@dataclass(frozen=True)
class Programs:
    """The two programs of this project that are needed."""

    server: Path
    load: Path


@dataclass
class Starter:
    """Starts servers at one place, and knows their programs."""

    programs: Programs
    processes: Processes
    ports: FreePorts
    place: Place

    def echo(self, value: int) -> Server:
        """The yardstick: a bare loop that answers any GET with `value` bytes."""
        command = [str(self.programs.load), "echo", "-a", "127.0.0.1:0", "--value", str(value)]
        process = self.processes.start("echo", command, self.place)
        return Server("echo", "dht", process.await_line(LISTENING)[1], process)

    def dht(self, name: str, settings: Sequence[str]) -> Server:
        """A lone dht-server with these lines in its configuration."""
        home = self.processes.directory / f"home-{name}".replace(" ", "-")
        lines = ["api_address = 127.0.0.1:0", "p2p_address = 127.0.0.1:0", *settings]
        process = self.node(name, home, lines)
        return Server(name, "dht", process.await_line(LISTENING)[1], process)

    def node(self, name: str, home: Path, settings: Sequence[str]) -> Process:
        """A dht-server that lives in `home`, perhaps not for the first time; it may not listen yet."""
        home.mkdir(exist_ok=True)
        lines = ["[dht]", f'data_dir = "{home}/data"', "leave_timeout = 0.5", *settings]
        (home / "config.ini").write_text("\n".join(lines) + "\n")
        command = [str(self.programs.server), "-c", str(home / "config.ini")]
        return self.processes.start(name.replace(" ", "-"), command, self.place)

    def redis(self, program: str) -> Server:
        """Redis, one thread, nothing on disk, and willing to serve all addresses of loopback."""
        port = self.ports.take()
        options = f"--port {port} --bind 127.0.0.1 --protected-mode no --appendonly no --io-threads 1".split()
        command = [program, *options, "--save", "", "--dir", str(self.processes.directory)]
        process = self.processes.start("redis", command, self.place)
        process.await_line("Ready to accept connections")
        return Server("redis", "redis", f"127.0.0.1:{port}", process)

    def memcached(self, program: str) -> Server:
        """memcached, one worker thread, with room for all values and connections."""
        port = self.ports.take()
        # -u is what it asks for when root starts it, and ignores otherwise.
        options = f"-l 127.0.0.1 -p {port} -U 0 -t 1 -m 512 -c 4096 -u root".split()
        process = self.processes.start("memcached", [program, *options], self.place)
        process.await_port(port)
        return Server("memcached", "memcached", f"127.0.0.1:{port}", process)


def installed(name: str) -> str | None:
    """The path of a program of other people, if it is there."""
    return shutil.which(name)


def version(program: str, option: str) -> str:
    """The first line of what a program says of itself."""
    try:
        said = subprocess.run([program, option], capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise Failure(f"`{program} {option}` says nothing: {error}") from error
    return said.strip().split("\n")[0]
