"""`python -m tests.scale.front`: what a verdict of the real reward service costs, from the scoring queue on:
a buffer, a front and a verifier as processes, samples whose score is known.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from forklight.v1 import buffer_pb2_grpc
from forklight_core.blobs import open_blob_store
from forklight_core.queues import RedisWorkQueue, RunKeys, connect_redis
from forklight_core.redis_server import start_embedded
from forklight_core.rpc import open_channel
from services.reward.bench.roles import FRONT, RUN_ID, VERIFIER, Roles, tree_cpu_s
from services.reward.bench.work import CLASSES
from tests.soak.world import GROUP_SIZE, GROUPS_A_STEP, Soak, learn, write_groups, write_inputs

NAMES = ("buffer", VERIFIER, FRONT)
NO_JUDGE = "http://127.0.0.1:9"
NUM_PROMPTS = 64
LIMIT_S = 170.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One class of work."""

    name: str
    num_verdicts: int
    verdicts_per_s: float
    cpu_ms: Mapping[str, float]
    """Of each role, a verdict."""


async def judge(name: str, num_groups: int, folder: Path) -> Judged:
    """So many groups of one class, through everything."""
    works = {f"{name}-{number}": CLASSES[name](number) for number in range(NUM_PROMPTS)}
    run_file = write_inputs(folder, works, NO_JUDGE, num_groups // GROUPS_A_STEP)
    with start_embedded(folder / "redis") as server:
        roles = Roles(folder / "run", run_file, server.url, NAMES)
        redis, channel = connect_redis(server.url), open_channel(roles.plan.address_of("buffer"))
        try:
            await asyncio.to_thread(roles.start_all)
            soak = Soak(
                folder=folder,
                roles=roles,
                tasks=RedisWorkQueue(redis, RunKeys(RUN_ID).tasks, lease_s=600.0),
                blobs=open_blob_store(f"file://{folder}/run/blobs"),
                buffer=cast("buffer_pb2_grpc.BufferAsyncStub", buffer_pb2_grpc.BufferStub(channel)),
                works=works,
            )
            before, started = cpu_s(roles), time.perf_counter()
            async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as group:
                group.create_task(write_groups(soak, num_groups, 1))
                group.create_task(learn(soak, num_groups))
            seconds, after = time.perf_counter() - started, cpu_s(roles)
        finally:
            await asyncio.to_thread(roles.stop)
            await channel.close()
            await redis.aclose()
    number = num_groups * GROUP_SIZE
    return Judged(
        name=name,
        num_verdicts=number,
        verdicts_per_s=number / seconds,
        cpu_ms={role: 1e3 * (after[role] - before[role]) / number for role in NAMES},
    )


def cpu_s(roles: Roles) -> dict[str, float]:
    """CPU seconds of each role."""
    return {name: tree_cpu_s(process.pid) for name, process in roles.processes.items()}


async def main(num_groups: int) -> None:
    """A line a class."""
    print(f"load {os.getloadavg()[0]:.1f}; CPU ms a verdict of buffer, verifier, front")
    for name in ("math-fast", "logic"):
        with tempfile.TemporaryDirectory() as folder:
            found = await judge(name, num_groups, Path(folder))
        costs = "".join(f"{found.cpu_ms[role]:>10.2f}" for role in NAMES)
        print(f"{name:<12}{found.num_verdicts:>7}{found.verdicts_per_s:>8.0f}/s{costs}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--groups", type=int, default=200, help="groups of 4 samples, a multiple of 5")
    asyncio.run(main(parser.parse_args().groups))
