"""The tool `shell`: commands in a folder that begins with the task's files and keeps what they change.

Nobody holds the folder for a response: its earlier commands say how it stands, so any sandbox can go on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from forklight_core.blobs import BlobRef
from forklight_core.wire import Session
from forklight_rollout.tools.format import ParsedCall, parse_call
from forklight_rollout.tools.ports import Arguments, ToolCall, ToolReply, ToolRules, bad_call
from forklight_rollout.tools.python import ProgramOutput, reply_of

NAME = "shell"
MOST_COMMAND_BYTES = 65536
USE = 'shell takes {"command": "..."}, a command line of sh as text'


class SessionRunner(Protocol):
    """Where sessions run."""

    async def act(self, workspace: BlobRef, session: Session, *, sample_id: str) -> ProgramOutput:
        """What the session's last command printed. UnavailableError, BusyError or DeadlineError when it could
        not be run now.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ShellTool:
    """See `Tool`. Arguments: `command`."""

    runner: SessionRunner

    async def run(self, arguments: Arguments, call: ToolCall) -> ToolReply:
        workspace = call.rules.workspace
        if workspace is None:
            return bad_call("this task has no files; go on without the shell")
        command = read_command(arguments)
        if command is None:
            return bad_call(f"{USE}, not empty and at most {MOST_COMMAND_BYTES} bytes")
        session = session_of(call.earlier, call.rules)
        before = () if session is None else session.commands
        session = Session(commands=(*before, command), timeout_s=call.rules.timeout_s)
        output = await self.runner.act(workspace, session, sample_id=call.sample_id)
        return reply_of(output, call.rules.timeout_s, "command")


def read_command(arguments: Arguments) -> str | None:
    """The command line, when the arguments are sound."""
    command = arguments.get("command")
    if set(arguments) != {"command"} or not isinstance(command, str) or not command.strip():
        return None
    # A lone surrogate can be written in JSON and nowhere else, a NUL in no command line.
    command = command.encode("utf-8", "replace").decode().replace("\0", "")
    return command if len(command.encode()) <= MOST_COMMAND_BYTES else None


def session_of(calls: Sequence[str], rules: ToolRules) -> Session | None:
    """The commands among a response's answered calls; None when there are none."""
    commands = []
    if rules.workspace is None or NAME not in rules.names:
        return None
    for text in calls[: rules.max_calls]:
        parsed = parse_call(text)
        if isinstance(parsed, ParsedCall) and parsed.name == NAME:
            command = read_command(parsed.arguments)
            commands += [] if command is None else [command]
    return Session(commands=tuple(commands), timeout_s=rules.timeout_s) if commands else None
