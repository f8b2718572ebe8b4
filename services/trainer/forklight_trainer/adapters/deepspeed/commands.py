"""What the first process tells the others to do. Plain data: it crosses processes.

Every process gets the same kind of command at the same time; what it holds may differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from forklight_trainer.batches.packing import Pack
from forklight_trainer.loss.objective import Objective
from forklight_trainer.publishing.plan import SinkPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Accumulate:
    """Forward and backward over a lane's packs. Lanes have equally many: None counts nothing."""

    packs: tuple[Pack | None, ...]
    filler: Pack
    """Computed where a lane has no pack, so that every process takes part in every exchange."""
    objective: Objective


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """All lanes score the same pack."""

    pack: Pack
    temperature: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    learning_rate: float
    grad_clip: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Discard:
    """Forget the gradients."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Copy the state to host memory, and write the copy to a folder that all processes share."""

    spool: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Restore:
    folder: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Publish:
    plan: SinkPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """The run is over."""


Command = Accumulate | Score | Update | Discard | Hold | Restore | Publish | Leave
