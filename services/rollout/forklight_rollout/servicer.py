"""The gRPC door of a pod: inspection and drain."""

from __future__ import annotations

import math

import grpc

from forklight.v1 import rollout_pb2, rollout_pb2_grpc
from forklight_core.errors import InvalidInputError
from forklight_rollout.status import PodStatus


class RolloutServicer(rollout_pb2_grpc.RolloutServicer):
    """Answers from memory; only Drain changes anything."""

    def __init__(self, status: PodStatus) -> None:
        self._status = status

    async def GetRolloutStatus(
        self, request: rollout_pb2.GetRolloutStatusRequest, context: grpc.ServicerContext
    ) -> rollout_pb2.GetRolloutStatusReply:
        return self._status.read()

    async def Drain(
        self, request: rollout_pb2.DrainRequest, context: grpc.ServicerContext
    ) -> rollout_pb2.DrainReply:
        if not (math.isfinite(request.deadline_s) and request.deadline_s >= 0):
            raise InvalidInputError(f"deadline_s is {request.deadline_s}; it must be finite, 0 or more")
        if self._status.worker is None:
            return rollout_pb2.DrainReply()
        outcome = await self._status.worker.drain(request.deadline_s)
        return rollout_pb2.DrainReply(num_finished=outcome.num_finished, num_released=outcome.num_released)
