"""Names of what lives in Redis. All carry the hash tag {run}: one run is one cluster slot, open to Lua."""

from __future__ import annotations

from dataclasses import dataclass

WORKERS = "workers"
"""The consumer group of every work queue."""

BODY = b"body"
"""The one field of a queue entry."""


@dataclass(frozen=True, slots=True)
class RunKeys:
    """Keys more than one service knows. A service's own keys are built with `own`."""

    run_id: str

    def own(self, name: str) -> str:
        """A key of this run."""
        return f"forklight:{{{self.run_id}}}:{name}"

    @property
    def tasks(self) -> str:
        """Work queue of GenerationTask to train on, taken by rollout."""
        return self.own("tasks")

    @property
    def evaluate(self) -> str:
        """Work queue of GenerationTask of evaluation rounds, taken by rollout beside `tasks`."""
        return self.own("evaluate")

    @property
    def scoring(self) -> str:
        """Work queue of ScoringTask, taken by reward."""
        return self.own("scoring")

    @property
    def weights(self) -> str:
        """Newest announced WeightsRef, written by the buffer."""
        return self.own("weights")
