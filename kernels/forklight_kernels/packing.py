"""How packed sequences (cu_seqlens) map onto padded chunks and blocks. Pure index arithmetic, cached.

Legend: N sequences, T packed tokens, M chunks, C tokens a chunk. A sequence's r-th chunk has rank r.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ChunkLayout:
    """Packed tokens cut into chunks counted from each sequence's own first token.

    Chunks are ordered by (rank, sequence), with sequences sorted longest first, so the chunks of one
    rank are a slice and the sequences they belong to are a prefix: the scan over ranks needs no indexing.
    A short chunk is padded by repeating its own last token, so nothing of another sequence enters it.
    """

    chunk_size: int
    num_chunks: int
    rank_sizes: tuple[int, ...]
    """Number of chunks of each rank; rank r's chunks follow those of rank r-1."""
    order_N: Tensor
    """Sequence at each sorted place."""
    place_N: Tensor
    """Sorted place of each sequence (the inverse of order_N)."""
    source_MC: Tensor
    """Token that each chunk position shows."""
    target_T: Tensor
    """Flat chunk position (chunk * C + place) of each token."""
    lengths_M: Tensor
    """Valid tokens of each chunk."""
    is_padded: bool


def chunk_layout(cu_seqlens: Tensor, chunk_size: int) -> ChunkLayout:
    """The layout of these packed sequences; asking again for the same lengths costs a look-up."""
    return _cached_chunk_layout(tuple(cu_seqlens.tolist()), chunk_size, cu_seqlens.device)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _cached_chunk_layout(offsets: tuple[int, ...], chunk_size: int, device: torch.device) -> ChunkLayout:
    starts_N = torch.tensor(offsets[:-1], dtype=torch.int64)
    lengths_N = torch.tensor(offsets[1:], dtype=torch.int64) - starts_N
    num_chunks_N = (lengths_N + chunk_size - 1) // chunk_size
    order_N = torch.argsort(num_chunks_N, descending=True, stable=True)
    num_ranks = int(num_chunks_N.max()) if len(offsets) > 1 else 0
    rank_sizes = tuple(int((num_chunks_N > rank).sum()) for rank in range(num_ranks))
    sequence_M = torch.cat([order_N[:size] for size in rank_sizes]) if rank_sizes else order_N[:0]
    rank_M = torch.repeat_interleave(torch.arange(num_ranks), torch.tensor(rank_sizes, dtype=torch.int64))
    first_M = starts_N[sequence_M] + rank_M * chunk_size
    lengths_M = (lengths_N[sequence_M] - rank_M * chunk_size).clamp(max=chunk_size)
    place_C = torch.arange(chunk_size)
    source_MC = first_M[:, None] + torch.minimum(place_C[None, :], lengths_M[:, None] - 1)
    is_valid_MC = place_C[None, :] < lengths_M[:, None]
    target_T = torch.empty(offsets[-1], dtype=torch.int64)
    target_T[source_MC[is_valid_MC]] = torch.nonzero(is_valid_MC.reshape(-1)).squeeze(1)
    return ChunkLayout(
        chunk_size=chunk_size,
        num_chunks=len(sequence_M),
        rank_sizes=rank_sizes,
        order_N=order_N.to(device),
        place_N=torch.argsort(order_N).to(device),
        source_MC=source_MC.to(device),
        target_T=target_T.to(device),
        lengths_M=lengths_M.to(device),
        is_padded=not bool(is_valid_MC.all()),
    )


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def head_rows(layout: ChunkLayout, num_heads: int) -> tuple[Tensor, Tensor]:
    """Row numbers that turn [T * H] rows into [M * H * C] rows (head before place), and back."""
    heads_H = torch.arange(num_heads, device=layout.source_MC.device)
    to_chunks_MHC = layout.source_MC[:, None, :] * num_heads + heads_H[None, :, None]
    chunk_T, place_T = layout.target_T // layout.chunk_size, layout.target_T % layout.chunk_size
    to_tokens_TH = (chunk_T[:, None] * num_heads + heads_H[None, :]) * layout.chunk_size + place_T[:, None]
    return to_chunks_MHC.reshape(-1), to_tokens_TH.reshape(-1)


def longest(cu_seqlens: Tensor) -> int:
    """Length of the longest packed sequence."""
    return int((cu_seqlens[1:] - cu_seqlens[:-1]).max()) if cu_seqlens.numel() > 1 else 0


def accumulation_dtype(tensor: Tensor) -> torch.dtype:
    """Sums run in fp32, or in fp64 where the input is fp64 (the truth runs)."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


_known_offsets: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
"""Per cu_seqlens tensor: its version and its numbers. All layers of a pass share one tensor."""


def sequence_offsets(cu_seqlens: Tensor, num_tokens: int) -> tuple[int, ...]:
    """cu_seqlens as checked numbers. A tensor is read once (on a GPU that waits), then remembered."""
    version = 0 if cu_seqlens.is_inference() else cu_seqlens._version
    known: tuple[int, tuple[int, ...]] | None = _known_offsets.get(cu_seqlens)
    if known is None or known[0] != version:
        known = version, tuple(cu_seqlens.tolist())
        _known_offsets[cu_seqlens] = known
    offsets = known[1]
    _check_offsets(offsets, num_tokens)
    return offsets


def _check_offsets(offsets: tuple[int, ...], num_tokens: int) -> None:
    is_sorted = all(a <= b for a, b in pairwise(offsets))
    if len(offsets) < 2 or offsets[0] != 0 or offsets[-1] != num_tokens or not is_sorted:
        shown = ", ".join(map(str, offsets[:8])) + (", ..." if len(offsets) > 8 else "")
        raise ValueError(
            f"cu_seqlens is [{shown}]; it must start at 0, never fall and end at the number of tokens, "
            f"{num_tokens}"
        )
