"""The doors that control a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from forklight.v1 import buffer_pb2, rollout_pb2, trainer_pb2, types_pb2


class Doors(Protocol):
    """Of buffer, trainer and rollout pods. Errors are those of `forklight_core.errors`."""

    async def status(self) -> buffer_pb2.GetStatusReply:
        """Where the run stands."""

    async def set_phase(self, phase: buffer_pb2.RunPhase, reason: str) -> None:
        """Pause, go on, drain, finish."""

    async def redrive(self, letter_ids: Sequence[str]) -> int:
        """New groups for the prompts of dead letters; no ids: all."""

    async def report(self, event: types_pb2.RunEvent) -> None:
        """An event of the run."""

    async def trainer(self) -> trainer_pb2.GetTrainerStatusReply:
        """Where the trainer stands, and the checkpoints there are."""

    async def save_checkpoint(self, reason: str) -> trainer_pb2.SaveCheckpointReply:
        """One more, before the next step."""

    async def roll_back(
        self, step: int, reason: str, *, exact: bool, dry_run: bool
    ) -> trainer_pb2.RollBackReply:
        """Go on from an older checkpoint, or say what that gives up."""

    async def drain_pod(self, address: str, deadline_s: float) -> rollout_pb2.DrainReply:
        """Have a pod finish what runs and hand the rest back; returns when it has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlDesk:
    """The doors, and the folder whose control.jsonl says what was asked of them."""

    doors: Doors
    run_folder: Path
