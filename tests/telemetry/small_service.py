"""`python -m tests.telemetry.small_service`: a service by the rules of all that answers one call."""

from __future__ import annotations

import asyncio

import grpc.aio

from forklight.v1 import rollout_pb2, rollout_pb2_grpc
from forklight_core.lifecycle import start_service
from forklight_core.rpc import Registration, serve
from forklight_core.settings import ServiceSettings


class SmallServicer(rollout_pb2_grpc.RolloutServicer):
    """Says who it is."""

    async def GetRolloutStatus(
        self,
        request: rollout_pb2.GetRolloutStatusRequest,
        context: grpc.aio.ServicerContext[object, object],
    ) -> rollout_pb2.GetRolloutStatusReply:
        return rollout_pb2.GetRolloutStatusReply(pod="small")


async def run(settings: ServiceSettings, stop: asyncio.Event) -> None:
    """Serve until told to stop."""
    registration = Registration(
        rollout_pb2_grpc.add_RolloutServicer_to_server, SmallServicer(), "forklight.v1.Rollout"
    )
    async with serve(settings.listen, [registration]):
        await stop.wait()


if __name__ == "__main__":
    start_service("rollout", __doc__ or "", ServiceSettings, run)
