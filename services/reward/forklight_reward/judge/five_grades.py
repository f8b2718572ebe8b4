"""Five grades against a ground truth: votes with the order switched, one more when they are far apart."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from forklight_reward.judge.answer import ask, parse_grade
from forklight_reward.judge.chat import ChatModel, seed_of, together
from forklight_reward.judge.contract import LOWEST_GRADE, Judgement, abstain, score_of
from forklight_reward.judge.prompt import PromptOptions, Question, grade_messages

APART = 2
FLOOR_GRADE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class GradeOptions:
    """How votes are held."""

    num_votes: int = 2
    """Every second one shows the candidate first. More than two tell more only at a temperature above 0."""
    binary_floor: bool = False
    """Nothing at all for grades of 2 and less."""
    prompt: PromptOptions = field(default_factory=PromptOptions)


class FiveGrades:
    """JudgeEngine over a chat model."""

    def __init__(self, chat: ChatModel, options: GradeOptions | None = None) -> None:
        self._chat = chat
        self.options = options or GradeOptions()

    @property
    def version(self) -> str:
        """Model, prompt and votes."""
        options = self.options
        floor = "+floor" if options.binary_floor else ""
        return f"five-grades/1 {self._chat.version} {options.prompt.version} votes={options.num_votes}{floor}"

    async def judge(self, *, prompt: str, reference: str, answer: str, timeout_s: float) -> Judgement:
        """The mean of votes that agree, the median of those that did not at first, or an abstention."""
        if not reference.strip():
            return abstain("the reference is empty")
        question = Question(task=prompt, reference=reference, candidate=answer)
        deadline = time.monotonic() + timeout_s
        numbers = range(self.options.num_votes)
        votes = await together(*(self._vote(question, number, deadline) for number in numbers))
        grades = [vote for vote in votes if vote is not None]
        if len(grades) < len(votes):
            return abstain("the judge's reply could not be read after 3 tries")
        if max(grades) - min(grades) < APART:
            return self._judgement(statistics.fmean(grades), grades)
        extra = await self._vote(question, len(numbers), deadline)
        if extra is None:
            return abstain(f"the votes {grades} are apart, and one more could not be read")
        return self._settle([*grades, extra])

    async def _vote(self, question: Question, number: int, deadline: float) -> int | None:
        return await ask(
            self._chat,
            lambda is_again: grade_messages(
                question, self.options.prompt, candidate_first=number % 2 == 1, is_again=is_again
            ),
            parse_grade,
            seed=seed_of(*question.parts, number),
            timeout_s=deadline - time.monotonic(),
        )

    def _settle(self, grades: Sequence[int]) -> Judgement:
        """The median, if more than half of the votes are next to it."""
        median = statistics.median(grades)
        num_near = sum(abs(grade - median) < APART for grade in grades)
        if 2 * num_near <= len(grades):
            return abstain(f"the votes {list(grades)} stay apart")
        return self._judgement(median, grades)

    def _judgement(self, value: float, grades: Sequence[int]) -> Judgement:
        is_floored = self.options.binary_floor and value <= FLOOR_GRADE
        return Judgement(
            grade=LOWEST_GRADE if is_floored else int(value),
            exact=0.0 if is_floored else score_of(value),
            evidence=f"votes {', '.join(map(str, grades))}",
        )
