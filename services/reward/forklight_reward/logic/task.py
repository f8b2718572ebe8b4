"""What every logic task is: a generator, a solver and a verifier that share a specification.

    generate(seed, level) -> Puzzle(prompt, spec) --policy--> answer --verify(spec, answer)--> right or not

The prompt is for the policy and says how to write the answer. The specification is for the verifier and never
leaves the reward service's side: it may hold the solution.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

Json: TypeAlias = "str | int | bool | Sequence[Json] | Mapping[str, Json] | None"
Spec: TypeAlias = Mapping[str, Json]
"""Plain JSON values, no floats: the same bytes wherever it is written."""

LEVELS = range(1, 6)
"""Of difficulty, for every task."""
MOST_ANSWER_CHARACTERS = 4096
"""A longer answer is wrong, unread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Puzzle:
    """One item."""

    prompt: str
    spec: Spec


class LogicTask(Protocol):
    """Stateless. `verify` never raises for any text, takes less than 10 ms, and gives no part marks."""

    @property
    def name(self) -> str:
        """As in specifications and statistics: lower case, words joined by underscores."""
        ...

    def generate(self, chance: random.Random, level: int) -> Puzzle:
        """Draw a puzzle that has a solution; all of its chance comes from `chance`."""
        ...

    def solve(self, spec: Spec) -> str:
        """An answer that `verify` accepts, written as the prompt asks."""
        ...

    def verify(self, spec: Spec, answer: str) -> bool:
        """Whether an answer is right: parsed strictly, any right one is accepted where there are several."""
        ...
