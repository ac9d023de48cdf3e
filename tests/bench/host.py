"""What the benchmark asks of the machine: cores, free ports, processes, their CPU time and their memory. Linux only."""

import http.client
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

if sys.platform != "linux":
    raise SystemExit("the benchmark reads /proc and pins processes: it needs Linux")

PROC = Path("/proc")
TICK = os.sysconf("SC_CLK_TCK")
START_LIMIT = 60.0  # seconds a process has to become ready; some peers import for long

_ADDRESS = re.compile(r"^https?://[\w.]+:(\d+)", re.MULTILINE)


class StartError(Exception):
    """A process that does not come up."""


def cores() -> tuple[int, int]:
    """The core of the contestants and that of stub and load; the same one where there is no other."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[1 if len(allowed) > 1 else 0]


def pin(core: int) -> None:
    """Keep this process, and what it starts unless told otherwise, on one core."""
    os.sched_setaffinity(0, {core})


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def busy_seconds() -> float:
    """CPU time used on the whole machine since it started, the share taken by other guests included."""
    user, nice, system, _idle, _wait, irq, soft, steal = map(int, (PROC / "stat").read_text().split()[1:9])
    return (user + nice + system + irq + soft + steal) / TICK


def family(pid: int) -> Iterator[int]:
    """A process and its descendants."""
    yield pid
    for children in (PROC / str(pid) / "task").glob("*/children"):
        for child in children.read_text().split():
            yield from family(int(child))


def cpu_seconds(pid: int) -> float:
    """The scheduler's own account of a process and its descendants; whole ticks where the kernel keeps no finer one."""
    return sum(_process_cpu(member) for member in family(pid))


def _process_cpu(pid: int) -> float:
    try:
        accounts = (PROC / str(pid) / "task").glob("*/schedstat")
        if spent := sum(int(account.read_text().split()[0]) for account in accounts):
            return spent / 1e9
    except OSError:
        pass
    fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def resident_bytes(pid: int) -> int:
    """Resident memory of one process, all that it shares included."""
    return _figure(PROC / str(pid) / "status", "VmRSS:")


def unshared_bytes(pid: int) -> int:
    """The same, of what it shares with others only its part."""
    return _figure(PROC / str(pid) / "smaps_rollup", "Pss:")


def memory_bytes(pid: int) -> int:
    """Resident memory of a process and its descendants; what they share is counted once."""
    members = list(family(pid))
    own = sum(_figure(PROC / str(member) / "smaps_rollup", "Pss_Anon:") for member in members)
    # The pages of programs and libraries are shared with who knows whom; those of ours are largely the same.
    return own + max(_figure(PROC / str(member) / "status", "RssFile:") for member in members)


def _figure(file: Path, name: str) -> int:
    """Bytes, from a line such as ``RssFile:  13004 kB``."""
    return next(int(line.split()[1]) << 10 for line in file.read_text().splitlines() if line.startswith(name))


def get(port: int, path: str, headers: dict[str, str] | None = None, *, method: str = "GET", body: bytes = b"") -> int:
    """The status of one answer from a local server."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request(method, path, body or None, headers or {})
        return connection.getresponse().status
    finally:
        connection.close()


class Process:
    """A server of the benchmark: started on one core, waited for, stopped at the end."""

    def __init__(
        self,
        name: str,
        command: list[str],
        port: int,
        core: int,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """`port` is 0 if it chooses one itself, and tells it: see `wait_told`. `env` is added to the environment."""
        self.name = name
        self.port = port
        self._output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  closed by `stop`
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("GATEHOOK_", "LISTEN_"))}
        self._popen = subprocess.Popen(
            command,
            cwd=cwd,
            env=inherited | dict(env or {}),
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
        )
        os.sched_setaffinity(self._popen.pid, {core})

    @property
    def pid(self) -> int:
        return self._popen.pid

    def wait_told(self) -> None:
        """Until it has printed its address, and so its port."""
        limit = time.monotonic() + START_LIMIT
        while not (told := _ADDRESS.search(self.output())):
            if self._popen.poll() is not None or time.monotonic() > limit:
                raise StartError(f"{self.name} told no address:\n{self.output()}")
            time.sleep(0.05)
        self.port = int(told[1])

    def wait_ready(self, path: str = "/health") -> None:
        """Poll `GET path` until it says 200."""
        limit = time.monotonic() + START_LIMIT
        while time.monotonic() < limit:
            if self._popen.poll() is not None:
                raise StartError(f"{self.name} ended with status {self._popen.returncode}:\n{self.output()}")
            try:
                if get(self.port, path) == 200:
                    return
            except (OSError, http.client.HTTPException):
                pass
            time.sleep(0.05)
        raise StartError(f"{self.name} was not ready after {START_LIMIT:.0f} s:\n{self.output()}")

    def output(self) -> str:
        """The last of what the process printed."""
        number = self._output.fileno()  # read without moving: the process writes where the file stands
        tail = os.pread(number, 4000, max(0, os.fstat(number).st_size - 4000))
        return tail.decode(errors="replace").strip()

    def stop(self) -> None:
        self._popen.terminate()
        try:
            self._popen.wait(10)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
        self._output.close()
