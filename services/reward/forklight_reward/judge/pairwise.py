"""Better, equal or worse than a reference answer, asked in both orders; and how often the order decided."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

from forklight_reward.judge.answer import Winner, ask, parse_winner
from forklight_reward.judge.chat import ChatModel, seed_of, together
from forklight_reward.judge.contract import Judgement, abstain
from forklight_reward.judge.prompt import PromptOptions, Question, winner_messages

NUM_PAIRS = 512
MOST_INCONSISTENCY = 0.25
MOST_POSITION_BIAS = 0.1
MIDDLE_GRADE = 3
_FOR_FIRST = {Winner.A: 1, Winner.TIE: 0, Winner.B: -1}


@dataclass(frozen=True, slots=True, kw_only=True)
class PairReport:
    """How consistent the judge is: `inconsistency` is the share of pairs where the order mattered,
    `position_bias` is above 0 when it favours what it reads first.
    """

    num_pairs: int
    inconsistency: float
    position_bias: float

    @property
    def is_alarm(self) -> bool:
        """Only over a full window."""
        is_biased = abs(self.position_bias) > MOST_POSITION_BIAS
        return self.num_pairs >= NUM_PAIRS and (self.inconsistency > MOST_INCONSISTENCY or is_biased)


class PairStatistics:
    """Over the last 512 pairs."""

    def __init__(self) -> None:
        self._pairs: deque[tuple[int, int]] = deque(maxlen=NUM_PAIRS)
        self.num_added = 0

    def add(self, shown_first: int, shown_second: int) -> None:
        """The candidate's result when it was shown first, and second: -1, 0 or 1."""
        self._pairs.append((shown_first, shown_second))
        self.num_added += 1

    def report(self) -> PairReport:
        """Of what there is."""
        num = len(self._pairs)
        switched = sum(first != second for first, second in self._pairs)
        leaning = sum(first - second for first, second in self._pairs) / 2
        share = 1 / num if num else 0.0
        return PairReport(num_pairs=num, inconsistency=switched * share, position_bias=leaning * share)


class Pairwise:
    """JudgeEngine by comparison: grades 1, 3 and 5 for worse, equal and better than the reference. A judge
    whose answer depends on the order says equal.
    """

    def __init__(self, chat: ChatModel, options: PromptOptions | None = None) -> None:
        self._chat = chat
        self._options = options or PromptOptions()
        self.statistics = PairStatistics()

    @property
    def version(self) -> str:
        """Model and prompt."""
        return f"pairwise/1 {self._chat.version} {self._options.version}"

    async def compare(self, question: Question, timeout_s: float) -> int | None:
        """-1, 0 or 1 for the candidate; None when a reply could not be read."""
        deadline = time.monotonic() + timeout_s
        first, second = await together(
            self._ask(question, deadline, candidate_first=True),
            self._ask(question, deadline, candidate_first=False),
        )
        if first is None or second is None:
            return None
        shown_first, shown_second = _FOR_FIRST[first], -_FOR_FIRST[second]
        self.statistics.add(shown_first, shown_second)
        return shown_first if shown_first == shown_second else 0

    async def judge(self, *, prompt: str, reference: str, answer: str, timeout_s: float) -> Judgement:
        """Against the reference."""
        if not reference.strip():
            return abstain("the reference is empty")
        result = await self.compare(Question(task=prompt, reference=reference, candidate=answer), timeout_s)
        if result is None:
            return abstain("the judge's reply could not be read after 3 tries")
        return Judgement(grade=MIDDLE_GRADE + 2 * result, evidence=f"against the reference: {result:+d}")

    async def _ask(self, question: Question, deadline: float, *, candidate_first: bool) -> Winner | None:
        return await ask(
            self._chat,
            lambda is_again: winner_messages(
                question, self._options, candidate_first=candidate_first, is_again=is_again
            ),
            parse_winner,
            seed=seed_of(*question.parts, int(candidate_first)),
            timeout_s=deadline - time.monotonic(),
        )
