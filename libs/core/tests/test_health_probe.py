"""The probe of container engines, against real doors."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from forklight_core.ports import free_ports
from forklight_core.rpc import READY, serve
from forklight_core.rpc.health_probe import main


async def ask(*arguments: str) -> int:
    return await asyncio.to_thread(main, arguments)


async def test_a_door_that_serves_and_then_drains(capsys: pytest.CaptureFixture[str]) -> None:
    async with serve("127.0.0.1:0", []) as server:
        assert await ask(server.address, "--service", READY) == 0
        assert capsys.readouterr().out == f"{server.address} ready: SERVING\n"
        await server.set_serving(False)
        assert await ask(server.address, "--service", READY) == 1
        assert capsys.readouterr().err == f"{server.address} ready: NOT_SERVING\n"
        assert await ask(server.address) == 0, "who drains is alive"


async def test_a_service_that_the_door_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    async with serve("127.0.0.1:0", []) as server:
        assert await ask(server.address, "--service", "forklight.v1.Nothing") == 1
    assert "knows no service 'forklight.v1.Nothing'" in capsys.readouterr().err


def test_a_closed_port_is_told_within_the_timeout(capsys: pytest.CaptureFixture[str]) -> None:
    (port,) = free_ports(1)
    assert main([f"127.0.0.1:{port}", "--timeout", "1"]) == 1
    assert "does not answer" in capsys.readouterr().err
    assert main([f"http://127.0.0.1:{port}/healthz", "--timeout", "1"]) == 1
    assert "does not answer" in capsys.readouterr().err


@contextmanager
def answering(status: int) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/healthz"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(("status", "code"), [(200, 0), (204, 1), (503, 1)])
def test_a_page_serves_when_it_answers_200(
    status: int, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # a probe never leaves the machine
    with answering(status) as address:
        assert main([address]) == code
    said = capsys.readouterr()
    assert f"answers {status}" in said.out + said.err


@pytest.mark.parametrize("address", ["localhost", "127.0.0.1:http", ":7100", "127.0.0.1:70000", ""])
def test_what_is_no_address_is_refused(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([address])
    assert caught.value.code == 2
    assert "is neither host:port nor http://" in capsys.readouterr().err
