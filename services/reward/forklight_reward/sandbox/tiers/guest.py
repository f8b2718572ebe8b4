"""The first program of a container, of a pod and of the process tier: takes one job, watches it, ends it.

Its text is handed to the interpreter there, so it imports nothing of ours. It holds inputs, never expected
values: what it says of a program's output is the program's word anyway. It is the first process of its pid
namespace, so the job, which has its user id, can neither kill nor trace it.

Frames on its output: a letter, the length in four bytes, the bytes. W here, S started, O E R output, error
output and report, F a collected file, X the end. On its input: P to be answered by W, since it
may have begun to speak before anybody listened; then one frame J with the plan, and its blobs.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import signal
import stat
import struct
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

CHUNK = 65536
TICK_S = 0.02
LINGER_S = 10.0
MAX_FILES = 20_000
PAGE = os.sysconf("SC_PAGE_SIZE")
TICKS = os.sysconf("SC_CLK_TCK")
PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP = 4, 36, 38, 22
SECCOMP_MODE_FILTER = 2
UNFILTERED_EXIT, MISSING_EXIT = 91, 127
REPORT_FD = 3


def write_all(descriptor: int, data: bytes) -> None:
    """Write everything."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def send(letter: bytes, data: bytes = b"") -> None:
    """One frame to the host."""
    write_all(1, struct.pack(">cI", letter, len(data)) + data)


def read_exactly(size: int) -> bytes:
    """Bytes from the host; when there are no more, nobody waits for us."""
    parts = []
    while size:
        data = os.read(0, min(size, 1 << 20))
        if not data:
            os._exit(0)
        parts.append(data)
        size -= len(data)
    return b"".join(parts)


def refuse(reason: str) -> None:
    """The job cannot even begin; that is nobody's fault but the machinery's."""
    send(b"X", json.dumps({"failed": reason[:400]}).encode())
    wait_for_host()
    os._exit(0)


def wait_for_host() -> None:
    """Stay until the host has read everything: a stream may lose its end with its process."""
    select.select([0], [], [], LINGER_S)


def lay_out(plan: dict[str, Any]) -> None:
    """Write the files of the job."""
    for path, size, mode in plan["files"]:
        target = os.path.join(plan["box"], path)  # noqa: PTH118
        os.makedirs(os.path.dirname(target), exist_ok=True)  # noqa: PTH103, PTH120
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        try:
            write_all(descriptor, read_exactly(size))
        finally:
            os.close(descriptor)
    missing = [place for place in plan["needs"] if not os.path.isdir(place)]  # noqa: PTH112
    if missing:
        refuse(f"the image lacks {', '.join(missing)}")


