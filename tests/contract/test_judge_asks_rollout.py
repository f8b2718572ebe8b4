"""What the judge sends is what a rollout pod's chat endpoint takes: no field it refuses."""

from __future__ import annotations

import asyncio
import json

from forklight_reward.judge.client import ChatClient, ChatOptions, Endpoint
from forklight_reward.judge.prompt import PromptOptions, Question, grade_messages
from forklight_rollout.http.requests import ChatRequest, parse_request
from services.reward.tests.judge.chat_server import said, start


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
