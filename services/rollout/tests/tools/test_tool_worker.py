"""A pod whose samples call out: replies, tools that are away, draining and dying in the middle of a call."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from forklight.v1 import types_pb2
from forklight_core import ids
from forklight_core.blobs import MemoryBlobStore
from forklight_core.errors import InvalidInputError
from forklight_core.queues import MemoryWorkQueue
from forklight_core.wire import TrajectoryArrays, unpack_payload
from forklight_rollout import worker as worker_module
from forklight_rollout.adapters.memory_buffer import MemoryBuffer
from forklight_rollout.app import PodParts, assemble_worker
from forklight_rollout.generation.engine_thread import EngineThread
from forklight_rollout.leases import saving
from forklight_rollout.leases.buffer_calls import BufferCalls
from forklight_rollout.problems import Problems
from forklight_rollout.tools.assembly import PodTools
from forklight_rollout.weights.manifest import PublishedWeights
from forklight_rollout.weights.watcher import FirstWeights
from forklight_rollout.worker import Worker
from services.rollout.tests.tools.scripted import TOKENIZER, FakeTool, TextEngine, call_of
from services.rollout.tests.waiting import at_work, eventually

RUN_ID = "test-run"
TURNS = (f"I ask. {call_of('6 * 7')}", f"Again. {call_of('1')}", "It is 42.")


@dataclass
class Pod:
    """A worker over things in memory, with a tool that can be broken."""

    weights: PublishedWeights
    tool: FakeTool = field(default_factory=FakeTool)
    turns: tuple[str, ...] = TURNS
    clock_s: float = 0.0
    blobs: MemoryBlobStore = field(default_factory=MemoryBlobStore)
    buffer: MemoryBuffer = field(default_factory=lambda: MemoryBuffer(num_samples=3))
    problems: Problems = field(default_factory=Problems)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    deadline_s: float = 30.0
    num_calls: int = 16

    def __post_init__(self) -> None:
        self.queue = MemoryWorkQueue(lease_s=30.0, clock=lambda: self.clock_s)
        self.buffer.queue = self.queue

    def assemble(self) -> tuple[EngineThread, Worker]:
        parts = PodParts(
            pod="pod-a",
            run_id=RUN_ID,
            queue=self.queue,
            blobs=self.blobs,
            buffer=BufferCalls(door=self.buffer, problems=self.problems, deadline_s=5.0),
            lease_s=30.0,
            drain_s=2.0,
            tools=PodTools(tools={"python": self.tool}, num_calls=self.num_calls, deadline_s=self.deadline_s),
        )
        return assemble_worker(parts, FirstWeights(weights=self.weights, engine=TextEngine(self.turns)))

    async def put_task(self, *, tool: str = "python", max_calls: int = 4) -> None:
        task = types_pb2.GenerationTask(
            envelope=types_pb2.Envelope(schema_version=1, run_id=RUN_ID, group_id=f"{RUN_ID}/g00000000"),
            prompt_id="p0",
            prompt="1+1",
            sampling=types_pb2.Sampling(num_samples=3, max_new_tokens=2000, temperature=1.0, top_p=1.0),
            purpose=types_pb2.PURPOSE_TRAIN,
            tools=types_pb2.Tools(names=[tool], max_calls=max_calls, max_output_tokens=200, timeout_s=2.0),
        )
        await self.queue.put(task.SerializeToString())

    @property
    def is_done(self) -> bool:
        return len(self.buffer.accepted) == 3

    def arrays(self) -> list[TrajectoryArrays]:
        payloads = [trajectory.payload.id for trajectory in self.buffer.accepted.values()]
        return [unpack_payload(self.blobs.get(payload)) for payload in payloads]

    @property
    def responses(self) -> set[str]:
        """What the samples say, replies and all."""
        return {TOKENIZER.decode(arrays.response_ids.tolist()) for arrays in self.arrays()}


@pytest.fixture
def pod(published: dict[int, PublishedWeights], monkeypatch: pytest.MonkeyPatch) -> Pod:
    monkeypatch.setattr(worker_module, "TAKE_WAIT_S", 0.02)
    monkeypatch.setattr(worker_module, "REFUSAL_PAUSE_S", 0.02)
    monkeypatch.setattr(saving, "CHECK_S", 0.01)
    return Pod(weights=published[0])


def reply(text: str) -> str:
    return f"\n<tool_response>\n{text}\n</tool_response>\n"


WHOLE = TURNS[0] + reply("ran 6 * 7") + TURNS[1] + reply("ran 1") + TURNS[2]


async def test_calls_are_answered_and_the_whole_response_is_submitted(
    pod: Pod, spans: InMemorySpanExporter
) -> None:
    await pod.put_task()
    async with at_work(pod.assemble(), pod.stop) as worker:
        await eventually(lambda: pod.is_done)
        assert (worker.num_unsubmitted, len(pod.tool.tries)) == (0, 6)
    assert pod.responses == {WHOLE}
    for arrays in pod.arrays():
        assert arrays.text == "I ask. \n\nAgain. \n\nIt is 42."
        assert arrays.drawn is not None
        put_in = TOKENIZER.decode(arrays.response_ids[arrays.drawn == 0].tolist())
        assert put_in == reply("ran 6 * 7") + reply("ran 1")
        assert not arrays.logprobs[arrays.drawn == 0].any() and arrays.logprobs[arrays.drawn == 1].all()
    found = [span for span in spans.get_finished_spans() if span.name == "rollout.tool_call"]
    assert len(found) == 6
    for span in found:
        assert span.attributes is not None and span.context is not None
        assert (span.attributes["rl.tool.name"], span.attributes["rl.tool.outcome"]) == ("python", "ok")
        trace = ids.sample_traceparent(str(span.attributes["rl.sample.id"])).split("-")[1]
        assert f"{span.context.trace_id:032x}" == trace


@pytest.mark.parametrize(
    ("turn", "said"),
    [
        (call_of("x").replace("python", "shell"), "there is no tool 'shell'; there is python"),
        ("<tool_call>print(1)</tool_call>", "the call is not JSON"),
    ],
)
async def test_a_call_that_is_wrong_is_answered_without_a_tool(pod: Pod, turn: str, said: str) -> None:
    pod.turns = (turn, "well")
    await pod.put_task()
    async with at_work(pod.assemble(), pod.stop):
        await eventually(lambda: pod.is_done)
    assert pod.tool.tries == []
    (response,) = pod.responses
    assert said in response and response.endswith("well")


async def test_calls_beyond_the_limit_are_told_so(pod: Pod) -> None:
    await pod.put_task(max_calls=1)
    async with at_work(pod.assemble(), pod.stop):
        await eventually(lambda: pod.is_done)
    (response,) = pod.responses
    assert len(pod.tool.tries) == 3
    assert response.startswith(TURNS[0] + reply("ran 6 * 7") + TURNS[1])
    assert "only 1 are answered" in response and response.endswith(TURNS[2])


async def test_a_tool_that_comes_back_is_waited_for(pod: Pod) -> None:
    pod.tool.num_away = 7
    await pod.put_task()
    async with at_work(pod.assemble(), pod.stop):
        await eventually(lambda: "no sandbox answers" in pod.problems.summary())
        await eventually(lambda: pod.is_done)
        assert pod.problems.summary() == ""
    assert pod.responses == {WHOLE}


@pytest.mark.parametrize("error", [InvalidInputError("unknown mode 'run'"), ValueError("a bug"), None])
async def test_a_tool_that_cannot_answer_costs_the_lease_and_no_token(
    pod: Pod, error: Exception | None
) -> None:
    pod.tool.error, pod.tool.num_away, pod.deadline_s = error, 10**6, 0.01
    await pod.put_task()
    async with at_work(pod.assemble(), pod.stop) as worker:
        await eventually(lambda: pod.buffer.fences.get(f"{RUN_ID}/g00000000", 0) >= 3)
        assert pod.buffer.accepted == {} and worker.num_submitted == 0
        call = len(TOKENIZER.encode(TURNS[0]))
        await eventually(lambda: all(map(pod.buffer.num_saved, pod.buffer.segments)))
        assert {pod.buffer.num_saved(sample) for sample in pod.buffer.segments} == {call}
        pod.tool.error, pod.tool.num_away = None, 0
        await eventually(lambda: pod.is_done)
    assert pod.responses == {WHOLE}


@pytest.mark.parametrize("is_killed", [False, True])
async def test_another_pod_makes_the_call_again_where_one_left_or_died(pod: Pod, is_killed: bool) -> None:
    pod.tool.gate = asyncio.Event()
    await pod.put_task()
    thread, worker = pod.assemble()
    first = asyncio.create_task(worker.run(pod.stop))
    await eventually(lambda: pod.tool.num_now == 3)
    if is_killed:
        first.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await first
    else:
        outcome = await worker.drain(0.05)
        assert (outcome.num_finished, outcome.num_released) == (0, 3)
        pod.stop.set()
        await first
    await thread.close()
    call = len(TOKENIZER.encode(TURNS[0]))
    saved = {pod.buffer.num_saved(sample) for sample in pod.buffer.segments}
    assert saved == (set() if is_killed else {call})

    pod.clock_s += 100
    pod.stop, pod.tool = asyncio.Event(), FakeTool()
    async with at_work(pod.assemble(), pod.stop):
        await eventually(lambda: pod.is_done)
    assert pod.responses == {WHOLE}
    assert len(pod.tool.tries) == 6


async def test_a_reply_for_a_sample_that_was_given_up_is_dropped(pod: Pod) -> None:
    pod.tool.gate = asyncio.Event()
    await pod.put_task()
    async with at_work(pod.assemble(), pod.stop) as worker:
        await eventually(lambda: pod.tool.num_now == 3)
        await worker._keeper.give_up(worker.held.all()[0], "test")
        pod.tool.gate.set()
        await eventually(lambda: pod.tool.num_now == 0)
    assert pod.buffer.accepted == {}


async def test_calls_under_way_are_bounded(pod: Pod) -> None:
    pod.num_calls, pod.tool.gate = 2, asyncio.Event()
    await pod.put_task()
    async with at_work(pod.assemble(), pod.stop) as worker:
        await eventually(lambda: pod.tool.num_now == 2 and worker._calls.qsize() == 1)
        pod.tool.gate.set()
        await eventually(lambda: pod.is_done)
    assert pod.tool.most_at_once == 2


async def test_a_task_with_tools_that_a_pod_lacks_is_refused(
    pod: Pod, caplog: pytest.LogCaptureFixture
) -> None:
    await pod.put_task(tool="shell")
    async with at_work(pod.assemble(), pod.stop):
        await eventually(lambda: any("task refused" in record.message for record in caplog.records))
    (refused,) = {record.reason for record in caplog.records if record.message == "task refused"}  # type: ignore[attr-defined]
    assert "tools.names asks for 'shell'" in refused
