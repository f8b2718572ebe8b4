"""What the buffer is told by its environment."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from forklight_core.settings import ServiceSettings


class BufferSettings(ServiceSettings):
    """Deployment of the buffer; the experiment is in the run file."""

    redis_url: str
    """Redis-protocol server that holds open samples and queues."""
    blobs_url: str
    """Where payloads and task specs live: file:///path, s3://bucket/prefix or memory://name."""
    blob_margin_s: Annotated[float, Field(ge=0.0)] = 3600.0
    """Payloads of samples that are over stay for at least so long, for people who look at them."""
