"""Which implementation of an op runs: the plain one, torch's, or Triton's.

Owns the choice only; every op asks `backend_for(...)` at its door.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import StrEnum
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor


class Backend(StrEnum):
    """AUTOMATIC picks the fastest for the device; the others are for tests and for hunting a difference."""

    AUTOMATIC = "automatic"
    NAIVE = "naive"
    TORCH = "torch"
    TRITON = "triton"


TRITON_DTYPES = (torch.bfloat16, torch.float16, torch.float32)

_selected: ContextVar[Backend] = ContextVar("forklight_kernels_backend", default=Backend.AUTOMATIC)


@contextmanager
def using_backend(backend: Backend) -> Iterator[None]:
    """Run every op called inside the block with this backend (tests and parity hunts)."""
    token = _selected.set(backend)
    try:
        yield
    finally:
        _selected.reset(token)


def backend_for(tensor: Tensor) -> Backend:
    """NAIVE, TORCH or TRITON for an op whose main input this is."""
    return backend_on(tensor.device, tensor.dtype)


def backend_on(device: torch.device, dtype: torch.dtype) -> Backend:
    """What runs for tensors like this. float64 is torch's: a truth run."""
    selected = _selected.get()
    if selected is not Backend.AUTOMATIC:
        return selected
    if device.type == "cuda" and dtype in TRITON_DTYPES and has_triton():
        return Backend.TRITON
    return Backend.TORCH


@cache
def has_triton() -> bool:
    """Whether the Triton compiler is installed (pip install "forklight-kernels[gpu]")."""
    return find_spec("triton") is not None
