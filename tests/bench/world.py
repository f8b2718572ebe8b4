"""A real Redis-compatible server and a real buffer process, and the doors that pods use, for benches."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from redis.asyncio import Redis

from forklight.v1 import buffer_pb2, buffer_pb2_grpc
from forklight_core.blobs import BlobStore, open_blob_store
from forklight_core.errors import DeadlineError, UnavailableError
from forklight_core.queues import RedisWorkQueue, RunKeys, connect_redis
from forklight_core.redis_server import EmbeddedRedis, start_embedded
from forklight_core.retry import retry_async
from forklight_core.rpc import open_channel
from forklight_reward.adapters.grpc import GrpcBuffer
from forklight_rollout.adapters.buffer_rpc import RpcBuffer

RUN_ID = "bench"
LEASE_S = 60.0

RUN_FILE = """
[run]
name = "bench"
[prompts]
train = "{prompts}"
[sampling]
group_size = {group_size}
max_new_tokens = 500000
[trainer]
steps = 100000
groups_per_step = {groups_per_step}
updates_per_version = 64
[buffer]
max_staleness = 100
max_open_groups = 4096
max_open_tokens = 1000000000000
max_open_bytes = "100000GiB"
lease_s = 60
[evaluation]
every_versions = 0
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Clients of everything that runs."""

    run_id: str
    redis: Redis
    tasks: RedisWorkQueue
    scoring: RedisWorkQueue
    blobs: BlobStore
    buffer: buffer_pb2_grpc.BufferAsyncStub
    rollout_door: RpcBuffer
    reward_door: GrpcBuffer
    process: subprocess.Popen[bytes]
    server: EmbeddedRedis

    async def memory(self) -> dict[str, int]:
        """Resident bytes of the two processes."""
        return {
            "Redis": psutil.Process(self.server.process.pid).memory_info().rss,
            "buffer": psutil.Process(self.process.pid).memory_info().rss,
        }


def write_inputs(folder: Path, *, group_size: int, groups_per_step: int) -> Path:
    """Prompts and a run file."""
    rows = [
        {"id": f"p{number}", "prompt": f"{number}+1=", "kind": "math", "gold": str(number + 1)}
        for number in range(64)
    ]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    place = folder / "run.toml"
    text = RUN_FILE.format(
        prompts=folder / "prompts.jsonl", group_size=group_size, groups_per_step=groups_per_step
    )
    place.write_text(text)
    return place


def start_buffer(
    folder: Path, run_file: Path, server: EmbeddedRedis, address: str
) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "FORKLIGHT_RUN_FILE": str(run_file),
        "FORKLIGHT_RUN_FOLDER": str(folder),
        "FORKLIGHT_RUN_ID": RUN_ID,
        "FORKLIGHT_REDIS_URL": server.url,
        "FORKLIGHT_BLOBS_URL": f"file://{folder}/blobs",
        "FORKLIGHT_LISTEN": address,
        "FORKLIGHT_POD": "buffer-0",
    }
    log = (folder / "buffer.log").open("wb")
    return subprocess.Popen(
        [sys.executable, "-m", "forklight_buffer"], env=environment, stderr=log, stdout=log
    )


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


@asynccontextmanager
async def open_world(folder: Path, *, group_size: int, groups_per_step: int) -> AsyncIterator[World]:
    """Start, wait until the buffer answers, stop."""
    run_file = write_inputs(folder, group_size=group_size, groups_per_step=groups_per_step)
    server = start_embedded(folder / "redis")
    address = free_address()
    process = start_buffer(folder, run_file, server, address)
    redis, keys, channel = connect_redis(server.url), RunKeys(RUN_ID), open_channel(address)
    stub: buffer_pb2_grpc.BufferAsyncStub = buffer_pb2_grpc.BufferStub(channel)  # type: ignore[assignment]
    try:
        status = buffer_pb2.GetStatusRequest(run_id=RUN_ID)
        await retry_async(
            lambda: stub.GetStatus(status, timeout=2), deadline_s=30, on=(UnavailableError, DeadlineError)
        )
        yield World(
            run_id=RUN_ID,
            redis=redis,
            tasks=RedisWorkQueue(redis, keys.tasks, lease_s=LEASE_S),
            scoring=RedisWorkQueue(redis, keys.scoring, lease_s=LEASE_S),
            blobs=open_blob_store(f"file://{folder}/blobs"),
            buffer=stub,
            rollout_door=RpcBuffer(channel, RUN_ID),
            reward_door=GrpcBuffer(channel),
            process=process,
            server=server,
        )
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, 10)
        await channel.close()
        await redis.aclose()
        server.stop()
