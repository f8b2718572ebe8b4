"""How the processes of a tensor-parallel engine make whole rows of their parts.

A port with two forms: alone (nothing to do) and torch.distributed (NCCL between GPUs, gloo between CPUs).
Numbers are only ever moved and laid side by side in rank order, so nothing here rounds.
Legend: T tokens, W width of a whole row, n processes.
"""

from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from forklight_core.errors import ConfigError, InvalidInputError
from forklight_model.shard import WHOLE, Shard

# torch 2.13 renames it, and warns at every call of the old name.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


class Gather(Protocol):
    """Every process makes the same calls with equally shaped tensors, in the same order."""

    @property
    def shard(self) -> Shard: ...

    def gather_columns(self, part_TW: Tensor) -> Tensor:
        """Whole rows [T, W] of every process's columns [T, W / n]. No gradient."""
        ...

    def gather_pair(self, first_TW: Tensor, second_TW: Tensor) -> tuple[Tensor, Tensor]:
        """As `gather_columns` for two tensors of one shape and dtype, in one message."""
        ...


class Alone:
    """The only process has whole rows already."""

    shard = WHOLE

    def gather_columns(self, part_TW: Tensor) -> Tensor:
        return part_TW

    def gather_pair(self, first_TW: Tensor, second_TW: Tensor) -> tuple[Tensor, Tensor]:
        return first_TW, second_TW


ALONE = Alone()


class DistributedGather:
    """One all-gather a call over a process group that its owner made, with a timeout, and ends.

    Nothing here waits for a GPU, so a CUDA graph can hold it; every process then replays the same graphs.
    """

    def __init__(self, shard: Shard, group: dist.ProcessGroup | None = None) -> None:
        if not dist.is_initialized():
            raise ConfigError("call torch.distributed.init_process_group before cutting a model into parts")
        rank, size = dist.get_rank(group), dist.get_world_size(group)
        if (rank, size) != (shard.rank, shard.size):
            raise ConfigError(
                f"this is process {rank} of {size} in its group, but was given part {shard.rank} of "
                f"{shard.size}; the part of a process is its rank"
            )
        self.shard, self._group = shard, group

    def gather_columns(self, part_TW: Tensor) -> Tensor:
        return self._rows(self._gather(part_TW))

    def gather_pair(self, first_TW: Tensor, second_TW: Tensor) -> tuple[Tensor, Tensor]:
        by_rank_TNW = self._gather(torch.cat((first_TW, second_TW), dim=1))
        first_TNW, second_TNW = by_rank_TNW.chunk(2, dim=2)
        return self._rows(first_TNW), self._rows(second_TNW)

    def _rows(self, by_rank_TNW: Tensor) -> Tensor:
        num_rows, size, width = by_rank_TNW.shape
        return by_rank_TNW.reshape(num_rows, size * width)

    def _gather(self, part_TW: Tensor) -> Tensor:
        """[T, n, W / n], a view."""
        if torch.is_grad_enabled() and part_TW.requires_grad:
            raise InvalidInputError("a model cut into parts has no gradient; call it under torch.no_grad()")
        num_rows, width = part_TW.shape
        received_NTW = part_TW.new_empty(self.shard.size, num_rows, width)
        if received_NTW.numel():
            flat = received_NTW.view(-1, width)
            _all_gather(flat, part_TW.contiguous(), group=self._group)
        return received_NTW.transpose(0, 1)


def own_columns(row_TW: Tensor, shard: Shard) -> Tensor:
    """This process's columns of whole rows: a view, and the rows themselves where there is one process."""
    if shard.is_whole:
        return row_TW
    return row_TW[:, shard.part(row_TW.shape[1], "width")]


def gather_for(shard: Shard, gather: Gather | None) -> Gather:
    """What a model that holds this part gathers with."""
    if gather is None and shard.is_whole:
        return ALONE
    if gather is None or gather.shard != shard:
        given = "none" if gather is None else f"one of part {gather.shard.rank} of {gather.shard.size}"
        raise ConfigError(
            f"part {shard.rank} of {shard.size} of a model needs a gather of its own and was given {given}: "
            "pass gather=DistributedGather(shard)"
        )
    return gather
