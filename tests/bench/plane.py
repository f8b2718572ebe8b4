"""Trajectories through the real data plane: a Redis-compatible server, a buffer process, blobs in a folder.

This process plays rollout, reward and trainer with the real client code. `make bench-plane` prints a table.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

from forklight.v1 import buffer_pb2, types_pb2
from forklight_core import ids
from forklight_core.queues import Leased
from forklight_core.wire import SCHEMA_VERSION, TrajectoryArrays, pack_payload, unpack_payload
from tests.bench.limits import MIB, file_bytes_per_s, loopback_bytes_per_s, memcpy_bytes_per_s
from tests.bench.world import World, open_world

GROUP_SIZE = 8
GROUPS_PER_STEP = 4
WINDOW = 8
BYTES_A_TOKEN = 12
CALL_S = 30.0


@dataclass(slots=True)
class Hops:
    """Latencies in seconds, by hop."""

    times: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    @contextmanager
    def measure(self, hop: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.times[hop].append(time.perf_counter() - started)

    def table(self) -> str:
        rows = [f"    {'hop':<22}{'p50 ms':>9}{'p99 ms':>9}"]
        for hop, times in self.times.items():
            p50, p99 = np.percentile(times, [50, 99]) * 1000
            rows.append(f"    {hop:<22}{p50:>9.2f}{p99:>9.2f}")
        return "\n".join(rows)


def make_payload(sample: str, size: int) -> bytes:
    """About `size` bytes of tokens and log-probs, different for every sample."""
    num_tokens = max(1, size // BYTES_A_TOKEN)
    random = np.random.default_rng(abs(hash(sample)))
    tokens = random.integers(0, 200_064, num_tokens, dtype=np.int32)
    logprobs = tokens.astype(np.float32) * -1e-5
    return pack_payload(
        TrajectoryArrays(
            sample_id=sample,
            prompt_ids=tokens[:16],
            response_ids=tokens,
            logprobs=logprobs,
            raw_logprobs=logprobs,
            text="",
            contract="bench",
        )
    )


async def roll_out(world: World, hops: Hops, size: int, item: Leased) -> None:
    """One group: the samples' blobs and headers, as a rollout pod sends them."""
    task = types_pb2.GenerationTask.FromString(item.body)
    trajectories = []
    for index in range(task.sampling.num_samples):
        sample = ids.sample_id(task.envelope.group_id, index)
        payload = make_payload(sample, size)
        with hops.measure("blob put"):
            reference = await asyncio.to_thread(world.blobs.put, payload)
        trajectory = types_pb2.Trajectory(
            envelope=types_pb2.Envelope(
                schema_version=SCHEMA_VERSION,
                run_id=world.run_id,
                group_id=task.envelope.group_id,
                sample_id=sample,
                attempt=item.lease.fence,
            ),
            prompt_id=task.prompt_id,
            payload=types_pb2.BlobRef(id=reference.id, size_bytes=reference.size_bytes),
            num_prompt_tokens=16,
            num_response_tokens=max(1, size // BYTES_A_TOKEN),
            finish_reason=types_pb2.FINISH_REASON_STOP,
            version_spans=[types_pb2.VersionSpan(start=0, version=task.opened_version)],
            pod="bench",
            started_at=time.time(),
            finished_at=time.time(),
            purpose=task.purpose,
        )
        trajectories.append(trajectory)
    with hops.measure("submit 8 trajectories"):
        await asyncio.gather(
            *(world.rollout_door.submit(trajectory, item.lease) for trajectory in trajectories)
        )


async def score(world: World, hops: Hops, item: Leased) -> None:
    """One verdict, the payload read and verified as the reward front door does."""
    task = types_pb2.ScoringTask.FromString(item.body)
    with hops.measure("blob get"):
        data = await asyncio.to_thread(world.blobs.get, task.trajectory.payload.id)
    unpack_payload(data)
    verdict = types_pb2.Verdict(
        envelope=task.envelope,
        status=types_pb2.VERDICT_STATUS_OK,
        score=float(ids.sample_index(task.envelope.sample_id) % 2),
        worker="bench",
    )
    with hops.measure("submit verdict"):
        await world.reward_door.submit_verdict(verdict, item.lease)


async def produce(world: World, hops: Hops, size: int, num_groups: int) -> None:
    for _ in range(num_groups):
        with hops.measure("take group"):
            taken = await world.tasks.take("rollout", wait_s=CALL_S, max_items=1)
        await roll_out(world, hops, size, taken[0])


async def judge(world: World, hops: Hops, num_samples: int) -> None:
    left = num_samples
    while left > 0:
        taken = await world.scoring.take("reward", wait_s=CALL_S, max_items=WINDOW)
        await asyncio.gather(*(score(world, hops, item) for item in taken))
        left -= len(taken)


async def train(world: World, hops: Hops, num_steps: int) -> int:
    """Lease, read every blob, commit; returns the bytes read."""
    restored = await world.buffer.RestoreTrainer(
        buffer_pb2.RestoreTrainerRequest(run_id=world.run_id), timeout=CALL_S
    )
    num_bytes = 0
    for step in range(1, num_steps + 1):
        request = buffer_pb2.LeaseBatchRequest(run_id=world.run_id, epoch=restored.epoch, step=step, wait_s=5)
        reply = await world.buffer.LeaseBatch(request, timeout=CALL_S)
        while not reply.HasField("batch"):
            reply = await world.buffer.LeaseBatch(request, timeout=CALL_S)
        samples = [sample for group in reply.batch.groups for sample in group.samples]
        for sample in samples:
            num_bytes += len(await asyncio.to_thread(world.blobs.get, sample.trajectory.payload.id))
        record = types_pb2.CommitRecord(
            lineage=restored.lineage,
            step=step,
            batch_id=reply.batch.batch_id,
            sample_ids=[sample.trajectory.envelope.sample_id for sample in samples],
        )
        commit = buffer_pb2.CommitStepsRequest(run_id=world.run_id, epoch=restored.epoch, records=[record])
        with hops.measure("commit step"):
            await world.buffer.CommitSteps(commit, timeout=CALL_S)
    return num_bytes


async def bench_size(size: int, num_steps: int) -> None:
    """One row: num_steps batches of samples of one size, end to end."""
    hops = Hops()
    num_groups = num_steps * GROUPS_PER_STEP
    with tempfile.TemporaryDirectory() as folder:
        async with open_world(Path(folder), group_size=GROUP_SIZE, groups_per_step=GROUPS_PER_STEP) as world:
            started = time.perf_counter()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(produce(world, hops, size, num_groups))
                tasks.create_task(judge(world, hops, num_groups * GROUP_SIZE))
                trained = tasks.create_task(train(world, hops, num_steps))
            seconds = time.perf_counter() - started
    num_samples, num_bytes = num_groups * GROUP_SIZE, trained.result()
    print(
        f"\n{size / 1000:,.0f} KB a sample: {num_samples / seconds:,.0f} trajectories/s, "
        f"{num_bytes / seconds / 1e6:,.0f} MB/s"
    )
    print(
        f"    limits here: memcpy {memcpy_bytes_per_s(size) / 1e6:,.0f} MB/s, "
        f"loopback {loopback_bytes_per_s(size) / 1e6:,.0f} MB/s, "
        f"file write + read {file_bytes_per_s(size) / 1e6:,.0f} MB/s"
    )
    print(hops.table(), flush=True)


async def bench_in_flight(num_samples: int) -> None:
    """Samples submitted and not yet judged: what they cost in memory."""
    num_groups = num_samples // GROUP_SIZE
    with tempfile.TemporaryDirectory() as folder:
        async with open_world(Path(folder), group_size=GROUP_SIZE, groups_per_step=num_groups) as world:
            before = await world.memory()
            await produce(world, Hops(), 1_000, num_groups)
            after = await world.memory()
    print(f"\n{num_samples:,} samples in flight (generated, no verdict yet)")
    for name in after:
        grown = after[name] - before[name]
        print(
            f"    {name:<8}{after[name] / MIB:>8.1f} MiB, grew by {grown / num_samples:,.0f} bytes a sample"
        )


async def main() -> None:
    print(
        f"{os.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB, "
        f"load {os.getloadavg()[0]:.1f}"
    )
    await bench_size(10_000, 40)
    await bench_size(640_000, 10)
    await bench_size(5_000_000, 3)
    await bench_in_flight(10_000)


if __name__ == "__main__":
    asyncio.run(main())
