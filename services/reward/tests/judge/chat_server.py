"""A chat endpoint on this machine that speaks the protocol, as well or as badly as a test wants."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from forklight_reward.judge.chat import Message
from forklight_reward.judge.scripted import ScriptedChat

Body = dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What the server answers."""

    status: int = 200
    content: bytes = b""
    hangs: bool = False


def said(text: str | None) -> Reply:
    """A proper reply with this text."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return Reply(content=json.dumps({"object": "chat.completion", "choices": [choice]}).encode())


@dataclass(slots=True, kw_only=True)
class ChatServer:
    """A running endpoint; `behave` may be changed at any time."""

    url: str
    behave: Callable[[Body], Reply]
    bodies: list[Body] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    most_running: int = 0
    num_running: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    arrived: threading.Event = field(default_factory=threading.Event)
    closing: threading.Event = field(default_factory=threading.Event)

    def answer(self, body: Body, key: str) -> Reply:
        """One request."""
        with self.lock:
            self.bodies.append(body)
            self.arrived.set()
            self.keys.append(key)
            self.num_running += 1
            self.most_running = max(self.most_running, self.num_running)
        try:
            reply = self.behave(body)
            if reply.hangs:
                self.closing.wait(10)
            return reply
        finally:
            with self.lock:
                self.num_running -= 1


def follow(script: ScriptedChat) -> Callable[[Body], Reply]:
    """Replies by the script."""

    def behave(body: Body) -> Reply:
        messages = body["messages"]
        assert isinstance(messages, list)
        turns = [Message(role=each["role"], content=each["content"]) for each in messages]
        blocking = script.complete(turns, seed=int(str(body["seed"])), timeout_s=1)
        try:
            blocking.send(None)
        except StopIteration as done:
            return said(done.value)
        raise AssertionError("a script never waits")

    return behave


def start(behave: Callable[[Body], Reply]) -> tuple[ChatServer, ThreadingHTTPServer]:
    """A server on a free port, in a thread."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # head and body are two writes

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            reply = chat.answer(body, self.headers.get("authorization", ""))
            if self.path != "/v1/chat/completions":
                reply = Reply(status=404)
            try:
                self.send_response(reply.status)
                self.send_header("content-length", str(len(reply.content)))
                self.end_headers()
                self.wfile.write(reply.content)
            except ConnectionError:
                self.close_connection = True  # the client had enough

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Silent."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, request: object, client_address: object) -> None:
            """A client that went away is no news."""
            if not isinstance(sys.exception(), ConnectionError):
                super().handle_error(request, client_address)  # type: ignore[arg-type]

    server = Server(("127.0.0.1", 0), Handler)
    chat = ChatServer(url=f"http://127.0.0.1:{server.server_port}", behave=behave)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return chat, server


@pytest.fixture
def start_server() -> Iterator[Callable[[Callable[[Body], Reply]], ChatServer]]:
    """Start endpoints; they end with the test."""
    running: list[tuple[ChatServer, ThreadingHTTPServer]] = []

    def begin(behave: Callable[[Body], Reply]) -> ChatServer:
        running.append(start(behave))
        return running[-1][0]

    yield begin
    for chat, server in running:
        chat.closing.set()
        server.shutdown()
        server.server_close()
