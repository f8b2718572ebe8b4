"""Names of what the buffer keeps in Redis. Only the three queues and the weights are shared.

All carry the run's hash tag, so every script touches one cluster slot.
"""

from __future__ import annotations

from dataclasses import dataclass

from forklight_core.queues import RunKeys


@dataclass(frozen=True, slots=True)
class BufferKeys:
    """Keys of one run, in the order in which every script gets them."""

    shared: RunKeys

    @property
    def run(self) -> str:
        """Hash: phase, epoch, version, step, window, limits, credit held, groups by status."""
        return self.shared.own("run")

    @property
    def live(self) -> str:
        """Sorted set: every group Redis knows, by the time it was opened."""
        return self.shared.own("live")

    @property
    def ready(self) -> str:
        """Sorted set: groups that may be trained on, in the order in which they became so."""
        return self.shared.own("ready")

    @property
    def unjournalled(self) -> str:
        """Sorted set: groups with terminal samples that the ledger may not have yet."""
        return self.shared.own("unjournalled")

    @property
    def counts(self) -> str:
        """Hash: open samples by state."""
        return self.shared.own("counts")

    @property
    def dead(self) -> str:
        """Hash: dead letters by id, serialized DeadLetter."""
        return self.shared.own("dead")

    @property
    def batches(self) -> str:
        """Hash: outstanding batches by step: policy version, then the group ids, one a line."""
        return self.shared.own("batches")

    @property
    def saved(self) -> str:
        """Sorted set: training samples that have segments, by their oldest version."""
        return self.shared.own("saved")

    @property
    def group_prefix(self) -> str:
        """A group's hash is this and the group id."""
        return self.shared.own("g:")

    def in_order(self) -> list[str]:
        """KEYS of every script."""
        return [
            self.run,
            self.live,
            self.ready,
            self.unjournalled,
            self.counts,
            self.shared.tasks,
            self.shared.evaluate,
            self.shared.scoring,
            self.shared.weights,
            self.dead,
            self.batches,
            self.saved,
            self.group_prefix,
        ]
