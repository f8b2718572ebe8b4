"""The process group of an engine's processes: NCCL between GPUs, gloo between CPUs."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from forklight_core.errors import ConfigError
from forklight_rollout.adapters.native.ranks.messages import Join

STORE_FILE = "store"
LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
"""All processes are on one host: nothing is to listen on its network."""
NCCL_PATIENCE = 5
"""The leader looks at its own clock and names who does not answer; NCCL's comes after that."""


def enter_group(join: Join) -> None:
    """Become this process of the group; returns when all are there."""
    if dist.is_initialized():
        raise ConfigError("this process leads an engine over several GPUs already: close that one first")
    for name, value in LOOPBACK.items():
        os.environ.setdefault(name, value)
    uses_gpu = join.device == "cuda"
    if uses_gpu:
        torch.cuda.set_device(join.rank)
    dist.init_process_group(
        "nccl" if uses_gpu else "gloo",
        # A file in a folder of its user's own: a store on a port would listen on every interface.
        init_method=(Path(join.folder) / STORE_FILE).as_uri(),
        rank=join.rank,
        world_size=join.size,
        timeout=timedelta(seconds=join.timeout_s * (NCCL_PATIENCE if uses_gpu else 1)),
        device_id=torch.device("cuda", join.rank) if uses_gpu else None,
    )


def leave_group(*, is_broken: bool = False) -> None:
    """Once the others leave as well; a broken one at once. It may wait all the same: give it a deadline.

    A process that ends without leaving NCCL's group is aborted by the group's threads.
    """
    if is_broken:
        abort_group()
    dist.destroy_process_group()


def abort_group() -> None:
    """Let go of messages that will never come: what waits for them on a GPU ends."""
    group = dist.group.WORLD
    if group is not None and dist.get_backend(group) == "nccl":
        group.abort()
