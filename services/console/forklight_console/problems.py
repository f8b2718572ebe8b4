"""An error of our tree as a status of HTTP."""

from __future__ import annotations

from fastapi import HTTPException

from forklight_console.shown import visible
from forklight_core.errors import (
    BusyError,
    DeadlineError,
    FencedError,
    ForklightError,
    InvalidInputError,
    NotFoundError,
    PreconditionError,
    UnavailableError,
)

STATUSES: tuple[tuple[type[ForklightError], int], ...] = (
    (NotFoundError, 404),
    (InvalidInputError, 422),
    (PreconditionError, 409),
    (FencedError, 409),
    (BusyError, 503),
    (UnavailableError, 503),
    (DeadlineError, 504),
)


def status_of(error: ForklightError) -> int:
    """502 where nothing says more."""
    return next((status for kind, status in STATUSES if isinstance(error, kind)), 502)


def as_http(error: ForklightError) -> HTTPException:
    """For programs."""
    return HTTPException(status_of(error), visible(str(error), most=2000))
