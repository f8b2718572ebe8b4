"""How checkpoints are written and which are kept."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from forklight_core.runfile.sections.section import Positive, Section


class CheckpointsSection(Section):
    """How checkpoints are written and which are kept."""

    asynchronous: bool = True
    """Write while the next step is computed; false: the trainer waits for the disk after every checkpoint."""
    keep_last: Positive = 3
    """Newest checkpoints kept on disk. That of the announced version is kept besides."""
    keep_every_steps: Annotated[int, Field(ge=0)] = 0
    """The first checkpoint of every so many steps is kept for ever; 0: none is."""
