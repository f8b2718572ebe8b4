"""The door as the OpenAI client sees it, and without torch in sight."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import openai
import pytest

WITHOUT_TORCH = """
import sys

class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "triton"):
            raise ImportError(f"{name} is not allowed here")

sys.meta_path.insert(0, Wall())
import forklight_rollout.http.server
"""


@pytest.fixture
async def client(pod: Any) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{pod.url}/v1", api_key="none", max_retries=0) as opened:
        yield opened


async def test_the_openai_client_chats_streams_and_counts(client: openai.AsyncOpenAI) -> None:
    (model,) = (await client.models.list()).data
    question: dict[str, Any] = {"model": model.id, "messages": [{"role": "user", "content": "2 + 2?"}]}
    extra = {"extra_body": {"return_token_ids": True, "min_p": 0.01}}
    answer = await client.chat.completions.create(**question, **extra, seed=3, max_tokens=30, logprobs=True)
    (choice,) = answer.choices
    assert choice.logprobs is not None and choice.logprobs.content is not None
    assert "".join(each.token for each in choice.logprobs.content) == choice.message.content
    assert answer.usage is not None and answer.usage.completion_tokens == len(choice.logprobs.content)
    assert choice.model_extra is not None
    assert len(choice.model_extra["token_ids"]) == answer.usage.completion_tokens
    stream = await client.chat.completions.create(
        **question, **extra, seed=3, max_tokens=30, stream=True, stream_options={"include_usage": True}
    )
    text, usage = "", None
    async for chunk in stream:
        text += "".join(each.delta.content or "" for each in chunk.choices)
        usage = chunk.usage or usage
    assert (text, usage) == (choice.message.content, answer.usage)


async def test_the_openai_client_completes_token_ids(client: openai.AsyncOpenAI) -> None:
    answer = await client.completions.create(
        model="test-run", prompt=[[5, 6], [7]], n=2, max_tokens=5, logprobs=0, stop=["Q"]
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert all(choice.finish_reason in ("stop", "length") for choice in answer.choices)
    assert answer.usage is not None and answer.usage.prompt_tokens == 3


async def test_the_openai_client_knows_our_errors(
    client: openai.AsyncOpenAI, make_pod: Callable[..., Any]
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.completions.create(model="test-run", prompt="a", temperature=-1)
    assert caught.value.param == "temperature"
    with pytest.raises(openai.NotFoundError):
        await client.completions.create(model="gpt-9", prompt="a")
    async with make_pod(token="secret") as pod:
        wrong = openai.AsyncOpenAI(base_url=f"{pod.url}/v1", api_key="wrong", max_retries=0)
        right = openai.AsyncOpenAI(base_url=f"{pod.url}/v1", api_key="secret", max_retries=0)
        async with wrong, right:
            with pytest.raises(openai.AuthenticationError):
                await wrong.models.list()
            assert len((await right.models.list()).data) == 1


def test_the_door_needs_no_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
