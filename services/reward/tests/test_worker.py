"""The queue door with a queue and parts in memory: bounded, fenced, patient, and never a 0 for a failure."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from forklight.v1 import types_pb2
from forklight_core.errors import DeadlineError, InvalidInputError, UnavailableError
from forklight_core.queues import Lease, MemoryWorkQueue
from forklight_reward.adapters.memory import LocalVerifier, MemoryBuffer
from forklight_reward.front.lanes import WAITING_A_PLACE
from forklight_reward.ports import Outcome
from forklight_reward.rehearsal import TaskMaker, local_desk, local_scorer, spec_of
from forklight_reward.worker import Desk, Score, ScoringWorker, WorkerLimits

RIGHT = r"<think>6 * 7</think> \boxed{42}"
WRONG = r"<think>6 * 7</think> \boxed{41}"
LIMITS = WorkerLimits(pod="reward-0", lease_s=30.0, submit_deadline_s=5.0, drain_s=5.0)
PLACES = 4
WAITING = PLACES * WAITING_A_PLACE


class Gate:
    """A scorer that counts, and waits until it is opened."""

    def __init__(self, score: Score) -> None:
        self.open = asyncio.Event()
        self.num_running = self.most_running = 0
        self._score = score

    async def score(self, task: types_pb2.ScoringTask, attempt: int) -> types_pb2.Verdict:
        self.num_running += 1
        self.most_running = max(self.most_running, self.num_running)
        try:
            await self.open.wait()
            return await self._score(task, attempt)
        finally:
            self.num_running -= 1


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for something to become true."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        await asyncio.sleep(0.005)


@asynccontextmanager
async def working(
    queue: MemoryWorkQueue, buffer: MemoryBuffer, desk: Desk, limits: WorkerLimits = LIMITS
) -> AsyncIterator[asyncio.Event]:
    """A running worker, stopped and drained at the end."""
    stop = asyncio.Event()
    worker = ScoringWorker(queue=queue, desk=desk, buffer=buffer, limits=limits)
    async with asyncio.TaskGroup() as group:
        group.create_task(worker.run(stop))
        try:
            yield stop
        finally:
            stop.set()


def limits_with(**changes: float) -> WorkerLimits:
    values = {"lease_s": 30.0, "submit_deadline_s": 5.0, "drain_s": 5.0, **changes}
    return WorkerLimits(pod="reward-0", **values)


async def test_every_sample_gets_its_verdict_and_leaves_the_queue(tasks: TaskMaker) -> None:
    queue = MemoryWorkQueue()
    buffer = MemoryBuffer(queue)
    made = [tasks.task(RIGHT if index % 2 else WRONG) for index in range(20)]
    for task in made:
        await queue.put(task.SerializeToString())
    async with working(queue, buffer, local_desk(tasks, local_scorer(tasks).score_task)):
        await until(lambda: len(buffer.verdicts) == 20, "20 verdicts")
    scores = [buffer.verdicts[task.envelope.sample_id].score for task in made]
    assert scores == [float(index % 2) for index in range(20)]
    stats = await queue.stats()
    assert (stats.num_waiting, stats.num_leased) == (0, 0)


async def test_no_more_than_concurrency_are_scored_at_once(tasks: TaskMaker) -> None:
    queue = MemoryWorkQueue()
    buffer = MemoryBuffer(queue)
    gate = Gate(local_scorer(tasks).score_task)
    for _ in range(20):
        await queue.put(tasks.task(RIGHT).SerializeToString())
    async with working(queue, buffer, local_desk(tasks, gate.score, PLACES)):
        await until(lambda: gate.num_running == PLACES, "all places taken")
        gate.open.set()
        await until(lambda: len(buffer.verdicts) == 20, "20 verdicts")
    assert gate.most_running == PLACES


async def test_a_class_that_is_stuck_stops_no_other_and_loses_nothing(tasks: TaskMaker) -> None:
    queue = MemoryWorkQueue()
    buffer = MemoryBuffer(queue)
    gate = Gate(local_scorer(tasks).score_task)

    async def stuck_judge(task: types_pb2.ScoringTask, attempt: int) -> types_pb2.Verdict:
        return await (gate.score if task.kind == "judge" else local_scorer(tasks).score_task)(task, attempt)

    judged = [tasks.task("blue", spec=spec_of("judge", gold="blue")) for _ in range(3 * (PLACES + WAITING))]
    ruled = [tasks.task(RIGHT) for _ in range(10)]
    for task in (*judged, *ruled):
        await queue.put(task.SerializeToString())
    async with working(queue, buffer, local_desk(tasks, stuck_judge, PLACES)):
        await until(lambda: len(buffer.verdicts) == len(ruled), "all that waits for nobody")
        assert gate.most_running == PLACES
        gate.open.set()
        await until(lambda: len(buffer.verdicts) == len(ruled) + len(judged), "the rest")
    assert {verdict.envelope.attempt for verdict in buffer.verdicts.values()} == {1}
    assert all(verdict.HasField("score") for verdict in buffer.verdicts.values())


@pytest.mark.parametrize("error", [UnavailableError("restarting"), DeadlineError("slow")])
async def test_verdict_is_offered_again_when_the_buffer_comes_back(
    error: UnavailableError | DeadlineError, tasks: TaskMaker
) -> None:
    queue = MemoryWorkQueue()
    buffer = MemoryBuffer(queue, failures=[error] * 3)
    await queue.put(tasks.task(RIGHT).SerializeToString())
    async with working(queue, buffer, local_desk(tasks, local_scorer(tasks).score_task)):
        await until(lambda: len(buffer.verdicts) == 1, "a verdict")
    assert buffer.num_calls == 4


async def test_lease_is_kept_alive_while_a_sample_takes_long(tasks: TaskMaker) -> None:
    queue = MemoryWorkQueue(lease_s=0.3)
    buffer = MemoryBuffer(queue)
    gate = Gate(local_scorer(tasks).score_task)
    await queue.put(tasks.task(RIGHT).SerializeToString())
    async with working(queue, buffer, local_desk(tasks, gate.score), limits_with(lease_s=0.3)):
        await until(lambda: gate.num_running == 1, "running")
        for _ in range(4):
            assert await queue.take("other", wait_s=0.2, max_items=1) == []
        gate.open.set()
        await until(lambda: len(buffer.verdicts) == 1, "a verdict")
    assert next(iter(buffer.verdicts.values())).envelope.attempt == 1


async def test_sample_is_dropped_when_a_newer_holder_has_it(tasks: TaskMaker) -> None:
    queue = MemoryWorkQueue(lease_s=0.05)
    buffer = MemoryBuffer(queue)
    gate = Gate(local_scorer(tasks).score_task)
    await queue.put(tasks.task(RIGHT).SerializeToString())
    async with working(queue, buffer, local_desk(tasks, gate.score), LIMITS) as stop:
        await until(lambda: gate.num_running == 1, "running")
        stop.set()  # else it would take the sample back as soon as the other's lease expires
        taken = await queue.take("other", wait_s=5, max_items=1)
        assert taken[0].lease.fence == 2
        gate.open.set()
        await until(lambda: buffer.num_calls == 1, "a refused submission")
    assert buffer.verdicts == {}
    assert await queue.settle(taken[0].lease)


async def test_sample_is_cancelled_when_a_heartbeat_finds_its_lease_lost(tasks: TaskMaker) -> None:
    queue = MemoryWorkQueue(lease_s=0.0)
    buffer = MemoryBuffer(queue)
    gate = Gate(local_scorer(tasks).score_task)
    await queue.put(tasks.task(RIGHT).SerializeToString())
    stop = asyncio.Event()
    worker = ScoringWorker(
        queue=queue, desk=local_desk(tasks, gate.score), buffer=buffer, limits=limits_with(lease_s=0.1)
    )
    running = asyncio.create_task(worker.run(stop))
    await until(lambda: gate.num_running == 1, "running")
    stop.set()
    assert await queue.take("other", wait_s=5, max_items=1)
    await until(lambda: gate.num_running == 0, "cancelled")
    await running
    assert buffer.num_calls == 0


async def test_unreadable_entry_is_left_to_the_queue_and_others_go_on(tasks: TaskMaker) -> None:
    queue = MemoryWorkQueue()
    buffer = MemoryBuffer(queue)
    await queue.put(b"\xff\xff\xff")
    await queue.put(tasks.task(RIGHT).SerializeToString())
    async with working(queue, buffer, local_desk(tasks, local_scorer(tasks).score_task)):
        await until(lambda: len(buffer.verdicts) == 1, "a verdict")
    assert (await queue.stats()).num_leased == 1


async def test_crash_in_one_sample_leaves_the_others_alone(tasks: TaskMaker) -> None:
    queue = MemoryWorkQueue()
    buffer = MemoryBuffer(queue)
    bad = tasks.task(RIGHT)
    score = local_scorer(tasks).score_task

    async def sometimes(task: types_pb2.ScoringTask, attempt: int) -> types_pb2.Verdict:
        if task.envelope.sample_id == bad.envelope.sample_id:
            raise ZeroDivisionError("a bug")
        return await score(task, attempt)

    for task in (bad, tasks.task(RIGHT)):
        await queue.put(task.SerializeToString())
    async with working(queue, buffer, local_desk(tasks, sometimes)):
        await until(lambda: len(buffer.verdicts) == 1, "a verdict")
    assert bad.envelope.sample_id not in buffer.verdicts


async def test_stop_finishes_what_runs_and_takes_nothing_new(tasks: TaskMaker) -> None:
    queue = MemoryWorkQueue()
    buffer = MemoryBuffer(queue)
    gate = Gate(local_scorer(tasks).score_task)
    num_tasks = 10 * (PLACES + WAITING)
    for _ in range(num_tasks):
        await queue.put(tasks.task(RIGHT).SerializeToString())
    async with working(queue, buffer, local_desk(tasks, gate.score)) as stop:
        await until(lambda: gate.num_running == PLACES, "all places taken")
        stop.set()
        gate.open.set()
    stats = await queue.stats()
    assert len(buffer.verdicts) >= PLACES
    assert stats.num_waiting >= num_tasks - 64
    assert (stats.num_leased, stats.num_waiting + len(buffer.verdicts)) == (0, num_tasks)


async def test_stop_hands_back_what_does_not_finish_in_time(tasks: TaskMaker) -> None:
    queue = MemoryWorkQueue(lease_s=600)
    buffer = MemoryBuffer(queue)
    gate = Gate(local_scorer(tasks).score_task)
    await queue.put(tasks.task(RIGHT).SerializeToString())
    async with working(queue, buffer, local_desk(tasks, gate.score), limits_with(drain_s=0.05)):
        await until(lambda: gate.num_running == 1, "running")
    assert buffer.verdicts == {}
    taken = await queue.take("other", wait_s=0.0, max_items=1)
    assert taken[0].lease.fence == 2


class AwayQueue(MemoryWorkQueue):
    """A queue whose server is away for the first calls."""

    def __init__(self, num_failures: int) -> None:
        super().__init__()
        self.num_failures = num_failures

    async def heartbeat(self, leases: list[Lease]) -> list[Lease]:  # type: ignore[override]
        self.num_failures -= 1
        if self.num_failures >= 0:
            raise UnavailableError("Redis does not answer")
        return await super().heartbeat(leases)


async def test_worker_outlives_a_queue_that_is_away(tasks: TaskMaker) -> None:
    queue = AwayQueue(num_failures=2)
    buffer = MemoryBuffer(queue)
    gate = Gate(local_scorer(tasks).score_task)
    await queue.put(tasks.task(RIGHT).SerializeToString())
    async with working(queue, buffer, local_desk(tasks, gate.score), limits_with(lease_s=0.03)):
        await until(lambda: queue.num_failures < 0, "heartbeats go on")
        gate.open.set()
        await until(lambda: len(buffer.verdicts) == 1, "a verdict")


async def test_worker_failure_becomes_a_verdict_without_a_score(tasks: TaskMaker) -> None:
    class Broken(LocalVerifier):
        async def verify(
            self, *, envelope: types_pb2.Envelope, gold: str, response: str, timeout_s: float
        ) -> Outcome:
            raise InvalidInputError("broken for good")

    queue = MemoryWorkQueue()
    buffer = MemoryBuffer(queue)
    await queue.put(tasks.task(RIGHT).SerializeToString())
    async with working(queue, buffer, local_desk(tasks, local_scorer(tasks, verifier=Broken()).score_task)):
        await until(lambda: len(buffer.verdicts) == 1, "a verdict")
    verdict = next(iter(buffer.verdicts.values()))
    assert verdict.status == types_pb2.VERDICT_STATUS_INFRA_ERROR
    assert not verdict.HasField("score")
