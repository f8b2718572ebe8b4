"""The judges a run file asks for: one a way to judge and a prompt, over one client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from forklight_core.runfile.schema import JudgeSection
from forklight_reward.judge.client import ChatClient, ChatOptions, Endpoint
from forklight_reward.judge.contract import JudgeEngine
from forklight_reward.judge.five_grades import FiveGrades, GradeOptions
from forklight_reward.judge.pairwise import Pairwise
from forklight_reward.judge.prompt import PromptOptions, Variant
from forklight_reward.judge.rule import RuleJudge
from forklight_reward.judge.spec import Mode

Make = Callable[[Mode, Variant], JudgeEngine]


class Judges:
    """Engines by mode and prompt, each made once. `default` is what the run file says; a run file that asks
    for the neutral prompt gets it at every level.
    """

    def __init__(
        self, make: Make, *, mode: Mode = Mode.FIVE_GRADES, variant: Variant = Variant.PLAIN
    ) -> None:
        self._make = make
        self._made: dict[tuple[Mode, Variant], JudgeEngine] = {}
        self.mode = mode
        self._variant = variant

    @property
    def default(self) -> JudgeEngine:
        """Of tasks that do not choose."""
        return self.engine(None, self._variant)

    def engine(self, mode: Mode | None, variant: Variant) -> JudgeEngine:
        """The engine of a mode; None: the run file's."""
        chosen = Variant.LENGTH_NEUTRAL if self._variant is Variant.LENGTH_NEUTRAL else variant
        key = (mode or self.mode, chosen)
        if key not in self._made:
            self._made[key] = self._make(*key)
        return self._made[key]


@asynccontextmanager
async def open_judges(section: JudgeSection, *, api_key: str = "") -> AsyncIterator[Judges]:
    """The engines, with their connections closed at the end."""
    if section.kind == "rule":
        rule = RuleJudge()
        yield Judges(lambda mode, variant: rule)
        return
    options = ChatOptions(
        model=section.model,
        temperature=section.temperature,
        max_tokens=section.max_tokens,
        concurrency=section.concurrency,
        api_key=api_key,
    )
    client = ChatClient([Endpoint(url=url) for url in section.endpoints], options)

    def make(mode: Mode, variant: Variant) -> JudgeEngine:
        prompt = PromptOptions(variant=variant, special_tokens=section.special_tokens)
        if mode is Mode.PAIRWISE:
            return Pairwise(client, prompt)
        grades = GradeOptions(num_votes=section.votes, binary_floor=section.binary_floor, prompt=prompt)
        return FiveGrades(client, grades)

    variant = Variant.LENGTH_NEUTRAL if section.length_neutral else Variant.PLAIN
    try:
        yield Judges(make, mode=Mode(section.mode), variant=variant)
    finally:
        await client.close()
