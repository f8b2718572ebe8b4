"""Deployment settings of a rollout pod, read from the environment (FORKLIGHT_<FIELD>)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from forklight_core.settings import ServiceSettings


class RolloutSettings(ServiceSettings):
    """What a pod is told by its environment; how to sample is in the run file and in each task."""

    redis_url: str
    """Redis that holds the task queue and the newest weights."""
    blobs_url: str
    """Blob store that payloads go to."""
    buffer_address: str
    """host:port of the buffer."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the model computes; auto takes a GPU when there is one."""
    max_prompt_tokens: int = Field(default=1024, ge=1)
    """Longest prompt in tokens; with sampling.max_new_tokens it is the length of a cache slot."""
    cache_memory_bytes: int = Field(default=0, ge=0)
    """Memory of the device that the caches may take; 0: a quarter of what is free at start."""
    weights_poll_s: float = Field(default=0.5, gt=0, le=60)
    """Seconds between two looks for new weights."""
    submit_deadline_s: float = Field(default=300.0, gt=0)
    """How long a sample is offered to a buffer that does not answer before its group is handed back."""
