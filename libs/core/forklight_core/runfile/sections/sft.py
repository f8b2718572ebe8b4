"""The cold start."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from forklight_core.runfile.sections.section import Positive, Section


class SftSection(Section):
    """Cold start: supervised training from random weights or `model.path`."""

    demonstrations: str = ""
    """JSON lines of {prompt, response}; empty: no cold start."""
    steps: Positive = 500
    """Optimizer steps."""
    batch_size: Positive = 64
    """Demonstrations a step."""
    learning_rate: Annotated[float, Field(gt=0.0, le=1.0)] = 1e-3
    """Peak learning rate; cosine to a tenth."""
