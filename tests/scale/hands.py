"""`python -m tests.scale.hands PLAN_JSON`: plays trainer and reward service, by the real protocol.

The trainer leases batches, commits each as a step and announces a version every few of them, with real files.
The reward worker leases scoring tasks and submits verdicts through the reward service's own client.
stdout: one line a second of what was measured. Ends when stdin closes.
"""

# ruff: noqa: T201
from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import blake3
import numpy as np

from forklight.v1 import buffer_pb2, buffer_pb2_grpc, types_pb2
from forklight_core import ids
from forklight_core.errors import ForklightError
from forklight_core.queues import Leased, RedisWorkQueue, RunKeys, connect_redis
from forklight_core.retry import TRANSIENT
from forklight_core.rpc import open_channel
from forklight_core.weights.files import VersionFile
from forklight_core.weights.layout import version_folder
from forklight_core.weights.manifest import MANIFEST_FILE, Manifest, TensorEntry, encode_manifest, manifest_id
from forklight_model.tokenizer import build_character_tokenizer
from forklight_reward.adapters.grpc import GrpcBuffer

CALL_S = 30.0
SHARD = "model-r0-1.safetensors"
VERDICTS_AT_ONCE = 64
RETRY_S = 0.2
LET_GO_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HandsPlan:
    """Travels as JSON."""

    run_id: str
    folder: str
    redis_url: str
    buffer_address: str
    lease_s: float
    steps_per_version: int