def input_file(data: bytes) -> int:
    """A descriptor to the input, in memory."""
    descriptor = os.memfd_create("stdin")
    write_all(descriptor, data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def stat_of(pid: int) -> list[str]:
    """Fields of /proc/PID/stat behind the name; none when it has ended."""
    try:
        with open(f"/proc/{pid}/stat") as stream:  # noqa: PTH123
            text = stream.read()
    except OSError:
        return []
    return text[text.rindex(")") + 2 :].split()


class Watch:
    """One running job, seen by the process above it."""

    def __init__(self, plan: dict[str, Any], pid: int, streams: dict[int, bytes]) -> None:
        self.plan = plan
        self.pid = pid
        self.streams = streams
        self.status: int | None = None
        self.broke = ""
        self.cpu_s = 0.0
        self.peak_bytes = 0
        self.sizes = {b"O": 0, b"E": 0, b"R": 0}
        self.started = time.monotonic()

    def run(self) -> None:
        """Pass output on and look at the tree until the job ends or breaks a limit."""
        poller = select.poll()
        for descriptor in self.streams:
            poller.register(descriptor, select.POLLIN)
        next_tick = self.started + TICK_S
        while not self.broke and self.status is None:
            timeout = max(0.0, next_tick - time.monotonic())
            for descriptor, _ in poller.poll(timeout * 1000):
                if not self.pass_on(descriptor):
                    poller.unregister(descriptor)
            self.reap()
            if time.monotonic() >= next_tick and self.status is None:
                self.look()
                next_tick = time.monotonic() + TICK_S
        self.kill_all()
        for descriptor in self.streams:
            os.set_blocking(descriptor, False)
            while not self.broke and self.pass_on(descriptor):
                pass

    def pass_on(self, descriptor: int) -> bool:
        """One chunk to the host; False when there is no more."""
        try:
            data = os.read(descriptor, CHUNK)
        except BlockingIOError:
            return False
        if not data:
            return False
        letter = self.streams[descriptor]
        self.sizes[letter] += len(data)
        send(letter, data)
        most = self.plan["output_bytes"]
        if self.sizes[b"O"] + self.sizes[b"E"] > most or self.sizes[b"R"] > most:
            self.broke = self.broke or "OLE"
        return True

    def reap(self) -> None:
        """Collect the dead, orphans too."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.pid:
                self.status = status

    def look(self) -> None:
        """Compare the tree with the limits."""
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu_s, resident, num_tasks = used.ru_utime + used.ru_stime, 0, 0
        for fields in self.tree():
            cpu_s += sum(int(value) for value in fields[11:15]) / TICKS
            num_tasks += int(fields[17])
            resident += int(fields[21]) * PAGE
        cpu_s = self.possible(cpu_s)
        self.cpu_s = max(self.cpu_s, cpu_s)
        self.peak_bytes = max(self.peak_bytes, resident)
        disk = os.statvfs(self.plan["box"])
        if cpu_s > self.plan["cpu_s"] or time.monotonic() - self.started > self.plan["wall_s"]:
            self.broke = "TLE"
        elif num_tasks > self.plan["tasks"]:
            self.broke = "SV"
        elif (resident > self.plan["memory_bytes"] and self.exact_bytes() > self.plan["memory_bytes"]) or (
            self.plan["owns_disk"] and disk.f_files - disk.f_ffree > MAX_FILES
        ):
            self.broke = "MLE"

    def possible(self, cpu_s: float) -> float:
        """No more than this place can have used: gVisor counts what waits for a processor too."""
        most = self.plan["cpus"] * (time.monotonic() - self.started)
        return min(cpu_s, most) if most else cpu_s

    def tree(self) -> Iterator[list[str]]:
        """What /proc says of all that lives here but us."""
        return (fields for pid in self.members() if (fields := stat_of(pid)))

    def members(self) -> list[int]:
        """Everything in our pid namespace, or, without one, everything below us."""
        own = os.getpid()
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != own]  # noqa: PTH208
        if self.plan["owns_namespace"]:
            return pids
        parents = {pid: int(fields[1]) for pid in pids if (fields := stat_of(pid))}
        below = {own}
        while found := {pid for pid, parent in parents.items() if parent in below} - below:
            below |= found
        return sorted(below - {own})

    def exact_bytes(self) -> int:
        """Memory, shared pages divided; not where the kernel does not say or a process hides."""
        if not os.path.exists("/proc/self/smaps_rollup"):  # noqa: PTH110
            return self.peak_bytes
        total = 0
        for pid in self.members():
            try:
                with open(f"/proc/{pid}/smaps_rollup") as stream:  # noqa: PTH123
                    total += sum(int(line.split()[1]) << 10 for line in stream if line.startswith("Pss:"))
            except (FileNotFoundError, ProcessLookupError):
                continue
            except PermissionError:
                return self.peak_bytes
        return total

    def kill_all(self) -> None:
        """End everything that the job started: at once where all that is here is the job's."""
        at_once = self.plan["owns_namespace"]
        while (alive := self.members()) or self.status is None:
            for number in (signal.SIGKILL,) if at_once else (signal.SIGSTOP, signal.SIGKILL):
                for pid in [-1] if at_once else alive:
                    try:
                        os.kill(pid, number)
                    except ProcessLookupError:
                        continue
            self.reap()
            time.sleep(0.001)

    def end(self) -> None:
        """Send what is to be collected and how it ended, and go."""
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        collected = "" if self.broke else collect(self.plan)
        code = os.waitstatus_to_exitcode(self.status or 0)
        said = {
            "exit_code": code if code >= 0 else 128 - code,
            "broke": self.broke or collected or None,
            "cpu_s": max(self.cpu_s, self.possible(used.ru_utime + used.ru_stime)),
            "wall_s": time.monotonic() - self.started,
            "memory_peak_bytes": max(self.peak_bytes, used.ru_maxrss << 10),
        }
        send(b"X", json.dumps(said).encode())
        wait_for_host()
        os._exit(0)


def collect(plan: dict[str, Any]) -> str:
    """Send the files that were asked for, without following links; OLE when they are too many bytes."""
    left, num_left = plan["collect_bytes"], MAX_FILES
    for wanted in plan["collect"]:
        top = os.path.normpath(os.path.join(plan["box"], wanted))  # noqa: PTH118
        for path in sorted(regular_files(top)):
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                size = os.fstat(descriptor).st_size
                left, num_left = left - size, num_left - 1
                if left < 0 or num_left < 0:
                    return "OLE"
                name = os.path.relpath(path, plan["box"]).encode("utf-8", "surrogateescape")
                with open(descriptor, "rb", closefd=False) as stream:
                    data = stream.read(size)
            finally:
                os.close(descriptor)
            send(b"F", struct.pack(">H", len(name)) + name + data)
    return ""


def regular_files(top: str) -> Iterator[str]:
    """The path itself or every plain file below it."""
    try:
        mode = os.lstat(top).st_mode
    except OSError:
        return
    if stat.S_ISREG(mode):
        yield top
    elif stat.S_ISDIR(mode):
        for folder, folders, names in os.walk(top):
            folders.sort()
            for name in names:
                path = os.path.join(folder, name)  # noqa: PTH118
                if stat.S_ISREG(os.lstat(path).st_mode):
                    yield path


def load_filter(program: bytes) -> None:
    """Have the kernel refuse the system calls that the filter names, for good."""

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))

    libc = ctypes.CDLL(None, use_errno=True)
    loaded = Program(len(program) // 8, program)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(loaded), 0, 0
    ):
        write_all(2, f"no seccomp filter: {os.strerror(ctypes.get_errno())}\n".encode())
        os._exit(UNFILTERED_EXIT)


