"""The servers that are compared, each with settings that make the comparison fair."""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from failure import Failure
from processes import FreePorts, Process, Processes, Scheduling

LISTENING = r"listening api=(\S+)"
"""Log line of dht-server and the echo when they accept connections."""

NODE_ID = r"listening api=\S+ p2p=\S+ id=([0-9a-f]{8})"
"""The same line with the first eight digits of the node's id."""


@dataclass(frozen=True)
class Server:
    """A server that accepts requests."""

    name: str
    protocol: str
    address: str
    process: Process


@dataclass(frozen=True)
class Programs:
    """The programs of this project that the benchmark needs."""

    server: Path
    load: Path


@dataclass
class Starter:
    """Starts servers on one core, or on any."""

    programs: Programs
    processes: Processes
    ports: FreePorts
    scheduling: Scheduling
    wrapper: Sequence[str] = ()
    """The command that runs dht-server, such as valgrind with its options."""

    def echo(self, value: int) -> Server:
        """The baseline: a bare loop that answers every GET with `value` bytes."""
        command = [str(self.programs.load), "echo", "-a", "127.0.0.1:0", "--value", str(value)]
        process = self.processes.start("echo", command, self.scheduling)
        return Server("echo", "dht", process.await_line(LISTENING)[1], process)

    def dht(self, name: str, settings: Sequence[str]) -> Server:
        """A dht-server without peers; `settings` are lines of its configuration."""
        home = self.processes.directory / f"home-{name}".replace(" ", "-")
        lines = ["api_address = 127.0.0.1:0", "p2p_address = 127.0.0.1:0", *settings]
        process = self.node(name, home, lines)
        return Server(name, "dht", process.await_line(LISTENING)[1], process)

    def node(self, name: str, home: Path, settings: Sequence[str]) -> Process:
        """Starts or restarts a dht-server with its files in `home`; does not wait until it listens."""
        home.mkdir(exist_ok=True)
        lines = ["[dht]", f'data_dir = "{home}/data"', "leave_timeout = 0.5", *settings]
        (home / "config.ini").write_text("\n".join(lines) + "\n")
        command = [*self.wrapper, str(self.programs.server), "-c", str(home / "config.ini")]
        return self.processes.start(name.replace(" ", "-"), command, self.scheduling)

    def redis(self, program: str, directory: Path, persistence: Sequence[str] = ("--appendonly", "no")) -> Server:
        """Redis with one thread and its files in `directory`; it accepts clients from all loopback addresses."""
        port = self.ports.take()
        options = f"--port {port} --bind 127.0.0.1 --protected-mode no --io-threads 1".split()
        command = [program, *options, *persistence, "--save", "", "--dir", str(directory)]
        process = self.processes.start("redis", command, self.scheduling)
        process.await_line("Ready to accept connections")
        return Server("redis", "redis", f"127.0.0.1:{port}", process)

    def memcached(self, program: str) -> Server:
        """memcached with one worker thread and enough memory for all values and connections."""
        port = self.ports.take()
        # memcached requires -u when root starts it, and ignores it otherwise.
        options = f"-l 127.0.0.1 -p {port} -U 0 -t 1 -m 512 -c 4096 -u root".split()
        process = self.processes.start("memcached", [program, *options], self.scheduling)
        process.await_port(port)
        return Server("memcached", "memcached", f"127.0.0.1:{port}", process)


def version(program: str) -> str:
    """The first line that `program --version` prints."""
    try:
        printed = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise Failure(f"`{program} --version` failed: {error}") from error
    return printed.strip().split("\n")[0]
