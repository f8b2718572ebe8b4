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
from forklight_console.steps.log import StepLog
from forklight_console.steps.series import Series, SeriesQuery, make_series

CALL_DEADLINE_S = 5.0


class LiveRunView:
    """Over the buffer's gRPC channel and a file."""

    def __init__(self, channel: grpc.aio.Channel, run_id: str, steps_path: Path, judge_path: Path) -> None:
        self._buffer = cast("buffer_pb2_grpc.BufferAsyncStub", buffer_pb2_grpc.BufferStub(channel))
        self._run_id = run_id
        self._steps = StepLog(steps_path)
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
        return await asyncio.to_thread(self._steps.records, after=after, limit=limit)

    async def series(self, query: SeriesQuery) -> Series:
        """Read what the file has more, and thin it."""
        return await asyncio.to_thread(self._steps.look, lambda table: make_series(table, query))

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
