"""The doors over gRPC. The trainer's address is asked for at each call: it changes with its restart."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import grpc.aio

from forklight.v1 import (
    buffer_pb2,
    buffer_pb2_grpc,
    rollout_pb2,
    rollout_pb2_grpc,
    trainer_pb2,
    trainer_pb2_grpc,
    types_pb2,
)
from forklight_core.errors import UnavailableError
from forklight_core.rpc import open_channel

CALL_DEADLINE_S = 15.0
DRAIN_MARGIN_S = 15.0


class LiveDoors:
    """Implements `Doors`."""

    def __init__(
        self, channel: grpc.aio.Channel, run_id: str, run_folder: Path, trainer_address: str = ""
    ) -> None:
        self._buffer = cast("buffer_pb2_grpc.BufferAsyncStub", buffer_pb2_grpc.BufferStub(channel))
        self._run_id = run_id
        self._system = run_folder / "system.json"
        self._trainer_address = trainer_address
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def close(self) -> None:
        """Close what was opened here."""
        for channel in self._channels.values():
            await channel.close(None)

    async def status(self) -> buffer_pb2.GetStatusReply:
        request = buffer_pb2.GetStatusRequest(run_id=self._run_id)
        return await self._buffer.GetStatus(request, timeout=CALL_DEADLINE_S)

    async def set_phase(self, phase: buffer_pb2.RunPhase, reason: str) -> None:
        request = buffer_pb2.SetRunPhaseRequest(run_id=self._run_id, phase=phase, reason=reason)
        await self._buffer.SetRunPhase(request, timeout=CALL_DEADLINE_S)

    async def redrive(self, letter_ids: Sequence[str]) -> int:
        request = buffer_pb2.RedriveDeadLettersRequest(run_id=self._run_id, ids=letter_ids)
        return (await self._buffer.RedriveDeadLetters(request, timeout=CALL_DEADLINE_S)).num_redriven

    async def report(self, event: types_pb2.RunEvent) -> None:
        request = buffer_pb2.ReportEventsRequest(run_id=self._run_id, events=[event])
        await self._buffer.ReportEvents(request, timeout=CALL_DEADLINE_S)

    async def trainer(self) -> trainer_pb2.GetTrainerStatusReply:
        request = trainer_pb2.GetTrainerStatusRequest()
        return await self._trainer().GetTrainerStatus(request, timeout=CALL_DEADLINE_S)

    async def save_checkpoint(self, reason: str) -> trainer_pb2.SaveCheckpointReply:
        request = trainer_pb2.SaveCheckpointRequest(reason=reason)
        return await self._trainer().SaveCheckpoint(request, timeout=CALL_DEADLINE_S)

    async def roll_back(
        self, step: int, reason: str, *, exact: bool, dry_run: bool
    ) -> trainer_pb2.RollBackReply:
        request = trainer_pb2.RollBackRequest(step=step, reason=reason, exact=exact, dry_run=dry_run)
        return await self._trainer().RollBack(request, timeout=CALL_DEADLINE_S)

    async def drain_pod(self, address: str, deadline_s: float) -> rollout_pb2.DrainReply:
        stub = cast("rollout_pb2_grpc.RolloutAsyncStub", rollout_pb2_grpc.RolloutStub(self._channel(address)))
        request = rollout_pb2.DrainRequest(deadline_s=deadline_s)
        return await stub.Drain(request, timeout=deadline_s + DRAIN_MARGIN_S)

    def _trainer(self) -> trainer_pb2_grpc.TrainerAsyncStub:
        address = self._trainer_address or self._address_of("trainer")
        if not address:
            raise UnavailableError(
                f"the trainer's address is not known: {self._system} names none, and "
                "FORKLIGHT_TRAINER_ADDRESS is not set"
            )
        stub = trainer_pb2_grpc.TrainerStub(self._channel(address))
        return cast("trainer_pb2_grpc.TrainerAsyncStub", stub)

    def _address_of(self, name: str) -> str:
        try:
            addresses = json.loads(self._system.read_text(encoding="utf-8")).get("addresses", {})
        except (OSError, ValueError, AttributeError):
            return ""
        return str(addresses.get(name, "")) if isinstance(addresses, dict) else ""

    def _channel(self, address: str) -> grpc.aio.Channel:
        if address not in self._channels:
            self._channels[address] = open_channel(address)
        return self._channels[address]
