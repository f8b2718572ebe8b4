"""Which implementation of an op runs: the plain one, or the fast one for the tensor's device.

Owns the choice only. Ops ask `uses_naive()` at their door; a Triton backend adds one more answer here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import StrEnum


class Backend(StrEnum):
    """AUTOMATIC picks the fastest implementation for the device; NAIVE is the readable truth."""

    AUTOMATIC = "automatic"
    NAIVE = "naive"


_selected: ContextVar[Backend] = ContextVar("forklight_kernels_backend", default=Backend.AUTOMATIC)


@contextmanager
def using_backend(backend: Backend) -> Iterator[None]:
    """Run every op called inside the block with this backend (tests and parity hunts)."""
    token = _selected.set(backend)
    try:
        yield
    finally:
        _selected.reset(token)


def uses_naive() -> bool:
    return _selected.get() is Backend.NAIVE
