"""Files of lines that are appended to and may be cut off by a crash."""

from __future__ import annotations

from pathlib import Path


def count_whole_lines(path: Path) -> int:
    """Lines of a file; one that was cut off by a crash is cut away."""
    if not path.exists():
        return 0
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with path.open("r+b") as file:
            file.truncate(whole)
    return content[:whole].count(b"\n")
