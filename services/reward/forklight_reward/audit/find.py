"""Looks a verdict up in the files. Unproven: the check proves."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from forklight_core.errors import DataLossError, InvalidInputError, NotFoundError
from forklight_reward.audit.chain import Body, read_body
from forklight_reward.audit.record import TYPE
from forklight_reward.audit.shard import SUFFIX

SHORTEST = 8
_KEY = re.compile(rf"[0-9a-f]{{{SHORTEST},64}}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A line and where it is."""

    path: Path
    number: int
    body: Body


def find_verdicts(folder: Path, name: str) -> list[Found]:
    """Lines of a key, of one that begins with `name`, or of a sample; oldest first.

    NotFoundError when there is none, InvalidInputError when the beginning fits several keys.
    """
    is_sample = "/" in name
    if not is_sample and not _KEY.fullmatch(name):
        raise InvalidInputError(
            f"{name!r} is neither a key (at least {SHORTEST} hex digits of it) nor a sample id "
            "(RUN/gNNNNNNNN/sNNN)"
        )
    found = [
        each
        for path in sorted(folder.glob(f"*{SUFFIX}"))
        for each in _lines_with(path, name)
        if (each.body.get("sample") == name if is_sample else str(each.body.get("key")).startswith(name))
    ]
    if not found:
        raise NotFoundError(f"no verdict of {name} in {folder}")
    keys = {str(each.body.get("key")) for each in found}
    if not is_sample and len(keys) > 1:
        raise InvalidInputError(f"{len(keys)} keys begin with {name}: {', '.join(sorted(keys)[:4])}")
    return found


def _lines_with(path: Path, name: str) -> Iterator[Found]:
    needle = name.encode()
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if needle not in line or not line.endswith(b"\n"):
                continue
            try:
                body = read_body(line)
            except DataLossError:
                continue
            if body.get("type") == TYPE:
                yield Found(path=path, number=number, body=body)
