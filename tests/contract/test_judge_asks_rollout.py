"""A rollout pod may serve the judge: its chat endpoint takes what is sent, and noise is no grade."""

from __future__ import annotations

import asyncio
import json

from forklight_reward.judge.client import ChatClient, ChatOptions, Endpoint
from forklight_reward.judge.five_grades import FiveGrades
from forklight_reward.judge.pairwise import Pairwise
from forklight_reward.judge.prompt import PromptOptions, Question, grade_messages
from forklight_rollout.http.requests import ChatRequest, parse_request
from services.reward.tests.judge.chat_server import said, start
from services.rollout.tests.http.conftest import MODEL, run_pod


async def test_rollout_takes_the_judges_request() -> None:
    messages = grade_messages(
        Question(task="t", reference="r", candidate="c"), PromptOptions(), candidate_first=False
    )
    chat, server = start(lambda _: said("{}"))
    client = ChatClient([Endpoint(url=chat.url)], ChatOptions(model="policy"))
    try:
        await client.complete(messages, seed=2**31 - 1, timeout_s=5)
    finally:
        await client.close()
        await asyncio.to_thread(server.shutdown)
        server.server_close()
    asked = parse_request(ChatRequest, json.dumps(chat.bodies[0]).encode())
    assert [turn.text for turn in asked.messages] == [message.content for message in messages]
    assert (asked.model, asked.seed, asked.temperature, asked.max_tokens) == ("policy", 2**31 - 1, 0.0, 1024)


async def test_a_pod_serves_the_judge_and_what_is_no_grade_is_an_abstention() -> None:
    """Over the pod's own door; its engine draws characters at random."""
    async with run_pod(max_tokens=8192, mean_tokens=16) as pod:
        client = ChatClient([Endpoint(url=pod.url)], ChatOptions(model=MODEL, max_tokens=32))
        try:
            judgements = [
                await engine.judge(prompt="1+1?", reference="2", answer="two", timeout_s=30)
                for engine in (FiveGrades(client), Pairwise(client))
            ]
        finally:
            await client.close()
    assert [judgement.score for judgement in judgements] == [None, None]
    assert all("could not be read after 3 tries" in judgement.evidence for judgement in judgements)
