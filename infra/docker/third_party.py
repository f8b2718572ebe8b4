#!/usr/bin/env python3
"""Prints what rooms need from elsewhere, one a line: `third_party.py libs/core[s3] services/buffer`.

Installed by itself it is a layer that stays while only our code changes. Standard library only, Python 3.11.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

OURS = "forklight-"
ROOM = re.compile(r"(?P<folder>[\w./-]+)(?:\[(?P<extras>[\w,-]+)\])?")
NAME = re.compile(r"(?P<name>[\w.-]+)(?:\[(?P<extras>[\w,-]+)\])?")


class BadRoomsError(Exception):
    """The list of rooms cannot be installed as it stands."""


def third_party(rooms: Sequence[str], root: Path) -> list[str]:
    """Requirements of all rooms with the extras that are asked for, less those that are rooms themselves."""
    asked = dict(_asked(room, root) for room in rooms)
    projects = {folder: _project(root / folder) for folder in asked}
    present = {str(project["name"]): asked[folder] for folder, project in projects.items()}
    found: set[str] = set()
    for folder, project in projects.items():
        for requirement in _requirements(folder, project, asked[folder]):
            if requirement.startswith(OURS):
                _check_room(folder, requirement, present)
            else:
                found.add(requirement)
    return sorted(found)


def _asked(room: str, root: Path) -> tuple[str, frozenset[str]]:
    match = ROOM.fullmatch(room)
    if match is None or not (root / match["folder"] / "pyproject.toml").is_file():
        raise BadRoomsError(
            f"{room!r} is no room below {root}: expected a folder with a pyproject.toml, extras in brackets "
            "as in libs/core[s3]; is its pyproject.toml copied by the Dockerfile?"
        )
    return match["folder"], frozenset(filter(None, (match["extras"] or "").split(",")))


def _project(folder: Path) -> dict[str, object]:
    project: dict[str, object] = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))[
        "project"
    ]
    return project


def _requirements(folder: str, project: dict[str, object], extras: frozenset[str]) -> Iterator[str]:
    dependencies, optional = project.get("dependencies", []), project.get("optional-dependencies", {})
    assert isinstance(dependencies, list)
    assert isinstance(optional, dict)
    yield from dependencies
    for extra in sorted(extras):
        if extra not in optional:
            raise BadRoomsError(
                f"{folder} has no extra {extra!r}; it has: {', '.join(sorted(optional)) or 'none'}"
            )
        yield from optional[extra]


def _check_room(folder: str, requirement: str, present: dict[str, frozenset[str]]) -> None:
    match = NAME.match(requirement)
    assert match is not None
    wanted = frozenset(filter(None, (match["extras"] or "").split(",")))
    if match["name"] not in present:
        raise BadRoomsError(f"{folder} needs {match['name']}, which is not among the rooms: add its folder")
    if missing := wanted - present[match["name"]]:
        raise BadRoomsError(
            f"{folder} needs {requirement}: add the extra {', '.join(sorted(missing))} to that room"
        )


def main() -> int:
    """Exit 2 and say why when the rooms are wrong."""
    try:
        lines = third_party(sys.argv[1:], Path.cwd())
    except BadRoomsError as error:
        sys.stderr.write(f"third_party.py: {error}\n")
        return 2
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
