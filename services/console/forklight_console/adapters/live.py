"""A running run: the buffer's door for its state, the run folder's `steps.jsonl` for its steps."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import grpc.aio

from forklight.v1 import buffer_pb2, buffer_pb2_grpc, types_pb2
from forklight_console.ports import JudgeRecord, StepRecord

CALL_DEADLINE_S = 5.0


class LiveRunView:
    """Over the buffer's gRPC channel and a file."""

    def __init__(self, channel: grpc.aio.Channel, run_id: str, steps_path: Path, judge_path: Path) -> None:
        self._buffer = cast("buffer_pb2_grpc.BufferAsyncStub", buffer_pb2_grpc.BufferStub(channel))
        self._run_id = run_id
        self._steps_path = steps_path
        self._judge_path = judge_path

    async def status(self) -> buffer_pb2.GetStatusReply:
        """Ask the buffer."""
        request = buffer_pb2.GetStatusRequest(run_id=self._run_id)
        return await self._buffer.GetStatus(request, timeout=CALL_DEADLINE_S)

    async def samples(
        self, *, state: types_pb2.SampleState | None, after: str, limit: int
    ) -> buffer_pb2.ListSamplesReply:
        """Ask the buffer."""
        request = buffer_pb2.ListSamplesRequest(run_id=self._run_id, after=after, limit=limit, state=state)
        return await self._buffer.ListSamples(request, timeout=CALL_DEADLINE_S)

    async def events(self, *, after: str, limit: int, newest_first: bool) -> buffer_pb2.ListEventsReply:
        """Ask the buffer."""
        request = buffer_pb2.ListEventsRequest(
            run_id=self._run_id, after=after, limit=limit, newest_first=newest_first
        )
        return await self._buffer.ListEvents(request, timeout=CALL_DEADLINE_S)

    async def steps(self, *, after: int, limit: int) -> Sequence[StepRecord]:
        """Read the file."""
        return await asyncio.to_thread(read_steps, self._steps_path, after=after, limit=limit)

    async def judge(self, *, limit: int) -> Sequence[JudgeRecord]:
        """Read the file."""
        return await asyncio.to_thread(read_judge, self._judge_path, limit=limit)


def read_judge(path: Path, *, limit: int) -> list[JudgeRecord]:
    """The newest complete lines of the judge's log."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        newest = deque((line for line in file if line.endswith(b"\n")), maxlen=limit)
    return [json.loads(line) for line in newest]


def read_steps(path: Path, *, after: int, limit: int) -> list[StepRecord]:
    """The newest complete lines of a steps file; a step that was redone after a crash counts once."""
    newest: dict[int, StepRecord] = {}
    if path.exists():
        with path.open("rb") as file:
            for line in file:
                record = json.loads(line) if line.endswith(b"\n") else {}
                step = int(record.get("step", 0))
                if step > after:
                    newest.pop(step, None)
                    newest[step] = record
    return list(deque(newest.values(), maxlen=limit))
