"""Deployment settings of the trainer, read from the environment (FORKLIGHT_<FIELD>)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from forklight_core.settings import ServiceSettings


class TrainerSettings(ServiceSettings):
    """What a trainer is told by its environment; the recipe is in the run file."""

    blobs_url: str
    """Blob store that payloads come from."""
    buffer_address: str
    """host:port of the buffer."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the model computes; auto takes a GPU when there is one."""
    lease_wait_s: float = Field(default=2.0, gt=0, le=30)
    """How long one question for a batch may wait; a stop is noticed in between."""
    call_deadline_s: float = Field(default=10.0, gt=0)
    """Deadline of one call to the buffer; a call that fails is made again."""
