"""The processes of one trainer: how they meet, and how commands and answers travel.

Commands go through gloo, beside the group that computes, so that waiting for one keeps no GPU busy. The
first process may wait for a batch for hours; a process that dies is noticed by its connections and by
whoever started it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Self

import torch
import torch.distributed as dist

from forklight_core.errors import BusyError, ConfigError, ForklightError, PreconditionError, all_errors
from forklight_core.retry import TRANSIENT
from forklight_trainer.durable import FULL

IDLE = timedelta(days=30)
"""How long a process may wait for a command."""
COLLECTIVE = timedelta(minutes=30)
"""How long an exchange of tensors may take before the group is given up."""
MOST_SAID = 3
"""Failures that a message names."""
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What went wrong on a process: an error of the tree, as data."""

    rank: int
    kind: str
    """Name of its class."""
    message: str

    @classmethod
    def of(cls, error: ForklightError | OSError, rank: int) -> Self | None:
        """None for what is no answer: it ends the process. A disk without room is, wherever it shows."""
        if isinstance(error, ForklightError):
            return cls(rank=rank, kind=type(error).__name__, message=str(error))
        if error.errno in FULL:
            return cls(
                rank=rank,
                kind=BusyError.__name__,
                message=f"no room on its disk: {error}; free disk space, it is tried again",
            )
        return None


def join_failures(failures: Sequence[Failure]) -> ForklightError:
    """Of the kind of the first that lasts; where all may go away by themselves, of the first."""
    kinds = [all_errors().get(each.kind, PreconditionError) for each in failures]
    lasting = [kind for kind in kinds if not issubclass(kind, TRANSIENT)]
    said = "; ".join(f"process {each.rank}: {each.message}" for each in failures[:MOST_SAID])
    return (lasting or kinds)[0](said)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gang:
    """This process among the others."""

    rank: int
    size: int
    device: torch.device
    control: dist.ProcessGroup

    def give(self, commands: Sequence[object]) -> None:
        """The first process hands every process its command."""
        received: list[object] = [None]
        dist.scatter_object_list(received, list(commands), src=0, group=self.control)

    def take(self) -> object:
        """Another process waits for its command."""
        received: list[object] = [None]
        dist.scatter_object_list(received, None, src=0, group=self.control)
        return received[0]

    def answer(self, result: object) -> list[object]:
        """Every process's result, by rank, at the first process; empty elsewhere."""
        if self.rank:
            dist.gather_object(result, None, dst=0, group=self.control)
            return []
        results: list[object] = [None] * self.size
        dist.gather_object(None, results, dst=0, group=self.control)
        return [result, *results[1:]]  # its own stays where it is


def join_gang(device: str) -> Gang:
    """Meet the other processes that torchrun started; returns when all are there."""
    missing = [name for name in VARIABLES if name not in os.environ]
    if missing:
        raise ConfigError(
            f"trainer.engine = 'deepspeed' and {', '.join(missing)} are not set: start the trainer with "
            "torchrun --nproc-per-node=N --master-port=PORT -m forklight_trainer (forklight up does)"
        )
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if device == "cuda" else "cpu")
    here = torch.device("cpu")
    if device == "cuda":
        here = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(here)
    if not dist.is_initialized():
        dist.init_process_group(
            "nccl" if device == "cuda" else "gloo",
            timeout=COLLECTIVE,
            device_id=here if device == "cuda" else None,
        )
    control = dist.new_group(backend="gloo", timeout=IDLE)
    return Gang(rank=dist.get_rank(), size=dist.get_world_size(), device=here, control=control)


def leave_gang() -> None:
    """Let go of the groups; a process that ends without is aborted by NCCL's threads."""
    if dist.is_initialized():
        dist.destroy_process_group()
