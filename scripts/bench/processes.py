"""Child processes: where they run, what they log and use, and that they end.

Every process that a run starts is in one `Processes`, which ends them all, by their ids, however
the run is left: at its end, by an error, by Ctrl-C.
"""

import ctypes
import os
import re
import resource
import shlex
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from random import Random
from types import TracebackType

from failure import Failure

LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1
"""Of prctl(2): the signal that a process gets when its parent dies."""

START_SECONDS_MAX = 120.0
"""A server that has not said that it is ready by then has failed: 32 nodes share two cores."""

END_SECONDS_MAX = 15.0
"""From SIGTERM to SIGKILL: longer than a node takes to leave."""

LOOK_SECONDS = 0.02
"""Between two looks at a log or a port."""

LOG_TAIL_LINES = 15


@dataclass(frozen=True)
class Place:
    """Where a process runs, and whom it yields to."""

    core: int | None = None
    """The only core that it may use; None: any."""
    nice: int = 0

    def take(self) -> None:
        """Moves the calling process there; runs in the child, before the program.

        It is also bound to the life of its parent: even if that is killed, nothing is left behind.
        """
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if self.core is not None:
            os.sched_setaffinity(0, {self.core})
        if self.nice > 0:
            os.nice(self.nice)


ANYWHERE = Place()


class Output(Enum):
    """What becomes of standard output."""

    LOGGED = auto()
    READ = auto()
    """A pipe, whose other end the caller reads."""


class Process:
    """One that was started; its standard error is in `log`."""

    def __init__(self, name: str, popen: "subprocess.Popen[str]", log: Path) -> None:
        self.name = name
        self.popen = popen
        self.log = log

    @property
    def pid(self) -> int:
        return self.popen.pid

    def runs(self) -> bool:
        return self.popen.poll() is None

    def cpu_seconds(self) -> float:
        """CPU time of all its threads, as the scheduler counts it; 0 if it has ended."""
        total = 0
        try:
            for task in Path(f"/proc/{self.pid}/task").iterdir():
                total += int((task / "schedstat").read_text().split()[0])
        except (FileNotFoundError, ProcessLookupError):
            pass  # a thread, or the process, has ended meanwhile
        return total / 1e9

    def rss_kib(self) -> int:
        """Memory that it holds, in KiB."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
        if found is None:
            raise Failure(f"{self.name}: the system does not tell its memory")
        return int(found[1])

    def await_line(self, pattern: str) -> "re.Match[str]":
        """The first line of its log that has `pattern`, as soon as it is there."""
        deadline = time.monotonic() + START_SECONDS_MAX
        while True:
            runs = self.runs()
            found = re.search(pattern, self.log.read_text(errors="replace"))
            if found is not None:
                return found
            self._expect_patience(runs, deadline, f"log `{pattern}`")
            time.sleep(LOOK_SECONDS)

    def await_port(self, port: int) -> None:
        """Returns once it accepts connections, for programs whose log does not say so."""
        deadline = time.monotonic() + START_SECONDS_MAX
        while True:
            runs = self.runs()
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
                return
            except OSError:
                self._expect_patience(runs, deadline, f"accept connections at port {port}")
            time.sleep(LOOK_SECONDS)

    def _expect_patience(self, runs: bool, deadline: float, wanted: str) -> None:
        if runs and time.monotonic() < deadline:
            return
        why = "ended before it did" if not runs else f"did not within {START_SECONDS_MAX:.0f} s"
        tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:])
        raise Failure(f"{self.name} should {wanted}, and {why}; the end of its log:\n{tail}")

    def kill(self) -> None:
        """Ends it at once, as a crash would."""
        if self.runs():
            self.popen.kill()
        self.popen.wait()


class Processes:
    """All that a run starts, and a directory for what they write."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._started = 0
        self._all: list[Process] = []

    def __enter__(self) -> "Processes":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end(self._all)

    def start(self, name: str, command: list[str], place: Place, output: Output = Output.LOGGED) -> Process:
        """Starts `command`; what it prints on standard error goes to its log."""
        self._started += 1
        log = self.directory / f"{name}.{self._started}.log"
        with log.open("w") as sink:
            try:
                # A session of its own keeps the terminal's Ctrl-C from it: it is ended by us.
                popen = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE if output is Output.READ else sink,
                    stderr=sink,
                    text=True,
                    preexec_fn=place.take,
                    start_new_session=True,
                )
            except (OSError, subprocess.SubprocessError) as error:
                raise Failure(f"`{shlex.join(command)}` cannot be started at {place}: {error}") from error
        process = Process(name, popen, log)
        self._all.append(process)
        return process

    def end(self, processes: list[Process]) -> None:
        """Asks them to end, and ends those that do not."""
        for process in processes:
            if process.runs():
                process.popen.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + END_SECONDS_MAX
        for process in processes:
            try:
                process.popen.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
            if process.popen.stdout is not None:
                process.popen.stdout.close()
        self._all = [process for process in self._all if process.runs()]

    def cpu_seconds(self) -> float:
        """CPU time of everything that was started so far, of what has ended too, and of this process."""
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        own = resource.getrusage(resource.RUSAGE_SELF)
        used = ended.ru_utime + ended.ru_stime + own.ru_utime + own.ru_stime
        return used + sum(process.cpu_seconds() for process in self._all if process.runs())


class FreePorts:
    """Ports that nobody listens on, below those which the system gives to outgoing connections.

    One of the latter might be taken between the look and the use, by a node that dials another.
    """

    LEAST, TRIES_MAX = 10_000, 10_000

    def __init__(self) -> None:
        usual = Path("/proc/sys/net/ipv4/ip_local_port_range")
        self._most = int(usual.read_text().split()[0]) - 1 if usual.exists() else 32_767
        if self._most < self.LEAST:
            self._most = 65_535
        self._given: set[int] = set()
        self._random = Random()

    def take(self) -> int:
        for _ in range(self.TRIES_MAX):
            port = self._random.randint(self.LEAST, self._most)
            if port not in self._given and _is_free(port):
                self._given.add(port)
                return port
        raise Failure(f"no free port was found from {self.LEAST} to {self._most}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
