"""Who computes what: processes, lanes, and what of the weights each keeps.

A lane computes one pack at a time. With sequence parallelism `sequence_parallel` neighbours are one lane.
"""

from __future__ import annotations

from dataclasses import dataclass

from forklight_core.errors import ConfigError
from forklight_core.runfile.schema import TrainerSection


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How `num_ranks` processes share a model and its packs."""

    num_ranks: int
    zero_stage: int = 3
    """1: optimizer cut over ranks; 2: gradients as well; 3: weights as well."""
    sequence_parallel: int = 1
    """Ranks that share the tokens of a pack."""
    expert_parallel: int = 1
    """Ranks that share the experts of a layer."""

    def __post_init__(self) -> None:
        for name, size in (
            ("sequence_parallel", self.sequence_parallel),
            ("expert_parallel", self.expert_parallel),
        ):
            if self.num_ranks % size:
                raise ConfigError(
                    f"trainer.{name} = {size} does not divide the trainer's {self.num_ranks} processes: "
                    f"start a multiple of {size}, or lower trainer.{name}"
                )

    @property
    def num_lanes(self) -> int:
        return self.num_ranks // self.sequence_parallel

    def lane_of(self, rank: int) -> int:
        return rank // self.sequence_parallel


def plan_layout(trainer: TrainerSection, num_ranks: int) -> Layout:
    """The layout of a run file for the processes that were started; too few or too many is an error."""
    if num_ranks != trainer.processes:
        raise ConfigError(
            f"trainer.processes = {trainer.processes}, and {num_ranks} were started: start them with "
            f"torchrun --nproc-per-node (times --nnodes) = {trainer.processes}, or change trainer.processes. "
            "`forklight plan` says how many a model needs"
        )
    return Layout(
        num_ranks=num_ranks,
        zero_stage=trainer.zero_stage,
        sequence_parallel=trainer.sequence_parallel,
        expert_parallel=trainer.expert_parallel,
    )
