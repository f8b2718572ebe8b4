"""How checkpoints are written and which are kept."""

from __future__ import annotations

from forklight_core.runfile.sections.section import Section


class CheckpointsSection(Section):
    """How checkpoints are written and which are kept."""
