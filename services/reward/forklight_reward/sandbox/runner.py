"""The port between what is judged and where it runs: one job goes in, how it ended comes out.

Whoever judges knows nothing of jails, containers or pods. Expected values are no part of a job.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from forklight_core.errors import UnavailableError
from forklight_reward.sandbox.result import Class, Usage
from forklight_reward.sandbox.spec import Limits

PYTHON = "python"
COMPILER = "c++"


class Tier(StrEnum):
    """How strongly a program is kept apart from this machine, weakest first."""

    PROCESS = "process"
    """Limits only: for trusted programs, or where the operator says so."""
    JAIL = "jail"
    """Namespaces, a system call filter and limits, under the machine's kernel."""
    CONTAINER = "container"
    POD = "pod"


class JobKind(StrEnum):
    """What a job does with its parts."""

    PROGRAM = "program"
    """Runs `source` as a Python program with `stdin`."""
    FUNCTION = "function"
    """Defines `source`, calls `entry` for each line of JSON arguments in `stdin`, reports a line for each."""
    COMMAND = "command"
    """Lays out `files`, runs `command` among them with `stdin`, and gives back what `collect` names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run in a fresh place: what to run, what it reads, what it may use."""

    kind: JobKind
    limits: Limits
    source: bytes = b""
    entry: str = ""
    stdin: bytes = b""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Relative path to bytes, laid out in the writable working folder before anything runs."""
    command: tuple[str, ...] = ()
    """Arguments of kind COMMAND. As the first, `python` and `c++` (PYTHON, COMPILER) stand for the
    runner's own; one that names a file of the job is made executable.
    """
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables beside the few that every job has."""
    mounts: Mapping[str, str] = field(default_factory=dict)
    """Folders of trusted content, seen read-only: place in the jail to place on this machine."""
    collect: tuple[str, ...] = ()
    """Files and folders given back when a COMMAND has ended (`.`: the whole working folder); no links."""
    alone: bool = False
    """Wanted: no other job of this runner meanwhile, because a clock was close."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a job ended: the limit it ran into, if any; the exit code is 128 + signal after a signal."""

    exit_code: int
    broke: Class | None
    stdout: bytes
    stderr: bytes
    report: bytes
    """Of kind FUNCTION: a line of JSON a call, {"value": ...} or {"error": ...}; of a source that does not
    compile {"compile_error": ...}, of a command that is not there {"missing": ...}. The program's word,
    whatever it says.
    """
    usage: Usage
    files: Mapping[str, bytes] = field(default_factory=dict)
    """What was collected. The program's word too."""


class NeverStartedError(UnavailableError):
    """The place was gone before the job began, so another one may have it."""


class Runner(Protocol):
    """Runs jobs, each in a fresh place; safe to call from several threads."""

    @property
    def version(self) -> str:
        """What programs run on, for verdicts."""

    @property
    def tier(self) -> Tier:
        """How strong the walls are."""

    def run(self, job: Job) -> Ended:
        """Run one job to its end; afterwards nothing of it lives. UnavailableError when the machinery failed,
        never because of the program.
        """

    def close(self) -> None:
        """Give back what is held between jobs."""
