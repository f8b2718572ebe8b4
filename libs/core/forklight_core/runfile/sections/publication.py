"""How weights reach rollout."""

from __future__ import annotations

from forklight_core.runfile.sections.section import Section


class PublicationSection(Section):
    """How weights reach rollout."""
