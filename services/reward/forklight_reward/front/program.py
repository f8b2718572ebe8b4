"""Finds the program in a response: the last closed code fence after the thinking; for a repository task
all of it, since the sandbox looks for the diff.
"""

from __future__ import annotations

import json
import re

from forklight_reward.verifier.extract import final_part

_FENCE = re.compile(r"^[ \t]*```[ \t]*([\w+#.-]*)[ \t]*\n(.*?)^[ \t]*```[ \t]*$", re.MULTILINE | re.DOTALL)
PYTHON_NAMES = frozenset({"", "python", "python3", "py"})


def extract_source(response: str, spec_json: str) -> str | None:
    """What the sandbox gets of a response, by the mode of its task; None when there is nothing."""
    if is_repository(spec_json):
        return final_part(response).strip("\r\n") or None
    return extract_program(response)


def is_repository(spec_json: str) -> bool:
    """True when the answer is a patch. What cannot be read is the sandbox's to refuse."""
    try:
        spec = json.loads(spec_json)
    except (ValueError, RecursionError):
        return False
    return isinstance(spec, dict) and spec.get("mode") == "repo"


def extract_program(response: str) -> str | None:
    """The source, or None; fences of other languages do not count."""
    found = [
        body for language, body in _FENCE.findall(final_part(response)) if language.lower() in PYTHON_NAMES
    ]
    return found[-1] if found and found[-1].strip() else None
