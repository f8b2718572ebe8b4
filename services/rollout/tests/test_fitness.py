"""A pod that takes itself out: when throughput counts as collapsed, and what the pod does about it."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from forklight.v1 import types_pb2
from forklight_core.blobs import MemoryBlobStore
from forklight_core.errors import UnavailableError
from forklight_core.queues import MemoryWorkQueue
from forklight_model.tokenizer import build_character_tokenizer
from forklight_rollout import fitness as fitness_module
from forklight_rollout import worker as worker_module
from forklight_rollout.adapters.memory import MemoryEngine
from forklight_rollout.adapters.memory_buffer import MemoryBuffer
from forklight_rollout.app import PodParts, assemble_worker
from forklight_rollout.fitness import CollapseGuard, CollapseRules, Fit, Fitness
from forklight_rollout.generation.engine_thread import EngineReading
from forklight_rollout.leases.buffer_calls import BufferCalls
from forklight_rollout.ports import EngineLimits, StepTokens
from forklight_rollout.problems import Area, Problems
from forklight_rollout.weights.manifest import Manifest, PublishedWeights
from forklight_rollout.weights.watcher import FirstWeights
from services.rollout.tests.waiting import at_work, eventually

RUN_ID = "test-run"
ENDLESS = 10**9
LIMITS = EngineLimits(num_sequences=4, max_tokens=2 * ENDLESS, vocabulary_size=103)


@dataclass
class Driven:
    """A guard, its clock, and an engine that is only numbers."""

    rules: CollapseRules = field(default_factory=CollapseRules)
    now: float = 0.0
    num_tokens: float = 0.0

    def __post_init__(self) -> None:
        self.guard = CollapseGuard(self.rules, clock=lambda: self.now)

    def drive(self, seconds: int, *, batch: int, rate: float) -> Fit:
        """So many seconds in which each of the sequences gets so many tokens a second."""
        for _ in range(seconds):
            self.now += 1.0
            self.num_tokens += batch * rate
            self.guard.note(
                EngineReading(
                    version=0,
                    num_running=batch,
                    num_waiting=0,
                    num_tokens=int(self.num_tokens),
                    num_steps=0,
                    step_s=0.0,
                    model_s=0.0,
                )
            )
        return self.guard.state


def test_a_collapse_is_seen_after_its_time_and_not_before() -> None:
    driven = Driven()
    assert driven.drive(200, batch=32, rate=50.0) is Fit.FIT
    assert driven.drive(110, batch=32, rate=5.0) is Fit.FIT
    assert driven.drive(30, batch=32, rate=5.0) is Fit.OUT
    assert "usual here are 50" in driven.guard.reason


@pytest.mark.parametrize("rate", [0.0, 9.0])
def test_an_engine_that_stands_still_or_crawls_is_a_collapse(rate: float) -> None:
    driven = Driven()
    driven.drive(200, batch=8, rate=50.0)
    assert driven.drive(140, batch=8, rate=rate) is Fit.OUT


def test_slow_spells_with_breaks_are_no_collapse() -> None:
    driven = Driven()
    driven.drive(300, batch=32, rate=50.0)
    for _ in range(10):
        driven.drive(100, batch=32, rate=1.0)
        assert driven.drive(20, batch=32, rate=50.0) is Fit.FIT


def test_idle_time_is_neither_slow_nor_fast() -> None:
    driven = Driven()
    driven.drive(200, batch=16, rate=50.0)
    assert driven.drive(4000, batch=0, rate=0.0) is Fit.FIT
    driven.drive(100, batch=16, rate=1.0)
    assert driven.drive(500, batch=0, rate=0.0) is Fit.FIT
    assert driven.drive(60, batch=16, rate=1.0) is Fit.OUT


def test_a_larger_batch_is_no_collapse_though_each_of_its_sequences_is_slow() -> None:
    driven = Driven()
    driven.drive(300, batch=1, rate=300.0)
    assert driven.drive(600, batch=64, rate=40.0) is Fit.FIT
    assert driven.drive(300, batch=2, rate=290.0) is Fit.FIT
    assert driven.drive(140, batch=50, rate=4.0) is Fit.OUT


def test_without_a_past_nothing_is_judged() -> None:
    driven = Driven()
    assert driven.drive(500, batch=8, rate=0.01) is Fit.FIT


def test_a_share_of_zero_switches_the_guard_off() -> None:
    driven = Driven(CollapseRules(share=0.0))
    driven.drive(200, batch=8, rate=50.0)
    assert driven.drive(500, batch=8, rate=0.0) is Fit.FIT


def collapsed() -> Driven:
    driven = Driven()
    driven.drive(200, batch=8, rate=50.0)
    assert driven.drive(140, batch=8, rate=1.0) is Fit.OUT
    return driven


def test_a_pod_comes_back_on_trial_and_is_fit_when_it_stays_fast() -> None:
    driven = collapsed()
    assert driven.drive(40, batch=0, rate=0.0) is Fit.OUT
    assert driven.drive(20, batch=0, rate=0.0) is Fit.TRIAL
    assert driven.guard.reason == ""
    assert driven.drive(100, batch=8, rate=45.0) is Fit.TRIAL
    assert driven.drive(40, batch=8, rate=45.0) is Fit.FIT


def test_a_rate_between_collapsed_and_recovered_fails_the_trial() -> None:
    driven = collapsed()
    driven.drive(60, batch=0, rate=0.0)
    assert driven.drive(140, batch=8, rate=20.0) is Fit.OUT  # 0.4 of the usual: no collapse, but no recovery


def test_what_still_runs_fast_again_ends_the_pause() -> None:
    driven = collapsed()
    assert driven.drive(30, batch=5, rate=50.0) is Fit.TRIAL


def test_pauses_grow_until_a_limit_and_start_over_after_recovery() -> None:
    driven = collapsed()
    pauses = []
    for _ in range(6):
        began = driven.now
        while driven.drive(1, batch=0, rate=0.0) is Fit.OUT:
            assert driven.now - began < 2000
        pauses.append(driven.now - began)
        driven.drive(140, batch=8, rate=1.0)
    assert pauses == sorted(pauses) and pauses[0] < 61 and pauses[-2] > 800 and pauses[-1] <= 900
    while driven.drive(1, batch=0, rate=0.0) is Fit.OUT:
        pass
    assert driven.drive(140, batch=8, rate=50.0) is Fit.FIT
    began = driven.now
    driven.drive(140, batch=8, rate=1.0)
    assert driven.guard.state is Fit.OUT
    assert driven.drive(61, batch=0, rate=0.0) is Fit.TRIAL


class BreakableEngine(MemoryEngine):
    """Fails or hangs in a step when told to."""

    def __init__(self) -> None:
        super().__init__(LIMITS, mean_tokens=ENDLESS)
        self.failure: Exception | None = None
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.is_hung = False

    def step(self) -> StepTokens:
        self.is_hung = not self.goes_on.is_set()
        self.goes_on.wait(30)
        if self.failure is not None:
            raise self.failure
        return super().step()


@dataclass
class Pod:
    """A worker with a queue, and the fitness that looks after it."""

    folder: Path
    engine: BreakableEngine = field(default_factory=BreakableEngine)
    queue: MemoryWorkQueue = field(default_factory=lambda: MemoryWorkQueue(lease_s=30.0))
    buffer: MemoryBuffer = field(default_factory=lambda: MemoryBuffer(num_samples=2))
    problems: Problems = field(default_factory=Problems)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    served: list[bool] = field(default_factory=list)
    num_ends: int = 0

    def __post_init__(self) -> None:
        self.buffer.queue = self.queue
        build_character_tokenizer().save(self.folder)
        parts = PodParts(
            pod="pod-a",
            run_id=RUN_ID,
            queue=self.queue,
            blobs=MemoryBlobStore(),
            buffer=BufferCalls(door=self.buffer, problems=self.problems, deadline_s=5.0),
            lease_s=30.0,
            drain_s=0.0,
        )
        first = FirstWeights(weights=make_weights(self.folder), engine=self.engine)
        self.thread, self.worker = assemble_worker(parts, first)
        self.fitness = Fitness(
            self.thread,
            self.worker,
            problems=self.problems,
            guard=CollapseGuard(CollapseRules()),
            set_serving=self.set_serving,
        )
        self.fitness.end_process = self.end_process

    async def set_serving(self, serving: bool) -> None:
        self.served.append(serving)

    def end_process(self) -> None:
        self.num_ends += 1

    async def put_task(self, index: int, **sampling: float) -> None:
        values = {"num_samples": 2, "max_new_tokens": ENDLESS, "temperature": 1.0, "top_p": 1.0, "seed": 1}
        group_id = f"{RUN_ID}/g{index:08d}"
        task = types_pb2.GenerationTask(
            envelope=types_pb2.Envelope(schema_version=1, run_id=RUN_ID, group_id=group_id),
            prompt_id=f"p{index}",
            prompt="1+1",
            sampling=types_pb2.Sampling(**(values | sampling)),  # type: ignore[arg-type]
            purpose=types_pb2.PURPOSE_EVALUATE,
        )
        await self.queue.put(task.SerializeToString())

    async def take_fences(self) -> list[int]:
        """What another pod can take now: how often each entry was given out."""
        return [leased.lease.fence for leased in await self.queue.take("pod-b", wait_s=0, max_items=9)]


def make_weights(folder: Path) -> PublishedWeights:
    manifest = Manifest(
        run_id=RUN_ID,
        version=0,
        step=0,
        contract="c0",
        kernels="k0",
        config_json="{}",
        files=(),
        tensors={},
        probe=None,
    )
    return PublishedWeights(folder=folder, manifest_id="b3:0", manifest=manifest, tokenizer_hash="")


@pytest.fixture
def pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pod:
    monkeypatch.setattr(worker_module, "TAKE_WAIT_S", 0.02)
    return Pod(tmp_path)


async def test_a_pod_out_of_service_hands_back_and_takes_nothing_until_it_is_well(pod: Pod) -> None:
    await pod.put_task(0)
    async with at_work((pod.thread, pod.worker), pod.stop) as worker:
        await eventually(lambda: worker.held.num_in_engine == 2)
        pod.problems.report(Area.PROBE, "version 3 disagrees")
        await pod.fitness.look()
        assert (pod.served, len(worker.held), pod.problems.out_of_service()) == (
            [False],
            0,
            "probe: version 3 disagrees",
        )
        assert await pod.take_fences() == [2]
        await pod.put_task(1)
        await pod.fitness.look()
        await asyncio.sleep(0.1)  # several times as long as the worker waits at the queue
        assert len(worker.held) == 0
        pod.problems.clear(Area.PROBE)
        await pod.fitness.look()
        await eventually(lambda: worker.held.num_in_engine == 2)
        assert pod.served == [False, True]


async def test_other_problems_do_not_take_a_pod_out(pod: Pod) -> None:
    pod.problems.report(Area.REDIS, "away")
    pod.problems.report(Area.WEIGHTS, "torn")
    await pod.fitness.look()
    assert (pod.served, pod.problems.out_of_service()) == ([], "")


async def test_an_engine_that_fails_hands_its_leases_back_and_ends_the_pod(pod: Pod) -> None:
    await pod.put_task(0)
    running = asyncio.create_task(pod.worker.run(pod.stop))
    await eventually(lambda: pod.worker.held.num_in_engine == 2)
    pod.engine.failure = RuntimeError("CUDA error: an illegal memory access was encountered")
    with pytest.raises(ExceptionGroup) as failure:
        await running
    assert failure.group_contains(RuntimeError, match="illegal memory access")
    assert "RuntimeError: CUDA error" in pod.problems.out_of_service()
    assert await pod.take_fences() == [2]  # at once: nobody waits for the lease to end
    await pod.fitness.look()
    assert pod.served == [False]
    await pod.thread.close()


async def test_what_ended_before_the_engine_failed_is_submitted(pod: Pod) -> None:
    is_away = True

    def fail_if_away(trajectory: types_pb2.Trajectory) -> None:
        if is_away:
            raise UnavailableError("buffer does not answer")

    pod.buffer.on_submit = fail_if_away
    await pod.put_task(0, max_new_tokens=3)
    running = asyncio.create_task(pod.worker.run(pod.stop))
    await eventually(lambda: pod.worker.num_unsubmitted == 2)
    await pod.put_task(1)
    await eventually(lambda: pod.worker.held.num_in_engine == 2)
    pod.engine.failure = RuntimeError("CUDA error")
    await eventually(lambda: "CUDA error" in pod.problems.summary())
    is_away = False
    with pytest.raises(ExceptionGroup):
        await running
    assert len(pod.buffer.accepted) == 2
    assert await pod.take_fences() == [2]  # the second group; the first is done
    await pod.thread.close()


async def test_a_pod_that_is_cut_off_hands_its_leases_back(pod: Pod) -> None:
    await pod.put_task(0)
    running = asyncio.create_task(pod.worker.run(pod.stop))
    await eventually(lambda: pod.worker.held.num_in_engine == 2)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await pod.take_fences() == [2]
    await pod.thread.close()


async def test_a_hung_engine_ends_the_process_after_its_leases_are_handed_back(
    pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitness_module, "ENGINE_ANSWER_S", 0.05)
    await pod.put_task(0)
    running = asyncio.create_task(pod.worker.run(pod.stop))
    await eventually(lambda: pod.worker.held.num_in_engine == 2 and pod.thread.reading.num_tokens > 0)
    pod.engine.goes_on.clear()
    await eventually(lambda: pod.engine.is_hung)
    pod.problems.report(Area.PROBE, "nothing moves")
    await pod.fitness.look()
    assert pod.num_ends == 1
    assert await pod.take_fences() == [2]
    pod.engine.failure = RuntimeError("the driver gave up")
    pod.engine.goes_on.set()
    with pytest.raises(ExceptionGroup):
        await running
    await pod.thread.close()
