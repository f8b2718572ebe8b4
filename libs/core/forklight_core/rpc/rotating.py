"""Channels whose certificates may change: when the files do, calls from then on travel by a new connection.

gRPC fixes a channel's certificates when it is made. A connection that stands outlives its certificate, but
the next one would fail: so the channel behind the stubs is exchanged, the old one finishes what it carries.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio

from forklight_core.rpc.identity import Certificates, Identity

FINISH_S = 60.0
"""What an old connection may still carry for."""


class _Method:
    """A callable of a stub, of whichever channel is the newest."""

    def __init__(self, current: Callable[[], Any], kind: str, path: str, options: dict[str, Any]) -> None:
        self._current, self._kind, self._path, self._options = current, kind, path, options
        self._of: Any = None
        self._inner: Any = None

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self._newest()(*arguments, **keywords)

    def with_call(self, *arguments: Any, **keywords: Any) -> Any:
        """Of channels for threads."""
        return self._newest().with_call(*arguments, **keywords)

    def future(self, *arguments: Any, **keywords: Any) -> Any:
        """Of channels for threads."""
        return self._newest().future(*arguments, **keywords)

    def _newest(self) -> Any:
        channel = self._current()
        if channel is not self._of:
            self._of, self._inner = channel, getattr(channel, self._kind)(self._path, **self._options)
        return self._inner


class _Methods:
    """The four kinds of calls, of whatever channel `current` names."""

    def _current(self) -> Any:
        raise NotImplementedError

    def _method(self, kind: str, path: str, options: tuple[Any, ...], named: dict[str, Any]) -> Any:
        names = ("request_serializer", "response_deserializer", "_registered_method")
        return _Method(self._current, kind, path, dict(zip(names, options, strict=False)) | named)

    def unary_unary(self, method: str, *options: Any, **named: Any) -> Any:
        """One message, one answer."""
        return self._method("unary_unary", method, options, named)

    def unary_stream(self, method: str, *options: Any, **named: Any) -> Any:
        """One message, many answers."""
        return self._method("unary_stream", method, options, named)

    def stream_unary(self, method: str, *options: Any, **named: Any) -> Any:
        """Many messages, one answer."""
        return self._method("stream_unary", method, options, named)

    def stream_stream(self, method: str, *options: Any, **named: Any) -> Any:
        """Many messages, many answers."""
        return self._method("stream_stream", method, options, named)


class RotatingChannel(_Methods, grpc.aio.Channel):
    """For asyncio."""

    def __init__(self, identity: Identity, make: Callable[[Certificates], grpc.aio.Channel]) -> None:
        self._identity, self._make = identity, make
        self._held = identity.certificates()
        self._channel = make(self._held)
        self._closing: set[asyncio.Task[None]] = set()

    def _current(self) -> grpc.aio.Channel:
        newest = self._identity.certificates()
        if newest is not self._held:
            old, self._held, self._channel = self._channel, newest, self._make(newest)
            task = asyncio.ensure_future(old.close(FINISH_S))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        return self._channel

    async def __aenter__(self) -> RotatingChannel:
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        """The newest, and those that still finish something."""
        for task in self._closing:
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        await self._channel.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Of the newest."""
        return self._current().get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Of the newest."""
        await self._current().wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Of the newest."""
        await self._current().channel_ready()


class RotatingSyncChannel(_Methods, grpc.Channel):
    """For threads."""

    def __init__(self, identity: Identity, make: Callable[[Certificates], grpc.Channel]) -> None:
        self._identity, self._make = identity, make
        self._lock = threading.Lock()
        self._held = identity.certificates()
        self._channel = make(self._held)
        self._old: list[tuple[float, grpc.Channel]] = []

    def _current(self) -> grpc.Channel:
        newest = self._identity.certificates()
        with self._lock:
            if newest is not self._held:
                self._old.append((time.monotonic(), self._channel))
                self._held, self._channel = newest, self._make(newest)
            while self._old and self._old[0][0] < time.monotonic() - FINISH_S:
                self._old.pop(0)[1].close()
            return self._channel

    def subscribe(self, callback: Any, try_to_connect: bool | None = False) -> None:
        """Of the newest."""
        self._current().subscribe(callback, bool(try_to_connect))

    def unsubscribe(self, callback: Any) -> None:
        """Of the newest."""
        self._current().unsubscribe(callback)

    def close(self) -> None:
        """All of them."""
        for _, channel in self._old:
            channel.close()
        self._channel.close()

    def __enter__(self) -> RotatingSyncChannel:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()
