"""Programs in the sandbox service, over gRPC. It sees programs, commands and limits, never a test or
an answer."""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import Mapping
from typing import cast

import grpc.aio

from forklight.v1 import reward_pb2, reward_pb2_grpc, types_pb2
from forklight_core.blobs import BlobRef, BlobStore
from forklight_core.errors import UnavailableError
from forklight_core.ids import group_of
from forklight_core.wire import SCHEMA_VERSION, Session
from forklight_rollout.tools.python import ProgramEnd, ProgramOutput

MOST_OUTPUT_BYTES = 2**20
MEMORY_MB = 512
KEPT_WORKSPACES = 64
WAIT_S = 10.0
"""Beyond twice the program's own time: for a slot, the jail and the way."""

_ENDS: Mapping[reward_pb2.ProgramEnd, ProgramEnd] = {
    reward_pb2.PROGRAM_END_OK: ProgramEnd.OK,
    reward_pb2.PROGRAM_END_COMPILE_ERROR: ProgramEnd.COMPILE_ERROR,
    reward_pb2.PROGRAM_END_RUNTIME_ERROR: ProgramEnd.RUNTIME_ERROR,
    reward_pb2.PROGRAM_END_TIME_LIMIT: ProgramEnd.TIME_LIMIT,
    reward_pb2.PROGRAM_END_MEMORY_LIMIT: ProgramEnd.MEMORY_LIMIT,
    reward_pb2.PROGRAM_END_OUTPUT_LIMIT: ProgramEnd.OUTPUT_LIMIT,
    reward_pb2.PROGRAM_END_VIOLATION: ProgramEnd.VIOLATION,
}


class RpcSandbox:
    """Ports ProgramRunner and SessionRunner."""

    def __init__(self, channel: grpc.aio.Channel, run_id: str, blobs: BlobStore) -> None:
        self._stub = cast("reward_pb2_grpc.SandboxAsyncStub", reward_pb2_grpc.SandboxStub(channel))
        self._run_id = run_id
        self._blobs = blobs
        self._workspaces: OrderedDict[str, str] = OrderedDict()

    async def run_program(self, source: str, *, sample_id: str, timeout_s: float) -> ProgramOutput:
        """One try."""
        limits = {
            "cpu_s": timeout_s,
            "wall_s": timeout_s,
            "memory_mb": MEMORY_MB,
            "output_bytes": MOST_OUTPUT_BYTES,
        }
        request = reward_pb2.ExecuteRequest(
            envelope=self._envelope(sample_id),
            spec_json=json.dumps({"mode": "run", "language": "python", "limits": limits}),
            source=source,
        )
        reply = await self._stub.Execute(request, timeout=2 * timeout_s + WAIT_S)
        return _read_run(reply.run, sample_id)

    async def act(self, workspace: BlobRef, session: Session, *, sample_id: str) -> ProgramOutput:
        """One try. A sandbox that has not seen the session's beginning runs all its commands again."""
        request = reward_pb2.ActRequest(
            envelope=self._envelope(sample_id),
            workspace_json=await self._workspace(workspace),
            session=session.to_wire(),
        )
        deadline_s = (1 + len(session.commands)) * session.timeout_s + WAIT_S
        reply = await self._stub.Act(request, timeout=deadline_s)
        return _read_run(reply.run, sample_id)

    async def _workspace(self, reference: BlobRef) -> str:
        """The files, of which those used last are kept."""
        if reference.id not in self._workspaces:
            data = await asyncio.to_thread(self._blobs.get, reference.id)
            self._workspaces[reference.id] = data.decode()
        self._workspaces.move_to_end(reference.id)
        while len(self._workspaces) > KEPT_WORKSPACES:
            self._workspaces.popitem(last=False)
        return self._workspaces[reference.id]

    def _envelope(self, sample_id: str) -> types_pb2.Envelope:
        return types_pb2.Envelope(
            schema_version=SCHEMA_VERSION,
            run_id=self._run_id,
            group_id=group_of(sample_id),
            sample_id=sample_id,
        )


def _read_run(run: reward_pb2.ProgramRun, sample_id: str) -> ProgramOutput:
    end = _ENDS.get(run.end)
    if end is None:
        raise UnavailableError(
            f"sandbox: its reply does not say how the program of {sample_id} ended; "
            "bring all services to the same release"
        )
    return ProgramOutput(
        end=end,
        stdout=run.stdout.decode("utf-8", "replace"),
        stderr=run.stderr.decode("utf-8", "replace"),
    )
