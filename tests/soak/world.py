"""A real queue, buffer and reward service as processes under load, and hands that play rollout and trainer.

Every response is written here, so the score that it must get is known.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np

from forklight.v1 import buffer_pb2, buffer_pb2_grpc, types_pb2
from forklight_core import ids
from forklight_core.blobs import BlobStore, open_blob_store
from forklight_core.errors import BusyError, ForklightError
from forklight_core.queues import Leased, RedisWorkQueue, RunKeys, connect_redis
from forklight_core.redis_server import start_embedded
from forklight_core.rpc import open_channel
from forklight_core.wire import SCHEMA_VERSION, TrajectoryArrays, pack_payload
from services.reward.bench.roles import REWARD_ROLES, RUN_ID, Roles, start_chat
from services.reward.bench.work import CLASSES, Work, respond

GROUP_SIZE = 4
GROUPS_A_STEP = 5
LEASE_S = 6
CALL_S = 30.0
IN_FLIGHT = 64
"""Samples written and not yet judged, at most."""
SHARES = {
    "math-fast": 36, "math-slow": 18, "logic": 24, "code-stdio": 4, "code-function": 6, "judge": 12,
}  # fmt: skip
RUN_FILE = """
[run]
name = "soak"
[prompts]
train = "{folder}/prompts.jsonl"
[sampling]
group_size = {group_size}
[trainer]
steps = {steps}
groups_per_step = {groups_per_step}
updates_per_version = 64
[buffer]
dynamic_sampling = false
max_staleness = 100
max_open_groups = 256
max_open_tokens = 1000000000000
lease_s = {lease_s}
max_deliveries = 20
[reward]
verifier_processes = 2
max_attempts = 4
[reward.judge]
kind = "openai"
endpoints = ["{chat}"]
[evaluation]
every_versions = 0
[recipe]
overlong_penalty = false
allow_deviation = true
"""


@dataclass(slots=True, kw_only=True)
class Soak:
    """What runs, what was asked, what came back."""

    folder: Path
    roles: Roles
    tasks: RedisWorkQueue
    blobs: BlobStore
    buffer: buffer_pb2_grpc.BufferAsyncStub
    works: dict[str, Work]
    expected: dict[str, float] = field(default_factory=dict)
    """Score by sample id, of everything that was written."""
    num_trained: int = 0
    moved: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that learning changes."""
        async with self.moved:
            await self.moved.wait_for(condition)


def make_works(count: int, seed: int) -> dict[str, Work]:
    """Tasks of all classes by prompt id, in their shares."""
    chance = random.Random(seed)
    names = chance.choices(list(SHARES), list(SHARES.values()), k=count)
    return {f"{name}-{number}": CLASSES[name](number) for number, name in enumerate(names)}


def write_inputs(folder: Path, works: dict[str, Work], chat: str, steps: int) -> Path:
    """The prompt file and the run file."""
    rows = []
    for prompt_id, work in works.items():
        spec = json.loads(work.spec.spec_json) if work.spec.spec_json else {}
        row = {"id": prompt_id, "prompt": work.spec.prompt, "kind": work.spec.kind, "gold": work.spec.gold}
        rows.append(row | ({"spec": spec} if spec else {}))
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run_file = folder / "soak.toml"
    run_file.write_text(
        RUN_FILE.format(
            folder=folder,
            chat=chat,
            steps=steps,
            group_size=GROUP_SIZE,
            groups_per_step=GROUPS_A_STEP,
            lease_s=LEASE_S,
        )
    )
    return run_file


