"""A pod on two queues: neither waits for the other, and leases stay apart."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from forklight.v1 import types_pb2
from forklight_core.blobs import MemoryBlobStore
from forklight_core.ids import sample_id
from forklight_core.queues import Lease, Leased, MemoryWorkQueue
from forklight_rollout import worker as worker_module
from forklight_rollout.adapters.memory import MemoryEngine, MemorySequence
from forklight_rollout.adapters.memory_buffer import MemoryBuffer
from forklight_rollout.app import PodParts, assemble_worker
from forklight_rollout.generation.engine_thread import EngineThread
from forklight_rollout.leases.buffer_calls import BufferCalls
from forklight_rollout.leases.held_groups import HeldGroups
from forklight_rollout.leases.two_queues import EvaluationShare, TwoQueues
from forklight_rollout.ports import EngineLimits
from forklight_rollout.problems import Problems
from forklight_rollout.weights.manifest import PublishedWeights
from forklight_rollout.weights.watcher import FirstWeights
from forklight_rollout.worker import Worker
from services.rollout.tests.waiting import at_work, eventually

RUN_ID = "test-run"
NUM_SEQUENCES = 16
ENDLESS = 10**8


def make_task(name: str, purpose: types_pb2.Purpose, *, num_samples: int = 1, tokens: int = 4) -> bytes:
    return types_pb2.GenerationTask(
        envelope=types_pb2.Envelope(schema_version=1, run_id=RUN_ID, group_id=f"{RUN_ID}/{name}"),
        prompt_id="p",
        prompt="1+1",
        sampling=types_pb2.Sampling(
            num_samples=num_samples, max_new_tokens=tokens, temperature=1.0, top_p=1.0
        ),
        purpose=purpose,
    ).SerializeToString()


@dataclass
class Desk:
    """Both queues, and a pod's hands."""

    max_share: float = 0.25
    samples_per_group: int = 1
    tasks: MemoryWorkQueue = field(default_factory=MemoryWorkQueue)
    evaluate: MemoryWorkQueue = field(default_factory=MemoryWorkQueue)
    held: HeldGroups = field(default_factory=HeldGroups)

    def __post_init__(self) -> None:
        share = EvaluationShare(max_share=self.max_share, samples_per_group=self.samples_per_group)
        self.queue = TwoQueues(
            self.tasks, self.evaluate, share=share, held=self.held, num_sequences=NUM_SEQUENCES
        )

    async def put(self, name: str, *, times: int = 1) -> None:
        is_round = name.startswith("e")
        purpose = types_pb2.PURPOSE_EVALUATE if is_round else types_pb2.PURPOSE_TRAIN
        for number in range(times):
            task = make_task(f"{name}{number}", purpose, num_samples=self.samples_per_group)
            await (self.evaluate if is_round else self.tasks).put(task)

    async def take(self) -> str:
        """What the next take brings, held as a worker does; empty for nothing."""
        for leased in await self.queue.take("pod", wait_s=0.0, max_items=1):
            return self.hold(leased)
        return ""

    def hold(self, leased: Leased) -> str:
        task = types_pb2.GenerationTask.FromString(leased.body)
        group = self.held.hold(leased.lease, task)
        names = (sample_id(group.group_id, index) for index in range(task.sampling.num_samples))
        group.open_samples = set(names)
        return group.group_id.removeprefix(f"{RUN_ID}/")


async def test_evaluation_comes_first_up_to_its_share_and_training_fills_the_rest() -> None:
    desk = Desk()
    await desk.put("g", times=20)
    await desk.put("e", times=20)
    assert [await desk.take() for _ in range(8)] == ["e0", "e1", "e2", "e3", "g0", "g1", "g2", "g3"]
    group = desk.held.find(f"{RUN_ID}/e1")
    assert group is not None
    desk.held.drop(group)  # it is done
    assert [await desk.take() for _ in range(3)] == ["e4", "g4", "g5"]


@pytest.mark.parametrize(
    ("share", "samples_per_group", "allowed"),
    [(0.25, 1, 4), (0.25, 2, 2), (0.25, 3, 1), (0.25, 64, 1), (0.01, 1, 1), (1.0, 1, 16), (0.5, 4, 2)],
)
async def test_a_share_is_counted_in_samples_and_one_group_always_fits(
    share: float, samples_per_group: int, allowed: int
) -> None:
    desk = Desk(max_share=share, samples_per_group=samples_per_group)
    await desk.put("g", times=30)
    await desk.put("e", times=30)
    taken = [await desk.take() for _ in range(24)]
    assert sum(name.startswith("e") for name in taken) == allowed
    assert all(name.startswith("e") for name in taken[:allowed])


async def test_a_pod_with_nothing_to_train_on_evaluates_with_all_it_has() -> None:
    desk = Desk()
    await desk.put("e", times=9)
    assert [await desk.take() for _ in range(7)] == [f"e{number}" for number in range(7)]
    await desk.put("g")
    assert [await desk.take() for _ in range(2)] == ["g0", ""]  # it trains again: the share holds
    group = desk.held.find(f"{RUN_ID}/g0")
    assert group is not None
    desk.held.drop(group)
    assert await desk.take() == "e7"


async def test_nothing_is_taken_for_training_from_an_empty_queue_and_the_wait_is_kept() -> None:
    desk = Desk()
    waiting = asyncio.create_task(desk.queue.take("pod", wait_s=10.0, max_items=1))
    await asyncio.sleep(0)
    await desk.put("g")
    (leased,) = await waiting
    assert leased.lease.queue == "tasks"


