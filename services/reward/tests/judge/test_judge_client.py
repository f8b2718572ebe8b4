"""The client against a real HTTP server: what goes wrong is an error of the tree, never a grade."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence

import pytest

from forklight_core.errors import (
    BusyError,
    DeadlineError,
    ForklightError,
    InvalidInputError,
    UnavailableError,
)
from forklight_reward.judge.breaker import Breaker
from forklight_reward.judge.chat import Message
from forklight_reward.judge.client import MOST_REPLY_BYTES, ChatClient, ChatOptions, Endpoint
from services.reward.tests.judge.chat_server import Body, ChatServer, Reply, said

Start = Callable[[Callable[[Body], Reply]], ChatServer]
ASK = [Message(role="system", content="judge"), Message(role="user", content="this")]


class Clock:
    """Time that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def complete(urls: Sequence[str], *, options: ChatOptions | None = None, timeout_s: float = 5.0) -> str:
    client = ChatClient([Endpoint(url=url) for url in urls], options or ChatOptions())
    try:
        return await client.complete(ASK, seed=7, timeout_s=timeout_s)
    finally:
        await client.close()


async def test_a_call_is_deterministic_and_carries_model_and_key(start_server: Start) -> None:
    server = start_server(lambda _: said("yes"))
    options = ChatOptions(model="m", max_tokens=99, api_key="key")
    assert await complete([server.url + "/"], options=options) == "yes"
    assert server.bodies == [
        {
            "model": "m",
            "messages": [{"role": each.role, "content": each.content} for each in ASK],
            "temperature": 0.0,
            "max_tokens": 99,
            "seed": 7,
        }
    ]
    assert server.keys == ["Bearer key"]


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply(status=500, content=b"oops"), UnavailableError),
        (Reply(status=503), UnavailableError),
        (Reply(status=401), UnavailableError),
        (Reply(status=404), UnavailableError),
        (Reply(status=302), UnavailableError),
        (Reply(status=429), BusyError),
        (Reply(status=504), DeadlineError),
        (Reply(status=400, content=b"too long"), InvalidInputError),
        (Reply(content=b""), UnavailableError),
        (Reply(content=b"<html>"), UnavailableError),
        (Reply(content=b"[" * 100_000), UnavailableError),
        (Reply(content=b'{"choices": []}'), UnavailableError),
        (Reply(content=b'{"choices": [{"message": {"content": 5}}]}'), UnavailableError),
        (Reply(content=b"x" * (MOST_REPLY_BYTES + 1)), UnavailableError),
    ],
)
async def test_what_is_no_answer_is_an_error(
    start_server: Start, reply: Reply, error: type[Exception]
) -> None:
    server = start_server(lambda _: reply)
    with pytest.raises(error):
        await complete([server.url])


async def test_a_model_that_says_nothing_says_the_empty_text(start_server: Start) -> None:
    assert await complete([start_server(lambda _: said(None)).url]) == ""


async def test_deadline_holds_when_the_endpoint_is_slow(start_server: Start) -> None:
    server = start_server(lambda _: Reply(hangs=True))
    started = asyncio.get_running_loop().time()
    with pytest.raises(DeadlineError, match="within 0.2 s"):
        await complete([server.url], timeout_s=0.2)
    assert asyncio.get_running_loop().time() - started < 2.0


async def test_next_endpoint_is_asked_when_one_is_away(start_server: Start) -> None:
    away, broken = "http://127.0.0.1:9", start_server(lambda _: Reply(status=500))
    good = start_server(lambda _: said("good"))
    assert await complete([away, broken.url, good.url]) == "good"
    assert len(broken.bodies) == 1


async def test_no_more_calls_run_at_once_than_allowed(start_server: Start) -> None:
    server = start_server(lambda _: said("yes"))
    client = ChatClient([Endpoint(url=server.url)], ChatOptions(concurrency=2))
    try:
        said_all = await asyncio.gather(*(client.complete(ASK, seed=i, timeout_s=5) for i in range(16)))
    finally:
        await client.close()
    assert said_all == ["yes"] * 16
    assert server.most_running <= 2


async def test_busy_when_no_slot_is_free_in_time(start_server: Start) -> None:
    server = start_server(lambda _: Reply(hangs=True))
    client = ChatClient([Endpoint(url=server.url)], ChatOptions(concurrency=1))
    try:
        first = asyncio.create_task(client.complete(ASK, seed=1, timeout_s=5))
        assert await asyncio.to_thread(server.arrived.wait, 5)
        with pytest.raises(BusyError, match="judge: no slot of 1 was free"):
            await client.complete(ASK, seed=2, timeout_s=0.05)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
    finally:
        await client.close()


async def test_breaker_leaves_a_failing_endpoint_alone_until_its_rest_is_over(start_server: Start) -> None:
    clock, server = Clock(), start_server(lambda _: Reply(status=500))
    endpoint = Endpoint(url=server.url, breaker=Breaker(num_failures=3, rest_s=1.0, clock=clock))
    client = ChatClient([endpoint], ChatOptions())

    async def outcome() -> str:
        try:
            return await client.complete(ASK, seed=1, timeout_s=5)
        except ForklightError as error:
            return "left alone" if "left alone" in str(error) else "asked"

    try:
        assert [await outcome() for _ in range(5)] == ["asked"] * 3 + ["left alone"] * 2
        clock.now = 1.0
        assert [await outcome(), await outcome()] == ["asked", "left alone"]  # one trial, and it failed
        clock.now = 2.5
        assert await outcome() == "left alone"  # the rest has doubled
        server.behave = lambda _: said("back")
        clock.now = 3.0
        assert [await outcome(), await outcome()] == ["back", "back"]
    finally:
        await client.close()
    assert len(server.bodies) == 6


async def test_breaker_lets_one_trial_through_at_a_time() -> None:
    clock = Clock()
    breaker = Breaker(num_failures=1, rest_s=1.0, clock=clock)
    breaker.enter()
    breaker.fail()
    clock.now = 1.0
    assert not breaker.is_open
    breaker.enter()
    assert breaker.is_open
    breaker.give_up()
    assert not breaker.is_open


async def test_an_endpoint_is_not_to_blame_for_a_deadline_it_could_not_meet(start_server: Start) -> None:
    server = start_server(lambda _: Reply(hangs=True))
    endpoint = Endpoint(url=server.url, breaker=Breaker(num_failures=1))
    client = ChatClient([endpoint], ChatOptions())
    try:
        for timeout_s, is_blamed in ((0.05, False), (1.1, True)):
            with pytest.raises((DeadlineError, BusyError)):
                await client.complete(ASK, seed=1, timeout_s=timeout_s)
            assert endpoint.breaker.is_open is is_blamed
    finally:
        await client.close()


async def test_a_request_nobody_can_answer_does_not_count_against_the_endpoint(start_server: Start) -> None:
    server = start_server(lambda _: Reply(status=400))
    endpoint = Endpoint(url=server.url, breaker=Breaker(num_failures=1))
    client = ChatClient([endpoint], ChatOptions())
    try:
        for _ in range(3):
            with pytest.raises(InvalidInputError):
                await client.complete(ASK, seed=1, timeout_s=5)
    finally:
        await client.close()
    assert not endpoint.breaker.is_open
    assert json.dumps(server.bodies[0])
