"""Child processes: start them, wait for their logs, read their CPU time and memory, end them.

One `Processes` owns every process that a run starts. It ends them by their ids when the run ends:
normally, by an error or by Ctrl-C.
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
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from random import Random
from types import TracebackType
from typing import TypeVar

from failure import Failure

Found = TypeVar("Found")

LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1
"""The option of prctl(2) that sets the signal which a process gets when its parent dies."""

START_SECONDS_MAX = 120.0
"""A server that is not ready after this time has failed. 32 nodes that start together share two cores."""

END_SECONDS_MAX = 15.0
"""From SIGTERM to SIGKILL: longer than a node takes to leave its network."""

LOOK_SECONDS = 0.02
"""Pause between two looks at a log or a port."""

LOG_TAIL_LINES = 15


def available_cores() -> list[int]:
    """The cores that this process may use."""
    return sorted(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Scheduling:
    """The core and the priority of a process."""

    core: int | None = None
    """The only core that the process may use; None: any core."""
    nice: int = 0

    def apply(self) -> None:
        """Applies the settings to the calling process; runs in the child before the program starts.

        Also makes the kernel kill the child when its parent dies.
        """
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if self.core is not None:
            os.sched_setaffinity(0, {self.core})
        if self.nice > 0:
            os.nice(self.nice)


ANY_CORE = Scheduling()


class Output(Enum):
    """Where the standard output of a process goes."""

    LOG = auto()
    PIPE = auto()
    """The caller reads it."""


class Process:
    """A process that was started; its standard error goes to the file `log`."""

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
        """CPU time of all its threads, as the scheduler counts it; 0 if the process has ended."""
        total = 0
        try:
            for task in Path(f"/proc/{self.pid}/task").iterdir():
                total += int((task / "schedstat").read_text().split()[0])
        except (FileNotFoundError, ProcessLookupError):
            pass  # the thread or the process has just ended
        return total / 1e9

    def rss_kib(self) -> int:
        """Resident memory in KiB."""
        return self._number_in("status", "VmRSS")

    def written_bytes(self) -> int:
        """Bytes that the process has passed to the disk."""
        return self._number_in("io", "write_bytes")

    def _number_in(self, file: str, name: str) -> int:
        """The number on the line `name` of a file that the kernel keeps about the process."""
        path = f"/proc/{self.pid}/{file}"
        found = re.search(rf"^{name}:\s+(\d+)", Path(path).read_text(), re.MULTILINE)
        if found is None:
            raise Failure(f"{self.name}: {path} has no {name}")
        return int(found[1])

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")

    def await_line(self, pattern: str) -> "re.Match[str]":
        """Waits for the first match of `pattern` in the log."""
        return self._await(lambda: re.search(pattern, self.log_text()), f"log `{pattern}`")

    def await_port(self, port: int) -> None:
        """Waits until the process accepts connections, for programs that do not log it."""
        self._await(lambda: _accepts(port) or None, f"accept connections on port {port}")

    def _await(self, look: Callable[[], Found | None], expected: str) -> Found:
        """Repeats `look` until it finds something, the process ends, or `START_SECONDS_MAX` have passed."""
        deadline = time.monotonic() + START_SECONDS_MAX
        while True:
            runs, in_time = self.runs(), time.monotonic() < deadline
            if (found := look()) is not None:
                return found
            if not (runs and in_time):
                problem = f"within {START_SECONDS_MAX:.0f} s" if runs else "before it ended"
                tail = "\n".join(self.log_text().splitlines()[-LOG_TAIL_LINES:])
                raise Failure(f"{self.name} did not {expected} {problem}; the end of its log:\n{tail}")
            time.sleep(LOOK_SECONDS)

    def kill(self) -> None:
        """Ends the process at once, as a crash would."""
        if self.runs():
            self.popen.kill()
        self.popen.wait()


class Processes:
    """All processes of a run, and the directory for their files."""

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

    def start(
        self, name: str, command: list[str], scheduling: Scheduling = ANY_CORE, output: Output = Output.LOG
    ) -> Process:
        """Starts `command`; its standard error goes to its log."""
        self._started += 1
        log = self.directory / f"{name}.{self._started}.log"
        with log.open("w") as sink:
            try:
                # In its own session the process does not get the terminal's Ctrl-C; `end` ends it.
                popen = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE if output is Output.PIPE else sink,
                    stderr=sink,
                    text=True,
                    preexec_fn=scheduling.apply,
                    start_new_session=True,
                )
            except (OSError, subprocess.SubprocessError) as error:
                raise Failure(f"cannot start `{shlex.join(command)}` with {scheduling}: {error}") from error
        process = Process(name, popen, log)
        self._all.append(process)
        return process

    def end(self, processes: list[Process]) -> None:
        """Sends SIGTERM to all, then SIGKILL to those that still run after `END_SECONDS_MAX`."""
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
        """CPU time of this process and of all processes that it has started, ended ones included."""
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        own = resource.getrusage(resource.RUSAGE_SELF)
        used = ended.ru_utime + ended.ru_stime + own.ru_utime + own.ru_stime
        return used + sum(process.cpu_seconds() for process in self._all if process.runs())


class FreePorts:
    """Free ports below the range from which the system chooses ports of outgoing connections.

    A node that dials another could take a port of that range before the server binds it.
    """

    LEAST, TRIES_MAX = 10_000, 10_000

    def __init__(self) -> None:
        outgoing = Path("/proc/sys/net/ipv4/ip_local_port_range")
        self._most = int(outgoing.read_text().split()[0]) - 1 if outgoing.exists() else 32_767
        if self._most < self.LEAST:
            self._most = 65_535
        self._taken: set[int] = set()
        self._random = Random()

    def take(self) -> int:
        for _ in range(self.TRIES_MAX):
            port = self._random.randint(self.LEAST, self._most)
            if port not in self._taken and _is_free(port):
                self._taken.add(port)
                return port
        raise Failure(f"found no free port from {self.LEAST} to {self._most}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0
