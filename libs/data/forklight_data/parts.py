"""The parts of a split as people name them: NAME=0.9, NAME=500 or NAME=rest."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from forklight_core.errors import InvalidInputError

NAME = re.compile(r"[a-z][a-z0-9_-]{0,40}")
REST = "rest"


@dataclass(frozen=True, slots=True, kw_only=True)
class PartSpec:
    """One part: a share, a number of records, or what is left."""

    name: str
    share: Fraction | None = None
    count: int | None = None

    @property
    def is_rest(self) -> bool:
        """Takes what no other part took."""
        return self.share is None and self.count is None


def read_parts(texts: Sequence[str]) -> tuple[PartSpec, ...]:
    """InvalidInputError says which text is wrong; shares must add up to 1, or a rest take what is left."""
    parts = tuple(_read(text) for text in texts)
    names = [part.name for part in parts]
    if len(parts) < 2 or len(set(names)) != len(names):
        raise InvalidInputError("name at least two parts, each once: --part train=0.95 --part test=0.05")
    num_rests = sum(part.is_rest for part in parts)
    shares = [part.share for part in parts if part.share is not None]
    if shares and any(part.count is not None for part in parts):
        raise InvalidInputError("parts are all shares or all numbers; one of them may be `rest`")
    total = sum(shares, Fraction(0))
    if num_rests > 1 or total > 1 or (num_rests == 0 and total != 1):
        raise InvalidInputError(f"shares add up to {float(total):g}, not 1; give one part as `rest`")
    return parts


def _read(text: str) -> PartSpec:
    name, _, value = text.partition("=")
    if not NAME.fullmatch(name):
        raise InvalidInputError(f"part {text!r}: expected NAME=0.9, NAME=500 or NAME={REST}")
    if value == REST:
        return PartSpec(name=name)
    try:
        if value.isdigit():
            return PartSpec(name=name, count=int(value))
        share = Fraction(value)
    except ValueError:
        raise InvalidInputError(f"part {text!r}: {value!r} is no share, number or {REST}") from None
    if not 0 < share < 1:
        raise InvalidInputError(f"part {text!r}: a share is between 0 and 1")
    return PartSpec(name=name, share=share)
