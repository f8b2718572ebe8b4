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
from forklight_core.weights.manifest import TensorEntry
from forklight_model.logprobs import TokenStats
from forklight_model.policy import PolicyConfig
from forklight_trainer.batches.packing import Pack
from forklight_trainer.loss.objective import Objective, PackOutcome
from forklight_trainer.publishing.plan import SinkPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class RestorePoint:
    """What the restored checkpoint has learned from."""

    lineage: str
    step: int
    version: int
    commits: tuple[types_pb2.CommitRecord, ...]
    window_tokens: int = 0
    """Length window of groups opened from now on; 0: the run file's first."""
    events: tuple[types_pb2.RunEvent, ...] = ()


class BufferPort(Protocol):
    """The buffer, from the trainer's side. Calls have deadlines and raise errors of the core tree."""

    def restore_trainer(self, point: RestorePoint) -> buffer_pb2.RestoreTrainerReply:
        """Open an epoch; later calls carry it."""
        ...

    def lease_batch(self, step: int, wait_s: float) -> buffer_pb2.LeaseBatchReply:
        """The batch of a step, waiting up to `wait_s` for it; the same one until the step is committed."""
        ...

    def commit_steps(
        self,
        records: Sequence[types_pb2.CommitRecord],
        *,
        window_tokens: int = 0,
        events: Sequence[types_pb2.RunEvent] = (),
    ) -> buffer_pb2.CommitStepsReply:
        """These steps are durable, this is the window from now on (0: the run file's first), this happened.
        Saying so twice is harmless.
        """
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


class Snapshot(Protocol):
    """What a checkpoint needs of an engine, as it was between two steps; steps may follow meanwhile."""

    def write(self, folder: Path) -> None:
        """Put every rank's part into a folder, each durable with its hash beside it; from any thread.

        May be called again, with another folder, after a failure. Makes no collective call.
        """
        ...

    def release(self) -> None:
        """Give the memory free for the next one."""
        ...


class TrainEngine(Protocol):
    """Weights and optimizer of one process or of many ranks.

    Contract: `accumulate` any number of times, then `update` or `discard_gradients` once. Objectives divide
    by figures of the whole step; how packs are spread over ranks does not change the result.
    """

    @property
    def config(self) -> PolicyConfig:
        """What is known of the model without its weights."""
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

    def snapshot(self) -> Snapshot:
        """A copy of weights, optimizer and random state in host memory; the one before must be released."""
        ...

    def restore(self, folder: Path) -> None:
        """Take over the state in a checkpoint folder, whatever number of ranks wrote it."""
        ...

    def publish(self, plan: SinkPlan) -> list[TensorEntry]:
        """Put the weights as rollout computes with them into the plan's sinks, each tensor once; every rank's
        entries."""
        ...

    def close(self) -> None:
        """Let other processes go, after an orderly end."""
        ...
