"""The queue door with in-memory queue, engine and buffer: failures of each, and draining."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field, replace

import pytest

from forklight.v1 import types_pb2
from forklight_core.blobs import BlobRef, MemoryBlobStore
from forklight_core.errors import BusyError, PreconditionError, UnavailableError
from forklight_core.queues import Lease, Leased, MemoryWorkQueue
from forklight_core.wire import unpack_payload
from forklight_rollout import worker as worker_module
from forklight_rollout.adapters.memory import MemoryEngine
from forklight_rollout.adapters.memory_buffer import MemoryBuffer
from forklight_rollout.app import PodParts, assemble_worker
from forklight_rollout.generation.engine_thread import EngineThread
from forklight_rollout.leases import saving
from forklight_rollout.leases.buffer_calls import BufferCalls
from forklight_rollout.ports import EngineLimits, StepTokens
from forklight_rollout.problems import Problems
from forklight_rollout.weights.manifest import PublishedWeights
from forklight_rollout.weights.watcher import FirstWeights
from forklight_rollout.worker import Worker
from services.rollout.tests.waiting import at_work, eventually

RUN_ID = "test-run"
ENDLESS = 10**9
LIMITS = EngineLimits(num_sequences=4, max_tokens=2 * ENDLESS, vocabulary_size=103)


@dataclass
class Surroundings:
    """What a worker needs, all of it breakable."""

    weights: PublishedWeights
    clock_s: float = 0.0
    blobs: MemoryBlobStore = field(default_factory=MemoryBlobStore)
    buffer: MemoryBuffer = field(default_factory=lambda: MemoryBuffer(num_samples=3))
    problems: Problems = field(default_factory=Problems)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    mean_tokens: int = 4
    lease_s: float = 30.0
    drain_s: float = 5.0
    submit_deadline_s: float = 5.0
    segment_tokens: int = 0
    engine: MemoryEngine | None = None

    def __post_init__(self) -> None:
        self.queue = MemoryWorkQueue(lease_s=self.lease_s, clock=lambda: self.clock_s)
        self.buffer.queue = self.queue

    def assemble(self) -> tuple[EngineThread, Worker]:
        engine = self.engine or MemoryEngine(LIMITS, mean_tokens=self.mean_tokens)
        calls = BufferCalls(door=self.buffer, problems=self.problems, deadline_s=self.submit_deadline_s)
        parts = PodParts(
            pod="pod-a",
            run_id=RUN_ID,
            queue=self.queue,
            blobs=self.blobs,
            buffer=calls,
            lease_s=self.lease_s,
            drain_s=self.drain_s,
            segment_tokens=self.segment_tokens,
        )
        return assemble_worker(parts, FirstWeights(weights=self.weights, engine=engine))

    async def put_task(self, index: int, **sampling: float) -> types_pb2.GenerationTask:
        values = {
            "num_samples": 3,
            "max_new_tokens": ENDLESS,
            "temperature": 1.0,
            "top_p": 1.0,
            "seed": index * 100,
        }
        group_id = f"{RUN_ID}/g{index:08d}"
        task = types_pb2.GenerationTask(
            envelope=types_pb2.Envelope(schema_version=1, run_id=RUN_ID, group_id=group_id),
            prompt_id=f"p{index}",
            prompt="1+1",
            sampling=types_pb2.Sampling(**(values | sampling)),  # type: ignore[arg-type]
            purpose=types_pb2.PURPOSE_EVALUATE,
        )
        await self.queue.put(task.SerializeToString())
        return task

    @property
    def num_saved(self) -> int:
        """Tokens saved of all samples."""
        return sum(map(self.buffer.num_saved, list(self.buffer.segments)))

    async def generate_alone(self, sample_id: str) -> list[int]:
        """The whole response of a sample of the last task, never interrupted."""
        other = Surroundings(weights=self.weights, mean_tokens=self.mean_tokens)
        await other.put_task(0, max_new_tokens=3000)
        async with at_work(other.assemble(), other.stop):
            await eventually(lambda: other.accepted(0) == 3)
        payload = other.blobs.get(other.buffer.accepted[sample_id].payload.id)
        found: list[int] = unpack_payload(payload).response_ids.tolist()
        return found

    def accepted(self, index: int) -> int:
        return sum(sample.startswith(f"{RUN_ID}/g{index:08d}/") for sample in self.buffer.accepted)


@pytest.fixture
async def surroundings(
    published: dict[int, PublishedWeights], monkeypatch: pytest.MonkeyPatch
) -> Surroundings:
    monkeypatch.setattr(worker_module, "TAKE_WAIT_S", 0.02)
    monkeypatch.setattr(worker_module, "RETRY_WAIT_S", 0.01)
    monkeypatch.setattr(worker_module, "REFUSAL_PAUSE_S", 0.02)
    return Surroundings(weights=published[0])


async def test_every_sample_of_every_group_is_submitted_once(surroundings: Surroundings) -> None:
    for index in range(9):
        await surroundings.put_task(index)
    async with at_work(surroundings.assemble(), surroundings.stop) as worker:
        await eventually(lambda: len(surroundings.buffer.accepted) == 27)
        assert (worker.num_submitted, worker.num_unsubmitted, len(worker.held)) == (27, 0, 0)
    trajectory = surroundings.buffer.accepted[f"{RUN_ID}/g00000004/s001"]
    arrays = unpack_payload(surroundings.blobs.get(trajectory.payload.id))
    assert len(arrays.response_ids) == trajectory.num_response_tokens
    assert trajectory.finish_reason == types_pb2.FINISH_REASON_STOP
    assert trajectory.purpose == types_pb2.PURPOSE_EVALUATE


async def test_only_missing_samples_are_generated_and_a_complete_group_is_settled(
    surroundings: Surroundings,
) -> None:
    surroundings.buffer.terminal |= {f"{RUN_ID}/g00000000/s000", f"{RUN_ID}/g00000000/s002"}
    surroundings.buffer.terminal |= {f"{RUN_ID}/g00000001/s00{number}" for number in range(3)}
    for index in range(2):
        await surroundings.put_task(index)
    async with at_work(surroundings.assemble(), surroundings.stop) as worker:
        await eventually(lambda: surroundings.accepted(0) == 1 and len(worker.held) == 0)
    assert list(surroundings.buffer.accepted) == [f"{RUN_ID}/g00000000/s001"]


@pytest.mark.parametrize("poison", [{"num_samples": 0}, {"max_new_tokens": 0}, {"top_p": 7.0}])
async def test_a_poison_task_is_handed_back_and_its_neighbours_go_on(
    surroundings: Surroundings, poison: dict[str, float]
) -> None:
    await surroundings.put_task(0, **poison)
    await surroundings.queue.put(b"\xff no task")
    await surroundings.put_task(1)
    async with at_work(surroundings.assemble(), surroundings.stop) as worker:
        await eventually(lambda: surroundings.accepted(1) == 3)
        await eventually(lambda: surroundings.buffer.fences[f"{RUN_ID}/g00000000"] >= 3)
        assert not worker.is_draining
    assert surroundings.accepted(0) == 0
    leased = await surroundings.queue.take("pod-b", wait_s=0, max_items=9)
    assert len(leased) == 2


async def test_a_fenced_group_is_given_up_and_the_others_go_on(surroundings: Surroundings) -> None:
    group_id = f"{RUN_ID}/g00000000"
    surroundings.buffer.on_submit = lambda trajectory: (
        surroundings.buffer.fences.update({group_id: 99})
        if trajectory.envelope.group_id == group_id
        else None
    )
    for index in range(3):
        await surroundings.put_task(index)
    async with at_work(surroundings.assemble(), surroundings.stop):
        await eventually(lambda: surroundings.accepted(1) + surroundings.accepted(2) == 6)
    assert surroundings.accepted(0) == 0


async def test_a_dropped_sample_stops_those_that_nobody_wants_either(surroundings: Surroundings) -> None:
    def end_group(trajectory: types_pb2.Trajectory) -> None:
        surroundings.buffer.terminal |= {f"{trajectory.envelope.group_id}/s00{number}" for number in range(3)}

    surroundings.mean_tokens = 300
    surroundings.buffer.on_submit = end_group
    await surroundings.put_task(0)
    async with at_work(surroundings.assemble(), surroundings.stop) as worker:
        await eventually(lambda: bool(surroundings.buffer.terminal) and len(worker.held) == 0)
    assert surroundings.buffer.accepted == {}


async def test_a_lost_lease_stops_its_group(surroundings: Surroundings) -> None:
    surroundings.mean_tokens, surroundings.lease_s, surroundings.drain_s = ENDLESS, 0.06, 0.0
    surroundings.__post_init__()
    await surroundings.put_task(0)
    async with at_work(surroundings.assemble(), surroundings.stop) as worker:
        await eventually(lambda: len(worker.held) == 1)
        surroundings.clock_s += 100
        (taken,) = await surroundings.queue.take("pod-b", wait_s=0, max_items=1)
        await eventually(lambda: len(worker.held) == 0)
        assert await surroundings.queue.heartbeat([taken.lease]) == [taken.lease]
    assert surroundings.accepted(0) == 0


async def test_an_expired_lease_that_comes_back_goes_on_under_its_new_fence(
    surroundings: Surroundings,
) -> None:
    surroundings.mean_tokens = 20_000
    await surroundings.put_task(0)
    async with at_work(surroundings.assemble(), surroundings.stop) as worker:
        await eventually(lambda: len(worker.held) == 1)
        surroundings.clock_s += 100  # the heartbeat is 10 s away, the worker takes again before
        await eventually(lambda: len(surroundings.buffer.accepted) == 3)
    attempts = {trajectory.envelope.attempt for trajectory in surroundings.buffer.accepted.values()}
    assert attempts == {2}


async def test_a_full_disk_loses_nothing(surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch) -> None:
    is_full = True
    put = surroundings.blobs.put

    def put_if_room(data: bytes) -> BlobRef:
        if is_full:
            raise BusyError("no space left for blobs")
        return put(data)

    monkeypatch.setattr(surroundings.blobs, "put", put_if_room)
    for index in range(30):
        await surroundings.put_task(index)
    async with at_work(surroundings.assemble(), surroundings.stop) as worker:
        await eventually(lambda: "no space left" in surroundings.problems.summary())
        await eventually(lambda: worker.num_unsubmitted >= 64)
        waiting = (await surroundings.queue.stats()).num_waiting
        assert waiting > 0  # back-pressure: the rest stays on the queue
        is_full = False
        await eventually(lambda: len(surroundings.buffer.accepted) == 90)
        assert surroundings.problems.summary() == ""


async def test_a_buffer_that_is_away_is_waited_for(surroundings: Surroundings) -> None:
    is_away = True

    def fail_if_away(trajectory: types_pb2.Trajectory) -> None:
        if is_away:
            raise UnavailableError("buffer does not answer")

    surroundings.buffer.on_submit = fail_if_away
    await surroundings.put_task(0)
    async with at_work(surroundings.assemble(), surroundings.stop):
        await eventually(lambda: "buffer does not answer" in surroundings.problems.summary())
        is_away = False
        await eventually(lambda: len(surroundings.buffer.accepted) == 3)
        assert surroundings.problems.summary() == ""


async def test_a_group_is_handed_back_when_the_buffer_stays_away(surroundings: Surroundings) -> None:
    def fail(trajectory: types_pb2.Trajectory) -> None:
        raise UnavailableError("buffer does not answer")

    surroundings.buffer.on_submit = fail
    surroundings.submit_deadline_s = 0.05
    await surroundings.put_task(0)
    async with at_work(surroundings.assemble(), surroundings.stop):
        await eventually(lambda: surroundings.buffer.fences.get(f"{RUN_ID}/g00000000", 0) >= 2)


async def test_a_buffer_that_refuses_one_sample_costs_its_group_only(surroundings: Surroundings) -> None:
    def refuse(trajectory: types_pb2.Trajectory) -> None:
        if trajectory.envelope.group_id.endswith("g00000000"):
            raise PreconditionError("no such group")

    surroundings.buffer.on_submit = refuse
    for index in range(2):
        await surroundings.put_task(index)
    async with at_work(surroundings.assemble(), surroundings.stop):
        await eventually(lambda: surroundings.accepted(1) == 3)


async def test_generation_goes_on_while_the_queue_is_away(
    surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> list[Lease]:
        raise UnavailableError("Redis does not answer")

    surroundings.mean_tokens = 2_000
    await surroundings.put_task(0)
    async with at_work(surroundings.assemble(), surroundings.stop) as worker:
        await eventually(lambda: len(worker.held) == 1)
        with monkeypatch.context() as broken:
            broken.setattr(surroundings.queue, "take", fail)
            broken.setattr(surroundings.queue, "heartbeat", fail)
            await eventually(lambda: "Redis does not answer" in surroundings.problems.summary())
            await eventually(lambda: len(surroundings.buffer.accepted) == 3)
        await surroundings.put_task(1)
        await eventually(lambda: len(surroundings.buffer.accepted) == 6)


async def test_free_places_are_filled_by_one_take_and_not_beyond(
    surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    surroundings.engine = MemoryEngine(replace(LIMITS, num_sequences=13), mean_tokens=ENDLESS)
    take, taken = surroundings.queue.take, list[list[Leased]]()

    async def count(consumer: str, *, wait_s: float, max_items: int) -> list[Leased]:
        taken.append(await take(consumer, wait_s=wait_s, max_items=max_items))
        return taken[-1]

    monkeypatch.setattr(surroundings.queue, "take", count)
    for index in range(7):
        await surroundings.put_task(index)
    async with at_work(surroundings.assemble(), surroundings.stop) as worker:
        await eventually(lambda: worker.held.num_in_engine == 15)
        assert (await surroundings.queue.stats()).num_waiting == 2
    assert [len(found) for found in taken if found] == [1, 4]  # of unknown size; then 10 free places and one


async def test_draining_finishes_what_runs_and_hands_the_rest_back(surroundings: Surroundings) -> None:
    surroundings.mean_tokens, surroundings.buffer.num_samples = ENDLESS, 4
    for index in range(3):
        await surroundings.put_task(index, num_samples=4, max_new_tokens=20_000)
    async with at_work(surroundings.assemble(), surroundings.stop) as worker:
        await eventually(lambda: len(worker.held) == 2)
        outcome = await worker.drain(10)
        again = await worker.drain(0)
    assert outcome == again
    assert (outcome.num_finished, outcome.num_released) == (4, 4)
    assert surroundings.accepted(0) == 4
    taken = await surroundings.queue.take("pod-b", wait_s=0, max_items=9)
    assert sorted(leased.lease.fence for leased in taken) == [1, 2]  # one never taken, one handed back


async def test_a_drain_deadline_hands_back_what_still_runs(surroundings: Surroundings) -> None:
    surroundings.mean_tokens = ENDLESS
    await surroundings.put_task(0)
    async with at_work(surroundings.assemble(), surroundings.stop) as worker:
        await eventually(lambda: len(worker.held) == 1)
        outcome = await worker.drain(0.05)
        assert (outcome.num_finished, outcome.num_released, len(worker.held)) == (0, 3, 0)
    (taken,) = await surroundings.queue.take("pod-b", wait_s=0, max_items=1)
    assert taken.lease.fence == 2


class StandingEngine(MemoryEngine):
    """Draws 600 tokens a sequence and then none, however late somebody looks."""

    num_steps = 0

    def step(self) -> StepTokens:
        self.num_steps += bool(self._sequences)
        if self.num_steps <= 600:
            return super().step()
        time.sleep(0.001)
        return StepTokens(version=self._version, keys=[], ids=[], logprobs=[], raw_logprobs=[], reasons=[])


@pytest.mark.parametrize("is_killed", [False, True])
async def test_another_pod_goes_on_where_one_left_or_died(
    surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch, is_killed: bool
) -> None:
    monkeypatch.setattr(saving, "CHECK_S", 0.01)
    surroundings.mean_tokens, surroundings.segment_tokens = ENDLESS, 200 if is_killed else 0
    surroundings.engine = StandingEngine(LIMITS, mean_tokens=ENDLESS)
    await surroundings.put_task(0, max_new_tokens=3000)
    thread, worker = surroundings.assemble()
    first = asyncio.create_task(worker.run(surroundings.stop))
    if is_killed:
        await eventually(lambda: surroundings.num_saved > 900 and len(surroundings.buffer.segments) == 3)
        first.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await first
    else:
        await eventually(lambda: thread.reading.num_tokens > 900)  # of three samples that run alike
        await worker.drain(0.05)
        surroundings.stop.set()
        await first
    await thread.close()
    num_saved = surroundings.num_saved
    assert num_saved > 900 and surroundings.buffer.accepted == {}

    surroundings.clock_s += 100
    surroundings.stop = asyncio.Event()
    surroundings.engine = MemoryEngine(LIMITS, version=1, mean_tokens=ENDLESS)
    async with at_work(surroundings.assemble(), surroundings.stop):
        await eventually(lambda: surroundings.accepted(0) == 3)
    for sample_id, trajectory in surroundings.buffer.accepted.items():
        arrays = unpack_payload(surroundings.blobs.get(trajectory.payload.id))
        assert arrays.response_ids.tolist() == await surroundings.generate_alone(sample_id)
        assert [span.version for span in trajectory.version_spans] == [0, 1]
    assert sum(each.version_spans[1].start for each in surroundings.buffer.accepted.values()) == num_saved


async def test_an_engine_that_fails_ends_the_worker(surroundings: Surroundings) -> None:
    class FailingEngine(MemoryEngine):
        def step(self) -> StepTokens:
            raise RuntimeError("out of memory")

    surroundings.engine = FailingEngine(LIMITS)
    await surroundings.put_task(0)
    thread, worker = surroundings.assemble()
    with pytest.raises(ExceptionGroup) as failure:
        await worker.run(surroundings.stop)
    assert failure.group_contains(RuntimeError, match="out of memory")
    with pytest.raises(UnavailableError, match="engine thread"):
        await thread.call(lambda generator: generator.num_running)
    await thread.close()
