"""Finds the program in a response: the last closed code fence after the thinking."""

from __future__ import annotations

import re

from forklight_reward.verifier.extract import final_part

_FENCE = re.compile(r"^[ \t]*```[ \t]*([\w+#.-]*)[ \t]*\n(.*?)^[ \t]*```[ \t]*$", re.MULTILINE | re.DOTALL)
PYTHON_NAMES = frozenset({"", "python", "python3", "py"})


def extract_program(response: str) -> str | None:
    """The source, or None; fences of other languages do not count."""
    found = [
        body for language, body in _FENCE.findall(final_part(response)) if language.lower() in PYTHON_NAMES
    ]
    return found[-1] if found and found[-1].strip() else None
