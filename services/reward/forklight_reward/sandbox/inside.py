"""The first program in a jail: waits for its one job, closes its own limits and runs it.

Its text is handed to the interpreter of the jail, so it imports nothing of ours and holds nothing worth
stealing: it knows inputs, never expected values. What it reports is taken as the program's word.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal would import enum
import _socket
import marshal
import os
import resource
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # every import costs each jail milliseconds
    from types import CodeType, ModuleType
    from typing import Any

BOX = "/box"
SOURCE = "/box/main.py"
COMPILE_ERROR_EXIT = 90
MISSING_EXIT = 127
MAX_COLLECTED = 20_000


def write_all(report: int, data: bytes) -> None:
    """Write everything, in as many pieces as the pipe wants."""
    view = memoryview(data)
    while view:
        view = view[os.write(report, view) :]


def say(report: int, said: dict[str, str | int]) -> None:
    """One line of JSON."""
    import json

    write_all(report, json.dumps(said).encode() + b"\n")


def receive(control: int) -> tuple[int, int]:
    """Wait for the descriptors of payload and input; ends when nobody will send them any more."""
    channel = _socket.socket(fileno=control)
    _, messages, _, _ = channel.recvmsg(1, _socket.CMSG_SPACE(8))
    if not messages:
        os._exit(0)
    numbers = messages[0][2]
    channel.close()
    return int.from_bytes(numbers[:4], sys.byteorder), int.from_bytes(numbers[4:8], sys.byteorder)


def read_payload(descriptor: int) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The plan, and the files that follow it."""
    with open(descriptor, "rb") as stream:
        plan = marshal.load(stream)
        return plan, {name: stream.read(size) for name, size in plan["files"]}


def lay_out(files: dict[str, bytes]) -> None:
    """Write the files below the working folder."""
    for name, data in files.items():
        path = f"{BOX}/{name}"
        if "/" in name:
            os.makedirs(path.rpartition("/")[0], exist_ok=True)  # noqa: PTH103
        with open(path, "wb") as stream:  # noqa: PTH123 (pathlib would cost milliseconds in every jail)
            stream.write(data)


def close_limits(limits: dict[str, int]) -> None:
    """Set every limit of this process, soft and hard."""
    for name, value in limits.items():
        kind = getattr(resource, "RLIMIT_" + name)
        soft, hard = (value, value + 1) if name == "CPU" else (value, value)
        most = resource.getrlimit(kind)[1]
        if most != resource.RLIM_INFINITY:  # what this machine allows may be less: nobody can raise it
            soft, hard = min(soft, most), min(hard, most)
        resource.setrlimit(kind, (soft, hard))


def compile_source(source: bytes, report: int) -> CodeType:
    """The code object; a source that does not compile ends here."""
    try:
        return compile(source, SOURCE, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError) as error:
        say(report, {"compile_error": repr(error)[:300]})
        os._exit(COMPILE_ERROR_EXIT)


def make_main() -> ModuleType:
    """A fresh __main__ for the program, with the names that the site module would have added."""
    module = type(sys)("__main__")
    module.__dict__.update(__file__=SOURCE, __builtins__=__builtins__, exit=sys.exit, quit=sys.exit)
    sys.modules["__main__"] = module
    sys.argv = [SOURCE]
    sys.path.insert(0, BOX)
    return module


def find_entry(namespace: dict[str, Any], entry: str) -> Any:  # noqa: ANN401
    """The function to call. A method gets a new object for each call: no case sees what another left."""
    name, _, method = entry.partition(".")
    target = namespace[name]
    if not method:
        return target

    def call(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401
        return getattr(target(), method)(*arguments, **named)

    return call


def call_cases(function: Any, report: int, cases: list[Any], encode: Any) -> None:  # noqa: ANN401
    """One line of JSON per case: the value, or the error."""
    for arguments in cases:
        try:
            value = function(**arguments) if isinstance(arguments, dict) else function(*arguments)
            reply = encode({"value": value})
        except Exception as error:
            reply = encode({"error": repr(error)[:300]})
        write_all(report, reply.encode() + b"\n")


def run_function(entry: str, code: CodeType, report: int) -> None:
    """Define, then call for each line of the input. What writes the replies is taken before the program may
    change it.
    """
    import json

    encode = json.JSONEncoder(allow_nan=False).encode
    with open(0, "rb", closefd=False) as stream:
        cases = [json.loads(line) for line in stream]
    nothing = os.open("/dev/null", os.O_RDONLY)
    os.dup2(nothing, 0)
    module = make_main()
    module.__dict__["__name__"] = "solution"
    sys.modules["solution"] = module
    exec(code, module.__dict__)
    call_cases(find_entry(module.__dict__, entry), report, cases, encode)


def run_command(plan: dict[str, Any], report: int) -> None:
    """Become the command; with something to collect, wait for it instead."""
    command = plan["command"]
    if command[0].removeprefix("./") in {name for name, _ in plan["files"]}:
        os.chmod(command[0], 0o755)  # noqa: PTH101
    os.environ.update(plan["environment"])
    os.set_inheritable(report, False)
    for number in (_signal.SIGPIPE, _signal.SIGXFSZ):  # which this interpreter ignores
        _signal.signal(number, _signal.SIG_DFL)
    try:
        if not plan["collect"]:
            os.execvp(command[0], command)
        child = os.posix_spawnp(command[0], command, os.environ)
    except FileNotFoundError:
        say(report, {"missing": command[0]})
        os._exit(MISSING_EXIT)
    status = os.waitpid(child, 0)[1]
    for name in plan["collect"]:
        collect(name, report)
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)


def collect(name: str, report: int) -> None:
    """Send a file, or all files of a folder; links and devices are left out."""
    if not os.path.isdir(f"{BOX}/{name}"):  # noqa: PTH112
        send_file(os.path.normpath(name), report)
        return
    num_sent = 0
    for folder, _, names in os.walk(f"{BOX}/{name}"):
        for each in sorted(names):
            num_sent += 1
            if num_sent > MAX_COLLECTED:
                return
            send_file(os.path.relpath(f"{folder}/{each}", BOX), report)


def send_file(name: str, report: int) -> None:
    """One line with name and size, then the bytes."""
    try:
        descriptor = os.open(f"{BOX}/{name}", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return
    with open(descriptor, "rb") as stream:  # noqa: PTH123
        if os.fstat(descriptor).st_mode & 0o170000 != 0o100000:
            return
        data = stream.read()
    say(report, {"file": name, "size": len(data)})
    write_all(report, data)


def main() -> None:
    """Say that we are up, take the job, carry it out."""
    report = int(sys.argv[2])
    sys.setrecursionlimit(10_000)
    os.write(report, b"ready\n")
    payload_fd, stdin_fd = receive(int(sys.argv[1]))
    plan, files = read_payload(payload_fd)
    os.dup2(stdin_fd, 0)
    os.close(stdin_fd)
    os.write(report, b"started\n")
    lay_out(files)
    close_limits(plan["limits"])
    if plan["kind"] == "command":
        run_command(plan, report)
    source = files["main.py"]
    os.chmod(SOURCE, 0o444)  # noqa: PTH101
    code = compile_source(source, report)
    del files, source, payload_fd, stdin_fd
    if plan["kind"] == "function":
        run_function(plan["entry"], code, report)
        return
    os.close(report)
    exec(code, make_main().__dict__)


main()
