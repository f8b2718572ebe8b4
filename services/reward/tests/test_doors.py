"""The real doors: workers behind gRPC, the front on a real queue, restarts and refusals."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from forklight.v1 import buffer_pb2, buffer_pb2_grpc, reward_pb2, reward_pb2_grpc, types_pb2
from forklight_core.blobs import open_blob_store
from forklight_core.errors import BusyError, DeadlineError, FencedError, InvalidInputError, UnavailableError
from forklight_core.queues import Lease, RedisWorkQueue, RunKeys, connect_redis
from forklight_core.redis_server import start_embedded
from forklight_core.rpc import Registration, open_channel, serve
from forklight_reward import app
from forklight_reward.app import run_front, run_judge, run_sandbox, run_verifier
from forklight_reward.rehearsal import RUN_ID, TaskMaker, math_spec
from forklight_reward.sandbox.runner import Runner
from forklight_reward.servicer import SandboxServicer
from forklight_reward.settings import FrontSettings, JudgeSettings, SandboxSettings, VerifierSettings
from forklight_reward.slots import Slots

RIGHT = r"<think>6 * 7</think> \boxed{42}"
BUFFER = buffer_pb2.DESCRIPTOR.services_by_name["Buffer"].full_name
PROGRAM = json.dumps({"mode": "stdio", "tests": [{"stdin": "20 22", "stdout": "42"}]})


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        return f"127.0.0.1:{bound.getsockname()[1]}"


@pytest.fixture
def common(tmp_path: Path) -> dict[str, object]:
    """Settings every role reads."""
    run_file = tmp_path / "run.toml"
    run_file.write_text("[recipe]\noverlong_penalty = false\n[reward]\nmax_attempts = 2\ntimeout_s = 15\n")
    return {"run_file": run_file, "run_folder": tmp_path, "run_id": RUN_ID}


@asynccontextmanager
async def running(role: Callable[[asyncio.Event], Awaitable[None]]) -> AsyncIterator[None]:
    """A role, drained at the end."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(cast("asyncio.coroutines.Coroutine[None, None, None]", role(stop)))
        try:
            yield
        finally:
            stop.set()


async def until_serving(address: str) -> None:
    """Wait for the health check."""
    deadline = time.monotonic() + 60
    async with open_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        while True:
            try:
                reply = await stub.Check(health_pb2.HealthCheckRequest(service="ready"), timeout=1)
                if reply.status == health_pb2.HealthCheckResponse.SERVING:
                    return
            except (UnavailableError, DeadlineError):
                pass
            assert time.monotonic() < deadline, f"{address} never serves"
            await asyncio.sleep(0.02)


async def test_verifier_answers_fast_and_slow_questions(common: dict[str, object]) -> None:
    address = free_address()
    settings = VerifierSettings.model_validate({**common, "listen": address})
    async with running(lambda stop: run_verifier(settings, stop)), open_channel(address) as channel:
        await until_serving(address)
        stub = reward_pb2_grpc.VerifierStub(channel)

        async def ask(gold: str, response: str, *, kind: str = "math") -> reward_pb2.VerifyReply:
            request = reward_pb2.VerifyRequest(kind=kind, gold=gold, response=response)
            return cast("reward_pb2.VerifyReply", await stub.Verify(request, timeout=30))

        fast = await ask("42", RIGHT)
        assert (fast.correct, fast.format, fast.answer) == (True, 1.0, "42")
        slow = await ask(r"2\sqrt{2}", r"</think> \boxed{\sqrt{8}}")
        assert (slow.correct, slow.format, slow.status) == (True, 0.0, types_pb2.VERDICT_STATUS_OK)
        bomb = await ask("1", r"</think> \boxed{9^{9^{9^{9}}}}")
        assert (bomb.correct, bomb.status) == (False, types_pb2.VERDICT_STATUS_UNVERIFIABLE)
        with pytest.raises(InvalidInputError, match="kind 'logic'"):
            await ask("1", "1", kind="logic")
        with pytest.raises(InvalidInputError, match="empty"):
            await ask(" ", "1")


async def test_sandbox_serves_after_its_self_test(common: dict[str, object]) -> None:
    address = free_address()
    settings = SandboxSettings.model_validate({**common, "listen": address})
    async with running(lambda stop: run_sandbox(settings, stop)), open_channel(address) as channel:
        await until_serving(address)
        stub = reward_pb2_grpc.SandboxStub(channel)

        async def execute(source: str, spec: str = PROGRAM) -> reward_pb2.ExecuteReply:
            request = reward_pb2.ExecuteRequest(spec_json=spec, source=source)
            return cast("reward_pb2.ExecuteReply", await stub.Execute(request, timeout=30))

        right = await execute("print(sum(map(int, input().split())))")
        assert (right.status, right.score) == (types_pb2.VERDICT_STATUS_OK, 1.0)
        assert json.loads(right.result_json)["class"] == "AC"
        wrong = await execute("print(1)")
        assert (wrong.status, wrong.score) == (types_pb2.VERDICT_STATUS_WRONG, 0.0)
        assert wrong.HasField("score")
        flood = await execute("while True: print('x' * 1000)")
        assert (flood.status, flood.score) == (types_pb2.VERDICT_STATUS_LIMIT, 0.0)
        with pytest.raises(InvalidInputError, match="tests of mode repo"):
            await execute("x", json.dumps({"mode": "repo"}))
        run = json.dumps({"mode": "run", "limits": {"wall_s": 3}})
        printed = await execute("import sys; print(6 * 7); print('hm', file=sys.stderr)", run)
        assert (printed.run.end, printed.run.stdout) == (reward_pb2.PROGRAM_END_OK, b"42\n")
        assert (printed.run.stderr, printed.run.stderr_bytes) == (b"hm\n", 3)
        late = await execute("import time; time.sleep(60)", run)
        assert late.run.end == reward_pb2.PROGRAM_END_TIME_LIMIT
        assert not any(reply.HasField("score") for reply in (printed, late))
        assert not right.HasField("run")


