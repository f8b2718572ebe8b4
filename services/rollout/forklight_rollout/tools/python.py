"""The tool `python`: a program in a fresh jail, without network and input. It says what it printed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from forklight_rollout.tools.ports import Arguments, ToolOutcome, ToolReply

NAME = "python"
MOST_CODE_BYTES = 65536


class ProgramEnd(StrEnum):
    """How a program ended, in the words the model reads."""

    OK = "ok"
    COMPILE_ERROR = "the program does not compile"
    RUNTIME_ERROR = "the program failed"
    TIME_LIMIT = "the program ran out of time"
    MEMORY_LIMIT = "the program ran out of memory"
    OUTPUT_LIMIT = "the program printed too much and was stopped"
    VIOLATION = "the program did something that is not allowed and was stopped"


FAILURES = frozenset({ProgramEnd.COMPILE_ERROR, ProgramEnd.RUNTIME_ERROR})


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramOutput:
    """What a program left behind."""

    end: ProgramEnd
    stdout: str
    stderr: str


class ProgramRunner(Protocol):
    """Where programs run."""

    async def run_program(self, source: str, *, sample_id: str, timeout_s: float) -> ProgramOutput:
        """Its output. UnavailableError, BusyError or DeadlineError when it could not be run now."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonTool:
    """See `Tool`. Arguments: `code`."""

    runner: ProgramRunner

    async def run(self, arguments: Arguments, *, sample_id: str, timeout_s: float) -> ToolReply:
        code = arguments.get("code")
        if set(arguments) != {"code"} or not isinstance(code, str) or not code.strip():
            return _bad_call('python takes {"code": "..."}, a program as text')
        if len(code.encode("utf-8", "replace")) > MOST_CODE_BYTES:
            return _bad_call(f"the program is longer than {MOST_CODE_BYTES} bytes")
        # A lone surrogate can be written in JSON, and nowhere else.
        source = code.encode("utf-8", "replace").decode()
        output = await self.runner.run_program(source, sample_id=sample_id, timeout_s=timeout_s)
        return ToolReply(text=describe(output, timeout_s), outcome=_outcome(output.end))


def describe(output: ProgramOutput, timeout_s: float) -> str:
    """Output, errors, and how it ended where that was not well."""
    parts = [output.stdout.rstrip("\n")] if output.stdout.strip() else []
    if output.stderr.strip():
        parts.append(f"[stderr]\n{output.stderr.strip()}")
    if output.end is not ProgramEnd.OK:
        limit = f" ({timeout_s:g} s)" if output.end is ProgramEnd.TIME_LIMIT else ""
        parts.append(f"error: {output.end.value}{limit}")
    return "\n".join(parts) or "[no output]"


def _outcome(end: ProgramEnd) -> ToolOutcome:
    if end is ProgramEnd.OK:
        return ToolOutcome.OK
    return ToolOutcome.ERROR if end in FAILURES else ToolOutcome.LIMIT


def _bad_call(problem: str) -> ToolReply:
    return ToolReply(text=f"error: {problem}", outcome=ToolOutcome.BAD_CALL)
