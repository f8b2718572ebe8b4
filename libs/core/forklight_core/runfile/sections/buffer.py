"""Groups, credit, staleness."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from forklight_core.runfile.sections.section import Positive, Section
from forklight_core.runfile.units import Bytes, Count, Seconds


class BufferSection(Section):
    """Groups, credit, staleness."""

    max_staleness: Annotated[int, Field(ge=0)] = 2
    """Policy versions a sample may be behind when it is trained on."""
    max_open_groups: Positive = 512
    """Groups that may be open at once."""
    max_open_tokens: Count = 1_000_000_000
    """Credit: tokens that open groups may still produce or hold."""
    max_open_bytes: Bytes = 100 * 2**30
    """Credit: blob bytes that open groups may still produce or hold."""
    lease_s: Seconds = 30.0
    """A lease not renewed for so long goes to another worker."""
    max_deliveries: Annotated[int, Field(ge=1, le=100)] = 5
    """Deliveries of one queue entry before it becomes a dead letter."""
    dynamic_sampling: bool = True
    """Filter groups whose rewards are all equal, and open others instead."""
    min_scored_samples: Annotated[int, Field(ge=1)] = 2
    """A group with fewer scored samples is not trained on."""
    watchdog_s: Seconds = 300.0
    """A sample open for longer is reported as stuck, with where and since when."""
