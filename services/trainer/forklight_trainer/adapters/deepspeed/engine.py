"""The engine at the first process: it does its own share, and has the others do theirs."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from forklight_core.errors import ForklightError
from forklight_core.weights.manifest import TensorEntry
from forklight_model.config import ModelConfig
from forklight_model.logprobs import TokenStats
from forklight_trainer.adapters.deepspeed.commands import (
    Accumulate,
    Command,
    Discard,
    Hold,
    Leave,
    Publish,
    Restore,
    Score,
    Update,
)
from forklight_trainer.adapters.deepspeed.gang import Failure, join_failures, leave_gang
from forklight_trainer.adapters.deepspeed.rank import RankEngine
from forklight_trainer.adapters.deepspeed.spool import GangSnapshot
from forklight_trainer.adapters.version_scorer import VersionScorer
from forklight_trainer.batches.packing import Pack
from forklight_trainer.checkpoints.snapshot import RankSnapshot
from forklight_trainer.loss.objective import Objective, PackOutcome
from forklight_trainer.publishing.plan import SinkPlan

log = logging.getLogger(__name__)

Result = TypeVar("Result")


class DeepSpeedEngine:
    """A `TrainEngine` over every process of the gang."""

    def __init__(self, own: RankEngine, spool_parent: Path) -> None:
        self._own, self._gang, self._layout = own, own.gang, own.layout
        self._spool_parent = spool_parent
        self._versions = VersionScorer(own.dtype, own.gang.device)

    @property
    def config(self) -> ModelConfig:
        return self._own.config

    @property
    def num_lanes(self) -> int:
        return self._layout.num_lanes

    def accumulate(self, packs: Sequence[Pack], objective: Objective) -> list[PackOutcome]:
        lanes = [list(packs[lane :: self.num_lanes]) for lane in range(self.num_lanes)]
        num_rounds = max(len(lane) for lane in lanes)
        filler = min(packs, key=lambda pack: len(pack.input_ids_T))
        commands = [
            Accumulate(packs=(*lane, *[None] * (num_rounds - len(lane))), filler=filler, objective=objective)
            for lane in lanes
        ]
        by_rank = self._all(
            [commands[self._layout.lane_of(rank)] for rank in range(self._gang.size)], list[PackOutcome]
        )
        by_lane = by_rank[:: self._layout.sequence_parallel]
        return [by_lane[place % self.num_lanes][place // self.num_lanes] for place in range(len(packs))]

    def score(self, pack: Pack, temperature: float) -> TokenStats:
        return self._same(Score(pack=pack, temperature=temperature), TokenStats)

    def score_version(self, folder: Path, pack: Pack, temperature: float) -> Tensor | None:
        """At the first process alone: pods are not cut up as the gang is, so this is not either."""
        return self._versions.score(folder, pack, temperature)

    def discard_gradients(self) -> None:
        self._same(Discard(), type(None))

    def update(self, *, learning_rate: float, grad_clip: float) -> float:
        return self._same(Update(learning_rate=learning_rate, grad_clip=grad_clip), float)

    def snapshot(self) -> GangSnapshot:
        spool = self._spool_parent / f".spool.{secrets.token_hex(4)}"
        return GangSnapshot(own=self._same(Hold(spool=spool), RankSnapshot), spool=spool)

    def restore(self, folder: Path) -> None:
        self._same(Restore(folder=folder), type(None))
        self._versions.forget()

    def publish(self, plan: SinkPlan) -> list[TensorEntry]:
        by_rank = self._all([Publish(plan=plan)] * self._gang.size, list[TensorEntry])
        return sorted((entry for entries in by_rank for entry in entries), key=lambda entry: entry.name)

    def dismiss(self) -> None:
        """Nothing more will be asked of the others; the gang stays."""
        self._gang.give([Leave()] * self._gang.size)

    def close(self) -> None:
        self.dismiss()
        leave_gang()

    def _same(self, command: Command, kind: type[Result]) -> Result:
        """One command for all; the first process's result."""
        return self._all([command] * self._gang.size, kind)[0]

    def _all(self, commands: Sequence[Command], kind: type[Result]) -> list[Result]:
        self._gang.give(commands)
        results = self._gang.answer(run_command(self._own, commands[0]))
        failures = [result for result in results if isinstance(result, Failure)]
        if failures:
            raise join_failures(failures)
        return results  # type: ignore[return-value]  # each is what its command gives


def run_command(own: RankEngine, command: Command) -> object:
    """Do it; what is wrong with data is an answer, what is wrong with the process ends it."""
    try:
        if isinstance(command, Accumulate):
            return own.accumulate(command)
        if isinstance(command, Score):
            return own.score(command)
        if isinstance(command, Update):
            return own.update(command)
        if isinstance(command, Publish):
            return own.publish(command)
        if isinstance(command, Restore):
            own.restore(command)
            return None
        if isinstance(command, Hold):
            snapshot = own.hold(command)
            return snapshot if own.gang.rank == 0 else None
        own.discard_gradients()
        return None
    except (ForklightError, OSError) as error:
        if (failure := Failure.of(error, own.gang.rank)) is None:
            raise
        return failure


def follow(own: RankEngine) -> None:
    """Every other process: do what the first one says until it dismisses them."""
    while not isinstance(command := own.gang.take(), Leave):
        own.gang.answer(run_command(own, command))  # type: ignore[arg-type]
