"""Finds the program in a response: the last closed code fence after the thinking; for a repository task
all of it, since the sandbox looks for the diff.
"""

from __future__ import annotations

import json
import re

from forklight_reward.verifier.extract import final_part

_FENCE = re.compile(r"^[ \t]*```[ \t]*([\w+#.-]*)[ \t]*\n(.*?)^[ \t]*```[ \t]*$", re.MULTILINE | re.DOTALL)
PYTHON_NAMES = frozenset({"", "python", "python3", "py"})
CPP_NAMES = frozenset({"", "cpp", "c++", "cc", "cxx"})


def extract_source(response: str, spec_json: str) -> str | None:
    """What the sandbox gets of a response, by its task; None when there is nothing."""
    if is_repository(spec_json):
        return final_part(response).strip("\r\n") or None
    return extract_program(response, CPP_NAMES if field_of(spec_json, "language") == "cpp" else PYTHON_NAMES)


def field_of(spec_json: str, name: str) -> object:
    """One field of a spec. What cannot be read is the sandbox's to refuse."""
    try:
        spec = json.loads(spec_json)
    except (ValueError, RecursionError):
        return None
    return spec.get(name) if isinstance(spec, dict) else None


def is_repository(spec_json: str) -> bool:
    """True when the answer is a patch."""
    return field_of(spec_json, "mode") == "repo"


def extract_program(response: str, names: frozenset[str] = PYTHON_NAMES) -> str | None:
    """The source, or None; fences of other languages do not count."""
    found = [body for language, body in _FENCE.findall(final_part(response)) if language.lower() in names]
    return found[-1] if found and found[-1].strip() else None
