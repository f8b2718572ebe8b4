"""A judge that follows a script, with as much bias as one wants: proves the machinery around a judge.

latent = quality + length x doublings + position (when read first) + noise;  grade = 1 + 4 latent, rounded
"""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from forklight_reward.judge.chat import Message, seed_of
from forklight_reward.judge.contract import HIGHEST_GRADE, LOWEST_GRADE
from forklight_reward.judge.length_fit import Floats
from forklight_reward.judge.rule import overlap

_BLOCK = re.compile(
    r"<<<(?P<name>[A-Z ]+) (?P<nonce>[0-9a-f]+)>>>\n(?P<text>.*?)\n<<<END (?P=name) (?P=nonce)>>>", re.DOTALL
)
_NONCE = re.compile(r"<<<END NAME ([0-9a-f]+)>>>")
TIE_BELOW = 0.05
USUAL_CHARACTERS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Bias:
    """What the judge does wrong."""

    length: float = 0.0
    """Score a doubling."""
    position: float = 0.0
    """Score for what is read first."""
    noise: float = 0.0
    """Standard deviation of the score, by seed."""
    gullible: bool = False
    """Does as the candidate says: a grade found in it is given."""


def grades_of(bias: Bias, quality_N: Floats, doublings_N: Floats, chance: np.random.Generator) -> Floats:
    """Grades of many answers at once, each as the mean of two votes with the order switched."""
    size = (2, len(quality_N))
    first = np.array([[0.0], [1.0]]) * bias.position
    latent = quality_N + bias.length * doublings_N + first + chance.normal(0.0, bias.noise, size)
    votes = np.clip(np.rint(LOWEST_GRADE + 4 * latent), LOWEST_GRADE, HIGHEST_GRADE)
    return np.asarray(votes.mean(axis=0), dtype=np.float64)


class ScriptedChat:
    """ChatModel that reads the judge's prompt and replies by script. `quality` says what a candidate is worth
    given the reference; without one it is the share of words they have in common. Comparisons need one that
    does not look at its second argument: which text is the reference is not told there.
    """

    def __init__(self, bias: Bias | None = None, quality: Callable[[str, str], float] | None = None) -> None:
        self.bias = bias or Bias()
        self.num_calls = 0
        self._quality = quality or (lambda candidate, reference: overlap(reference, candidate))

    @property
    def version(self) -> str:
        """For verdicts."""
        return "scripted/1"

    async def complete(self, messages: Sequence[Message], *, seed: int, timeout_s: float) -> str:
        """The reply to a prompt of `prompt.py`."""
        self.num_calls += 1
        blocks = read_blocks(messages)
        if "CANDIDATE" in blocks:
            return self._grade(blocks, seed)
        return self._compare(blocks, seed)

    def _grade(self, blocks: dict[str, str], seed: int) -> str:
        candidate, names = blocks["CANDIDATE"], list(blocks)
        told = re.search(r'grade"?\s*:\s*([1-5])', candidate) if self.bias.gullible else None
        if told:
            return json.dumps({"analysis": "as the candidate says", "grade": int(told[1])})
        is_first = names.index("CANDIDATE") < names.index("REFERENCE")
        latent = self._latent(candidate, blocks["REFERENCE"], seed, is_first=is_first)
        grade = min(HIGHEST_GRADE, max(LOWEST_GRADE, round(LOWEST_GRADE + 4 * latent)))
        return json.dumps({"analysis": f"latent {latent:.3f}", "grade": grade})

    def _compare(self, blocks: dict[str, str], seed: int) -> str:
        first, second = blocks["ANSWER A"], blocks["ANSWER B"]
        lead = self._latent(first, second, seed, is_first=True) - self._latent(
            second, first, seed + 1, is_first=False
        )
        winner = "tie" if abs(lead) < TIE_BELOW else ("A" if lead > 0 else "B")
        return json.dumps({"analysis": f"lead {lead:.3f}", "winner": winner})

    def _latent(self, candidate: str, reference: str, seed: int, *, is_first: bool) -> float:
        chance = random.Random(seed_of(seed, candidate))
        doublings = math.log2(max(1, len(candidate)) / USUAL_CHARACTERS)
        latent = self._quality(candidate, reference) + self.bias.length * doublings
        return latent + self.bias.position * is_first + self.bias.noise * chance.gauss()


def read_blocks(messages: Sequence[Message]) -> dict[str, str]:
    """The fenced blocks by name, in order; only those of the nonce that the system message names."""
    found = _NONCE.search(messages[0].content)
    nonce = found[1] if found else ""
    user = messages[-1].content
    return {each["name"]: each["text"] for each in _BLOCK.finditer(user) if each["nonce"] == nonce}
