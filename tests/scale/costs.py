"""`python -m tests.scale.costs`: CPU that the buffer and Redis spend on each call of a pod and of the reward
service, and what follows for a run of 512 GPUs. CPU time, so that a busy machine matters little.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil

from forklight.v1 import buffer_pb2, types_pb2
from forklight_core import ids
from forklight_core.blobs import BlobRef
from forklight_core.queues import Leased
from forklight_core.wire import SCHEMA_VERSION
from forklight_rollout.ports import SegmentRef
from tests.bench.world import World, open_world

GROUP_SIZE = 16
SEGMENTS = 8
SEGMENT_TOKENS = 4096
CALL_S = 60.0
AT_ONCE = 32
"""Calls under way, as from so many pods."""

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of one call."""

    name: str
    num_calls: int
    buffer_ms: float
    redis_ms: float
    calls_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What rollouts of a fleet ask for, a second."""

    num_gpus: int
    tokens_per_gpu: float
    tokens_a_sample: float

    @property
    def tokens(self) -> float:
        return self.num_gpus * self.tokens_per_gpu

    @property
    def samples(self) -> float:
        return self.tokens / self.tokens_a_sample

    @property
    def segments(self) -> float:
        return self.tokens / SEGMENT_TOKENS

    def cores(self, costs: dict[str, Cost]) -> tuple[float, float]:
        """Of the buffer's thread and of Redis'."""
        parts = (
            (self.samples, costs["SubmitTrajectories"]),
            (self.samples, costs["SubmitVerdicts"]),
            (self.samples, costs["lease and commit, a sample"]),
            (self.segments, costs["SaveSegment"]),
            (self.samples / GROUP_SIZE, costs["GetPendingSamples"]),
            (self.samples / GROUP_SIZE, costs["open a group"]),
        )
        return (
            sum(rate * cost.buffer_ms for rate, cost in parts) / 1e3,
            sum(rate * cost.redis_ms for rate, cost in parts) / 1e3,
        )


def cpu_of(world: World) -> tuple[float, float]:
    """Seconds that buffer and Redis have spent."""
    found = [psutil.Process(pid).cpu_times() for pid in (world.process.pid, world.server.process.pid)]
    buffer, redis = (times.user + times.system for times in found)
    return buffer, redis


async def measure(
    world: World, name: str, items: Sequence[Item], call: Callable[[Item], Awaitable[object]]
) -> Cost:
    """All calls, so many at a time."""
    room = asyncio.Semaphore(AT_ONCE)

    async def one(item: Item) -> None:
        async with room:
            await call(item)

    before, started = cpu_of(world), time.perf_counter()
    await asyncio.gather(*(one(item) for item in items))
    seconds, after = time.perf_counter() - started, cpu_of(world)
    buffer, redis = (1e3 * (now - then) / len(items) for now, then in zip(after, before, strict=True))
    return Cost(
        name=name,
        num_calls=len(items),
        buffer_ms=buffer,
        redis_ms=redis,
        calls_per_s=len(items) / seconds,
    )


def trajectory_of(world: World, sample: str, leased: Leased, payload: BlobRef) -> types_pb2.Trajectory:
    """A header as a pod sends it."""
    envelope = types_pb2.Envelope(
        schema_version=SCHEMA_VERSION,
        run_id=world.run_id,
        group_id=ids.group_of(sample),
        sample_id=sample,
        attempt=leased.lease.fence,
    )
    return types_pb2.Trajectory(
        envelope=envelope,
        prompt_id="p",
        payload=types_pb2.BlobRef(id=payload.id, size_bytes=payload.size_bytes),
        num_prompt_tokens=100,
        num_response_tokens=SEGMENTS * SEGMENT_TOKENS + 10,
        finish_reason=types_pb2.FINISH_REASON_STOP,
        version_spans=[types_pb2.VersionSpan(start=0, version=0)],
        pod=leased.lease.consumer,
        started_at=time.time(),
        finished_at=time.time(),
        purpose=types_pb2.PURPOSE_TRAIN,
    )


async def measure_opening(world: World) -> Cost:
    """The buffer opens what the credit allows as soon as it runs."""

    async def num_open() -> int:
        request = buffer_pb2.GetStatusRequest(run_id=world.run_id)
        return int((await world.buffer.GetStatus(request, timeout=CALL_S)).num_open_groups)

    first, before, started = await num_open(), cpu_of(world), time.perf_counter()
    last, now = first, -1
    while now != last:
        last = now
        await asyncio.sleep(2.0)
        now = await num_open()
    after, number = cpu_of(world), max(1, now - first)
    return Cost(
        name="open a group",
        num_calls=number,
        buffer_ms=1e3 * (after[0] - before[0]) / number,
        redis_ms=1e3 * (after[1] - before[1]) / number,
        calls_per_s=number / (time.perf_counter() - started),
    )


async def measure_steps(world: World, num_samples: int) -> Cost:
    """What the trainer asks for, by sample: one batch of all of them, leased and committed."""
    restored = await world.buffer.RestoreTrainer(
        buffer_pb2.RestoreTrainerRequest(run_id=world.run_id), timeout=CALL_S
    )
    before, started = cpu_of(world), time.perf_counter()
    lease = buffer_pb2.LeaseBatchRequest(run_id=world.run_id, epoch=restored.epoch, step=1, wait_s=20)
    batch = (await world.buffer.LeaseBatch(lease, timeout=CALL_S)).batch
    names = [sample.trajectory.envelope.sample_id for group in batch.groups for sample in group.samples]
    record = types_pb2.CommitRecord(
        lineage=restored.lineage, step=1, batch_id=batch.batch_id, sample_ids=names
    )
    commit = buffer_pb2.CommitStepsRequest(run_id=world.run_id, epoch=restored.epoch, records=[record])
    await world.buffer.CommitSteps(commit, timeout=CALL_S)
    after = cpu_of(world)
    return Cost(
        name="lease and commit, a sample",
        num_calls=num_samples,
        buffer_ms=1e3 * (after[0] - before[0]) / num_samples,
        redis_ms=1e3 * (after[1] - before[1]) / num_samples,
        calls_per_s=num_samples / (time.perf_counter() - started),
    )


async def take_all(world: World, num_groups: int) -> list[Leased]:
    """Leases of so many groups."""
    leased: list[Leased] = []
    while len(leased) < num_groups:
        leased += await world.tasks.take("pod-0", wait_s=5.0, max_items=num_groups - len(leased))
    return leased


async def measure_pods(world: World, num_groups: int) -> list[Cost]:
    """What pods ask for, in the order of a sample's life."""
    leased = await take_all(world, num_groups)
    door = world.rollout_door
    groups = {each: types_pb2.GenerationTask.FromString(each.body).envelope.group_id for each in leased}
    pending = await measure(
        world, "GetPendingSamples", leased, lambda each: door.pending_samples(groups[each], each.lease)
    )
    samples = [(ids.sample_id(groups[each], index), each) for each in leased for index in range(GROUP_SIZE)]
    costs = [pending]
    saves: list[Cost] = []
    for number in range(SEGMENTS):

        async def save(pair: tuple[str, Leased], number: int = number) -> None:
            segment = SegmentRef(
                start=number * SEGMENT_TOKENS,
                num_tokens=SEGMENT_TOKENS,
                payload=world.blobs.put(f"{pair[0]} {number}".encode()),
                min_version=0,
            )
            await door.save_segment(pair[0], segment, pair[1].lease)

        saves.append(await measure(world, "SaveSegment", samples, save))
    costs.append(mean_of(saves))

    async def submit(pair: tuple[str, Leased]) -> None:
        payload = world.blobs.put(pair[0].encode())
        await door.submit(trajectory_of(world, pair[0], pair[1], payload), pair[1].lease)

    return [*costs, await measure(world, "SubmitTrajectories", samples, submit)]