async def test_sandbox_runs_nothing_while_the_self_test_fails(
    common: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(settings: SandboxSettings) -> Runner:
        raise UnavailableError("no jails here")

    monkeypatch.setattr(app, "open_tested_runner", fail)
    address = free_address()
    settings = SandboxSettings.model_validate({**common, "listen": address, "self_test_every_s": 0.01})
    async with running(lambda stop: run_sandbox(settings, stop)), open_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        reply = await health.Check(
            health_pb2.HealthCheckRequest(service="ready"), timeout=10, wait_for_ready=True
        )
        assert reply.status == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(UnavailableError, match="self-test"):
            request = reward_pb2.ExecuteRequest(spec_json=PROGRAM, source="print(42)")
            await reward_pb2_grpc.SandboxStub(channel).Execute(request, timeout=10)


async def test_slots_are_bounded_and_the_line_in_front_too() -> None:
    slots = Slots(1, name="test", max_waiting=1)
    try:
        async with slots.hold(1.0):
            with pytest.raises(BusyError, match="no slot"):
                async with slots.hold(0.01):
                    pass
            waiting = asyncio.create_task(slots.hold(5.0).__aenter__())
            await asyncio.sleep(0)
            with pytest.raises(BusyError, match="wait already"):
                async with slots.hold(5.0):
                    pass
            waiting.cancel()
    finally:
        slots.close()


async def test_a_run_that_could_not_have_its_whole_time_is_busy(runner: Runner) -> None:
    class FewSeconds:
        def time_remaining(self) -> float:
            return 4.0

    servicer = SandboxServicer(Slots(1, name="sandbox"))
    servicer.runner = runner
    spec = json.dumps({"mode": "run", "limits": {"wall_s": 10}})
    with pytest.raises(BusyError, match="took the program's time"):
        await servicer.Execute(
            reward_pb2.ExecuteRequest(spec_json=spec, source="print(1)"),
            FewSeconds(),  # type: ignore[arg-type]
        )


async def test_program_that_waited_too_long_for_a_slot_is_busy_and_not_late(runner: Runner) -> None:
    slots = Slots(1, name="sandbox")
    servicer = SandboxServicer(slots)
    servicer.runner = runner
    door = Registration(reward_pb2_grpc.add_SandboxServicer_to_server, servicer, app.service_name("Sandbox"))
    try:
        async with serve("127.0.0.1:0", [door]) as server, open_channel(server.address) as channel:
            stub = reward_pb2_grpc.SandboxStub(channel)
            request = reward_pb2.ExecuteRequest(spec_json=PROGRAM, source="print(42)")
            async with slots.hold(1.0):
                late = asyncio.create_task(_call(stub.Execute(request, timeout=2.5)))
                await asyncio.sleep(1.2)
            with pytest.raises(BusyError, match="waiting for a slot"):
                await late
    finally:
        slots.close()


async def _call(call: Awaitable[reward_pb2.ExecuteReply]) -> reward_pb2.ExecuteReply:
    return await call


async def test_judge_grades_and_abstains(common: dict[str, object]) -> None:
    address = free_address()
    settings = JudgeSettings.model_validate({**common, "listen": address})
    async with running(lambda stop: run_judge(settings, stop)), open_channel(address) as channel:
        await until_serving(address)
        stub = reward_pb2_grpc.JudgeStub(channel)
        full = await stub.Judge(reward_pb2.JudgeRequest(reference="blue", response="Blue."), timeout=10)
        assert (full.grade, full.score, full.status) == (5, 1.0, types_pb2.VERDICT_STATUS_OK)
        none = await stub.Judge(reward_pb2.JudgeRequest(reference="", response="Blue."), timeout=10)
        assert (none.grade, none.status) == (0, types_pb2.VERDICT_STATUS_ABSTAIN)
        assert not none.HasField("score")


class BufferDoor(buffer_pb2_grpc.BufferServicer):
    """The one call the front makes, with the buffer's manners: fenced, idempotent, settles the entry."""

    def __init__(self, queue: RedisWorkQueue) -> None:
        self.verdicts: dict[str, types_pb2.Verdict] = {}
        self._queue = queue

    async def SubmitVerdicts(  # type: ignore[override]
        self, request: buffer_pb2.SubmitVerdictsRequest, context: object
    ) -> buffer_pb2.SubmitManyReply:
        return buffer_pb2.SubmitManyReply(results=[await self._submit(item) for item in request.items])

    async def _submit(self, item: buffer_pb2.SubmitVerdictRequest) -> buffer_pb2.SubmitResult:
        held = Lease(entry_id=item.lease.entry_id, consumer=item.lease.consumer, fence=item.lease.fence)
        if not await self._queue.settle(held):
            refusal = buffer_pb2.Refusal(error=FencedError.__name__, message="a newer holder exists")
            return buffer_pb2.SubmitResult(refusal=refusal)
        self.verdicts[item.verdict.envelope.sample_id] = item.verdict
        return buffer_pb2.SubmitResult(outcome=buffer_pb2.SUBMIT_OUTCOME_ACCEPTED)


@asynccontextmanager
async def all_workers(common: dict[str, object], doors: dict[str, str]) -> AsyncIterator[None]:
    """Verifier, sandbox and judge at their addresses."""
    verifier = VerifierSettings.model_validate({**common, "listen": doors["verifier"]})
    sandbox = SandboxSettings.model_validate({**common, "listen": doors["sandbox"]})
    judge = JudgeSettings.model_validate({**common, "listen": doors["judge"]})
    async with (
        running(lambda stop: run_verifier(verifier, stop)),
        running(lambda stop: run_sandbox(sandbox, stop)),
        running(lambda stop: run_judge(judge, stop)),
    ):
        yield


@dataclass(frozen=True, slots=True, kw_only=True)
class Plant:
    """A real queue, a buffer's door and the settings of a front that knows them."""

    queue: RedisWorkQueue
    buffer: BufferDoor
    settings: FrontSettings
    doors: dict[str, str]


@asynccontextmanager
async def plant(common: dict[str, object], folder: Path) -> AsyncIterator[Plant]:
    """Redis and a buffer, before any reward process."""
    doors = {name: free_address() for name in ("listen", "verifier", "sandbox", "judge")}
    with start_embedded(folder / "redis") as server:
        redis = connect_redis(server.url)
        queue = RedisWorkQueue(redis, RunKeys(RUN_ID).scoring, lease_s=30)
        buffer = BufferDoor(queue)
        door = Registration(buffer_pb2_grpc.add_BufferServicer_to_server, buffer, BUFFER)
        async with serve("127.0.0.1:0", [door]) as buffer_server:
            settings = FrontSettings.model_validate(
                {
                    **common,
                    "listen": doors["listen"],
                    "redis_url": server.url,
                    "blobs_url": f"file://{folder}/blobs",
                    "buffer_address": buffer_server.address,
                    # Behind the first address there is nobody: every worker is found at its second.
                    **{
                        f"{name}_address": f"{free_address()}, {doors[name]}"
                        for name in ("verifier", "sandbox", "judge")
                    },
                }
            )
            yield Plant(queue=queue, buffer=buffer, settings=settings, doors=doors)
        await redis.aclose()


async def test_front_scores_all_kinds_from_the_queue_though_workers_come_late(
    common: dict[str, object], tmp_path: Path
) -> None:
    async with plant(common, tmp_path) as site:
        tasks = TaskMaker(blobs=open_blob_store(site.settings.blobs_url))
        made = [
            tasks.task(RIGHT),
            tasks.task("```python\nprint(42)\n```", spec=spec_of("code", spec_json=PROGRAM)),
            tasks.task("blue", spec=spec_of("judge", gold="blue")),
            tasks.task(RIGHT, spec=spec_of("poetry")),
        ]
        for task in made:
            await site.queue.put(task.SerializeToString())
        async with running(lambda stop: run_front(site.settings, stop)):
            await until_serving(site.doors["listen"])
            async with all_workers(common, site.doors):
                await until_verdicts(site.buffer, len(made))
                async with open_channel(site.doors["listen"]) as channel:
                    envelope = made[0].envelope
                    request = reward_pb2.ScoreRequest(envelope=envelope, spec=math_spec(), response=RIGHT)
                    reply = await reward_pb2_grpc.RewardStub(channel).Score(request, timeout=20)
                    assert reply.verdict.score == 1.0
        found = [site.buffer.verdicts[task.envelope.sample_id] for task in made]
    scores = [verdict.score if verdict.HasField("score") else None for verdict in found]
    assert scores == [1.0, 1.0, 1.0, None]
    assert "unknown task kind" in found[3].evidence


def spec_of(kind: str, *, gold: str = "", spec_json: str = "") -> types_pb2.TaskSpec:
    return types_pb2.TaskSpec(schema_version=1, kind=kind, gold=gold, spec_json=spec_json)


async def until_verdicts(buffer: BufferDoor, num_wanted: int) -> None:
    """Wait for so many verdicts."""
    deadline = time.monotonic() + 60
    while len(buffer.verdicts) < num_wanted:
        assert time.monotonic() < deadline, f"only {len(buffer.verdicts)} verdicts"
        await asyncio.sleep(0.02)
