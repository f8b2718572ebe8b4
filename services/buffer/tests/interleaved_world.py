"""A buffer, workers that may die and a trainer with its checkpoints, moved one small step at a time."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

from forklight.v1 import types_pb2
from forklight_buffer.records import Commit
from forklight_buffer.rehearsal import Rehearsal, run_event
from forklight_buffer.states import Outcome, Phase, Purpose, State, Status
from forklight_core import ids
from forklight_core.errors import FencedError, InvalidInputError, NotFoundError, PreconditionError
from forklight_core.queues import Leased, RedisWorkQueue

LATE = (FencedError, NotFoundError)
WINDOWS = (10, 12, 20)


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """A checkpoint: where it is and everything it has learned."""

    lineage: str
    step: int
    history: tuple[Commit, ...]

    def learned(self) -> set[str]:
        return {sample for commit in self.history for sample in commit.sample_ids}


@dataclass(slots=True, kw_only=True)
class World:
    """A buffer, workers that may die, and a trainer with its checkpoints."""

    play: Rehearsal
    checkpoints: list[Saved] = field(default_factory=list)
    history: list[Commit] = field(default_factory=list)
    saved: Saved = Saved(lineage="", step=0, history=())
    committed: dict[str, Commit] = field(default_factory=dict)
    task_leases: list[Leased] = field(default_factory=list)
    scoring_leases: list[Leased] = field(default_factory=list)
    ended: dict[str, State] = field(default_factory=dict)
    snapshot: dict[bytes, bytes] = field(default_factory=dict)
    anything_released: bool = False
    lost_blobs: set[str] = field(default_factory=set)
    window: int = WINDOWS[0]

    async def take(self, queue: RedisWorkQueue, consumer: str, most: int) -> list[Leased]:
        """An empty queue is not asked: even the shortest blocking read takes the server tens of ms."""
        if not self.anything_released and not (await queue.stats()).num_waiting:
            return []
        return await queue.take(consumer, wait_s=0.0, max_items=most)

    async def open(self, _: int) -> None:
        opened = await self.play.open()
        standing = await self.play.buffer.context.live.standing()
        in_flight = standing.open_groups + standing.ready_groups + standing.leased_groups
        bound = (self.play.stage.run_file.buffer.max_staleness + standing.version + 1) * 2
        assert not opened or standing.step * 2 + in_flight <= bound

    async def take_task(self, number: int) -> None:
        self.task_leases += await self.take_some(number, f"rollout-{number % 3}")

    async def take_some(self, number: int, consumer: str) -> list[Leased]:
        """From the queue of training, now and then from that of evaluation rounds."""
        if number % 4:
            return await self.take(self.play.tasks, consumer, 1 + number % 3)
        taken = await self.take(self.play.evaluate, consumer, 1 + number % 3)
        return [replace(leased, lease=replace(leased.lease, queue="evaluate")) for leased in taken]

    def queue_of(self, leased: Leased) -> RedisWorkQueue:
        return self.play.evaluate if leased.lease.queue == "evaluate" else self.play.tasks

    async def submit(self, number: int) -> None:
        for leased in self.task_leases[-1 - number % 3 :: -1][:3]:
            group = types_pb2.GenerationTask.FromString(leased.body).envelope.group_id
            for index in range(3) if number % 2 else [number % 3]:
                version = max(0, self.play.version - number % 4)
                trajectory = self.play.trajectory(ids.sample_id(group, index), version=version)
                try:
                    await self.play.buffer.intake.submit_trajectory(trajectory, leased.lease)
                except LATE:
                    continue

    async def save_segment(self, number: int) -> None:
        """Some holder, perhaps one that was fenced, saves what follows; or what cannot follow."""
        for leased in self.task_leases[-1 - number % 3 :: -1][:3]:
            group_id = types_pb2.GenerationTask.FromString(leased.body).envelope.group_id
            group = await self.play.buffer.context.live.read_group(group_id)
            for sample in group.samples if group is not None else ():
                name, start = (
                    ids.sample_id(group_id, sample.index),
                    sample.num_saved_tokens + (number % 7 == 0),
                )
                version = max(0, self.play.version - number % 4)
                segment = self.play.segment(name, start, tokens=1 + number % 4, version=version)
                try:
                    now = await self.play.save(name, segment, leased.lease)
                except (*LATE, InvalidInputError):
                    continue
                assert now.outcome is Outcome.DROPPED or now.num_saved_tokens == start + segment.num_tokens

    async def go_on(self, number: int) -> None:
        """A pod dies, another one takes its tasks over and goes on from what it finds."""
        await self.release_task(number)
        taken = await self.take_some(number, "rollout-9")
        self.task_leases += taken
        for leased in taken:
            try:
                await self.play.go_on(leased, tokens=1 + number % 3)
            except LATE:
                continue

    async def lose_segment(self, number: int) -> None:
        """A blob goes; whoever goes on has to notice."""
        names = [
            item.payload_id
            async for group in self.play.live_groups()
            for sample in group.samples
            for item in sample.segments
        ]
        if names:
            self.play.stage.blobs.delete(names[number % len(names)])
            self.lost_blobs.add(names[number % len(names)])

    async def clean(self, _: int) -> None:
        self.play.stage.clock.advance(61)
        await self.play.buffer.retention.clean()

    async def release_task(self, number: int) -> None:
        for leased in self.task_leases[number % 5 :: 5]:
            self.anything_released |= await self.queue_of(leased).release(leased.lease)

    async def take_scoring(self, number: int) -> None:
        self.scoring_leases += await self.take(self.play.scoring, f"reward-{number % 2}", 3 + number % 7)

    async def judge(self, number: int) -> None:
        for leased in self.scoring_leases[-9:]:
            sample = types_pb2.ScoringTask.FromString(leased.body).envelope.sample_id
            reward = (
                None if (number + ids.sample_index(sample)) % 7 == 0 else float(ids.sample_index(sample) % 2)
            )
            try:
                await self.play.buffer.intake.submit_verdict(self.play.verdict(sample, reward), leased.lease)
            except LATE:
                continue

    async def release_scoring(self, number: int) -> None:
        for leased in self.scoring_leases[number % 3 :: 3]:
            self.anything_released |= await self.play.scoring.release(leased.lease)

    async def work(self, number: int) -> None:
        """Workers who do not die: some groups go all the way to ready."""
        await self.take_task(2 + number % 2)
        await self.submit(1)
        await self.submit(1 + number % 2 * 2)
        await self.take_scoring(6)
        await self.judge(number)

    async def step_on(self, number: int) -> None:
        """A trainer who does not die."""
        await self.train(number)
        if number % 3:
            await self.save(number)
        if number % 2:
            await self.commit(number)
        if number % 5:
            await self.announce(number)

    async def journal(self, _: int) -> None:
        await self.play.buffer.journal.flush()
        await self.play.buffer.evaluator.close_rounds()

    async def steer(self, number: int) -> None:
        """The trainer moves the window and says why."""
        self.window = WINDOWS[number % len(WINDOWS)]
        await self.play.commit(window=self.window, events=[run_event(f"e{number % 7}", self.step)])

    async def train(self, number: int) -> None:
        leasing = await self.play.lease(self.step + 1)
        if leasing.batch is None:
            return
        record = self.play.record(leasing.batch)
        if number % 11 == 0 and len(record.sample_ids) > 1:
            record = Commit(
                lineage=record.lineage,
                step=record.step,
                batch_id=record.batch_id,
                sample_ids=record.sample_ids[:-1],
            )
        self.history.append(record)

    @property
    def step(self) -> int:
        return self.history[-1].step if self.history else 0

    async def lose(self, number: int) -> None:
        leasing = await self.play.lease(self.step + 1)
        if leasing.batch is not None:
            names = self.play.record(leasing.batch).sample_ids
            await self.play.buffer.batches.report_lost(
                epoch=self.play.epoch, sample_id=names[number % len(names)], reason="corrupt"
            )

    async def save(self, _: int) -> None:
        lineage = self.history[-1].lineage if self.history else self.play.lineage
        self.saved = Saved(lineage=lineage, step=self.step, history=tuple(self.history))
        self.checkpoints.append(self.saved)

    async def commit(self, number: int) -> None:
        records = [commit for commit in self.saved.history if commit.lineage == self.play.lineage]
        if not records:
            return
        fresh = [record for record in records if record.step > self.play.buffer.context.ledger.control().step]
        if number % 4 == 0 and fresh:  # the buffer dies between the ledger and Redis
            trained, left_out = await self.play.buffer.batches.commit_rows(fresh[0])
            self.play.buffer.context.ledger.enter_commit(fresh[0], trained, left_out, 0.0)
            self.committed |= dict.fromkeys(fresh[0].sample_ids, fresh[0])
            await self.play.restart_buffer()
            return
        await self.play.commit(*records, window=self.window)
        self.committed |= {sample: record for record in records for sample in record.sample_ids}
        if number % 3 == 0:  # the reply was lost
            assert (await self.play.commit(*records, window=self.window)).num_trained == 0

    async def announce(self, _: int) -> None:
        if self.saved.step >= self.play.version:
            await self.play.announce(self.saved.step)

    async def restart_buffer(self, _: int) -> None:
        await self.play.restart_buffer()

    async def restart_trainer(self, number: int) -> None:
        """Mostly from the newest checkpoint; now and then from any other, or from none."""
        chosen = self.checkpoints[-1] if self.checkpoints else Saved(lineage="", step=0, history=())
        if number % 3 == 0 and self.checkpoints:
            chosen = self.checkpoints[number % len(self.checkpoints)]
        if number % 13 == 0 or not chosen.history:
            chosen = Saved(lineage="", step=0, history=())
        carried = tuple(commit for commit in chosen.history if commit.lineage == chosen.lineage)
        for _ in range(1 + number % 2):  # a lost reply makes the trainer ask again
            try:
                await self.play.restore(
                    lineage=chosen.lineage, step=chosen.step, version=chosen.step, commits=carried
                )
            except PreconditionError as error:
                assert "other samples at step" in str(error)
                self.checkpoints.remove(chosen)
                await self.restart_trainer(0)
                return
        self.window = WINDOWS[0]
        self.history, self.saved = list(chosen.history), chosen
        self.play.version = min(self.play.version, chosen.step)
        self.committed = {sample: commit for commit in chosen.history for sample in commit.sample_ids}
        self.ended = {}

    async def keep_redis(self, _: int) -> None:
        """What a host that dies later will find on its disk."""
        redis, self.snapshot = self.play.outside.redis, {}
        async for key in redis.scan_iter(match=f"forklight:{{{self.play.stage.run_id}}}:*", count=1000):
            self.snapshot[key] = await redis.dump(key) or b""

    async def roll_redis_back(self, _: int) -> None:
        redis = self.play.outside.redis
        async for key in redis.scan_iter(match=f"forklight:{{{self.play.stage.run_id}}}:*", count=1000):
            await redis.delete(key)
        for key, value in self.snapshot.items():
            await redis.restore(key, 0, value)
        self.play.buffer.gate.close()
        await self.play.buffer.recover()
        async for group in self.play.live_groups():  # they were listed again after they had been deleted
            names = {item.payload_id for sample in group.samples for item in sample.segments}
            self.lost_blobs |= {name for name in names if not self.play.stage.blobs.exists(name)}

    async def check(self) -> None:
        """What must hold after every single step."""
        ledger = self.play.buffer.context.ledger
        rows = ledger._db.rows("SELECT sample_id, state FROM samples")  # type: ignore[attr-defined]
        ended = {row["sample_id"]: State(row["state"]) for row in rows}
        changed = {
            name: (state, ended.get(name)) for name, state in self.ended.items() if ended.get(name) != state
        }
        assert not changed, f"terminal states changed: {changed}"
        self.ended = ended
        assert {name for name, state in ended.items() if state is State.TRAINED} == set(self.committed)
        assert ledger.conflicts() == []

    async def recount(self) -> None:
        """Counters of Redis against its groups; no sample is final in the ledger and open in Redis."""
        live, ended = self.play.buffer.context.live, self.ended
        counts: Counter[State] = Counter()
        groups: Counter[Status] = Counter()
        tokens = num_bytes = evaluating = 0
        for group_id in await live.live_groups():
            group = await live.read_group(group_id)
            assert group is not None
            if group.purpose is Purpose.TRAIN:
                groups[group.status] += 1
            else:
                evaluating += group.status is not Status.CLOSED
            for sample in group.samples:
                if not sample.state.terminal:
                    assert ids.sample_id(group_id, sample.index) not in ended
                    counts[sample.state] += 1
                    tokens, num_bytes = tokens + sample.num_tokens, num_bytes + sample.num_bytes
        await self.play.check_segments(lost=self.lost_blobs)
        standing = await live.standing()
        assert await live.open_counts() == counts
        assert (standing.held_tokens, standing.held_bytes) == (tokens, num_bytes)
        assert (standing.open_groups, standing.ready_groups, standing.leased_groups) == (
            groups[Status.OPEN],
            groups[Status.READY],
            groups[Status.LEASED],
        )
        assert (standing.evaluating_groups, standing.window) == (evaluating, self.window)

    async def finish(self) -> None:
        """Everyone recovers and does what is left; then nothing may be open and nothing may be missing."""
        await self.restart_trainer(1)
        for _ in range(40):
            for leased in self.task_leases:
                await self.queue_of(leased).release(leased.lease)
            for leased in self.scoring_leases:
                await self.play.scoring.release(leased.lease)
            moved = await self.play.generate(consumer="last")
            moved += await self.play.score(
                lambda sample: float(ids.sample_index(sample) % 2), consumer="last"
            )
            before = self.step
            await self.train(1)
            await self.save(0)
            await self.commit(1)
            await self.check()
            await self.recount()
            if not moved and self.step == before:
                break
        async with self.play.buffer.context.turn:
            await self.play.buffer.phases.set_phase(Phase.FINISHED, "the end")
        await self.play.lease(self.step + 1)
        await self.play.buffer.journal.flush()
