"""Scoring."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from forklight_core.runfile.sections.section import Section
from forklight_core.runfile.units import Seconds


class RewardSection(Section):
    """Scoring."""

    correct_weight: Annotated[float, Field(ge=0.0)] = 1.0
    """Weight of the part `correct`."""
    format_weight: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight of the part `format`; it counts only when the answer is correct."""
    max_attempts: Annotated[int, Field(ge=1, le=10)] = 3
    """Tries before a sample ends as reward_failed."""
    timeout_s: Seconds = 30.0
    """Deadline of one try."""
    concurrency: Annotated[int, Field(ge=1, le=1024)] = 16
    """Samples scored at once by one front door."""
    verifier_processes: Annotated[int, Field(ge=1, le=64)] = 1
    """Killable worker processes of one verifier."""
