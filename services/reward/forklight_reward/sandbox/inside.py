"""The first program in a jail: closes its own limits, compiles the source and runs it.

Its text is handed to the interpreter of the jail, so it imports nothing of ours and holds nothing worth
stealing: it knows inputs, never expected values. What it reports is taken as the program's word.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from types import CodeType, ModuleType

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing typing would cost milliseconds in every jail
    from typing import Any

SOURCE = "/box/main.py"
COMPILE_ERROR_EXIT = 90


def close_limits(limits: dict[str, int]) -> None:
    """Set every limit of this process, soft and hard."""
    for name, value in limits.items():
        kind = getattr(resource, "RLIMIT_" + name)
        soft, hard = (value, value + 1) if name == "CPU" else (value, value)
        resource.setrlimit(kind, (soft, hard))


def compile_source(report: int) -> CodeType:
    """The code object; a source that does not compile ends here."""
    with open(SOURCE, "rb") as stream:  # noqa: PTH123 (pathlib would cost milliseconds in every jail)
        text = stream.read()
    try:
        return compile(text, SOURCE, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError) as error:
        os.write(report, (json.dumps({"compile_error": repr(error)[:300]}) + "\n").encode())
        os._exit(COMPILE_ERROR_EXIT)


def make_main() -> ModuleType:
    """A fresh __main__ for the program, with the names that the site module would have added."""
    module = ModuleType("__main__")
    module.__dict__.update(__file__=SOURCE, __builtins__=__builtins__, exit=sys.exit, quit=sys.exit)
    sys.modules["__main__"] = module
    sys.argv = [SOURCE]
    sys.path.insert(0, "/box")
    return module


def find_entry(namespace: dict[str, Any], entry: str) -> Any:  # noqa: ANN401
    """The function to call."""
    name, _, method = entry.partition(".")
    target = namespace[name]
    return getattr(target(), method) if method else target


def write_all(report: int, data: bytes) -> None:
    """Write everything, in as many pieces as the pipe wants."""
    while data:
        data = data[os.write(report, data) :]


def call_cases(function: Any, report: int, lines: list[bytes]) -> None:  # noqa: ANN401
    """One line of JSON per case: the value, or the error."""
    dumps, loads = json.dumps, json.loads
    for line in lines:
        arguments = loads(line)
        try:
            value = function(**arguments) if isinstance(arguments, dict) else function(*arguments)
            reply = dumps({"value": value}, allow_nan=False)
        except Exception as error:
            reply = dumps({"error": repr(error)[:300]})
        write_all(report, reply.encode() + b"\n")


def run_function(plan: dict[str, Any], code: CodeType, report: int) -> None:
    """Define, then call for each line of the input."""
    with open(0, "rb", closefd=False) as stream:
        lines = stream.read().splitlines()
    nothing = os.open("/dev/null", os.O_RDONLY)
    os.dup2(nothing, 0)
    module = make_main()
    module.__dict__["__name__"] = "solution"
    sys.modules["solution"] = module
    exec(code, module.__dict__)
    call_cases(find_entry(module.__dict__, plan["entry"]), report, lines)


def main() -> None:
    """Read the plan from the command line and carry it out."""
    plan = json.loads(sys.argv[1])
    report = plan["report_fd"]
    close_limits(plan["limits"])
    sys.setrecursionlimit(10_000)
    os.write(report, b'{"started": true}\n')
    code = compile_source(report)
    if plan["mode"] == "function":
        run_function(plan, code, report)
        return
    os.close(report)
    exec(code, make_main().__dict__)


main()
