"""`python -m forklight_buffer`: the buffer of one run."""

from __future__ import annotations

from forklight_buffer.app import run
from forklight_buffer.settings import BufferSettings
from forklight_core.lifecycle import start_service

if __name__ == "__main__":
    start_service("buffer", __doc__ or "", BufferSettings, run)
