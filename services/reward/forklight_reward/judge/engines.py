"""The judge a run file asks for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from forklight_core.runfile.schema import JudgeSection
from forklight_reward.judge.client import ChatClient, ChatOptions, Endpoint
from forklight_reward.judge.contract import JudgeEngine
from forklight_reward.judge.five_grades import FiveGrades, GradeOptions
from forklight_reward.judge.pairwise import Pairwise
from forklight_reward.judge.prompt import PromptOptions, Variant
from forklight_reward.judge.rule import RuleJudge


@asynccontextmanager
async def open_engine(section: JudgeSection, *, api_key: str = "") -> AsyncIterator[JudgeEngine]:
    """The engine, with its connections closed at the end."""
    if section.kind == "rule":
        yield RuleJudge()
        return
    options = ChatOptions(
        model=section.model,
        temperature=section.temperature,
        max_tokens=section.max_tokens,
        concurrency=section.concurrency,
        api_key=api_key,
    )
    prompt = PromptOptions(
        variant=Variant.LENGTH_NEUTRAL if section.length_neutral else Variant.PLAIN,
        special_tokens=section.special_tokens,
    )
    client = ChatClient([Endpoint(url=url) for url in section.endpoints], options)
    try:
        if section.mode == "pairwise":
            yield Pairwise(client, prompt)
        else:
            grades = GradeOptions(num_votes=section.votes, binary_floor=section.binary_floor, prompt=prompt)
            yield FiveGrades(client, grades)
    finally:
        await client.close()