@asynccontextmanager
async def open_soak(folder: Path, *, num_groups: int, num_prompts: int, seed: int) -> AsyncIterator[Soak]:
    """Start everything, wait until it serves; stop it at the end."""
    chat, url = start_chat()
    works = make_works(num_prompts, seed)
    run_file = write_inputs(folder, works, url, num_groups // GROUPS_A_STEP)
    try:
        with start_embedded(folder / "redis") as server:
            roles = Roles(folder / "run", run_file, server.url, ("buffer", *REWARD_ROLES))
            redis, channel = connect_redis(server.url), open_channel(roles.plan.address_of("buffer"))
            try:
                await asyncio.to_thread(roles.start_all)
                yield Soak(
                    folder=folder,
                    roles=roles,
                    tasks=RedisWorkQueue(redis, RunKeys(RUN_ID).tasks, lease_s=600.0),
                    blobs=open_blob_store(f"file://{folder}/run/blobs"),
                    buffer=cast("buffer_pb2_grpc.BufferAsyncStub", buffer_pb2_grpc.BufferStub(channel)),
                    works=works,
                )
            finally:
                await asyncio.to_thread(roles.stop)
                await channel.close()
                await redis.aclose()
    finally:
        chat.kill()
        chat.wait()


async def write_groups(soak: Soak, num_groups: int, seed: int) -> None:
    """Play rollout: every sample right or wrong by chance, never more in flight than the bound."""
    chance = random.Random(seed)
    left = num_groups
    while left:
        await soak.until(lambda: len(soak.expected) - soak.num_trained * GROUP_SIZE <= IN_FLIGHT)
        for item in await soak.tasks.take("soak", wait_s=2.0, max_items=min(8, left)):
            await write_group(soak, item, chance)
            left -= 1


async def write_group(soak: Soak, item: Leased, chance: random.Random) -> None:
    """One group: payloads and headers, as a rollout pod sends them."""
    asked = types_pb2.GenerationTask.FromString(item.body)
    lease = types_pb2.Lease(
        entry_id=item.lease.entry_id, consumer=item.lease.consumer, fence=item.lease.fence
    )
    for index in range(asked.sampling.num_samples):
        sample = ids.sample_id(asked.envelope.group_id, index)
        answered = respond(soak.works[asked.prompt_id], is_right=chance.random() < 0.5)
        soak.expected[sample] = answered.score
        trajectory = make_trajectory(soak, asked, sample, answered.response, item.lease.fence)
        request = buffer_pb2.SubmitTrajectoryRequest(trajectory=trajectory, lease=lease)
        await soak.buffer.SubmitTrajectory(request, timeout=CALL_S)


def make_trajectory(
    soak: Soak, asked: types_pb2.GenerationTask, sample: str, text: str, fence: int
) -> types_pb2.Trajectory:
    """A sample of four tokens that says `text`."""
    tokens, logprobs = np.arange(4, dtype=np.int32), np.zeros(4, dtype=np.float32)
    payload = pack_payload(
        TrajectoryArrays(
            sample_id=sample,
            prompt_ids=tokens,
            response_ids=tokens,
            logprobs=logprobs,
            raw_logprobs=logprobs,
            text=text,
            contract="soak",
        )
    )
    reference = soak.blobs.put(payload)
    return types_pb2.Trajectory(
        envelope=types_pb2.Envelope(
            schema_version=SCHEMA_VERSION,
            run_id=RUN_ID,
            group_id=asked.envelope.group_id,
            sample_id=sample,
            attempt=fence,
        ),
        prompt_id=asked.prompt_id,
        payload=types_pb2.BlobRef(id=reference.id, size_bytes=reference.size_bytes),
        num_prompt_tokens=4,
        num_response_tokens=4,
        finish_reason=types_pb2.FINISH_REASON_STOP,
        version_spans=[types_pb2.VersionSpan(start=0, version=asked.opened_version)],
        pod="soak",
        started_at=time.time(),
        finished_at=time.time(),
        purpose=asked.purpose,
    )


async def learn(soak: Soak, num_groups: int) -> None:
    """Play trainer: lease and commit every group, some a step."""
    restored = await soak.buffer.RestoreTrainer(
        buffer_pb2.RestoreTrainerRequest(run_id=RUN_ID), timeout=CALL_S
    )
    for step in range(1, num_groups // GROUPS_A_STEP + 1):
        request = buffer_pb2.LeaseBatchRequest(run_id=RUN_ID, epoch=restored.epoch, step=step, wait_s=5)
        reply = await soak.buffer.LeaseBatch(request, timeout=CALL_S)
        while not reply.HasField("batch"):
            reply = await soak.buffer.LeaseBatch(request, timeout=CALL_S)
        record = types_pb2.CommitRecord(
            lineage=restored.lineage,
            step=step,
            batch_id=reply.batch.batch_id,
            sample_ids=_sample_ids(reply.batch),
        )
        commit = buffer_pb2.CommitStepsRequest(run_id=RUN_ID, epoch=restored.epoch, records=[record])
        await soak.buffer.CommitSteps(commit, timeout=CALL_S)
        async with soak.moved:
            soak.num_trained += GROUPS_A_STEP
            soak.moved.notify_all()


def _has_learned(soak: Soak, num_groups: int) -> bool:
    return soak.num_trained >= num_groups


def _sample_ids(batch: types_pb2.Batch) -> Sequence[str]:
    return [sample.trajectory.envelope.sample_id for group in batch.groups for sample in group.samples]


async def kill_at(soak: Soak, plan: Sequence[tuple[int, str]]) -> None:
    """kill -9 each victim once so many groups are learned, and start it again at once."""
    for num_groups, victim in plan:
        await soak.until(partial(_has_learned, soak, num_groups))
        await asyncio.to_thread(soak.roles.kill, victim)
        soak.roles.start(victim)
        with contextlib.suppress(ForklightError, BusyError):
            await asyncio.to_thread(soak.roles.wait_ready, (victim,))