@dataclass(slots=True)
class Hands:
    """Trainer and reward worker."""

    plan: HandsPlan
    buffer: buffer_pb2_grpc.BufferAsyncStub
    door: GrpcBuffer
    scoring: RedisWorkQueue
    counts: Counter[str] = field(default_factory=Counter)
    durations: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    trained: set[str] = field(default_factory=set)
    verdicts: set[asyncio.Task[None]] = field(default_factory=set)

    async def train(self) -> None:
        """Learn whatever is ready, for ever."""
        restored = await self._restore()
        await self._announce(restored.epoch, 0, 0)
        step = 1
        while True:
            try:
                if await self._learn(restored, step):
                    if step % self.plan.steps_per_version == 0:
                        await self._announce(restored.epoch, step // self.plan.steps_per_version, step)
                    step += 1
            except TRANSIENT:
                await asyncio.sleep(RETRY_S)

    async def _restore(self) -> buffer_pb2.RestoreTrainerReply:
        request = buffer_pb2.RestoreTrainerRequest(run_id=self.plan.run_id)
        while True:
            try:
                return await self.buffer.RestoreTrainer(request, timeout=CALL_S)
            except TRANSIENT:
                await asyncio.sleep(RETRY_S)

    async def _learn(self, restored: buffer_pb2.RestoreTrainerReply, step: int) -> bool:
        """Lease, commit; False when no batch came in time."""
        lease = buffer_pb2.LeaseBatchRequest(
            run_id=self.plan.run_id, epoch=restored.epoch, step=step, wait_s=5
        )
        batch = (await self._measure("LeaseBatch", self.buffer.LeaseBatch(lease, timeout=CALL_S))).batch
        if not batch.groups:
            return False
        samples = [sample.trajectory for group in batch.groups for sample in group.samples]
        record = types_pb2.CommitRecord(
            lineage=restored.lineage,
            step=step,
            batch_id=batch.batch_id,
            sample_ids=[sample.envelope.sample_id for sample in samples],
        )
        commit = buffer_pb2.CommitStepsRequest(
            run_id=self.plan.run_id, epoch=restored.epoch, records=[record]
        )
        done = await self._measure("CommitSteps", self.buffer.CommitSteps(commit, timeout=CALL_S))
        self._note_batch(batch.policy_version, samples, done.num_trained)
        return True

    def _note_batch(self, version: int, samples: list[types_pb2.Trajectory], num_trained: int) -> None:
        names = {sample.envelope.sample_id for sample in samples}
        if num_trained:  # else the step was committed by a call whose answer was lost
            self.counts["trained_twice"] += len(names & self.trained)
        self.trained |= names
        self.counts["trained"] += len(samples)
        self.counts["tokens_trained"] += sum(sample.num_response_tokens for sample in samples)
        now = time.time()
        for sample in samples:
            self.durations["sample_age"].append(round(now - sample.finished_at, 3))
            self.durations["staleness"].append(version - min(span.version for span in sample.version_spans))

    async def _announce(self, epoch: int, version: int, step: int) -> None:
        reference = write_version(Path(self.plan.folder), self.plan.run_id, version, step)
        announce = buffer_pb2.AnnounceVersionRequest(run_id=self.plan.run_id, epoch=epoch, weights=reference)
        while True:
            try:
                await self.buffer.AnnounceVersion(announce, timeout=CALL_S)
                self.counts["versions"] += 1
                return
            except TRANSIENT:
                await asyncio.sleep(RETRY_S)

    async def judge(self) -> None:
        """Score whatever waits, for ever."""
        while True:
            try:
                taken = await self.scoring.take("reward-0", wait_s=1.0, max_items=VERDICTS_AT_ONCE)
            except TRANSIENT:
                await asyncio.sleep(RETRY_S)
                continue
            tasks = {asyncio.create_task(self._score(item)) for item in taken}
            self.verdicts |= tasks
            for task in tasks:
                task.add_done_callback(self.verdicts.discard)
            while len(self.verdicts) >= 4 * VERDICTS_AT_ONCE:
                await asyncio.wait(self.verdicts, return_when=asyncio.FIRST_COMPLETED)

    async def _score(self, item: Leased) -> None:
        """Every other sample of a group is right, so that none is all equal."""
        task = types_pb2.ScoringTask.FromString(item.body)
        verdict = types_pb2.Verdict(
            envelope=task.envelope,
            status=types_pb2.VERDICT_STATUS_OK,
            score=float(ids.sample_index(task.envelope.sample_id) % 2),
            worker="reward-0",
        )
        waited = time.time() - int(item.lease.entry_id.partition("-")[0]) / 1000
        self.durations["scoring_wait"].append(round(waited, 4))
        try:
            await self._measure("SubmitVerdicts", self.door.submit_verdict(verdict, item.lease))
            self.counts["verdicts"] += 1
        except ForklightError as error:
            self.counts[f"verdicts.{type(error).__name__}"] += 1

    async def _measure(self, name: str, call: Any) -> Any:
        started = time.perf_counter()
        try:
            return await call
        except ForklightError as error:
            self.counts[f"{name}.{type(error).__name__}"] += 1
            raise
        finally:
            self.durations[name].append(round(time.perf_counter() - started, 5))

    def read(self) -> dict[str, Any]:
        """What happened since the last time."""
        said = {"counts": dict(self.counts), "durations": dict(self.durations)}
        self.counts, self.durations = Counter(), defaultdict(list)
        return said


def write_version(folder: Path, run_id: str, version: int, step: int) -> types_pb2.WeightsRef:
    """A version of one small tensor, as a trainer publishes them."""
    place = folder / "weights" / version_folder(version)
    place.mkdir(parents=True)
    values = np.full(64, float(version), dtype=np.float32).tobytes()
    digest = blake3.blake3(values).hexdigest()
    entry = TensorEntry(
        name="w",
        dtype="float32",
        shape=(64,),
        hash=digest,
        file=SHARD,
        length=len(values),
        stored_hash=digest,
    )
    with VersionFile(place / SHARD) as file:
        offset = file.begin(entry)
        file.write(values)
        described = file.finish()
    build_character_tokenizer().save(place)
    manifest = Manifest(
        run_id=run_id,
        version=version,
        step=step,
        contract="simulated",
        kernels="simulated",
        config_json="{}",
        files=(described,),
        tensors={"w": replace(entry, offset=offset)},
    )
    data = encode_manifest(manifest)
    (place / MANIFEST_FILE).write_bytes(data)
    return types_pb2.WeightsRef(
        version=version, manifest=str(place / MANIFEST_FILE), manifest_id=manifest_id(data)
    )


async def main(plan: HandsPlan) -> None:
    """Until stdin closes."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    redis, channel = connect_redis(plan.redis_url), open_channel(plan.buffer_address)
    hands = Hands(
        plan=plan,
        buffer=cast("buffer_pb2_grpc.BufferAsyncStub", buffer_pb2_grpc.BufferStub(channel)),
        door=GrpcBuffer(channel),
        scoring=RedisWorkQueue(redis, RunKeys(plan.run_id).scoring, lease_s=plan.lease_s),
    )
    work = [asyncio.create_task(hands.train()), asyncio.create_task(hands.judge())]
    closed = asyncio.create_task(reader.readline())
    while not closed.done():
        await asyncio.wait([closed], timeout=1.0)
        print(json.dumps(hands.read()), flush=True)
        for task in work:
            if task.done():
                task.result()
    for task in [*work, *hands.verdicts]:
        task.cancel()
    # A cancellation that meets an answer may be swallowed by a client: do not wait for ever.
    await asyncio.wait([*work, *hands.verdicts], timeout=LET_GO_S)
    await channel.close()
    await redis.aclose()
    print(json.dumps(hands.read()), flush=True)


if __name__ == "__main__":
    asyncio.run(main(HandsPlan(**json.loads(sys.argv[1]))))
