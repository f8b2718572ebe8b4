"""The buffer's inspection over gRPC."""

from __future__ import annotations

from typing import cast

import grpc.aio

from forklight.v1 import buffer_pb2, buffer_pb2_grpc

CALL_DEADLINE_S = 10.0


class LiveSamples:
    """Implements `SampleSource`."""

    def __init__(self, channel: grpc.aio.Channel, run_id: str) -> None:
        self._buffer = cast("buffer_pb2_grpc.BufferAsyncStub", buffer_pb2_grpc.BufferStub(channel))
        self._run_id = run_id

    async def search(self, request: buffer_pb2.SearchSamplesRequest) -> buffer_pb2.SearchSamplesReply:
        request.run_id = self._run_id
        return await self._buffer.SearchSamples(request, timeout=CALL_DEADLINE_S)

    async def group(self, group_id: str) -> buffer_pb2.GetGroupReply:
        request = buffer_pb2.GetGroupRequest(run_id=self._run_id, group_id=group_id)
        return await self._buffer.GetGroup(request, timeout=CALL_DEADLINE_S)

    async def groups(self, *, prompt_id: str, after: str, limit: int) -> buffer_pb2.ListGroupsReply:
        request = buffer_pb2.ListGroupsRequest(
            run_id=self._run_id, prompt_id=prompt_id, after=after, limit=limit
        )
        return await self._buffer.ListGroups(request, timeout=CALL_DEADLINE_S)
