"""Exit codes of the `forklight` command."""

from __future__ import annotations

from enum import IntEnum

from forklight_core.errors import (
    BusyError,
    DeadlineError,
    ForklightError,
    InvalidInputError,
    NotFoundError,
    UnavailableError,
)


class ExitCode(IntEnum):
    """What the shell is told."""

    OK = 0
    FAILED = 1
    """A check, an audit or a run failed."""
    BAD_INPUT = 2
    """The command line, a file or an id is wrong."""
    UNAVAILABLE = 3
    """Something that must answer does not, or is taken."""


def exit_code_of(error: ForklightError) -> ExitCode:
    """The exit code of an error of our tree."""
    if isinstance(error, InvalidInputError | NotFoundError):
        return ExitCode.BAD_INPUT
    if isinstance(error, UnavailableError | DeadlineError | BusyError):
        return ExitCode.UNAVAILABLE
    return ExitCode.FAILED