def mean_of(costs: Sequence[Cost]) -> Cost:
    """Of equally many calls each."""
    return Cost(
        name=costs[0].name,
        num_calls=sum(cost.num_calls for cost in costs),
        buffer_ms=sum(cost.buffer_ms for cost in costs) / len(costs),
        redis_ms=sum(cost.redis_ms for cost in costs) / len(costs),
        calls_per_s=len(costs) / sum(1 / cost.calls_per_s for cost in costs),
    )


async def measure_verdicts(world: World, num_samples: int) -> Cost:
    """What the reward service asks for."""
    leased: list[Leased] = []
    while len(leased) < num_samples:
        leased += await world.scoring.take("reward-0", wait_s=5.0, max_items=256)

    async def judge(item: Leased) -> None:
        envelope = types_pb2.ScoringTask.FromString(item.body).envelope
        score = float(ids.sample_index(envelope.sample_id) % 2)
        verdict = types_pb2.Verdict(
            envelope=envelope, status=types_pb2.VERDICT_STATUS_OK, score=score, worker="reward-0"
        )
        await world.reward_door.submit_verdict(verdict, item.lease)

    return await measure(world, "SubmitVerdicts", leased, judge)


async def run(num_groups: int) -> list[Cost]:
    """All of it, on servers of its own."""
    with tempfile.TemporaryDirectory() as folder:
        async with open_world(Path(folder), group_size=GROUP_SIZE, groups_per_step=num_groups) as world:
            opening = await measure_opening(world)
            costs = [opening, *await measure_pods(world, num_groups)]
            costs.append(await measure_verdicts(world, num_groups * GROUP_SIZE))
            return [*costs, await measure_steps(world, num_groups * GROUP_SIZE)]


def print_costs(costs: Sequence[Cost]) -> None:
    """The costs, and what they mean for a fleet."""
    print(f"load {os.getloadavg()[0]:.1f}")
    print(f"{'call':<28}{'calls':>8}{'buffer ms':>11}{'Redis ms':>10}{'calls/s':>9}")
    for cost in costs:
        numbers = f"{cost.buffer_ms:>11.2f}{cost.redis_ms:>10.3f}{cost.calls_per_s:>9.0f}"
        print(f"{cost.name:<28}{cost.num_calls:>8}{numbers}")
    by_name = {cost.name: cost for cost in costs}
    head = f"{'tokens/s a GPU':>14}{'tokens a sample':>17}{'tokens/s':>11}{'samples/s':>11}{'segments/s':>12}"
    print(f"\n512 GPUs\n{head}{'buffer cores':>14}{'Redis cores':>13}")
    for tokens_per_gpu in (500.0, 1000.0, 2000.0):
        for tokens_a_sample in (80_000.0, 20_000.0, 5_000.0):
            rates = Rates(num_gpus=512, tokens_per_gpu=tokens_per_gpu, tokens_a_sample=tokens_a_sample)
            buffer, redis = rates.cores(by_name)
            asked = f"{tokens_per_gpu:>14,.0f}{tokens_a_sample:>17,.0f}{rates.tokens:>11,.0f}"
            print(f"{asked}{rates.samples:>11.1f}{rates.segments:>12.0f}{buffer:>14.2f}{redis:>13.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--groups", type=int, default=32, help="groups of 16 samples (default 32)")
    print_costs(asyncio.run(run(parser.parse_args().groups)))
