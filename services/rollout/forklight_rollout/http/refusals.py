"""What a client is told when it gets no tokens: a status, and a body in OpenAI's error format."""

from __future__ import annotations

from dataclasses import dataclass

from forklight_core.errors import ForklightError

Json = dict[str, object]

RETRY_SOON_S = 1
"""For a pod that is full: samples end all the time."""
RETRY_LATER_S = 5
"""For a pod that has no weights yet or is going away."""


@dataclass(kw_only=True, eq=False)
class RefusalError(ForklightError):
    """A request that is answered with an error."""

    status: int
    message: str
    param: str | None = None
    reason: str | None = None
    retry_after_s: int | None = None

    def __str__(self) -> str:
        return self.message

    @property
    def headers(self) -> dict[str, str]:
        """Headers that belong to this status."""
        found = {}
        if self.retry_after_s is not None:
            found["Retry-After"] = str(self.retry_after_s)
        if self.status == 401:
            found["WWW-Authenticate"] = "Bearer"
        return found

    def body(self) -> Json:
        """OpenAI's error object."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.reason}}


def bad_request(param: str | None, message: str) -> RefusalError:
    """400: the parameter and what is wrong with it."""
    return RefusalError(status=400, message=message, param=param, reason="invalid_value")


def not_ready(message: str, reason: str, *, retry_after_s: int = RETRY_LATER_S) -> RefusalError:
    """503: nothing is wrong with the request."""
    return RefusalError(status=503, message=message, reason=reason, retry_after_s=retry_after_s)
