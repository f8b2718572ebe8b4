"""The tool `python`: a program in a fresh jail, without network and input. It says what it printed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from forklight_rollout.tools.ports import Arguments, ToolCall, ToolOutcome, ToolReply, bad_call

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

    async def run(self, arguments: Arguments, call: ToolCall) -> ToolReply:
        code = arguments.get("code")
        if set(arguments) != {"code"} or not isinstance(code, str) or not code.strip():
            return bad_call('python takes {"code": "..."}, a program as text')
        if len(code.encode("utf-8", "replace")) > MOST_CODE_BYTES:
            return bad_call(f"the program is longer than {MOST_CODE_BYTES} bytes")
        # A lone surrogate can be written in JSON, and nowhere else.
        source = code.encode("utf-8", "replace").decode()
        timeout_s = call.rules.timeout_s
        output = await self.runner.run_program(source, sample_id=call.sample_id, timeout_s=timeout_s)
        return reply_of(output, timeout_s)


def reply_of(output: ProgramOutput, timeout_s: float, noun: str = "program") -> ToolReply:
    """What the model is told of a program, or of something else that runs like one."""
    return ToolReply(text=describe(output, timeout_s, noun), outcome=_outcome(output.end))


def describe(output: ProgramOutput, timeout_s: float, noun: str = "program") -> str:
    """Output, errors, and how it ended where that was not well."""
    parts = [output.stdout.rstrip("\n")] if output.stdout.strip() else []
    if output.stderr.strip():
        parts.append(f"[stderr]\n{output.stderr.strip()}")
    if output.end is not ProgramEnd.OK:
        limit = f" ({timeout_s:g} s)" if output.end is ProgramEnd.TIME_LIMIT else ""
        parts.append(f"error: {output.end.value.replace('program', noun)}{limit}")
    return "\n".join(parts) or "[no output]"


def _outcome(end: ProgramEnd) -> ToolOutcome:
    if end is ProgramEnd.OK:
        return ToolOutcome.OK
    return ToolOutcome.ERROR if end in FAILURES else ToolOutcome.LIMIT
