"""What steers a run while it goes: the length window, and what notices a collapse."""

from __future__ import annotations

from forklight_core.runfile.sections.section import Section


class LengthSection(Section):
    """The window of a response, moved while the policy learns."""


class CollapseSection(Section):
    """What a collapse looks like, and what is done about it."""
