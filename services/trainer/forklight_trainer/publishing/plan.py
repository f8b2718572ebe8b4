"""What every rank is told when weights are published. Plain data: it crosses processes.

`plan.open(rank, num_ranks)` is called on each rank; the sink it makes takes the tensors that this rank holds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from forklight_core.weights.files import LARGEST_FILE_BYTES
from forklight_core.weights.reading import Layer

if TYPE_CHECKING:
    from forklight_trainer.publishing.sink import TensorSink


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkManner:
    """How tensors are written."""

    num_lanes: int = 0
    """Threads that hash, compare and write; 0: as many as there are cores, 16 at most."""
    largest_file_bytes: int = LARGEST_FILE_BYTES
    reads_back: bool = False
    """Read what was written and hash it again before the sink closes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkPlan:
    """Where a version's tensors go. Without a folder they are hashed, and nothing is written."""

    folder: Path | None = None
    mirror: str = ""
    """URL of a folder in an object store that gets every file, too."""
    base: tuple[Layer, ...] = ()
    """The version that changes are stored against, and what it builds on; none: whole tensors."""
    store: str = ""
    """Under this name the values are remembered between publications; empty: they are not."""
    remembers: bool = False
    """Whether a later version's changes are against these values."""
    manner: SinkManner = field(default_factory=SinkManner)

    def open(self, rank: int = 0, num_ranks: int = 1) -> TensorSink:
        """This rank's sink."""
        from forklight_trainer.publishing.sink import TensorSink

        if not 0 <= rank < num_ranks:
            raise AssertionError(f"rank {rank} of {num_ranks}")
        return TensorSink(self, rank)
