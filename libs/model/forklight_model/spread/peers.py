"""The processes that share one thing (a sequence, the experts), and what this one has sent them.

Numbers are moved, never added: every result has the same bits in every run.
Legend: n processes, R rows sent, S rows received, W width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from forklight_core.errors import ConfigError
from forklight_model.shard import Shard

# torch 2.13 renames it, and warns at every call of the old name.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


@dataclass(slots=True)
class Traffic:
    """Counted since the start; what a process keeps for itself is not counted."""

    sent_bytes: int = 0
    num_messages: int = 0


class Peers:
    """One process's place in a process group that its owner made, with a timeout, and ends.

    All of them make the same calls in the same order, forward and backward.
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        if not dist.is_initialized():
            raise ConfigError("call torch.distributed.init_process_group before work is shared")
        self._group = group
        self.shard = Shard(rank=dist.get_rank(group), size=dist.get_world_size(group))
        self.traffic = Traffic()

    @property
    def rank(self) -> int:
        return self.shard.rank

    @property
    def size(self) -> int:
        return self.shard.size

    def __deepcopy__(self, memo: object) -> "Peers":
        """A copied model works with the same processes."""
        return self

    def swap(self, pieces_nX: Tensor) -> Tensor:
        """Piece r goes to process r; back come the pieces for this one, sender after sender."""
        if self.size == 1:
            return pieces_nX
        pieces_nX = pieces_nX.contiguous()
        received_nX = torch.empty_like(pieces_nX)
        if pieces_nX.numel():
            dist.all_to_all_single(received_nX, pieces_nX, group=self._group)
            self._count(pieces_nX.nbytes // self.size * (self.size - 1))
        return received_nX

    def swap_rows(self, rows_RW: Tensor, sent: Sequence[int], received: Sequence[int]) -> Tensor:
        """As `swap` for pieces of unequal lengths: `sent[r]` rows go to process r. Zero rows are a piece."""
        if self.size == 1:
            return rows_RW
        received_SW = rows_RW.new_empty(sum(received), *rows_RW.shape[1:])
        splits = list(received), list(sent)
        dist.all_to_all_single(received_SW, rows_RW.contiguous(), *splits, group=self._group)
        self._count((sum(sent) - sent[self.rank]) * rows_RW[:1].nbytes)
        return received_SW

    def collect(self, part: Tensor) -> Tensor:
        """Every process's tensor of this shape, [n, ...]."""
        if self.size == 1:
            return part[None]
        parts = part.new_empty(self.size, *part.shape)
        if part.numel():
            _all_gather(parts.view(-1), part.contiguous().view(-1), group=self._group)
            self._count((self.size - 1) * part.nbytes)
        return parts

    def _count(self, num_bytes: int) -> None:
        self.traffic.sent_bytes += num_bytes
        self.traffic.num_messages += 1
