"""The way to the sandbox: what it is told, what its replies mean, and a run without one."""

from __future__ import annotations

import json
from pathlib import Path

import grpc
import pytest

from forklight.v1 import reward_pb2, reward_pb2_grpc
from forklight_core.blobs.memory import MemoryBlobStore
from forklight_core.errors import BusyError, ConfigError, UnavailableError
from forklight_core.ports import free_ports
from forklight_core.rpc import Registration, open_channel, serve
from forklight_core.runfile.schema import ToolsSection
from forklight_rollout.adapters.sandbox_rpc import RpcSandbox
from forklight_rollout.settings import RolloutSettings
from forklight_rollout.tools.assembly import PodTools, check_tools, open_tools
from forklight_rollout.tools.python import ProgramEnd, PythonTool


class Sandbox(reward_pb2_grpc.SandboxServicer):
    """Replies with what the test wants."""

    def __init__(self) -> None:
        self.reply = reward_pb2.ExecuteReply()
        self.error: Exception | None = None
        self.asked: list[reward_pb2.ExecuteRequest] = []

    async def Execute(
        self, request: reward_pb2.ExecuteRequest, context: grpc.ServicerContext
    ) -> reward_pb2.ExecuteReply:
        self.asked.append(request)
        if self.error is not None:
            raise self.error
        return self.reply


async def test_the_sandbox_sees_a_program_and_limits_and_nothing_else() -> None:
    sandbox, address = Sandbox(), f"127.0.0.1:{free_ports(1)[0]}"
    door = Registration(reward_pb2_grpc.add_SandboxServicer_to_server, sandbox, "forklight.v1.Sandbox")
    async with serve(address, [door]), open_channel(address) as channel:
        runner = RpcSandbox(channel, "run-1", MemoryBlobStore())

        async def run() -> tuple[ProgramEnd, str, str]:
            found = await runner.run_program("print(1)", sample_id="run-1/g00000001/s002", timeout_s=3.0)
            return found.end, found.stdout, found.stderr

        program = reward_pb2.ProgramRun(
            end=reward_pb2.PROGRAM_END_TIME_LIMIT, stdout=b"1\n\xff", stderr=b"late", stdout_bytes=3
        )
        sandbox.reply = reward_pb2.ExecuteReply(run=program)
        assert await run() == (ProgramEnd.TIME_LIMIT, "1\n\ufffd", "late")
        (request,) = sandbox.asked
        spec = json.loads(request.spec_json)
        assert request.source == "print(1)" and set(spec) == {"mode", "language", "limits"}
        assert (spec["mode"], spec["limits"]["cpu_s"], spec["limits"]["wall_s"]) == ("run", 3.0, 3.0)
        assert request.envelope.sample_id == "run-1/g00000001/s002"
        sandbox.error = BusyError("all slots are taken")
        with pytest.raises(BusyError, match="all slots"):
            await run()
        sandbox.error, sandbox.reply = None, reward_pb2.ExecuteReply(score=1.0)
        with pytest.raises(UnavailableError, match="does not say how"):
            await run()
    with pytest.raises(UnavailableError):
        async with open_channel(address) as channel:
            await RpcSandbox(channel, "run-1", MemoryBlobStore()).run_program(
                "1", sample_id="r/g0/s0", timeout_s=0.1
            )


def test_every_end_on_the_wire_has_a_meaning() -> None:
    from forklight_rollout.adapters.sandbox_rpc import _ENDS

    assert {*_ENDS} == {value for value in reward_pb2.ProgramEnd.values() if value}
    assert {*_ENDS.values()} == {*ProgramEnd}


async def test_a_run_with_tools_needs_a_sandbox_and_one_without_connects_nothing(tmp_path: Path) -> None:
    settings = RolloutSettings(
        run_file=tmp_path / "run.toml",
        run_folder=tmp_path,
        run_id="run-1",
        listen="127.0.0.1:1",
        redis_url="redis://127.0.0.1:1",
        blobs_url="file:///nowhere",
        buffer_address="127.0.0.1:1",
        tool_calls=3,
        tool_deadline_s=7.0,
    )
    python = ToolsSection(names=("python",))
    check_tools(settings, ToolsSection())
    with pytest.raises(ConfigError, match="FORKLIGHT_SANDBOX_ADDRESS"):
        check_tools(settings, python)
    async with open_tools(settings, ToolsSection()) as found:
        assert found == PodTools()
    there = settings.model_copy(update={"sandbox_address": "127.0.0.1:1"})
    check_tools(there, python)
    async with open_tools(there, python) as found:
        assert isinstance(found.tools["python"], PythonTool)
        assert (found.num_calls, found.deadline_s) == (3, 7.0)
