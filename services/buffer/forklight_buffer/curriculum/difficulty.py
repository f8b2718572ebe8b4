"""How hard each prompt is, as far as its finished groups say: Beta(a, b) of its pass rate."""

from __future__ import annotations

from array import array

from forklight_core.runfile.sections.curriculum import DifficultySection

UNIT = 2**20
"""The weight of a prompt that teaches as much as one can: E[p(1-p)] = 1/4."""


class Difficulty:
    """Two numbers a prompt: evidence for and against, without the prior of 1 each."""

    def __init__(self, num_prompts: int, section: DifficultySection) -> None:
        self._right = array("d", bytes(8 * num_prompts))
        self._wrong = array("d", bytes(8 * num_prompts))
        self._section = section

    def learn(self, place: int, num_scored: int, passed: float) -> None:
        """A group of the prompt has finished."""
        decay = self._section.decay
        self._right[place] = self._right[place] * decay + passed
        self._wrong[place] = self._wrong[place] * decay + (num_scored - passed)

    def posterior(self, place: int) -> tuple[float, float]:
        """a and b."""
        return 1.0 + self._right[place], 1.0 + self._wrong[place]

    def weight(self, place: int) -> int:
        """explore + (1 - explore) x 4 E[p(1-p)], in units; E[p(1-p)] = ab / ((a+b)(a+b+1))."""
        a, b = self.posterior(place)
        both = a + b
        spread = 4.0 * a * b / (both * (both + 1.0))
        explore = self._section.explore
        return max(1, round((explore + (1.0 - explore) * spread) * UNIT))
