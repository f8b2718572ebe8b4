"""Plays rollout, reward and trainer against a buffer in one process, on a real server: for tests and
measurements.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Sequence, Set
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from forklight.v1 import types_pb2
from forklight_buffer.adapters.sqlite import SqliteLedger
from forklight_buffer.assembly import Buffer, Outside, build
from forklight_buffer.audit.sample_checks import find_segment_faults
from forklight_buffer.batches import Committed, Leasing
from forklight_buffer.keys import BufferKeys
from forklight_buffer.live import LiveGroup, SegmentsNow
from forklight_buffer.records import Commit
from forklight_buffer.restore import Checkpoint, Restored
from forklight_buffer.states import Outcome, Purpose
from forklight_core import ids
from forklight_core.blobs import BlobStore, MemoryBlobStore
from forklight_core.queues import Lease, Leased, RedisWorkQueue, RunKeys, connect_redis
from forklight_core.runfile import RunFile
from forklight_core.wire import SCHEMA_VERSION

Reward = Callable[[str], float | None]


class ManualClock:
    """A clock that tests move; it starts now."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Where a rehearsal takes place. A buffer built on it again is a restarted buffer."""

    redis_url: str
    folder: Path
    run_file: RunFile
    run_id: str
    blobs: BlobStore = field(default_factory=MemoryBlobStore)
    clock: ManualClock = field(default_factory=ManualClock)
    in_memory: bool = False

    def with_run_file(self, run_file: RunFile) -> Stage:
        """The same place with other settings."""
        return replace(self, run_file=run_file)


