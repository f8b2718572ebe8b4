"""What a task says of how it is to be judged: `spec` of a prompt row of kind `judge`, all of it optional.

  {"mode": "pairwise", "references": ["another answer", ...], "constraints": [{"rule": "words", "most": 120}]}

`mode`: `five_grades` where `gold` is the truth, `pairwise` where it is an answer to compare with; without it
the run file's. `references`: further answers to compare with, for the third measure against length.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from forklight_core.errors import InvalidInputError
from forklight_reward.judge.constraints import Constraint, read_constraints

KNOWN = ("mode", "references", "constraints")
MOST_REFERENCES = 16


class Mode(StrEnum):
    """Ways to judge."""

    FIVE_GRADES = "five_grades"
    PAIRWISE = "pairwise"


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeSpec:
    """How one task is judged."""

    mode: Mode | None = None
    """None: as the run file says."""
    references: tuple[str, ...] = ()
    constraints: tuple[Constraint, ...] = ()


@lru_cache(maxsize=1024)
def parse_judge_spec(spec_json: str) -> JudgeSpec:
    """The specification; InvalidInputError when it cannot be followed: such a task is no 0."""
    if not spec_json.strip():
        return JudgeSpec()
    try:
        given = json.loads(spec_json)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"judge spec is not JSON: {error}") from None
    if not isinstance(given, dict):
        raise InvalidInputError(
            f"judge spec: give an object of {', '.join(KNOWN)}, not a {type(given).__name__}"
        )
    unknown = sorted(set(given) - set(KNOWN))
    if unknown:
        raise InvalidInputError(f"judge spec does not know {', '.join(unknown)}: it takes {', '.join(KNOWN)}")
    mode, references = given.get("mode"), given.get("references", [])
    if mode is not None and mode not in set(Mode):
        raise InvalidInputError(f"judge spec: mode {mode!r} is not known: use {' or '.join(Mode)}")
    is_list = isinstance(references, list) and len(references) <= MOST_REFERENCES
    if not is_list or not all(isinstance(each, str) and each.strip() for each in references):
        raise InvalidInputError(
            f"judge spec: `references` must be at most {MOST_REFERENCES} texts, none empty"
        )
    return JudgeSpec(
        mode=None if mode is None else Mode(mode),
        references=tuple(references),
        constraints=read_constraints(given.get("constraints", [])),
    )
