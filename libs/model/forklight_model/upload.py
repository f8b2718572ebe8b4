"""Numbers that the host knows, on their way to the device: nobody waits for work that is queued there."""

from collections.abc import Sequence
from functools import cache
from itertools import accumulate

import torch
from torch import Tensor

from forklight_kernels.packing import sequence_offsets


def upload(numbers: Sequence[int] | Tensor, device: torch.device) -> Tensor:
    """A copy on the device, int64 or the given tensor's dtype; through pinned memory to a GPU."""
    host = numbers if isinstance(numbers, Tensor) else torch.tensor(numbers, dtype=torch.int64)
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host.to(device)


def upload_offsets(lengths: Sequence[int], device: torch.device) -> Tensor:
    """cu_seqlens of sequences this long, int32, its numbers already known to the kernels."""
    offsets = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
    if device.type != "cuda":
        return offsets.to(device)
    # Kernels read a cu_seqlens once and remember it. Read on a stream where nothing else is queued, that
    # costs a copy's round trip and not the wait for all work before it.
    consumer = torch.cuda.current_stream(device)
    with torch.cuda.stream(_reading_stream(device)):
        cu_seqlens = upload(offsets, device)
        sequence_offsets(cu_seqlens, int(offsets[-1]))
    cu_seqlens.record_stream(consumer)
    return cu_seqlens


@cache
def _reading_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
