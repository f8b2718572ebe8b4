"""Who comes in, what is refused and how, and what becomes of clients that go and pods that end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from forklight_core.telemetry import METRICS
from forklight_rollout.http import metrics
from forklight_rollout.settings import RolloutSettings

BAD_COMPLETIONS: list[tuple[dict[str, object], str]] = [
    ({"prompt": ""}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": ["a", ""]}, "prompt"),
    ({"prompt": [[1, 2], []]}, "prompt"),
    ({"prompt": {"text": "a"}}, "prompt"),
    ({"prompt": ["a", 1]}, "prompt"),
    ({"prompt": [1, 100_000]}, "prompt"),
    ({"prompt": [1, -1]}, "prompt"),
    ({"prompt": [1, True]}, "prompt"),
    ({"prompt": "\u00e9"}, "prompt"),
    ({"prompt": "a" * 128}, "prompt"),
    ({"prompt": "a" * 100, "max_tokens": 29}, "prompt"),
    ({"n": 0}, "n"),
    ({"n": 65}, "n"),
    ({"n": "2"}, "n"),
    ({"n": True}, "n"),
    ({"prompt": ["a"] * 33, "n": 2}, "n"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_p": 1.1}, "top_p"),
    ({"top_k": -2}, "top_k"),
    ({"min_p": 1.5}, "min_p"),
    ({"seed": 2**64}, "seed"),
    ({"stop": ""}, "stop"),
    ({"stop": ["a"] * 17}, "stop"),
    ({"stop": [1]}, "stop"),
    ({"stop_token_ids": [100_000]}, "stop_token_ids"),
    ({"stop_token_ids": list(range(20))}, "stop_token_ids"),
    ({"logprobs": 1}, "logprobs"),
    ({"logprobs": -1}, "logprobs"),
    ({"echo": True}, "echo"),
    ({"best_of": 2}, "best_of"),
    ({"suffix": "b"}, "suffix"),
    ({"frequency_penalty": 0.5}, "frequency_penalty"),
    ({"logit_bias": {"5": 1.0}}, "logit_bias"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"stream": True, "stream_options": {"usage": True}}, "stream_options"),
    ({"repetition_probability": 0.5}, "repetition_probability"),
    ({"repetition_tokens": 0}, "repetition_tokens"),
    ({"temprature": 1.0}, "temprature"),
    ({"messages": []}, "messages"),
]
BAD_CHATS: list[tuple[dict[str, object], str]] = [
    ({"messages": []}, "messages"),
    ({"messages": "hello"}, "messages"),
    ({"messages": [{"role": "king", "content": "a"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": " "}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": "\u00e9"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": "a", "colour": 1}]}, "messages[0].colour"),
    ({"messages": [{"role": "system", "content": "a"}]}, "messages[0].role"),
    ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0].role"),
    ({"messages": [{"role": "user", "content": "a" * 127}]}, "messages"),
    ({"top_logprobs": 0}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 2}, "top_logprobs"),
    ({"logprobs": 1}, "logprobs"),
    ({"tools": [{"type": "function"}]}, "tools"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"prompt": "a"}, "prompt"),
]


async def test_a_bad_completion_is_refused_by_its_parameter(pod: Any) -> None:
    for body, param in BAD_COMPLETIONS:
        expect_refusal(await pod.post("completions", **({"prompt": "a"} | body)), param)


async def test_a_bad_chat_is_refused_by_its_parameter(pod: Any) -> None:
    messages = [{"role": "user", "content": "a"}]
    for body, param in BAD_CHATS:
        expect_refusal(await pod.post("chat/completions", **({"messages": messages} | body)), param)


def expect_refusal(reply: httpx.Response, param: str) -> None:
    error = reply.json().get("error")
    assert error is not None, (param, reply.text)
    assert (reply.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param), error
    assert error["message"] and set(error) == {"message", "type", "param", "code"}


async def test_what_changes_nothing_may_be_sent(pod: Any) -> None:
    await pod.complete(
        model="test-run",
        echo=False,
        best_of=1,
        frequency_penalty=0.0,
        presence_penalty=0,
        repetition_penalty=1.0,
        logit_bias={},
        suffix=None,
        user="me",
        top_k=-1,
        stop=None,
        temperature=None,
        seed=-5,
    )
    message = {"role": "assistant", "content": "4", "refusal": None, "tool_calls": None, "audio": None}
    parts = [{"type": "text", "text": "What is"}, {"type": "text", "text": " 2?"}]
    messages = [{"role": "user", "content": "2 + 2?"}, message, {"role": "user", "content": parts}]
    reply = await pod.post("chat/completions", messages=messages, tools=[], response_format={"type": "text"})
    assert reply.status_code == 200, reply.text


async def test_requests_that_are_not_for_this_door_are_told_so(pod: Any) -> None:
    assert (await pod.client.post("/v1/completions", content=b'{"prompt": ')).status_code == 415
    torn = await pod.client.post(
        "/v1/completions", content=b'{"prompt": ', headers={"content-type": "application/json"}
    )
    expect = torn.json()["error"]
    assert (torn.status_code, expect["param"]) == (400, None)
    large = await pod.post("completions", prompt="a" * (9 * 2**20))
    assert large.status_code == 413
    other = await pod.post("completions", prompt="a", model="gpt-9")
    assert (other.status_code, other.json()["error"]["code"]) == (404, "model_not_found")
    assert (await pod.client.get("/v1/embeddings")).json()["error"]["type"] == "invalid_request_error"
    assert (await pod.client.get("/v1/completions")).status_code == 405
    elsewhere = await pod.client.get("/v1/models", headers={"host": "evil.example"})
    assert elsewhere.status_code == 403
    assert pod.service.num_requests == 0


async def test_models_are_the_one_policy(pod: Any) -> None:
    (model,) = (await pod.client.get("/v1/models")).json()["data"]
    assert (model["id"], model["object"], model["max_model_len"]) == ("test-run", "model", 128)
    assert (await pod.client.get("/v1/models/test-run")).json() == model
    assert (await pod.client.get("/v1/models/other")).status_code == 404


async def test_a_token_is_asked_for_when_there_is_one(make_pod: Callable[..., Any]) -> None:
    async with make_pod(token="secret") as pod:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "secret"}):
            reply = await pod.client.get("/v1/models", headers=headers)
            assert (reply.status_code, reply.headers["www-authenticate"]) == (401, "Bearer")
            assert reply.json()["error"]["code"] == "invalid_api_key"
        reply = await pod.client.get("/v1/models", headers={"authorization": "Bearer secret"})
        assert reply.status_code == 200
        assert (await pod.client.get("/health")).status_code == 200


async def test_without_weights_or_out_of_service_a_pod_says_when_to_come_again(
    make_pod: Callable[..., Any],
) -> None:
    async with make_pod(has_weights=False) as pod:
        for reply in (await pod.post("completions", prompt="a"), await pod.client.get("/health")):
            assert (reply.status_code, reply.json()["error"]["code"]) == (503, "no_weights")
            assert int(reply.headers["retry-after"]) > 0
        pod.open()
        assert (await pod.client.get("/health")).status_code == 200
        pod.why_closed = "weights: they disagree"
        reply = await pod.post("completions", prompt="a")
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "out_of_service")
        assert "they disagree" in reply.json()["error"]["message"]


async def test_more_than_a_pod_takes_is_told_to_come_again(make_pod: Callable[..., Any]) -> None:
    async with make_pod(is_gated=True, max_requests=2, max_samples=5) as pod:
        first = asyncio.create_task(pod.complete(n=4, max_tokens=3))
        await pod.eventually(lambda: pod.thread.reading.num_running == 4)
        crowded = await pod.post("completions", prompt="a", n=2)
        second = asyncio.create_task(pod.complete(max_tokens=3))
        await pod.eventually(lambda: pod.thread.reading.num_running == 5)
        full = await pod.post("completions", prompt="a")
        for reply in (crowded, full):
            assert (reply.status_code, reply.json()["error"]["code"]) == (503, "busy")
            assert int(reply.headers["retry-after"]) > 0
        pod.engine.allow(20)
        await asyncio.gather(first, second)
        pod.engine.is_gated = False
        await pod.complete(n=5)


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_client_that_goes_frees_its_slots_at_once(
    make_pod: Callable[..., Any], is_stream: bool
) -> None:
    async with make_pod(is_gated=True, num_sequences=4) as pod:
        body = {"prompt": "a", "n": 6, "ignore_eos": True, "stream": is_stream}
        async with httpx.AsyncClient(base_url=pod.url, trust_env=False) as client:
            asked = asyncio.create_task(read_some(client, body))
            await pod.eventually(lambda: pod.thread.reading.num_running == 4)
            pod.engine.allow(2)
            await pod.eventually(lambda: pod.thread.reading.num_tokens == 8)
            asked.cancel()
            await asyncio.wait({asked})
        await pod.eventually(lambda: pod.thread.reading.num_running + pod.thread.reading.num_waiting == 0)
        assert pod.engine.num_held == 0
        await pod.eventually(lambda: pod.service.num_requests == 0)
        pod.engine.is_gated = False
        assert len((await pod.complete(n=4))["choices"]) == 4


async def read_some(client: httpx.AsyncClient, body: dict[str, object]) -> None:
    async with client.stream("POST", "/v1/completions", json=body) as reply:
        async for _ in reply.aiter_lines():
            pass


async def test_a_drain_refuses_new_requests_and_lets_old_ones_finish(make_pod: Callable[..., Any]) -> None:
    async with make_pod(is_gated=True) as pod:
        asked = asyncio.create_task(pod.complete(max_tokens=4, ignore_eos=True))
        await pod.eventually(lambda: pod.thread.reading.num_running == 1)
        draining = asyncio.create_task(pod.service.drain(20))
        await asyncio.sleep(0)
        reply = await pod.post("completions", prompt="a")
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "draining")
        pod.engine.allow(4)
        assert (await asked)["choices"][0]["finish_reason"] == "length"
        await draining
        assert (await pod.client.get("/health")).status_code == 503


async def test_a_drain_ends_what_does_not_finish_with_what_it_has(make_pod: Callable[..., Any]) -> None:
    async with make_pod(is_gated=True, num_sequences=2) as pod:
        body = {"n": 3, "max_tokens": 50, "ignore_eos": True, "return_token_ids": True}
        whole = asyncio.create_task(pod.complete(**body))
        await pod.eventually(lambda: pod.thread.reading.num_running == 2)
        streamed = asyncio.create_task(pod.stream("completions", prompt="b", **body))
        await pod.eventually(lambda: pod.thread.reading.num_waiting == 4)
        pod.engine.allow(5)
        await pod.eventually(lambda: pod.thread.reading.num_tokens == 10)
        await pod.service.drain(0.05)
        choices = (await whole)["choices"]
        assert [choice["finish_reason"] for choice in choices] == ["abort"] * 3
        assert [len(choice["token_ids"]) for choice in choices] == [5, 5, 0]
        assert choices[0]["forklight"]["version_spans"] == [{"start": 0, "version": 0}]
        ends = [chunk["choices"][0]["finish_reason"] for chunk in await streamed]
        assert ends == [None] * 3 + ["abort"] * 3
        assert pod.engine.num_held == 0


async def test_a_pod_whose_engine_is_gone_still_ends_its_requests(make_pod: Callable[..., Any]) -> None:
    async with make_pod(is_gated=True) as pod:
        asked = asyncio.create_task(pod.complete(max_tokens=50))
        await pod.eventually(lambda: pod.thread.reading.num_running == 1)
        await pod.thread.close()
        assert (await pod.post("completions", prompt="a")).status_code == 503
        await pod.service.abort()
        assert (await asked)["choices"][0]["finish_reason"] == "abort"


def test_every_metric_of_the_door_is_in_the_registry() -> None:
    used = {value for name, value in vars(metrics).items() if name.isupper()}
    assert len(used) == 6
    assert used <= {spec.name for spec in METRICS}


@pytest.mark.parametrize(
    ("listen", "extra", "problem"),
    [
        ("0.0.0.0:8000", {}, "FORKLIGHT_HTTP_TOKEN"),
        ("0.0.0.0:8000", {"http_token": ""}, "FORKLIGHT_HTTP_ALLOW_OPEN"),
        ("8000", {}, "not host:port"),
        ("127.0.0.1:99999", {}, "not host:port"),
        ("0.0.0.0:8000", {"http_token": "secret"}, None),
        ("0.0.0.0:8000", {"http_allow_open": "true"}, None),
        ("127.0.0.1:8000", {}, None),
        ("", {}, None),
    ],
)
def test_an_open_address_needs_a_token_or_consent(
    listen: str, extra: dict[str, str], problem: str | None
) -> None:
    values = {"run_file": "r", "run_folder": ".", "run_id": "r", "redis_url": "r", "blobs_url": "b"}
    values |= {"buffer_address": "b:1", "http_listen": listen, **extra}
    if problem is None:
        settings = RolloutSettings.model_validate(values)
        assert "secret" not in repr(settings)
        return
    with pytest.raises(ValidationError, match=problem):
        RolloutSettings.model_validate(values)