def become_job(plan: dict[str, Any], stdin_fd: int, writers: list[int]) -> None:
    """In the child: its own session, descriptors and limits."""
    os.setsid()
    os.dup2(stdin_fd, 0)
    for target, descriptor in enumerate(writers, start=1):
        os.dup2(descriptor, target)
    os.closerange(REPORT_FD + 1, 1 << 12)
    os.chdir(plan["box"])
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
    if plan["filter"]:
        load_filter(bytes.fromhex(plan["filter"]))
    if not plan["argv"]:
        return
    for name, value in plan["rlimits"].items():
        soft, hard = (value, value + 1) if name == "CPU" else (value, value)
        resource.setrlimit(getattr(resource, "RLIMIT_" + name), (soft, hard))
    os.set_inheritable(REPORT_FD, False)
    os.environ.update(plan["environment"])
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which this interpreter ignores
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvpe(plan["argv"][0], plan["argv"], os.environ)
    except OSError as error:
        write_all(2, f"{plan['argv'][0]}: {error}\n".encode())
        write_all(REPORT_FD, (json.dumps({"missing": plan["argv"][0]}) + "\n").encode())
        os._exit(MISSING_EXIT)


def serve() -> dict[str, Any]:
    """Take a job. Returns in the process that runs it; the one that watches it ends here."""
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    letter, size = struct.unpack(">cI", read_exactly(5))
    while letter == b"P":
        send(b"W")
        letter, size = struct.unpack(">cI", read_exactly(5))
    if letter != b"J":
        refuse("the host speaks another language")
    plan: dict[str, Any] = json.loads(read_exactly(size))
    try:
        if plan["filter"] and plan["machine"] != os.uname().machine:
            refuse(f"the system call filter is for {plan['machine']}, this is {os.uname().machine}")
        lay_out(plan)
        stdin_fd = input_file(read_exactly(plan["stdin_bytes"]))
    except OSError as error:
        refuse(f"the job's files do not fit: {error}")
    pipes = [os.pipe() for _ in range(3)]
    pid = os.fork()
    if pid == 0:
        become_job(plan, stdin_fd, [end for _, end in pipes])
        return plan
    os.close(stdin_fd)
    for _, end in pipes:
        os.close(end)
    send(b"S")
    watch = Watch(plan, pid, dict(zip([end for end, _ in pipes], [b"O", b"E", b"R"], strict=True)))
    watch.run()
    watch.end()
    raise AssertionError("unreachable")


def main() -> None:
    """Serve; in the job's process, run the program as the first program of a jail would."""
    plan = serve()
    inside: dict[str, Any] = {"__name__": "inside"}
    exec(compile(plan["inside"], "<inside>", "exec"), inside)
    inside.update(BOX=plan["box"], SOURCE=plan["box"] + "/main.py")
    sys.setrecursionlimit(10_000)
    inside["close_limits"](plan["rlimits"])
    with open(inside["SOURCE"], "rb") as stream:  # noqa: PTH123
        code = inside["compile_source"](stream.read(), REPORT_FD)
    if plan["entry"]:
        inside["run_function"](plan["entry"], code, REPORT_FD)
        return
    os.close(REPORT_FD)
    exec(code, inside["make_main"]().__dict__)


main()