def write_prompts(path: Path, num_prompts: int, *, kind: str = "math") -> Path:
    """A small prompt file: sums."""
    lines = [
        json.dumps({"id": f"p{number:03d}", "prompt": f"{number}+1?", "kind": kind, "gold": str(number + 1)})
        for number in range(num_prompts)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


@asynccontextmanager
async def rehearse(stage: Stage) -> AsyncIterator[Rehearsal]:
    """A recovered buffer and the three who talk to it."""
    redis = connect_redis(stage.redis_url)
    ledger = SqliteLedger(None if stage.in_memory else stage.folder / "ledger.sqlite")
    try:
        outside = Outside(
            redis=redis, ledger=ledger, blobs=stage.blobs, clock=stage.clock, blob_margin_s=60.0
        )
        buffer = build(stage.run_id, stage.folder, stage.run_file, outside)
        keys, lease_s = RunKeys(stage.run_id), stage.run_file.buffer.lease_s
        await buffer.recover()
        play = Rehearsal(
            stage=stage,
            outside=outside,
            buffer=buffer,
            tasks=RedisWorkQueue(redis, keys.tasks, lease_s=lease_s),
            evaluate=RedisWorkQueue(redis, keys.evaluate, lease_s=lease_s),
            scoring=RedisWorkQueue(redis, keys.scoring, lease_s=lease_s),
        )
        try:
            yield play
        finally:
            await play.buffer.lookup.close()
    finally:
        await redis.aclose()
        ledger.close()


@dataclass(slots=True, kw_only=True)
class Rehearsal:
    """Rollout, reward and trainer of a stage."""

    stage: Stage
    outside: Outside
    buffer: Buffer
    tasks: RedisWorkQueue
    evaluate: RedisWorkQueue
    scoring: RedisWorkQueue
    epoch: int = 0
    lineage: str = ""
    version: int = 0

    async def restart_buffer(self) -> None:
        """The buffer died and came back: nothing is left of it but the ledger and Redis."""
        self.buffer = build(self.stage.run_id, self.stage.folder, self.stage.run_file, self.outside)
        await self.buffer.recover()

    async def open(self) -> int:
        """One pass of the opener."""
        return await self.buffer.opener.open_groups()

    async def take_tasks(self, *, consumer: str = "rollout-0", most: int = 64) -> list[Leased]:
        """Entries of both task queues, those of evaluation rounds first."""
        found = await self.evaluate.take(consumer, wait_s=0.0, max_items=most)
        if len(found) < most:
            found += await self.tasks.take(consumer, wait_s=0.0, max_items=most - len(found))
        return found

    async def generate(self, *, consumer: str = "rollout-0", most: int = 64) -> list[str]:
        """Take tasks and submit all their samples; returns the sample ids."""
        done = []
        for leased in await self.take_tasks(consumer=consumer, most=most):
            task = types_pb2.GenerationTask.FromString(leased.body)
            for pending in await self.buffer.intake.pending_samples(task.envelope.group_id, leased.lease):
                sample = ids.sample_id(task.envelope.group_id, pending.index)
                await self.submit(sample, leased.lease)
                done.append(sample)
        return done

    def trajectory(self, sample: str, *, tokens: int = 5, version: int | None = None) -> types_pb2.Trajectory:
        """A plausible trajectory; its payload blob is written."""
        payload = self.stage.blobs.put(f"payload of {sample}".encode())
        envelope = types_pb2.Envelope(
            schema_version=SCHEMA_VERSION,
            run_id=self.stage.run_id,
            group_id=ids.group_of(sample),
            sample_id=sample,
            attempt=1,
        )
        return types_pb2.Trajectory(
            envelope=envelope,
            prompt_id="p",
            payload=types_pb2.BlobRef(id=payload.id, size_bytes=payload.size_bytes),
            num_prompt_tokens=3,
            num_response_tokens=tokens,
            finish_reason=types_pb2.FINISH_REASON_STOP,
            version_spans=[
                types_pb2.VersionSpan(start=0, version=self.version if version is None else version)
            ],
            pod="rollout-0",
        )

    async def submit(self, sample: str, lease: Lease) -> Outcome:
        """Submit a sample's trajectory."""
        return await self.buffer.intake.submit_trajectory(self.trajectory(sample), lease)

    def segment(
        self, sample: str, start: int, *, tokens: int = 2, version: int | None = None, tag: str = ""
    ) -> types_pb2.Segment:
        """A plausible segment; its payload blob is written. Another tag is another generation."""
        payload = self.stage.blobs.put(f"segment {start}+{tokens} of {sample} {tag}".encode())
        return types_pb2.Segment(
            start=start,
            num_tokens=tokens,
            payload=types_pb2.BlobRef(id=payload.id, size_bytes=payload.size_bytes),
            min_version=self.version if version is None else version,
        )

    async def save(self, sample: str, segment: types_pb2.Segment, lease: Lease) -> SegmentsNow:
        """Save a segment of a sample's response."""
        return await self.buffer.segments.save(sample, segment, lease)

    async def go_on(self, leased: Leased, *, tokens: int = 2) -> dict[str, int]:
        """A pod that took a task over: it reads what is saved of each sample, has the buffer forget what
        cannot be read, and saves a segment more. Returns the saved tokens by sample."""
        task = types_pb2.GenerationTask.FromString(leased.body)
        group, saved = task.envelope.group_id, dict[str, int]()
        for pending in await self.buffer.intake.pending_samples(group, leased.lease):
            sample = ids.sample_id(group, pending.index)
            end = sum(segment.num_tokens for segment in pending.segments)
            for segment in pending.segments:
                if not self.stage.blobs.exists(segment.payload_id):
                    end = (
                        await self.buffer.segments.drop(sample, segment.start, leased.lease)
                    ).num_saved_tokens
                    break
            tokens_left = min(tokens, task.sampling.max_new_tokens - end)
            if tokens_left:
                await self.save(sample, self.segment(sample, end, tokens=tokens_left), leased.lease)
            saved[sample] = end + tokens_left
        return saved

    async def live_groups(self) -> AsyncIterator[LiveGroup]:
        """Every group Redis knows."""
        for group_id in await self.buffer.context.live.live_groups():
            group = await self.buffer.context.live.read_group(group_id)
            if group is not None:
                yield group

    async def check_segments(self, *, lost: Set[str] = frozenset()) -> None:
        """AssertionError unless they are sound, the sweep knows all of them, and their blobs are there."""
        oldest: dict[bytes, float] = {}
        async for group in self.live_groups():
            faults = [fault.detail for fault in find_segment_faults({group.group_id: group})]
            for sample in group.samples:
                names = {segment.payload_id for segment in sample.segments} - lost
                faults += [name for name in names if not self.stage.blobs.exists(name)]
                if sample.segments and group.purpose is Purpose.TRAIN:
                    version = min(segment.min_version for segment in sample.segments)
                    oldest[f"{group.group_id}\n{sample.index}".encode()] = version
            if faults:
                raise AssertionError(f"segments of {group.group_id}: {faults}")
        saved = BufferKeys(RunKeys(self.stage.run_id)).saved
        found = await self.outside.redis.zrange(saved, 0, -1, withscores=True)
        known = dict(cast("list[tuple[bytes, float]]", found))
        if known != oldest:
            raise AssertionError(f"the sweep knows {known}, there are {oldest}")

    def verdict(self, sample: str, reward: float | None) -> types_pb2.Verdict:
        """A plausible verdict; without a reward the machinery failed."""
        status = types_pb2.VERDICT_STATUS_INFRA_ERROR if reward is None else types_pb2.VERDICT_STATUS_OK
        envelope = types_pb2.Envelope(
            schema_version=SCHEMA_VERSION,
            run_id=self.stage.run_id,
            group_id=ids.group_of(sample),
            sample_id=sample,
            attempt=1,
        )
        evidence = "no answer from the sandbox" if reward is None else "compared"
        verdict = types_pb2.Verdict(envelope=envelope, status=status, score=reward, evidence=evidence)
        if reward is not None:
            verdict.parts.add(name="correct", value=reward)
        return verdict

    async def score(self, reward: Reward, *, consumer: str = "reward-0", most: int = 1024) -> list[str]:
        """Take scoring tasks and submit verdicts; returns the sample ids."""
        done = []
        for leased in await self.scoring.take(consumer, wait_s=0.0, max_items=most):
            sample = types_pb2.ScoringTask.FromString(leased.body).envelope.sample_id
            await self.buffer.intake.submit_verdict(self.verdict(sample, reward(sample)), leased.lease)
            done.append(sample)
        return done

    async def fill(self, reward: Reward | None = None) -> None:
        """Open, generate and score whatever may be."""
        await self.open()
        await self.generate()
        await self.score(reward or mixed_reward)
        await self.buffer.journal.flush()

    async def restore(
        self,
        *,
        lineage: str = "",
        step: int = 0,
        version: int = 0,
        commits: tuple[Commit, ...] = (),
        window: int = 0,
        events: Sequence[types_pb2.RunEvent] = (),
    ) -> Restored:
        """Begin a trainer epoch."""
        orders = self.buffer.steering.check(window, events)
        checkpoint = Checkpoint(lineage=lineage, step=step, version=version, commits=commits, orders=orders)
        restored = await self.buffer.restorer.restore(checkpoint)
        self.epoch, self.lineage = restored.epoch, restored.lineage
        return restored

    async def lease(self, step: int, *, wait_s: float = 0.0) -> Leasing:
        """Ask for the batch of a step."""
        return await self.buffer.batches.lease(epoch=self.epoch, step=step, wait_s=wait_s)

    async def commit(
        self, *records: Commit, window: int = 0, events: Sequence[types_pb2.RunEvent] = ()
    ) -> Committed:
        """Say that steps are durable, and what was decided with them."""
        orders = self.buffer.steering.check(window, events)
        return await self.buffer.batches.commit(self.epoch, records, orders)

    async def train(self, step: int, *, window: int = 0, events: Sequence[types_pb2.RunEvent] = ()) -> Commit:
        """Lease, learn and commit one step."""
        record = self.record(await self.batch(step))
        await self.commit(record, window=window, events=events)
        return record

    async def batch(self, step: int) -> types_pb2.Batch:
        """The batch of a step, which must be there."""
        leasing = await self.lease(step)
        if leasing.batch is None:
            raise AssertionError(f"no batch for step {step}: {leasing.phase.name}, {leasing.reason}")
        return leasing.batch

    def record(self, batch: types_pb2.Batch) -> Commit:
        """The commit record of a whole batch."""
        return Commit(
            lineage=self.lineage,
            step=batch.step,
            batch_id=batch.batch_id,
            sample_ids=tuple(samples_of(batch)),
        )

    async def announce(self, version: int) -> int:
        """Publish a version."""
        self.version = version
        message = types_pb2.WeightsRef(
            version=version,
            manifest=f"weights/v{version:08d}/manifest.json",
            manifest_id=f"b3:{version:064x}",
        )
        return await self.buffer.versions.announce(self.epoch, message)


def run_event(name: str, step: int, **fields: object) -> types_pb2.RunEvent:
    """A plausible event."""
    event = types_pb2.RunEvent(
        id=name,
        kind="window_advanced",
        severity=types_pb2.SEVERITY_INFO,
        step=step,
        at=5.0,
        title=f"{name} happened",
        evidence_json='{"p99": 9}',
    )
    for field_name, value in fields.items():
        setattr(event, field_name, value)
    return event


def samples_of(batch: types_pb2.Batch) -> list[str]:
    """Sample ids of a batch, in order."""
    return [sample.trajectory.envelope.sample_id for group in batch.groups for sample in group.samples]


def mixed_reward(sample: str) -> float:
    """Right for even samples, wrong for odd ones: no group is all equal."""
    return float(ids.sample_index(sample) % 2 == 0)
