"""Random state of a rank: what is saved of it, and what takes its place when ranks changed."""

from __future__ import annotations

import logging

import blake3
import torch
from torch import Tensor

from forklight_model.parts import PartsReader

log = logging.getLogger(__name__)

CPU, CUDA = "cpu", "cuda"


def take_random_state(device: torch.device) -> dict[str, Tensor]:
    """Of this process."""
    states = {CPU: torch.get_rng_state()}
    if device.type == CUDA:
        states[CUDA] = torch.cuda.get_rng_state(device)
    return states


def restore_random_state(
    reader: PartsReader, device: torch.device, *, rank: int = 0, num_ranks: int = 1
) -> None:
    """As this rank saved it; newly derived from the checkpoint when that had other ranks or devices."""
    saved = reader.random_state(rank) if reader.num_ranks == num_ranks else {}
    wanted = {CPU, CUDA} if device.type == CUDA else {CPU}
    if not wanted <= saved.keys():
        seed = _derive_seed(reader, rank, num_ranks)
        log.warning(
            "random state is newly derived: the checkpoint was written by other ranks or on another device",
            extra={"seed": seed, "rank": rank, "ranks": num_ranks, "checkpoint_ranks": reader.num_ranks},
        )
        torch.manual_seed(seed)
        return
    torch.set_rng_state(saved[CPU])
    if device.type == CUDA:
        torch.cuda.set_rng_state(saved[CUDA], device)


def _derive_seed(reader: PartsReader, rank: int, num_ranks: int) -> int:
    """Another one for every rank; the same whenever this checkpoint is restored by as many."""
    content = blake3.blake3(f"{rank} of {num_ranks} at {reader.adam_step}".encode())
    for _, state in sorted(reader.random_state(0).items()):
        content.update(state.numpy().tobytes())
    return int.from_bytes(content.digest()[:7], "big")
