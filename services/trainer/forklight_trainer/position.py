"""Where the weights in memory stand: what they have learned, and which version they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from forklight.v1 import types_pb2
from forklight_trainer.batches.batch import TrainingBatch


@dataclass(slots=True, kw_only=True)
class Position:
    """Of the loop's thread alone."""

    updates_per_version: int
    step: int = 0
    lineage: str = ""
    is_published: bool = False
    """The weights are exactly the newest version."""
    live_step: int = 0
    """Whose weights rollout was told of last, when the position was taken."""
    doubtful: range = range(0)
    """Versions that samples may name for weights that were given up with a torn or abandoned checkpoint."""
    pending: list[types_pb2.CommitRecord] = field(default_factory=list)
    """Learned, and in no checkpoint yet."""
    steering: Mapping[str, object] = field(default_factory=dict)
    schedule: Mapping[str, object] = field(default_factory=dict)

    @property
    def version(self) -> int:
        """Version these weights belong to."""
        return self.step // self.updates_per_version

    @property
    def is_boundary(self) -> bool:
        """A version begins here."""
        return self.step % self.updates_per_version == 0

    def take_note(self, batch: TrainingBatch) -> None:
        """The weights now contain this batch."""
        self.step = batch.step
        self.is_published = False
        sample_ids = [sample.sample_id for sample in batch.samples]
        self.pending.append(
            types_pb2.CommitRecord(
                lineage=self.lineage, step=batch.step, batch_id=batch.batch_id, sample_ids=sample_ids
            )
        )

    def take_pending(self) -> tuple[types_pb2.CommitRecord, ...]:
        """What the checkpoint that is being made will carry."""
        taken, self.pending = tuple(self.pending), []
        return taken
