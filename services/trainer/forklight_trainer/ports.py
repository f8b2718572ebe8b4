"""What the trainer needs from outside: the buffer, and an engine that holds weights and optimizer.

The engine is the hedge between one process and a distributed one: the loop, the loss and the checkpoint know
only this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from forklight.v1 import buffer_pb2, types_pb2
from forklight_model.config import ModelConfig
from forklight_model.logprobs import TokenStats
from forklight_trainer.batches.packing import Pack
from forklight_trainer.loss.objective import Objective, PackOutcome


@dataclass(frozen=True, slots=True, kw_only=True)
class RestorePoint:
    """What the restored checkpoint has learned from."""

    lineage: str
    step: int
    version: int
    commits: tuple[types_pb2.CommitRecord, ...]


class BufferPort(Protocol):
    """The buffer, from the trainer's side. Calls have deadlines and raise errors of the core tree."""

    def restore_trainer(self, point: RestorePoint) -> buffer_pb2.RestoreTrainerReply:
        """Open an epoch; later calls carry it."""
        ...

    def lease_batch(self, step: int, wait_s: float) -> buffer_pb2.LeaseBatchReply:
        """The batch of a step, waiting up to `wait_s` for it; the same one until the step is committed."""
        ...

    def commit_steps(self, records: Sequence[types_pb2.CommitRecord]) -> buffer_pb2.CommitStepsReply:
        """These steps are durable. Saying so twice is harmless."""
        ...

    def announce_version(self, weights: types_pb2.WeightsRef) -> int:
        """New weights are verified on disk; the newest version known comes back."""
        ...

    def report_lost_sample(self, sample_id: str, reason: str) -> None:
        """A sample of the leased batch cannot be read."""
        ...

    def set_phase(self, phase: buffer_pb2.RunPhase, reason: str) -> None:
        """Pause or finish the run."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


class TrainEngine(Protocol):
    """Weights and optimizer of one process or of many ranks.

    Contract: `accumulate` any number of times, then `update` or `discard_gradients` once. Objectives divide
    by figures of the whole step; how packs are spread over ranks does not change the result.
    """

    @property
    def config(self) -> ModelConfig:
        """Architecture of the model."""
        ...

    @property
    def num_lanes(self) -> int:
        """Packs computed at the same time: a step takes as long as its fullest lane."""
        ...

    def accumulate(self, packs: Sequence[Pack], objective: Objective) -> list[PackOutcome]:
        """Forward and backward over packs, with the experts each names if it names any; gradients add up."""
        ...

    def score(self, pack: Pack, temperature: float) -> TokenStats:
        """Log-probabilities and entropies of a pack's tokens, without a gradient, on the CPU."""
        ...

    def score_version(self, folder: Path, pack: Pack, temperature: float) -> Tensor | None:
        """The same log-probs under weights published earlier; None where a second model has no room."""
        ...

    def discard_gradients(self) -> None:
        """Forget what was added; weights and optimizer stay untouched."""
        ...

    def update(self, *, learning_rate: float, grad_clip: float) -> float:
        """One update; returns the gradient norm before clipping. Refuses NaN before it begins."""
        ...

    def save_master(self, folder: Path) -> None:
        """Write the fp32 weights as a model folder."""
        ...

    def save_optimizer(self, folder: Path) -> None:
        """Write optimizer and random state into an existing folder."""
        ...

    def restore(self, folder: Path) -> None:
        """Take over weights, optimizer and random state of a checkpoint folder."""
        ...

    def save_published(self, folder: Path) -> None:
        """Write the weights as rollout computes with them, as a model folder."""
        ...
