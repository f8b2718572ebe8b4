"""Loads the Lua scripts and runs them by hash. A server that restarted has forgotten them: that is how a
restart is noticed.

The gate is closed from then on, so nothing is written on state that may have been rolled back, until
reconciliation has loaded the scripts again and opens it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources

from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError

from forklight_buffer.keys import BufferKeys
from forklight_core.errors import UnavailableError
from forklight_core.queues import WORKERS, create_group, guard_redis, redis_error
from forklight_core.rpc import Coalescer

READING = frozenset({"read"})
GROWING = frozenset({"open_group", "submit_trajectory", "save_segment"})
"""Refused as a whole when the server is full; all others may run, they make room."""

Argument = str | bytes | int | float
Reply = int | bytes | list[bytes] | list[int]
MOST_AT_ONCE = 64
"""Scripts of one message to the server, which does nothing else until they are done."""


class Gate:
    """Open while Redis is known to be the server that was reconciled with the ledger."""

    def __init__(self) -> None:
        self.is_open = False
        self.on_close: Callable[[], None] = lambda: None

    def close(self) -> None:
        """Nothing passes any more; reconciliation is called for."""
        if self.is_open:
            self.is_open = False
            self.on_close()

    def open(self) -> None:
        """Reconciled."""
        self.is_open = True


def read_scripts() -> dict[str, bytes]:
    """Every script by name, complete as the server gets it."""
    folder = resources.files("forklight_buffer").joinpath("scripts")
    prelude = folder.joinpath("_prelude.lua").read_text()
    found: dict[str, bytes] = {}
    for file in folder.iterdir():
        name = file.name.removesuffix(".lua")
        if file.name.endswith(".lua") and not name.startswith("_"):
            found[name] = _complete(name, prelude, file.read_text()).encode()
    return found


def _complete(name: str, prelude: str, body: str) -> str:
    """The body as a function between the prelude and the writing of its sums."""
    head = f"#!lua{_flags(name)}\nlocal WORKERS = '{WORKERS}'\n{prelude}"
    return f"{head}\nlocal function body()\n{body}\nend\nlocal reply = body()\nwrite_sums()\nreturn reply\n"


def _flags(name: str) -> str:
    if name in READING:
        return " flags=no-writes"
    return "" if name in GROWING else " flags=allow-oom"


class ScriptRunner:
    """EVALSHA with the run's keys; what is asked for at the same time goes in one message."""

    def __init__(self, redis: Redis, keys: BufferKeys, gate: Gate) -> None:
        self._redis = redis
        self._keys = keys
        self._gate = gate
        self._sources = read_scripts()
        self._hashes = {name: hashlib.sha1(source).hexdigest() for name, source in self._sources.items()}
        self._key_names = keys.in_order()
        self._coalescer: Coalescer[_Call, Reply] = Coalescer(self._run_all, most=MOST_AT_ONCE)

    async def load(self) -> None:
        """Put the scripts and the consumer groups on the server."""

        shared = self._keys.shared

        async def load_all() -> None:
            for source in self._sources.values():
                await self._redis.script_load(source)
            for stream in (shared.tasks, shared.evaluate, shared.scoring):
                await create_group(self._redis, stream)

        await guard_redis(load_all, what="load the buffer's scripts")

    async def run(self, name: str, arguments: Sequence[Argument], *, past_gate: bool = False) -> Reply:
        """One atomic transition."""
        if not (self._gate.is_open or past_gate):
            raise UnavailableError("Redis restarted; the buffer is reconciling it with its ledger: try again")
        try:
            return await self._coalescer.submit(_Call(name=name, arguments=arguments))
        except NoScriptError:
            self._gate.close()
            raise UnavailableError(
                f"Redis restarted before {name}; the buffer reconciles it with its ledger: try again"
            ) from None

    async def _run_all(self, calls: Sequence[_Call]) -> list[Reply | Exception]:
        """Each is a transition of its own: one that is refused leaves the others as they are."""
        pipeline = self._redis.pipeline(transaction=False)
        for call in calls:
            pipeline.evalsha(self._hashes[call.name], len(self._key_names), *self._key_names, *call.arguments)
        names = ", ".join(sorted({call.name for call in calls}))
        found = await guard_redis(lambda: pipeline.execute(raise_on_error=False), what=f"run {names}")
        return [_answer(call, each) for call, each in zip(calls, found, strict=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """A script and what it is given."""

    name: str
    arguments: Sequence[Argument]


def _answer(call: _Call, found: Reply | RedisError) -> Reply | Exception:
    if isinstance(found, RedisError):
        return redis_error(found, what=f"run {call.name}")
    return found
