"""The error tree over gRPC: the status code, the message, and the error's class name in trailing metadata."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import grpc

from forklight_core.errors import (
    BusyError,
    DataLossError,
    DeadlineError,
    FencedError,
    ForklightError,
    InvalidInputError,
    NotFoundError,
    PreconditionError,
    UnavailableError,
    all_errors,
)

ERROR_NAME = "forklight-error"
RETRY_AFTER = "retry-after-ms"
LONGEST_HINT_S = 600.0

_NOBODY = ("Connection refused", "nobody listens there: it is not up, or has another address now")
_TLS_ADVICE = (
    _NOBODY,
    (
        "WRONG_VERSION_NUMBER",
        "that door speaks plaintext: give it certificates, or unset them here",
    ),
    (
        "CERTIFICATE_VERIFY_FAILED",
        "the door's certificate has expired or is not of the authority in FORKLIGHT_TLS_CA",
    ),
    (
        "Hostname Verification",
        "the door's certificate lacks the name that was called: issue it with that name, or set "
        "FORKLIGHT_TLS_NAME to one it has",
    ),
    ("Socket closed", "if it stays so: the door does not accept the certificate in FORKLIGHT_TLS_CERT"),
    ("reset by peer", "if it stays so: the door does not accept the certificate in FORKLIGHT_TLS_CERT"),
)
_NEEDS_CERTIFICATES = "if it stays so: that door wants certificates; set FORKLIGHT_TLS_CERT, _KEY and _CA"
_PLAIN_ADVICE = (_NOBODY, ("Socket closed", _NEEDS_CERTIFICATES), ("reset by peer", _NEEDS_CERTIFICATES))

_BY_CODE: dict[grpc.StatusCode, type[ForklightError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidInputError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.ABORTED: FencedError,
    grpc.StatusCode.FAILED_PRECONDITION: PreconditionError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: BusyError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineError,
    grpc.StatusCode.CANCELLED: UnavailableError,
    grpc.StatusCode.DATA_LOSS: DataLossError,
}


def status_of(error: BaseException) -> grpc.StatusCode:
    """The status code of an error; what is not ours is INTERNAL."""
    return grpc.StatusCode[error.code] if isinstance(error, ForklightError) else grpc.StatusCode.INTERNAL


def trailing_of(error: ForklightError) -> tuple[tuple[str, str], ...]:
    """What travels behind a failed call: the class name, and when to try again."""
    named = (ERROR_NAME, type(error).__name__)
    hint = getattr(error, "retry_after_s", None)
    return (named,) if hint is None else (named, (RETRY_AFTER, str(round(hint * 1000))))


def with_advice(code: grpc.StatusCode, details: str, has_certificates: bool) -> str:
    """What gRPC says of a connection that failed, and what to do when certificates are the reason."""
    if code is not grpc.StatusCode.UNAVAILABLE:
        return details
    for sign, advice in _TLS_ADVICE if has_certificates else _PLAIN_ADVICE:
        if sign in details:
            return f"{details} ({advice})"
    return details


def error_of(code: grpc.StatusCode, details: str, metadata: Iterable[Any], where: str) -> ForklightError:
    """The error a status stands for; the class name in the metadata wins over the code."""
    names = dict(metadata)
    name = str(names.get(ERROR_NAME, ""))
    cls = all_errors().get(name) or _BY_CODE.get(code, ForklightError)
    error = cls(details if name else f"{where}: {code.name}: {details}")
    hint = str(names.get(RETRY_AFTER, ""))
    if isinstance(error, BusyError) and hint.isdecimal():
        error.retry_after_s = min(int(hint[:9]) / 1000, LONGEST_HINT_S)
    return error


def error_named(name: str, message: str) -> ForklightError:
    """The error of a class of the tree; one that this build does not know is a ForklightError."""
    return all_errors().get(name, ForklightError)(message)
