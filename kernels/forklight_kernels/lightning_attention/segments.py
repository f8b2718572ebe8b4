"""Which rows of the packed buffer a program walks: whole sequences, or segments of them.

A segment is a number of whole chunks (a sequence's last one may end short). Tables are made on the host
from the offsets, once for a set of lengths. Legend: N sequences, S segments.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

from forklight_kernels.lightning_attention.chunks import MAX_CHUNK

CHUNK = MAX_CHUNK
"""Tokens a chunk, counted from a sequence's own first token: part of the numeric contract."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Walks:
    """Lines of four numbers for the kernels, on the device. Row numbers count from the packed buffer's
    first."""

    num_sequences: int
    num_segments: int
    segment_rows: int
    """0: every sequence is one segment."""
    lines_S4: Tensor
    """First row, rows, segment, and the sequence if the segment is its first, else -1. Uncut sequences come
    longest first, so that the last programs to start are short."""
    chain_N4: Tensor
    """First row, rows, sequence, its first segment; longest first."""
    spans_N2: Tensor
    """First segment of each sequence, and one past its last."""

    @property
    def is_cut(self) -> bool:
        return self.num_segments > self.num_sequences


def plan_walks(offsets: tuple[int, ...], segment_rows: int, device: torch.device) -> Walks:
    """The tables for these packed sequences; segment_rows 0: a sequence is one segment."""
    return _cached_walks(offsets, segment_rows, device)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _cached_walks(offsets: tuple[int, ...], segment_rows: int, device: torch.device) -> Walks:
    spans: list[tuple[int, ...]] = []
    segments: list[tuple[int, ...]] = []
    starts: list[tuple[int, ...]] = []
    for number, (start, end) in enumerate(pairwise(offsets)):
        begin = len(segments)
        size = segment_rows or max(1, end - start)
        for first in range(start, max(end, start + 1), size):
            is_first = first == start
            segments.append((first, min(size, end - first), len(segments), number if is_first else -1))
        starts.append((start, end - start, number, begin))
        spans.append((begin, len(segments)))
    starts.sort(key=lambda line: -line[1])
    if len(segments) == len(spans):
        segments.sort(key=lambda line: -line[1])
    return Walks(
        num_sequences=len(spans),
        num_segments=len(segments),
        segment_rows=segment_rows,
        lines_S4=on_device(segments, device),
        chain_N4=on_device(starts, device),
        spans_N2=on_device(spans, device),
    )


def on_device(lines: list[tuple[int, ...]], device: torch.device) -> Tensor:
    """int32 on the device; from pinned memory, so that nobody waits for the copy."""
    table = torch.tensor(lines, dtype=torch.int32)
    return table.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else table.to(device)


CHAIN_COST = 0.3
"""What a chunk costs in a walk of the state alone, in units of one in a full pass."""
LAUNCH_COST = 8.0
"""What the further launch costs, in the same unit."""
MIN_CHUNKS, MAX_CHUNKS = 16, 256
"""Of a segment: its state is 64 KiB a head, as much as two chunks of q, k, v and o."""


def choose_segment_rows(offsets: tuple[int, ...], programs_a_sequence: int, num_multiprocessors: int) -> int:
    """0 where whole sequences fill the GPU; else a power of two of chunks that makes about four programs
    each.

    `programs_a_sequence`: heads times blocks of state columns. Time is the larger of the longest sequence's
    chunks and the total's share of one multiprocessor; segments add a walk of the state, but wait for no
    long sequence.
    """
    chunks = [-(-(end - start) // CHUNK) for start, end in pairwise(offsets)]
    longest, share = max(chunks), sum(chunks) * programs_a_sequence / num_multiprocessors
    whole = max(float(longest), share)
    segmented = CHAIN_COST * max(float(longest), share) + share + LAUNCH_COST
    if whole <= 1.15 * segmented:
        return 0
    wanted = sum(chunks) * programs_a_sequence / (4 * num_multiprocessors)
    power = 1 << max(0, int(wanted).bit_length() - 1)
    return CHUNK * min(MAX_CHUNKS, max(MIN_CHUNKS, power))
