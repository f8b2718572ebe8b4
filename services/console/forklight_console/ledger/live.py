"""The buffer's ledger over gRPC."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import grpc.aio

from forklight.v1 import buffer_pb2, buffer_pb2_grpc

CALL_DEADLINE_S = 15.0


class LiveLedger:
    """Implements `LedgerSource`."""

    def __init__(self, channel: grpc.aio.Channel, run_id: str) -> None:
        self._buffer = cast("buffer_pb2_grpc.BufferAsyncStub", buffer_pb2_grpc.BufferStub(channel))
        self._run_id = run_id

    async def dead_letters(self, limit: int) -> Sequence[buffer_pb2.DeadLetter]:
        request = buffer_pb2.ListDeadLettersRequest(run_id=self._run_id, limit=limit)
        return (await self._buffer.ListDeadLetters(request, timeout=CALL_DEADLINE_S)).letters

    async def ledger(self, *, after: str, limit: int) -> buffer_pb2.ReadLedgerReply:
        request = buffer_pb2.ReadLedgerRequest(run_id=self._run_id, after=after, limit=limit)
        return await self._buffer.ReadLedger(request, timeout=CALL_DEADLINE_S)
