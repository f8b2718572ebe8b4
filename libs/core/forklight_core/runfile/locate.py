"""Where in a TOML file each key stands, for error messages and provenance."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping

Path = tuple[str, ...]


def key_lines(text: str) -> dict[Path, int]:
    """Line of every key and section of a valid TOML text, by path; lines count from 1. Entries of an array
    of tables have their index, counted from 0, in the path."""
    found: dict[Path, int] = {}
    num_entries: dict[Path, int] = {}
    prefix: Path = ()
    for line, statement in _statements(text):
        paths = list(leaf_paths(tomllib.loads(statement)))
        if statement.lstrip().startswith("["):
            prefix = paths[0] if paths else ()
            found.setdefault(prefix, line)
            if statement.lstrip().startswith("[["):
                num_entries[prefix] = num_entries.get(prefix, 0) + 1
                prefix += (str(num_entries[prefix] - 1),)
                found[prefix] = line
        else:
            for path in paths:
                for end in range(len(path)):
                    found.setdefault(prefix + path[: end + 1], line)
    return found


def leaf_paths(table: Mapping[str, object]) -> Iterator[Path]:
    """Paths of all values of nested tables; an empty table counts as a value."""
    for key, value in table.items():
        if isinstance(value, dict) and value:
            yield from ((key, *rest) for rest in leaf_paths(value))
        else:
            yield (key,)


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Each statement with the line it starts at: the fewest lines that parse alone."""
    start, buffer = 1, ""
    for number, line in enumerate(text.splitlines(keepends=True), start=1):
        buffer += line
        try:
            tomllib.loads(buffer)
        except tomllib.TOMLDecodeError:
            continue  # an open array or string: the statement goes on
        yield start, buffer
        start, buffer = number + 1, ""
