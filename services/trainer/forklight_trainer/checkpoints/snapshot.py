"""A copy of a rank's state in host memory: taken between two steps, written beside the next one."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from forklight_core.errors import PreconditionError
from forklight_model.parts import StateKey
from forklight_trainer.checkpoints.parts import StatePart, await_parts, write_parts

DEADLINE_S = 1800.0
"""How long the first rank waits for the files of the others."""


class HostBuffers:
    """Host memory for one snapshot, used again for the next; pinned where the state is on a GPU."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, StateKey, int], Tensor] = {}
        self._is_held = threading.Lock()

    def hold(self, parts: Iterable[StatePart]) -> list[StatePart]:
        """Copies of the parts. They stay as they are until released."""
        if not self._is_held.acquire(blocking=False):
            raise PreconditionError(
                "a snapshot is asked for while the one before is still being written: wait for it first"
            )
        try:
            copies = [replace(part, values=self._copy(part)) for part in parts]
            if any(copy.values.is_pinned() for copy in copies):
                torch.cuda.synchronize()
        except BaseException:
            self.release()
            raise
        return copies

    def release(self) -> None:
        """The next snapshot may take the memory."""
        if self._is_held.locked():
            self._is_held.release()

    def _copy(self, part: StatePart) -> Tensor:
        place = (part.name, part.key, part.start)
        buffer = self._buffers.get(place)
        if buffer is None or len(buffer) != len(part.values):
            buffer = torch.empty(len(part.values), pin_memory=part.values.is_cuda)
            self._buffers[place] = buffer
        return buffer.copy_(part.values, non_blocking=True)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RankSnapshot:
    """What one rank adds to a checkpoint. The first rank's `write` returns when all files are there."""

    parts: list[StatePart]
    adam_step: int
    random: Mapping[str, Tensor]
    buffers: HostBuffers
    rank: int = 0
    num_ranks: int = 1
    deadline_s: float = DEADLINE_S

    def write(self, folder: Path) -> None:
        """Again into another folder after a failure. Makes no collective call: any thread may."""
        write_parts(
            folder,
            self.parts,
            rank=self.rank,
            num_ranks=self.num_ranks,
            adam_step=self.adam_step,
            random=self.random,
        )
        if self.rank == 0:
            await_parts(folder, self.num_ranks, deadline_s=self.deadline_s)

    def release(self) -> None:
        """The memory is free again; nothing may be written after that."""
        self.buffers.release()