async def test_leases_of_the_same_entry_id_are_told_apart() -> None:
    """Both streams number their entries by time: the same id in both is no accident to be ignored."""
    desk = Desk()
    await desk.put("g", times=2)
    await desk.put("e")
    assert [await desk.take() for _ in range(2)] == ["e0", "g0"]
    training, evaluation = (desk.held.leases()[f"{RUN_ID}/{name}"] for name in ("g0", "e0"))
    assert (training.entry_id, training.consumer, training.fence) == (
        evaluation.entry_id, evaluation.consumer, evaluation.fence,
    )  # fmt: skip
    assert training != evaluation
    assert set(await desk.queue.heartbeat([training, evaluation])) == {training, evaluation}
    assert await desk.queue.settle(evaluation)
    assert await desk.queue.heartbeat([training, evaluation]) == [training]
    assert not await desk.queue.release(evaluation)
    assert await desk.queue.release(training)
    stats = await desk.queue.stats()
    assert (stats.num_waiting, stats.num_leased) == (2, 0)
    unnamed = Lease(entry_id=training.entry_id, consumer="pod", fence=1)
    assert not await desk.queue.settle(unnamed)  # it is of `tasks`, and was handed back


async def test_an_expired_evaluation_lease_goes_to_another_pod_under_a_new_fence() -> None:
    now = 0.0
    tasks, evaluate = (MemoryWorkQueue(lease_s=1.0, clock=lambda: now) for _ in range(2))
    first, second = Desk(tasks=tasks, evaluate=evaluate), Desk(tasks=tasks, evaluate=evaluate)
    await first.put("e")
    (old,) = await first.queue.take("dies", wait_s=0.0, max_items=1)
    assert await second.queue.take("other", wait_s=0.0, max_items=1) == []
    now = 2.0
    (new,) = await second.queue.take("other", wait_s=0.0, max_items=1)
    assert (new.lease.entry_id, new.lease.fence, new.lease.queue) == (old.lease.entry_id, 2, "evaluate")
    assert await first.queue.heartbeat([old.lease]) == []
    assert not await first.queue.settle(old.lease)
    assert await second.queue.settle(new.lease)


class StallingEngine(MemoryEngine):
    """Sequences with an endless window never end."""

    def draw(self, sequence: MemorySequence) -> tuple[int, float]:
        return (9, -4.0) if sequence.end.max_new_tokens == ENDLESS else super().draw(sequence)


@dataclass
class Pod:
    """A whole worker over both queues, with an engine in memory."""

    weights: PublishedWeights
    desk: Desk = field(default_factory=Desk)
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.buffer = MemoryBuffer(num_samples=1, queue=self.desk.queue)

    def assemble(self) -> tuple[EngineThread, Worker]:
        limits = EngineLimits(num_sequences=8, max_tokens=2 * ENDLESS, vocabulary_size=103)
        problems = Problems()
        parts = PodParts(
            pod="pod-a",
            run_id=RUN_ID,
            queue=self.desk.tasks,
            blobs=MemoryBlobStore(),
            buffer=BufferCalls(door=self.buffer, problems=problems, deadline_s=5.0),
            lease_s=30.0,
            drain_s=0.2,
            evaluate=self.desk.evaluate,
            share=EvaluationShare(max_share=0.25, samples_per_group=1),
            largest_window=ENDLESS,
        )
        engine = StallingEngine(limits, mean_tokens=4)
        return assemble_worker(parts, FirstWeights(weights=self.weights, engine=engine))

    def accepted(self, letter: str) -> int:
        return sum(name.startswith(f"{RUN_ID}/{letter}") for name in self.buffer.accepted)


@pytest.fixture
async def pod(published: dict[int, PublishedWeights], monkeypatch: pytest.MonkeyPatch) -> Pod:
    monkeypatch.setattr(worker_module, "TAKE_WAIT_S", 0.02)
    monkeypatch.setattr(worker_module, "REFUSAL_PAUSE_S", 0.02)
    return Pod(weights=published[0])


async def test_a_round_is_served_while_training_never_ends(pod: Pod) -> None:
    """The queue of training is never empty, and 9 evaluation groups still come through; and the other way."""
    await pod.desk.put("e", times=9)
    await pod.desk.put("g", times=200)
    async with at_work(pod.assemble(), pod.stop):
        await eventually(lambda: pod.accepted("e") == 9)
        assert (await pod.desk.evaluate.stats()).num_leased == 0
        assert pod.accepted("g") < 200
        await eventually(lambda: pod.accepted("g") == 200)


async def test_training_goes_on_while_evaluation_samples_do_not_end(pod: Pod) -> None:
    for number in range(6):
        await pod.desk.evaluate.put(make_task(f"e{number}", types_pb2.PURPOSE_EVALUATE, tokens=ENDLESS))
    await pod.desk.put("g", times=60)
    async with at_work(pod.assemble(), pod.stop):
        await eventually(lambda: pod.accepted("g") == 60)
        assert pod.accepted("e") == 0
    assert (await pod.desk.evaluate.stats()).num_leased == 0  # drained: everything was handed back
    assert (await pod.desk.tasks.stats()).num_waiting == 0


async def test_a_window_beyond_the_plan_is_refused_and_its_entry_handed_back(pod: Pod) -> None:
    await pod.desk.tasks.put(make_task("g0", types_pb2.PURPOSE_TRAIN, tokens=ENDLESS + 1))
    await pod.desk.put("e")
    async with at_work(pod.assemble(), pod.stop):
        await eventually(lambda: pod.accepted("e") == 1)
    stats = await pod.desk.tasks.stats()
    assert (stats.num_waiting, stats.num_leased) == (1, 0)
