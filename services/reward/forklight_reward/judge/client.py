"""A client of OpenAI-compatible chat endpoints: deadlines, a bound on calls at once, a breaker an endpoint.

What goes wrong on the way is an error of the tree, never a grade.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx

from forklight_core.errors import (
    BusyError,
    DeadlineError,
    ForklightError,
    InvalidInputError,
    UnavailableError,
)
from forklight_reward.judge.breaker import Breaker
from forklight_reward.judge.chat import Message
from forklight_reward.slots import Slots

PATH = "/v1/chat/completions"
MOST_REPLY_BYTES = 2**20
MOST_WAITING = 4096
TOO_MANY, TOO_SLOW = 429, (408, 504)
OUR_FAULT = (400, 413, 422)
LEAST_FAIR_S = 1.0
"""An endpoint that had less time than this is not to blame for being late."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatOptions:
    """How a model is asked."""

    model: str = ""
    """Empty: the endpoint's only model."""
    temperature: float = 0.0
    max_tokens: int = 1024
    concurrency: int = 32
    """Calls at once, over all endpoints."""
    api_key: str = ""


@dataclass(slots=True, kw_only=True, eq=False)
class Endpoint:
    """One door of the model."""

    url: str
    breaker: Breaker = field(default_factory=Breaker)
    num_running: int = 0


class ChatClient:
    """ChatModel over HTTP. Of the endpoints not left alone, the one with the fewest calls is asked."""

    def __init__(self, endpoints: Sequence[Endpoint], options: ChatOptions) -> None:
        if not endpoints:
            raise InvalidInputError("a judge needs at least one endpoint")
        self.options = options
        self._endpoints = list(endpoints)
        self._slots = Slots(options.concurrency, name="judge", max_waiting=MOST_WAITING)
        headers = {"authorization": f"Bearer {options.api_key}"} if options.api_key else {}
        limits = httpx.Limits(max_connections=options.concurrency)
        # The deadline is asyncio's, over the whole call: with a limit a read, a slow drip would never end.
        self._http = httpx.AsyncClient(timeout=None, headers=headers, limits=limits, trust_env=False)

    @property
    def version(self) -> str:
        """The model's name."""
        return self.options.model or "default-model"

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def complete(self, messages: Sequence[Message], *, seed: int, timeout_s: float) -> str:
        """The answer; an endpoint that is away passes the call on to the next."""
        body = self._body(messages, seed)
        deadline = time.monotonic() + timeout_s
        tried: list[Endpoint] = []
        error: ForklightError | None = None
        async with self._slots.hold(timeout_s):
            while (endpoint := self._choose(tried)) is not None:
                tried.append(endpoint)
                try:
                    return await self._ask(endpoint, body, deadline - time.monotonic())
                except (UnavailableError, BusyError) as failed:
                    error = failed
        if error is not None:
            raise error
        resting = ", ".join(endpoint.url for endpoint in self._endpoints)
        raise UnavailableError(f"judge: every endpoint failed lately and is left alone for now: {resting}")

    def _body(self, messages: Sequence[Message], seed: int) -> dict[str, object]:
        options = self.options
        body: dict[str, object] = {
            "messages": [{"role": message.role, "content": message.content} for message in messages],
            "temperature": options.temperature,
            "max_tokens": options.max_tokens,
            "seed": seed,
        }
        return body | {"model": options.model} if options.model else body

    def _choose(self, tried: Sequence[Endpoint]) -> Endpoint | None:
        free = [each for each in self._endpoints if each not in tried and not each.breaker.is_open]
        return min(free, key=lambda each: each.num_running, default=None)

    async def _ask(self, endpoint: Endpoint, body: dict[str, object], left_s: float) -> str:
        """One call. Only what the endpoint is to blame for counts against it."""
        endpoint.breaker.enter()
        endpoint.num_running += 1
        try:
            text = await self._post(endpoint.url, body, left_s)
        except UnavailableError:
            endpoint.breaker.fail()
            raise
        except DeadlineError:
            if left_s >= LEAST_FAIR_S:
                endpoint.breaker.fail()
            else:
                endpoint.breaker.give_up()
            raise
        except BaseException:
            endpoint.breaker.give_up()
            raise
        finally:
            endpoint.num_running -= 1
        endpoint.breaker.succeed()
        return text

    async def _post(self, url: str, body: dict[str, object], left_s: float) -> str:
        try:
            async with (
                asyncio.timeout(max(0.0, left_s)),
                self._http.stream("POST", url.rstrip("/") + PATH, json=body) as reply,
            ):
                content = await read_bounded(reply, url)
        except TimeoutError:
            raise DeadlineError(f"judge at {url}: no whole answer within {left_s:.1f} s") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise UnavailableError(
                f"judge at {url} does not answer: {type(error).__name__} {error}"
            ) from None
        check_status(reply.status_code, content, url)
        return content_of(content, url)


async def read_bounded(reply: httpx.Response, url: str) -> bytes:
    """The body, of a bounded size."""
    parts, size = [], 0
    async for part in reply.aiter_bytes():
        parts.append(part)
        size += len(part)
        if size > MOST_REPLY_BYTES:
            raise UnavailableError(f"judge at {url} answers with more than {MOST_REPLY_BYTES} bytes")
    return b"".join(parts)


def check_status(status: int, content: bytes, url: str) -> None:
    """Errors of the tree for everything but 200."""
    if status == httpx.codes.OK:
        return
    said = content[:200].decode("utf-8", "replace")
    message = f"judge at {url} says {status}: {said}"
    if status == TOO_MANY:
        raise BusyError(message)
    if status in TOO_SLOW:
        raise DeadlineError(message)
    if status in OUR_FAULT:
        raise InvalidInputError(message)
    raise UnavailableError(message)


def content_of(content: bytes, url: str) -> str:
    """The text of the first choice; a model that said nothing said the empty text."""
    try:
        text = json.loads(content)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        text = content
    if text is None:
        return ""
    if not isinstance(text, str):
        raise UnavailableError(f"judge at {url} does not speak the chat protocol: {content[:200]!r}")
    return text
